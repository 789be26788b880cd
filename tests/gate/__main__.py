"""Measure the gate: damage a copy of the project at random, and count how many faults its checks notice.

    python -m tests.gate --rounds 8 --seed 0 --out records/gate/faults.json

In each round every page gets one fault in its program, and the pages run as they always do. Besides, each page is run
once as it is, and several faults a round in what it shows (outputs, figures, data, the names of errors) are compared
with the results of that run, by the runner's own checks. Faults that are not noticed so are given to the other checks:
the tests of a module, the strict build, the records. What none of them notices is listed.
"""

import argparse
import datetime
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

from tests.gate.faults import Fault, faults
from tests.page_runner import record
from tests.page_runner.plugin import FenceItem, PageFailure
from tests.page_runner.session import Result, Session
from website import pages

ROOT = pages.ROOT
ENDED = re.compile(r"^(?:FAILED|ERROR) (\S+?\.(?:md|ipynb|py))\b", re.MULTILINE)
OF_RUNS = ("code", "include", "module")  # another program: it has to run
SHOWN = ("output", "figure", "expectation", "recorded data")  # the same program: its results are compared
SHOWN_A_ROUND = 5


def copy(folder: Path) -> None:
    """The files of the project as they are, its data by a link."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if not name.startswith("data/") and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    (folder / "data").symlink_to(ROOT / "data")


def pytest_says(folder: Path, *names: str) -> set[str]:
    """The files, among those named, in which a test failed or could not be collected."""
    options = ["-q", "--tb=no", "-p", "no:cacheprovider", "-o", "page_timeout=300", "-rfE", "--no-header"]
    variables = os.environ | {"COLUMNS": "400", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-m", "pytest", *options, *names], cwd=folder, env=variables,
                          capture_output=True, text=True)  # fmt: skip
    if done.returncode not in (0, 1, 2):
        raise RuntimeError(f"pytest ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return set(ENDED.findall(done.stdout))


def build_says(folder: Path) -> str:
    """What the strict build complains of."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder / "built")]
    done = subprocess.run(command, cwd=folder, env=os.environ | {"NO_COLOR": "1"}, capture_output=True, text=True)
    return done.stderr if done.returncode else ""


def plan(known: dict[Path, dict[str, list[Fault]]], chance: random.Random) -> list[Fault]:
    """One fault for each page, of kinds that a run can notice, none of which touches the page of another."""
    users = defaultdict(set)
    for path in known:
        for section in pages.load(path).included:
            users[ROOT / section.partition(":")[0]].add(path)
    chosen: dict[Path, Fault] = {}
    blocked: set[Path] = set()
    order = list(known)
    chance.shuffle(order)
    for path in order:
        kinds = [kind for kind in OF_RUNS if known[path].get(kind)]
        if path in blocked or not kinds:
            continue
        kind = chance.choice(kinds)
        fault = chance.choice(known[path][kind])
        if kind == "module":
            others = users[fault.file] - {path}
            if others & set(chosen):
                continue
            blocked |= others
        chosen[path] = fault
    return list(chosen.values())


def results_of(path: Path) -> tuple[dict[str, Result], str]:
    """What each fence of a page did, run once as it is, and the kind of the device."""
    session = Session(pages.load(path), timeout=600)
    try:
        for fence in session.page.fences:
            session.run(fence)
        return session.results, session.machine["kind"]
    finally:
        session.close()


def is_shown_wrong(path: Path, results: dict[str, Result], kind: str) -> bool:
    """Whether the checks of the page runner mind a page, given what its fences did."""
    for fence in pages.load(path).fences:
        item = object.__new__(FenceItem)  # as pytest makes it, without a run around it
        item.fence, item.path = fence, path
        item.config = SimpleNamespace(option=SimpleNamespace(record=False))
        try:
            item.check(results[fence.id], kind)
        except PageFailure:
            return True
    return False


def compare_page(path: Path, chosen: list[Fault]) -> dict[Fault, str]:
    """Run a page once; compare what it did with each of its damaged versions. "" for what was not noticed."""
    if not chosen:
        return {}
    results, kind = results_of(path)
    noticed = {}
    with tempfile.TemporaryDirectory(prefix="gate-") as name:
        folder = Path(name)
        copy(folder)
        page = folder / path.relative_to(ROOT)
        if is_shown_wrong(page, results, kind):
            raise RuntimeError(f"{path} does not hold even without a fault; the machine may be too busy")
        for fault in chosen:
            file, text = folder / fault.file.relative_to(ROOT), fault.file.read_text(encoding="utf-8")
            file.write_text(fault.apply(text), encoding="utf-8")
            try:
                wrong = is_shown_wrong(page, results, kind)
            except pages.PageError:
                wrong = True
            said = "" if wrong else "\n".join(_record_says(folder))
            by_record = f"({path.relative_to(ROOT).as_posix()}:1) is not the one" in said
            noticed[fault] = "running" if wrong else "record" if by_record else ""
            file.write_text(text, encoding="utf-8")
    return noticed


def compared(known: dict[Path, dict[str, list[Fault]]], chance: random.Random, count: int) -> dict[Fault, str]:
    """Faults in what pages show, up to so many on each page."""
    chosen = {}
    for path, found in known.items():
        some = [fault for kind in SHOWN for fault in chance.sample(found.get(kind, []), min(count, len(found.get(kind, []))))]
        chosen[path] = chance.sample(some, min(count, len(some)))
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # a page runs in a process of its own
        done = list(pool.map(compare_page, chosen, chosen.values()))
    return {fault: by for one in done for fault, by in one.items()}


