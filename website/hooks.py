"""What MkDocs does beside its usual work: show pages as programs that ran, and repair what the theme lacks.

Each event says what it is for; the work is done in the modules beside this one.
"""

import importlib
import sys
from pathlib import Path

import nbformat
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:  # `python -m mkdocs` can import from here, plain `mkdocs` cannot
    sys.path.insert(0, str(ROOT))

from website import access, benchmark, display, downloads, figures, katex, notebook, pages, provenance  # noqa: E402

# in the order of their imports
MODULES = [figures, pages, katex, access, display, notebook, downloads, provenance, benchmark]
NUMBERS = "<!-- numbers -->"  # stands on the first page where its numbers go

loaded: dict[str, pages.Page] = {}  # the pages of this build, by their file below docs/
runs: list[provenance.Run] = []


def on_config(config):
    """Render formulas; `mkdocs serve` builds again in the same process, so take in modules that were edited."""
    if loaded:
        for module in MODULES:
            importlib.reload(module)
    config.markdown_extensions.append(katex.__name__)


def on_files(files, config):
    """Read every page once, and add its downloads and a notebook's figures to the site, so that links are checked."""
    loaded.clear()
    runs[:] = provenance.runs(ROOT)
    for file in list(files.documentation_pages()):
        try:
            page = loaded[file.src_uri] = pages.load(Path(config.docs_dir, file.src_uri))
            generated = _generated(page, config.site_url or "")
        except (pages.PageError, OSError, ValueError) as error:
            raise PluginError(str(error)) from error
        for path, content in generated.items():
            files.append(File.generated(config, path, content=content))
    files.remove(files.get_file_from_path("assets/katex/katex.min.js"))  # for this build only, not for readers


def _generated(page: pages.Page, site_url: str) -> dict[str, str]:
    """Files of the site that are made from a page: by path below its root, their content."""
    if not page.fences:
        return {}
    content = {
        downloads.address(page, "py"): downloads.script(page, site_url),
        downloads.address(page, "ipynb"): nbformat.writes(downloads.notebook(page, site_url)) + "\n",
    }
    for fence in page.fences:
        for figure in fence.figures:
            if figure.svg is not None:
                content[f"{figure.stem}-light.svg"] = figure.svg
                content[f"{figure.stem}-dark.svg"] = figures.dark(figure.svg)
    return content


def on_pre_page(page, config, files):
    """Let MkDocs render notebooks as it renders the other pages (see website/notebook.py)."""
    vars(page).pop("render", None)


def on_page_read_source(page, config):
    """The very program that ran: includes expanded by the code that the page runner uses."""
    source = loaded[page.file.src_uri]
    return notebook.source(source) if source.path.suffix == ".ipynb" else source.source


def on_page_markdown(markdown, page, config, files):
    """Outputs, figures and downloads."""
    source = loaded[page.file.src_uri]
    try:
        markdown = display.markup(markdown, source)
    except (OSError, ValueError) as error:
        raise PluginError(f"{page.file.src_path}: {error}") from error
    offer = source.fences and not page.is_homepage  # which offers itself in its own words
    return display.below_title(markdown, downloads.links(source)) if offer else markdown


def on_page_content(html, page, config, files):
    """When and where the page ran, or on the first page, how far all pages did; and less to send."""
    if unsaid := display.unsaid(html):
        rule = f"alt text says what is seen, in {pages.SHORTEST_ALT} characters or more"
        raise PluginError(f"{page.file.src_path}: {rule}: {unsaid[0]}")
    source = loaded[page.file.src_uri]
    html = display.explorers(display.compact(html), source)
    html = html.replace(NUMBERS, provenance.site_block(list(loaded.values()), runs))
    if benchmark.MARK in html:
        html = html.replace(benchmark.MARK, benchmark.block(ROOT))
    return html + provenance.page_block(source, runs) if source.fences else html


def on_post_page(output, page, config):
    """Repair what keeps readers with a keyboard or a screen reader out; load fonts early."""
    return katex.preload(access.repair(output))


def on_post_template(output_content, template_name, config):
    """The same for the page that is shown for a wrong address."""
    return access.repair(output_content) if template_name.endswith(".html") else output_content
