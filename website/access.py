"""Repairs of the theme's HTML for readers with a keyboard or a screen reader.

theme/assets/site.css and theme/assets/site.js hold their other halves.
"""

import re

SWITCH = re.compile(r'<input class="md-toggle" data-md-toggle="drawer"[^>]*>\s*')
BUTTON = re.compile(r'<label class="md-header__button md-icon" for="__drawer">.*?</label>', re.DOTALL)
CHANGES = {
    # Where there is no table of contents, the theme has no link that skips to the content.
    '<div data-md-component="skip">\n      \n    </div>': '<a href="#not-found" class="md-skip">Skip to content</a>',
    'data-md-component="search" role="dialog"': 'data-md-component="search" role="dialog" aria-label="Search"',
    ' tabindex=""': "",
    ' data-md-component="source"': "",  # with it, every reader's browser asks GitHub about the repository
}


def repair(html: str) -> str:
    """The page with names for what had none, and nothing focusable that cannot be seen.

    The menu of small screens opens with a hidden checkbox and its label, which no key reaches: the
    checkbox itself takes the place of the label and is drawn as the button, so it works without a script.
    """
    if (switch := SWITCH.search(html)) and BUTTON.search(html):
        button = switch[0].strip().replace('id="__drawer"', 'id="__drawer" aria-label="Menu"')
        html = BUTTON.sub(button, html.replace(switch[0], "", 1), count=1)
    if 'id="__toc"' not in html:  # a page that is not in the menu: nothing there to open its contents
        html = html.replace(' for="__toc"', "")
    for old, new in CHANGES.items():
        html = html.replace(old, new)
    return html
