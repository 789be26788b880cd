"""Every page can be downloaded as a script and as a notebook; both are the program that the page is."""

import shutil
import subprocess
import sys

import nbformat
import pytest

from tests.page_runner import compare
from tests.page_runner.session import SANDBOX, environment, folder_with_data
from website import downloads, pages

PROGRAMS = [path for path in pages.all_pages() if pages.load(path).fences]


@pytest.fixture(params=PROGRAMS, ids=lambda p: p.stem)
def page(request):
    return pages.load(request.param)


def device_kind() -> str:
    import torch

    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return accelerator.type if accelerator else "cpu"


def test_the_script_runs_alone_and_prints_what_the_page_shows(page):
    folder = folder_with_data(pages.ROOT)
    try:
        script = folder / f"{page.path.stem}.py"
        script.write_text(downloads.script(page), encoding="utf-8")
        variables = environment(MPLBACKEND="template", PYTHONPATH=str(SANDBOX))  # a backend that shows nothing
        done = subprocess.run(
            [sys.executable, script.name], cwd=folder, env=variables, capture_output=True, text=True, timeout=600
        )
    finally:
        shutil.rmtree(folder)
    assert done.returncode == 0, done.stderr
    kind = device_kind()
    shown = [fence.expected(kind) for fence in page.fences if fence.kind == "python"]
    difference = compare.text("".join(output.text for output in shown if output), done.stdout, kind, ellipsis=True)
    assert difference is None, difference


def test_the_notebook_holds_the_code_and_the_outputs_of_the_page(page):
    notebook = downloads.notebook(page)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    python = [fence for fence in page.fences if fence.kind == "python"]
    assert [cell.source.rstrip("\n") for cell in cells] == [fence.code.rstrip("\n") for fence in python]
    for cell, fence in zip(cells, python, strict=True):
        output = fence.expected("cpu")
        streams = "".join(o.text for o in cell.outputs if o.output_type == "stream")
        errors = "".join(f"{o.ename}: {o.evalue}\n" for o in cell.outputs if o.output_type == "error")
        assert streams + errors == (output.text if output else "")
        drawn = [o for o in cell.outputs if "image/svg+xml" in o.get("data", {})]
        assert len(drawn) == len(fence.figures)
        assert ("raises-exception" in cell.metadata.get("tags", [])) is bool(fence.raises)
