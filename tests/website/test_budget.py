"""What a page may weigh, and what more pages may cost: sizes in bytes, times as ratios of one run."""

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.website import browser as look
from tests.website import checks
from tests.website.questions import HELD_OUT
from tests.website.server import body
from website.pages import ROOT

# Bytes as sent, compressed. Fonts are counted in the browser, where they are asked for (every_page.py).
MOST = {"HTML": 60_000, "CSS": 40_000, "JavaScript": 65_000, "figures": 130_000, "recorded data": 20_000}
MOST_TEXT, MOST_MATHS = 130_000, 180_000  # HTML, CSS and JavaScript together
MOST_REQUESTS = 12  # beside figures and fonts
MOST_ELEMENTS = {"article": 3_000, "formulas": 8_000}  # those of formulas apart
KINDS = {".html": "HTML", ".css": "CSS", ".js": "JavaScript", ".svg": "figures"}
ONLY_WHERE = {"katex.min.css": "katex", "explorers.js": "explorer"}  # the class of what has a use for it


def weight(page: checks.Html) -> tuple[Counter, int]:
    """Bytes that a page sends, by kind, and how many requests it makes beside those for figures."""
    urls = {checks.resolve(page, url) for _, url in checks.loads(page)}
    files = {file for url in urls if (file := checks.locate(page.site, url))} | {page.site / page.name}
    files = {file for file in files if not file.match("workers/*")}  # for readers who search
    sent = Counter()
    for file in files:
        sent[KINDS.get(file.suffix, file.suffix)] += len(body(file))
    return sent, sum(file.suffix != ".svg" for file in files)


def elements(tag) -> int:
    """How many elements an element holds, itself among them."""
    return 1 + len(tag.find_all(True))


def too_much(page: checks.Html) -> list[str]:
    """Where a page is over its budget."""
    sent, requests = weight(page)
    sent["recorded data"] = sum(len(tag.get_text().encode()) // 3 for tag in page.soup.find_all("script", type="application/json"))
    found = [(f"bytes of {what}", sent[what], most) for what, most in MOST.items()]
    total = sum(sent[kind] for kind in ("HTML", "CSS", "JavaScript"))
    found.append(("bytes", total, MOST_MATHS if page.soup.find(class_="katex") else MOST_TEXT))
    found.append(("requests", requests, MOST_REQUESTS))
    formulas = sum(map(elements, page.soup.find_all(class_="katex")))
    found.append(("elements of formulas", formulas, MOST_ELEMENTS["formulas"]))
    found.append(("elements", elements(page.soup.article or page.soup.body) - formulas, MOST_ELEMENTS["article"]))
    return [f"{page.name}: {n:,} {what}, at most {most:,}" for what, n, most in found if n > most]


def for_nothing(page: checks.Html) -> list[str]:
    """What a page loads and has no use for, or has a use for and does not load."""
    loads = {Path(url).name for _, url in checks.loads(page)}
    return [
        f"{page.name}: loads {name}: {name in loads}, has .{use}: {bool(page.soup.find(class_=use))}"
        for name, use in ONLY_WHERE.items()
        if (name in loads) != bool(page.soup.find(class_=use))
    ]


@pytest.mark.parametrize("check", [too_much, for_nothing], ids=lambda check: check.__name__)
def test_site(check, site):
    problems = [problem for page in checks.htmls(site) for problem in check(page)]
    assert not problems, "\n".join(problems)


RANDOM = "".join(f"{pow(17, i, 10**9) + 10**9:x}" for i in range(1, 40_000))  # compresses badly
SHEET = '<link rel="stylesheet" href="../assets/katex.min.css">'


@pytest.mark.parametrize(
    ("check", "file", "old", "new", "message"),
    [
        (too_much, "basics/index.html", "<p>", f"<p title='{RANDOM}'>", "bytes of HTML, at most 60,000"),
        (too_much, "assets/site.css", "@font-face", f"/*{RANDOM}*/ @font-face", "bytes of CSS, at most 40,000"),
        (too_much, "assets/site.js", "", RANDOM, "bytes of JavaScript, at most 65,000"),
        (too_much, "assets/site.js", "", 2 * RANDOM, "bytes, at most 180,000"),
        (too_much, "assets/fit.svg", "<svg", f"<!--{RANDOM}--><svg", "bytes of figures, at most 130,000"),
        (too_much, "basics/index.html", "[1.5]", f"[1.5, {'1.25, ' * 12_000}1]", "bytes of recorded data"),
        (too_much, "basics/index.html", "</head>", SHEET + "</head>", None),
        (too_much, "basics/index.html", "<body>", f"<body>{'<i></i>' * 3_001}", " elements, at most 3,000"),
        (too_much, "basics/index.html", '"katex">', f'"katex">{"<i></i>" * 8_000}', "elements of formulas, at"),
        (for_nothing, "basics/index.html", "</head>", "</head>", "loads katex.min.css: False, has .katex: True"),
        (for_nothing, "basics/index.html", "</head>", SHEET + "</head>", "loads explorers.js: False, has .explorer: True"),
        (for_nothing, "index.html", "</head>", SHEET.replace("../", "") + "</head>", "index.html: loads katex.min.css: True"),
    ],
)
def test_notices(check, file, old, new, message, small_site):
    site = small_site(file, old, new)
    (site / "assets" / "katex.min.css").touch()
    problems = [problem for page in checks.htmls(site) for problem in check(page)]
    assert any(message in problem for problem in problems) if message else problems == [], problems


def test_notices_too_many_requests(small_site):
    scripts = [f"a{i}.js" for i in range(MOST_REQUESTS)]
    tags = "".join(f'<script src="../assets/{name}"></script>' for name in scripts)
    site = small_site("basics/index.html", "</head>", tags + "</head>")
    for name in scripts:
        (site / "assets" / name).touch()
    assert "15 requests, at most 12" in too_much(checks.page_named("basics", site))[0]


# Growth. All times of a comparison are CPU times of one process, interleaved, the least of two rounds.

COPIED = ["basics/gradient-descent", "models/composing"]  # formulas and recorded data; prose and code
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https:)[^)]*\.(?:md|ipynb)[^)]*\)")
BUILDS = """
import json, sys, time
from mkdocs.commands.build import build
from mkdocs.config import load_config

def seconds(folder):
    config = load_config(f"{folder}/mkdocs.yml", site_dir=f"{folder}/site", strict=True)
    if "website.katex" in sys.modules:
        sys.modules["website.katex"].render.cache_clear()
    start = time.process_time()
    config.plugins.on_startup(command="build", dirty=False)
    build(config)
    config.plugins.on_shutdown()
    return time.process_time() - start

folders = sys.argv[1:]
seconds(folders[0])  # what only the first build does
rounds = [{folder: seconds(folder) for folder in order} for order in (folders, folders[::-1])]
print(json.dumps([min(round[folder] for round in rounds) for folder in folders]))
"""


