"""The record of the benchmark: written by snippets/hardware/benchmark.py, drawn where a page says so."""

import json
import platform
import re
from datetime import UTC, datetime
from hashlib import sha256
from html import escape
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MARK = "<!-- benchmark -->"  # stands on the page where the tables go
RECIPE = ["mnist_99.py:" + section for section in ("crop", "whitening", "network", "batches", "triangle", "train")]
CODE = {  # what measured a part: sections of the modules in snippets/hardware
    "race": [*RECIPE, *(f"benchmark.py:{section}" for section in ("example", "course", "laps", "epochs"))],
    "shares": [*RECIPE, "mnist_99.py:variants"],
    "limit": [*RECIPE, "mnist_99.py:floor"],
}


def digest(root: Path, part: str) -> str:
    """One number for the code that measured a part."""
    text = ""
    for source in CODE[part]:
        name, section = source.split(":")
        module = (root / "snippets" / "hardware" / name).read_text(encoding="utf-8")
        text += re.search(rf"\[start:{section}\]\n(.*?)# --8<-- \[end:{section}\]", module, re.DOTALL)[1]
    return sha256(text.encode()).hexdigest()


def device_name(kind: str) -> str:
    """What the machine calls its processor, or "CPU" where it does not say."""
    if kind != "cpu":
        import torch

        return torch.get_device_module(kind).get_device_name()
    known = Path("/proc/cpuinfo")
    text = known.read_text(encoding="utf-8") if known.is_file() else ""
    return (re.findall(r"^model name\s*: (.*)$", text, re.MULTILINE) or [platform.processor() or "CPU"])[0]


def save(file: Path, part: str, rows: list[dict], kind: str, root: Path = ROOT) -> None:
    """Put the rows of a part into a record; parts of another machine or version leave it."""
    machine = {"device": device_name(kind), "torch": version("torch"), "python": platform.python_version()}
    old = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    parts = old["parts"] if old and {key: old[key] for key in machine} == machine else {}
    date = datetime.now(UTC).date().isoformat()
    parts[part] = {"date": date, "digest": digest(root, part), "rows": rows}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({**machine, "parts": parts}, indent=1) + "\n", encoding="utf-8")

TABLES = {
    "race": ("Time to an accuracy", "Loop", "times as long as the recipe"),
    "shares": ("What each part is worth", "Recipe with", "times as long as the whole recipe"),
    "limit": ("Distance from the limit", "What", "times as long as its operations and bytes would take"),
}


def number(value: float) -> str:
    """Three digits."""
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def cells(row: dict, widest: float) -> list[str]:
    """A row of a table in HTML: name, bar and median, quartiles, wall clock, and what was reached."""
    (low, median, high), wall = row["cpu"], row["wall"][1]
    least = "" if row.get("reached", True) else "more than "
    goal = f"{row['goal']:.1%}: ".replace(".0%", "%").replace("%", " %") if "goal" in row else ""
    width = max(1, round(100 * median / widest))
    bar = f'<span class="bar" style="--share: {width}%" aria-hidden="true"></span>'
    found = [
        escape(goal + row["name"]),
        f"{bar}{least}{number(median)}",
        "" if low == high else f"{number(low)} to {number(high)}",
        number(wall),
    ]
    if "mean" in row:
        found += [f"{row['mean']:.2%}".replace("%", " %"), f"{row['lowest']:.2%}".replace("%", " %"), str(row["seeds"])]
    return found


def table(part: str, entry: dict, current: bool) -> str:
    """One part as a caption, a table and the line that says when it was measured."""
    title, first, what = TABLES[part]
    rows = entry["rows"]
    widest = max(row["cpu"][1] for row in rows)
    heads = [first, f"CPU time, {what}", "quartiles", "wall clock"]
    if "mean" in rows[0]:
        heads += ["accuracy of the recipe" if part == "race" else "accuracy", "lowest", "seeds"]
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    body = "".join(
        f'<tr><th scope="row">{name}</th>' + "".join(f"<td>{cell}</td>" for cell in rest) + "</tr>"
        for name, *rest in (cells(row, widest) for row in rows)
    )
    stale = "" if current else " The code has changed since."
    return (
        f'<div class="benchmark" tabindex="0" role="group" aria-label="{title}"><table><caption>{title}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        f'<p class="measured">Measured {entry["date"]}.{stale}{details(part, rows)}</p>'
    )


def details(part: str, rows: list[dict]) -> str:
    """What a table has no column for, in a sentence."""
    if part == "race":
        counted = {row["name"]: len(row["found"]) for row in rows}
        shares = {row["name"]: row["found"] for row in rows}
        said = (f"{name} after each of {n} epochs: {', '.join(f'{share:.2%}' for share in shares[name])}"
                for name, n in counted.items())
        return " Test accuracy of " + "; ".join(said).replace("%", " %") + "."
    if part == "limit":
        row = rows[0]
        return (f" {row['operations'] / 1e9:.0f} GFLOP and {row['bytes'] / 1e9:.1f} GB; this machine makes at most "
                f"{row['float32']:.0f} GFLOP/s in float32, {row['bfloat16']:.3g} in bfloat16, "
                f"and copies {row['copy']:.0f} GB/s.")
    return ""


def block(root: Path = ROOT) -> str:
    """All records as HTML, a section for each device; a sentence where nothing was recorded."""
    parts = []
    for file in sorted((root / "records" / "speed").glob("*.json")):
        record = json.loads(file.read_text(encoding="utf-8"))
        parts.append(f"<p><strong>{escape(record['device'])}</strong>, one thread, torch {escape(record['torch'])}, "
                     f"Python {escape(record['python'])}</p>")
        for part in TABLES:
            if entry := record["parts"].get(part):
                parts.append(table(part, entry, current=entry["digest"] == digest(root, part)))
    return "\n".join(parts) or "<p>Not measured yet.</p>"
