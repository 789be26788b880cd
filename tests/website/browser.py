"""What a reader's browser shows: one function a promise, each returning messages, none when all is well."""

import os
import shutil
from contextlib import contextmanager
from importlib.resources import files
from threading import Timer

import psutil

from tests.website import checks

NAMES = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"]
MAC = [f"/Applications/{name}.app/Contents/MacOS/{name}" for name in ("Google Chrome", "Chromium")]
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
MODES = {f"{scheme}-{width}": (scheme, width) for scheme in ("light", "dark") for width in (1280, 360)}
NOT_FOUND = "404.html"
AXE_TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22a", "wcag22aa", "best-practice"]

# Before any script of the page: what paints when, and what moves by how much. Read by `vitals`.
OBSERVE = """
window.__vitals = {lcp: 0, cls: 0, moved: []};
const observe = (type, take) =>
    new PerformanceObserver(list => list.getEntries().forEach(take)).observe({type, buffered: true});
observe("largest-contentful-paint", entry => { __vitals.lcp = entry.startTime; });
observe("layout-shift", ({value, hadRecentInput, sources}) => {
    if (hadRecentInput) return;
    __vitals.cls += value;
    for (const {node, previousRect: old, currentRect: now} of sources)
        __vitals.moved.push(`${value.toFixed(4)} ${node?.parentElement?.className} > ${node?.nodeName}: ` +
            `${old.x},${old.y} ${old.width}x${old.height} -> ${now.x},${now.y} ${now.width}x${now.height}`);
});
"""


def find_chromium() -> str | None:
    """The Chromium or Chrome of this machine: the one that CHROMIUM names, or the first that is found.

    Raises:
        FileNotFoundError: CHROMIUM is set, but there is no such program.
    """
    if named := os.environ.get("CHROMIUM"):
        if not (found := shutil.which(named)):
            raise FileNotFoundError(f"CHROMIUM={named}: no such program")
        return found
    return next((found for name in NAMES + MAC if (found := shutil.which(name))), None)


