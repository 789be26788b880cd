"""On paper: light, complete and without the frame, also for a reader in the dark; the cheat sheet takes two pages."""

from collections import Counter

import pytest

from tests.website import browser as look
from tests.website import pdf
from tests.website.every_page import SOURCES
from website.pages import load

A4 = 680  # px between the margins
GENERATED = ["reference/snippets.md", "reference/snippets/training/data_loading.md"]
FORMULAS = "initialization/xavier.md"
SHEET = "reference/cheatsheet.md"

# What a page looks like for print, and what is wrong with it.
PAPER = r"""() => {
    const problems = [], seen = e => e.checkVisibility({contentVisibilityAuto: true, visibilityProperty: true});
    const name = e => e.outerHTML.slice(0, 80);
    for (const e of document.querySelectorAll(".md-header, .md-sidebar, .md-footer, .md-top, .md-code__nav, .md-search, .headerlink"))
        if (seen(e)) problems.push(`frame: ${name(e)}`);
    const article = document.querySelector("article"), edge = document.documentElement.clientWidth + 1;
    if (document.documentElement.scrollWidth > edge) problems.push(`off the paper: ${document.documentElement.scrollWidth} px`);
    for (const e of article.querySelectorAll("*")) {
        if (!seen(e) || e.closest(".katex-mathml, svg, .stage")) continue;
        const {right, left, width, height} = e.getBoundingClientRect(), style = getComputedStyle(e);
        if (width && height && (right > edge || left < -1)) problems.push(`off the paper: ${name(e)}`);
        if (style.overflowX !== "visible" && e.scrollWidth > e.clientWidth + 1 && !e.closest(".katex")) problems.push(`cut off: ${name(e)}`);
    }
    for (const e of article.querySelectorAll("details > :not(summary)"))
        if (seen(e.parentElement) && (!seen(e) || !e.getBoundingClientRect().height)) problems.push(`folded: ${name(e)}`);
    const light = css => { const [r, g, b, a = 1] = css.match(/[\d.]+/g).map(Number); return a ? (0.3 * r + 0.6 * g + 0.1 * b) / 230 : 1; };
    for (const e of [document.documentElement, document.body, article, ...article.querySelectorAll("pre > code")])
        if (light(getComputedStyle(e).backgroundColor) < 0.95) problems.push(`dark ground: ${name(e)}`);
    for (const e of article.querySelectorAll("p, li, h1, h2, code, code span, .katex"))
        if (seen(e) && light(getComputedStyle(e).color) > 0.6) problems.push(`pale: ${name(e)}`);
    for (const e of article.querySelectorAll(".figure"))
        if (seen(e) !== e.src.endsWith("#only-light")) problems.push(`figure: ${name(e)}`);
    for (const e of article.querySelectorAll("div.arithmatex"))
        if (getComputedStyle(e).contentVisibility !== "visible") problems.push(`not drawn: ${name(e)}`);
    return [...new Set(problems)];
}"""


def on_paper(browser, url: str, **options):
    """A page that a reader in the dark is about to print; nobody has scrolled through it."""
    context = look.new_context(browser, "dark-1280", **options)
    page = context.new_page()
    page.goto(url, wait_until="load")
    page.emulate_media(media="print", color_scheme="dark")
    page.set_viewport_size({"width": A4, "height": 1000})
    return page


def url_of(served, source: str) -> str:
    return f"{served.url}{source.rsplit('.', 1)[0]}.html"


@pytest.mark.parametrize("source", [*SOURCES, *GENERATED])
def test_all_of_a_page_is_on_paper(browser, served, source):
    page = on_paper(browser, url_of(served, source))
    problems = page.evaluate(PAPER)
    page.context.close()
    assert not problems, "\n".join(problems)


def test_all_of_a_page_is_on_paper_without_javascript(browser, served):
    page = on_paper(browser, url_of(served, "training/losses.md"), java_script_enabled=False)
    problems = page.evaluate(PAPER)
    page.context.close()
    assert not problems, "\n".join(problems)


FAULTS = {
    ".md-header { display: block !important }": "frame",
    "html .md-typeset .highlight > pre > code { white-space: pre !important }": "off the paper",
    "html .md-typeset .highlight > pre > code { white-space: pre !important; overflow: auto !important; display: block; max-width: 20em }": "cut off",
    "details::details-content { content-visibility: hidden !important }": "folded",
    "details > :not(summary) { display: none !important }": "folded",
    "body { background: #222 !important }": "dark ground",
    "p { color: #ccc !important }": "pale",
    ".figure { display: none !important }": "figure",
    '.figure[src$="#only-dark"] { display: block !important }': "figure",
    "div.arithmatex { content-visibility: auto !important }": "not drawn",
}


@pytest.fixture(scope="module")
def paper(browser, served):
    page = on_paper(browser, url_of(served, FORMULAS))
    page.evaluate("document.querySelector('details pre > code').append('x'.repeat(300))")
    yield page
    page.context.close()


@pytest.mark.parametrize(("css", "message"), FAULTS.items())
def test_notices(paper, css, message):
    tag = paper.add_style_tag(content=css)
    problems = paper.evaluate(PAPER)
    tag.evaluate("tag => tag.remove()")
    assert any(problem.startswith(message) for problem in problems), problems


def printed(browser, url: str, **options) -> list[str]:
    """The text of each page of the PDF that a reader saves."""
    context = look.new_context(browser, "dark-1280")
    page = context.new_page()
    page.goto(url, wait_until="load")
    made = pdf.texts(page.pdf(**options))
    context.close()
    return made


def flat(text: str) -> str:
    return "".join(text.split())


def test_a_pdf_holds_solutions_formulas_addresses_and_page_numbers(browser, served):
    url = url_of(served, FORMULAS)
    pages = printed(browser, url, format="A4")
    text = "".join(pages)
    solutions = [fence for fence in load(SOURCES[FORMULAS]).fences if fence.indent]
    assert solutions
    for fence in load(SOURCES[FORMULAS]).fences:
        for line in fence.code.splitlines():
            assert flat(line)[:40] in text, line
    for number, page in enumerate(pages, 1):
        assert f"{number}/{len(pages)}" in page
    assert "https://pytorch-that-runs.github.io/initialization/xavier.html" in text
    assert "(https://proceedings.mlr.press" in text or "(https://arxiv.org/abs/" in text
    page = look.new_context(browser).new_page()
    page.goto(url, wait_until="load")
    drawn = "".join(page.locator(".katex-html").all_text_contents())
    page.context.close()
    lost = Counter(letter for letter in drawn if letter.isalnum() and letter.isascii()) - Counter(text)
    assert not lost, f"letters of formulas that are not on paper: {lost}"


@pytest.mark.parametrize("size", ["A4", "Letter"])
def test_the_cheat_sheet_takes_two_pages(browser, served, size):
    pages = printed(browser, url_of(served, SHEET), format=size)
    assert len(pages) == 2
    fences = [fence for fence in load(SOURCES[SHEET]).fences if not fence.id.startswith(("exercise", "sources"))]
    assert len(fences) >= 20
    for line in "\n".join(fence.code for fence in fences).splitlines():
        assert flat(line) in "".join(pages), line
    for fence in fences:
        for output in fence.outputs.values():
            assert flat(output.text) in "".join(pages)


def test_a_file_that_is_no_pdf_has_no_pages():
    with pytest.raises(ValueError, match="expected a PDF, found no page in it"):
        pdf.texts(b"%PDF-1.4\n1 0 obj\n<< /Type /Pages >>\nendobj\n")
