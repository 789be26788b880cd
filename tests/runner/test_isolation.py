"""Point 8: a page starts from nothing but Python, leaves nothing behind, and has no network."""

import pytest


def test_a_page_starts_from_defaults_and_shares_no_state(project):
    disturb = """
        import random, os, numpy, torch, warnings
        random.seed(9); numpy.random.seed(9); torch.manual_seed(9)
        torch.set_default_dtype(torch.float64); torch.set_printoptions(precision=1)
        torch.set_grad_enabled(False); torch.set_num_threads(2)
        torch.nn.modules.module.register_module_forward_hook(lambda *a: None)
        os.environ["LEAK"] = "1"; os.chdir("/"); warnings.simplefilter("ignore")
        open(os.path.join(os.environ["TMPDIR"], "leak"), "w").close()
        """
    look = """
        import os, random, numpy, torch
        print(torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads())
        print(len(torch.nn.modules.module._global_forward_hooks), "LEAK" in os.environ)
        print(torch.tensor(1 / 3), sorted(os.listdir(".")))
        print(random.random(), numpy.random.rand(), torch.rand(1).item())
        """
    shown = """>
        torch.float32 True 1
        0 False
        tensor(0.3333) ['page.py']
        0.8444218515250481 0.5488135039273248 0.49625658988952637
        """
    project.page(look, shown, name="a")
    project.page(disturb, name="b")
    project.page(look, shown, name="c")
    project.run().assert_outcomes(passed=3)


def test_the_working_folder_is_temporary_and_sees_the_archives(project):
    project.write("data/MNIST/raw/train.gz", "archive")
    project.page(
        """
        from pathlib import Path
        print(sorted(str(p) for p in Path("data").rglob("*") if p.is_file()), Path("data/MNIST/raw/train.gz").read_text())
        Path("data/MNIST/raw/extracted").write_text("x")
        """,
        "> ['data/MNIST/raw/train.gz'] archive",
    )
    project.run().assert_outcomes(passed=1)
    assert [p.name for p in (project.root / "data").rglob("*") if p.is_file()] == ["train.gz"]


def test_a_page_cannot_import_the_project(project):
    project.write("snippets/__init__.py", "")
    project.page("import snippets")
    project.fails("ModuleNotFoundError: No module named 'snippets'", failed=1)


@pytest.mark.parametrize(
    "code",
    [
        'import socket\nsocket.create_connection(("example.org", 80), timeout=3)',
        'import socket\nsocket.socket().connect(("192.0.2.1", 80))',
        'import urllib.request\nurllib.request.urlopen("http://example.org", timeout=3)',
    ],
)
def test_there_is_no_network(project, code):
    project.page(code)
    project.fails("a page has no network: it tried to", failed=1)


def test_processes_of_a_page_have_no_network_but_this_machine(project):
    project.page(
        """
        import socket, subprocess, sys
        server = socket.create_server(("127.0.0.1", 0))
        socket.create_connection(server.getsockname()).close()
        code = "import socket; socket.create_connection(('example.org', 80))"
        child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        server.close()
        print("no network" in child.stderr)
        """,
        "> True",
    )
    project.run().assert_outcomes(passed=1)


def test_warnings_are_errors(project):
    project.page('import warnings\nwarnings.warn("careful")')
    project.fails("UserWarning: careful", failed=1)
    project.page('import warnings\nwarnings.warn("old", DeprecationWarning)')
    project.fails("DeprecationWarning: old", failed=1)


def test_a_machine_with_few_cores_is_no_fault_of_a_page(project):
    """DataLoader warns of more workers than the process may use cores."""
    project.page("import os\nfrom torch.utils.data import DataLoader\n"
                 "DataLoader(range(4), num_workers=2 * os.cpu_count())")
    project.run().assert_outcomes(passed=1)


def test_the_shell_of_the_caller_does_not_matter(project, monkeypatch):
    for name, value in {"PYTHONSTARTUP": "x", "PYTHONOPTIMIZE": "2", "OMP_NUM_THREADS": "7", "MPLBACKEND": "no"}.items():
        monkeypatch.setenv(name, value)
    project.page(
        'import os\nprint(os.environ.get("PYTHONOPTIMIZE"), os.environ["OMP_NUM_THREADS"], os.environ["MPLBACKEND"])',
        "> None 1 module://page_figures",
    )
    project.run().assert_outcomes(passed=1)


def test_reading_standard_input_ends_at_once(project):
    project.page("input()")
    project.fails("EOFError", failed=1)
