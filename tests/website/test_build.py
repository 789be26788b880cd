"""The build, and what every page of the built site shows."""

import re

import pytest

from tests.website import checks
from tests.website.conftest import build
from website.pages import ROOT, all_pages, load

PAGE = "basics/index.html"
CHECKS = [checks.heads, checks.ids, checks.images, checks.maths, checks.markdown, checks.comments, checks.sizes,
          checks.explorers]  # fmt: skip


def test_build_is_strict_and_needs_no_torch(built):
    assert built.returncode == 0, built.stderr
    assert not re.search("warn|error|deprecat", built.stdout + built.stderr, re.IGNORECASE), built.stderr


def test_build_stops_at_a_broken_link(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# Home\n\n[gone](gone.md)\n")
    (tmp_path / "mkdocs.yml").write_text("site_name: Broken\n")
    assert "gone.md" in build(tmp_path / "site", tmp_path).stderr
    assert build(tmp_path / "site", tmp_path).returncode


def test_build_stops_where_torch_is_needed(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# Home\n")
    (tmp_path / "hook.py").write_text("import torch\n")
    (tmp_path / "mkdocs.yml").write_text("site_name: Broken\nhooks: [hook.py]\n")
    assert "must not need torch" in build(tmp_path / "site", tmp_path).stderr


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_site(check, site):
    problems = check(site)
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_is_silent_where_all_is_well(check, small_site):
    assert not check(small_site())


FAULTS = [
    (checks.heads, PAGE, ' lang="en"', "", "<html> has no lang"),
    (checks.heads, PAGE, "<title>Tensors", "<title> ", "<title> is missing or empty"),
    (checks.heads, PAGE, "<title>Tensors", "<title>Home", "2 pages have the title 'Home'"),
    (checks.heads, PAGE, "What a tensor is.", "", "the description is missing or empty"),
    (checks.heads, PAGE, "<p>", "<h1>Again</h1><p>", "2 <h1> instead of one"),
    (checks.heads, PAGE, "h1", "h2", "0 <h1> instead of one"),
    (checks.ids, PAGE, "<p>", '<p id="tensors">', "id 'tensors' is used 2 times"),
    (checks.images, PAGE, "A line through ten points", "", "has no alt text"),
    (checks.images, PAGE, ' alt="A line through ten points"', "", "has no alt text"),
    (checks.images, PAGE, ' width="640"', "", "has no width and height"),
    (checks.images, PAGE, '"640"', '"auto"', "has no width and height"),
    (checks.maths, PAGE, "elsewhere", r"\(x\)", "TeX left"),
    (checks.maths, PAGE, "elsewhere", "$$", "TeX left"),
    (checks.maths, PAGE, "elsewhere", "$x^2 $", "TeX left"),
    (checks.maths, PAGE, "elsewhere", r"\frac{1}{2}", "TeX left"),
    (checks.maths, PAGE, "<title>Tensors", "<title>$x$", "TeX left"),
    (checks.maths, PAGE, '"katex"', '"k"', "formula not rendered"),
    (checks.maths, PAGE, "elsewhere", '<span class="katex-error">x</span>', "formula in error"),
    (checks.markdown, PAGE, "<code>tensor", "<code>python hl_line=1\nx = 1", "became inline code"),
    (checks.markdown, PAGE, "<code>tensor", '<code>python title="x" x', "became inline code"),
    (checks.markdown, PAGE, "<code>tensor", "<code>\nx = 1\nprint(x)\n", "became inline code"),
    (checks.markdown, PAGE, "elsewhere", "```python", "Markdown left"),
    (checks.markdown, PAGE, "elsewhere", "!!! note", "Markdown left"),
    (checks.markdown, PAGE, "elsewhere", '??? success "Solution"', "Markdown left"),
    (checks.markdown, PAGE, "elsewhere", '=== "CPU"', "Markdown left"),
    (checks.markdown, PAGE, "elsewhere", "{ .annotate }", "Markdown left"),
    (checks.markdown, PAGE, "print(x)", '--8<-- "snippets/x.py:y"', "an include is left"),
    (checks.comments, PAGE, "<p>", "<!--pytest-codeblocks:expected-output--><p>", "comment left"),
    (checks.comments, PAGE, "<p>", "<!--pytest.mark.xfail--><p>", "comment left"),
    (checks.explorers, PAGE, "[1.5]", "[1.6]", "the data of 'curve.json' are not inside the page"),
    (checks.explorers, PAGE, 'class="explorer"', "", "the data of 'curve.json' are not inside the page"),
    (checks.explorers, "basics/curve.json", "", None, "the data of 'curve.json' are not inside the page"),
    (checks.explorers, PAGE, "language-text", "language-none", "no figure and no table above 'curve.json'"),
    (checks.explorers, PAGE, "<img", "<p", "no figure and no table above 'curve.json'"),
    (checks.sizes, PAGE, "<p>", "<p>" + 82_000 * "x", "a page may have 82,000"),
]


@pytest.mark.parametrize(("check", "file", "old", "new", "message"), FAULTS)
def test_notices(check, file, old, new, message, small_site):
    problems = check(small_site(file, old, new))
    assert any(message in problem for problem in problems), problems


# What is shown is what ran


def differences(page, html):
    """Where the code and the outputs that a page shows are not the ones that ran."""
    code = [fence.code for fence in page.fences]
    outputs = [output.text for fence in page.fences for output in fence.outputs.values()]
    problems = []
    for what, shown, ran in [("code", html.code("python", "bash"), code), ("output", html.code("text"), outputs)]:
        if len(shown) != len(ran):
            problems.append(f"{page.name}: shows {len(shown)} blocks of {what}, {len(ran)} ran")
        else:
            pairs = zip(shown, ran, strict=True)
            problems += [f"{page.name}: shows {a!r}, ran {b!r}" for a, b in pairs if a.strip("\n") != b.strip("\n")]
    blocks = len(html.soup.select("pre"))
    if blocks != len(html.code("python", "bash", "text")):
        problems.append(f"{page.name}: has {blocks} <pre>, not all of them code that ran or output that is checked")
    return problems


@pytest.mark.parametrize("source", all_pages(), ids=lambda path: path.relative_to(ROOT / "docs").as_posix())
def test_shows_what_ran(source, site):
    page = load(source)
    problems = differences(page, checks.page_named(page.name, site))
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("", "", None),
        ("print(x)\n</code>", "print(y)\n</code>", "shows 'x = 1\\nprint(y)\\n', ran 'x = 1\\nprint(x)\\n'"),
        ("language-python", "highlight", "shows 0 blocks of code, 1 ran"),
        ("<img", '<div class="language-bash"><pre><code>ls</code></pre></div><img', "shows 2 blocks of code, 1 ran"),
        ("<code>1\n", "<code>2\n", "shows '2\\n', ran '1\\n'"),
        ("language-text", "text", "shows 0 blocks of output, 1 ran"),
        ("<img", '<div class="language-js"><pre><code>1</code></pre></div><img', "has 3 <pre>, not all of them"),
    ],
)
def test_notices_what_did_not_run(old, new, message, small_site, tmp_path):
    (tmp_path / "docs").mkdir()
    source = tmp_path / "docs" / "basics.md"
    output = "<!--pytest-codeblocks:expected-output-->\n```text\n1\n```\n"
    source.write_text(f"# Tensors\n\n```python\nx = 1\nprint(x)\n```\n\n{output}")
    (tmp_path / "mkdocs.yml").write_text("markdown_extensions: [{pymdownx.snippets: {check_paths: true}}]\n")
    site = small_site(PAGE, old, new)
    problems = differences(load(source), checks.by_file(site)[site / PAGE])
    assert any(message in problem for problem in problems) if message else not problems, problems
