"""Read a page as the program it is: its fences, their expected outputs and their figures.

Shared by the build (which shows pages) and by the page runner (which executes them), so
both see the same fences. Needs no torch. What Markdown would render silently wrong is refused
here: `load` raises `PageError` with the page, the line and what is allowed.
"""

import hashlib
import io
import json
import re
import tokenize
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from types import SimpleNamespace

import markdown
from markdown.extensions.toc import slugify
from mkdocs.utils.yaml import get_yaml_loader, yaml_load

ROOT = Path(__file__).resolve().parent.parent

ALLOWED = "allowed are exactly ```python and ```bash (executed) and ```text (the output of the fence before)"
INCLUDE = re.compile(r'\s*--8<-- "(?P<path>snippets/[\w/]+\.py):(?P<section>[a-z][\w-]*)"')
MARKER = re.compile(r"#\s*-+8<-+\s*\[\s*(?P<type>start|end)\s*:\s*(?P<name>[a-z][\w-]*)\s*\]\s*", re.IGNORECASE)
FENCE = re.compile(r"(?P<indent>[ \t]*)(?P<ticks>`{3,}|~{3,})(?P<info>.*)")
HIDDEN_FENCE = re.compile(r"[ \t]*(>|[-*+][ \t]|\d+[.)][ \t])[>\s]*(```|~~~)")
COMMENT = re.compile(r"\s*<!--[-\s]*(?P<text>pytest.*?)[-\s]*-->\s*")
RAISES = re.compile(r"pytest\.mark\.xfail\(raises=(?P<name>[A-Za-z_]\w*)\)")
EXPECTED_OUTPUT = "pytest-codeblocks:expected-output"
GPU = re.compile(r"\s*<!--\s*gpu\s*-->\s*")
NEEDS_GPU = re.compile(
    r"""\.cuda\(|(?:\.to\(|\bdevice\(|\bdevice=)["']cuda|"""
    r"\bcuda\.(?:[A-Z]|graph|stream|sync|memory_|max_memory_|empty_|reset_)\w*\("
)
TAB = re.compile(r'\s*===[!+]?\s+"(?P<title>.*)"')
HEADING = re.compile(r"#{1,6}\s+(?P<title>.*?)\s*(\{.*\})?\s*#*")
FIGURE = re.compile(r"\s*!\[(?P<alt>[^\]]*)\]\((?P<url>\S+-light\.svg)\)\s*")
SHORTEST_ALT = 20
LOCAL_JSON = re.compile(r"\]\((?!https?:)\S*\.json\)")
DATA = re.compile(r"\s*\[(?P<text>[^\]]+)\]\((?P<url>\S+\.json)\)\{ \.explorer \}\s*")


class PageError(Exception):
    """What is wrong with a page or a snippet module, where, and what is allowed."""


@dataclass(frozen=True)
class Where:
    """A line of a file of the project; for a notebook, a line of one of its cells."""

    path: str
    line: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"


@dataclass
class Output:
    """What a fence prints, and the lines of the page file (1-based) that say so, comment to closing ticks."""

    text: str
    where: Where
    first: int = 0
    last: int = 0
    indent: str = ""


@dataclass(frozen=True)
class Figure:
    """A picture that a fence draws: `stem` is its path below docs/ without `-light.svg`."""

    alt: str
    stem: str
    where: Where
    svg: str | None = None  # the light drawing, where the page holds it itself (a notebook)


@dataclass(frozen=True)
class Data:
    """Numbers that a fence writes to a file, for the reader to explore: `path` is that of the file below docs/."""

    path: str
    where: Where

    @property
    def name(self) -> str:
        """The file as the fence writes it, into its working directory."""
        return self.path.rpartition("/")[2]


@dataclass
class Fence:
    """One executed block of a page."""

    id: str
    kind: str  # "python" or "bash"
    code: str
    where: Where
    origins: list[Where]  # of each line of code: the page's own or the included module's
    heading: str
    indent: str = ""
    raises: str | None = None
    outputs: dict[str, Output] = field(default_factory=dict)  # "" on any device, or "cpu" and "cuda"
    figures: list[Figure] = field(default_factory=list)
    data: list[Data] = field(default_factory=list)
    closes: int = 0  # line of its closing ticks in the page file
    start: int = 0  # lines of the fence in Page.source (0-based, end excluded); for a notebook, its cell
    end: int = 0
    gpu: bool = False  # marked by <!-- gpu -->: it runs everywhere, but shows its point on a GPU

    def expected(self, kind: str) -> Output | None:
        """What the fence should print on a device of this kind ("cpu", "cuda")."""
        return self.outputs.get(kind, self.outputs.get(""))


