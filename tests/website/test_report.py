"""The link that reports a problem: it names the page, and with scripts the section and what is selected."""

from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.website import browser as look
from tests.website import checks
from tests.website.conftest import REPOSITORY
from tests.website.every_page import in_mode
from website import report
from website.pages import ROOT, all_pages

PAGE = "basics/tensors.md"


def named(url: str) -> tuple[str, str, str]:
    """Where a report goes, its title and its text."""
    asked = parse_qs(urlsplit(url).query, strict_parsing=True)
    assert sorted(asked) == ["body", "title"]
    return url.partition("?")[0], asked["title"][0], asked["body"][0]


def linked(repo_url, canonical_url="https://example.org/a.html", path="/docs/a.md"):
    file = SimpleNamespace(src_uri="a.md", abs_src_path=path)
    page = SimpleNamespace(title="A &amp; <code>B</code>", canonical_url=canonical_url, url="a.html", file=file)
    return report.link(page, SimpleNamespace(repo_url=repo_url))


@pytest.mark.parametrize("repo_url", [None, ""])
def test_a_copy_without_a_repository_has_no_link(repo_url):
    assert linked(repo_url) == ""


@pytest.mark.parametrize("repo_url", ["https://example.org/us/site", "https://example.org/us/site/"])
def test_link(repo_url):
    link = checks.BeautifulSoup(linked(repo_url), "html.parser").a
    body = "Page: https://example.org/a.html (docs/a.md)\n\nWhat is wrong:\n"
    assert named(link["href"]) == ("https://example.org/us/site/issues/new", "A & B", body)
    assert link.get_text() == "Report a problem on this page"


@pytest.mark.parametrize(
    ("canonical_url", "path", "where"),
    [
        (None, "/docs/a.md", "a.html (docs/a.md)"),
        ("https://example.org/a.html", None, "https://example.org/a.html"),
        (None, None, "a.html"),
    ],
)
def test_link_names_what_there_is(canonical_url, path, where):
    """A site without an address; a page that the build makes."""
    link = checks.BeautifulSoup(linked("https://example.org/us/site", canonical_url, path), "html.parser").a
    assert named(link["href"])[2] == f"Page: {where}\n\nWhat is wrong:\n"


@pytest.mark.parametrize("source", all_pages(), ids=lambda path: path.relative_to(ROOT / "docs").as_posix())
def test_every_page_has_a_link_that_names_it(source, site):
    name = source.relative_to(ROOT / "docs")
    page = checks.page_named(name.with_suffix("").as_posix(), site)
    (link,) = page.soup.select("article .report a")
    address, title, body = named(link["href"])
    assert address == f"{REPOSITORY}/issues/new"
    assert page.soup.title.get_text().strip().startswith(title) or name.name == "index.md"
    canonical = page.soup.select_one("[rel=canonical]")["href"]
    assert body == f"Page: {canonical} (docs/{name.as_posix()})\n\nWhat is wrong:\n"


# In a browser


def opened(context, served, fragment=""):
    visit = look.Visit(context, look.address(served, PAGE) + fragment, served.url)
    context.route(f"{REPOSITORY}/**", lambda route: route.fulfill(body="", content_type="text/html"))
    return visit.page


def reported(page, press) -> tuple[str, str, str]:
    """Where the browser is after the press of a link."""
    press()
    page.wait_for_url(lambda url: url.startswith(REPOSITORY), timeout=60_000)
    return named(page.url)


def sections(page) -> list[tuple[str, str]]:
    """The id and the text of each heading below the first."""
    script = "all => all.map(e => [e.id, e.textContent.trim()])"
    return [tuple(pair) for pair in page.eval_on_selector_all("article :is(h2, h3, h4)[id]", script)]


@in_mode("light-1280", "dark-360")
def test_the_link_below_the_page_names_the_page(context, served):
    page = opened(context, served)
    link = page.locator("article .report a")
    link.scroll_into_view_if_needed()
    assert link.bounding_box()["height"] >= 24
    address, title, body = reported(page, link.click)
    assert (address, title) == (f"{REPOSITORY}/issues/new", "Tensors")
    assert "Section:" not in body


@in_mode("light-1280", "dark-360")
def test_the_link_below_the_page_names_the_section_that_was_addressed(context, served):
    page = opened(context, served)
    name, text = sections(page)[2]
    page.goto(f"{page.url}#{name}")
    _, title, body = reported(page, page.locator("article .report a").click)
    assert title == f"Tensors: {text}"
    assert body.split("\n")[1:4] == [f"Section: {text} (#{name})", "", "What is wrong:"]


@in_mode("light-1280", "dark-360")
@pytest.mark.parametrize("press", ["click", "Enter"])
def test_what_is_selected_is_quoted_with_its_section(context, served, press):
    page = opened(context, served)
    name, text = sections(page)[1]
    selected = page.evaluate(
        """name => {
            const prose = document.querySelector(`#${name} ~ p`), code = document.querySelector(`#${name} ~ .highlight pre`);
            getSelection().setBaseAndExtent(prose, 0, code, code.childNodes.length);
            return getSelection().toString().trim();
        }""",
        name,
    )
    link = page.locator("article .report a")
    assert "\n" in selected
    if press == "Enter":
        link.focus()
        address, title, body = reported(page, lambda: page.keyboard.press("Enter"))
    else:
        address, title, body = reported(page, link.click)
    quoted = "\n".join(line.removeprefix("> ") for line in body.split("\n") if line.startswith("> "))
    assert address == f"{REPOSITORY}/issues/new"
    assert title == f"Tensors: {text}"
    assert 0 < len(quoted) <= 500
    assert selected.startswith(quoted)
    assert body.endswith("\n\nWhat is wrong:\n")
    assert body.index("Section: ") < body.index("> ")


@in_mode("light-1280", "dark-360")
def test_what_is_selected_outside_the_text_is_not_quoted(context, served):
    page = opened(context, served)
    page.evaluate("getSelection().selectAllChildren(document.querySelector('.md-footer'))")
    _, title, body = reported(page, page.locator("article .report a").click)
    assert title == "Tensors"
    assert ">" not in body


@in_mode("light-1280")
def test_the_link_beside_the_page_names_the_section_that_is_read(context, served):
    page = opened(context, served)
    link = page.get_by_role("link", name="Report a problem in this section")
    assert reported(page, link.click)[1] == "Tensors"  # above the first section
    page.go_back()
    for name, text in (sections(page)[i] for i in (0, 3)):
        page.evaluate("name => document.getElementById(name).scrollIntoView()", name)
        page.wait_for_selector(f".md-sidebar--secondary .md-nav__link--active[href='#{name}']", timeout=60_000)
        _, title, body = reported(page, link.click)
        assert title == f"Tensors: {text}"
        assert f"Section: {text} (#{name})\n" in body
        page.go_back()


@in_mode("dark-360")
def test_on_a_phone_there_is_one_link(context, served):
    page = opened(context, served)
    assert [link.is_visible() for link in page.locator(".report a").all()].count(True) == 1


def test_without_scripts_the_link_names_the_page(browser, served):
    context = look.new_context(browser, java_script_enabled=False)
    page = opened(context, served, "#exercises")
    assert page.locator(".report a").count() == 1
    assert reported(page, page.locator(".report a").click)[1] == "Tensors"
    context.close()


@in_mode("light-1280")
def test_paper_has_no_link(context, served):
    page = opened(context, served)
    page.emulate_media(media="print")
    assert not any(link.is_visible() for link in page.locator(".report a").all())
