"""What `pytest --record` writes: outputs and figures that no longer hold, and the record of the run."""

import json
import os
from pathlib import Path

from markdown.extensions.toc import slugify

from tests.page_runner import compare
from tests.page_runner.session import Result
from website import figures, pages, provenance
from website.provenance import seal

MACHINE = ("device", "kind", "torch", "torchvision", "python")


def printed(result: Result) -> str:
    """What the page shows below a fence: its output, then the error if it ended with one."""
    return result.stdout + (f"{result.message}\n" if result.error else "")


def replace(path: Path, text: str) -> None:
    """Write a file so that a killed run leaves the old one or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.write_text(text, encoding="utf-8")
    os.replace(new, path)


def committed(docs: Path, figure: pages.Figure) -> tuple[str | None, str | None]:
    """The light and the dark drawing that the project holds for a figure; None where there is none."""
    if figure.svg is not None:
        return figure.svg, figures.dark(figure.svg)
    files = [docs / f"{figure.stem}-{scheme}.svg" for scheme in ("light", "dark")]
    return tuple(file.read_text(encoding="utf-8") if file.is_file() else None for file in files)


# Pages: outputs and figures, only where they differ.


def rewrite(page: pages.Page, results: dict[str, Result], kind: str) -> None:
    """Bring a page up to what this run printed and drew."""
    write_page = _notebook if page.path.suffix == ".ipynb" else _markdown
    write_page(page, results, kind)


def _markdown(page: pages.Page, results: dict[str, Result], kind: str) -> None:
    docs = pages.root_of(page.path) / "docs"
    old = page.path.read_text(encoding="utf-8")
    lines = old.split("\n")
    for fence in reversed(page.fences):
        got, want = printed(results[fence.id]), fence.expected(kind)
        if want and got.strip() and not compare.text(want.text, got, kind, ellipsis=bool(fence.raises)):
            continue
        if want and kind != "cpu" and "" in fence.outputs:  # this device differs: one output for each
            own = ["", *_tab(kind.upper(), got, want.indent)] if got.strip() else []
            lines[want.first - 1 : want.last] = [*_tab("CPU", want.text, want.indent), *own]
        elif want and not got.strip() and want.indent != fence.indent:
            raise ValueError(f"{want.where}: the fence prints nothing here any more: remove this tab")
        elif want:
            lines[want.first - 1 : want.last] = _block(got, want.indent) if got.strip() else []
        elif got.strip() and (fence.outputs or kind != "cpu"):  # the first output for this kind of device
            after = max((output.last for output in fence.outputs.values()), default=fence.closes)
            lines[after:after] = ["", *_tab(kind.upper(), got, fence.indent)]
        elif got.strip():
            lines[fence.closes : fence.closes] = ["", *_block(got, fence.indent)]
    text = "\n".join(lines)
    if text != old:
        replace(page.path, text)
    for fence in page.fences:
        for figure, drawn in zip(fence.figures, results[fence.id].figures, strict=True):
            light, dark = committed(docs, figure)
            drawing = figures.clean(drawn)
            if light is None or compare.figure(light, drawing):
                light = drawing
                replace(docs / f"{figure.stem}-light.svg", light)
            if dark != figures.dark(light):
                replace(docs / f"{figure.stem}-dark.svg", figures.dark(light))
        for data in fence.data:
            file, written = docs / data.path, results[fence.id].data[data.name]
            if not file.is_file() or compare.data(file.read_text(encoding="utf-8"), written):
                replace(file, written)


def _block(text: str, indent: str) -> list[str]:
    lines = [f"<!--{pages.EXPECTED_OUTPUT}-->", "```text", *text.rstrip("\n").split("\n"), "```"]
    return [indent + line if line else "" for line in lines]


def _tab(title: str, text: str, indent: str) -> list[str]:
    return [f'{indent}=== "{title}"', "", *_block(text, indent + "    ")]


def copy_sections(path: Path) -> None:
    """Copy the sections of snippet modules into the notebook cells that name one."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        if section := cell["metadata"].get("section"):
            where = pages.Where(f"{path.name}[{cell.get('id')}]", 1)
            source = pages.section_text(section, pages.root_of(path), where)
            if "".join(cell["source"]) != source:
                cell["source"] = source.splitlines(keepends=True)
    _write_notebook(path, notebook)


