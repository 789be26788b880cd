"""A small project around one page, run by the page runner in a pytest of its own."""

from pathlib import Path
from textwrap import dedent

import pytest

MKDOCS = """
site_name: a project
markdown_extensions:
  - pymdownx.snippets:
      base_path: [!relative $config_dir]
      check_paths: true
      dedent_subsections: true
"""
SHOWN = "<!--pytest-codeblocks:expected-output-->\n```text\n{}\n```\n"


class Project:
    def __init__(self, pytester):
        self.pytester, self.root = pytester, Path(pytester.path)
        self.write("mkdocs.yml", MKDOCS)
        self.write("conftest.py", 'pytest_plugins = ["tests.page_runner.plugin"]\n')

    def write(self, path: str, text: str) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(dedent(text), encoding="utf-8")
        return file

    def page(self, *parts: str, name: str = "part/topic") -> Path:
        """A page of parts: code becomes a python fence, text that begins with '>' the output of the fence before."""
        blocks = []
        for part in parts:
            if part.startswith(">"):
                blocks.append(SHOWN.format(dedent(part[1:].removeprefix(" ")).strip("\n")))
            elif part.startswith(("#", "<!--", "!", "[", "```", "?", "=")):
                blocks.append(part)
            else:
                blocks.append(f"```python\n{dedent(part).strip()}\n```\n")
        return self.write(f"docs/{name}.md", "\n".join(blocks))

    def run(self, *arguments: str):
        unneeded = ("codeblocks", "cacheprovider", "hypothesispytest", "pytest_cov", "xdist")
        options = [option for name in unneeded for option in ("-p", f"no:{name}")] + ["-o", "page_timeout=120"]
        return self.pytester.runpytest_inprocess(*options, *(arguments or ["docs"]))

    def fails(self, *expected: str, **outcomes: int) -> str:
        """Run; the run must be red and say each of `expected`."""
        result = self.run()
        assert result.ret != 0
        output = result.stdout.str()
        for text in expected:
            assert text in output, f"{text!r} is not in:\n{output}"
        if outcomes:
            result.assert_outcomes(**outcomes)
        return output


@pytest.fixture
def project(pytester) -> Project:
    return Project(pytester)
