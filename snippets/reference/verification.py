"""Verification: a checker for documents whose examples have to run. Names of files are the documents to check."""

# --8<-- [start:imports]
import hashlib
import io
import json
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import NamedTuple

TICKS = "`" * 3
FENCE = re.compile(r"[\s>]*([-*+] +|\d+[.)] +)*(`{3}|~{3})")
DECIMAL = re.compile(r"-?\d+\.(\d+)")
# --8<-- [end:imports]


# --8<-- [start:fences]
def fences(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield each fence of a document: its line, its language, its text.

    Raises ValueError for one that never ends, that is indented or quoted,
    or drawn otherwise than with three backticks.
    """
    language, start, body = None, 0, []
    for number, line in enumerate(text.splitlines(), 1):
        if language is None and line.startswith(TICKS):
            language, start, body = line[3:].strip(), number, []
        elif language is not None and line.rstrip() == TICKS:
            yield start, language, "".join(body)
            language = None
        elif language is None and FENCE.match(line):
            raise ValueError(f"line {number}: a fence begins with {TICKS}")
        else:
            body.append(f"{line}\n")
    if language is not None:
        raise ValueError(f"line {start}: this fence never ends")
# --8<-- [end:fences]


# --8<-- [start:examples]
class Example(NamedTuple):
    """Code, the line of its fence, and what it should print."""

    line: int
    code: str
    expected: str = ""


def examples(text: str) -> list[Example]:
    """Return the python fences, each with the text fence below it.

    Raises ValueError for any other fence: nothing is passed over.
    """
    found = []
    for line, language, body in fences(text):
        if language == "python":
            found.append(Example(line, body))
        elif language == "text" and found and not found[-1].expected:
            found[-1] = found[-1]._replace(expected=body)
        else:
            want = "python, or one text fence below it"
            raise ValueError(f"line {line}: expected {want}, got {language!r}")
    return found
# --8<-- [end:examples]


# --8<-- [start:same]
def same(want: str, got: str) -> bool:
    """Whether the text is equal, and decimals to the last one shown."""
    if DECIMAL.sub("0.0", want) != DECIMAL.sub("0.0", got):
        return False
    pairs = zip(DECIMAL.finditer(want), DECIMAL.finditer(got), strict=True)
    return all(
        abs(float(a[0]) - float(b[0])) <= 0.5001 * 10.0 ** -len(a[1])
        for a, b in pairs
    )
# --8<-- [end:same]


# --8<-- [start:check]
def place(error: BaseException, name: str) -> int | None:
    """Return the last line of this file that an error came through."""
    if isinstance(error, SyntaxError) and error.filename == name:
        return error.lineno
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == name]
    return lines[-1] if lines else None


def check(text: str, name: str = "document") -> list[str]:
    """Run a document from top to bottom; return what does not hold."""
    space, problems = {"__name__": "__main__"}, []
    for line, code, expected in examples(text):
        out = io.StringIO()
        try:
            with redirect_stdout(out):
                exec(compile("\n" * line + code, name, "exec"), space)
        except (Exception, SystemExit) as error:  # the rest builds on it
            what = f"{type(error).__name__}: {error}"
            return [*problems, f"line {place(error, name)}: {what}"]
        if not same(expected, got := out.getvalue()):
            problems.append(f"line {line}: expected {expected!r}, got {got!r}")
    return problems
# --8<-- [end:check]


# --8<-- [start:digest]
def digest(text: str) -> str:
    """Return the SHA-256 of what runs and what it should print."""
    program = [(code, expected) for _, code, expected in examples(text)]
    return hashlib.sha256(json.dumps(program).encode()).hexdigest()
# --8<-- [end:digest]


# --8<-- [start:main]
def main(names: list[str]) -> int:
    """Check files; print what does not hold, and return how much."""
    if not names:
        raise SystemExit("expected the names of documents, got none")
    count = 0
    for name in names:
        text = Path(name).read_text(encoding="utf-8")
        try:
            problems = check(text, name)
        except ValueError as error:
            problems = [str(error)]
        for problem in problems:
            print(f"{name}, {problem}")
        print(f"{name}: {len(problems)} problems")
        count += len(problems)
    return count
# --8<-- [end:main]


def demo() -> None:
    """Check a document whose output has a wrong digit."""
    document = f"{TICKS}python\nprint(2 / 3)\n{TICKS}\n{TICKS}text\n0.666\n{TICKS}"
    print(document, *check(document), sep="\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]) > 0 if sys.argv[1:] else demo())
