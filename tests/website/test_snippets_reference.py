"""The pages that the build makes from the snippet modules: complete, the very files, and leading on."""

import ast
import inspect
import textwrap
from pathlib import Path

import pytest

from tests.test_house import MODULES
from tests.website import browser as look
from tests.website import checks
from website import reference
from website.pages import ROOT

NAMES = [path.relative_to(ROOT / "snippets").with_suffix("").as_posix() for path in MODULES]
SOURCE = '''
"""A module: first paragraph
over two lines.

More.
"""
import os
from math import pi as turn
LIMIT = 3
Pair: type = tuple[int, int]
LONG = "{long}"
a, (b, *c) = 1, (2, 3)
_hidden = 4
declared: int
if True:
    inner = 5


def area(radius: float, *, exact: bool = False) -> float:
    """The area of `radius` < 2 & more.

    Longer.
    """
    local = radius

    def nested(): ...
    return local


@property
async def later(x, /, *args, **more): pass


def _private(): ...


class Box(list, dict):
    """Holds.

    More.
    """
    kind = 1

    def fill(self, x: int = 3) -> None:
        """Fill it."""

    def _empty(self): ...
    def __len__(self): ...


class Plain: ...
class _Hidden:
    def seen(self): ...
'''.lstrip().replace("{long}", 60 * "x")  # fmt: skip


def page(name: str, site: Path) -> checks.Html:
    return checks.page_named(f"reference/snippets/{name}", site)


def written(path: Path) -> set[str]:
    """The public names of a module, found in another way than the build does: what importing it binds."""
    bound = {}
    code = compile(path.read_text(encoding="utf-8"), str(path), "exec")
    bound = {name for name in code.co_names if not name.startswith("_")}  # stored or only read
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = {(a.asname or a.name).split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom) for a in n.names}
    lines = inspect.cleandoc(path.read_text(encoding="utf-8")).split("\n")
    starts = {line.split("(")[0].split(":")[0].split("=")[0].split()[-1] for line in lines
              if line[:1].isalpha() and (line.startswith(("def ", "class ", "async def ")) or " = " in line)}
    return (bound - imported) & starts


@pytest.mark.parametrize("name", NAMES)
def test_a_page_shows_the_whole_file_and_every_public_name(name, site):
    path, html = ROOT / "snippets" / f"{name}.py", page(name, site)
    assert html.code("python") == [path.read_text(encoding="utf-8")]
    anchors = [link["href"] for link in html.soup.select(".gives > li > a")]
    top = {anchor.removeprefix("#code-") for anchor in anchors if "." not in anchor}
    assert top == written(path)
    for anchor in anchors:
        line = html.soup.select_one(f'[id="{anchor[1:]}"]').get_text()
        assert anchor.removeprefix("#code-").rpartition(".")[2] in line.split("=")[0], anchor
    tree = ast.parse(path.read_text(encoding="utf-8"))
    shown = " ".join(html.soup.select_one(".gives").get_text(" ").split()).replace("`", "")
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            says = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split()).replace("`", "")
            assert says.replace(" ", "") in shown.replace(" ", ""), node.name


@pytest.mark.parametrize("name", NAMES)
def test_the_files_are_the_project_s_byte_for_byte(name, site):
    module, test = ROOT / "snippets" / f"{name}.py", ROOT / "tests" / f"{name}.py"
    test = test.with_name(f"test_{test.name}")
    html = page(name, site)
    offered = {tag["href"]: site / "reference/snippets" / Path(name).parent / tag["href"] for tag in html.soup.select("a[download]")}
    assert list(offered) == [module.name, test.name]
    assert [file.read_bytes() for file in offered.values()] == [module.read_bytes(), test.read_bytes()]


@pytest.mark.parametrize("name", NAMES)
def test_a_page_leads_to_the_page_that_teaches_it_and_says_what_the_test_proves(name, site):
    html = page(name, site)
    links = {checks.locate(site, checks.resolve(html, tag["href"])) for tag in html.soup.select(".facts a")}
    assert {site / f"{name.replace('_', '-')}.html", site / "reference/snippets.html"} <= links
    test = ROOT / "tests" / f"{name}.py"
    tree = ast.parse(test.with_name(f"test_{test.name}").read_text(encoding="utf-8"))
    tests = [n.name.removeprefix("test_").replace("_", " ") for n in ast.walk(tree)
             if isinstance(n, ast.FunctionDef) and n.name.startswith("test_")]
    shown = [item.get_text() for item in html.soup.select("#what-its-test-proves ~ ul > li")]
    assert sorted(shown) == sorted(tests)
    assert tests


def test_the_list_names_every_module_by_part_with_what_it_gives(site):
    html = checks.page_named("reference/snippets", site)
    links = [tag["href"].removeprefix("snippets/").removesuffix(".html") for tag in html.soup.select("h3 > a[href^='snippets/']")]
    assert sorted(links) == sorted(NAMES)
    assert [tag.get_text().strip() for tag in html.soup.select("h2")] == [f"Shown in {part}" for part in dict.fromkeys(m.part for m in known())]
    definitions = {tag["href"] for tag in html.soup.select("li > a[href*='#code-']")}
    assert definitions == {f"snippets/{m.name}.html#code-{n.name}" for m in known() for n in m.names if "." not in n.name}
    text = "".join(html.soup.select_one("article").get_text().split())
    for module in known():
        for says in [module.says, *(name.says for name in module.names if "." not in name.name)]:
            assert "".join(says.replace("`", "").split()) in text, says


def known() -> list[reference.Module]:
    from mkdocs.config import load_config

    return reference.modules(load_config(str(ROOT / "mkdocs.yml")).nav, ROOT)


