"""What pages say of themselves in their heads, with an address of the site and without one."""

import re
import struct
from types import SimpleNamespace
from urllib.parse import urljoin
from xml.etree import ElementTree

import pytest
from bs4 import BeautifulSoup

from tests.website import browser as look
from tests.website import checks
from tests.website.conftest import build
from website import heads
from website.pages import ROOT, all_pages

LARGEST_PICTURE = 100_000  # bytes


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<h1>T</h1><p class='facts'>2 examples</p><p>One. Two!</p><p>Three.</p>", "One. Two!"),
        ("<p>A <a href='x'>link</a>,\n<code>a &lt; b</code> &amp; <em>more</em>.</p>", "A link, a < b & more."),
        ("<p>In torch 2.14 or nn.Module? Yes.</p>", "In torch 2.14 or nn.Module? Yes."),
        (f"<p>{'a' * 120}. {'b' * 77}. C.</p>", f"{'a' * 120}. {'b' * 77}."),
        (f"<p>{'a' * 120}. {'b' * 78}. C.</p>", f"{'a' * 120}."),
        (f"<p>{'a' * 300}. B.</p>", f"{'a' * 300}."),
        ('<p>Plain. Then <var class="arithmatex" data-search-exclude>x</var>. More.</p>', "Plain."),
        ("<h1>T</h1>", ""),
    ],
)
def test_description(html, text):
    assert heads.description(html) == text


def test_description_refuses_a_formula_in_its_first_sentence():
    with pytest.raises(ValueError, match="no formula there"):
        heads.description('<p>Then <var class="arithmatex">x</var>. More.</p>')


def page(title="A &amp; <code>b</code>", description="Say &quot;it&quot;.", home=False):
    meta = {"description": description} if description else {}
    return SimpleNamespace(title=title, meta=meta, is_homepage=home, canonical_url="https://example.org/a.html")


def tags(page, site_url="https://example.org/"):
    config = SimpleNamespace(site_name="Site", site_url=site_url, site_description="Of the site.")
    soup = BeautifulSoup(heads.tags(page, config, "feed.xml"), "html.parser")
    return {tag.get("property") or tag.get("name"): tag["content"] for tag in soup.find_all("meta")}, soup.find("link")


def test_tags():
    metas, link = tags(page())
    assert metas["og:title"] == "A & b"
    assert metas["og:description"] == 'Say "it".'
    assert metas["og:url"] == "https://example.org/a.html"
    assert metas["og:image"] == "https://example.org/assets/social.png"
    assert metas["og:type"] == "article"
    assert metas["twitter:card"] == "summary_large_image"
    assert link["href"] == "https://example.org/feed.xml"
    home, _ = tags(page(home=True, description=""))
    assert (home["og:title"], home["og:type"], home["og:description"]) == ("Site", "website", "Of the site.")


def test_tags_without_an_address_name_none():
    metas, link = tags(page(), site_url=None)
    assert sorted(metas) == ["og:description", "og:site_name", "og:title", "og:type", "twitter:card"]
    assert metas["twitter:card"] == "summary"  # which needs no picture
    assert link is None


# The built site


def problems(site, written) -> list[str]:
    """Where a page's head says something wrong, or what another page says of itself.

    Pages that are written, not made by the build, are described by their first paragraph.
    """
    found, described = [], {}
    for html in checks.htmls(site):
        if html.name == "404.html":
            continue
        metas = {}
        for tag in html.soup.select("meta[property], meta[name]"):
            name = tag.get("property") or tag["name"]
            if name in metas:
                found.append(f"{html.name}: two {name}")
            metas[name] = tag["content"]
        said = metas.get("description", "")
        if said in described:
            found.append(f"{html.name}: described as {described[said]}")
        described[said] = html.name
        if not said.strip():
            found.append(f"{html.name}: not described")
        paragraphs = [" ".join(p.get_text().split()) for p in html.soup.select("article p") if not p.get("class")]
        if html.name in written and not (paragraphs[0].startswith(said) and said.endswith((".", "!", "?"))):
            found.append(f"{html.name}: {said!r} is not the first sentences of {paragraphs[0]!r}")
        canonical = html.soup.select_one("link[rel=canonical]")
        expected = {
            "og:url": checks.home(site) + html.url.removeprefix(checks.base(site)),
            "og:description": said,
            "og:image": checks.home(site) + heads.PICTURE,
            "og:type": "website" if html.name == "index.html" else "article",
            "twitter:card": "summary_large_image",
            "canonical": metas.get("og:url"),
        }
        given = {**metas, "canonical": canonical and canonical["href"]}
        found += [f"{html.name}: {k} is {given.get(k)!r}, not {v!r}" for k, v in expected.items() if given.get(k) != v]
        if not metas.get("og:title"):
            found.append(f"{html.name}: no og:title")
        feed = html.soup.find("link", type="application/atom+xml")
        if not feed or not checks.locate(site, urljoin(checks.home(site), feed["href"])):
            found.append(f"{html.name}: its feed leads nowhere")
    return found


def test_heads_of_the_site(site):
    written = {checks.page_named(path.relative_to(ROOT / "docs").with_suffix("").as_posix(), site).name for path in all_pages()}
    found = problems(site, written)
    assert not found, "\n".join(found)


