"""A link below each page that opens a report about it; theme/assets/site.js adds the section and what is selected."""

from html import escape
from urllib.parse import quote, urlencode


def link(page, config) -> str:
    """The link (HTML), or "" where the site has no repository: a copy of one's own has nobody to write to."""
    if not config.repo_url:
        return ""
    where = f"{page.canonical_url} (docs/{page.file.src_uri})" if page.canonical_url else f"docs/{page.file.src_uri}"
    report = {"title": page.title, "body": f"Page: {where}\n\nWhat is wrong:\n"}
    address = f"{config.repo_url.rstrip('/')}/issues/new?{urlencode(report, quote_via=quote)}"
    return f'<p class="report" data-search-exclude><a href="{escape(address)}">Report a problem on this page</a></p>'
