"""The two schemes of a figure: a page draws it once, in light colors; the dark twin is the same
drawing in other colors."""

import re

# Light color of tests/page_runner/sandbox/matplotlibrc -> its twin on a dark page.
DARK = {
    "#1f2933": "#e8ebef",  # text
    "#52606d": "#aab4c0",  # axes and ticks
    "#d3dae2": "#3b4452",  # grid
    "#0f62c4": "#6db3ff",  # C0 blue
    "#c4460a": "#ff9d66",  # C1 orange
    "#12784a": "#5fd0a0",  # C2 green
    "#7a34c9": "#c9a6ff",  # C3 purple
    "#b3125f": "#ff8fc0",  # C4 magenta
    "#6b5900": "#e0c84a",  # C5 olive
}
COLOR = re.compile(r"#[0-9a-fA-F]{6}\b")
TAG = re.compile(r"<[^>]*>")
LONG_DECIMAL = re.compile(r"(?<![\w/+])(-?\d+\.\d{3})\d+")
GENERATOR = re.compile(r"<!--.*?-->\s*|<metadata>.*?</metadata>\s*|<\?xml.*?\?>\s*|<!DOCTYPE.*?>\s*", re.DOTALL)
NO_ROTATION = re.compile(r' transform="rotate\(-?0 [^)]*\)"')


def dark(svg: str) -> str:
    """The dark twin of a light figure."""
    return COLOR.sub(lambda match: DARK.get(match[0].lower(), match[0]), svg)


def clean(svg: str) -> str:
    """A figure without its generator's notes, in the reader's own font, drawn to a thousandth of a point."""
    svg = NO_ROTATION.sub("", GENERATOR.sub("", svg)).replace("'DejaVu Sans'", "system-ui, 'DejaVu Sans'")
    return TAG.sub(lambda tag: LONG_DECIMAL.sub(r"\1", tag[0]), svg).strip() + "\n"


def size(svg: str) -> tuple[int, int]:
    """Width and height of a figure in CSS pixels.

    Raises:
        ValueError: the text is no SVG with a width and a height in points.
    """
    head = re.search(r"<svg\b[^>]*>", svg)
    found = {
        name: re.search(rf'\s{name}="([\d.]+)pt"', head[0]) if head else None for name in ("width", "height")
    }
    if not all(found.values()):
        raise ValueError(f"expected an <svg> with width and height in pt, got {svg[:60]!r}")
    return round(float(found["width"][1]) * 4 / 3), round(float(found["height"][1]) * 4 / 3)
