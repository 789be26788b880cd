"""Data that a fence records for the reader to explore are compared with the committed file on every run."""

import json

import pytest

from tests.page_runner import compare
from website import display, pages

WRITE = """
import json
from pathlib import Path

Path("curve.json").write_text(json.dumps({data}))
"""
LINK = "[The measured values](topic/curve.json){ .explorer }\n"
VALUES = {"name": "He", "width": 32, "forward": [0.0, -1.25, 2.5]}


def write(**changes) -> str:
    return WRITE.format(data=VALUES | changes)


@pytest.fixture
def recorded(project):
    project.page(write(), LINK)
    assert project.run("docs", "--record").ret == 0
    return project, project.root / "docs/part/topic/curve.json"


def test_recorded_data_hold(recorded):
    project, file = recorded
    assert json.loads(file.read_text()) == VALUES
    project.run().assert_outcomes(passed=1)


def test_numbers_may_differ_by_one_unit_in_the_last_place(recorded):
    project, _ = recorded
    project.page(write(forward=[0.0, -1.26, 2.5]), LINK)
    project.run().assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"forward": [0.0, -1.27, 2.5]}, "data['forward'][1] was -1.25, is -1.27"),
        ({"forward": [0.0, -1.25]}, "where the committed file has data['forward'][2], this run wrote the end"),
        ({"forward": [0.0, -1.25, 2.5, 1.0]}, "where the committed file has the end, this run wrote data['forward'][3]"),
        ({"name": "Xavier"}, "data['name'] was He, is Xavier"),
        ({"width": 33}, "data['width'] was 32, is 33"),
        ({"width": True}, "data['width'] was 32, is True"),
        ({"more": 1}, "this run wrote data['more']"),
    ],
)
def test_other_data_fail_with_the_line_and_the_value(recorded, changes, problem):
    project, _ = recorded
    project.page(write(**changes), LINK)
    project.fails("docs/part/topic.md:8: part/topic/curve.json is not what this run wrote: ", problem, failed=1)


def test_record_rewrites_what_differs_and_leaves_what_does_not(recorded):
    project, file = recorded
    before = file.read_text()
    project.page(write(forward=[0.0, -1.26, 2.5]), LINK)
    project.run("docs", "--record")
    assert file.read_text() == before
    project.page(write(name="Xavier"), LINK)
    project.run("docs", "--record")
    assert json.loads(file.read_text())["name"] == "Xavier"


def test_an_edited_file_fails(recorded):
    project, file = recorded
    file.write_text(file.read_text().replace("2.5", "2.7"))
    project.fails("data['forward'][2] was 2.7, is 2.5", failed=1)
    file.write_text("{")
    project.fails("not JSON", failed=1)
    file.unlink()
    project.fails("part/topic/curve.json is not committed; `make record` writes it", failed=1)


@pytest.mark.parametrize("code", ["x = 1", WRITE.format(data="float('nan')"), WRITE.replace("curve", "other")])
def test_a_fence_that_writes_no_such_data_fails_also_when_recording(project, code):
    page = project.page(code.format(data=VALUES) if "other" in code else code, LINK)
    line = page.read_text().split("\n").index(LINK.strip()) + 1
    for arguments in ([], ["--record"]):
        result = project.run("docs", *arguments)
        result.assert_outcomes(failed=1)
        assert f"topic.md:{line}: part/topic/curve.json: the fence writes no JSON" in result.stdout.str()
    assert not (project.root / "docs/part/topic/curve.json").exists()


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("[The values](topic/curve.json)\n", "recorded data are a line of their own"),
        ("[The values](topic/curve.json){ .explorer } of it\n", "recorded data are a line of their own"),
        ("[The values](other/curve.json){ .explorer }\n", "the data of this page lie in topic/, not in other/"),
        (LINK + "\n" + LINK, "two data files are named part/topic/curve.json"),
    ],
)
def test_a_link_that_is_not_understood_is_refused(project, line, problem):
    page = project.page(write(), "# Topic\n", line)
    with pytest.raises(pages.PageError, match=problem):
        pages.load(page)


def test_data_without_a_fence_are_refused(project):
    with pytest.raises(pages.PageError, match="data without a fence that writes them"):
        pages.load(project.page("# Topic\n", LINK))


def test_the_digest_of_a_page_covers_its_data(project):
    with_data = pages.load(project.page(write(), LINK)).digest
    assert pages.load(project.page(write())).digest != with_data


def test_the_site_holds_the_link_and_the_data(recorded):
    project, file = recorded
    file.write_text(json.dumps({"name": "</script>", "forward": [1.5]}))
    html = '<p>A</p><p><a class="explorer" href="topic/curve.json">The measured values</a></p>'
    shown = display.explorers(html, pages.load(project.root / "docs/part/topic.md"))
    start, _, rest = shown.partition('<script type="application/json">')
    data, end, after = rest.partition("</script>")
    link = '<p><a download class="explorer" href="topic/curve.json">The measured values</a></p>'
    assert start == f'<p>A</p><div class="explorer" data-explorer="curve">{link}'
    assert json.loads(data) == {"name": "</script>", "forward": [1.5]}
    assert (end, after) == ("</script>", "</div>")


def test_whole_numbers_are_compared_exactly():
    assert compare.data("[1, 2]", "[1, 2]") is None
    assert compare.data("[1, 2]", "[1, 3]") == "data[1] was 2, is 3"
    assert compare.data("[1, 2.5]", "[1, 2.6]") is None
    assert compare.data("[]", "{}") is not None
    assert compare.data("[[], 1]", "[1]") is not None
