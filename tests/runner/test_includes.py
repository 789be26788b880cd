"""Point 1: includes are expanded exactly as MkDocs expands them, and nothing stays unexpanded or unused."""

import markdown
import pytest

from website import pages

MODULE = '''
"""A module."""
# --8<-- [start:imports]
import math
# --8<-- [end:imports]


# --8<-- [start:area]
def area(radius):
    """With an indented line and

    a blank one."""
    return math.pi * radius**2
# --8<-- [end:area]
'''
AREA = '```python\n--8<-- "snippets/part/topic.py:area"\n```\n'
IMPORTS = '```python\n--8<-- "snippets/part/topic.py:imports"\n```\n'


def test_expands_as_pymdownx_does(project):
    project.write("snippets/part/topic.py", MODULE)
    page = project.page(IMPORTS, '??? note "More"\n\n    ' + AREA.replace("\n", "\n    ").rstrip(), "print(f'{area(1):.2f}')", "> 3.14")
    whole = markdown.Markdown(
        extensions=["pymdownx.snippets"],
        extension_configs={"pymdownx.snippets": pages.snippet_options(project.root)},
    )
    expected = whole.preprocessors["snippet"].run(page.read_text().split("\n"))
    assert pages.load(page).source == "\n".join(expected) + "\n"
    assert pages.load(page).fences[1].code.startswith("def area(radius):\n")
    project.run().assert_outcomes(passed=3)


def test_lines_of_an_include_keep_their_origin(project):
    project.write("snippets/part/topic.py", MODULE)
    page = pages.load(project.page("x = 1", AREA))
    assert str(page.fences[1].where) == "docs/part/topic.md:5"
    assert [str(where) for where in page.fences[1].origins][:2] == ["snippets/part/topic.py:9", "snippets/part/topic.py:10"]


@pytest.mark.parametrize(
    "line",
    [
        "--8<-- snippets/part/topic.py:area",
        '--8<-- "snippets/part/topic.py:area" ',
        '--8<-- "snippets/part/topic.py"',
        '--8<-- "snippets/part/topic.py:1:3"',
        '-8<- "snippets/part/topic.py:area"',
        ';--8<-- "snippets/part/topic.py:area"',
        "--8<--",
        'x = 1  # --8<-- "snippets/part/topic.py:area"',
        '--8<-- "snippets/../topic.py:area"',
    ],
)
def test_an_include_that_would_stay_unexpanded_fails(project, line):
    project.write("snippets/part/topic.py", MODULE)
    project.page("x = 1", f"```python\n{line}\n```\n")
    project.fails("docs/part/topic.md:6: include not understood", errors=1)


def test_a_missing_module_or_section_fails(project):
    project.page(AREA)
    project.fails("docs/part/topic.md:2: there is no module snippets/part/topic.py", errors=1)
    project.write("snippets/part/topic.py", MODULE.replace("area]", "disc]"))
    project.fails("docs/part/topic.md:2: snippets/part/topic.py has no section 'area'; it has imports, disc", errors=1)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("# --8<-- [end:area]\n", "", "topic.py:8: section 'area' starts here and never ends"),
        ("# --8<-- [start:area]\n", "", "topic.py:13: section 'area' ends here but was not open"),
        ("# --8<-- [end:imports]\n", "", "topic.py:7: section 'area' starts inside 'imports'"),
        ("imports]", "area]", "topic.py:8: there are two sections named 'area'"),
        ("import math\n", "", "topic.py:4: section 'imports' is empty"),
        ("import math", "text = '''\n# --8<-- [start:inner]\n'''", "topic.py:5: a section marker must be a comment"),
        ("import math", "x = 1  # --8<-- [start:inner]", "topic.py:4: a section marker must be a comment"),
        ("import math", "import (", "snippets/part/topic.py: not Python"),
    ],
)
def test_a_module_with_a_faulty_section_fails(project, old, new, problem):
    project.write("snippets/part/topic.py", MODULE)
    module = project.root / "snippets/part/topic.py"
    module.write_text(module.read_text().replace(old, new))
    project.page(AREA)
    project.fails(problem, errors=1)


def test_a_section_or_module_that_no_page_uses_is_named(project):
    project.write("snippets/part/topic.py", MODULE)
    project.write("snippets/part/other.py", "x = 1\n")
    project.write("snippets/part/__init__.py", "")
    project.page(AREA)
    assert pages.unused_sections(project.root) == [
        "snippets/part/other.py:1: no page can show this module: it has no section",
        "snippets/part/topic.py:3: no page uses section 'imports'",
    ]


def test_a_page_belongs_to_a_project(tmp_path):
    with pytest.raises(pages.PageError, match=r"no mkdocs\.yml in any folder above"):
        pages.load(tmp_path / "page.md")
