"""A page for each snippet module, and one that lists them all: made by the build from the files, without running them.

Each page holds the whole module, offers it and its test as downloads, and leads to the page that teaches it.
"""

import ast
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

INDEX = "reference/snippets.md"
FOLDER = INDEX.removesuffix(".md")
QUIET = "search: { boost: 0.1 }"  # who searches for a word wants the page that teaches it
FORMAT = HtmlFormatter(nowrap=True)
CODE = re.compile(r"``?([^`]+)``?")
SPECIAL = re.compile(r"[^\w\s`.,:;()/-]")
TEST = re.compile(r"^(?: {4})?(?:async )?def test_(\w+)\(", re.MULTILINE)
LONGEST_VALUE = 50


@dataclass(frozen=True)
class Name:
    """A public name of a module: how it is called, the first line of its docstring, and the line it stands on."""

    name: str  # of a method, "Class.method"
    signature: str
    says: str
    line: int


@dataclass(frozen=True)
class Module:
    """A snippet module and the page that teaches it."""

    root: Path
    part: str  # as the menu names it
    title: str
    page: str  # "training/data-loading.md"

    @property
    def name(self) -> str:
        """Its file below snippets/, without the suffix: "training/data_loading"."""
        return posixpath.splitext(self.page)[0].replace("-", "_")

    @property
    def path(self) -> Path:
        return self.root / "snippets" / f"{self.name}.py"

    @property
    def test(self) -> Path:
        folder, _, topic = self.name.rpartition("/")
        return self.root / "tests" / folder / f"test_{topic}.py"

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)

    @property
    def says(self) -> str:
        return first_line(self.tree)

    @cached_property
    def names(self) -> list[Name]:
        return list(public_names(self.tree))


def files(nav: list, root: Path) -> dict[str, str]:
    """What the build adds to the site: by path below docs/, Markdown of pages and the text of downloads.

    Raises:
        OSError: a module has no test.
        SyntaxError: a module is no Python.
    """
    known = modules(nav, root)
    made = {INDEX: _index(known)}
    for module in known:
        folder = posixpath.dirname(module.name)
        made[f"{FOLDER}/{module.name}.md"] = _page(module)
        made[f"{FOLDER}/{module.name}.py"] = module.text
        made[f"{FOLDER}/{folder}/{module.test.name}"] = module.test.read_text(encoding="utf-8")
    return made


def in_menu(nav: list) -> bool:
    """Whether the menu leads to these pages; a site without them has none to make."""
    return any(page == INDEX for _, _, page in _leaves(nav))


def modules(nav: list, root: Path) -> list[Module]:
    """The snippet modules, in the order in which the menu names the pages that teach them."""
    found = (Module(root, part, title, page) for part, title, page in _leaves(nav))
    return [module for module in found if module.path.is_file()]


def _leaves(nav: list, part: str = "") -> Iterator[tuple[str, str, str]]:
    for entry in nav:
        for title, below in entry.items():
            if isinstance(below, list):
                yield from _leaves(below, title)
            else:
                yield part, title, below


# What a module gives


def first_line(node: ast.AST) -> str:
    """The first paragraph of a docstring as one line; empty where there is none."""
    return " ".join((ast.get_docstring(node) or "").partition("\n\n")[0].split())