def test_the_pages_have_descriptions_of_their_own(site):
    pages = [checks.page_named("reference/snippets", site), *(page(name, site) for name in NAMES)]
    said = [html.soup.select_one("meta[name=description]")["content"] for html in pages]
    assert len(set(said)) == len(said)
    assert all(20 <= len(text) <= 200 for text in said), [text for text in said if not 20 <= len(text) <= 200]


def test_search_finds_names_and_not_whole_files(site):
    index = (site / "search/search_index.json").read_text(encoding="utf-8")
    for module in known():
        for name in module.names:
            assert name.name.rpartition(".")[2] in index
    assert "snippets.reference.cheatsheet" in index  # how to run it
    assert "beside.replace(path)" not in index.replace("\\", "") or index.count("beside.replace(path)") == 1  # on the cheat sheet


def test_downloads_and_links_hold(site):
    for check in (checks.downloads, checks.links):
        assert [problem for problem in check(site) if "reference/snippets" in problem] == []


@pytest.mark.parametrize("mode", ["light-1280", "dark-360"])
@pytest.mark.parametrize("address", ["reference/snippets.html", "reference/snippets/training/data_loading.html"])
def test_the_pages_are_for_everybody(browser, served, address, mode):
    context = look.new_context(browser, mode)
    visit = look.Visit(context, served.url + address, served.url)
    found = look.overflow(visit.page) + look.axe(visit.page) + look.quiet(visit)
    context.close()
    assert not found, "\n".join(found)


# What is read


def test_names_are_those_that_a_module_binds_for_others():
    names = {name.name: name for name in reference.public_names(ast.parse(SOURCE))}
    assert list(names) == ["LIMIT", "Pair", "LONG", "a", "b", "c", "area", "later", "Box", "Box.fill", "Plain"]
    assert names["LIMIT"].signature == "LIMIT = 3"
    assert names["Pair"].signature == "Pair = tuple[int, int]"
    assert names["LONG"].signature == "LONG"
    assert names["area"].signature == "area(radius: float, *, exact: bool=False) -> float"
    assert names["later"].signature == "later(x, /, *args, **more)"
    assert names["Box"].signature == "class Box(list, dict)"
    assert names["Plain"].signature == "class Plain"
    assert names["Box.fill"].signature == "Box.fill(self, x: int=3) -> None"
    assert (names["area"].says, names["Box"].says, names["Box.fill"].says) == ("The area of `radius` < 2 & more.", "Holds.", "Fill it.")
    assert names["later"].says == names["LIMIT"].says == ""
    lines = SOURCE.split("\n")
    assert all(name.name.rpartition(".")[2] in lines[name.line - 1] for name in names.values())
    assert reference.first_line(ast.parse(SOURCE)) == "A module: first paragraph over two lines."
    assert reference.first_line(ast.parse("x = 1")) == ""


@pytest.fixture
def project(tmp_path):
    """Two pages, of which one has a module."""
    for path, text in {
        "snippets/part/a_topic.py": SOURCE,
        "tests/part/test_a_topic.py": "def test_it_is_so():\n    pass\n\n\nclass TestX:\n    def test_in_a_class(self): ...\n\ndef helper(): ...\n",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")
    return tmp_path


NAV = [{"Home": "index.md"}, {"Part *one*": [{"A_topic": "part/a-topic.md"}, {"Lab": "part/lab.ipynb"}]}]


def test_files_are_made_for_what_has_a_module(project):
    made = reference.files(NAV, project)
    assert sorted(made) == ["reference/snippets.md", "reference/snippets/part/a_topic.md",
                            "reference/snippets/part/a_topic.py", "reference/snippets/part/test_a_topic.py"]  # fmt: skip
    assert made["reference/snippets/part/a_topic.py"] == SOURCE
    text = made["reference/snippets/part/a_topic.md"]
    assert "](../../../part/a-topic.md)" in text
    assert "](../../snippets.md)" in text
    assert "<li>it is so</li><li>in a class</li>" in text
    assert "The area of <code>radius</code> &#60; 2 &#38; more." in text
    assert '<span id="code-area">' in text


def test_a_module_may_show_any_text(project):
    """Fences, includes, formulas and tags in a module reach the page as they are."""
    import markdown
    from bs4 import BeautifulSoup

    path = project / "snippets/part/a_topic.py"
    odd = textwrap.dedent('''
        """Odd: <b> & $x$ *y* `z`."""

        # --8<-- [start:x]


        TEXT = """
        ```python
        --8<-- "gone.py"
        </code></pre></div>
        !!! note
        === "CPU"
        | a | b |
        $$ x $$ {: .a }
        [^1]: note
        """
        # --8<-- [end:x]
        ''').lstrip()
    path.write_text(odd, encoding="utf-8")
    source = reference.files(NAV, project)["reference/snippets/part/a_topic.md"].split("---\n", 2)[2]
    extensions = ["admonition", "attr_list", "footnotes", "md_in_html", "tables", "pymdownx.arithmatex", "pymdownx.details",
                  "pymdownx.snippets", "pymdownx.superfences", "pymdownx.tabbed"]  # fmt: skip
    html = markdown.markdown(source, extensions=extensions, extension_configs={"pymdownx.snippets": {"check_paths": True}})
    assert BeautifulSoup(html, "html.parser").select_one("pre > code").get_text() == odd


def test_a_module_without_a_test_and_one_that_is_no_python_stop_the_build(project):
    (project / "tests/part/test_a_topic.py").unlink()
    with pytest.raises(OSError, match=r"test_a_topic\.py"):
        reference.files(NAV, project)
    (project / "snippets/part/a_topic.py").write_text("def (:\n", encoding="utf-8")
    with pytest.raises(SyntaxError):
        reference.files(NAV, project)