@contextmanager
def launch(executable: str):
    """A headless browser, closed at the end."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def patience(seconds: float = 120):
    """Pages that are still not done after so long are killed: what waits for them then raises an error.

    Chromium 156 has been seen to wait for its own compositor for ever, and a script in a page has no time limit.
    """
    timer = Timer(seconds, kill_pages)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def kill_pages() -> None:
    """End the processes in which the browsers of this test process show their pages."""
    for process in psutil.Process().children(recursive=True):
        try:
            if "--type=renderer" in process.cmdline():
                process.kill()
        except psutil.NoSuchProcess:
            pass


def new_context(browser, mode: str = "light-1280", **options):
    """What a reader in a mode has: a window, a color scheme, nothing kept from before."""
    scheme, width = MODES[mode]
    context = browser.new_context(
        color_scheme=scheme, viewport={"width": width, "height": 800}, reduced_motion="reduce", **options
    )
    context.add_init_script(OBSERVE)
    context.set_default_timeout(10_000)
    return context


def address(served, source: str) -> str:
    """Where the page of a file in docs/ is; for 404.html a folder that does not exist."""
    if source == NOT_FOUND:
        return served.url + "no/such/page/"
    page = checks.page_named(source.rsplit(".", 1)[0], served.folder)
    return served.url + page.url.removeprefix(checks.base(served.folder))


class Visit:
    """A page that is open in a browser, and what happened while it loaded."""

    def __init__(self, context, url: str, site: str):
        self.url, self.site = url, site
        self.requests: list[str] = []
        self.problems: list[str] = []
        self.page = page = context.new_page()
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("requestfailed", lambda request: self.problem(f"request failed: {request.url} ({request.failure})"))
        page.on("response", lambda r: self.problem(f"{r.status} for {r.url}") if r.status >= 400 else None)
        page.on("pageerror", lambda error: self.problem(f"script error: {error}"))
        page.on("console", self.console)
        page.goto(url, wait_until="load")

    def problem(self, text: str) -> None:
        self.problems.append(text)

    def console(self, message) -> None:
        if message.type in {"error", "warning"}:
            self.problem(f"console {message.type}: {message.text} ({message.location['url']})")

    def scroll_through(self) -> None:
        """Bring every part of the page on screen once, so that what loads late has loaded, and go back up."""
        if self.page.evaluate("matchMedia('(scripting)').matches"):
            self.page.evaluate(
                """async () => {
                    const frame = () => new Promise(done => { requestAnimationFrame(done); setTimeout(done, 100); });
                    for (let top = 0; top < document.documentElement.scrollHeight; top += 800) {
                        scrollTo(0, top);
                        await frame();
                        await frame(); // the first one comes before the page is drawn there
                    }
                }"""
            )
        else:  # no promise is ever kept
            height = self.page.evaluate("document.documentElement.scrollHeight")
            for top in range(0, height, 800):
                self.page.evaluate("top => scrollTo(0, top)", top)
                self.page.wait_for_timeout(10)
        show_next = """() => {
            const broken = i => i.complete && (i.asked = 1 + (i.asked || 0)) > 50; // complete without a size, for long
            const waiting = [...document.images].find(i => i.checkVisibility() && !i.naturalWidth && !broken(i));
            if (waiting) waiting.loading = "eager";
            waiting?.scrollIntoView();
            return waiting !== undefined;
        }"""
        for _ in range(1500):  # a busy machine takes its time
            if not self.page.evaluate(show_next):
                break
            self.page.wait_for_timeout(20)
        self.page.evaluate("scrollTo(0, 0)")


def quiet(visit: Visit, status: int = 200) -> list[str]:
    """No request leaves the server, none fails, and nothing is complained about."""
    expected = f"({visit.url})" if status == 404 else None  # the browser says that the page itself is a 404
    leaving = [url for url in visit.requests if not url.startswith((visit.site, "data:", "blob:"))]
    noise = [p for p in visit.problems if not (expected and (p.endswith(expected) or p == f"404 for {visit.url}"))]
    return [f"request to another host: {url}" for url in leaving] + noise


def axe(page, within: str = "html") -> list[str]:
    """What axe-core finds fault with: WCAG 2.0 to 2.2, levels A and AA, and its best practices.

    Left out is the drawing of formulas, which takes half of the time: it has the color of the prose around
    it, and screen readers read the MathML beside it.
    """
    if not page.evaluate("typeof window.axe === 'object'"):
        page.evaluate(files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8"))
    found = page.evaluate(
        r"""([within, tags]) => axe.run({include: [within], exclude: [".katex-html"]}, {runOnly: {type: "tag", values: tags}, resultTypes: ["violations"]})
            .then(results => results.violations.flatMap(v => v.nodes.map(
                node => `${v.id} (${v.impact}): ${node.target.join(" ")}: ${node.failureSummary}`)))""",
        [within, AXE_TAGS],
    )
    return [" ".join(message.split()) for message in found]


def overflow(page) -> list[str]:
    """The page does not scroll sideways; what is too wide is named."""
    return page.evaluate(
        r"""() => document.documentElement.scrollWidth <= innerWidth ? [] : [
            `${document.documentElement.scrollWidth} px wide in a window of ${innerWidth} px`,
            ...[...document.querySelectorAll("body *")]
                .filter(e => e.checkVisibility() && e.getBoundingClientRect().right > innerWidth + 0.5)
                .slice(0, 5).map(e => `too wide: ${e.outerHTML.slice(0, 90)}`)]"""
    )


def figures(page, scheme: str) -> list[str]:
    """Of every figure's two files, the one for the scheme is seen, and it has loaded."""
    other = {"light": "dark", "dark": "light"}[scheme]
    return page.evaluate(
        r"""([scheme, other]) => {
            const images = [...document.querySelectorAll("main img, article img")], problems = [];
            const stem = image => image.src.replace(/-(light|dark)\.\w+(#.*)?$/, "");
            for (const image of images) {
                const seen = image.checkVisibility(), name = image.src.split("/").pop();
                const mine = RegExp(`-${scheme}\\.\\w+(#.*)?$`).test(name);
                const twin = RegExp(`-${other}\\.\\w+(#.*)?$`).test(name);
                if (twin && seen) problems.push(`${name} is seen in the ${scheme} scheme`);
                if (mine && !seen && image.closest("details:not([open]), .tabbed-block") === null)
                    problems.push(`${name} is not seen in the ${scheme} scheme`);
                if (seen && !image.naturalWidth) problems.push(`${name} has not loaded`);
                if (mine && !images.some(i => i !== image && stem(i) === stem(image)))
                    problems.push(`${name} has no twin for the ${other} scheme`);
            }
            return problems;
        }""",
        [scheme, other],
    )