def public_names(tree: ast.Module) -> Iterator[Name]:
    """Functions, classes with their methods, and values, in the order of the file."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found = [Name(node.name, _signature(node), first_line(node), node.lineno)]
        elif isinstance(node, ast.ClassDef):
            found = [] if node.name.startswith("_") else _class(node)
        elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found = [_value(name, node) for target in targets for name in _bound(target)]
        else:
            found = []
        yield from (name for name in found if not name.name.rpartition(".")[2].startswith("_"))


def _signature(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{node.name}({ast.unparse(node.args)}){returns}"


def _class(node: ast.ClassDef) -> list[Name]:
    bases = ", ".join(map(ast.unparse, node.bases))
    methods = [below for below in node.body if isinstance(below, ast.FunctionDef | ast.AsyncFunctionDef)]
    signature = f"class {node.name}({bases})" if bases else f"class {node.name}"
    return [
        Name(node.name, signature, first_line(node), node.lineno),
        *(Name(f"{node.name}.{m.name}", f"{node.name}.{_signature(m)}", first_line(m), m.lineno) for m in methods),
    ]


def _bound(target: ast.expr) -> list[str]:
    return [node.id for node in ast.walk(target) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]


def _value(name: str, node: ast.Assign | ast.AnnAssign) -> Name:
    value = ast.unparse(node.value)
    return Name(name, f"{name} = {value}" if len(value) <= LONGEST_VALUE else name, "", node.lineno)


# Pages


def _index(known: list[Module]) -> str:
    parts = {module.part: [m for m in known if m.part == module.part] for module in known}
    lines = [
        "---", "description: Every function and class that the pages show, by module, with file, download and test.",
        QUIET, "---", "", "# Snippets", "",
        "What the pages offer to keep comes from these modules, and each has a test of its own. Here you find a "
        "definition by its name, read the whole file and take it along. Most modules need PyTorch, some also "
        "torchvision or Matplotlib; what else one imports stands in its first lines.",
    ]  # fmt: skip
    for part, members in parts.items():
        lines += ["", f"## Shown in {part}", ""]  # the menu has landmarks named by parts alone
        for module in members:
            below = f"{posixpath.basename(FOLDER)}/{module.name}.md"
            lines += [f"### [{module.path.name}]({below})", "", _text(module.says), ""]
            lines += [f"- [`{name.name}`]({below}#{_anchor(name)}): {_text(name.says)}".removesuffix(": ")
                      for name in module.names if "." not in name.name]  # fmt: skip
    return "\n".join(lines)


def _page(module: Module) -> str:
    here = posixpath.dirname(f"{FOLDER}/{module.name}")
    teaches = posixpath.relpath(module.page, here)
    file, test = module.path.name, module.test.name
    index = posixpath.relpath(INDEX, here)
    proofs = [name.replace("_", " ") for name in TEST.findall(module.test.read_text(encoding="utf-8"))]
    about = f"{module.name}.py, the code of the page {module.title}: {module.says}"
    return "\n".join([
        "---", f"description: {_quoted(about)}", QUIET, "---", "", f"# {module.name}.py", "",
        _text(module.says), "",
        f"Taught on [{module.title}]({teaches}) · Download [{file}]({file}){{ download }} or its test "
        f"[{test}]({test}){{ download }} · [All snippets]({index})", '{: .facts data-search-exclude="" }', "",
        "## What it gives", "", _names(module), "",
        "## The file", "",
        f"It runs with `python -m snippets.{module.name.replace('/', '.')}` in a copy of the project. The comments "
        "`start` and `end` mark the sections that the page shows.", "", _code(module), "",
        "## What its test proves", "", _proofs(module, proofs), "",
    ])  # fmt: skip


def _names(module: Module) -> str:
    items = ""
    for name in module.names:
        says = f"<br>{_text(name.says)}" if name.says else ""
        items += f'<li><a href="#{_anchor(name)}"><code>{_html(name.signature)}</code></a>{says}</li>'
    return f'<ul class="gives">{items}</ul>'


def _proofs(module: Module, proofs: list[str]) -> str:
    items = "".join(f"<li>{_html(proof)}</li>" for proof in proofs)
    where = module.test.relative_to(module.root).as_posix()
    return (
        f"<p><code>{_html(where)}</code> has {len(proofs)} tests, some of them with many cases:</p>"
        f'<ul data-search-exclude>{items}</ul>'
    )


def _code(module: Module) -> str:
    """The file, highlighted, with an id on each line that defines a public name."""
    lines = highlight(module.text, PythonLexer(stripnl=False), FORMAT).split("\n")
    for name in module.names:
        lines[name.line - 1] = f'<span id="{_anchor(name)}">{lines[name.line - 1]}</span>'
    code = "\n".join(lines).replace("`", "&#96;")
    return f'<div class="language-python highlight" data-search-exclude><pre><code>{code}</code></pre></div>'


def _anchor(name: Name) -> str:
    return f"code-{name.name}"


def _text(text: str) -> str:
    """Text of a docstring as HTML that Markdown leaves alone; what stands in backticks is code."""
    return CODE.sub(r"<code>\1</code>", SPECIAL.sub(lambda match: f"&#{ord(match[0])};", text))


def _html(text: str) -> str:
    return escape(text, quote=False)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
