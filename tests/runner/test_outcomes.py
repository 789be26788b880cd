"""Points 4, 5 and 6: tracebacks of the page, asserted outputs, strict expected failures."""

import pytest

from tests.page_runner import compare

MODULE = '''
# --8<-- [start:halve]
def halve(x):
    return x / 0
# --8<-- [end:halve]
'''


def test_a_traceback_names_the_lines_of_page_and_module(project):
    project.write("snippets/part/topic.py", MODULE)
    project.page("# T", '```python\n--8<-- "snippets/part/topic.py:halve"\n```\n', "x = 1\nhalve(x)")
    project.fails(
        "docs/part/topic.md:6: ZeroDivisionError: division by zero",
        'File "docs/part/topic.md", line 8, in <module>',
        "    halve(x)",
        'File "snippets/part/topic.py", line 4, in halve',
    )


def test_syntax_errors_and_chained_errors_name_the_page(project):
    project.page("x = 1\nx = = 2", name="syntax")
    project.fails('File "docs/syntax.md", line 3', "SyntaxError: invalid syntax")
    project.page("x = 1", "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise KeyError(1) from e", name="syntax")
    project.fails('File "docs/syntax.md", line 7', 'File "docs/syntax.md", line 9', "KeyError: 1")


@pytest.mark.parametrize("code", ["raise SystemExit(0)", "import sys\nsys.exit()", "raise KeyboardInterrupt"])
def test_leaving_the_program_is_a_failure_of_that_fence_only(project, code):
    project.page("x = 1", code, "x = 2")
    project.page("y = 1", name="zz")
    output = project.fails("SystemExit" if "xit" in code else "KeyboardInterrupt", "1 failed", "1 not run")
    assert "2 passed" in output


def test_a_killed_process_is_a_failure_of_its_fence(project):
    project.page("import os, signal", "os.kill(os.getpid(), signal.SIGKILL)", "x = 2")
    project.page("y = 1", name="zz")
    output = project.fails("ProcessDied: the page's process ended with signal SIGKILL", "1 not run")
    assert "2 passed" in output
    project.page("import os\nos._exit(0)")
    project.fails("ProcessDied: the page's process ended with exit status 0")


def test_a_fence_that_does_not_end_is_ended(project):
    project.page("x = 1", "import time\ntime.sleep(60)")
    result = project.run("docs", "-o", "page_timeout=1.5")
    result.stdout.fnmatch_lines(["*docs/part/topic.md:5: TimeoutError: no end after 1.5 seconds*"])


@pytest.fixture
def cpu(monkeypatch, tmp_path):
    """Makes this machine's CPU one with other flags."""
    monkeypatch.setattr(compare, "CPUINFO", tmp_path / "cpuinfo")
    return (tmp_path / "cpuinfo").write_text


@pytest.mark.parametrize(
    ("want", "got", "same"),
    [
        ("0.123", "0.1234", True),
        ("0.123", "0.1254", False),
        ("3 of 4", "3 of 5", False),
        ("-1.5", "1.5", False),
        ("1.00e-05", "1.001e-05", True),
        ("1.00e-05", "1.00e-04", False),
        ("tensor([0.50, 1.25])", "tensor([0.501, 1.249])", True),
        ("tensor([0.50, 1.25])", "tensor([0.50, 1.25, 2.0])", False),
        ("torch.Size([64, 10])", "torch.Size([64, 11])", False),
        ("a", "a ", False),
        ("a\n\nb", "a\nb", False),
        ("True", "False", False),
        ("nan", "0.0", False),
        ("anything", "any...", False),
        ("any...", "anything", False),
    ],
)
def test_on_other_hardware_numbers_may_be_off_by_one_in_the_last_place(cpu, want, got, same):
    cpu("flags\t\t: sse avx2")
    assert (compare.text(want + "\n", got + "\n", "cuda") is None) is same
    for flags in "flags\t\t: sse avx2 avx512f", "Features : asimd", "":
        cpu(flags)
        assert (compare.text(want + "\n", got + "\n", "cpu") is None) is same


def test_a_system_that_does_not_name_its_cpu_is_other_hardware(monkeypatch, tmp_path):
    monkeypatch.setattr(compare, "CPUINFO", tmp_path / "none")
    assert compare.text("0.123\n", "0.1234\n", "cpu") is None


@pytest.mark.parametrize(
    ("want", "got", "same"),
    [
        ("loss 0.5 of 3\n", "loss 0.5 of 3\n", True),
        ("0.5", "0.6", False),
        ("0.123", "0.124", False),
        ("0.123", "0.1234", False),
        ("tensor(7.)", "tensor(8.)", False),
        ("1e-05", "2e-05", False),
        ("0.0", "-0.0", False),
        ("a", "a ", False),
        ("any...", "anything", False),
        ("~12 times of 0.5", "~15 times of 0.5", True),
        ("~12 times of 0.5", "~15 times of 0.6", False),
    ],
)
def test_on_a_cpu_with_avx2_text_is_equal(cpu, want, got, same):
    cpu("flags\t\t: sse avx2 fma")
    assert (compare.text(want + "\n", got + "\n", "cpu") is None) is same


