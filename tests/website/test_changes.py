"""The page of changes and its feed: every page is announced, and the feed is one (RFC 4287)."""

import re
from datetime import datetime
from urllib.parse import urldefrag, urljoin
from xml.etree import ElementTree

import pytest
from bs4 import BeautifulSoup

from tests.website import checks
from website import changes

ATOM = "{http://www.w3.org/2005/Atom}"
ADDRESS = "https://example.org/docs/changes.html"
LATER = """<h2 id="b">2026-02-03: Layers &amp; losses<a class="headerlink" href="#b" title="Permanent link"> </a></h2>
<p>See <a href="models/layers.html#norms">layers</a>, <a href="#a">below</a>,
<a href="https://pytorch.org/?a=1&amp;b=2">elsewhere</a>.</p>
"""
EARLIER = '<h2 id="a">2026-01-31: Tensors</h2>\n<p><a href="basics/tensors.html">Tensors</a>, <a href="models/layers.html">layers</a></p>\n'
PAGE = f"<h1>What changed</h1>\n<p>New pages.</p>\n{LATER}{EARLIER}"


def test_entries():
    later, earlier = changes.entries(PAGE)
    assert (later.id, later.day, later.title) == ("b", "2026-02-03", "Layers &amp; losses")
    assert later.html.startswith("<p>See")
    assert later.html.endswith("elsewhere</a>.</p>")
    assert (earlier.id, earlier.day, earlier.title) == ("a", "2026-01-31", "Tensors")
    assert "tensors.html" not in later.html


@pytest.mark.parametrize(
    ("html", "message"),
    [
        (PAGE.replace("2026-02-03: ", ""), "a heading here is"),
        (PAGE.replace("2026-02-03", "2026-02-30"), "a heading here is"),
        (PAGE.replace("2026-02-03", "3 February 2026"), "a heading here is"),
        (PAGE.replace(": Tensors", ":"), "a heading here is"),
        (LATER + '<h2 id="c">2026-02-01: Nothing</h2>\n' + EARLIER, '"2026-02-01: Nothing": nothing stands below it'),
        (EARLIER + LATER, "2026-02-03 stands below 2026-01-31"),
        ("<h1>What changed</h1>", "no entry"),
    ],
)
def test_entries_refuses(html, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        changes.entries(html)


def test_a_page_has_the_day_of_the_last_change_that_names_it():
    days = changes.days(changes.entries(PAGE), "changes.html")
    assert days["models/layers.html"] == "2026-02-03"
    assert days["basics/tensors.html"] == "2026-01-31"
    assert days["changes.html"] == "2026-02-03"
    below = changes.days(changes.entries(PAGE.replace('href="', 'href="../')), "reference/changes.html")
    assert below["models/layers.html"] == "2026-02-03"


def problems_of_feed(text: str) -> list[str]:
    """What RFC 4287 asks for and this feed lacks; links that depend on where it is read."""
    root = ElementTree.fromstring(text)
    entries, problems = root.findall(f"{ATOM}entry"), []
    if root.tag != f"{ATOM}feed":
        problems.append(f"the root is {root.tag}")
    for part in [root, *entries]:
        for name in ("id", "title", "updated"):
            if len(part.findall(f"{ATOM}{name}")) != 1 or not part.findtext(f"{ATOM}{name}").strip():
                problems.append(f"{part.tag}: not one {name}")
        updated = part.findtext(f"{ATOM}updated", "")
        if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", updated) or not datetime.fromisoformat(updated):
            problems.append(f"updated {updated!r}")
        links = {link.get("rel"): link.get("href") for link in part.findall(f"{ATOM}link")}
        problems += [f"link {url!r} is not absolute" for url in links.values() if not url.startswith("https://")]
        if "alternate" not in links or (part is root and "self" not in links):
            problems.append(f"{part.tag}: links {sorted(links)}")
    if not root.findtext(f"{ATOM}author/{ATOM}name"):
        problems.append("no author")
    ids = [root.findtext(f"{ATOM}id"), *(entry.findtext(f"{ATOM}id") for entry in entries)]
    if len(set(ids)) != len(ids) or not all(str(name).startswith("https://") for name in ids):
        problems.append(f"ids {ids}")
    updates = [entry.findtext(f"{ATOM}updated") for entry in entries]
    if updates != sorted(updates, reverse=True) or updates[:1] != [root.findtext(f"{ATOM}updated")]:
        problems.append(f"updates {updates}")
    for entry in entries:
        content = entry.find(f"{ATOM}content")
        if content is None or content.get("type") != "html":
            problems.append("content is not HTML")
            continue
        for link in BeautifulSoup(content.text, "html.parser").find_all("a"):
            if not link["href"].startswith("https://"):
                problems.append(f"link {link['href']!r} is not absolute")
    return problems


def test_feed():
    text = changes.feed(changes.entries(PAGE), ADDRESS, "https://example.org/docs/", "A & B")
    assert not problems_of_feed(text)
    root = ElementTree.fromstring(text)
    assert root.findtext(f"{ATOM}title") == "A & B: what changed"
    assert root.findtext(f"{ATOM}updated") == "2026-02-03T00:00:00Z"
    entry = root.find(f"{ATOM}entry")
    assert entry.findtext(f"{ATOM}id") == f"{ADDRESS}#b"
    assert entry.findtext(f"{ATOM}title") == "Layers &amp; losses"  # of the type HTML
    links = [a["href"] for a in BeautifulSoup(entry.findtext(f"{ATOM}content"), "html.parser").find_all("a")]
    assert links == ["https://example.org/docs/models/layers.html#norms", f"{ADDRESS}#a", "https://pytorch.org/?a=1&b=2"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<id>https://example.org/docs/changes.html#a</id>", "", "not one id"),
        ("changes.html#a</id>", "changes.html#b</id>", "ids"),
        ('<title type="html">Tensors</title>', "", "not one title"),
        ("<updated>2026-01-31T00:00:00Z</updated>", "<updated>2026-01-31</updated>", "updated '2026-01-31'"),
        ("2026-01-31T00", "2026-03-31T00", "updates"),
        ("<author><name>A</name></author>", "", "no author"),
        ('rel="self"', 'rel="other"', "links ['alternate', 'other']"),
        ("http://www.w3.org/2005/Atom", "http://www.w3.org/2005/Atom/", "the root is"),
        ('href="https://example.org/docs/changes.html"', 'href="changes.html"', "link 'changes.html' is not absolute"),
        ("https://example.org/docs/basics", "basics", "link 'basics/tensors.html' is not absolute"),
        ('<content type="html">', "<content>", "content is not HTML"),
    ],
)
def test_notices(old, new, message):
    text = changes.feed(changes.entries(PAGE), ADDRESS, "https://example.org/docs/", "A")
    assert old in text
    found = problems_of_feed(text.replace(old, new))
    assert any(message in problem for problem in found), found


