"""What must hold of the built site, one function a promise.

Each `check(site)` takes the folder of a built site and returns messages, each naming the file and
what is wrong; no message means that the promise holds. `mkdocs build --strict` looks at the
Markdown only; these look at what a reader's browser gets.
"""

import ast
import json
import re
from collections import Counter
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlsplit
from xml.etree import ElementTree

import nbformat
from bs4 import BeautifulSoup, Comment, NavigableString

ORIGIN = "https://this-site.invalid"  # stands for the server while links are resolved
LARGEST_ARTICLE = 82_000  # bytes of a page before compression, without its frame, formulas, recorded data and record of runs
LARGEST_REFERENCE = 115_000  # of a page to look things up in
CODE_TAGS = {"code", "pre", "kbd", "samp", "script", "style", "annotation", "svg", "textarea"}
TEX = re.compile(r"\\[(\)\[\]]|\$\$|\$[^$\n]+\$|\\(?:begin|end|frac|mathbf|sum|partial|text|left|cdot)\b")
MISSPELT = re.compile(r"(?:python|py|bash|text|console|pycon|sh)(?:[ \t]*\n|[ \t]+(?:\{|\w+=))|.*\n.*\n", re.DOTALL)
RAW_MARKDOWN = re.compile(r"```|~~~|^\s*(?:!!!|\?\?\?\+?)\s+\w|^\s*===[!+]?\s+\"|\{:?\s*[.#]\w[\w-]*\s*\}", re.MULTILINE)
CSS_URL = re.compile(r"url\(\s*(['\"]?)(?P<url>.*?)\1\s*\)|@import\s+(['\"])(?P<imported>.*?)\3", re.DOTALL)
LOADED_LINKS = {"stylesheet", "icon", "shortcut", "preload", "modulepreload", "prefetch", "manifest", "preconnect",
                "dns-prefetch", "apple-touch-icon"}  # fmt: skip


@dataclass(frozen=True)
class Html:
    """A page of the built site: its file, its address below the site's root, its elements."""

    site: Path
    name: str  # "basics/tensors/index.html"

    @property
    def url(self) -> str:
        return base(self.site) + re.sub(r"(^|/)index\.html$", r"\1", self.name)

    @property
    def text(self) -> str:
        return (self.site / self.name).read_text(encoding="utf-8")

    @cached_property
    def soup(self) -> BeautifulSoup:
        return BeautifulSoup(self.text, "html.parser")

    @cached_property
    def ids(self) -> set[str]:
        return {tag["id"] for tag in self.soup.select("[id]")} | {tag["name"] for tag in self.soup.select("a[name]")}

    def strings(self) -> list[str]:
        """The text that a reader sees as prose: no code, no scripts, no TeX kept for screen readers."""
        return [
            str(string)
            for string in self.soup.find_all(string=True)
            if type(string) is NavigableString and not any(parent.name in CODE_TAGS for parent in string.parents)
        ]

    def code(self, *languages: str) -> list[str]:
        """The code blocks of these languages, from top to bottom."""
        blocks = self.soup.select(", ".join(f".language-{language} > pre > code" for language in languages))
        return [block.get_text() for block in blocks]


@cache
def htmls(site: Path) -> list[Html]:
    """Every HTML page of the site, parsed once."""
    return [Html(site, file.relative_to(site).as_posix()) for file in sorted(site.rglob("*.html"))]


@cache
def by_file(site: Path) -> dict[Path, Html]:
    return {site / page.name: page for page in htmls(site)}


def page_named(name: str, site: Path) -> Html:
    """The built page of docs/<name>.md, or of docs/<name>.ipynb."""
    folder = re.sub(r"(^|/)index$", "", name)
    files = [site / folder / "index.html", site / f"{name}.html"]
    found = [page for file, page in by_file(site).items() if file in files]
    if len(found) != 1:
        raise FileNotFoundError(f"docs/{name}: expected one of {files[0]} and {files[1]}, found {len(found)}")
    return found[0]


@cache
def home(site: Path) -> str:
    """The address that the site says it has: the folder of its first page's canonical link."""
    link = BeautifulSoup((site / "index.html").read_text(encoding="utf-8"), "html.parser").select_one("[rel=canonical]")
    return urljoin(link["href"], ".") if link else ORIGIN + "/"


def base(site: Path) -> str:
    """The path below which the site is served: "/" or "/repository/"."""
    return urlsplit(home(site)).path


