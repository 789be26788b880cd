"""The site in a browser: every page, in both schemes, on a desktop and on a phone.

Uses the Chromium or Chrome of this machine (CHROMIUM names another one). Without one, each of these
tests is reported as not run.
"""

import json
import re
from contextlib import ExitStack
from types import SimpleNamespace

import pytest
from bs4 import BeautifulSoup

from tests.website import browser as look
from tests.website import checks
from tests.website.server import body, file_for, serve
from website.pages import ROOT, all_pages, load

MODES = {f"{scheme}-{width}": (scheme, width) for scheme in ("light", "dark") for width in (1280, 360)}
SOURCES = {path.relative_to(ROOT / "docs").as_posix(): path for path in all_pages()}
NOT_FOUND = "404.html"
LARGEST_TRANSFER = {"text": 150_000, "maths": 200_000}  # bytes as sent: HTML, CSS, JavaScript and fonts
MOST_MOVED = 0.02  # cumulative layout shift, from the first paint to having scrolled through the page
FIRST = "index.md"
LONGEST = max(SOURCES, key=lambda source: (source.endswith(".md"), SOURCES[source].stat().st_size), default=FIRST)
MENU, SEARCH = re.compile("menu|navigation", re.IGNORECASE), re.compile("search", re.IGNORECASE)


def in_mode(*modes):
    return pytest.mark.parametrize("mode", modes or MODES, scope="module")


def on_every_page(*more):
    return pytest.mark.parametrize("source", [*SOURCES, *more], scope="module")


def executable() -> str:
    """The browser of this machine; where there is none, the test is reported as not run."""
    if not (found := look.find_chromium()):
        pytest.skip("not run: no Chromium found on this machine (set CHROMIUM to the program to use)")
    pytest.importorskip("playwright.sync_api", reason="not run: playwright is not installed")
    return found


@pytest.fixture(scope="module")
def browser():
    with look.launch(executable()) as browser:
        yield browser


@pytest.fixture(scope="module")
def served(browser, site):
    """The site on a local server: its folder and its address."""
    with serve(site) as url:
        yield SimpleNamespace(folder=site, url=url)


def address(served, source: str) -> str:
    """Where the page of a file in docs/ is; for 404.html a folder that does not exist."""
    if source == NOT_FOUND:
        return served.url + "no/such/page/"
    page = checks.page_named(source.rsplit(".", 1)[0], served.folder)
    return served.url + page.url.removeprefix(checks.base(served.folder))


def new_context(browser, mode: str = "light-1280", **options):
    scheme, width = MODES[mode]
    context = browser.new_context(
        color_scheme=scheme, viewport={"width": width, "height": 800}, reduced_motion="reduce", **options
    )
    context.add_init_script(look.OBSERVE)
    context.set_default_timeout(10_000)
    return context


@pytest.fixture
def context(browser, mode):
    context = new_context(browser, mode)
    yield context
    for page in context.pages:  # closing in the middle of a navigation has been seen to wait for ever
        page.goto("about:blank")
    context.close()


@pytest.fixture(scope="module")
def visit(browser, served, mode, source):
    """A page that has been looked at from top to bottom."""
    context = new_context(browser, mode)
    visit = look.Visit(context, address(served, source), served.url)
    visit.scroll_through()
    yield visit
    context.close()


# Every page in every mode


@on_every_page(NOT_FOUND)
@in_mode()
def test_nothing_fails_and_no_request_leaves(visit, source):
    assert not look.quiet(visit, 404 if source == NOT_FOUND else 200)


@on_every_page(NOT_FOUND)
@in_mode()
def test_shows_the_scheme_that_the_reader_prefers(visit, mode):
    assert (look.background(visit.page) > 128) == mode.startswith("light")
    assert not look.figures(visit.page, MODES[mode][0])


@on_every_page(NOT_FOUND)
@in_mode()
def test_does_not_scroll_sideways(visit):
    assert not look.overflow(visit.page)


@on_every_page(NOT_FOUND)
@in_mode()
def test_does_not_move_and_is_small(visit, source, mode, served, record_property):
    sent = {}
    for url in dict.fromkeys(visit.requests):
        _, file = file_for(served.folder, url)
        sent[file] = len(body(file))
    budgeted = sum(n for file, n in sent.items() if file.suffix in {".html", ".css", ".js", ".woff2"})
    vitals = look.vitals(visit.page)
    moved = vitals.pop("moved")
    record_property("measured", {"page": source, "mode": mode, "budgeted": budgeted, "all": sum(sent.values()), **vitals})
    kind = "maths" if visit.page.query_selector(".katex") else "text"
    assert budgeted <= LARGEST_TRANSFER[kind], sorted(((n, file.name) for file, n in sent.items()), reverse=True)
    assert vitals["cls"] <= MOST_MOVED, moved


@on_every_page(NOT_FOUND)
@in_mode()
def test_axe_has_nothing_to_say(visit):
    look.opened(visit.page)  # the last test of a visit: it changes the page
    assert not look.axe(visit.page)


# Every page once


@on_every_page()
def test_copy_buttons_copy_the_code_and_nothing_else(browser, served, source):
    context = new_context(browser, permissions=["clipboard-read", "clipboard-write"])
    page = look.Visit(context, address(served, source), served.url).page
    look.opened(page)
    copied = [text.strip("\n") for text in look.copied(page)]
    assert copied == [fence.code.strip("\n") for fence in load(SOURCES[source]).fences]
    context.close()