def test_three_dots_stand_for_anything_where_that_is_asked(cpu):
    cpu("flags\t\t: avx2")
    assert compare.text("ValueError: not ...\n", "ValueError: not 0.5 here\n", "cpu", ellipsis=True) is None
    assert compare.text("0.5: ...\n", "0.6: a\n", "cpu", ellipsis=True) is not None


@pytest.mark.parametrize(
    ("want", "got", "same"),
    [
        ("~12 times", "~36 times", True),
        ("~12 times", "~4.0 times", True),
        ("~12 times", "~36.1 times", False),
        ("~12 times", "~3.99 times", False),
        ("~12 times", "12 times", False),
        ("12 times", "~12 times", False),
        ("~0", "~0", True),
        ("~0", "~1", False),
        ("a   ~9.8 b", "a  ~10.3 b", True),  # right-aligned
        ("~2 of 3", "~4 of 3", True),
        ("~2 of 3", "~2 of 4", False),
        ("~1 ~5", "~2 ~4", True),
        ("~1 ~5", "~2", False),
        ("~1", "~1 ~5", False),
        ("~/data", "~/data", True),
    ],
)
def test_a_measurement_holds_within_a_factor_of_three(want, got, same):
    assert (compare.text(want + "\n", got + "\n", "cpu") is None) is same


def test_a_wrong_digit_names_page_and_line(project):
    project.page("# T", 'print("accuracy", 0.9187)', "> accuracy 0.9178")
    project.fails("docs/part/topic.md:7: the output differs", "- accuracy 0.9178", "+ accuracy 0.9187", failed=1)


def test_a_fence_that_prints_has_an_output_and_the_other_way_round(project):
    project.page("print(1)")
    project.fails("docs/part/topic.md:1: the fence prints, but has no output block", failed=1)
    project.page("x = 1", "> 1")
    project.fails("docs/part/topic.md:6: the page shows an output, but the fence printed nothing", failed=1)


def test_an_empty_or_second_output_is_refused(project):
    project.page("x = 1", "> ")
    project.fails("an empty output", errors=1)
    project.page("print(1)", "> 1", "> 1")
    project.fails("docs/part/topic.md:11: the fence at docs/part/topic.md:1 has an output for this device", errors=1)


def tabs(**outputs: str) -> str:
    shown = "    <!--pytest-codeblocks:expected-output-->\n    ```text\n    {}\n    ```\n"
    return "\n".join(f'=== "{title.upper()}"\n\n{shown.format(text)}' for title, text in outputs.items())


def test_each_device_checks_its_own_tab(project):
    project.page("print(1)", tabs(cpu="1", cuda="2"))
    project.run().assert_outcomes(passed=1)
    project.page("print(2)", tabs(cpu="1", cuda="2"))
    project.fails("docs/part/topic.md:8: the output differs", failed=1)
    project.page("print(1)", tabs(cuda="1"))
    project.fails("docs/part/topic.md:1: the fence prints, but has no output block for cpu", failed=1)
    project.page("print(1)", tabs(windows="1"))
    project.fails('the tab of an output is "CPU" or "CUDA"', errors=1)


EXPECTED = "<!--pytest.mark.xfail(raises=ValueError)-->"


def test_an_expected_failure_names_type_and_message(project):
    project.page(EXPECTED, 'print("before")\nraise ValueError("shape (2, 3)")', "> before\nValueError: shape (2, 3)", "x = 1")
    project.run().assert_outcomes(passed=2)


@pytest.mark.parametrize(
    ("code", "shown", "problem"),
    [
        ("x = 1", "> ValueError: no", "docs/part/topic.md:2: expected ValueError, but the fence ran to its end"),
        ('raise KeyError("no")', "> ValueError: no", "docs/part/topic.md:2: KeyError: 'no'"),
        ('raise UnicodeError("no")', "> ValueError: no", "docs/part/topic.md:2: UnicodeError: no"),
        ('raise ValueError("yes")', "> ValueError: no", "+ ValueError: yes"),
        ('raise ValueError("no")', "> ValueError: ...", "an expected failure names its message"),
        ('raise ValueError("no")', "x = 1", "docs/part/topic.md:2: the fence prints, but has no output block"),
    ],
)
def test_expected_failures_are_strict(project, code, shown, problem):
    project.page(EXPECTED, code, shown)
    project.fails(problem)


def test_part_of_a_message_may_be_left_out(project):
    project.page(EXPECTED, 'raise ValueError("got 3 at 0x7f")', "> ValueError: got 3 at ...")
    project.run().assert_outcomes(passed=1)


def test_bash_fences_run_with_pipefail_and_their_output_is_checked(project):
    project.page("```bash\necho one; seq 2 3\n```\n", "> one\n2\n3")
    project.run().assert_outcomes(passed=1)
    project.page("```bash\nfalse | cat\n```\n")
    project.fails("docs/part/topic.md:1: ExitStatus: bash ended with status 1", failed=1)
    project.page("```bash\necho one\n```\n", "> two")
    project.fails("- two", "+ one", failed=1)
    project.page("```bash\nsleep 60\n```\n")
    result = project.run("docs", "-o", "page_timeout=1")
    result.stdout.fnmatch_lines(["*TimeoutError: no end after 1 seconds*"])