def locate(site: Path, url: str) -> Path | None:
    """The file that a server gives for an absolute address of this site; None where it has none."""
    path = unquote(urlsplit(url).path)
    if not path.startswith(base(site)):
        return None
    below = path.removeprefix(base(site)) + ("index.html" if path.endswith("/") else "")
    file = site / below
    return file if ".." not in file.parts and file.is_file() else None


def resolve(page: Html, link: str) -> str:
    """The absolute address of a link on a page; our own published address counts as ours."""
    url = urljoin(ORIGIN + page.url, link.strip())
    return ORIGIN + base(page.site) + url.removeprefix(home(page.site)) if url.startswith(home(page.site)) else url


def is_ours(url: str) -> bool:
    return url.startswith(ORIGIN + "/")


def loads(page: Html) -> list[tuple[str, str]]:
    """What the browser fetches for a page without a click: (what, address) as written."""
    found = []
    for tag in page.soup.find_all(True):
        for name in ("src", "poster", "data"):
            if name == "data" and tag.name != "object":
                continue
            if value := tag.get(name):
                found.append((tag.name, value))
        for candidate in (tag.get("srcset") or "").split(","):
            if candidate.strip():
                found.append((tag.name, candidate.split()[0]))
        if tag.name == "link" and LOADED_LINKS & set(tag.get("rel", [])):
            found.append(("link " + " ".join(tag["rel"]), tag["href"]))
        if tag.name in {"use", "image"} and (value := tag.get("href") or tag.get("xlink:href")):
            found.append((tag.name, value))
        css = tag.get("style", "") if tag.name != "style" else tag.get_text()
        found += [("style", url) for url in css_urls(css)]
    if config := page.soup.select_one("script#__config"):  # Material's own: where its search worker is
        found.append(("search worker", json.loads(config.get_text())["search"]))
    return [(what, url) for what, url in found if not url.startswith(("data:", "blob:", "about:"))]


def css_urls(css: str) -> list[str]:
    """What a style sheet loads."""
    return [url for match in CSS_URL.finditer(css) if (url := match["url"] or match["imported"] or "")]


def style_sheets(site: Path) -> list[Html]:
    return [Html(site, file.relative_to(site).as_posix()) for file in sorted(site.rglob("*.css"))]


def loaded(site: Path) -> list[tuple[Html, str, str]]:
    """What every page and every style sheet of the site loads: (file, what, address) as written."""
    wanted = [(page, what, url) for page in htmls(site) for what, url in loads(page)]
    return wanted + [(sheet, "style", url) for sheet in style_sheets(site) for url in css_urls(sheet.text)]


# Links and resources


def links(site: Path) -> list[str]:
    """Every internal link leads to a file, and its fragment to an element there."""
    problems = []
    for page in htmls(site):
        for tag in page.soup.select("a[href], area[href], link[rel=canonical], link[rel=prev], link[rel=next]"):
            url, fragment = urldefrag(resolve(page, tag["href"]))
            if not is_ours(url):
                if urlsplit(url).scheme not in {"https", "mailto"}:
                    problems.append(f"{page.name}: link {tag['href']!r} is neither internal nor https nor mailto")
                continue
            file = locate(site, url)
            if file is None:
                problems.append(f"{page.name}: link {tag['href']!r} leads nowhere")
            elif fragment and file.suffix == ".html" and unquote(fragment) not in by_file(site)[file].ids:
                problems.append(f"{page.name}: link {tag['href']!r}: no element has the id {unquote(fragment)!r}")
        for name in ("for", "aria-controls", "aria-labelledby", "aria-describedby"):
            words = {word for tag in page.soup.select(f"[{name}]") for word in str(tag[name]).split()}
            problems += [f"{page.name}: {name}={w!r}: no element has this id" for w in sorted(words - page.ids)]
    return problems


def resources(site: Path) -> list[str]:
    """Every image, script, style sheet and font that a page or a style sheet loads is there."""
    return [
        f"{page.name}: {what} {url!r} does not exist"
        for page, what, url in loaded(site)
        if not url.startswith(("data:", "#"))
        and is_ours(resolve(page, url))
        and locate(site, resolve(page, url)) is None
    ]


def third_parties(site: Path) -> list[str]:
    """Nothing is loaded from another host, not even a connection opened ahead."""
    return [
        f"{page.name}: {what} {url!r} comes from another host"
        for page, what, url in loaded(site)
        if not url.startswith("data:") and not urljoin(ORIGIN + page.url, url).startswith(ORIGIN + "/")
    ]