def run_round(planned: list[Fault]) -> dict[Fault, str]:
    """Which check noticed each fault; those that no check noticed are left out."""
    noticed: dict[Fault, str] = {}
    with tempfile.TemporaryDirectory(prefix="gate-") as name:
        folder = Path(name)
        copy(folder)
        for fault in planned:
            file = folder / fault.file.relative_to(ROOT)
            file.write_text(fault.apply(fault.file.read_text(encoding="utf-8")), encoding="utf-8")
        here = {fault: fault.page.relative_to(ROOT).as_posix() for fault in planned}
        red = pytest_says(folder, *here.values())
        noticed |= {fault: "running" for fault in planned if here[fault] in red}
        tests = {fault: _test_of(fault) for fault in planned if fault.kind == "module" and fault not in noticed}
        if tests:
            red = pytest_says(folder, *set(tests.values()))
            noticed |= {fault: "tests" for fault, test in tests.items() if test in red}
        if set(planned) - set(noticed):
            problems = "\n".join(_record_says(folder))
            for fault in set(planned) - set(noticed):
                if f"({here[fault]}:1) is not the one" in problems or f"{here[fault]}:" in problems:
                    noticed[fault] = "record"
    return noticed


def _test_of(fault: Fault) -> str:
    module = fault.file.relative_to(ROOT / "snippets")
    return f"tests/{module.parent.as_posix()}/test_{module.name}"


def _record_says(folder: Path) -> list[str]:
    try:
        return record.problems(folder)
    except pages.PageError as error:
        return [str(error)]


def others(known: dict[Path, dict[str, list[Fault]]], chance: random.Random, count: int) -> dict[Fault, str]:
    """Faults in links, all in one build, and in records, each by itself; "" for what was not noticed."""
    links = [chance.choice(found["link"]) for found in known.values() if found.get("link")]
    records = [chance.choice(found["record"]) for found in known.values() if found.get("record")]
    links, records = (chance.sample(some, min(count, len(some))) for some in (links, records))
    noticed = {}
    with tempfile.TemporaryDirectory(prefix="gate-") as name:
        folder = Path(name)
        copy(folder)
        for fault in links:
            (folder / fault.file.relative_to(ROOT)).write_text(
                fault.apply(fault.file.read_text(encoding="utf-8")), encoding="utf-8")  # fmt: skip
        said = build_says(folder)
        for fault in links:
            noticed[fault] = "build" if f"'{fault.file.relative_to(ROOT / 'docs').as_posix()}'" in said and fault.new in said else ""
    with tempfile.TemporaryDirectory(prefix="gate-") as name:
        folder = Path(name)
        copy(folder)
        for fault in records:
            file, text = folder / fault.file.relative_to(ROOT), fault.file.read_text(encoding="utf-8")
            file.write_text(fault.apply(text), encoding="utf-8")
            noticed[fault] = "record" if _record_says(folder) else ""
            file.write_text(text, encoding="utf-8")
    return noticed


def main(rounds: int, seed: int, out: Path | None) -> int:
    """Plant, count, print; return how many faults no check noticed. The result so far is kept after each step."""
    chance = random.Random(seed)
    known = {path: faults(path, ROOT) for path in pages.all_pages() if pages.load(path).fences}
    outcome = compared(known, chance, SHOWN_A_ROUND * max(rounds, 1))
    keep(outcome, seed, 0, out)
    outcome |= others(known, chance, 8 * max(rounds, 1))
    keep(outcome, seed, 0, out)
    for number in range(rounds):
        planned = [fault for fault in plan(known, chance) if fault not in outcome]
        noticed = run_round(planned)
        outcome |= {fault: noticed.get(fault, "") for fault in planned}
        print(f"round {number + 1}: {len(noticed)} of {len(planned)} noticed", flush=True)
        keep(outcome, seed, number + 1, out)
    return sum(not by for by in outcome.values())


def keep(outcome: dict[Fault, str], seed: int, rounds: int, out: Path | None) -> None:
    """After so many rounds of faults in programs: print the counts and what was not noticed; write them to a file, if there is one."""
    counts = defaultdict(Counter)
    for fault, by in outcome.items():
        counts[fault.kind]["tried"] += 1
        counts[fault.kind][by or "nobody"] += 1

    def described(chosen) -> list[dict]:
        return [f.describe(f.file.read_text(encoding="utf-8"), ROOT) for f in chosen]

    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    result = {
        "date": today, "seed": seed, "rounds": rounds, "kinds": {k: dict(counts[k]) for k in sorted(counts)},
        "not_noticed": described(f for f, by in outcome.items() if not by),
        "by_the_record_alone": described(f for f, by in outcome.items() if by == "record" and f.kind != "record"),
    }  # fmt: skip
    print(json.dumps(result, indent=2, ensure_ascii=False), flush=True)
    if out:
        record.replace(out, json.dumps(result | {"seal": record.seal(result)}, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1, help="one fault a page in each (1)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (0)")
    parser.add_argument("--out", type=Path, help="a file for the result")
    options = parser.parse_args()
    sys.exit(main(options.rounds, options.seed, options.out) > 0)
