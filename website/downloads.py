"""Every page as a notebook and as a script, made from the same expanded source as the page itself."""

import ast
import builtins
import re
from textwrap import indent
from urllib.parse import urljoin

import jupytext
import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from website.pages import COMMENT, FENCE, FIGURE, TAB, Fence, Page, root_of

FAILS = "raises-exception"  # the tag that lets Jupyter and nbconvert go on after an error
CONTAINER = re.compile(r'\s*(?:!!!|\?\?\?\+?|===)\s+(?P<type>[\w-]*)\s*(?:"(?P<title>.*)")?\s*')
FRONT_MATTER = re.compile(r"---\n.*?\n---\n", re.DOTALL)
TAG = re.compile(r"\s*</?div\b.*>\s*|\s*<!--.*-->\s*")
ATTRIBUTES = re.compile(r"(?:(?<=[\s)])|^\s*)\{:?\s*[.#]\w[^}]*\}|(?<=\))\{[^}]*\}")
LINK = re.compile(r"\]\((?![a-z]+:|#)(?P<path>[^)#\s]+)(?P<fragment>#[^)\s]*)?\)")


# What the site offers


def notebook(page: Page, site_url: str = "") -> nbformat.NotebookNode:
    """The page as a notebook that holds the committed outputs and figures.

    With `site_url`, its links lead there.
    """
    book = nbformat.read(page.path, as_version=4) if page.path.suffix == ".ipynb" else _notebook(page)
    if site_url:
        for cell in book.cells:
            if cell.cell_type == "markdown":
                cell.source = LINK.sub(lambda match: _absolute(match, page, site_url), cell.source)
    return book


def script(page: Page, site_url: str = "") -> str:
    """The page as a Python script, in the percent format that editors show as cells.

    It runs from top to bottom: an expected failure is caught and printed as `TypeName: message`, and shell
    commands are comments.
    """
    book = notebook(page, site_url)
    raises = {fence.code.rstrip("\n"): fence.raises for fence in page.fences if fence.raises}
    for cell in book.cells:
        if cell.cell_type == "code" and cell.source in raises:
            cell.source = _caught(cell.source, raises[cell.source])
        cell.metadata.clear()
    book.metadata = {"jupytext": {"notebook_metadata_filter": "-all"}}
    origin = f"# {urljoin(site_url, page.name)}.html\n\n" if site_url else ""
    return origin + jupytext.writes(book, fmt="py:percent")


def address(page: Page, suffix: str) -> str:
    """Where a page's download is below the site's root: in the folder of the page's figures."""
    return f"{page.name}/{page.path.stem}.{suffix}"


def links(page: Page) -> str:
    """The line of Markdown below a page's title: how much of a program it is, and where to get it."""
    names = {"fences": "example", "outputs": "output", "figures": "figure"}
    counts = [f"{n} {names[what]}{'s' * (n != 1)}" for what, n in page.counts.items() if n]
    stem = page.path.stem
    return (
        f"{', '.join(counts)} · Download "
        f"[script]({stem}/{stem}.py){{ download }} or [notebook]({stem}/{stem}.ipynb){{ download }}\n"
        '{: .facts data-search-exclude="" }'
    )


# From Markdown to cells


def _notebook(page: Page) -> nbformat.NotebookNode:
    cells, prose = [], []
    fences, lines = {fence.start: fence for fence in page.fences}, page.source.split("\n")
    front = FRONT_MATTER.match(page.source)
    number, containers = front[0].count("\n") if front else 0, 0

    def end_of_prose() -> None:
        if text := re.sub(r"\n{3,}", "\n\n", "\n".join(prose)).strip():
            cells.append(new_markdown_cell(text))
        prose.clear()

    while number < len(lines):
        line = lines[number]
        if number in fences:
            end_of_prose()
            cells.append(_cell(page, fences[number]))
            number = fences[number].end
            continue
        number += 1
        if FENCE.fullmatch(line):  # an output: the cell before holds it
            while not FENCE.fullmatch(lines[number]):
                number += 1
            number += 1
            continue
        if COMMENT.fullmatch(line) or FIGURE.fullmatch(line) or TAG.fullmatch(line):
            continue
        if line.strip():
            containers = min(containers, (len(line) - len(line.lstrip())) // 4)
        if match := CONTAINER.fullmatch(line):  # Jupyter knows no admonitions: a bold title, then plain text
            containers += 1
            title = match["title"] or match["type"].capitalize()
            prose.append("" if TAB.fullmatch(line) and title.lower() in {"cpu", "cuda"} else f"**{title}**")
        else:
            prose.append(ATTRIBUTES.sub("", line[4 * containers :]).rstrip())
    end_of_prose()
    for number, cell in enumerate(cells, 1):
        cell.id = f"cell-{number}"  # nbformat's own are random, and the same page must give the same file
    python = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return new_notebook(cells=cells, metadata={"kernelspec": python, "language_info": {"name": "python"}})


def _cell(page: Page, fence: Fence) -> nbformat.NotebookNode:
    output = fence.expected("cpu")
    if fence.kind == "bash":  # for a terminal: a notebook has no shell that every system has
        shown = f"\n\n```text\n{output.text}```" if output else ""
        return new_markdown_cell(f"```bash\n{fence.code}```{shown}")
    cell = new_code_cell(fence.code.rstrip("\n"))
    text, error = output.text if output else "", ""
    if fence.raises:
        cell.metadata["tags"] = [FAILS]
        last = f"\n{text}".rfind(f"\n{fence.raises}")  # the error follows what was printed before it
        text, error = text[:last], text[last:].strip()
    if text:
        cell.outputs.append(new_output("stream", name="stdout", text=text))
    if error:
        message = error.partition(": ")[2]
        cell.outputs.append(new_output("error", ename=fence.raises, evalue=message, traceback=error.split("\n")))
    for figure in fence.figures:
        svg = (root_of(page.path) / "docs" / f"{figure.stem}-light.svg").read_text(encoding="utf-8")
        cell.outputs.append(new_output("display_data", data={"image/svg+xml": svg, "text/plain": figure.alt}))
    return cell


def _caught(code: str, error: str) -> str:
    """Code that is expected to fail, in a `try` that goes on after it.

    Raises:
        ValueError: indenting the code would change what it does.
    """
    kind = error if hasattr(builtins, error) else "Exception"
    caught = f'try:\n{indent(code, "    ")}\nexcept {kind} as error:\n    print(f"{{type(error).__name__}}: {{error}}")'
    body = ast.parse(caught).body[0].body
    if ast.dump(ast.Module(body, [])) != ast.dump(ast.parse(code)):
        raise ValueError(f"a fence that is expected to fail holds a string over several lines:\n{code}")
    return caught


def _absolute(link: re.Match, page: Page, site_url: str) -> str:
    """A link to another file of the site, wherever the downloaded file will be."""
    path = link["path"]
    notebook_page = path.endswith(".ipynb") and (page.path.parent / path).is_file()
    if path.endswith(".md") or notebook_page:
        path = re.sub(r"\.\w+$", ".html", path)
    return f"]({urljoin(urljoin(site_url, page.name), path)}{link['fragment'] or ''})"
