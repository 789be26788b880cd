"""What changed when: read from the page docs/changes.md, which people write, for feed readers and search engines."""

import posixpath
import re
from dataclasses import dataclass
from datetime import date
from html import escape, unescape
from itertools import pairwise
from urllib.parse import urljoin

SOURCE = "changes.md"
FEED = "changes.xml"
LINK = "<!-- feed -->"  # stands on the page where its feed is offered
HEADING = re.compile(r'<h2 id="(?P<id>[^"]+)">(?P<text>.*?)(?:<a class="headerlink".*?</a>)?</h2>', re.DOTALL)
TITLE = re.compile(r"(?P<day>\d{4}-\d\d-\d\d): (?P<title>\S.*)")
ADDRESS = re.compile(r'href="(?P<url>[^"]*)"')


@dataclass(frozen=True)
class Entry:
    """One change: a heading "2026-11-29: What it is", and what stands below it."""

    id: str
    day: str
    title: str  # HTML
    html: str

    def pages(self, url: str) -> set[str]:
        """The pages that it links, by their address below the site's root; `url` is that of the page of changes."""
        linked = {unescape(address).partition("#")[0] for address in ADDRESS.findall(self.html)}
        return {posixpath.normpath(posixpath.join(posixpath.dirname(url), address)) for address in linked if address}


def entries(html: str) -> list[Entry]:
    """The entries of the rendered page, newest first.

    Raises:
        ValueError: there is none, its heading has no date or no title, nothing stands below it, or an older one
            stands above a newer one.
    """
    found, headings = [], list(HEADING.finditer(html))
    if not headings:
        raise ValueError("no entry: each is a heading of the second level")
    for heading, after in zip(headings, [*headings[1:], None], strict=True):
        title = TITLE.fullmatch(heading["text"].strip())
        body = html[heading.end() : after and after.start()].strip()
        try:
            day = date.fromisoformat(title["day"]).isoformat()
        except (TypeError, ValueError):
            raise ValueError(f'"{heading["text"]}": a heading here is "2026-11-29: What changed"') from None
        if not body:
            raise ValueError(f'"{heading["text"]}": nothing stands below it')
        found.append(Entry(heading["id"], day, title["title"], body))
    for newer, older in pairwise(found):
        if newer.day < older.day:
            raise ValueError(f"{older.day} stands below {newer.day}: the newest comes first")
    return found


def days(known: list[Entry], url: str) -> dict[str, str]:
    """The day of the last change of each page that was ever named, by its address below the site's root."""
    changed = {url: known[0].day}
    for entry in known:
        for page in sorted(entry.pages(url)):
            changed.setdefault(page, entry.day)
    return changed


def feed(known: list[Entry], address: str, site_url: str, site_name: str) -> str:
    """The entries as an Atom feed (RFC 4287); `address` is that of the page they stand on."""
    home = escape(site_url)
    lines = [
        '<?xml version="1.0" encoding="utf-8"?>',
        '<feed xmlns="http://www.w3.org/2005/Atom">',
        f"<id>{home}{FEED}</id>",
        f"<title>{escape(site_name)}: what changed</title>",
        f"<author><name>{escape(site_name)}</name></author>",
        f"<updated>{known[0].day}T00:00:00Z</updated>",
        f'<link rel="self" type="application/atom+xml" href="{home}{FEED}"/>',
        f'<link rel="alternate" type="text/html" href="{escape(address)}"/>',
    ]
    for entry in known:
        here = escape(f"{address}#{entry.id}")
        html = ADDRESS.sub(lambda link: f'href="{escape(urljoin(address, unescape(link["url"])))}"', entry.html)
        lines += [
            "<entry>",
            f"<id>{here}</id>",
            f'<title type="html">{escape(entry.title)}</title>',
            f"<updated>{entry.day}T00:00:00Z</updated>",
            f'<link rel="alternate" type="text/html" href="{here}"/>',
            f'<content type="html">{escape(html)}</content>',
            "</entry>",
        ]
    return "\n".join([*lines, "</feed>", ""])
