"""A page's Markdown as the site shows it: outputs joined to their code, failures labeled, figures in two schemes."""

import re
from pathlib import PurePosixPath

from website import figures, pages
from website.pages import COMMENT, FENCE, FIGURE, GPU, RAISES, SHORTEST_ALT, Page

OUTPUT = '{ .text .output .no-copy title="Output" }'
SCROLLS = '{: .figures tabindex="0" role="group" aria-label="Figure" }'  # on a phone; site.js knows where it does not
PLAIN = re.compile(r'<span class="(?:n|nn|o|p|w)">([^<]*)</span>')  # tokens that the style sheet leaves as they are
IMAGE = re.compile(r"<img\b[^>]*>")
SAID = re.compile(rf'\balt="[^"]{{{SHORTEST_ALT},}}"')
DATA_LINK = re.compile(r'<p>(?P<link><a class="explorer" href="(?P<url>[^"]+)">[^<]*</a>)</p>')
WANTED_BY = {  # what a page must hold for the browser to load a file
    re.compile(r'\s*<link rel="stylesheet" href="[^"]*/katex\.min\.css">'): 'class="katex"',
    re.compile(r'\s*<script src="[^"]*/explorers\.js"></script>'): 'class="explorer"',
}
KEEPS_SPACE = re.compile(r"(<(?:pre|textarea|script|style)\b.*?</(?:pre|textarea|script|style)>)", re.DOTALL)
INDENT = re.compile(r"\s*\n\s+")
FAILS = '{{ .python .fails title="This fails: {}" }}'


def markup(source: str, page: Page) -> str:
    """Markdown for MkDocs from a page's source, its includes expanded.

    Raises:
        OSError: a figure was not drawn yet.
        ValueError: a figure is no SVG with a size.
    """
    docs = pages.root_of(page.path) / "docs"
    drawings = {figure.stem: figure.svg for fence in page.fences for figure in fence.figures}
    shown, ticks, raises = [], "", None
    for line in source.split("\n"):
        fence = FENCE.fullmatch(line)
        if ticks:  # inside a fence: nothing changes up to its end
            if fence and fence["ticks"].startswith(ticks) and not fence["info"].strip():
                ticks = ""
            shown.append(line)
        elif fence:
            ticks, info = fence["ticks"], fence["info"]
            if info == "text":
                info = OUTPUT
            elif raises:
                info = FAILS.format(raises)
            raises = None
            shown.append(f"{fence['indent']}{ticks}{info}")
        elif comment := COMMENT.fullmatch(line):
            if expected := RAISES.fullmatch(comment["text"]):
                raises = expected["name"]
        elif GPU.fullmatch(line):
            shown += [line, ""]  # hooks.py puts the box here, once it knows what ran where
        elif figure := FIGURE.fullmatch(line):
            stem = (PurePosixPath(page.name).parent / figure["url"].removesuffix("-light.svg")).as_posix()
            svg = drawings[stem] or (docs / f"{stem}-light.svg").read_text(encoding="utf-8")
            indent = line[: line.index("!")]
            shown += [indent + _pair(figure["alt"], figure["url"], *figures.size(svg)), indent + SCROLLS]
        else:
            shown.append(line)
    return "\n".join(shown)


def _pair(alt: str, light: str, width: int, height: int) -> str:
    """Both drawings of a figure; Material shows the one whose address names the scheme."""
    dark = light.removesuffix("-light.svg") + "-dark.svg"
    attributes = f'{{ .figure width="{width}" height="{height}" loading="lazy" decoding="async" }}'
    return "".join(f"![{alt}]({url}#only-{scheme}){attributes}" for scheme, url in (("light", light), ("dark", dark)))


def below_title(markdown: str, block: str) -> str:
    """The Markdown with a block below its first heading."""
    return re.sub(r"^# .*$", lambda title: f"{title[0]}\n\n{block}", markdown, count=1, flags=re.MULTILINE)


def unsaid(html: str) -> list[str]:
    """The images of a page whose alt text is missing or too short to say what is seen."""
    return [image for image in IMAGE.findall(html) if not SAID.search(image)]


def explorers(html: str, page: Page) -> str:
    """The HTML with recorded data inside it: the link to the file stays, explorers.js draws the rest."""
    docs = pages.root_of(page.path) / "docs"

    def with_data(match: re.Match) -> str:
        name = PurePosixPath(match["url"])
        recorded = (docs / PurePosixPath(page.name).parent / name).read_text(encoding="utf-8").replace("<", "\\u003c")
        link = match["link"].replace("<a ", "<a download ", 1)
        data = f'<script type="application/json">{recorded}</script>'
        return f'<div class="explorer" data-explorer="{name.stem}"><p>{link}</p>{data}</div>'

    return DATA_LINK.sub(with_data, html)


def on_paper(address: str) -> str:
    """Where a printed page came from; screens do not show it."""
    return f'<p class="paper" data-search-exclude>{address}</p>' if address else ""


def compact(html: str) -> str:
    """The HTML without what the highlighter marks to no effect, a third of it; search does not index "Output"."""
    label = '<span class="filename">Output</span>'
    return PLAIN.sub(r"\1", html).replace(label, label.replace(">", " data-search-exclude>", 1))


def only_needed(html: str) -> str:
    """A whole page that loads the style sheet of formulas and the script of explorers only where it has such."""
    for load, mark in WANTED_BY.items():
        if mark not in html:
            html = load.sub("", html)
    return html


def thin(html: str) -> str:
    """A whole page without the indentation of its lines, which nobody sees; code keeps it."""
    parts = KEEPS_SPACE.split(html)
    return "".join(part if number % 2 else INDENT.sub("\n", part) for number, part in enumerate(parts))


def thin_css(css: str) -> str:
    """A style sheet without its comments, its line ends and its indentation."""
    return re.sub(r"\s*\n\s*", "\n", re.sub(r"/\*.*?\*/", "", css, flags=re.DOTALL)).strip() + "\n"
