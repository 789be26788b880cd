"""The page runner: a pytest plugin that executes every fence of every page and checks what it shows.

Built on pytest-codeblocks, whose collector it replaces: `CodeBlock`s are extracted by that package from
the page as website.pages reads it, and the two readings must agree.
"""

import datetime
import io
import platform
import time
from pathlib import Path

import pytest
from pytest_codeblocks import extract_from_buffer
from pytest_codeblocks.plugin import MarkdownFile, TestBlock

from tests.page_runner import compare, record
from tests.page_runner.session import Result, Session
from website import figures, pages

FIGURE_COUNT = "every figure that a fence draws is shown below it, and no other"
NOT_WRITTEN = "the fence writes no JSON to its working directory under this name"


def pytest_addoption(parser) -> None:
    group = parser.getgroup("pages")
    group.addoption("--record", action="store_true", help="rewrite outputs, figures and records that do not hold")
    group.addoption("--keep-record", action="store_true", help="write the record of a green run, and nothing else")
    group.addoption("--no-skips", action="store_true", help="a test that was not run fails the whole run")
    parser.addini("page_timeout", "seconds after which a fence is ended", default="600")


def pytest_configure(config) -> None:
    config.pluginmanager.register(Outcome(config), "page-outcome")
    if getattr(config.option, "codeblocks", False):
        raise pytest.UsageError("--codeblocks would run the pages a second time, unchecked; plain pytest runs them")


def pytest_collect_file(file_path: Path, parent):
    if file_path.suffix not in {".md", ".ipynb"}:
        return None
    docs = Path(parent.config.rootpath) / "docs"
    return PageFile.from_parent(parent, path=file_path) if docs in file_path.parents else None


class PageFile(MarkdownFile):
    """A page: collects its fences and owns the process that they run in."""

    session_: Session | None = None

    def collect(self):
        try:
            if self.config.option.record and self.path.suffix == ".ipynb":
                record.copy_sections(self.path)
            self.page = pages.load(self.path)
        except pages.PageError as error:
            raise self.CollectError(str(error)) from None
        blocks = extract_from_buffer(io.StringIO(plain(self.page)), max_num_lines=10**6)
        if [(b.syntax, b.code) for b in blocks] != [(f.kind, f.code) for f in self.page.fences]:
            raise self.CollectError(f"{self.path}: pytest-codeblocks reads other fences than website.pages")
        self.seconds: dict[str, float] = {}  # of each fence that ran
        for fence, block in zip(self.page.fences, blocks, strict=True):
            item = FenceItem.from_parent(self, name=fence.id, obj=block)
            item.fence = fence
            yield item

    def process(self) -> Session:
        if self.session_ is None:
            self.session_ = Session(self.page, float(self.config.getini("page_timeout")))
        return self.session_

    def teardown(self) -> None:
        if self.session_ is not None:
            self.session_.close()
            self.session_ = None


def plain(page: pages.Page) -> str:
    """The page's fences alone, at the left margin: what pytest-codeblocks reads without a doubt."""
    ticks = "`" * (3 + max((fence.code.count("`") for fence in page.fences), default=0))
    return "".join(f"{ticks}{fence.kind}\n{fence.code}{ticks}\n\n" for fence in page.fences)


class NotRun(Exception):
    """A fence that was not reached because an earlier one of its page failed."""


class PageFailure(Exception):
    """A fence that did not do what its page shows; the message says where and what."""


