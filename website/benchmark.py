"""The record of the benchmark: written by snippets/hardware/benchmark.py, drawn where a page says so."""

import json
import platform
import re
from datetime import UTC, datetime
from hashlib import sha256
from html import escape
from importlib.metadata import version
from pathlib import Path

from website.provenance import day, seal

ROOT = Path(__file__).resolve().parent.parent
MARK = "<!-- benchmark -->"  # stands on the page where the tables go
REMEDIES = "<!-- remedies -->"  # where only the table of remedies goes
RECIPE = ["mnist_99.py:" + section for section in ("crop", "whitening", "network", "batches", "triangle", "train")]
CODE = {  # what measured a part: sections and functions of the modules in snippets/hardware
    "race": [*RECIPE, *(f"benchmark.py:{section}" for section in ("example", "course", "laps", "epochs"))],
    "shares": [*RECIPE, "mnist_99.py:variants"],
    "limit": [*RECIPE, "mnist_99.py:floor"],
    "remedies": ["speed.py:" + name for name in ("loss", "eager", "update", "whole", "by-hand", "epoch", "ways")],
}


def digest(root: Path, part: str) -> str:
    """One number for the code that measured a part."""
    text = ""
    for source in CODE[part]:
        name, section = source.split(":")
        module = (root / "snippets" / "hardware" / name).read_text(encoding="utf-8")
        shown, own = rf"\[start:{section}\]\n(.*?)# --8<-- \[end:{section}\]", rf"^(def {section}\(.*?\n)(?=\S)"
        found = re.search(f"{shown}|{own}", module, re.DOTALL | re.MULTILINE)
        text += found[1] or found[2] if found else "gone"
    return sha256(text.encode()).hexdigest()


def device_name(kind: str) -> str:
    """What the machine calls its processor, or "CPU" where it does not say."""
    if kind != "cpu":
        import torch

        return torch.get_device_module(kind).get_device_name()
    known = Path("/proc/cpuinfo")
    text = known.read_text(encoding="utf-8") if known.is_file() else ""
    return (re.findall(r"^model name\s*: (.*)$", text, re.MULTILINE) or [platform.processor() or "CPU"])[0]


def save(out: str, part: str, rows: list[dict], kind: str, root: Path = ROOT) -> None:
    """Put the rows of a part into a record; parts of another machine or version leave it."""
    file = Path(out)
    machine = {"device": device_name(kind), "torch": version("torch"), "python": platform.python_version()}
    old = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    parts = old["parts"] if old and {key: old[key] for key in machine} == machine else {}
    date = datetime.now(UTC).date().isoformat()
    parts[part] = {"date": date, "digest": digest(root, part), "rows": rows}
    file.parent.mkdir(parents=True, exist_ok=True)
    record = {**machine, "parts": parts}
    file.write_text(json.dumps({**record, "seal": seal(record)}, indent=1) + "\n", encoding="utf-8")


TABLES = {  # of each part: what it is, what the rows are, and what the numbers mean
    "race": ("Time to an accuracy", "loop", "times as long as the recipe"),
    "shares": ("What each part is worth", "recipe with", "times as long as the whole recipe"),
    "remedies": ("Remedies for a training loop", "way", "times as fast as the first way of its group"),
    "limit": ("Distance from the limit", "what", "times as long as its operations and bytes would take"),
}


def number(value: float) -> str:
    """Three digits or all before the point."""
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def percent(share: float, digits: int = 2) -> str:
    return f"{100 * share:.{digits}f} %"


def cells(row: dict, widest: float) -> list[str]:
    """A row of a table in HTML: name, bar and median, quartiles, wall clock, accuracy."""
    low, median, high = row["cpu"]
    goal = f"{100 * row['goal']:g} %: " if "goal" in row else ""
    share = max(1, round(100 * median / widest))
    bar = f'<span class="bar" style="--share: {share}%" aria-hidden="true"></span>'
    least = "" if row.get("reached", True) else "more than "
    spread = "" if low == high else f"{number(low)} to {number(high)}"
    found = [escape(goal + row["name"]), f"{bar}{least}{number(median)}", spread, least + number(row["wall"][1])]
    if "mean" in row:
        found.append(f"{percent(row['mean'])}, lowest of {row['seeds']}: {percent(row['lowest'])}")
    return found


def table(part: str, entry: dict, current: bool) -> str:
    """One part in HTML: a table and the line that says when it was measured."""
    title, first, what = TABLES[part]
    rows = entry["rows"]
    widest = max(row["cpu"][1] for row in rows)
    heads = [first, "CPU time", "quartiles", "wall clock"]
    if "mean" in rows[0]:
        heads.append("accuracy of the recipe" if part == "race" else "accuracy")
    head = "".join(f'<th scope="col">{text}</th>' for text in heads)
    body = ""
    for row in rows:
        name, *rest = cells(row, widest)
        body += f'<tr><th scope="row">{name}</th>' + "".join(f"<td>{cell}</td>" for cell in rest) + "</tr>"
    stale = "" if current else " The code has changed since."
    return (
        f'<div class="measures" tabindex="0" role="group" aria-label="{title}" data-search-exclude>'
        f'<table class="measured"><caption><span>{title}: {what}</span></caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        '<p class="aside" data-search-exclude>'
        f"Measured {day(entry['date'])}.{stale}{more(part, rows)}</p>"
    )


def more(part: str, rows: list[dict]) -> str:
    """What a table has no column for, in a sentence."""
    if part == "race":
        epochs = {row["name"]: ", ".join(percent(share) for share in row["found"]) for row in rows}
        return "".join(f" Test accuracy of {escape(name)}, epoch by epoch: {said}." for name, said in epochs.items())
    if part == "limit":
        (row,) = rows
        return (f" {row['operations'] / 1e9:.0f} GFLOP and {row['bytes'] / 1e9:.1f} GB. The most that was seen on this"
                f" machine: {number(row['float32'])} GFLOP/s in float32, {number(row['bfloat16'])} in bfloat16, and"
                f" {number(row['copy'])} GB/s for a copy.")
    return ""


def block(root: Path = ROOT, only: str | None = None) -> str:
    """All records in HTML, one after the other, or one part of each; a sentence where nothing was recorded."""
    parts = []
    for file in sorted((root / "records" / "speed").glob("*.json")):
        record = json.loads(file.read_text(encoding="utf-8"))
        device, torch, python = (escape(record[key]) for key in ("device", "torch", "python"))
        parts.append(f"<p><strong>{device}</strong>, one thread, torch {torch}, Python {python}</p>")
        for part in [only] if only else TABLES:
            if entry := record["parts"].get(part):
                parts.append(table(part, entry, current=entry["digest"] == digest(root, part)))
    return "\n".join(parts) or "<p>Not measured yet.</p>"
