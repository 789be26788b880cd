"""Fill this folder from a release of KaTeX: python vendor.py PACKAGE, where PACKAGE is what `npm pack katex` holds.

Not part of the build. Needs fonttools and brotli. This folder was made from KaTeX 0.19.1.

Only the woff2 fonts are kept. The two largest are split, so that a page loads the characters of most formulas
and not the whole font: the letters of \\mathbb apart from rare signs, common operators apart from the others.
"""

import re
import shutil
import sys
from pathlib import Path

from fontTools.subset import main as subset
from fontTools.ttLib import TTFont

HERE = Path(__file__).resolve().parent
COMMON = {
    "KaTeX_AMS-Regular": "U+20-7E",
    "KaTeX_Main-Regular": "U+20-7E,U+A0,U+B1,U+D7,U+2C6,U+2C9,U+2DC,U+393-3A9,U+2026,U+2032,U+20D7,U+2113,U+2190,"
    "U+2192,U+21D0,U+21D2,U+2202,U+2207,U+2208,U+2212,U+2217,U+2218,U+221A,U+221E,U+2223,U+2225,U+223C,U+2248,U+2261,"
    "U+2264,U+2265,U+226A,U+226B,U+2299,U+22A4,U+22C5,U+22EF,U+2308-230B,U+27F6,U+27F9,U+27FA",
}


def members(ranges: str) -> set[int]:
    """The code points of a CSS unicode-range."""
    parts = [[int(end, 16) for end in part.removeprefix("U+").split("-")] for part in ranges.split(",")]
    return {code for part in parts for code in range(part[0], part[-1] + 1)}


def split(font: Path) -> dict[str, str]:
    """Write a font as two; return the unicode-range of each by its file name."""
    rest = sorted(set(TTFont(font).getBestCmap()) - members(COMMON[font.stem]))
    ranges = {font.name: COMMON[font.stem], f"{font.stem}-rare.woff2": ",".join(f"U+{code:X}" for code in rest)}
    for name, codes in ranges.items():
        subset([str(font), f"--unicodes={codes}", "--flavor=woff2", f"--output-file={HERE / 'fonts' / name}"])
    return ranges


def main(package: Path) -> None:
    shutil.rmtree(HERE / "fonts", ignore_errors=True)
    (HERE / "fonts").mkdir()
    for name in ("LICENSE", "dist/katex.min.js"):
        shutil.copyfile(package / name, HERE / Path(name).name)
    css = (package / "dist" / "katex.min.css").read_text(encoding="utf-8")
    css = re.sub(r',url\([^)]*\.(woff|ttf)\) format\("\w+"\)', "", css)
    for font in sorted((package / "dist" / "fonts").glob("*.woff2")):
        if font.stem not in COMMON:
            shutil.copyfile(font, HERE / "fonts" / font.name)
            continue
        face = re.search(rf"@font-face{{[^}}]*{font.stem}\.woff2[^}}]*}}", css)[0]
        css = css.replace(face, "".join(
            face.replace(font.name, name).replace("}", f";unicode-range:{codes}}}")
            for name, codes in split(font).items()
        ))
    (HERE / "katex.min.css").write_text(css, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