@dataclass
class Page:
    """A page of docs/: Markdown with its includes expanded, or a notebook (whose source is empty)."""

    path: Path
    name: str  # "training/mnist"
    source: str
    fences: list[Fence]
    included: set[str]  # "snippets/training/mnist.py:model"

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the page's program: every expanded fence, what it should print, raise and draw."""
        program = [
            [f.kind, f.code, f.raises, {k: o.text for k, o in f.outputs.items()},
             [p.stem for p in f.figures], [d.path for d in f.data], *(["gpu"] if f.gpu else [])]
            for f in self.fences
        ]
        return hashlib.sha256(json.dumps(program, sort_keys=True).encode()).hexdigest()

    @property
    def counts(self) -> dict[str, int]:
        """How much of the page is checked: fences executed, outputs and figures compared."""
        return {
            "fences": len(self.fences),
            "outputs": sum(bool(f.outputs) for f in self.fences),
            "figures": sum(len(f.figures) for f in self.fences),
        }


def root_of(path: Path) -> Path:
    """The project a page belongs to: the nearest folder above it that holds mkdocs.yml."""
    for folder in Path(path).resolve().parents:
        if (folder / "mkdocs.yml").is_file():
            return folder
    raise PageError(f"{path}: no mkdocs.yml in any folder above this page")


def all_pages(root: Path = ROOT) -> list[Path]:
    """Every page of the site: Markdown and notebooks below docs/."""
    docs = root / "docs"
    return sorted(p for kind in ("*.md", "*.ipynb") for p in docs.rglob(kind) if ".ipynb_checkpoints" not in p.parts)


def load(path: Path) -> Page:
    """Parse one page.

    Raises:
        PageError: something on the page, or in a module it includes, could be shown without being
            executed or checked; the message names the file, the line and what is allowed.
    """
    path = Path(path).resolve()
    root = root_of(path)
    name = path.relative_to(root / "docs").with_suffix("").as_posix()
    if path.suffix == ".ipynb":
        fences, included = _notebook(path, name, root)
        return Page(path, name, "", fences, included)
    lines, origins, included = _expand(path, root)
    return Page(path, name, "\n".join(lines) + "\n", _Scanner(path, name, lines, origins).fences, included)


# Includes: expanded by the very preprocessor that MkDocs uses, with the options of mkdocs.yml, one
# line at a time, so that every expanded line knows where it came from.


def snippet_options(root: Path) -> dict:
    """The options of pymdownx.snippets as mkdocs.yml gives them."""
    config = root / "mkdocs.yml"
    return _snippet_options(config, config.read_text(encoding="utf-8"))


@lru_cache
def _snippet_options(config: Path, text: str) -> dict:
    settings = yaml_load(text, get_yaml_loader(config=SimpleNamespace(config_file_path=str(config))))
    for extension in settings.get("markdown_extensions", []):
        if isinstance(extension, dict) and "pymdownx.snippets" in extension:
            return extension["pymdownx.snippets"] or {}
    raise PageError("mkdocs.yml:1: pymdownx.snippets is not configured")


def _expand(path: Path, root: Path) -> tuple[list[str], list[Where], set[str]]:
    shown = path.relative_to(root).as_posix()
    md = markdown.Markdown(
        extensions=["pymdownx.snippets"], extension_configs={"pymdownx.snippets": snippet_options(root)}
    )
    expand = md.preprocessors["snippet"].run
    source = path.read_text(encoding="utf-8-sig").split("\n")
    lines, origins, included = [], [], set()
    for number, line in enumerate(source, 1):
        here = Where(shown, number)
        if "8<-" not in line:
            lines.append(line)
            origins.append(here)
            continue
        match = INCLUDE.fullmatch(line)
        if not match:
            raise PageError(f"{here}: include not understood: {line.strip()!r}; write "
                            '--8<-- "snippets/part/topic.py:section" on a line of its own, without a trailing space')
        module, section = match["path"], match["section"]
        known = sections(root / module, root, here)
        if section not in known:
            raise PageError(f"{here}: {module} has no section {section!r}; it has {', '.join(known) or 'none'}")
        new = expand([line])
        if len(new) != len(known[section]):
            raise PageError(f"{here}: the include gave {len(new)} lines, the section has {len(known[section])}")
        lines += new
        origins += [Where(module, n) for n in known[section]]
        included.add(f"{module}:{section}")
    if lines != expand(source):
        raise PageError(f"{shown}:1: the page expands differently as a whole than line by line")
    return lines, origins, included