def vitals(page) -> dict:
    """Largest contentful paint in ms, by how much the layout has moved so far, and what has moved."""
    return page.evaluate("__vitals")


# The keyboard

STOP = r"""() => {
    const e = document.activeElement;
    if (!e || e === document.body || e === document.documentElement) return null;
    const seen = e => e.checkVisibility({opacityProperty: true, visibilityProperty: true}) && e.offsetWidth > 0;
    const text = e => e.tagName === "SELECT" ? "" : e.innerText; // its options are no name
    const label = e.matches("input") && !seen(e) && [e.nextElementSibling, ...e.labels].find(l => l?.matches("label") && seen(l));
    const shown = label || e; // a switch may be drawn by its label
    const box = shown.getBoundingClientRect();
    const corners = [[.5, .5], [.1, .1], [.9, .1], [.1, .9], [.9, .9]].map(
        ([x, y]) => document.elementFromPoint(box.x + x * box.width, box.y + y * box.height));
    const style = getComputedStyle(shown);
    e.dataset.stop ??= `${++window.__stops || (window.__stops = 1)}`;
    return {
        id: e.dataset.stop,
        name: (e.ariaLabel || text(e) || e.title || e.alt || text(shown) ||
            [...(e.labels || [])].map(l => l.innerText).join(" ")).trim().split("\n")[0],
        tag: e.tagName.toLowerCase(),
        href: e.getAttribute("href"),
        menu: e.closest("nav, [role=navigation]") !== null && e.closest("header, footer, main article") === null,
        visible: shown.checkVisibility({opacityProperty: true, visibilityProperty: true}) && box.width > 0 && box.height > 0,
        onScreen: box.right > 0 && box.left < innerWidth && box.bottom > 0 && box.top < innerHeight,
        covered: !corners.some(c => c && (shown.contains(c) || c.contains(shown))),
        marked: e.matches("input[type=text], input:not([type]), [type=search]") || style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0 || style.boxShadow !== "none",
        html: e.outerHTML.replace(/\s+/g, " ").slice(0, 100),
    };
}"""


def tab_stops(page, from_here: bool = False, limit: int = 400) -> list[dict]:
    """Where the focus goes with Tab, from the top of the page or from here, until it leaves the page or is back."""
    if not from_here:
        page.evaluate("() => { document.activeElement.blur(); scrollTo(0, 0); }")
    stops: list[dict] = []
    while len(stops) < limit:
        page.keyboard.press("Tab")
        stop = page.evaluate(STOP)
        if stops and stop and stop["id"] == stops[-1]["id"]:
            raise AssertionError(f"Tab does not leave {stop['html']}")
        if stop is None or (stops and stop["id"] == stops[0]["id"]):
            return stops
        stops.append(stop)
    raise AssertionError(f"Tab does not come to an end in {limit} steps")


def finds(page, url: str) -> bool:
    """Whether this page comes to be among the results of the search that is open."""
    return page.evaluate(
        r"""async url => {
            for (let i = 0; i < 100; i++) {
                const found = [...document.querySelectorAll(".md-search-result a")]
                    .some(a => a.checkVisibility() && a.href.split(/[?#]/)[0] === url);
                if (found) return true;
                await new Promise(done => setTimeout(done, 20));
            }
            return false;
        }""",
        url,
    )


def focus(page, stop: dict) -> None:
    """Go back to a stop."""
    page.evaluate("id => document.querySelector(`[data-stop='${id}']`).focus()", stop["id"])


