"""What pytest loads first: the page runner, the report of the browser tests, and which process runs what."""

import pytest
from xdist.scheduler import LoadFileScheduling

pytest_plugins = ["tests.page_runner.plugin", "tests.website.report", "pytester"]
ALONE = ("tests/test_downloads.py::", "tests/test_house.py::test_a_module_runs_as_a_script[")


class Scheduling(LoadFileScheduling):
    """The tests of a file run in one process; long ones that share nothing go to whichever is free, at the end."""

    def _split_scope(self, nodeid: str) -> str:
        return nodeid if nodeid.startswith(ALONE) else super()._split_scope(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    return Scheduling(config, log)
