"""What the gate plants: edits that change one place of one file, of every kind, the same for the same seed."""

import random

import pytest

from tests.gate import __main__ as gate
from tests.gate.faults import OTHER, Fault, faults
from website import pages

PAGE = pages.ROOT / "docs/basics/gradient-descent.md"


@pytest.fixture(scope="module")
def found():
    return faults(PAGE, pages.ROOT)


def test_a_page_has_faults_of_every_kind(found):
    assert set(found) >= {"code", "output", "figure", "recorded data", "include", "module", "link", "record"}


def test_each_fault_changes_one_place_of_its_file(found):
    for kind, some in found.items():
        for fault in random.Random(0).sample(some, min(40, len(some))):
            text = fault.file.read_text(encoding="utf-8")
            changed = fault.apply(text)
            assert changed != text, fault
            assert changed[: fault.start] == text[: fault.start]
            assert changed[fault.start + len(fault.new) :] == text[fault.end :]
            said = fault.describe(text, pages.ROOT)
            assert said["kind"] == kind
            assert (pages.ROOT / said["where"].partition(":")[0]) == fault.file


def test_a_module_is_damaged_only_where_a_page_shows_it(found):
    page = pages.load(PAGE)
    shown = {(where.path, where.line) for fence in page.fences for where in fence.origins}
    for fault in found["module"]:
        line = fault.file.read_text(encoding="utf-8").count("\n", 0, fault.start) + 1
        assert (fault.file.relative_to(pages.ROOT).as_posix(), line) in shown


def test_an_output_is_damaged_between_its_fences(found):
    text = PAGE.read_text(encoding="utf-8")
    for fault in found["output"]:
        before = text[: fault.start]
        assert before.rfind("```text\n") > before.rfind("```\n", 0, len(before) - 1) - len("```text\n")


def test_the_same_seed_draws_the_same_faults(found):
    first = gate.plan({PAGE: found}, random.Random(5))
    assert first == gate.plan({PAGE: found}, random.Random(5))
    assert any(gate.plan({PAGE: found}, random.Random(seed)) != first for seed in range(6, 9))


def test_no_operator_becomes_itself():
    assert all(old != new for old, new in OTHER.items())


def test_no_two_faults_of_a_round_meet_on_a_page(found):
    known = {path: faults(path, pages.ROOT) for path in [PAGE, PAGE.with_name("linear-regression.md")]}
    for seed in range(20):
        planned = gate.plan(known, random.Random(seed))
        assert len({fault.page for fault in planned}) == len(planned)
        for fault in planned:
            if fault.kind == "module":
                section = fault.file.relative_to(pages.ROOT).as_posix()
                users = [p for p in known if any(name.startswith(f"{section}:") for name in pages.load(p).included)]
                assert [f.page for f in planned if f.page in users] == [fault.page]


def test_a_round_on_a_real_page_tells_noticed_from_unnoticed():
    text = PAGE.read_text(encoding="utf-8")
    output = text.index("```text\n") + len("```text\n")
    wrong = Fault("output", PAGE, PAGE, output, output, "9")
    title = Fault("output", PAGE, PAGE, text.index("# ") + 2, text.index("# ") + 2, "The ")  # prose: nothing minds it
    assert gate.run_round([wrong]) == {wrong: "running"}
    assert gate.compare_page(PAGE, [title, wrong, title]) == {wrong: "running", title: ""}


def test_a_damaged_link_and_a_damaged_record_are_noticed(found):
    noticed = gate.others({PAGE: found}, random.Random(0), 1)
    assert sorted((fault.kind, by) for fault, by in noticed.items()) == [("link", "build"), ("record", "record")]
