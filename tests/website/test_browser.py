"""The browser checks themselves: each notices the fault that is planted for it."""

from contextlib import ExitStack

import pytest

from tests.website import browser as look
from tests.website.conftest import executable
from tests.website.every_page import MOST_MOVED
from tests.website.server import serve


@pytest.fixture
def planted(browser, small_site):
    """Opens a small page with some HTML in it, and returns the visit."""
    with ExitStack() as stack:

        def open_page(html: str, **options) -> look.Visit:
            folder = small_site("basics/index.html", "<p>", f"<main>{html}</main><p>")
            site = stack.enter_context(serve(folder))
            context = stack.enter_context(look.new_context(browser, **options))
            return look.Visit(context, f"{site}basics/", site)

        yield open_page


FAULTS = {
    "<img src='https://other.invalid/x.png'>": (look.quiet, "request to another host: https://other.invalid/x.png"),
    "<img src='gone.png'>": (look.quiet, "404 for"),
    "<script>throw Error('x')</script>": (look.quiet, "script error: x"),
    "<script>console.warn('x')</script>": (look.quiet, "console warning: x"),
    "<script>console.error('x')</script>": (look.quiet, "console error: x"),
    "<img src='../assets/fit.svg' >": (look.axe, "image-alt"),
    "<p style='color: #999'>Gray</p>": (look.axe, "color-contrast"),
    "<input type='text'>": (look.axe, "label"),
    "<a href='#a' style='display: block; width: 9px; height: 9px'>a</a><a href='#b'>b</a>": (look.axe, "target-size"),
    "<h5>Deep</h5>": (look.axe, "heading-order"),
    "<nav>1</nav><nav>2</nav>": (look.axe, "landmark-unique"),
    "<div style='width: 3000px'>wide</div>": (look.overflow, "px wide in a window of 1280 px"),
    "<img src='a-dark.svg'><img src='a-light.svg'>": (look.figures, "a-dark.svg is seen in the light scheme"),
    "<img src='b-dark.svg' hidden><img src='b-light.svg'>": (look.figures, "b-light.svg has not loaded"),
    "<img src='c-dark.svg' hidden><img src='c-light.svg' hidden>": (look.figures, "c-light.svg is not seen"),
    "<img src='d-light.svg'>": (look.figures, "d-light.svg has no twin"),
    "<a href='#' style='opacity: 0'>a</a>": (look.tab, "takes the focus and is not seen"),
    "<a href='#' style='position: fixed; left: -900px'>a</a>": (look.tab, "takes the focus and is not seen"),
    "<a href='#'>a</a><div style='position: fixed; inset: 0; background: #fff'></div>": (look.tab, "under something else"),
    "<a href='#' style='outline: none'>a</a>": (look.tab, "does not show that it has the focus"),
    "<button style='width: 2em; height: 2em'></button>": (look.tab, "has no name"),
    "<input aria-label='a' onkeydown='event.preventDefault()'>": (look.tab, "does not leave"),
}


@pytest.mark.parametrize("html", FAULTS)
def test_notices(planted, html):
    check, message = FAULTS[html]
    visit = planted(html)
    visit.scroll_through()
    problems = check(visit) if check is look.quiet else check(visit.page, *["light"] * (check is look.figures))
    assert any(message in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("html", "message"),
    [
        ("", None),
        ("<div class='language-bash'><pre><code>ls</code></pre></div>", "2 code blocks to be seen, not 1"),
        ("<style>.language-python { display: none }</style>", "0 code blocks to be seen, not 1"),
        ("<style>.language-text { visibility: hidden }</style>", "0 outputs to be seen, not 1"),
        ("<var class='arithmatex'>x</var>", "formula not to be seen: x"),
        ("<var class='arithmatex'><b class='katex-html' hidden>x</b></var>", "formula not to be seen: x"),
        ("<img src='gone.svg' alt='x'>", "gone.svg has not loaded"),
        ("<img src='a-light.svg'><img src='a-dark.svg'>", "not exactly one of the two files is seen"),
        ("<div class='tabbed-set'><div class='tabbed-content'><div class='tabbed-block'></div></div></div>", "0 tabs"),
    ],
)
def test_notices_what_cannot_be_read_without_javascript(planted, html, message):
    page = planted(html, java_script_enabled=False).page
    problems = [p for p in look.readable(page, 1, 1) if "formula not to be seen: x\\frac{x}" not in p]
    assert any(message in problem for problem in problems) if message else not problems, problems


def test_notices_what_a_copy_button_copies(planted):
    button = "<button data-clipboard-target='x' onclick='navigator.clipboard.writeText(`>>> x`)'>Copy</button>"
    html = f"<div class='language-python'>{button}<pre><code>x</code></pre></div>"
    page = planted(html, permissions=["clipboard-read", "clipboard-write"]).page
    assert look.copied(page) == [">>> x", "nothing was copied"]


def test_notices_what_moves(planted):
    late = "<script>setTimeout(() => document.body.prepend(Object.assign(document.createElement('p'), {style: 'height: 300px'})), 300)</script>"
    page = planted(late).page
    page.wait_for_timeout(600)
    assert look.vitals(page)["cls"] > max(MOST_MOVED.values())


def test_a_page_that_never_answers_is_given_up_and_the_next_one_opens(planted):
    from playwright.sync_api import Error

    page = planted("").page
    with look.patience(1), pytest.raises(Error, match="crash"):
        page.evaluate("() => { while (true) {} }")
    assert planted("").page.title() == "Tensors"


def test_patience_that_was_not_needed_kills_nothing(planted):
    page = planted("").page
    with look.patience(0.2):
        pass
    page.wait_for_timeout(500)
    assert page.title() == "Tensors"


def test_a_browser_that_is_named_must_exist(monkeypatch):
    monkeypatch.setenv("CHROMIUM", "no-such-browser")
    with pytest.raises(FileNotFoundError, match="no-such-browser"):
        look.find_chromium()


def test_says_that_it_was_not_run_where_there_is_no_browser(monkeypatch, tmp_path):
    monkeypatch.delenv("CHROMIUM", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(look, "MAC", [])
    with pytest.raises(pytest.skip.Exception, match="not run: no Chromium found"):
        executable()
