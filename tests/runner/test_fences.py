"""Points 2 and 3: no fence is passed over in silence; a page is one program in a real `__main__`."""

import pytest

from website import pages


@pytest.mark.parametrize(
    "opening",
    [
        '```python title="a.py"', "```py", "```Python", "```python3", "```{.python .annotate}", "```{ .python }",
        '```python hl_lines="1"', "``` python", "```python ", "~~~python", "```pycon", "```", "```sh", "```console",
        '```python linenums="1"', "~~~~python",
    ],
)
def test_every_other_info_string_is_refused_by_name(project, opening):
    ticks = opening[: 4 if opening.startswith("~~~~") else 3]
    project.write("docs/part/topic.md", f"# Title\n{opening}\n1 / 0\n{ticks}\n")
    project.fails("docs/part/topic.md:2: fence", "is not executed; allowed are exactly ```python and ```bash", errors=1)


@pytest.mark.parametrize("line", ["> ```python", "- ```python", "1. ```python", "* > ```python", "  > ~~~ python"])
def test_a_fence_behind_a_quote_or_list_mark_is_refused(project, line):
    project.write("docs/part/topic.md", f"# Title\n{line}\n  1 / 0\n  ```\n")
    project.fails("docs/part/topic.md:2: a fence inside a quote or on the line of a list item", errors=1)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("```python\nx = 1\n", "topic.md:1: this fence never ends"),
        ("```text\nx\n```\n", "topic.md:1: a text fence is an output"),
        ("<!--pytest-codeblocks:expected-output-->\n```text\nx\n```\n", "topic.md:2: an output without a fence"),
        ("<!--pytest-codeblocks:skip-->\n```python\n```\n", "topic.md:1: comment not allowed: 'pytest-codeblocks:skip'"),
        ("<!--pytest-codeblocks:cont-->\n```python\n```\n", "topic.md:1: comment not allowed"),
        ("<!--pytest.mark.skip-->\n```python\n```\n", "topic.md:1: comment not allowed"),
        ("<!--pytest.mark.xfail-->\n```python\n```\n", "topic.md:1: comment not allowed"),
        ("# T <!--pytest.mark.skip-->\n", "topic.md:1: a runner comment must stand on a line of its own"),
        ("```python\n```\n<!--pytest-codeblocks:expected-output-->\nx\n", "topic.md:4: a runner comment must be followed"),
        ("```python\n```\n<!--pytest-codeblocks:expected-output-->\n", "topic.md:4: a runner comment must be followed"),
        ("<!--pytest.mark.xfail(raises=ValueError)-->\n# T\n", "topic.md:2: a runner comment must be followed"),
        ("    ```python\n  x = 1\n    ```\n", "topic.md:2: a line of this fence is indented less than the fence"),
        ("```python\n```\n<!--pytest-codeblocks:expected-output-->\n```python\n```\n", "topic.md:4: an expected output must"),
    ],
)
def test_a_faulty_page_names_the_line(project, text, problem):
    project.write("docs/part/topic.md", "").write_text(text)
    project.fails(problem, errors=1)


def test_fences_run_at_any_indentation_and_with_more_ticks(project):
    project.write("docs/part/topic.md", "").write_text(
        '# One\n\n??? success "Solution"\n\n    ```python\n    if True:\n        x = "two\\nlines"\n    ```\n\n'
        '````python\ntext = """\n```\n"""\n````\n\n## Two\n\n```python\nassert x == "two\\nlines" and "```" in text\n```\n'
    )
    project.run().assert_outcomes(passed=3)


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_files_of_other_editors_are_read_alike(project, mark, line_end):
    text = f"{mark}```python\nprint(1)\n```\n\n<!--pytest-codeblocks:expected-output-->\n```text\n1\n```\n"
    project.write("docs/t.md", "").write_bytes(text.replace("\n", line_end).encode())
    project.run().assert_outcomes(passed=1)


def test_ids_are_headings_not_line_numbers(project):
    project.page("x = 1", "# Train the model", "x = 2", "x = 3", "## Look", "x = 4")
    ids = [fence.id for fence in pages.load(project.root / "docs/part/topic.md").fences]
    assert ids == ["start", "train-the-model", "train-the-model-2", "look"]
    result = project.run("-v", "docs/part/topic.md::train-the-model-2")
    result.stdout.fnmatch_lines(["docs/part/topic.md::train-the-model-2 PASSED*"])


def test_one_namespace_and_a_real_main_module(project):
    project.page(
        """
        import inspect, multiprocessing, pickle, sys

        class Point:
            def __init__(self, x):
                self.x = x

        def double(x):
            return 2 * x
        """,
        """
        if __name__ == "__main__":
            assert sys.modules["__main__"].Point is Point
            assert pickle.loads(pickle.dumps(Point(3))).x == 3
            assert inspect.getsource(double) == "def double(x):\\n    return 2 * x\\n"
            assert "self.x = x" in inspect.getsource(Point)
        """,
        """
        if __name__ == "__main__":
            for method in ("fork", "spawn", "forkserver"):
                with multiprocessing.get_context(method).Pool(1) as pool:
                    print(method, pool.map(double, [1, 2]))
        """,
        "> fork [2, 4]\nspawn [2, 4]\nforkserver [2, 4]",
        "raise_later = 1",
    )
    project.run().assert_outcomes(passed=4)


def test_pages_do_not_share_a_namespace(project):
    project.page("shared = 1", name="a")
    project.page("shared", name="b")
    project.fails("NameError: name 'shared' is not defined", passed=1, failed=1)


def test_after_a_failure_the_rest_of_the_page_is_not_run_and_not_passed(project):
    project.page("x = 1", "x = 1 / 0", "x = 2", "print(x)", "> 2")
    project.page("y = 1", name="other")
    output = project.fails("docs/part/topic.md:5: ZeroDivisionError: division by zero", "2 not run", "not run: docs/part/topic.md:5")
    assert "2 passed" in output
    assert "1 failed" in output


def test_a_wrong_output_also_ends_the_page(project):
    project.page("print(1)", "> 2", "x = 1")
    project.fails("1 not run", "1 failed")


def test_output_of_worker_processes_is_captured(project):
    project.page('import os\nos.system("echo from a process")\nprint("from python")', "> from a process\nfrom python")
    project.run().assert_outcomes(passed=1)


def test_selecting_one_fence_runs_those_before_it(project):
    project.page("# A", "x = 41", "# B", "print(x + 1)", "> 42")
    project.run("docs", "-k", "b").assert_outcomes(passed=1, deselected=1)


def test_no_skips_fails_a_run_with_a_test_that_was_not_run(project):
    project.write("docs/test_x.py", "import pytest\ndef test_x(): pytest.skip('not run: no browser')\n")
    assert project.run().ret == 0
    result = project.run("docs", "--no-skips")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["--no-skips: 1 not run: docs/test_x.py::test_x"])


def test_the_collector_of_pytest_codeblocks_is_off(project):
    project.page("x = 1")
    result = project.pytester.runpytest_inprocess("docs", "--codeblocks")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--codeblocks would run the pages a second time*"])


def test_markdown_outside_docs_is_no_page(project):
    project.page("x = 1")
    project.write("README.md", "```python\n1 / 0\n```\n")
    result = project.pytester.runpytest_inprocess("-p", "no:codeblocks", ".")
    result.assert_outcomes(passed=1)
