"""A link below each page that opens a report about it; theme/assets/site.js adds the section and what is selected."""

from html import escape, unescape
from urllib.parse import quote, urlencode

from website.heads import TAG


def link(page, config) -> str:
    """The link (HTML), or "" where the site has no repository: a copy of one's own has nobody to write to."""
    if not config.repo_url:
        return ""
    where = page.canonical_url or page.url
    source = f" (docs/{page.file.src_uri})" if page.file.abs_src_path else ""  # none where the build made the page
    report = {"title": unescape(TAG.sub("", page.title)), "body": f"Page: {where}{source}\n\nWhat is wrong:\n"}
    address = f"{config.repo_url.rstrip('/')}/issues/new?{urlencode(report, quote_via=quote)}"
    return f'<p class="report" data-search-exclude><a href="{escape(address)}">Report a problem on this page</a></p>'
