"""The record of the benchmark: what is written, and how it is drawn."""

import json
import re
import shutil
from html.parser import HTMLParser

import pytest

from website import benchmark, provenance

ROW = {"name": "a <loop>", "cpu": [1.5, 2.0, 3.25], "wall": [2.0, 2.5, 3.0]}


@pytest.fixture
def root(tmp_path):
    """A project with three modules and no record."""
    folder = tmp_path / "snippets" / "hardware"
    folder.mkdir(parents=True)
    for name in ("mnist_99.py", "benchmark.py", "speed.py"):
        shutil.copy(benchmark.ROOT / "snippets" / "hardware" / name, folder)
    return tmp_path


@pytest.fixture
def out(root):
    return root / "records" / "speed" / "cpu.json"


def change(root, name, section):
    """Edit a section of a module, or a function that is no section."""
    module = root / "snippets" / "hardware" / name
    text = module.read_text(encoding="utf-8")
    edited = re.sub(rf"(\[start:{section}\]|^def {section}\(.*)\n", r"\g<0>    # changed\n", text, count=1, flags=re.MULTILINE)
    assert edited != text
    module.write_text(edited, encoding="utf-8")


def balanced(html: str) -> bool:
    """Whether every element that is opened is closed, in order."""
    opened = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag, attributes):
            opened.append(tag)

        def handle_endtag(self, tag):
            assert opened.pop() == tag

    Parser().feed(html)
    return not opened


