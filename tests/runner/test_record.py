"""Points 5, 9 and 10: recording, the provenance record, pages in parallel, and notebooks."""

import datetime
import json

import pytest

from tests.page_runner import record
from tests.runner.test_outcomes import tabs
from website import pages


def test_recording_rewrites_only_what_does_not_hold(project):
    page = project.page("# T", "print('~2 a')", "> ~3 a", "# U", "print(2)", "> 1", "# V", "print(3)", "x = 1", "> 4")
    assert project.run("docs", "--record").ret == 0
    shown = [o.text for f in pages.load(page).fences for o in f.outputs.values()]
    assert shown == ["~3 a\n", "2\n", "3\n"]
    before = page.read_text()
    project.run().assert_outcomes(passed=4)
    project.run("docs", "--record")
    assert page.read_text() == before


def test_recording_keeps_the_indentation_of_a_fence(project):
    page = project.write("docs/t.md", "")
    page.write_text('??? success "Solution"\n\n    ```python\n    print("a\\n\\nb")\n    ```\n\nThe end.\n')
    project.run("docs", "--record")
    shown = "    <!--pytest-codeblocks:expected-output-->\n    ```text\n    a\n\n    b\n    ```\n"
    assert f"    ```\n\n{shown}\nThe end.\n" in page.read_text()
    project.run().assert_outcomes(passed=1)


def test_recording_does_not_forgive_an_error(project):
    page = project.page("print(1)", "> 2", "1 / 0")
    before = page.read_text()
    assert project.run("docs", "--record").ret == 1
    assert page.read_text() == before


def test_a_gpu_that_prints_where_the_cpu_does_not_gets_the_only_tab_and_keeps_what_is_there(project):
    from tests.page_runner.session import Result

    path = project.page("print(1)", tabs(cpu="1"), "x = 1", "print(2)", "> 2")
    results = {"start": Result("5\n"), "start-2": Result("7\n"), "start-3": Result("")}
    record.rewrite(pages.load(path), results, "cuda")
    shown = [{kind: output.text for kind, output in f.outputs.items()} for f in pages.load(path).fences]
    assert shown == [{"cpu": "1\n", "cuda": "5\n"}, {"cuda": "7\n"}, {"cpu": "2\n"}]
    project.run().assert_outcomes(passed=3)
    before = path.read_text()
    record.rewrite(pages.load(path), results, "cuda")
    assert path.read_text() == before
    with pytest.raises(ValueError, match="prints nothing here any more: remove this tab"):
        record.rewrite(pages.load(path), results | {"start": Result("")}, "cuda")


def test_another_device_that_prints_otherwise_gets_a_tab_of_its_own(project):
    path = project.page("print(1)", "> 1", "print(0.5)", "> 0.5")
    page = pages.load(path)
    from tests.page_runner.session import Result

    record.rewrite(page, {"start": Result("2\n"), "start-2": Result("0.5\n")}, "cuda")
    first, second = pages.load(path).fences
    assert {kind: output.text for kind, output in first.outputs.items()} == {"cpu": "1\n", "cuda": "2\n"}
    assert {kind: output.text for kind, output in second.outputs.items()} == {"": "0.5\n"}
    record.rewrite(pages.load(path), {"start": Result("3\n"), "start-2": Result("0.5\n")}, "cuda")
    assert {k: o.text for k, o in pages.load(path).fences[0].outputs.items()} == {"cpu": "1\n", "cuda": "3\n"}
    project.run().assert_outcomes(passed=2)


@pytest.fixture
def recorded(project):
    """A project with a record of two pages, one of which uses torch."""
    project.page("import torch\nprint(torch.ones(2).sum().item())", "> 2.0", "import torch", name="part/topic")
    project.page("print(1)", "> 1", name="other")
    assert project.run("docs", "--record").ret == 0
    (file,) = (project.root / "records").glob("cpu-torch-*.json")
    return project, file


def test_a_green_run_records_what_ran_where_and_on_what(recorded):
    import torch
    import torchvision

    project, file = recorded
    entry = json.loads(file.read_text())
    page = pages.load(project.root / "docs/part/topic.md")
    today = datetime.datetime.now(datetime.UTC).date()
    if not torch.accelerator.is_available():
        assert (entry["device"], entry["kind"]) == ("CPU", "cpu")
    assert (entry["torch"], entry["torchvision"]) == (torch.__version__.split("+")[0], torchvision.__version__.split("+")[0])
    assert sorted(entry["pages"]) == ["other", "part/topic"]
    written = entry["pages"]["part/topic"]
    assert (written["digest"], written["fences"], written["outputs"], written["figures"]) == (page.digest, 2, 1, 0)
    assert abs((datetime.date.fromisoformat(written["date"]) - today).days) <= 1
    assert record.problems(project.root) == []


