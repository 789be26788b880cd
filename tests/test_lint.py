"""Code and prose keep the rules that a program can check."""

import subprocess
import sys
from pathlib import Path

import pytest

from website.pages import ROOT

BIN = Path(sys.executable).parent


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "--no-cache", "."],
        ["rumdl", "check", "--no-cache", "docs", "README.md", "CONTRIBUTING.md"],
        ["actionlint"],
        ["zizmor", "--offline", "--no-progress", ".github/workflows"],
    ],
    ids=lambda command: command[0],
)
def test_is_clean(command):
    done = subprocess.run([BIN / command[0], *command[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
