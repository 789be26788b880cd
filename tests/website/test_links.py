"""Links, resources and downloads of the built site."""

import pytest

from tests.website import checks

PAGE = "basics/index.html"
CHECKS = [checks.links, checks.resources, checks.third_parties, checks.not_found, checks.sitemap, checks.search_index,
          checks.downloads]  # fmt: skip


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_site(check, site):
    problems = check(site)
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_is_silent_where_all_is_well(check, small_site):
    assert not check(small_site())


FAULTS = [
    (checks.links, PAGE, "../#home", "../nowhere/", "link '../nowhere/' leads nowhere"),
    (checks.links, PAGE, "../#home", "../basics", "link '../basics' leads nowhere"),
    (checks.links, PAGE, "../#home", "../../../docs2/", "leads nowhere"),
    (checks.links, PAGE, "../#home", "../../", "leads nowhere"),
    (checks.links, PAGE, "../#home", "../#hoem", "no element has the id 'hoem'"),
    (checks.links, PAGE, "#tensors", "#tensor", "no element has the id 'tensor'"),
    (checks.links, PAGE, "https://pytorch.org/", "http://pytorch.org/", "neither internal nor https"),
    (checks.links, PAGE, "https://example.org/docs/basics/", "https://example.org/docs/x/", "leads nowhere"),
    (checks.links, PAGE, "<p>", '<label for="drawer">Menu</label><p>', "for='drawer': no element has this id"),
    (checks.links, PAGE, "<p>", '<p aria-labelledby="tensors x">', "aria-labelledby='x'"),
    (checks.resources, PAGE, "fit.svg", "fat.svg", "img '../assets/fat.svg' does not exist"),
    (checks.resources, PAGE, "site.js", "site2.js", "script '../assets/site2.js' does not exist"),
    (checks.resources, PAGE, "site.css", "site2.css", "link stylesheet '../assets/site2.css' does not exist"),
    (checks.resources, PAGE, "<p>", '<p style="background: url(x.png)">', "style 'x.png' does not exist"),
    (checks.resources, PAGE, "</h1>", "</h1><style>@import 'x.css';</style>", "style 'x.css' does not exist"),
    (checks.resources, PAGE, "<img ", '<img srcset="x.png 2x" ', "img 'x.png' does not exist"),
    (checks.resources, PAGE, "</h1>", '</h1><svg><use href="x.svg#a"/></svg>', "use 'x.svg#a' does not exist"),
    (checks.resources, PAGE, "</h1>", '</h1><script id="__config">{"search": "../w.js"}</script>', "search worker"),
    (checks.resources, "assets/site.css", "x.woff2", "y.woff2", "assets/site.css: style 'y.woff2' does not exist"),
    (checks.resources, "assets/x.woff2", "", None, "style 'x.woff2' does not exist"),
    (checks.third_parties, PAGE, "../assets/site.js", "https://unpkg.com/x.js", "comes from another host"),
    (checks.third_parties, PAGE, "../assets/site.js", "//unpkg.com/x.js", "comes from another host"),
    (checks.third_parties, PAGE, "../assets/site.css", "https://cdn.net/x.css", "comes from another host"),
    (checks.third_parties, PAGE, "../assets/fit.svg", "https://i.org/fit.svg", "comes from another host"),
    (checks.third_parties, PAGE, "</title>", '</title><link rel="preconnect" href="https://f.com">', "another host"),
    (checks.third_parties, PAGE, "</h1>", "</h1><style>@import url(https://f.com/x);</style>", "another host"),
    (checks.third_parties, PAGE, "</h1>", '</h1><iframe src="https://v.com/1"></iframe>', "another host"),
    (checks.third_parties, "assets/site.css", "x.woff2", "https://f.com/x.woff2", "assets/site.css: style 'https:"),
    (checks.not_found, "404.html", "", None, "404.html: missing"),
    (checks.not_found, "404.html", "/docs/basics/", "basics/", "depends on the folder"),
    (checks.not_found, "404.html", "</title>", '</title><link rel="stylesheet" href="a.css">', "depends on the folder"),
    (checks.links, "404.html", "/docs/basics/", "/basics/", "404.html: link '/basics/' leads nowhere"),
    (checks.sitemap, "sitemap.xml", "", None, "sitemap.xml: missing"),
    (checks.sitemap, "sitemap.xml", "docs/basics/", "docs/basic/", "basic/ is no page"),
    (checks.sitemap, "sitemap.xml", "docs/basics/", "docs/basic/", "basics/ is not listed"),
    (checks.search_index, "search/search_index.json", "", None, "missing"),
    (checks.search_index, "search/search_index.json", '"Tensors"', '"Tensor"', "is not found by its title"),
    (checks.search_index, "search/search_index.json", "#tensors", "#tensor", "'basics/#tensor' leads nowhere"),
    (checks.search_index, "search/search_index.json", "A tensor", "A \\\\(x\\\\)", "holds"),
    (checks.search_index, "search/search_index.json", "A tensor", "\\\\frac 1 2", "holds"),
    (checks.search_index, "search/search_index.json", "A tensor", "<span class=katex>", "holds 'katex'"),
    (checks.downloads, PAGE, "../basics.py", "../", "has Python code and no .py to download"),
    (checks.downloads, PAGE, "../basics.ipynb", "../", "has Python code and no .ipynb to download"),
    (checks.downloads, "basics.py", "", None, "no .py to download"),
    (checks.downloads, "basics.py", "print(x)", "print(y)", "basics/index.html: its .py lacks 'x = 1'"),
    (checks.downloads, "basics.py", "print(x)", "print(x", "basics.py: does not parse"),
    (checks.downloads, "basics.py", "x = 1\n", 'x = 1\n# --8<-- "a.py:b"\n', "basics.py: an include is left"),
    (checks.downloads, "basics.ipynb", "print(x)", "print(y)", "its .ipynb lacks 'x = 1'"),
    (checks.downloads, "basics.ipynb", '"cell_type": "code"', '"cell_type": "cod"', "basics.ipynb: does not parse"),
    (checks.downloads, "basics.ipynb", "{", "", "basics.ipynb: does not parse"),
]


@pytest.mark.parametrize(("check", "file", "old", "new", "message"), FAULTS)
def test_notices(check, file, old, new, message, small_site):
    problems = check(small_site(file, old, new))
    assert any(message in problem for problem in problems), problems
