"""The site in a browser on a phone: every page in both schemes, the keyboard, and the menu."""

from tests.website import browser as look
from tests.website.every_page import FIRST, MENU, EveryPage, Keyboard, WithoutJavaScript, in_mode


@in_mode("light-360", "dark-360")
class TestEveryPage(EveryPage):
    pass


@in_mode("dark-360")
class TestWithoutJavaScript(WithoutJavaScript):
    pass


@in_mode("dark-360")
class TestKeyboard(Keyboard):
    pass


@in_mode("light-360", "dark-360")
def test_the_menu_opens_with_the_keyboard_on_a_phone(context, served):
    page = look.Visit(context, look.address(served, FIRST), served.url).page
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