def test_a_red_or_partial_run_records_nothing(recorded):
    project, file = recorded
    before = file.read_text()
    project.page("print(2)", "> 2", "1 / 0", name="other")
    assert project.run("docs", "--record").ret == 1
    project.page("x = 1", "# B", "x = 2", name="other")
    assert project.run("docs", "-k", "start", "--record").ret == 0
    assert json.loads(file.read_text())["pages"]["other"] == json.loads(before)["pages"]["other"]


def test_the_digest_is_of_the_program_and_not_of_the_prose(recorded):
    project, _ = recorded
    page = project.root / "docs/other.md"
    digest, text = pages.load(page).digest, page.read_text()
    page.write_text("# A title\n\nProse.\n\n" + text)
    assert pages.load(page).digest == digest
    changes = [("print(1)", "print(1) "), ("\n1\n", "\n2\n"), ("```python", "```bash"), ("```\n", "```\n\n```python\n```\n")]
    for old, new in changes:
        page.write_text(text.replace(old, new, 1))
        assert pages.load(page).digest != digest, (old, new)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda r: r["pages"]["other"].update(digest="0" * 64), "cpu.json:17: page other (docs/other.md:1) is not the one"),
        (lambda r: r["pages"]["other"].update(fences=2), "cpu.json:17: page other holds"),
        (lambda r: r["pages"]["other"].update(date="2031-01-01"), "records/cpu.json:1: the record was edited"),
        (lambda r: r.update(torch="9.9.9"), "records/cpu.json:1: the record was edited"),
        (lambda r: r.update(seal="0"), "records/cpu.json:1: the record was edited"),
        (lambda r: r["pages"].pop("other"), "records/cpu.json:1: page other has not run; run `make record`"),
        (lambda r: r["pages"].update(gone=r["pages"]["other"]), "there is no page gone"),
    ],
)
def test_a_record_cannot_be_edited_into_being(recorded, change, problem):
    project, file = recorded
    edited = json.loads(file.read_text())
    change(edited)
    file.write_text(json.dumps(edited, indent=2) + "\n")
    lines = enumerate(file.read_text().split("\n"), 1)
    number = next((n for n, line in lines if '"other": {' in line), 0)
    found = record.problems(project.root)
    assert any(problem.replace("cpu.json:17", f"{file.name}:{number}").replace("cpu.json", file.name) in p for p in found), found
    assert any("the record was edited" in p for p in found)


def test_a_page_that_changed_makes_the_record_of_the_cpu_stale_but_not_that_of_a_gpu(recorded):
    project, file = recorded
    gpu = json.loads(file.read_text()) | {"device": "NVIDIA H200", "kind": "cuda"}
    (file.parent / "nvidia-h200-torch-2.11.0.json").write_text(json.dumps(gpu | {"seal": record.seal(gpu)}, indent=2))
    assert record.problems(project.root) == []
    project.page("print(3)", "> 3", name="other")
    found = record.problems(project.root)
    assert len(found) == 1
    assert f"records/{file.name}" in found[0]


@pytest.mark.parametrize(("other", "must_hold"), [("2.9.1", False), ("99.0.0", True)])
def test_only_the_record_of_the_newest_torch_has_to_hold(recorded, other, must_hold):
    project, file = recorded
    old = json.loads(file.read_text()) | {"torch": other}
    old["pages"]["other"]["digest"] = "0" * 64
    name = f"cpu-torch-{other}.json"
    (file.parent / name).write_text(json.dumps(old | {"seal": record.seal(old)}, indent=2))
    found = record.problems(project.root)
    assert [name in problem for problem in found] == ([True] if must_hold else [])


def test_a_checking_run_can_keep_the_record_without_rewriting_a_page(project):
    path = project.page("import torch\nprint(1)", "> 2")
    before = path.read_text()
    assert project.run("docs", "--keep-record").ret == 1
    assert path.read_text() == before
    assert not (project.root / "records").exists()
    project.page("import torch\nprint(1)", "> 1")
    assert project.run("docs", "--keep-record").ret == 0
    assert record.problems(project.root) == []


def test_no_record_at_all_is_a_problem(project):
    project.page("x = 1")
    assert record.problems(project.root) == ["records/: there is no record of a run on a CPU; run `make record`"]


