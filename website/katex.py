"""Formulas become HTML and MathML when the site is built; the reader's browser runs no script for them.

A Python-Markdown extension: it takes what `pymdownx.arithmatex` (generic) marks and renders it with the
KaTeX of theme/assets/katex inside QuickJS.
"""

import json
import re
from functools import cache, lru_cache
from pathlib import Path

import quickjs
from markdown import Extension
from markdown.treeprocessors import Treeprocessor

KATEX = Path(__file__).resolve().parent.parent / "theme" / "assets" / "katex" / "katex.min.js"

MATHML = ' xmlns="http://www.w3.org/1998/Math/MathML"'  # which HTML does not need
FONTS = {"Main-Regular": 'class="katex"', "Math-Italic": "mathnormal", "Size2-Regular": "large-op"}  # by who asks
STYLE = re.compile(r'<link rel="stylesheet" href="([^"]*)katex\.min\.css">')
PRELOAD = """<script>
if (location.protocol !== "file:") for (const font of {}) document.head.append(Object.assign(
  document.createElement("link"),
  {{ rel: "preload", as: "font", crossOrigin: "", href: "{}fonts/KaTeX_" + font + ".woff2" }},
))
</script>"""  # browsers refuse to preload from a folder
STRUT = re.compile(r'class="katex-strut" style="height:([\d.]+)em')

# JSON, because QuickJS hands long strings that were put together from parts to Python damaged.
RENDER = """
function render(tex, displayMode) {
    try {
        return JSON.stringify({html: katex.renderToString(tex, {displayMode, throwOnError: true, strict: "error"})});
    } catch (error) {
        return JSON.stringify({error: error.message});
    }
}
"""


class TexError(ValueError):
    """A formula that KaTeX does not understand."""


@cache
def _renderer():
    context = quickjs.Context()
    context.eval(KATEX.read_text(encoding="utf-8"))
    context.eval(RENDER)
    return context.get("render")


@lru_cache(maxsize=10_000)
def render(tex: str, display: bool = False) -> str:
    """The HTML of a formula, with its MathML for screen readers.

    Raises:
        TexError: KaTeX does not understand the formula, which the message names.
    """
    result = json.loads(_renderer()(tex, display))
    if "error" in result:
        raise TexError(f"in the formula {tex!r}: {result['error']}")
    return result["html"].replace(MATHML, "")


def preload(html: str) -> str:
    """A page that asks for the fonts of its formulas at once, so that nothing moves when they come."""
    fonts = [font for font, asks in FONTS.items() if asks in html]
    return STYLE.sub(lambda style: PRELOAD.format(fonts, style[1]) + style[0], html) if fonts else html


class _Formulas(Treeprocessor):
    def run(self, root) -> None:
        for element in root.iter():
            if "arithmatex" not in element.get("class", "").split():
                continue
            display = element.tag == "div"
            tex = element.text[2:-2].strip()  # without \( \) or \[ \]
            if display:  # arithmatex has escaped these, and only these
                for character, entity in (('"', "&quot;"), (">", "&gt;"), ("<", "&lt;"), ("&", "&amp;")):
                    tex = tex.replace(entity, character)
                # The browser leaves off-screen formulas unrendered, and needs their height to keep the page still.
                height = max(map(float, STRUT.findall(render(tex, display))))
                element.set("style", f"--height:{height}em")
                # A wide formula scrolls by itself, so the keyboard must reach it; site.js takes the others out again.
                element.attrib.update({"tabindex": "0", "role": "group", "aria-label": "Formula"})
            else:
                # Search leaves an element out only up to the next end tag of its name, and KaTeX is made of <span>s.
                element.tag = "var"
            element.set("data-search-exclude", "")
            element.text = self.md.htmlStash.store(render(tex, display))


class KatexExtension(Extension):
    """Renders the formulas of a page, after the table of contents has been made."""

    def extendMarkdown(self, md) -> None:  # noqa: N802
        md.treeprocessors.register(_Formulas(md), "katex", 4)


def makeExtension(**kwargs) -> KatexExtension:  # noqa: N802
    """What Python-Markdown calls for `website.katex` in a list of extensions."""
    return KatexExtension(**kwargs)