def sections(path: Path, root: Path, here: Where | None = None) -> dict[str, list[int]]:
    """The named sections of a snippet module: for each, the numbers of its lines.

    Raises:
        PageError: the module is missing or not Python, or a section is not closed, opened twice, nested
            in another, empty, or its marker stands where it is no comment.
    """
    shown = path.relative_to(root).as_posix()
    try:
        return _sections(path.read_text(encoding="utf-8"), shown)
    except FileNotFoundError:
        raise PageError(f"{here or shown}: there is no module {shown}") from None
    except PageError as error:
        raise PageError(f"{error} (included by {here})" if here else str(error)) from None


@lru_cache(maxsize=512)  # a module is asked for by each of its sections that a page shows
def _sections(text: str, shown: str) -> dict[str, list[int]]:
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    except (tokenize.TokenError, SyntaxError) as error:
        raise PageError(f"{shown}: not Python: {error}") from None
    comments = {
        t.start[0]: t.string for t in tokens if t.type == tokenize.COMMENT and t.line.strip() == t.string.strip()
    }
    found: dict[str, list[int]] = {}
    name, start = "", 0  # of the section that is open
    for number, line in enumerate(text.split("\n"), 1):
        if "8<-" not in line:
            continue
        match = MARKER.fullmatch(comments.get(number, ""))
        problem = None
        if not match:
            problem = "a section marker must be a comment line of its own: # --8<-- [start:name]"
        elif match["type"] == "start":
            if name:
                problem = f"section {match['name']!r} starts inside {name!r}, which has no end yet (line {start})"
            elif match["name"] in found:
                problem = f"there are two sections named {match['name']!r}"
            name, start = match["name"], number
        else:
            if match["name"] != name:
                problem = f"section {match['name']!r} ends here but was not open"
            elif number == start + 1:
                problem = f"section {name!r} is empty"
            found[name] = list(range(start + 1, number))
            name = ""
        if problem:
            raise PageError(f"{shown}:{number}: {problem}")
    if name:
        raise PageError(f"{shown}:{start}: section {name!r} starts here and never ends")
    return found


def unused_sections(root: Path = ROOT) -> list[str]:
    """Sections that no page shows, and modules without any section that a page shows."""
    included = set().union(*(load(p).included for p in all_pages(root)))
    problems = []
    for module in sorted((root / "snippets").rglob("*.py")):
        if module.name == "__init__.py":
            continue
        shown = module.relative_to(root).as_posix()
        known = sections(module, root)
        if not known:
            problems.append(f"{shown}:1: no page can show this module: it has no section")
        problems += [
            f"{shown}:{lines[0] - 1}: no page uses section {name!r}"
            for name, lines in known.items()
            if f"{shown}:{name}" not in included
        ]
    return problems


# Fences: found in the expanded Markdown, at any indentation, whatever their info string.


