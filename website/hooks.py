"""What MkDocs does beside its usual work: show pages as programs that ran, and repair what the theme lacks.

Each event says what it is for; the work is done in the modules beside this one.
"""

import importlib
import re
import sys
from html import escape
from pathlib import Path

import nbformat
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, InclusionLevel

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:  # `python -m mkdocs` can import from here, plain `mkdocs` cannot
    sys.path.insert(0, str(ROOT))

from website import (  # noqa: E402
    access,
    benchmark,
    changes,
    display,
    downloads,
    figures,
    heads,
    katex,
    notebook,
    pages,
    provenance,
    reference,
    report,
)

# Comments that stand on a page where something goes that is made from the records
NUMBERS, MATRIX, GATE = "<!-- numbers -->", "<!-- matrix -->", "<!-- gate -->"
# In the order of their imports.
MODULES = [
    figures, pages, katex, access, display, notebook, downloads, provenance, benchmark, changes, heads, report,
    reference,
]  # fmt: skip
WORKER = re.compile(r"assets/javascripts/workers/search\.\w+\.min\.js")

loaded: dict[str, pages.Page] = {}  # the pages of this build, by their file below docs/
runs: list[provenance.Run] = []
announced: list[changes.Entry] = []


def on_config(config):
    """Render formulas; `mkdocs serve` builds again in the same process, so take in modules that were edited."""
    if loaded:
        for module in MODULES:
            importlib.reload(module)
    config.markdown_extensions.append(katex.__name__)


def on_files(files, config):
    """Read every page once, and add what is made from it and from the snippet modules, so that links are checked."""
    loaded.clear()
    announced.clear()
    runs[:] = provenance.runs(ROOT)
    for file in list(files.documentation_pages()):
        try:
            page = loaded[file.src_uri] = pages.load(Path(config.docs_dir, file.src_uri))
            generated = _generated(page, config.site_url or "")
        except (pages.PageError, OSError, ValueError) as error:
            raise PluginError(str(error)) from error
        for path, content in generated.items():
            files.append(File.generated(config, path, content=content))
    try:
        made = reference.files(config.nav, ROOT) if reference.in_menu(config.nav) else {}
    except (OSError, SyntaxError) as error:
        raise PluginError(str(error)) from error
    for path, content in made.items():
        shown = InclusionLevel.INCLUDED if path == reference.INDEX else InclusionLevel.NOT_IN_NAV
        files.append(File.generated(config, path, content=content, inclusion=shown))
        if path.endswith(".md"):
            loaded[path] = pages.Page(Path(config.docs_dir, path), path.removesuffix(".md"), content, [], set())
    files.remove(files.get_file_from_path("assets/katex/katex.min.js"))  # for this build only, not for readers
    if changes.SOURCE in loaded and config.site_url:
        files.append(File.generated(config, changes.FEED, content=""))  # filled when its page has been rendered
    sheet = files.get_file_from_path("assets/site.css")
    files.remove(sheet)
    files.append(File.generated(config, sheet.src_uri, content=display.thin_css(sheet.content_string)))
    _search(files, config)


def _search(files, config) -> None:
    """Put our part of the search before Material's, in one file."""
    ours = files.get_file_from_path("assets/search.js")
    theirs = next(file for file in files if WORKER.fullmatch(file.src_uri))
    both = File.generated(config, theirs.src_uri, content=ours.content_string + theirs.content_string)
    files.remove(ours)
    files.remove(theirs)
    files.append(both)


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
    """Let MkDocs render notebooks as it renders other pages (see website/notebook.py); the first page is the folder."""
    vars(page).pop("render", None)
    if page.is_homepage and config.site_url:
        page.canonical_url = config.site_url


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
    try:
        said = page.meta.get("description") or heads.description(html)
        page.meta["description"] = escape(said)  # which Material leaves to others
        html = _with_feed(html, page, config, files) if page.file.src_uri == changes.SOURCE else html
    except ValueError as error:
        raise PluginError(f"{page.file.src_path}: {error}") from error
    html = display.explorers(display.compact(html), source)
    made = {
        NUMBERS: lambda: provenance.site_block(list(loaded.values()), runs),
        MATRIX: lambda: provenance.matrix(list(loaded.values()), runs, "../" * source.name.count("/")),
        GATE: lambda: provenance.gate(ROOT),
        benchmark.MARK: lambda: benchmark.block(ROOT),
        benchmark.REMEDIES: lambda: benchmark.block(ROOT, "remedies"),
    }
    for mark, make in made.items():
        if mark in html:
            html = html.replace(mark, make())
    html = pages.GPU.sub(lambda _: provenance.gpu_box(source, runs), html)
    html += provenance.page_block(source, runs) if source.fences else ""
    return html + report.link(page, config) + display.on_paper(page.canonical_url or "")


def _with_feed(html: str, page, config, files) -> str:
    """The page of changes, its entries read and written to the feed that it offers."""
    announced[:] = changes.entries(html)
    if not config.site_url:
        return html
    feed = changes.feed(announced, page.canonical_url, config.site_url, config.site_name)
    files.get_file_from_path(changes.FEED).content_string = feed
    return html.replace(changes.LINK, f'<p><a href="{changes.FEED}">Feed of these changes (Atom)</a></p>')


def on_env(env, config, files):
    """The day of each page for the sitemap: that of the last change which names it, not that of the build."""
    if announced:
        days = changes.days(announced, files.get_file_from_path(changes.SOURCE).url)
        for file in files.documentation_pages():
            file.page.update_date = days.get(file.url, "")


def on_post_page(output, page, config):
    """Say what the page is; repair what keeps readers with a keyboard or a screen reader out; load fonts early."""
    tags = heads.tags(page, config, changes.FEED if announced else "")
    repaired = access.repair(output.replace("</head>", f"{tags}</head>", 1))
    return display.thin(katex.preload(display.only_needed(repaired)))


def on_post_template(output_content, template_name, config):
    """The same repairs for the page that is shown for a wrong address."""
    return display.only_needed(access.repair(output_content)) if template_name.endswith(".html") else output_content
