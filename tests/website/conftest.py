"""The built site, once per test run, in a browser of this machine, and a small site to plant faults in.

CHROMIUM names another browser. Where there is none, each test that needs it is reported as not run.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from filelock import FileLock

from tests.website import browser as look
from tests.website.server import serve
from website.pages import ROOT

pytest.register_assert_rewrite("tests.website.every_page")

BUILD = """
import sys

class NoTorch:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "torchvision"}:
            raise ModuleNotFoundError(f"building the site must not need {name}")

sys.meta_path.insert(0, NoTorch)
sys.argv = ["mkdocs", "build", "--strict", "--site-dir", sys.argv[1]]
from mkdocs.__main__ import cli
cli()
"""


REPOSITORY = "https://github.com/owner/project"  # that of the built site, as publish.yml names it


def build(folder: Path, source: Path = ROOT, **variables: str) -> subprocess.CompletedProcess:
    """`mkdocs build --strict` into a folder, on a machine that seems to have no torch."""
    return subprocess.run(
        [sys.executable, "-c", BUILD, str(folder)],
        cwd=source,
        env={**os.environ, "REPO_URL": REPOSITORY, "NO_MKDOCS_2_WARNING": "1", "NO_COLOR": "1", **variables},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="session")
def built(tmp_path_factory, worker_id) -> subprocess.CompletedProcess:
    """The one build of this run, shared by all workers; `site` is where it is."""
    shared = tmp_path_factory.getbasetemp() if worker_id == "master" else tmp_path_factory.getbasetemp().parent
    folder, report = shared / "site", shared / "site.json"
    with FileLock(shared / "site.lock"):
        if not report.exists():
            result = build(folder)
            report.write_text(json.dumps([result.returncode, result.stdout, result.stderr]), encoding="utf-8")
    code, out, err = json.loads(report.read_text(encoding="utf-8"))
    return subprocess.CompletedProcess([str(folder)], code, out, err)


@pytest.fixture(scope="session")
def site(built) -> Path:
    """The folder of the built site."""
    if built.returncode:
        pytest.fail(f"mkdocs build --strict failed:\n{built.stderr}", pytrace=False)
    return Path(built.args[0])


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


@pytest.fixture(autouse=True)
def patience():
    with look.patience():
        yield


@pytest.fixture(scope="module")
def visit(browser, served, mode, source):
    """A page that has been looked at from top to bottom."""
    from playwright.sync_api import Error

    def look_through():
        context = look.new_context(browser, mode, permissions=["clipboard-read", "clipboard-write"])
        with look.patience():
            visit = look.Visit(context, look.address(served, source), served.url)
            visit.scroll_through()
        return context, visit

    try:
        context, visit = look_through()
    except Error as error:
        if "crash" not in str(error).lower():
            raise
        context, visit = look_through()
    yield visit
    context.close()


@pytest.fixture
def context(browser, mode):
    context = look.new_context(browser, mode)
    yield context
    for page in context.pages:  # closing in the middle of a navigation has been seen to wait for ever
        page.goto("about:blank")
    context.close()


NOTEBOOK = nbformat.writes(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x = 1\nprint(x)", id="a")]))
PAGE = """<!doctype html>
<html lang="en">
<head>
<title>Tensors</title>
<meta name="description" content="What a tensor is.">
<link rel="canonical" href="https://example.org/docs/basics/">
<link rel="stylesheet" href="../assets/site.css">
<script src="../assets/site.js"></script>
</head>
<body>
<h1 id="tensors">Tensors</h1>
<p>A <code>tensor</code> of <span class="arithmatex"><span class="katex"><annotation>\\frac{x}</annotation><b class="katex-html">x</b></span></span>:
<a href="#tensors">top</a>, <a href="../#home">home</a>, <a href="https://pytorch.org/">elsewhere</a>.</p>
<div class="language-python highlight"><pre><code>x = 1
print(x)
</code></pre></div>
<div class="language-text highlight"><pre><code>1
</code></pre></div>
<img src="../assets/fit.svg" alt="A line through ten points" width="640" height="360">
<div class="explorer"><a href="curve.json">the values</a><script type="application/json">[1.5]</script></div>
<a href="../basics.py">script</a> <a href="../basics.ipynb">notebook</a>
</body>
</html>
"""
SMALL_SITE = {
    "basics/index.html": PAGE,
    "index.html": """<!doctype html><html lang="en"><head><title>Home</title><meta name="description" content="All pages.">
<link rel="canonical" href="https://example.org/docs/"></head>
<body><h1 id="home">Home</h1><a href="basics/">Tensors</a></body></html>""",
    "404.html": """<!doctype html><html lang="en"><head><title>Not found</title>
<meta name="description" content="All pages."></head><body><h1>Not found</h1><a href="/docs/basics/">Tensors</a></body></html>""",
    "basics/curve.json": "[1.5]",
    "assets/site.css": "@font-face { src: url(x.woff2) }",
    "assets/x.woff2": "",
    "assets/site.js": "",
    "assets/fit.svg": "<svg xmlns='http://www.w3.org/2000/svg' width='640' height='360'/>",
    "basics.py": "x = 1\nprint(x)\n",
    "basics.ipynb": NOTEBOOK,
    "sitemap.xml": """<?xml version="1.0"?><urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">
<url><loc>https://example.org/docs/</loc></url><url><loc>https://example.org/docs/basics/</loc></url></urlset>""",
    "search/search_index.json": json.dumps(
        {
            "docs": [
                {"location": "", "title": "Home", "text": ""},
                {"location": "basics/", "title": "Tensors", "text": "A tensor"},
                {"location": "basics/#tensors", "title": "Tensors", "text": "A tensor"},
            ]
        }
    ),
}


@pytest.fixture
def small_site(tmp_path):
    """Writes a site of two pages on which every check is silent, with one fault planted if asked for."""

    def write(file: str = "", old: str = "", new: str | None = "") -> Path:
        for name, text in SMALL_SITE.items():
            if name == file and new is None:
                continue  # the fault is that the file is missing
            if name == file:
                assert old in text, f"{file} has no {old!r} to plant a fault in"
                text = text.replace(old, new)
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path

    return write
