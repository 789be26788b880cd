"""What holds of every page in a browser, on a desktop and on a phone: test_desktop.py and test_phone.py run it."""

import json
import re

import pytest
from bs4 import BeautifulSoup

from tests.website import browser as look
from tests.website.browser import NOT_FOUND
from tests.website.server import body, file_for
from website.pages import ROOT, all_pages, load

SOURCES = {path.relative_to(ROOT / "docs").as_posix(): path for path in all_pages()}
LARGEST_TRANSFER = {"text": 150_000, "maths": 200_000}  # bytes as sent: HTML, CSS, JavaScript and fonts
# Cumulative layout shift, from the first paint to having scrolled through the page; 0.1 counts as good. On a busy machine
# fonts of formulas come after the first paint, and so does the footer where it is on screen from the start: 0.04.
MOST_MOVED = {"text": 0.02, "maths": 0.05, "shorter than the window": 0.05}
FIRST = "index.md"
LONGEST = max(SOURCES, key=lambda source: (source.endswith(".md"), SOURCES[source].stat().st_size), default=FIRST)
MENU, SEARCH = re.compile("menu|navigation", re.IGNORECASE), re.compile("search", re.IGNORECASE)


def in_mode(*modes):
    return pytest.mark.parametrize("mode", modes, scope="module")


def on_every_page(*more):
    return pytest.mark.parametrize("source", [*SOURCES, *more], scope="module")


@on_every_page(NOT_FOUND)
class EveryPage:
    def test_nothing_fails_and_no_request_leaves(self, visit, source):
        assert not look.quiet(visit, 404 if source == NOT_FOUND else 200)

    def test_shows_the_scheme_that_the_reader_prefers(self, visit, mode):
        assert (look.background(visit.page) > 128) == mode.startswith("light")
        assert not look.figures(visit.page, look.MODES[mode][0])

    def test_does_not_scroll_sideways(self, visit):
        assert not look.overflow(visit.page)

    def test_does_not_move_and_is_small(self, visit, source, mode, served, record_property):
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
        assert vitals["cls"] <= MOST_MOVED["shorter than the window" if source == NOT_FOUND else kind], moved

    def test_axe_has_nothing_to_say(self, visit):
        look.opened(visit.page)  # from here on the page is changed
        assert not look.axe(visit.page)


@on_every_page()
class WithoutJavaScript:
    def test_reads_without_javascript(self, browser, served, source, mode):
        context = look.new_context(browser, mode, java_script_enabled=False)
        visit = look.Visit(context, look.address(served, source), served.url)
        look.opened(visit.page)
        visit.scroll_through()
        fences = load(SOURCES[source]).fences
        assert not look.readable(visit.page, len(fences), sum(len(fence.outputs) for fence in fences))
        context.close()


class Keyboard:
    @pytest.mark.parametrize("source", [FIRST, LONGEST, NOT_FOUND])
    def test_tab_reaches_everything_and_shows_where_it_is(self, context, served, source, mode):
        page = look.Visit(context, look.address(served, source), served.url).page
        stops = look.tab_stops(page)
        assert not look.walk(stops)
        assert any(SEARCH.search(stop["name"]) for stop in stops), "Tab does not reach search"
        menu = [stop["html"] for stop in stops if stop["menu"]]
        assert bool(menu) == look.on_screen(page, ".md-sidebar--primary"), "the menu takes the focus if it is on screen"

    def test_the_first_stop_skips_to_the_content(self, context, served):
        page = look.Visit(context, look.address(served, LONGEST), served.url).page
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.wait_for_selector(":target", state="attached")
        page.wait_for_timeout(100)  # until the place to go on from has moved as well
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.closest('article') !== null")

    def test_search_finds_every_page_by_a_word_of_its_own(self, context, served):
        page = look.Visit(context, look.address(served, FIRST), served.url).page
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


def words_of_its_own(served) -> dict[str, str]:
    """For each page a word that stands on no other, not even within a word: {word: location}."""
    index = json.loads((served.folder / "search" / "search_index.json").read_text(encoding="utf-8"))
    pages: dict[str, str] = {}
    for entry in index["docs"]:
        text = BeautifulSoup(entry["title"] + " " + entry["text"], "html.parser").get_text(" ")
        location = entry["location"].split("#")[0]
        pages[location] = f"{pages.get(location, '')} {text}"
    found = {}
    for location, text in pages.items():
        others = "".join(other.lower() for at, other in pages.items() if at != location)
        own = [word for word in sorted(set(re.findall(r"\b[a-z]{6,}\b", text))) if word not in others]
        if own:
            found[max(own, key=len)] = location
    return found