def on_screen(page, selector: str) -> bool:
    """Whether an element can be seen without scrolling or opening anything."""
    return page.evaluate(
        """selector => {
            const e = document.querySelector(selector), box = e?.getBoundingClientRect();
            return !!e && e.checkVisibility({visibilityProperty: true}) && box.width > 0 && box.right > 0;
        }""",
        selector,
    )


def tab(page) -> list[str]:
    """What is wrong with where Tab leads."""
    try:
        return walk(tab_stops(page))
    except AssertionError as error:
        return [str(error)]


def walk(stops: list[dict]) -> list[str]:
    """Every stop can be seen, says what it is, and shows that it has the focus."""
    problems = []
    for stop in stops:
        for holds, problem in [
            (stop["visible"] and stop["onScreen"], "takes the focus and is not seen"),
            (not stop["covered"], "has the focus under something else"),
            (stop["marked"], "does not show that it has the focus"),
            (stop["name"], "has no name"),
        ]:
            if not holds:
                problems.append(f"{problem}: {stop['html']}")
                break
    return problems


# What must work without scripts, or at the press of a button


def opened(page) -> None:
    """Open everything that folds."""
    page.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")


def readable(page, fences: int, outputs: int) -> list[str]:
    """Formulas, code, outputs and figures are there to be read; works with scripts switched off."""
    return page.evaluate(
        r"""([fences, outputs]) => {
            const problems = [], all = selector => [...document.querySelectorAll(selector)];
            const seen = e => e.checkVisibility({visibilityProperty: true, opacityProperty: true}) && e.getBoundingClientRect().height > 0;
            const inTab = e => e.closest(".tabbed-block") !== null;
            for (const [what, selector, expected] of [
                ["code blocks", ".language-python > pre, .language-bash > pre", fences],
                ["outputs", ".language-text > pre", outputs]]) {
                const n = all(selector).filter(e => seen(e) || inTab(e)).length;
                if (n !== expected) problems.push(`${n} ${what} to be seen, not ${expected}`);
            }
            for (const set of all(".tabbed-set")) {
                const blocks = [...set.querySelectorAll(":scope > .tabbed-content > .tabbed-block")].filter(seen).length;
                if (blocks !== 1) problems.push(`${blocks} tabs of a set are open`);
            }
            for (const formula of all(".arithmatex")) {
                const drawn = formula.querySelector(".katex-html");
                if (!drawn || !(seen(drawn) || inTab(drawn)) || !drawn.textContent.trim())
                    problems.push(`formula not to be seen: ${formula.textContent.slice(0, 60)}`);
            }
            for (const image of all("main img").filter(seen))
                if (!image.naturalWidth) problems.push(`${image.src} has not loaded`);
            const stems = new Set(all("main img").map(i => i.src.match(/(.*)-(light|dark)\.svg/)?.[1]).filter(Boolean));
            for (const stem of stems)
                if (all("main img").filter(i => i.src.startsWith(stem + "-") && (seen(i) || inTab(i))).length !== 1)
                    problems.push(`${stem}: not exactly one of the two files is seen`);
            return problems;
        }""",
        [fences, outputs],
    )


def copied(page) -> list[str]:
    """What each code block's copy button puts on the clipboard, from top to bottom."""
    return page.evaluate(
        r"""async () => {
            const texts = [], pause = ms => new Promise(done => setTimeout(done, ms));
            for (const block of document.querySelectorAll(".language-python, .language-bash")) {
                await navigator.clipboard.writeText("nothing was copied");
                const button = block.querySelector("button[data-clipboard-target], button[data-md-type=copy]");
                button?.click();
                let text = "";
                for (let i = 0; i < 50; i++) {
                    text = await navigator.clipboard.readText();
                    if (text !== "nothing was copied" || !button) break;
                    await pause(10);
                }
                texts.push(text);
            }
            return texts;
        }"""
    )


def background(page) -> float:
    """How light the page is, from 0 to 255."""
    return page.evaluate(
        r"""() => { const [r, g, b] = getComputedStyle(document.body).backgroundColor.match(/[\d.]+/g).map(Number);
            return (r + g + b) / 3; }"""
    )
