"""Faults that a page, its module, its figures or its record might have: each is one small edit of one file."""

import io
import json
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from website import pages

OTHER = {
    "+": "-", "-": "+", "*": "/", "/": "*", "**": "*", "@": "*", "//": "/", "%": "*", "<": ">=", ">": "<=", "<=": ">",
    ">=": "<", "==": "!=", "!=": "==", "+=": "-=", "-=": "+=", "*=": "/=", "True": "False", "False": "True",
    "and": "or", "or": "and", "min": "max", "max": "min", "mean": "sum", "sum": "mean", "is": "is not", "in": "not in",
    "rows": "columns", "light": "dark", "row": "rows", "zeros": "ones", "ones": "zeros", "train": "eval",
    "eval": "train", "cos": "sin", "sin": "cos", "exp": "log", "log": "exp", "argmax": "argmin", "rand": "randn",
}  # fmt: skip
DIGITS = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?![\w.])")
LINK = re.compile(r"(?<!!)\[[^\]]+\]\((?!https?:|#)(?P<url>[^)\s]+\.(?:md|ipynb)(?:#[^)\s]+)?)\)")


@dataclass(frozen=True)
class Fault:
    """One edit: `new` in place of the characters `start` to `end` of a file."""

    kind: str
    page: Path  # on which a reader would meet it
    file: Path
    start: int
    end: int
    new: str

    def apply(self, text: str) -> str:
        return text[: self.start] + self.new + text[self.end :]

    def describe(self, text: str, root: Path) -> dict:
        """Where the edit is and what the line was and became."""
        changed = self.apply(text)
        line = text.count("\n", 0, self.start)
        lines = [t.split("\n")[line] if line < t.count("\n") + 1 else "" for t in (text, changed)]
        place = f"{self.file.relative_to(root).as_posix()}:{line + 1}"
        old, new = (shown if len(shown) < 160 else f"… {text[self.start - 30 : self.end + 30]!r} …" for shown in lines)
        return {"kind": self.kind, "where": place, "old": old, "new": new if len(lines[1]) < 160 else self.new}


def _offsets(text: str) -> list[int]:
    """The position of each line in a text; that of line 1 is at index 1."""
    found = [0, 0]
    for line in text.split("\n"):
        found.append(found[-1] + len(line) + 1)
    return found


def _code(text: str, lines: set[int]) -> Iterator[tuple[int, int, str]]:
    """Edits of Python on these lines: another operator or name, another number, another text, no statement."""
    at = _offsets(text)
    block = [line if number in lines else "" for number, line in enumerate(text.split("\n"), 1)]
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO("\n".join(block) + "\n").readline))
    except (tokenize.TokenError, SyntaxError):  # a page's indented fence: its lines are no program
        tokens = []
    for token in tokens:
        start, end = at[token.start[0]] + token.start[1], at[token.end[0]] + token.end[1]
        if token.type == tokenize.NUMBER and token.string.isdigit():
            yield start, end, str(int(token.string) + 1)
        elif token.type == tokenize.NUMBER:
            yield start, end, f"(2 * {token.string})"
        elif token.string in OTHER and token.type in (tokenize.OP, tokenize.NAME):
            yield start, end, OTHER[token.string]
    for number in lines:
        line = text.split("\n")[number - 1]
        if re.match(r"\s*(\w[\w.\[\], ]* [-+*/]?= .*[^(\[{,]|[\w.]+\(.*\))$", line) and not line.strip().startswith("print"):
            indent = len(line) - len(line.lstrip())
            yield at[number] + indent, at[number] + len(line), "pass"


def _text(text: str, start: int, end: int) -> Iterator[tuple[int, int, str]]:
    """Edits of an output: another number, the next one, no sign, a line less, another letter."""
    shown = text[start:end]
    for match in DIGITS.finditer(shown):
        old, measured = match[0], shown[: match.start()].endswith("~")
        new = old[1:] if old.startswith("-") else f"{old}0" if measured and "." not in old else None
        if new is None:
            digit = next((k for k, c in enumerate(old) if c in "123456789"), len(old) - 1)
            new = old[:digit] + str((int(old[digit]) + 4) % 10) + old[digit + 1 :]
        if not measured or "." not in old:
            yield start + match.start(), start + match.end(), new
        if not measured:
            yield start + match.start(), start + match.end(), old[:-1] + str((int(old[-1]) + 1) % 10)
    for match in re.finditer(r"\b[a-z]{3,}\b", shown):
        yield start + match.start(), start + match.end(), match[0][::-1] + "x"
    for match in re.finditer(r"^.*\S.*\n", shown, re.MULTILINE):
        if shown.count("\n") > 1:
            yield start + match.start(), start + match.end(), ""


