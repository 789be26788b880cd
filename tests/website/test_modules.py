"""The build's own modules: formulas, markup, downloads, provenance, repairs of the theme."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import markdown
import pytest

from tests.page_runner import record
from tests.website import checks
from website import access, display, downloads, figures, katex, pages, provenance

SVG = '<svg width="460.8pt" height="259.2pt"><path style="fill: #0f62c4"/></svg>\n'
ALT = "A straight line from the lower left to the upper right"
PAGE = f"""# A topic

Prose with a [link](other.md#part) and `code`.

```python
x = 1
print(x)
```

<!--pytest-codeblocks:expected-output-->
```text
1
```

!!! note "Careful"

    Inside.

    <!--pytest.mark.xfail(raises=ValueError)-->
    ```python
    print("before")
    raise ValueError("no: 2")
    ```

    <!--pytest-codeblocks:expected-output-->
    ```text
    before
    ValueError: no: 2
    ```

```bash
echo hello
```

<!--pytest-codeblocks:expected-output-->
```text
hello
```

```python
import matplotlib.pyplot as plt
```

![{ALT}](topic/line-light.svg)

The end.
"""


@pytest.fixture
def page(tmp_path) -> pages.Page:
    (tmp_path / "mkdocs.yml").write_text("markdown_extensions: [{pymdownx.snippets: {check_paths: true}}]\n")
    folder = tmp_path / "docs" / "part" / "topic"
    folder.mkdir(parents=True)
    (folder / "line-light.svg").write_text(SVG)
    (folder / "line-dark.svg").write_text(figures.dark(SVG))
    source = folder.parent / "topic.md"
    source.write_text(PAGE)
    return pages.load(source)


# Formulas


def formulas(text: str) -> str:
    config = {"pymdownx.arithmatex": {"generic": True}}
    return markdown.markdown(text, extensions=["pymdownx.arithmatex", katex.KatexExtension()], extension_configs=config)


def test_formulas_are_rendered_at_build_time_and_keep_their_mathml():
    html = formulas("Let $a < b$ and\n\n$$\n\\frac{1}{n} \\sum_{i=1}^{n} x_i > 0 & 1\n$$\n".replace(" & 1", ""))
    assert html.count('class="katex"') == 2
    assert html.count("<math") == 2
    assert '<annotation encoding="application/x-tex">a &lt; b</annotation>' in html
    assert '<annotation encoding="application/x-tex">\\frac{1}{n} \\sum_{i=1}^{n} x_i &gt; 0</annotation>' in html
    assert html.count("data-search-exclude") == 2
    assert re.search(r'<div [^>]*tabindex="0"[^>]*>', html)
    assert "katex-error" not in html


def test_a_matrix_keeps_its_ampersands():
    html = formulas("$$\n\\begin{aligned} a &= b \\\\ &= \\text{\"c\"} \\end{aligned}\n$$\n")
    assert "a &amp;= b" in html


@pytest.mark.parametrize("tex", ["$\\frac{1}$", "$$\n\\notacommand\n$$", "$\\text{é}\\sqrt{$"])
def test_a_tex_error_stops_the_build_and_names_the_formula(tex):
    with pytest.raises(katex.TexError, match="in the formula"):
        formulas(f"Text {tex}\n\n" if not tex.startswith("$$") else tex)


# Markup


def test_outputs_and_failures_are_marked_and_comments_are_gone(page):
    shown = display.markup(page.source, page)
    assert "pytest" not in shown
    assert shown.count(display.OUTPUT) == 3
    assert "    ```" + display.FAILS.format("ValueError") in shown
    assert "```python\nx = 1" in shown


def test_a_figure_becomes_a_pair_with_its_size(page):
    shown = display.markup(page.source, page)
    size = 'width="614" height="346" loading="lazy"'
    assert f"![{ALT}](topic/line-light.svg#only-light){{ .figure {size}" in shown
    assert f"![{ALT}](topic/line-dark.svg#only-dark){{ .figure {size}" in shown


def test_what_stands_in_a_fence_is_left_alone(page, tmp_path):
    page.path.write_text('````python\ntext = """\n```text\n<!--pytest.mark.x-->\n"""\n````\n')
    loaded = pages.load(page.path)
    assert display.markup(loaded.source, loaded) == loaded.source


def test_a_figure_that_is_missing_stops(page):
    (page.path.parent / "topic" / "line-light.svg").unlink()
    with pytest.raises(OSError, match=r"line-light\.svg"):
        display.markup(page.source, page)


# Downloads


def test_the_script_goes_on_after_an_expected_failure(page, tmp_path):
    script = tmp_path / "topic.py"
    script.write_text(downloads.script(page))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "1\nbefore\nValueError: no: 2\n"
    assert "# echo hello" in script.read_text()


def test_a_failure_that_does_not_come_is_not_hidden(page):
    script = downloads.script(page)
    assert "except ValueError as error:" in script


def test_the_notebook_holds_prose_code_outputs_and_figures(page):
    notebook = downloads.notebook(page, "https://example.org/")
    kinds = [cell.cell_type for cell in notebook.cells]
    assert kinds == ["markdown", "code", "markdown", "code", "markdown", "code", "markdown"]
    title, first, note, fails, shell, draws, end = notebook.cells
    assert title.source.startswith("# A topic\n\nProse with a [link](https://example.org/part/other.html#part) and `code`.")
    assert first.outputs[0].text == "1\n"
    assert note.source == "**Careful**\n\nInside."
    assert (fails.outputs[0].text, fails.outputs[1].evalue) == ("before\n", "no: 2")
    assert fails.metadata["tags"] == ["raises-exception"]
    assert shell.source == "```bash\necho hello\n```\n\n```text\nhello\n```"
    assert draws.outputs[0].data["image/svg+xml"] == SVG
    assert end.source == "The end."
    assert downloads.notebook(page, "https://example.org/") == notebook


def test_a_page_says_how_much_of_a_program_it_is(page):
    line = downloads.links(page)
    assert line.startswith("4 examples, 3 outputs, 1 figure · Download [script](topic/topic.py)")
    assert "[notebook](topic/topic.ipynb)" in line


# Provenance


def entry(page: pages.Page, **more) -> dict:
    return {"digest": page.digest, **page.counts, "seconds": 1.0, "date": "2026-11-21", **more}


def known(tmp_path, *records: dict) -> list[provenance.Run]:
    (tmp_path / "records").mkdir(exist_ok=True)
    for number, one in enumerate(records):
        (tmp_path / "records" / f"{number}.json").write_text(json.dumps({**one, "seal": record.seal(one)}))
    return provenance.runs(tmp_path)


CPU = {"device": "CPU", "kind": "cpu", "torch": "2.14.1", "torchvision": "0.29.1", "python": "3.11.7"}
GPU = CPU | {"device": "NVIDIA H200", "kind": "cuda", "torch": "2.11.0", "python": "3.12.3"}


class Text(HTMLParser):
    def __init__(self, html: str):
        super().__init__()
        self.text = ""
        self.feed(html)

    def handle_data(self, data: str) -> None:
        self.text += data + " "


def said(html: str) -> str:
    return " ".join(Text(html).text.split())


def test_a_page_says_where_it_ran(page, tmp_path):
    runs = known(tmp_path, GPU | {"pages": {page.name: entry(page, date="2026-11-20")}}, CPU | {"pages": {page.name: entry(page)}})
    text = said(provenance.page_block(page, runs))
    assert text.index("Executed on CPU, torch 2.14.1, Python 3.11.7, 2026-11-21") < text.index(
        "Executed on NVIDIA H200, torch 2.11.0, Python 3.12.3, 2026-11-20"
    )
    assert "not" not in text.lower()


def test_a_page_that_changed_says_so(page, tmp_path):
    runs = known(tmp_path, CPU | {"pages": {page.name: entry(page, digest="0")}})
    text = said(provenance.page_block(page, runs))
    assert "Changed since it was executed on CPU" in text
    assert "Executed on CPU" not in text
    assert "Not yet executed on a GPU" in text


def test_a_page_that_did_not_run_says_so(page, tmp_path):
    text = said(provenance.page_block(page, known(tmp_path, CPU | {"pages": {}})))
    assert text == "Not yet executed on CPU, torch 2.14.1 Not yet executed on a GPU"
    assert said(provenance.page_block(page, [])) == "Not yet executed on a CPU Not yet executed on a GPU"


def test_the_numbers_of_the_site_count_only_what_ran_as_it_stands(page, tmp_path):
    text = said(provenance.site_block([page], known(tmp_path, CPU | {"pages": {page.name: entry(page)}})))
    assert "examples executed 4" in text
    assert "outputs checked 3" in text
    assert "figures compared 1" in text
    assert "1 of 1 pages, on CPU, torch 2.14.1, Python 3.11.7, 2026-11-21" in text
    assert "Not yet executed on a GPU" in text
    older = CPU | {"torch": "2.11.0", "pages": {page.name: entry(page)}}
    both = known(tmp_path, older, CPU | {"pages": {page.name: entry(page)}})
    assert said(provenance.site_block([page], both)) == text
    (tmp_path / "records/1.json").unlink()
    stale = known(tmp_path, CPU | {"pages": {page.name: entry(page, digest="0")}})
    assert said(provenance.site_block([page], stale)) == "Not yet executed on a CPU. Not yet executed on a GPU."


def test_indentation_goes_but_not_that_of_code():
    html = "<p>\n    a\n  b</p>\n\n   <pre><code>\n  x\n\n    y</code></pre>\n  <script>\n  z</script>\n <p>c d</p>"
    assert display.thin(html) == "<p>\na\nb</p>\n<pre><code>\n  x\n\n    y</code></pre>\n<script>\n  z</script>\n<p>c d</p>"
    css = "/* 1\n  one */\n\n.a {\n  color: red; /* why */\n}\n@media print { .b { content: \"a  b\"; } }\n"
    assert display.thin_css(css) == ".a {\ncolor: red;\n}\n@media print { .b { content: \"a  b\"; } }\n"


def test_records_are_in_the_order_of_devices_and_versions(tmp_path):
    found = known(tmp_path, *(CPU | {"torch": v, "pages": {}} for v in ("2.9.1", "2.14.1", "2.11.0")), GPU | {"pages": {}})
    assert [(run.kind, run.torch) for run in found] == [("cpu", "2.14.1"), ("cpu", "2.11.0"), ("cpu", "2.9.1"), ("cuda", "2.11.0")]


def test_a_fence_for_a_gpu_says_on_which_it_ran(page, tmp_path):
    assert said(provenance.gpu_box(page, [])) == "For a GPU. Not yet executed on one; without one it runs, too."
    cpu = known(tmp_path, CPU | {"pages": {page.name: entry(page)}})
    assert said(provenance.gpu_box(page, cpu)) == "For a GPU. Not yet executed on one; without one it runs, too."
    both = known(tmp_path, CPU | {"pages": {page.name: entry(page)}}, GPU | {"pages": {page.name: entry(page)}})
    assert said(provenance.gpu_box(page, both)).startswith("For a GPU. Executed on NVIDIA H200, torch 2.11.0")


def test_the_matrix_says_for_each_page_and_record_what_ran(page, tmp_path):
    runs = known(
        tmp_path,
        CPU | {"pages": {page.name: entry(page)}},
        CPU | {"torch": "2.11.0", "pages": {page.name: entry(page, digest="0", date="2026-11-19")}},
        CPU | {"torch": "2.9.1", "pages": {}},
    )
    assert said(provenance.matrix([page], runs)) == (
        "page fences CPU torch 2.14.1 CPU torch 2.11.0 CPU torch 2.9.1 GPU not yet run "
        f"{page.name} 4 2026-11-21 changed since 2026-11-19 not run not run "
        "executed as they stand 4 4 of 4 0 of 4 0 of 4 0 of 4"
    )
    runs = known(tmp_path, GPU | {"pages": {page.name: entry(page)}})
    assert "GPU not yet run" not in said(provenance.matrix([page], runs))


def test_the_result_of_the_gate_is_a_table(tmp_path):
    assert "not been measured" in provenance.gate(tmp_path)
    (tmp_path / "records/gate").mkdir(parents=True)
    kinds = {"code": {"tried": 5, "running": 4, "record": 1}, "link": {"tried": 3, "build": 2, "nobody": 1}}
    result = {"date": "2026-11-29", "seed": 3, "kinds": kinds}
    (tmp_path / "records/gate/faults.json").write_text(json.dumps(result))
    assert said(provenance.gate(tmp_path)) == (
        "fault in planted the run tests of the module the build the record nothing "
        "code 5 4 – – 1 – link 3 – – 2 – 1 all 8 4 – 2 1 1 Drawn at random on 2026-11-29 , with the seed 3."
    )


def test_the_first_page_shows_the_numbers_of_the_records(site):
    everything = [pages.load(path) for path in pages.all_pages()]
    executed = sum(len(page.fences) for page in everything)
    shown = checks.page_named("index", site).soup.select_one(".numbers").get_text(" ")
    assert " ".join(shown.split()) == said(provenance.site_block(everything, provenance.runs(pages.ROOT)))
    assert f"examples executed {executed}" in " ".join(shown.split())


# Repairs


def test_repairs_name_what_had_no_name_and_make_the_menu_button_a_control():
    html = (
        '<body><input class="md-toggle" data-md-toggle="drawer" type="checkbox" id="__drawer">\n'
        '<label class="md-header__button md-icon" for="__drawer"><svg/></label>'
        '<div data-md-component="search" role="dialog"></div><a data-md-component="source" tabindex="">'
    )
    repaired = access.repair(html)
    assert repaired.count("__drawer") == 1
    assert "<label" not in repaired
    assert 'id="__drawer" aria-label="Menu"' in repaired
    assert 'role="dialog" aria-label="Search"' in repaired
    assert "source" not in repaired
    assert 'tabindex=""' not in repaired
