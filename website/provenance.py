"""What the records in records/ say about a page, and about the whole site, in words."""

import hashlib
import json
import re
from dataclasses import dataclass
from html import escape
from pathlib import Path

from website.pages import Page


def seal(record: dict) -> str:
    """SHA-256 of everything in a record but the seal itself, so that an edit by hand is noticed."""
    rest = {name: value for name, value in record.items() if name != "seal"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Run:
    """What one device has run with one version of torch: the content of one file in records/."""

    device: str
    kind: str
    torch: str
    python: str
    pages: dict[str, dict]

    @property
    def release(self) -> list[int]:
        """The version of torch, to compare: [2, 14, 1]."""
        return [int(number) for number in re.findall(r"\d+", self.torch)]

    @property
    def versions(self) -> str:
        return f"torch {self.torch}, Python {self.python}"

    def current(self, page: Page) -> bool:
        """Whether the page is still the one that this device ran."""
        return self.pages.get(page.name, {}).get("digest") == page.digest


def runs(root: Path) -> list[Run]:
    """All records: CPUs first, the newest torch first on each device."""
    records = [json.loads(file.read_text(encoding="utf-8")) for file in sorted((root / "records").glob("*.json"))]
    found = [Run(**{name: record[name] for name in Run.__dataclass_fields__}) for record in records]
    return sorted(found, key=lambda run: (run.kind != "cpu", run.device, [-number for number in run.release]))


def day(date: str) -> str:
    """A date of a record, for people and machines alike."""
    return f'<time datetime="{date}">{date}</time>'


def lines(page: Page, known: list[Run]) -> list[tuple[bool, str]]:
    """For each record whether it is of this very page, and the sentence that says so (HTML)."""
    said = _lines(page, known)
    if not any(run.kind == "cpu" for run in known):
        said.insert(0, (False, "Not yet executed on a CPU"))
    if not any(run.kind != "cpu" for run in known):
        said.append((False, "Not yet executed on a GPU"))
    return said


def _lines(page: Page, known: list[Run]) -> list[tuple[bool, str]]:
    said = []
    for run in known:
        device, entry = escape(run.device), run.pages.get(page.name)
        if entry is None:
            said.append((False, f"Not yet executed on {device}, torch {run.torch}"))
        elif run.current(page):
            said.append((True, f"Executed on {device}, {run.versions}, {day(entry['date'])}"))
        else:
            said.append((False, f"Changed since it was executed on {device}, {run.versions}, {day(entry['date'])}"))
    return said


def page_block(page: Page, known: list[Run]) -> str:
    """The lines under a page that say where and when its program ran."""
    items = "".join(
        f'<li class="{"ran" if ran else "not-run"}">{sentence}</li>' for ran, sentence in lines(page, known)
    )
    return f'<div class="provenance" data-search-exclude><ul>{items}</ul></div>'


def gpu_box(page: Page, known: list[Run]) -> str:
    """The box above a fence that shows its point on a GPU only: on which it ran, or that it did not."""
    ran = [sentence for run, (_, sentence) in zip(known, _lines(page, known), strict=True) if run.kind != "cpu"]
    said = ". ".join(ran or ["Not yet executed on one"])
    return f'<p class="needs-gpu" data-search-exclude><strong>For a GPU.</strong> {said}; without one it runs, too.</p>'


def matrix(pages: list[Page], known: list[Run], root: str = "") -> str:
    """A table of what ran where (HTML): a row for each page that is a program, a column for each record.

    Args:
        pages: all pages of the site.
        known: what ran.
        root: the way from the page that shows the table to the root of the site, as "../".
    """
    programs = [page for page in pages if page.fences]
    columns = [(escape(run.device), f"torch {escape(run.torch)}") for run in known]
    cells = [[_cell(page, run) for run in known] for page in programs]
    if not any(run.kind != "cpu" for run in known):
        columns.append(("GPU", "not yet run"))
        cells = [[*row, NOT_RUN] for row in cells]
    head = "".join(f'<th scope="col">{device}<br>{version}</th>' for device, version in columns)
    body = "".join(
        f'<tr><th scope="row"><a href="{root}{page.name}.html">{page.name}</a></th>'
        f"<td>{len(page.fences)}</td>{''.join(row)}</tr>"
        for page, row in zip(programs, cells, strict=True)
    )
    fences = sum(len(page.fences) for page in programs)
    sums = [sum(len(page.fences) for page in programs if run.current(page)) for run in known]
    sums += [0] * (len(columns) - len(known))
    total = "".join(f"<td>{count} of {fences}</td>" for count in sums)
    return (
        '<div class="matrix" tabindex="0" role="group" aria-label="What ran where" data-search-exclude><table>'
        f'<thead><tr><th scope="col">page</th><th scope="col">fences</th>{head}</tr></thead><tbody>{body}</tbody>'
        f'<tfoot><tr><th scope="row">executed as they stand</th><td>{fences}</td>{total}</tr></tfoot></table></div>'
    )


NOT_RUN = '<td class="not-run">not run</td>'


def _cell(page: Page, run: Run) -> str:
    entry = run.pages.get(page.name)
    if entry is None:
        return NOT_RUN
    if run.current(page):
        return f'<td class="ran">{day(entry["date"])}</td>'
    return f'<td class="not-run">changed since {day(entry["date"])}</td>'


def site_block(pages: list[Page], known: list[Run]) -> str:
    """The numbers of the first page: what was executed and compared, on what, and when, with the newest torch."""
    parts, shown = [], set()
    for run in known:
        if run.device in shown:
            continue
        shown.add(run.device)
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


WAYS = {
    "running": "the run",
    "tests": "tests of the module",
    "build": "the build",
    "record": "the record",
    "nobody": "nothing",
}


def gate(root: Path) -> str:
    """A table of the faults that were planted in a copy of the site, and of what noticed them (HTML)."""
    file = root / "records" / "gate" / "faults.json"
    if not file.is_file():
        return "<p>The checks have not been measured yet.</p>"
    result = json.loads(file.read_text(encoding="utf-8"))
    kinds = result["kinds"]
    head = "".join(f'<th scope="col">{way}</th>' for way in ("planted", *WAYS.values()))
    rows = [(kind, counts) for kind, counts in kinds.items()]
    total = {key: sum(counts.get(key, 0) for counts in kinds.values()) for key in ("tried", *WAYS)}

    def cells(counts: dict) -> str:
        return "".join(f"<td>{counts.get(key, 0) or '–'}</td>" for key in ("tried", *WAYS))

    body = "".join(f'<tr><th scope="row">{kind}</th>{cells(counts)}</tr>' for kind, counts in rows)
    return (
        '<div class="matrix" tabindex="0" role="group" aria-label="What noticed the faults" data-search-exclude><table>'
        f'<thead><tr><th scope="col">fault in</th>{head}</tr></thead><tbody>{body}</tbody>'
        f'<tfoot><tr><th scope="row">all</th>{cells(total)}</tr></tfoot></table></div>'
        f"<p>Drawn at random on {day(result['date'])}, with the seed {result['seed']}.</p>"
    )