class _Scanner:
    """Reads the expanded lines of a page from top to bottom and collects its fences."""

    def __init__(self, path: Path, name: str, lines: list[str], origins: list[Where]):
        self.path, self.name, self.lines, self.origins = path, name, lines, origins
        self.fences: list[Fence] = []
        self.heading, self.ids = "", Counter()
        self.raises: tuple[str, Where] | None = None  # a comment that waits for its fence
        self.gpu = False  # so does this one
        self.output: Where | None = None
        self.scan()

    def fail(self, index: int, problem: str):
        raise PageError(f"{self.origins[index]}: {problem}")

    def scan(self) -> None:
        index = 0
        while index < len(self.lines):
            line = self.lines[index]
            if match := FENCE.fullmatch(line):
                index = self.fence(index, match)
                continue
            if HIDDEN_FENCE.match(line):
                self.fail(index, "a fence inside a quote or on the line of a list item is not seen: give it a new line")
            if match := COMMENT.fullmatch(line):
                self.comment(index, match["text"])
            elif GPU.fullmatch(line):
                self.gpu = True
            elif "<!--" in line and re.search(r"pytest|\bgpu\b", line):
                self.fail(index, "a runner comment must stand on a line of its own")
            elif match := HEADING.fullmatch(line):
                self.heading = match["title"]
            elif "-light.svg" in line or "-dark.svg" in line:
                self.figure(index)
            elif LOCAL_JSON.search(line):
                self.data(index)
            if line.strip() and not COMMENT.fullmatch(line) and not GPU.fullmatch(line):
                self.no_comment_waits(index)
            index += 1
        self.no_comment_waits(len(self.lines) - 1)

    def no_comment_waits(self, index: int) -> None:
        if self.raises or self.output or self.gpu:
            self.fail(index, "a runner comment must be followed by its fence")

    def comment(self, index: int, text: str) -> None:
        if text == EXPECTED_OUTPUT:
            self.output = self.origins[index]
        elif match := RAISES.fullmatch(text):
            self.raises = (match["name"], self.origins[index])
        else:
            self.fail(index, f"comment not allowed: {text!r}; allowed are {EXPECTED_OUTPUT} and "
                             "pytest.mark.xfail(raises=ErrorType): nothing on a page is skipped")

    def fence(self, index: int, match: re.Match) -> int:
        """Take in the fence that opens at this line; return the index after its end."""
        indent, ticks, info = match["indent"].expandtabs(4), match["ticks"], match["info"]
        if ticks[0] == "~" or info not in {"python", "bash", "text"}:
            self.fail(index, f"fence {ticks}{info} is not executed; {ALLOWED}")
        code, origins, end = [], [], index + 1
        while True:
            if end == len(self.lines):
                self.fail(index, "this fence never ends")
            line = self.lines[end].expandtabs(4) if indent else self.lines[end]
            close = FENCE.fullmatch(line)
            if close and close["ticks"].startswith(ticks) and not close["info"].strip():
                break
            if line.strip() and not line.startswith(indent):
                self.fail(end, "a line of this fence is indented less than the fence")
            code.append(line[len(indent):])
            origins.append(self.origins[end])
            end += 1
        text = "".join(f"{line}\n" for line in code)
        if info == "text":
            self.expect(index, end, text, indent)
        else:
            if self.output:
                self.fail(index, "an expected output must be a ```text fence")
            if not self.gpu and (asks := NEEDS_GPU.search(text)):
                self.fail(index, f"the fence asks for CUDA ({asks[0]}): mark it with <!-- gpu --> on the line above")
            base = slugify(self.heading, "-") or "start"
            self.ids[base] += 1
            number = self.ids[base]
            self.fences.append(Fence(
                base if number == 1 else f"{base}-{number}", info, text, self.origins[index], origins, self.heading,
                indent, self.raises[0] if self.raises else None,
                closes=self.origins[end].line, start=index, end=end + 1, gpu=self.gpu,
            ))
            self.raises, self.gpu = None, False
        return end + 1

    def expect(self, index: int, end: int, text: str, indent: str) -> None:
        if not self.output or self.raises or self.gpu:
            self.fail(index, f"a text fence is an output: put <!--{EXPECTED_OUTPUT}--> on the line before it")
        first, self.output = self.output.line, None
        if not self.fences:
            self.fail(index, "an output without a fence before it")
        fence, device = self.fences[-1], self.tab(index, indent)
        if device in fence.outputs or ("" in (device, *fence.outputs) and fence.outputs):
            self.fail(index, f"the fence at {fence.where} has an output for this device already")
        if fence.figures:
            self.fail(index, "the output of a fence stands before its figures")
        if not text.strip():
            self.fail(index, "an empty output: a fence that prints nothing has no output block")
        fence.outputs[device] = Output(text, self.origins[index], first, self.origins[end].line, indent)

    def tab(self, index: int, indent: str) -> str:
        """The device of the tab around an output: "cpu" or "cuda", or "" outside such a tab."""
        for line in reversed(self.lines[:index]):
            if line.strip() and len(line) - len(line.lstrip()) < len(indent):
                match = TAB.fullmatch(line)
                if match and match["title"].lower() not in {"cpu", "cuda"}:
                    self.fail(index, f'the tab of an output is "CPU" or "CUDA", not "{match["title"]}"')
                return match["title"].lower() if match else ""
        return ""

    def figure(self, index: int) -> None:
        match = FIGURE.fullmatch(self.lines[index])
        if not match:
            self.fail(index, "a figure is a line of its own: ![alt text](topic/name-light.svg)")
        folder, _, name = match["url"].rpartition("/")
        if folder != self.path.stem:
            self.fail(index, f"the figures of this page lie in {self.path.stem}/, not in {folder or '.'}/")
        if len(match["alt"].strip()) < SHORTEST_ALT:
            self.fail(index, f"alt text says what is seen, in {SHORTEST_ALT} characters or more; got {match['alt']!r}")
        if not self.fences:
            self.fail(index, "a figure without a fence that draws it")
        stem = (Path(self.name).parent / folder / name.removesuffix("-light.svg")).as_posix()
        if any(stem == figure.stem for fence in self.fences for figure in fence.figures):
            self.fail(index, f"two figures are named {stem}")
        self.fences[-1].figures.append(Figure(match["alt"], stem, self.origins[index]))

    def data(self, index: int) -> None:
        match = DATA.fullmatch(self.lines[index])
        if not match:
            self.fail(index, "recorded data are a line of their own: [what they are](topic/name.json){ .explorer }")
        folder, _, name = match["url"].rpartition("/")
        if folder != self.path.stem:
            self.fail(index, f"the data of this page lie in {self.path.stem}/, not in {folder or '.'}/")
        if not self.fences:
            self.fail(index, "data without a fence that writes them")
        path = (Path(self.name).parent / folder / name).as_posix()
        if any(path == data.path for fence in self.fences for data in fence.data):
            self.fail(index, f"two data files are named {path}")
        self.fences[-1].data.append(Data(path, self.origins[index]))