def not_found(site: Path) -> list[str]:
    """404.html is there, and works wherever in the site it is shown: its addresses are absolute."""
    if not (site / "404.html").is_file():
        return ["404.html: missing"]
    page = by_file(site)[site / "404.html"]
    addresses = [("link", tag["href"]) for tag in page.soup.select("a[href]")] + loads(page)
    return [
        f"404.html: {what} {url!r} depends on the folder it is shown in"
        for what, url in addresses
        if not url.startswith(("/", "#", "https://", "mailto:", "data:"))
    ]


def sitemap(site: Path) -> list[str]:
    """The sitemap lists every page, and nothing else."""
    if not (site / "sitemap.xml").is_file():
        return ["sitemap.xml: missing"]
    tags = ElementTree.parse(site / "sitemap.xml").iter()
    listed = [re.sub(r"/index\.html$", "/", tag.text.strip()) for tag in tags if tag.tag.endswith("}loc")]
    pages = {home(site) + page.url.removeprefix(base(site)) for page in htmls(site) if page.name != "404.html"}
    return [f"sitemap.xml: {url} is no page" for url in listed if url not in pages] + [
        f"sitemap.xml: {url} is not listed" for url in sorted(pages - set(listed))
    ]


def search_index(site: Path) -> list[str]:
    """Search knows every page by its title, leads to real sections, and holds no TeX."""
    name = "search/search_index.json"
    if not (site / name).is_file():
        return [f"{name}: missing"]
    entries = json.loads((site / name).read_text(encoding="utf-8"))["docs"]
    problems, titles = [], set()
    for entry in entries:
        url, fragment = urldefrag(ORIGIN + base(site) + entry["location"])
        file = locate(site, url)
        titles.add((file, " ".join(BeautifulSoup(entry["title"], "html.parser").get_text().split())))
        if file is None or (fragment and unquote(fragment) not in by_file(site)[file].ids):
            problems.append(f"{name}: {entry['location']!r} leads nowhere")
        prose = re.sub(r"<(pre|code)\b.*?</\1>", "", entry["title"] + "\n" + entry["text"], flags=re.DOTALL)
        if match := TEX.search(prose) or re.search("katex|arithmatex|mathml", prose, re.IGNORECASE):
            problems.append(f"{name}: {entry['location']!r} holds {match[0]!r}")
    for page in htmls(site):
        heading = " ".join(page.soup.h1.get_text().split()) if page.soup.h1 else ""
        if page.name != "404.html" and (site / page.name, heading) not in titles:
            problems.append(f"{name}: {page.name} is not found by its title {heading!r}")
    return problems


# One page


def heads(site: Path) -> list[str]:
    """Every page has a language, a title of its own, a description and exactly one first heading."""
    problems, titles = [], Counter()
    for page in htmls(site):
        soup = page.soup
        title = soup.title.get_text().strip() if soup.title else ""
        titles[title] += 1
        description = soup.select_one("meta[name=description]")
        count = len(soup.find_all("h1"))
        if not (soup.html and soup.html.get("lang")):
            problems.append(f"{page.name}: <html> has no lang")
        if not title:
            problems.append(f"{page.name}: <title> is missing or empty")
        if not (description and description.get("content", "").strip()):
            problems.append(f"{page.name}: the description is missing or empty")
        if count != 1:
            problems.append(f"{page.name}: {count} <h1> instead of one")
    return problems + [f"{n} pages have the title {title!r}" for title, n in titles.items() if n > 1]


def ids(site: Path) -> list[str]:
    """No id is used twice on a page."""
    return [
        f"{page.name}: id {name!r} is used {n} times"
        for page in htmls(site)
        for name, n in Counter(tag["id"] for tag in page.soup.select("[id]")).items()
        if n > 1
    ]


def images(site: Path) -> list[str]:
    """Every picture says what it shows and how large it is."""
    problems = []
    for page in htmls(site):
        for image in page.soup.find_all("img"):
            name = f"{page.name}: image {image.get('src', '')!r}"
            if not image.get("alt", "").strip():
                problems.append(f"{name} has no alt text")
            if not all(re.fullmatch(r"[1-9]\d*", image.get(side, "")) for side in ("width", "height")):
                problems.append(f"{name} has no width and height in pixels")
    return problems


def maths(site: Path) -> list[str]:
    """No formula is left as TeX, and none is an error message."""
    problems = []
    for page in htmls(site):
        problems += [f"{page.name}: TeX left in {s.strip()[:60]!r}" for s in page.strings() if TEX.search(s)]
        for tag in page.soup.select(".arithmatex"):
            if not tag.select(".katex") and "katex" not in tag.get("class", []):
                problems.append(f"{page.name}: formula not rendered: {tag.get_text()[:60]!r}")
        problems += [f"{page.name}: formula in error: {tag.get_text()!r}" for tag in page.soup.select(".katex-error")]
    return problems