HEAD = """<!doctype html><html><head><meta name="description" content="{said}">
<link rel="canonical" href="https://example.org/{url}">
<link rel="alternate " type="application/atom+xml" href="https://example.org/changes.xml">
<meta property="og:title" content="{title}"><meta property="og:description" content="{said}">
<meta property="og:type" content="{kind}"><meta property="og:url" content="https://example.org/{url}">
<meta property="og:image" content="https://example.org/assets/social.png">
<meta name="twitter:card" content="summary_large_image"></head>
<body><article><h1>{title}</h1><p class="facts">1 example</p><p>{said} More.</p></article></body></html>"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("", "", None),
        ('description" content="Two."', 'description" content="Tw"', "'Tw' is not the first sentences"),
        ('<meta name="description" content="Two.">', "", "not described"),
        ("<p>Two.", "<p>Too.", "'Two.' is not the first sentences"),
        ("Two", "One", "described as a.html"),
        ('property="og:title" content="B"', 'property="og:title" content=""', "no og:title"),
        ('content="https://example.org/b.html"', 'content="https://example.org/a.html"', "og:url is"),
        ('href="https://example.org/b.html"', 'href="https://example.org/a.html"', "canonical is"),
        ('og:description" content="Two."', 'og:description" content="One."', "og:description is"),
        ("assets/social.png", "assets/other.png", "og:image is"),
        ("article\"", "website\"", "og:type is"),
        ("summary_large_image", "summary", "twitter:card is"),
        ("changes.xml", "feed.xml", "its feed leads nowhere"),
        ('<meta property="og:type"', '<meta property="og:title" content="C"><meta property="og:type"', "two og:title"),
    ],
)
def test_notices(old, new, message, tmp_path):
    home = HEAD.format(said="Zero.", url="", title="Home", kind="website")
    (tmp_path / "index.html").write_text(home)
    (tmp_path / "a.html").write_text(HEAD.format(said="One.", url="a.html", title="A", kind="article"))
    text = HEAD.format(said="Two.", url="b.html", title="B", kind="article")
    assert old in text
    (tmp_path / "b.html").write_text(text.replace(old, new))
    (tmp_path / "changes.xml").write_text("")
    found = problems(tmp_path, {"a.html", "b.html"})
    assert any(message in problem for problem in found) if message else not found, found


def test_the_picture_is_small_and_of_the_size_that_is_named(site):
    data = (site / heads.PICTURE).read_bytes()
    assert data.startswith(b"\x89PNG")
    assert struct.unpack(">II", data[16:24]) == heads.SIZE
    assert len(data) <= LARGEST_PICTURE


def test_the_program_on_the_picture_prints_what_the_picture_says(capsys):
    import torch

    root = ElementTree.parse(ROOT / ".github" / "social.svg").getroot()
    texts = ["".join(text.itertext()) for text in root.iter("{http://www.w3.org/2000/svg}text")]
    *code, output = texts[2:]
    exec("\n".join(code), {"torch": torch})
    assert capsys.readouterr().out == f"{output}\n"


def test_the_feed_is_no_translation(browser, served):
    """Material asks for the sitemap of whatever `link[rel=alternate]` finds."""
    context = look.new_context(browser)
    visit = look.Visit(context, look.address(served, "changes.md"), served.url)
    visit.page.wait_for_load_state("networkidle")
    assert not look.quiet(visit)
    assert not [url for url in visit.requests if "sitemap" in url]
    assert visit.page.evaluate("document.querySelector('link[type=\"application/atom+xml\"]').relList.contains('alternate')")
    context.close()


# A copy of one's own, without addresses


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A small site, built as this one is, that names neither its own address nor a repository."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("bare") / "site"
    for path in ROOT.iterdir():
        if path.name not in {"docs", "mkdocs.yml", ".git"}:
            (source / path.name).symlink_to(path)
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    nav = "nav: [Home: index.md, What changed: changes.md]\n\n"
    text = text.replace("omitted_files: warn", "omitted_files: info")  # of pages that the build makes
    text = re.sub(r"^nav:\n(?: .*\n)+\n", nav, text, flags=re.MULTILINE)
    (source / "mkdocs.yml").write_text(text, encoding="utf-8")
    (source / "docs").mkdir()
    (source / "docs" / "index.md").write_text("# Home\n\nA line.\n", encoding="utf-8")
    changes = "# What changed\n\nNews.\n\n<!-- feed -->\n\n## 2026-01-31: Home\n\nThe [first page](index.md).\n"
    (source / "docs" / "changes.md").write_text(changes, encoding="utf-8")
    result = build(folder, source, SITE_URL="", REPO_URL="")
    assert result.returncode == 0, result.stderr
    return folder


@pytest.mark.parametrize("name", ["index.html", "changes.html"])
def test_without_addresses_nothing_wrong_is_named(bare, name):
    soup = BeautifulSoup((bare / name).read_text(encoding="utf-8"), "html.parser")
    properties = sorted(tag["property"] for tag in soup.select("meta[property]"))
    assert properties == ["og:description", "og:site_name", "og:title", "og:type"]
    assert not soup.select("link[rel=canonical], link[type='application/atom+xml'], .report, a[href*='/issues/']")
    assert not (bare / "changes.xml").exists()
    assert "changes.xml" not in soup.get_text() + str(soup.find_all("a"))