# Notebooks: a code cell is a fence, its stored outputs are what it should print and draw.


def _notebook(path: Path, name: str, root: Path) -> tuple[list[Fence], set[str]]:
    shown = path.relative_to(root).as_posix()
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    except (ValueError, KeyError, TypeError) as error:
        raise PageError(f"{shown}:1: not a notebook: {error!r}") from None
    fences, included, heading = [], set(), ""
    for number, cell in enumerate(cells):
        source = "".join(cell["source"])
        place = f"{shown}[{cell.get('id', number)}]"
        if cell["cell_type"] == "markdown":
            for line in source.split("\n"):
                if match := HEADING.fullmatch(line):
                    heading = match["title"]
            continue
        here = Where(place, 1)
        if cell["cell_type"] != "code" or not source.strip():
            raise PageError(f"{here}: a cell is Markdown or code, and not empty")
        lines = source.split("\n")
        for at, line in enumerate(lines, 1):
            if line.lstrip().startswith(("%", "!")):
                raise PageError(f"{place}:{at}: a notebook magic is not Python: {line.strip()!r}")
        origins = [Where(place, n) for n in range(1, len(lines) + 1)]
        if section := cell["metadata"].get("section"):
            if source != section_text(section, root, here):
                raise PageError(f"{here}: the cell differs from its section {section}; `make record` copies it")
            included.add(section)
        outputs, drawn = _cell_outputs(cell, here)
        figures = []
        if "alt" in cell["metadata"]:
            alts = cell["metadata"]["alt"]
            for k, alt in enumerate([alts] if isinstance(alts, str) else alts, 1):
                if len(alt.strip()) < SHORTEST_ALT:
                    raise PageError(f"{here}: alt text says what is seen, in {SHORTEST_ALT} characters or more")
                stem = f"{name}/{cell['id']}" if k == 1 else f"{name}/{cell['id']}-{k}"
                figures.append(Figure(alt, stem, here, drawn[k - 1] if k <= len(drawn) else None))
        if len(drawn) > len(figures):
            raise PageError(f"{here}: a cell that draws needs alt text in its metadata: \"alt\"")
        fences.append(Fence(
            cell.get("id", str(number)), "python", source + "\n", here, origins, heading,
            outputs=outputs, figures=figures, start=number, end=number + 1,
        ))
    return fences, included


def section_text(section: str, root: Path, here: Where) -> str:
    """The lines of "snippets/part/topic.py:name", dedented: what a cell made from it must hold."""
    match = INCLUDE.fullmatch(f'--8<-- "{section}"')
    if not match:
        raise PageError(f"{here}: section {section!r} is not of the form snippets/part/topic.py:name")
    known = sections(root / match["path"], root, here)
    if match["section"] not in known:
        raise PageError(f"{here}: {match['path']} has no section {match['section']!r}")
    lines = (root / match["path"]).read_text(encoding="utf-8").split("\n")
    return "\n".join(lines[n - 1] for n in known[match["section"]])


def _cell_outputs(cell: dict, here: Where) -> tuple[dict[str, Output], list[str]]:
    """What a cell printed, and the figures that it stores."""
    text, drawn = "", []
    for output in cell["outputs"]:
        if output["output_type"] == "stream" and output["name"] == "stdout":
            text += "".join(output["text"])
        elif "image/svg+xml" in output.get("data", {}):
            drawn.append("".join(output["data"]["image/svg+xml"]))
        else:
            raise PageError(f"{here}: an output is what print() writes or an SVG figure, not {output['output_type']}")
    return ({"": Output(text, here)} if text else {}), drawn
