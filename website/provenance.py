"""What the records in records/ say about a page, and about the whole site, in words."""

import json
from dataclasses import dataclass
from html import escape
from pathlib import Path

from website.pages import Page


@dataclass(frozen=True)
class Run:
    """What one device has run: the content of one file in records/."""

    device: str
    kind: str
    torch: str
    python: str
    pages: dict[str, dict]

    @property
    def versions(self) -> str:
        return f"torch {self.torch}, Python {self.python}"

    def current(self, page: Page) -> bool:
        """Whether the page is still the one that this device ran."""
        return self.pages.get(page.name, {}).get("digest") == page.digest


def runs(root: Path) -> list[Run]:
    """All records, CPUs first."""
    records = [json.loads(file.read_text(encoding="utf-8")) for file in sorted((root / "records").glob("*.json"))]
    found = [Run(**{name: record[name] for name in Run.__dataclass_fields__}) for record in records]
    return sorted(found, key=lambda run: (run.kind != "cpu", run.device))


def day(date: str) -> str:
    """A date of a record, for people and machines alike."""
    return f'<time datetime="{date}">{date}</time>'


def lines(page: Page, known: list[Run]) -> list[tuple[bool, str]]:
    """For each device whether it ran this very page, and the sentence that says so (HTML)."""
    said = []
    for run in known:
        device, entry = escape(run.device), run.pages.get(page.name)
        if entry is None:
            said.append((False, f"Not yet executed on {device}"))
        elif run.current(page):
            said.append((True, f"Executed on {device}, {run.versions}, {day(entry['date'])}"))
        else:
            said.append((False, f"Changed since it was executed on {device}, {run.versions}, {day(entry['date'])}"))
    if not any(run.kind == "cpu" for run in known):
        said.insert(0, (False, "Not yet executed on a CPU"))
    if not any(run.kind != "cpu" for run in known):
        said.append((False, "Not yet executed on a GPU"))
    return said


def page_block(page: Page, known: list[Run]) -> str:
    """The lines under a page that say where and when its program ran."""
    items = "".join(
        f'<li class="{"ran" if ran else "not-run"}">{sentence}</li>' for ran, sentence in lines(page, known)
    )
    return f'<div class="provenance" data-search-exclude><ul>{items}</ul></div>'


def site_block(pages: list[Page], known: list[Run]) -> str:
    """The numbers of the first page: what was executed and compared, on what, and when."""
    parts = []
    for run in known:
        current = [page for page in pages if page.fences and run.current(page)]
        if not current:
            continue
        counts = {what: sum(page.counts[what] for page in current) for what in ("fences", "outputs", "figures")}
        names = {"fences": "examples executed", "outputs": "outputs checked", "figures": "figures compared"}
        date = max(run.pages[page.name]["date"] for page in current)
        numbers = "".join(f"<div><dt>{names[what]}</dt><dd>{counts[what]}</dd></div>" for what in names)
        share = f"{len(current)} of {sum(bool(page.fences) for page in pages)} pages"
        parts.append(f"<dl>{numbers}</dl><p>{share}, on {escape(run.device)}, {run.versions}, {day(date)}</p>")
    for kind, name in (("cpu", "CPU"), ("cuda", "GPU")):
        if not any(run.kind == kind and any(map(run.current, pages)) for run in known):
            parts.append(f"<p>Not yet executed on a {name}.</p>")
    return f'<div class="numbers" data-search-exclude>{"".join(parts)}</div>'
