"""The site in a browser on a desktop: every page in both schemes, the keyboard, and from page to page."""

import pytest

from tests.website import browser as look
from tests.website import checks
from tests.website.every_page import SOURCES, EveryPage, Keyboard, WithoutJavaScript, in_mode, on_every_page
from website.pages import load


@in_mode("light-1280", "dark-1280")
class TestEveryPage(EveryPage):
    pass


@on_every_page()
@in_mode("light-1280")
def test_copy_buttons_copy_the_code_and_nothing_else(visit, source):
    look.opened(visit.page)
    copied = [text.strip("\n") for text in look.copied(visit.page)]
    assert copied == [fence.code.strip("\n") for fence in load(SOURCES[source]).fences]


@in_mode("light-1280")
class TestWithoutJavaScript(WithoutJavaScript):
    pass


@in_mode("light-1280")
class TestKeyboard(Keyboard):
    pass


@pytest.mark.parametrize("place", ["server", "folder"])
def test_the_next_page_opens(browser, served, place):
    """On a server, and from a folder without one, where everything works but search."""
    site = served.url if place == "server" else f"{served.folder.as_uri()}/"
    context = look.new_context(browser)
    visit = look.Visit(context, f"{site}index.html", site)
    link = visit.page.locator(".md-footer__link--next")
    url = link.evaluate("link => link.href")
    visit.page.wait_for_load_state("networkidle")  # a request that leaving the page cuts off has failed
    link.click()
    visit.page.wait_for_url(url, wait_until="commit")
    heading = checks.by_file(served.folder)[served.folder / url.removeprefix(site)].soup.h1.get_text().strip()
    visit.page.get_by_role("heading", name=heading, level=1).wait_for()
    visit.scroll_through()
    assert not [problem for problem in look.quiet(visit) if place == "server" or "search_index.js" not in problem]
    assert visit.page.locator("article .md-clipboard, article .md-code__button").count() > 0, "no buttons to copy code"
    assert not look.figures(visit.page, "light")
    context.close()
