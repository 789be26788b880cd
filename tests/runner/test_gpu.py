"""What needs a GPU is marked once, still runs everywhere, and the commands for a GPU refuse a machine without one."""

import os
import subprocess
import sys

import pytest
import torch

from website import display, pages

MARK = "<!-- gpu -->"
GUARDED = "import torch\nif torch.cuda.is_available():\n    x = torch.ones(2, device='cuda')\nprint(1)"


def test_a_marked_fence_runs_everywhere_and_keeps_its_mark(project):
    path = project.page("x = 1", MARK, GUARDED, "> 1", MARK, "<!--pytest.mark.xfail(raises=NameError)-->", "y", "> NameError: name 'y' is not defined")
    project.run().assert_outcomes(passed=3)
    page = pages.load(path)
    assert [fence.gpu for fence in page.fences] == [False, True, True]
    assert display.markup(page.source, page).count(MARK) == 2


def test_the_mark_is_part_of_what_is_recorded(project):
    path = project.page(MARK, "x = 1")
    digest = pages.load(path).digest
    path.write_text(path.read_text().replace(MARK, ""))
    assert pages.load(path).digest != digest


@pytest.mark.parametrize(
    "code",
    ["x.cuda()", "x.to('cuda')", 'x.to("cuda:1")', 'torch.device("cuda")', "torch.ones(2, device='cuda')",
     "torch.cuda.Event()", "cuda.synchronize()", "torch.cuda.memory_allocated()", "torch.cuda.max_memory_allocated()",
     "torch.cuda.CUDAGraph()", "torch.cuda.graph(g)", "torch.cuda.empty_cache()", "torch.cuda.reset_peak_memory_stats()"],
)  # fmt: skip
def test_a_fence_that_asks_for_cuda_must_be_marked(project, code):
    with pytest.raises(pages.PageError, match=r"docs/part/topic.md:5: the fence asks for CUDA .* mark it with <!-- gpu -->"):
        pages.load(project.page("import torch", code))
    assert [fence.gpu for fence in pages.load(project.page("import torch", MARK, code)).fences] == [False, True]


@pytest.mark.parametrize("code", ["torch.cuda.is_available()", "torch.get_autocast_dtype('cuda')", "torch.cuda.FloatTensor.dtype"])
def test_a_question_about_cuda_needs_no_gpu(project, code):
    assert not any(fence.gpu for fence in pages.load(project.page("import torch", code)).fences)


@pytest.mark.parametrize("text", [f"{MARK}\n", f"{MARK}\n\nProse.\n\n```python\nx = 1\n```\n", f"```python\nprint(1)\n```\n\n{MARK}\n<!--pytest-codeblocks:expected-output-->\n```text\n1\n```\n"])
def test_a_mark_stands_before_a_fence(project, text):
    project.write("docs/part/topic.md", "").write_text(text)
    output = project.fails("docs/part/topic.md:", errors=1)
    assert "must be followed by its fence" in output or "a text fence is an output" in output


def test_a_mark_stands_on_a_line_of_its_own(project):
    project.write("docs/part/topic.md", "").write_text(f"{MARK} here\n\n```python\nx = 1\n```\n")
    project.fails("docs/part/topic.md:1: a runner comment must stand on a line of its own", errors=1)


@pytest.mark.parametrize("command", [[sys.executable, "-m", "tests.page_runner.gpu"], [".ci/pages", "--gpu"]])
def test_without_a_gpu_the_commands_for_one_refuse(command):
    if torch.accelerator.is_available():
        command = [*command, "--collect-only"]
    done = subprocess.run(command, cwd=pages.ROOT, env={**os.environ, "PYTHON": sys.executable}, capture_output=True, text=True)
    if torch.accelerator.is_available():
        assert "torch" in done.stdout
    else:
        assert done.returncode == 1
        assert "expected a GPU, torch finds none" in done.stderr


def test_pages_without_torch_are_refused_with_the_reason(tmp_path):
    bare = tmp_path / "bare"
    bare.write_text(f"#!/bin/sh\nexec {sys.executable} -S \"$@\"\n")  # without its site-packages
    bare.chmod(0o755)
    for python, message in [(str(bare), "expected a Python with torch and torchvision"), ("no-such-python", "no no-such-python on this machine")]:
        done = subprocess.run([".ci/pages"], cwd=pages.ROOT, env={**os.environ, "PYTHON": python}, capture_output=True, text=True)
        assert done.returncode in (1, 2)
        assert message in done.stdout + done.stderr