def test_a_killed_write_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "page.md"
    file.write_text("old")
    monkeypatch.setattr("os.replace", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        record.replace(file, "new")
    assert file.read_text() == "old"


def test_pages_run_in_parallel_and_are_recorded_together(project, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(pages.ROOT))
    for name in "abc":
        project.page("import torch", "print(1)", name=name)
    options = ["-p", "no:codeblocks", "-p", "no:cacheprovider", "-n", "2", "--dist", "loadfile"]
    result = project.pytester.runpytest_subprocess(*options, "docs", "--record")
    result.assert_outcomes(passed=6)
    (file,) = (project.root / "records").iterdir()
    assert sorted(json.loads(file.read_text())["pages"]) == ["a", "b", "c"]
    result = project.pytester.runpytest_subprocess(*options, "docs")
    result.assert_outcomes(passed=6)
    result.stdout.fnmatch_lines(["6 fences executed and checked on 3 whole pages"])


# Notebooks.

MODULE = "# --8<-- [start:double]\ndef double(x):\n    return 2 * x\n# --8<-- [end:double]\n"
DRAW = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()"


def notebook(project, *cells: tuple[str, dict], name: str = "docs/part/lab.ipynb"):
    built = [{"cell_type": "markdown", "id": "title", "metadata": {}, "source": "# Lab"}]
    for number, (source, more) in enumerate(cells):
        cell = {"cell_type": "code", "id": f"c{number}", "metadata": {}, "outputs": [], "execution_count": None}
        built.append(cell | {"source": source} | more)
    return project.write(name, json.dumps({"cells": built, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))


@pytest.fixture
def lab(project):
    project.write("snippets/part/lab.py", "").write_text(MODULE)
    alt = {"metadata": {"alt": "A rising line through two points"}}
    path = notebook(project, ("", {"metadata": {"section": "snippets/part/lab.py:double"}}), ("print(double(0.25))", {}), (DRAW, alt))
    assert project.run("docs", "--record").ret == 0
    return project, path


def edit(path, change) -> None:
    loaded = json.loads(path.read_text())
    change(loaded["cells"])
    path.write_text(json.dumps(loaded))


def test_a_notebook_is_executed_recorded_and_compared(lab):
    project, path = lab
    project.run("-v", str(path)).stdout.fnmatch_lines(["docs/part/lab.ipynb::c0 PASSED*", "docs/part/lab.ipynb::c1 PASSED*"])
    cells = json.loads(path.read_text())["cells"]
    assert "".join(cells[1]["source"]) == "def double(x):\n    return 2 * x"
    assert cells[2]["outputs"][0]["text"] == ["0.5\n"]
    assert "<svg" in "".join(cells[3]["outputs"][0]["data"]["image/svg+xml"])
    before = path.read_text()
    project.run("docs", "--record")
    assert path.read_text() == before


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda c: c[2].update(outputs=[{"output_type": "stream", "name": "stdout", "text": "0.7\n"}]), "lab.ipynb[c1]:1: the output differs"),
        (lambda c: c[2].update(outputs=[]), "lab.ipynb[c1]:1: the fence prints, but has no output block"),
        (lambda c: c[2].update(source="1 / 0"), "lab.ipynb[c1]:1: ZeroDivisionError"),
        (lambda c: c[3].update(outputs=[]), "lab.ipynb[c2]:1: part/lab/c2 has no committed drawing"),
        (lambda c: c[3].update(source=DRAW.replace("2]", "3, 2]")), "lab.ipynb[c2]:1: part/lab/c2-light.svg is not what this run draws"),
        (lambda c: c[3].update(metadata={}), "lab.ipynb[c2]:1: a cell that draws needs alt text"),
        (lambda c: c[3].update(metadata={"alt": "A line"}), "lab.ipynb[c2]:1: alt text says what is seen"),
        (lambda c: c[1].update(source="def double(x):\n    return 3 * x"), "lab.ipynb[c0]:1: the cell differs from its section"),
        (lambda c: c[1]["metadata"].update(section="snippets/part/lab.py:triple"), "has no section 'triple'"),
        (lambda c: c[1]["metadata"].update(section="lab.py:double"), "is not of the form snippets/part/topic.py:name"),
        (lambda c: c[2].update(source="%timeit 1"), "lab.ipynb[c1]:1: a notebook magic is not Python"),
        (lambda c: c[2].update(source=""), "lab.ipynb[c1]:1: a cell is Markdown or code, and not empty"),
        (lambda c: c[2].update(outputs=[{"output_type": "error"}]), "lab.ipynb[c1]:1: an output is what print() writes"),
    ],
)
def test_a_faulty_notebook_names_the_cell(lab, change, problem):
    project, path = lab
    edit(path, change)
    project.fails(f"{problem}")


def test_a_file_that_is_no_notebook_is_named(project):
    project.write("docs/part/lab.ipynb", "[]")
    project.fails("docs/part/lab.ipynb:1: not a notebook", errors=1)
