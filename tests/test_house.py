"""The house is in order: every topic has its three files, every record holds, every file has its place."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tokenize
from itertools import pairwise
from pathlib import Path

import pytest

from tests.page_runner import record
from website import pages

ROOT = pages.ROOT
PAGES = pages.all_pages()
TOPICS = [path for path in PAGES if path.parent != ROOT / "docs"]  # the home page is no topic
MODULES = [path for path in sorted((ROOT / "snippets").rglob("*.py")) if path.name != "__init__.py"]
FENCES_NOT_EXECUTED = 0


def twins(page: Path) -> list[Path]:
    """The module and the test of a page."""
    topic = page.relative_to(ROOT / "docs").with_suffix("")
    name = topic.name.replace("-", "_")
    return [ROOT / "snippets" / topic.parent / f"{name}.py", ROOT / "tests" / topic.parent / f"test_{name}.py"]


@pytest.mark.parametrize("page", TOPICS, ids=lambda p: p.stem)
def test_a_page_has_a_module_and_a_test(page):
    assert [str(path) for path in twins(page) if not path.is_file()] == []


def test_a_module_belongs_to_a_page():
    assert set(MODULES) == {twins(page)[0] for page in TOPICS}


def test_every_section_is_shown():
    problems = pages.unused_sections()
    assert not problems, "\n".join(problems)


def test_no_fence_is_passed_over():
    """A count made without the parser: every line of a page that opens a code block, against what it executes."""
    missed = 0
    for path in PAGES:
        if path.suffix == ".md":
            lines = [line.lstrip("> \t") for line in pages.load(path).source.split("\n")]
            marks = sum(line.startswith(("```", "~~~")) for line in lines)
            outputs = sum(len(fence.outputs) for fence in pages.load(path).fences)
            missed += marks - 2 * (len(pages.load(path).fences) + outputs)
    assert missed == FENCES_NOT_EXECUTED


def test_the_records_hold():
    problems = record.problems(ROOT)
    assert not problems, "\n".join(problems)


def test_no_record_was_edited():
    """Those of the benchmark and of the gate hold numbers that nothing else can check."""
    files = list((ROOT / "records").rglob("*.json"))
    loaded = {file.name: json.loads(file.read_text(encoding="utf-8")) for file in files}
    assert len(loaded) == len(files) >= 2
    assert [name for name, one in loaded.items() if one.get("seal") != record.seal(one)] == []


def test_no_figure_is_left_over():
    shown = {f"{p.stem}-{scheme}.svg" for path in PAGES for f in pages.load(path).fences for p in f.figures
             if p.svg is None for scheme in ("light", "dark")}
    committed = {str(f.relative_to(ROOT / "docs")) for f in (ROOT / "docs").rglob("*-*.svg")}
    assert committed == shown


def test_no_recorded_data_are_left_over():
    shown = {data.path for path in PAGES for fence in pages.load(path).fences for data in fence.data}
    assert {str(f.relative_to(ROOT / "docs")) for f in (ROOT / "docs").rglob("*.json")} == shown


def test_recorded_data_are_small():
    large = {f.name: f.stat().st_size for f in (ROOT / "docs").rglob("*.json") if f.stat().st_size > 70_000}
    assert large == {}


def test_figures_are_small():
    large = {f.name: f.stat().st_size for f in (ROOT / "docs").rglob("*.svg") if f.stat().st_size > 60_000}
    assert large == {}


def test_no_figure_has_slanted_letters():
    """matplotlib sets $w_1$ in a font that differs between machines; w₁ is the same on all."""
    slanted = [f.name for f in (ROOT / "docs").rglob("*.svg") if re.search("oblique|italic", f.read_text(encoding="utf-8"))]
    assert slanted == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_page_code_fits_the_page(page):
    wide = [str(where) for fence in pages.load(page).fences
            for line, where in zip(fence.code.split("\n"), fence.origins, strict=False) if len(line) > 79]
    assert wide == []


def code_lines(module: Path) -> int:
    """Lines of a module that hold code: no comments, docstrings or empty lines."""
    layout = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    with module.open(encoding="utf-8") as file:
        tokens = [t for t in tokenize.generate_tokens(file.readline) if t.type not in layout]
    code = [t for t in tokens if not (t.type == tokenize.STRING and t.string.startswith('"""'))]
    return len({number for t in code for number in range(t.start[0], t.end[0] + 1)})


@pytest.mark.parametrize("module", MODULES, ids=lambda p: p.stem)
def test_a_module_has_a_docstring_and_a_readable_length(module):
    assert module.read_text(encoding="utf-8").startswith('"""')
    assert 30 <= code_lines(module) <= 120


@pytest.mark.parametrize("module", MODULES, ids=lambda p: p.stem)
def test_a_module_runs_as_a_script(module, tmp_path):
    from tests.page_runner.session import SANDBOX, environment, folder_with_data

    folder = folder_with_data(ROOT)
    figures = tmp_path / "figures"
    figures.mkdir()
    name = ".".join(module.relative_to(ROOT).with_suffix("").parts)
    variables = environment(PYTHONPATH=f"{SANDBOX}:{ROOT}", PAGE_FIGURES=str(figures), TMPDIR=str(tmp_path))
    command = [sys.executable, "-m", name]
    try:
        done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=300)
    finally:
        shutil.rmtree(folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_mnist_is_what_torchvision_expects():
    from torchvision.datasets import MNIST

    assert len(MNIST.resources) == 4
    for name, md5 in MNIST.resources:
        assert hashlib.md5((ROOT / "data/MNIST/raw" / name).read_bytes()).hexdigest() == md5


def test_the_next_page_is_that_of_the_menu():
    """Where a page says "The next page …", the first link after it leads to its successor in the menu."""
    menu = re.findall(r": ([\w/-]+\.(?:md|ipynb))", (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\ntheme:")[0])
    after = dict(pairwise(menu))
    wrong, said = {}, 0
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        for sentence in re.finditer(r"^The next page[^\[]*\[[^\]]+\]\(([^)#]+)", text, re.MULTILINE):
            here = path.relative_to(ROOT / "docs")
            leads = os.path.normpath(here.parent / sentence[1])
            said += 1
            if leads not in {after[here.as_posix()], after.get(after[here.as_posix()])} or leads.endswith(".ipynb"):
                wrong[here.as_posix()] = leads
    assert wrong == {}
    assert said >= 20


def test_the_readme_names_commands_that_exist():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z-]+)", readme))
    assert {"serve", "test"} <= named <= targets
    assert "make test" in (ROOT / ".ci/run").read_text(encoding="utf-8")


def test_pins_are_exact():
    files = ("requirements.txt", "tests/page_runner/requirements.txt", "docs/requirements.txt")
    lines = [line.split("#")[0].strip() for name in files for line in (ROOT / name).read_text(encoding="utf-8").splitlines()]
    included = ["-r tests/page_runner/requirements.txt", "-r ../../docs/requirements.txt"]
    assert [line for line in lines if line and "==" not in line] == included
    site = (ROOT / "docs/requirements.txt").read_text(encoding="utf-8")
    assert not re.search(r"^(torch|matplotlib|numpy)", site, re.MULTILINE)