def markdown(site: Path) -> list[str]:
    """Nothing that should have become a block is left as text: a fence, an admonition, a tab, an include."""
    problems = []
    for page in htmls(site):
        for tag in page.soup.find_all("code"):
            if not tag.find_parent("pre") and MISSPELT.match(tag.get_text()):
                problems.append(f"{page.name}: a fence became inline code: {tag.get_text()[:60]!r}")
        problems += [
            f"{page.name}: Markdown left in {s.strip()[:60]!r}" for s in page.strings() if RAW_MARKDOWN.search(s)
        ]
        if "--8<--" in page.text:
            problems.append(f"{page.name}: an include is left (--8<--)")
    return problems


def comments(site: Path) -> list[str]:
    """No comment of the page runner reaches the reader."""
    return [
        f"{page.name}: comment left: {comment.strip()!r}"
        for page in htmls(site)
        for comment in page.soup.find_all(string=lambda text: isinstance(text, Comment))
        if "pytest" in comment
    ]


def sizes(site: Path) -> list[str]:
    """No page's content is larger than its budget. (The frame around it grows with the number of pages.)"""
    problems = []
    for page in htmls(site):
        article = page.soup.select_one("article") or page.soup.body
        others = sum(len(str(tag).encode()) for tag in article.select(".katex, .explorer script, .provenance"))  # the last grows with devices
        size = len(str(article).encode()) - others
        limit = LARGEST_REFERENCE if page.name.startswith("reference/") else LARGEST_ARTICLE
        if size > limit:
            rule = f"a page may have {limit:,}"
            problems.append(f"{page.name}: {size:,} bytes without formulas and recorded data, {rule}")
    return problems


# Explorers


def explorers(site: Path) -> list[str]:
    """An explorer holds the very data that it links, and stands below a figure and a printed table for those without it."""
    problems = []
    for page in htmls(site):
        for link in page.soup.select("a[href$='.json']"):
            file = locate(site, resolve(page, link["href"]))
            data = link.find_next("script") if link.find_parent(class_="explorer") else None
            if data is None or file is None or json.loads(data.get_text()) != json.loads(file.read_text(encoding="utf-8")):
                problems.append(f"{page.name}: the data of {link['href']!r} are not inside the page")
            if not link.find_all_previous("img") or not link.find_all_previous(class_="language-text"):
                problems.append(f"{page.name}: no figure and no table above {link['href']!r}")
    return problems


# Downloads


def downloads(site: Path) -> list[str]:
    """A page with Python code offers it as a script and as a notebook, which parse and hold all of it.

    The page of a snippet module offers the module.
    """
    problems = []
    for page in htmls(site):
        code = page.code("python")
        for suffix in (".py",) if page.name.startswith("reference/snippets/") else (".py", ".ipynb"):
            urls = [resolve(page, tag["href"]) for tag in page.soup.select(f"a[href$='{suffix}']")]
            files = [file for url in dict.fromkeys(urls) if is_ours(url) and (file := locate(site, url))]
            texts = []
            for file in files:
                text, problem = program(file)
                texts.append(text)
                problems += [f"{file.relative_to(site)}: {problem}"] if problem else []
            if code and not files:
                problems.append(f"{page.name}: has Python code and no {suffix} to download")
            elif missing := [block for block in code if not any(flat(block) in flat(text) for text in texts)]:
                problems.append(f"{page.name}: its {suffix} lacks {missing[0].strip().splitlines()[0]!r}")
    return problems


def program(file: Path) -> tuple[str, str]:
    """The code of a script or a notebook, and what is wrong with it ("" for nothing)."""
    text = file.read_text(encoding="utf-8")
    try:
        if file.suffix == ".ipynb":
            notebook = nbformat.reads(text, as_version=4)
            nbformat.validate(notebook)
            text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
        ast.parse(text)
    except (SyntaxError, ValueError, nbformat.ValidationError) as error:
        return "", f"does not parse: {str(error).splitlines()[0]}"
    left = re.search(r"^\s*(?:# )?--8<--(?! \[(?:start|end):)", text, re.MULTILINE)  # an include, no mark of a section
    return text, "an include is left (--8<--)" if left else ""


def flat(code: str) -> str:
    """Code without indentation and empty lines: the same statements, wherever they stand."""
    return "\n".join(line.strip() for line in code.splitlines() if line.strip())
