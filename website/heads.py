"""What a page says of itself to search engines and to those who pass on its address.

Nothing of it asks anybody for anything: the picture is one of this site's own files.
"""

import re
from html import escape, unescape

PICTURE = "assets/social.png"  # drawn from .github/social.svg
SIZE = (1200, 630)  # pixels
ALT = "A page of PyTorch That Runs: code, and below it the output that was checked"
# The space keeps Material from taking the feed for a translation of the site, and asking for its sitemap.
FEED = '<link rel="alternate " type="application/atom+xml" title="What changed" href="{}">\n'
LONGEST = 200  # characters of a description, unless its first sentence is longer
PARAGRAPH = re.compile(r"<p>(?P<text>.*?)</p>", re.DOTALL)
TAG = re.compile(r"<[^>]*>")
SENTENCE = re.compile(r"(?<=[.!?])\s+(?=\S)")


def description(html: str) -> str:
    """The first sentences of a page's first paragraph, as plain text; "" where it has no paragraph.

    Raises:
        ValueError: the first sentence holds a formula, which is none in plain text.
    """
    if not (paragraph := PARAGRAPH.search(html)):
        return ""
    before, formula, _ = paragraph["text"].partition('<var class="arithmatex"')
    sentences = SENTENCE.split(" ".join(unescape(TAG.sub("", before)).split()))
    if formula:
        sentences.pop()  # the one that the formula stands in
    if not sentences:
        raise ValueError("the first sentence describes the page elsewhere, as plain text: no formula there")
    said = sentences[0]
    for sentence in sentences[1:]:
        if len(f"{said} {sentence}") > LONGEST:
            break
        said += f" {sentence}"
    return said


def tags(page, config, feed: str) -> str:
    """The tags for the head of a page; those that need the address of the site, only where it has one."""
    title = config.site_name if page.is_homepage else unescape(TAG.sub("", page.title))
    named = {
        "og:site_name": config.site_name,
        "og:type": "website" if page.is_homepage else "article",
        "og:title": title,
        "og:description": unescape(page.meta.get("description") or config.site_description),
    }
    link = ""
    if config.site_url:
        named |= {
            "og:url": page.canonical_url,
            "og:image": config.site_url + PICTURE,
            "og:image:width": SIZE[0],
            "og:image:height": SIZE[1],
            "og:image:alt": ALT,
        }
        link = FEED.format(config.site_url + feed) if feed else ""
    metas = [f'<meta property="{name}" content="{escape(str(value))}">\n' for name, value in named.items()]
    card = "summary_large_image" if config.site_url else "summary"
    return link + "".join(metas) + f'<meta name="twitter:card" content="{card}">\n'