class FenceItem(TestBlock):
    """One fence: runs it after those before it, then checks what it printed, raised and drew."""

    fence: pages.Fence

    def runtest(self) -> None:
        session, program = self.parent.process(), self.parent.page.fences
        for earlier in program[: program.index(self.fence)]:
            if session.run(earlier).error != earlier.raises:
                session.failed.add(earlier.id)
            if earlier.id in session.failed:
                raise NotRun(f"not run: {earlier.where} ({earlier.id}) failed before it")
        started = time.perf_counter()
        result = session.run(self.fence)
        self.parent.seconds[self.fence.id] = time.perf_counter() - started
        try:
            self.check(result, session.machine["kind"])
        except PageFailure:
            session.failed.add(self.fence.id)
            raise
        if len(self.parent.seconds) == len(program):
            self.page_is_done(session)

    def page_is_done(self, session: Session) -> None:
        """All fences of the page ran and hold: tell the controlling process, which keeps the record."""
        if self.config.option.record:
            record.rewrite(self.parent.page, session.results, session.machine["kind"])
        machine = session.machine | {"python": platform.python_version()}
        seconds = round(sum(self.parent.seconds.values()), 1)
        self.user_properties.append(("page", {"path": str(self.path), "machine": machine, "seconds": seconds}))

    def check(self, result: Result, kind: str) -> None:
        fence, where = self.fence, self.fence.where
        if result.error and result.error != fence.raises:
            detail = result.traceback or result.message
            expected = f"\n{where}: expected {fence.raises}" if fence.raises else ""
            raise PageFailure(f"{where}: {result.message}{expected}\n\n{detail}\n{result.stderr[-4000:]}")
        if fence.raises and not result.error:
            raise PageFailure(f"{where}: expected {fence.raises}, but the fence ran to its end")
        pictures = [*self.figure_problems(result), *self.data_problems(result)]
        problems = [*self.output_problems(record.printed(result), kind), *pictures]
        if self.config.option.record:  # what differs is rewritten; what no run can write is still a failure
            problems = [p for p in pictures if kind != "cpu" or FIGURE_COUNT in p or NOT_WRITTEN in p]
        if problems:
            raise PageFailure("\n".join(problems))

    def output_problems(self, got: str, kind: str):
        want = self.fence.expected(kind)
        where = self.fence.where
        if want is None and got.strip():
            known = f" for {kind}" if self.fence.outputs else ""
            yield f"{where}: the fence prints, but has no output block{known}; it printed\n{got}"
        elif want is not None and not got.strip():
            yield f"{want.where}: the page shows an output, but the fence printed nothing"
        elif want is not None:
            if difference := compare.text(want.text, got, kind, ellipsis=bool(self.fence.raises)):
                yield f"{want.where}: the output differs (- the page, + this run)\n{difference}"
            elif self.fence.raises and want.text.rstrip().endswith(f"{self.fence.raises}: ..."):
                yield f"{want.where}: an expected failure names its message, not only '...'"

    def figure_problems(self, result: Result):
        where, wanted = self.fence.where, self.fence.figures
        if len(result.figures) != len(wanted):
            yield f"{where}: {FIGURE_COUNT}: the fence draws {len(result.figures)}, the page shows {len(wanted)}"
            return
        docs = pages.root_of(self.path) / "docs"
        for figure, drawn in zip(wanted, result.figures, strict=True):
            light, dark = record.committed(docs, figure)
            if light is None or dark is None:
                yield f"{figure.where}: {figure.stem} has no committed drawing; `make record` draws it"
            elif difference := compare.figure(light, figures.clean(drawn)):
                yield f"{figure.where}: {figure.stem}-light.svg is not what this run draws: {difference}"
            elif dark != figures.dark(light):
                yield f"{figure.where}: {figure.stem}-dark.svg is not the dark twin of the light file"

    def data_problems(self, result: Result):
        docs = pages.root_of(self.path) / "docs"
        for data in self.fence.data:
            got, file = result.data.get(data.name), docs / data.path
            if got is None or compare.data(got, got):
                detail = f": {compare.data(got, got)}" if got else ""
                yield f"{data.where}: {data.path}: {NOT_WRITTEN}{detail}"
            elif not file.is_file():
                yield f"{data.where}: {data.path} is not committed; `make record` writes it"
            elif difference := compare.data(file.read_text(encoding="utf-8"), got):
                yield f"{data.where}: {data.path} is not what this run wrote: {difference}"

    def repr_failure(self, excinfo):
        return str(excinfo.value) if excinfo.errisinstance((PageFailure, NotRun)) else str(excinfo.getrepr())

    def reportinfo(self):
        return self.path, self.fence.where.line - 1, self.name


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if call.excinfo and call.excinfo.errisinstance(NotRun):
        report.outcome = "skipped"
        report.longrepr = (str(item.path), None, str(call.excinfo.value))
    return report


def pytest_report_teststatus(report, config):
    if report.skipped and isinstance(report.longrepr, tuple) and "not run:" in str(report.longrepr[2]):
        return "not run", "n", "NOT RUN"
    return None


class Outcome:
    """Lives in the controlling process: counts what was not run, and writes the record of a green run."""

    def __init__(self, config):
        self.config = config
        self.not_run: list[str] = []
        self.pages: list[dict] = []

    def pytest_runtest_logreport(self, report) -> None:
        if report.skipped:
            self.not_run.append(report.nodeid)
        if report.when == "call":
            self.pages += [value for name, value in report.user_properties if name == "page"]

    def pytest_sessionfinish(self, session, exitstatus) -> None:
        if hasattr(self.config, "workerinput"):
            return
        if self.config.option.no_skips and self.not_run and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        if (self.config.option.record or self.config.option.keep_record) and session.exitstatus == pytest.ExitCode.OK:
            today = datetime.datetime.now(datetime.UTC).date().isoformat()
            self.written = record.write(Path(self.config.rootpath), self.pages, today)

    def pytest_terminal_summary(self, terminalreporter) -> None:
        for path in getattr(self, "written", []):
            terminalreporter.write_line(f"recorded {path}")
        fences = sum(r.when == "call" and (".md::" in r.nodeid or ".ipynb::" in r.nodeid)
                     for r in terminalreporter.stats.get("passed", []))
        for report in terminalreporter.stats.get("not run", []):
            terminalreporter.write_line(f"NOT RUN {report.nodeid}: {report.longrepr[2]}")
        if fences:
            terminalreporter.write_line(f"{fences} fences executed and checked on {len(self.pages)} whole pages")
        if self.config.option.no_skips and self.not_run:
            terminalreporter.write_line(f"--no-skips: {len(self.not_run)} not run: {', '.join(self.not_run[:9])}")
