"""A notebook as a page: its cells written in the Markdown that every other page is written in.

mkdocs-jupyter makes an .ipynb a page of the site. What it renders is not used: 690 kB of HTML for a small
notebook, most of it style sheets, with formulas left as TeX, links that `--strict` never sees and pictures
without alt text. As Markdown, a notebook gets what the other pages get, by the same few lines of code.
"""

import nbformat

from website.pages import EXPECTED_OUTPUT, Page


def source(page: Page) -> str:
    """The Markdown of a notebook page, in the grammar of `website.pages`."""
    fences = {fence.start: fence for fence in page.fences}
    parts = []
    for number, cell in enumerate(nbformat.read(page.path, as_version=4).cells):
        if number not in fences:
            parts.append(cell.source)
            continue
        fence = fences[number]
        parts.append(f"```{fence.kind}\n{fence.code}```")
        for output in fence.outputs.values():
            parts.append(f"<!--{EXPECTED_OUTPUT}-->\n```text\n{output.text.rstrip()}\n```")
        parts += [f"![{figure.alt}]({address(page, figure.stem)}-light.svg)" for figure in fence.figures]
    return "\n\n".join(parts) + "\n"


def address(page: Page, stem: str) -> str:
    """A figure's stem as a link from its page: "mnist-lab/digits" on the page training/mnist-lab."""
    return stem.removeprefix(page.name.removesuffix(page.path.stem))