@on_every_page()
@in_mode("light-1280", "dark-360")
def test_reads_without_javascript(browser, served, source, mode):
    context = new_context(browser, mode, java_script_enabled=False)
    visit = look.Visit(context, address(served, source), served.url)
    look.opened(visit.page)
    visit.scroll_through()
    fences = load(SOURCES[source]).fences
    assert not look.readable(visit.page, len(fences), sum(len(fence.outputs) for fence in fences))
    context.close()


# From page to page


@pytest.mark.parametrize("place", ["server", "folder"])
def test_the_next_page_opens(browser, served, place):
    """On a server in place, without loading the frame again; and from a folder, without a server."""
    site = served.url if place == "server" else f"{served.folder.as_uri()}/"
    context = new_context(browser)
    visit = look.Visit(context, f"{site}index.html", site)
    link = visit.page.locator(".md-footer__link--next")
    url = link.evaluate("link => link.href")
    link.click()
    visit.page.wait_for_url(url, wait_until="commit")
    heading = checks.by_file(served.folder)[served.folder / url.removeprefix(site)].soup.h1.get_text().strip()
    visit.page.get_by_role("heading", name=heading, level=1).wait_for()
    visit.scroll_through()
    assert not look.quiet(visit)
    assert not look.figures(visit.page, "light")
    context.close()


# The keyboard


@pytest.mark.parametrize("source", [FIRST, LONGEST, NOT_FOUND])
@in_mode("light-1280", "dark-360")
def test_tab_reaches_everything_and_shows_where_it_is(context, served, source, mode):
    page = look.Visit(context, address(served, source), served.url).page
    stops = look.tab_stops(page)
    assert not look.walk(stops)
    assert any(SEARCH.search(stop["name"]) for stop in stops), "Tab does not reach search"
    menu = [stop["html"] for stop in stops if stop["menu"]]
    assert bool(menu) == look.on_screen(page, ".md-sidebar--primary"), "the menu takes the focus if it is on screen"


@in_mode("light-1280", "light-360")
def test_the_first_stop_skips_to_the_content(context, served):
    page = look.Visit(context, address(served, LONGEST), served.url).page
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_url("**#*", wait_until="commit")
    page.wait_for_timeout(100)  # until the place to go on from has moved as well
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('article') !== null")


@in_mode("light-360", "dark-360")
def test_the_menu_opens_with_the_keyboard_on_a_phone(context, served):
    page = look.Visit(context, address(served, FIRST), served.url).page
    button = next((stop for stop in look.tab_stops(page) if MENU.search(stop["name"])), None)
    assert button, "Tab does not reach a button for the menu"
    look.focus(page, button)
    page.keyboard.press("Enter")
    page.wait_for_timeout(400)  # it slides in
    assert not look.axe(page)
    stops = look.tab_stops(page, from_here=True)
    assert not look.walk(stops)
    assert {stop["name"] for stop in stops if stop["menu"] and stop["href"]}, "no link of the menu takes the focus"
    page.keyboard.press("Escape")
    page.wait_for_timeout(400)
    assert not [stop for stop in look.tab_stops(page) if stop["menu"]], "Escape does not close the menu"


def words_of_its_own(served) -> dict[str, str]:
    """For each page a word that stands on no other: {word: location}."""
    index = json.loads((served.folder / "search" / "search_index.json").read_text(encoding="utf-8"))
    pages: dict[str, set[str]] = {}
    for entry in index["docs"]:
        text = BeautifulSoup(entry["title"] + " " + entry["text"], "html.parser").get_text(" ")
        pages.setdefault(entry["location"].split("#")[0], set()).update(re.findall(r"\b[a-z]{6,}\b", text.lower()))
    found = {}
    for location, words in pages.items():
        own = words.difference(*(other for at, other in pages.items() if at != location))
        if own:
            found[max(sorted(own), key=len)] = location
    return found


@in_mode("light-1280", "dark-360")
def test_search_finds_every_page_by_a_word_of_its_own(context, served):
    page = look.Visit(context, address(served, FIRST), served.url).page
    words = words_of_its_own(served)
    assert len(words) >= len(SOURCES) - 1
    missed = []
    page.keyboard.press("/")
    for word, location in words.items():
        page.keyboard.press("ControlOrMeta+a")
        page.keyboard.type(word)
        if not look.finds(page, served.url + location):
            missed.append(f"{word!r} does not find {location!r}")
    assert not missed
    assert not look.axe(page)
    assert not look.overflow(page)
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.closest('.md-search-result a')?.href").startswith(served.url + location)
    page.keyboard.press("Enter")
    page.wait_for_url(f"{served.url}{location}**", wait_until="commit")
    page.wait_for_load_state("networkidle")


# The checks themselves: each notices the fault that is planted for it


@pytest.fixture
def planted(browser, small_site):
    """Opens a small page with some HTML in it, and returns the visit."""
    with ExitStack() as stack:

        def open_page(html: str, **options) -> look.Visit:
            folder = small_site("basics/index.html", "<p>", f"<main>{html}</main><p>")
            site = stack.enter_context(serve(folder))
            context = stack.enter_context(new_context(browser, **options))
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
    assert look.vitals(page)["cls"] > MOST_MOVED


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