def _drawing(text: str) -> Iterator[tuple[int, int, str]]:
    """Edits of an SVG: a point elsewhere, another color, another word, a mark less."""
    for match in re.finditer(r'(?<= d="M )(\d+\.?\d*)', text):
        yield match.start(), match.end(), str(round(float(match[0]) + 3, 3))
    for match in re.finditer(r"#(?:0f62c4|c4460a|12784a)", text):
        yield match.start(), match.end(), "#7a34c9"
    for match in re.finditer(r"(?<=>)[^<>\n]{2,}(?=</text>)", text):
        yield match.start(), match.end(), match[0] + "s"
    for match in re.finditer(r"<use [^>]*/>", text):
        yield match.start(), match.end(), ""


def faults(path: Path, root: Path) -> dict[str, list[Fault]]:
    """All faults that can be planted on a page, by kind."""
    page, text = pages.load(path), path.read_text(encoding="utf-8")
    found: dict[str, list[Fault]] = {}

    def add(kind: str, file: Path, edits) -> None:
        found.setdefault(kind, []).extend(Fault(kind, path, file, *edit) for edit in edits)

    if path.suffix == ".ipynb":
        for match in re.finditer(r'"stream",\s*"text": \[(.*?)\]', text, re.DOTALL):
            add("output", path, [e for e in _text(text, *match.span(1)) if e[2] and "\\n" not in text[e[0] : e[1]]])
        return found
    at, here = _offsets(text), path.relative_to(root).as_posix()
    for fence in page.fences:
        own = {where.line for where in fence.origins if where.path == here and "8<--" not in text.split("\n")[where.line - 1]}
        if fence.kind == "python":
            add("code", path, _code(text, own))
        for output in fence.outputs.values():
            add("output", path, _text(text, at[output.where.line + 1], at[output.last]))
        if fence.raises:
            wrong = "TypeError" if fence.raises != "TypeError" else "ValueError"
            marks = re.finditer(rf"(?<=raises=){fence.raises}(?=\))", text)
            add("expectation", path, [(m.start(), m.end(), wrong) for m in marks])
        for figure in fence.figures:
            for scheme in ("light", "dark"):
                drawing = root / "docs" / f"{figure.stem}-{scheme}.svg"
                add("figure", drawing, _drawing(drawing.read_text(encoding="utf-8")))
        for data in fence.data:
            file = root / "docs" / data.path
            numbers = re.finditer(r"(?<=[\[, :])-?\d+\.\d+(?=[,\]}])", file.read_text(encoding="utf-8"))
            add("recorded data", file, [(m.start(), m.end(), f"{float(m[0]) + 0.5:.6g}") for m in numbers])
    for match in re.finditer(r'--8<-- "(snippets/[\w/]+\.py):([\w-]+)"', text):
        module, section = root / match[1], match[2]
        known = pages.sections(module, root)
        add("include", path, [(*match.span(2), other) for other in known if other != section])
        add("module", module, _code(module.read_text(encoding="utf-8"), set(known[section])))
    for match in LINK.finditer(text):
        add("link", path, [(*match.span("url"), match["url"].replace(".md", "s.md", 1)), (*match.span("url"), match["url"] + "x")])
    for file in (root / "records").glob("*.json"):
        stored = file.read_text(encoding="utf-8")
        entry = json.dumps(page.name) + ": {"
        if entry in stored:
            start = stored.index(entry)
            inside = stored[start : stored.index("}", start)]
            edits = [(start + m.start(), start + m.end(), "7" if m[0] != "7" else "3") for m in re.finditer(r"\d", inside)]
            add("record", file, edits)
    return {kind: [f for f in some if f.new != _old(f)] for kind, some in found.items() if some}


def _old(fault: Fault) -> str:
    return fault.file.read_text(encoding="utf-8")[fault.start : fault.end]