# The built site


def test_the_feed_of_the_site_leads_to_its_entries_and_pages(site):
    text = (site / changes.FEED).read_text(encoding="utf-8")
    assert not problems_of_feed(text)
    page = checks.page_named("changes", site)
    entries = ElementTree.fromstring(text).findall(f"{ATOM}entry")
    assert len(entries) == len(page.soup.find_all("h2"))
    urls = [entry.findtext(f"{ATOM}id") for entry in entries]
    for entry in entries:
        urls += [a["href"] for a in BeautifulSoup(entry.findtext(f"{ATOM}content"), "html.parser").find_all("a")]
    for url in urls:
        if url.startswith(checks.home(site)):
            file = checks.locate(site, urldefrag(url).url)
            assert file, f"{url} leads nowhere"
            assert not urldefrag(url).fragment or urldefrag(url).fragment in checks.by_file(site)[file].ids, url
    assert page.soup.select_one(f"a[href='{changes.FEED}']")


def not_announced(site) -> list[str]:
    """The pages of the menu that the list of changes does not name."""
    page = checks.page_named("changes", site)
    menu, listed = (
        {checks.locate(site, urldefrag(checks.resolve(page, a["href"])).url) for a in page.soup.select(f"{part} a[href]")}
        for part in (".md-nav--primary", "article")
    )
    assert site / "index.html" in menu
    return sorted(str(file) for file in menu - listed)


def test_every_page_was_announced(site):
    """A new page goes into docs/changes.md, or nobody hears of it."""
    assert not_announced(site) == []


def test_notices_a_page_that_was_not_announced(small_site):
    site = small_site()
    (site / "changes").mkdir()
    menu = '<nav class="md-nav--primary"><a href="../">Home</a> <a href="./">Changes</a> <a href="../basics/">Tensors</a></nav>'
    text = f'{menu}<article><a href="../">Home</a> <a href="./">Changes</a> <a href="../basics/#tensors">Tensors</a></article>'
    (site / "changes" / "index.html").write_text(text)
    assert not_announced(site) == []
    (site / "changes" / "index.html").write_text(text.replace("basics/#", "basic/#"))
    checks.htmls.cache_clear()
    checks.by_file.cache_clear()
    assert not_announced(site) == [str(site / "basics" / "index.html")]


def test_the_sitemap_has_the_days_of_the_changes(site):
    page = checks.page_named("changes", site)
    days: dict[str, str] = {}
    for heading in page.soup.find_all("h2"):
        below = []
        for element in heading.find_next_siblings():
            if element.name == "h2":
                break
            below += element.find_all("a")
        for link in below:
            url, _ = urldefrag(urljoin(checks.home(site) + page.name, link["href"]))
            days.setdefault(re.sub("index.html$", "", url), heading.get_text()[:10])
    space = {"": "http://www.sitemaps.org/schemas/sitemap/0.9"}
    urls = ElementTree.parse(site / "sitemap.xml").findall("url", space)
    found = {url.findtext("loc", namespaces=space): url.findtext("lastmod", namespaces=space) for url in urls}
    newest = {f"{checks.home(site)}{page.name}": page.soup.h2.get_text()[:10]}
    days.update(newest)
    assert found == {url: days.get(url) for url in found}
