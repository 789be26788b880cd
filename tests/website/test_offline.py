"""The archive to read without a server: the same bits from the same site, and everything works, search included."""

import os
import shutil
import subprocess
import sys
from zipfile import ZipFile

import pytest

from tests.website import browser as look
from tests.website.every_page import in_mode
from website import offline
from website.pages import ROOT

BUNDLE = '<script src="{}assets/javascripts/bundle.0123.min.js"></script>'
SMALL = {
    "index.html": f"<p>Home</p>\n      {BUNDLE.format('')}",
    "a/b/c.html": f"<p>Ä</p>\n      {BUNDLE.format('../../')}",
    "404.html": "<p>Not found</p>",
    "sitemap.xml": "",
    "sitemap.xml.gz": "",
    "changes.xml": "",
    "search/search_index.json": '{"docs": []}',
    "a/picture.svg": "<svg/>",
}


@pytest.fixture
def small(tmp_path):
    for name, text in SMALL.items():
        (tmp_path / "site" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "site" / name).write_text(text, encoding="utf-8")
    return tmp_path / "site"


def test_files(small):
    held = offline.files(small)
    assert sorted(held) == ["a/b/c.html", "a/picture.svg", "index.html", "search/offline.js", "search/search_index.js"]
    assert held["search/search_index.js"] == b'var __index = {"docs": []}'
    assert held["a/picture.svg"] == b"<svg/>"
    worker = '<script src="../../search/offline.js"></script>'
    assert held["a/b/c.html"].decode() == f"<p>Ä</p>\n      {worker}\n      {BUNDLE.format('../../')}"
    assert b'"search/offline.js"' in held["index.html"]


def test_the_same_site_gives_the_same_bits(small, tmp_path):
    first, second = tmp_path / "1" / "copy.zip", tmp_path / "2" / "copy.zip"
    for archive in (first, second):
        archive.parent.mkdir()
        offline.write(small, archive)
        for file in small.rglob("*"):
            os.utime(file, (2e9, 2e9))
            file.chmod(0o700)
        late = small / "a" / "picture.svg"  # now the last of its folder
        late.rename(small / "x")
        (small / "x").rename(late)
    assert first.read_bytes() == second.read_bytes()
    with ZipFile(first) as zipped:
        assert zipped.testzip() is None
        assert zipped.namelist() == sorted(zipped.namelist())
        assert {name.partition("/")[0] for name in zipped.namelist()} == {"copy"}
        assert {entry.external_attr >> 16 for entry in zipped.infolist()} == {0o644}


def test_refuses_what_is_no_site(tmp_path):
    with pytest.raises(FileNotFoundError, match="no built site"):
        offline.files(tmp_path)


@pytest.mark.parametrize("text", ["<p>No script</p>", 2 * SMALL["index.html"]])
def test_refuses_a_page_whose_script_it_does_not_find(small, text):
    (small / "index.html").write_text(text)
    with pytest.raises(ValueError, match=r"index\.html: loads the script of the theme . times, not once"):
        offline.files(small)


def test_main_says_where_to_begin(small, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    offline.main("site", "copy.zip")
    assert capsys.readouterr().out == "copy.zip (0.0 MB): unpack it and open copy/index.html\n"
    assert (tmp_path / "copy.zip").is_file()


# In a browser

RESULT = ".md-search-result a"
PATIENCE = 60_000  # ms until the index is made, on a busy machine


@pytest.fixture(scope="module")
def unpacked(site, tmp_path_factory):
    """The archive of the built site, unpacked in a folder with a name that addresses have to escape."""
    folder = tmp_path_factory.mktemp("offline") / "Für später, 100% #1?"
    offline.write(site, folder.parent / "copy.zip")
    shutil.unpack_archive(folder.parent / "copy.zip", folder)
    return folder / "copy"


@in_mode("light-1280", "dark-360")
def test_search_works_from_a_folder(context, unpacked):
    home = f"{unpacked.as_uri()}/"
    visit = look.Visit(context, f"{home}index.html", home)
    page = visit.page
    page.keyboard.press("/")
    page.keyboard.type("broadcasting")
    page.locator(RESULT).first.wait_for(timeout=PATIENCE)
    assert look.finds(page, f"{home}basics/tensors.html")
    assert page.locator(".md-search-result__meta").is_visible()
    result = page.locator(f"{RESULT}[href*='tensors.html'][href*='#']").first
    url = result.evaluate("link => link.href")
    result.click()
    page.wait_for_url(url, wait_until="commit")
    page.get_by_role("heading", name="Tensors", level=1).wait_for()
    page.locator("article mark", has_text="broadcast").first.wait_for(state="attached", timeout=PATIENCE)
    visit.scroll_through()
    page.keyboard.press("/")  # and from a page in a folder below
    page.keyboard.type("xavier")
    page.locator(RESULT).first.wait_for(timeout=PATIENCE)
    assert look.finds(page, f"{home}initialization/xavier.html")
    assert not look.quiet(visit)
    assert not look.figures(page, "dark" if visit.page.viewport_size["width"] == 360 else "light")


@pytest.mark.parametrize("name", ["index.html", "training/mnist-lab.html", "changes.html"])
@in_mode("light-1280")
def test_pages_read_from_a_folder(context, unpacked, name):
    home = f"{unpacked.as_uri()}/"
    visit = look.Visit(context, home + name, home)
    visit.scroll_through()
    assert not look.quiet(visit)


@pytest.mark.parametrize("missing", ["search/offline.js", "search/search_index.js"])
@in_mode("light-1280")
def test_notices_what_search_lacks(context, unpacked, missing, tmp_path):
    folder = shutil.copytree(unpacked, tmp_path / "copy")
    (folder / missing).unlink()
    home = f"{folder.as_uri()}/"
    visit = look.Visit(context, f"{home}index.html", home)
    assert any(missing in problem for problem in look.quiet(visit))
    visit.page.wait_for_timeout(200)
    assert not visit.page.locator(RESULT).count()


def test_runs_as_a_command(small, tmp_path):
    command = [sys.executable, "-m", "website.offline", str(small), str(tmp_path / "copy.zip")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "open copy/index.html" in done.stdout