def _notebook(page: pages.Page, results: dict[str, Result], kind: str) -> None:
    notebook = json.loads(page.path.read_text(encoding="utf-8"))
    for fence in page.fences:
        cell, got, want = notebook["cells"][fence.start], printed(results[fence.id]), fence.expected(kind)
        text = got
        if want and got.strip() and not compare.text(want.text, got, kind):
            text = want.text
        outputs = []
        if text.strip():
            outputs.append({"name": "stdout", "output_type": "stream", "text": text.splitlines(keepends=True)})
        for figure, drawn in zip(fence.figures, results[fence.id].figures, strict=True):
            light = figures.clean(drawn)
            if figure.svg is not None and not compare.figure(figure.svg, light):
                light = figure.svg
            data = {"image/svg+xml": light.splitlines(keepends=True)}
            outputs.append({"data": data, "metadata": {}, "output_type": "display_data"})
        cell["outputs"], cell["execution_count"] = outputs, None
    _write_notebook(page.path, notebook)


def _write_notebook(path: Path, notebook: dict) -> None:
    text = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
    if text != path.read_text(encoding="utf-8"):
        replace(path, text)


# Records: one small file for each device and version of torch, sealed so that an edit by hand is noticed.


def write(root: Path, done: list[dict], date: str) -> list[Path]:
    """Enter the pages of a green run into the record of their device; return the file written."""
    machines = [page["machine"] for page in done if "torch" in page["machine"]]
    if not machines:
        return []
    machine = {name: machines[0][name] for name in MACHINE}
    path = root / "records" / f"{slugify(machine['device'], '-')}-torch-{machine['torch']}.json"
    old = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    entries = old.get("pages", {}) if all(old.get(name) == machine[name] for name in MACHINE) else {}
    for entry in done:
        page = pages.load(Path(entry["path"]))
        entries[page.name] = {"digest": page.digest, **page.counts, "seconds": entry["seconds"], "date": date}
    names = {p.relative_to(root / "docs").with_suffix("").as_posix() for p in pages.all_pages(root)}
    record = {**machine, "pages": {name: entries[name] for name in sorted(entries) if name in names}}
    replace(path, json.dumps({**record, "seal": seal(record)}, indent=2) + "\n")
    return [path.relative_to(root)]


def problems(root: Path) -> list[str]:
    """What is wrong with the committed records. That of the CPU with the newest torch must be of the pages as they
    are; others may be older (the site says so). No record may differ from what a run wrote."""
    found = []
    loaded = {page.name: page for page in map(pages.load, pages.all_pages(root))}
    files = {path: path.read_text(encoding="utf-8") for path in sorted((root / "records").glob("*.json"))}
    newest = next((run for run in provenance.runs(root) if run.kind == "cpu"), None)
    for path, text in files.items():
        shown, record = path.relative_to(root).as_posix(), json.loads(text)
        must_hold = newest is not None and (record["kind"], record["torch"]) == ("cpu", newest.torch)
        lines = {line.split('"')[1]: number for number, line in enumerate(text.split("\n"), 1) if line.endswith("{")
                 and '"' in line}
        for name, entry in record["pages"].items():
            where, page = f"{shown}:{lines.get(name, 1)}", loaded.get(name)
            if page is None:
                found.append(f"{where}: there is no page {name}")
            elif entry["digest"] == page.digest and {k: entry[k] for k in page.counts} != page.counts:
                found.append(f"{where}: page {name} holds {page.counts}, the record says {entry}")
            elif entry["digest"] != page.digest and must_hold:
                found.append(f"{where}: page {name} ({page.path.relative_to(root)}:1) is not the one that ran: its "
                             f"digest is {page.digest}, the record says {entry['digest']}; run `make record`")
        if record.get("seal") != seal(record):
            found.append(f"{shown}:1: the record was edited: its seal does not match; only a run may write it")
        if must_hold:
            missing = [name for name, page in loaded.items() if page.fences and name not in record["pages"]]
            found += [f"{shown}:1: page {name} has not run; run `make record`" for name in missing]
    if newest is None:
        found.append("records/: there is no record of a run on a CPU; run `make record`")
    return found