def project(folder: Path, copies: int, content: bool) -> Path:
    """The site with a first page and copies of two pages, or with as many pages without content."""
    config = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    names = [name.replace("/", f"/copy-{i}/") for i in range(copies) for name in COPIED]
    nav = "".join(f"  - Page {i}: {name}.md\n" for i, name in enumerate(names))
    folder.mkdir()
    (folder / "mkdocs.yml").write_text(re.sub(r"(?m)^nav:\n(?:  .*\n)+", f"nav:\n  - Home: index.md\n{nav}", config))
    for name in ("records", "snippets", "theme", "website"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "docs").mkdir()
    (folder / "docs" / "index.md").write_text("# Home\n")
    for i, name in enumerate(names):
        source = ROOT / "docs" / COPIED[i % len(COPIED)]
        target = folder / "docs" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if content:
            target.with_suffix(".md").write_text(LINK.sub(r"\1", source.with_suffix(".md").read_text(encoding="utf-8")))
            target.symlink_to(source)  # its figures and data
        else:
            target.with_suffix(".md").write_text(f"# Page {i}\n")
    return folder


@pytest.fixture(scope="module")
def builds(tmp_path_factory) -> dict[str, float]:
    """Seconds of CPU that it takes to build no page, 2 pages, ten times as many, and as many without content."""
    folder = tmp_path_factory.mktemp("growth")
    sizes = {"none": (0, True), "few": (1, True), "many": (10, True), "bare": (10, False)}
    folders = [str(project(folder / name, *size)) for name, size in sizes.items()]
    done = subprocess.run([sys.executable, "-c", BUILDS, *folders], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(zip(sizes, json.loads(done.stdout.splitlines()[-1]), strict=True))


def test_ten_times_the_pages_take_about_ten_times_as_long(builds, record_property):
    record_property("seconds", builds)
    few, many = (builds[name] - builds["none"] for name in ("few", "many"))
    assert many <= 20 * few, builds


def test_a_page_costs_no_more_than_its_content_is_worth(builds):
    bare, many = (builds[name] - builds["none"] for name in ("bare", "many"))
    assert many <= 60 * bare, builds


# The index of the site, and one with ten times as many entries, asked in turns; times of a question in ms.
ASK_BOTH = """async questions => {
    const { base, search } = JSON.parse(document.querySelector("#__config").textContent)
    const index = await (await fetch(new URL(`${base}/search/search_index.json`, location))).json()
    const copy = (i) => index.docs.map((doc) => ({ ...doc, location: `copy-${i}/${doc.location}` }))
    const start = async (docs) => {
        const worker = new Worker(new URL(search, location))
        const send = (type, data) => new Promise((done, failed) => {
            worker.onmessage = ({ data }) => done(data.data)
            worker.onerror = ({ message }) => failed(Error(message))
            worker.postMessage({ type, data })
        })
        await send(0, { ...index, docs, options: { suggest: true } })
        return async (question) => {
            const from = performance.now()
            const { items } = await send(2, question)
            return [performance.now() - from, items.length]
        }
    }
    const both = [await start(index.docs), await start(Array.from({ length: 10 }, (_, i) => copy(i)).flat())]
    const asked = []
    for (const question of questions)
        asked.push([await both[0](question), await both[1](question)])
    return asked
}"""


def test_search_in_ten_times_the_entries_takes_about_ten_times_as_long(browser, served, record_property):
    context = look.new_context(browser)
    page = look.Visit(context, look.address(served, "index.md"), served.url).page
    asked = page.evaluate(ASK_BOTH, list(HELD_OUT)[:9])
    context.close()
    once, tenfold = (sorted(pair[i][0] for pair in asked)[len(asked) // 2] for i in (0, 1))
    record_property("milliseconds", [once, tenfold])
    assert all(few and many == 10 * few for (_, few), (_, many) in asked), "a question finds something in every copy"
    assert tenfold <= 50 * once, (once, tenfold)
