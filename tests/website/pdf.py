"""What stands on the pages of a PDF that Chromium made: enough of the format for that, and no more."""

import re
import zlib

OBJECT = re.compile(rb"(\d+) 0 obj\b(.*?)\bendobj", re.DOTALL)
STREAM = re.compile(rb"stream\r?\n(.*?)\r?\nendstream", re.DOTALL)
PAGE = re.compile(rb"/Type\s*/Page(?![A-Za-z])")
SHOWN = re.compile(rb"/(F\d+) [\d.]+ Tf|<([0-9A-Fa-f]+)>\s*Tj|\[([^\]]*)\]\s*TJ")
RANGE = re.compile(r"<(\w+)>\s*<(\w+)>\s*<(\w+)>")
PAIR = re.compile(r"<(\w+)>\s*<(\w+)>")


def texts(pdf: bytes) -> list[str]:
    """The text of each page, in the order in which it is painted and without white space.

    Raises:
        ValueError: this is no PDF with pages.
    """
    objects = {int(match[1]): match[2] for match in OBJECT.finditer(pdf)}
    found = [_text(body, objects) for _, body in sorted(objects.items()) if PAGE.search(STREAM.sub(b"", body))]
    if not found:
        raise ValueError("expected a PDF, found no page in it")
    return found


def _data(body: bytes) -> bytes:
    stream = STREAM.search(body)
    if b"/FlateDecode" not in body:
        return stream[1]
    return zlib.decompressobj().decompress(stream[1])  # its last byte may have been taken for an end of line


def _text(page: bytes, objects: dict[int, bytes]) -> str:
    fonts = {name: int(number) for name, number in re.findall(rb"/(F\d+)\s+(\d+) 0 R", page)}
    letters = {name: _letters(objects[number], objects) for name, number in fonts.items()}
    contents = re.search(rb"/Contents\s+\[?\s*(\d+) 0 R", page)
    text, font = "", {}
    for name, single, several in SHOWN.findall(_data(objects[int(contents[1])])):
        font = letters[name] if name else font
        for glyphs in [single.decode()] if single else re.findall(r"<(\w+)>", several.decode("latin-1")):
            text += "".join(font.get(int(glyphs[i : i + 4], 16), "?") for i in range(0, len(glyphs), 4))
    return "".join(text.split())


def _letters(font: bytes, objects: dict[int, bytes]) -> dict[int, str]:
    """What the glyphs of a font mean."""
    named = re.search(rb"/ToUnicode (\d+) 0 R", font)
    table = _data(objects[int(named[1])]).decode("latin-1") if named else ""
    found = {}
    for block in re.findall(r"beginbfchar(.*?)endbfchar", table, re.DOTALL):
        found |= {int(glyph, 16): bytes.fromhex(text).decode("utf-16-be") for glyph, text in PAIR.findall(block)}
    for block in re.findall(r"beginbfrange(.*?)endbfrange", table, re.DOTALL):
        for first, last, text in RANGE.findall(block):
            found |= {n: chr(int(text, 16) + n - int(first, 16)) for n in range(int(first, 16), int(last, 16) + 1)}
    return found