def test_a_record_says_where_when_and_by_which_code(root, out):
    benchmark.save(str(out), "limit", [ROW], "cpu", root)
    record = json.loads(out.read_text(encoding="utf-8"))
    assert set(record) == {"device", "torch", "python", "parts", "seal"}
    assert record["seal"] == provenance.seal(record)
    assert re.fullmatch(r"3\.\d+\.\d+", record["python"])
    assert record["device"]
    part = record["parts"]["limit"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", part["date"])
    assert part["digest"] == benchmark.digest(root, "limit")
    assert part["rows"] == [ROW]


def test_a_part_is_replaced_and_the_others_stay(root, out):
    benchmark.save(str(out), "limit", [ROW], "cpu", root)
    benchmark.save(str(out), "race", [ROW], "cpu", root)
    benchmark.save(str(out), "limit", [ROW, ROW], "cpu", root)
    parts = json.loads(out.read_text(encoding="utf-8"))["parts"]
    assert {part: len(entry["rows"]) for part, entry in parts.items()} == {"limit": 2, "race": 1}


@pytest.mark.parametrize("key", ["device", "torch", "python"])
def test_parts_of_another_machine_or_version_leave(root, out, key):
    benchmark.save(str(out), "race", [ROW], "cpu", root)
    record = json.loads(out.read_text(encoding="utf-8"))
    out.write_text(json.dumps(record | {key: "another"}), encoding="utf-8")
    benchmark.save(str(out), "limit", [ROW], "cpu", root)
    now = json.loads(out.read_text(encoding="utf-8"))
    assert list(now["parts"]) == ["limit"]
    assert now[key] == record[key]


@pytest.mark.parametrize(
    ("name", "section", "changed"),
    [
        ("mnist_99.py", "train", {"race", "shares", "limit"}),
        ("mnist_99.py", "variants", {"shares"}),
        ("mnist_99.py", "floor", {"limit"}),
        ("mnist_99.py", "accuracy", set()),
        ("benchmark.py", "example", {"race"}),
        ("benchmark.py", "laps", {"race"}),
        ("benchmark.py", "seeds", set()),
        ("speed.py", "by-hand", {"remedies"}),
        ("speed.py", "ways", {"remedies"}),
        ("speed.py", "main", set()),
    ],
)
def test_a_part_notices_changes_of_the_code_that_measured_it(root, name, section, changed):
    parts = ("race", "shares", "limit", "remedies")
    before = {part: benchmark.digest(root, part) for part in parts}
    change(root, name, section)
    assert {part for part in parts if benchmark.digest(root, part) != before[part]} == changed


def test_a_section_that_is_gone_is_a_change(root):
    before = benchmark.digest(root, "limit")
    module = root / "snippets" / "hardware" / "mnist_99.py"
    text = module.read_text(encoding="utf-8").replace(":floor]", ":other]").replace("def floor(", "def other(")
    module.write_text(text, encoding="utf-8")
    assert benchmark.digest(root, "limit") != before


def test_the_page_says_whether_the_code_has_changed(root, out):
    benchmark.save(str(out), "shares", [ROW], "cpu", root)
    assert "The code has changed since." not in benchmark.block(root)
    change(root, "mnist_99.py", "variants")
    assert "The code has changed since." in benchmark.block(root)


def test_without_a_record_the_page_says_so(root):
    assert benchmark.block(root) == "<p>Not measured yet.</p>"


def test_tables_are_accessible_and_balanced(root, out):
    limit = ROW | {"operations": 95e9, "bytes": 6.7e9, "float32": 80.3, "bfloat16": 1.3, "copy": 17.6}
    race = ROW | {"goal": 0.99, "reached": True, "found": [0.98, 0.991], "mean": 0.9912, "lowest": 0.9903, "seeds": 8}
    for part, rows in {"race": [race], "shares": [ROW, ROW | {"cpu": [1.0, 1.0, 1.0]}], "limit": [limit]}.items():
        benchmark.save(str(out), part, rows, "cpu", root)
    html = benchmark.block(root)
    assert balanced(html)
    assert html.count("<caption>") == html.count('tabindex="0"') == html.count("aria-label=") == 3
    assert html.count('scope="row"') == 4
    assert "a &lt;loop&gt;" in html
    assert "<loop>" not in html
    assert "99 %: a &lt;loop&gt;" in html
    assert "99.12 %, lowest of 8: 99.03 %" in html
    assert "epoch by epoch: 98.00 %, 99.10 %." in html
    assert "95 GFLOP and 6.7 GB" in html
    assert "80.3 GFLOP/s in float32, 1.3 in bfloat16, and 17.6 GB/s" in html
    assert html.index("Time to an accuracy") < html.index("What each part is worth") < html.index("Distance from")


def test_one_part_can_be_drawn_by_itself(root, out):
    for part in "remedies", "shares":
        benchmark.save(str(out), part, [ROW], "cpu", root)
    html = benchmark.block(root, "remedies")
    assert balanced(html)
    assert html.count("<caption>") == 1
    assert "Remedies for a training loop" in html
    assert benchmark.block(root).count("<caption>") == 2


def test_bars_are_shares_of_the_longest():
    rows = [ROW, ROW | {"cpu": [0.5, 0.5, 0.5]}, ROW | {"cpu": [0, 0.001, 0]}]
    html = benchmark.table("shares", {"date": "2026-01-02", "rows": rows, "digest": ""}, True)
    assert re.findall(r"--share: (\d+)%", html) == ["100", "25", "1"]
    assert html.count("1.5 to 3.25") == 1
    assert '<time datetime="2026-01-02">2026-01-02</time>' in html


def test_a_goal_that_was_not_reached_is_a_bound():
    name, cpu, quartiles, wall = benchmark.cells(ROW | {"goal": 0.955, "reached": False}, 2.0)
    assert name == "95.5 %: a &lt;loop&gt;"
    assert cpu.endswith("</span>more than 2")
    assert (quartiles, wall) == ("1.5 to 3.25", "more than 2.5")


@pytest.mark.parametrize(("value", "said"), [(0.12345, "0.123"), (2, "2"), (206.4, "206"), (1234.5, "1,234")])
def test_numbers_have_three_digits(value, said):
    assert benchmark.number(value) == said


def test_the_device_is_named_by_the_machine(monkeypatch, tmp_path):
    monkeypatch.setattr(benchmark, "Path", lambda path: tmp_path / "cpuinfo")
    monkeypatch.setattr(benchmark.platform, "processor", lambda: "")
    assert benchmark.device_name("cpu") == "CPU"
    monkeypatch.setattr(benchmark.platform, "processor", lambda: "arm")
    assert benchmark.device_name("cpu") == "arm"
    (tmp_path / "cpuinfo").write_text("processor : 0\nmodel name\t: Some CPU\nmodel name\t: Some CPU\n")
    assert benchmark.device_name("cpu") == "Some CPU"


def test_an_accelerator_is_named_by_its_driver(monkeypatch):
    import torch

    module = type("Module", (), {"get_device_name": staticmethod(lambda: "Some GPU")})
    monkeypatch.setattr(torch, "get_device_module", lambda kind: module if kind == "cuda" else None)
    assert benchmark.device_name("cuda") == "Some GPU"


def test_committed_records_can_be_drawn():
    html = benchmark.block()
    assert balanced(html)
    files = list((benchmark.ROOT / "records" / "speed").glob("*.json"))
    assert html.count("<strong>") == len(files)
