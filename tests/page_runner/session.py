"""One page in one process: starts it, hands it fence after fence, and says what came of each."""

import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from website.pages import Fence, Page, root_of

HERE = Path(__file__).parent
SANDBOX = HERE / "sandbox"
KEPT = re.compile(r"PATH|HOME|TMPDIR|LANG|TORCH_HOME|LD_LIBRARY_PATH|VIRTUAL_ENV|SYSTEMROOT|(CUDA|NVIDIA|TRITON)_.*")


@dataclass
class Result:
    """What one fence did."""

    stdout: str = ""
    stderr: str = ""
    error: str | None = None  # name of the exception's type
    message: str = ""  # "TypeName: message"
    traceback: str = ""
    figures: list[str] = field(default_factory=list)  # SVG, as matplotlib wrote them
    data: dict[str, str] = field(default_factory=dict)  # JSON that the fence wrote, by the name of its file


def environment(**more: str) -> dict[str, str]:
    """The variables that every page process sees, whatever the caller's shell has set."""
    kept = {name: value for name, value in os.environ.items() if KEPT.fullmatch(name)}
    kept["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', os.defpath)}"
    return kept | {
        "PYTHONPATH": str(SANDBOX),
        "PYTHONSAFEPATH": "1",
        "PYTHONHASHSEED": "0",
        "PYTHONUTF8": "1",
        # What a reader would see is an error: Python shows no DeprecationWarning from inside a library.
        # Nor is it a page's fault that this machine has fewer cores than the DataLoader on it has workers.
        "PYTHONWARNINGS": "error,ignore::DeprecationWarning,error::DeprecationWarning:__main__,"
        "ignore:This DataLoader will create:UserWarning",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "MATPLOTLIBRC": str(SANDBOX),
        "MPLBACKEND": "module://page_figures",
    } | more


def folder_with_data(root: Path) -> Path:
    """A temporary folder that sees the committed archives of data/ and nothing else of the project."""
    folder = Path(tempfile.mkdtemp(prefix="page-"))
    for archive in (root / "data").rglob("*.gz"):
        link = folder / archive.relative_to(root)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(archive)
    return folder


class Session:
    """The process of one page. Fences run in order; a fence that failed ends the page."""

    def __init__(self, page: Page, timeout: float):
        self.page, self.timeout = page, timeout
        self.root = root_of(page.path)
        self.folder = folder_with_data(self.root)
        self.state = Path(tempfile.mkdtemp(prefix="page-state-"))
        self.figures = self.state / "figures"
        self.figures.mkdir()
        self.results: dict[str, Result] = {}
        self.failed: set[str] = set()  # ids of fences that did not do what the page shows
        self.process: subprocess.Popen | None = None
        self.machine: dict[str, str] = {"device": "CPU", "kind": "cpu"}
        self.variables = environment(PAGE_FIGURES=str(self.figures), TMPDIR=str(self.state))

    def start(self) -> None:
        program = "".join(fence.code for fence in self.page.fences)
        arguments = [str(self.folder / "page.py"), str(self.state / "stdout"), str(self.state / "stderr")]
        self.log = (self.state / "log").open("w+b")  # what Python says before the first fence, or when it dies
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "child.py"), *arguments, "torch" if "torch" in program else "-"],
            cwd=self.folder, env=self.variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log,
            start_new_session=True,
        )
        self.machine = self.answer()
        if "kind" not in self.machine:
            raise RuntimeError(f"the page's process did not start: {self.machine['message']}\n{self.logged()}")

    def logged(self) -> str:
        self.log.seek(0)
        return self.log.read().decode(errors="replace")

    def answer(self) -> dict:
        """The next reply of the process, or the error that its end or its silence is."""
        ready, _, _ = select.select([self.process.stdout], [], [], self.timeout)
        line = self.process.stdout.readline() if ready else b""
        if line.endswith(b"\n"):
            return json.loads(line)
        if not ready:
            self.kill()
            return {"error": "TimeoutError", "message": f"TimeoutError: no end after {self.timeout:g} seconds"}
        code = self.process.wait()
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        return {"error": "ProcessDied", "message": f"ProcessDied: the page's process ended with {how}"}

    def run(self, fence: Fence) -> Result:
        """Run one fence after all those before it (at most once each)."""
        for earlier in self.page.fences:
            if earlier.id not in self.results:
                self.results[earlier.id] = self.bash(earlier) if earlier.kind == "bash" else self.python(earlier)
            if earlier is fence:
                return self.results[fence.id]
        raise LookupError(f"{fence.id} is no fence of {self.page.name}")

    def python(self, fence: Fence) -> Result:
        if self.process is None:
            self.start()
        if self.process.poll() is not None:
            return Result(error="ProcessDied", message="ProcessDied: the page's process had ended before this fence")
        seen = set(self.figures.iterdir())
        places = [(where.path, where.line) for where in fence.origins]
        request = json.dumps({"code": fence.code, "places": places}) + "\n"
        with suppress(BrokenPipeError):  # answer() says how the process ended
            self.process.stdin.write(request.encode())
            self.process.stdin.flush()
        reply = self.answer()
        drawn = sorted(set(self.figures.iterdir()) - seen)
        return Result(
            self.written("stdout"), self.written("stderr") or self.logged(), reply["error"], reply.get("message", ""),
            reply.get("traceback", ""), [path.read_text(encoding="utf-8") for path in drawn], self.data(fence),
        )

    def data(self, fence: Fence) -> dict[str, str]:
        files = {data.name: self.folder / data.name for data in fence.data}
        return {name: file.read_text(encoding="utf-8") for name, file in files.items() if file.is_file()}

    def written(self, name: str) -> str:
        path = self.state / name
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def bash(self, fence: Fence) -> Result:
        """Run a bash fence in the page's folder; it may use the project's modules: python -m snippets.…"""
        variables = self.variables | {"PYTHONPATH": f"{SANDBOX}{os.pathsep}{self.root}"}
        command = ["bash", "-euo", "pipefail", "-c", fence.code]
        process = subprocess.Popen(
            command, cwd=self.folder, env=variables, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True,
        )
        try:
            stdout, stderr = process.communicate(timeout=self.timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            stdout, stderr = process.communicate()
            return Result(stdout, stderr, "TimeoutError", f"TimeoutError: no end after {self.timeout:g} seconds")
        if process.returncode:
            return Result(stdout, stderr, "ExitStatus", f"ExitStatus: bash ended with status {process.returncode}")
        return Result(stdout, stderr)

    def kill(self) -> None:
        """End the process and every process that it started."""
        if self.process:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def close(self) -> None:
        self.kill()
        if self.process:
            for stream in (self.process.stdin, self.process.stdout, self.log):
                with suppress(BrokenPipeError):
                    stream.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.rmtree(self.state, ignore_errors=True)
