"""The checker of documents: what it reads, what it lets pass, and above all what it notices."""

import hashlib
import runpy
import sys
from decimal import ROUND_HALF_EVEN, Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from snippets.reference import verification
from snippets.reference.verification import Example, check, digest, examples, fences, place, same

T = "`" * 3


def document(*parts: str) -> str:
    """Prose, then fences: a part that begins with '>' is the output of the one before."""
    blocks = [f"{T}text\n{p[1:]}{T}\n" if p.startswith(">") else f"{T}python\n{p}{T}\n" for p in parts]
    return "Some prose.\n\n" + "\nMore.\n\n".join(blocks)


# Reading


@pytest.mark.parametrize(
    "text",
    ["", "no fence at all\n", document("x = 1\n"), document("x = 1\n", ">1\n", "y\n"), f"{T}python\n{T}\n",
     f"{T} text \na\n\n  b\n{T}  \nend", f"{T}text\n{T}python\n{T}\n", f"a {T} b\n{T}py\nx\n{T}\n{T}\n{T}"],
)  # fmt: skip
def test_fences_are_those_of_commonmark(text):
    wanted = [(t.map[0] + 1, t.info.strip(), t.content) for t in MarkdownIt().parse(text) if t.type == "fence"]
    assert list(fences(text)) == wanted


@pytest.mark.parametrize("text", [f"{T}python\nx", f"a\n{T}\nx\n{T}\n{T}text\n"])
def test_a_fence_that_never_ends_is_named(text):
    line = text.count("\n", 0, text.rindex(T)) + 1
    with pytest.raises(ValueError, match=rf"^line {line}: this fence never ends$"):
        list(fences(text))


@pytest.mark.parametrize(
    "fence",
    [f"  {T}python\n1 / 0\n  {T}", "~~~python\n1 / 0\n~~~", f"> {T}python\n> 1 / 0\n> {T}", f"- {T}python\n  1 / 0\n  {T}",
     f"12. {T}python\n    1 / 0\n    {T}", f"- a\n\n    {T}\n    1 / 0\n    {T}"],
)  # fmt: skip
def test_a_fence_that_would_not_be_read_is_refused(fence):
    """All of them are fences to CommonMark."""
    text = f"Prose.\n\n{fence}\n"
    assert [t.content for t in MarkdownIt().parse(text) if t.type == "fence"] == ["1 / 0\n"]
    line = 3 + fence.count("\n", 0, fence.index("1 / 0")) - 1
    with pytest.raises(ValueError, match=rf"^line {line}: a fence begins with {T}$"):
        check(text)


def test_a_fence_inside_a_fence_is_text():
    assert [body for *_, body in fences(f"{T}text\n ~~~\n> {T}\n{T}\n")] == [f" ~~~\n> {T}\n"]


def test_an_output_belongs_to_the_code_above_it():
    found = examples(document("a\n", ">1\n", "b\n", "c\n", ">2\n3\n"))
    assert found == [Example(3, "a\n", "1\n"), Example(15, "b\n", ""), Example(21, "c\n", "2\n3\n")]


@pytest.mark.parametrize(
    ("text", "line", "language"),
    [(f"{T}pyhton\nx\n{T}\n", 1, "pyhton"), (f"\n{T}\nx\n{T}\n", 2, ""), (document(">1\n"), 3, "text"),
     (document("a\n", ">1\n", ">2\n"), 15, "text"), (f"{T}python title=x\nx\n{T}\n", 1, "python title=x")],
)  # fmt: skip
def test_nothing_is_passed_over(text, line, language):
    with pytest.raises(ValueError, match=rf"^line {line}: expected python, or one text fence below it, got '{language}'$"):
        examples(text)


# Comparing


@pytest.mark.parametrize(
    ("want", "got", "equal"),
    [("a\n", "a\n", True), ("a\n", "a", False), ("a b", "a  b", False), ("True", "False", False),
     ("0.123", "0.12345", True), ("0.123", "0.1236", False), ("0.123", "0.1224", False), ("0.123", "0.1225", True),
     ("3", "3", True), ("3", "4", False), ("3", "3.0", False), ("3.0", "3", False), ("-1.5", "1.5", False),
     ("1.5", "-1.5", False), ("-0.0", "0.04", True), ("1.0e-05", "1.02e-05", True), ("1.0e-05", "1.0e-04", False),
     ("[0.5]", "[0.5, 2.0]", False), ("[0.5, 2.0]", "[0.5]", False), ("0.5 x 0.25", "0.5 x 0.26", False),
     ("0.5 x 0.25", "0.6 x 0.25", False), ("nan", "0.0", False), ("1.20", "1.204", True), ("1.20", "1.21", False)],
)  # fmt: skip
def test_text_is_equal_and_decimals_to_the_last_one_shown(want, got, equal):
    assert same(want, got) is equal


@given(st.decimals(-100, 100, places=6), st.integers(1, 4), st.integers(-3, 3), st.sampled_from([0, 1, -1]))
def test_a_decimal_is_equal_exactly_if_it_rounds_to_what_is_shown(value, places, near, side):
    """The oracle is decimal arithmetic, at the very edge between two roundings and half a millionth beside it."""
    unit = Decimal(1).scaleb(-places)
    shown = value.quantize(unit, ROUND_HALF_EVEN)
    got = shown + unit * near / 2 + side * unit / 1000
    expected = abs(got - shown) <= unit / 2
    assert same(f"{shown:.{places}f}", f"{got:.8f}") is expected


# Running


def test_examples_share_a_namespace_and_a_name():
    assert check(document("x = 2\nprint(x)\n", ">2\n", "print(x + 1, __name__)\n", ">3 __main__\n")) == []


def test_each_difference_is_named_with_its_line():
    found = check(document("print(1)\n", ">2\n", "print(3)\n", "x = 1\n", ">4\n", "print(5)\n", ">5\n"))
    assert found == [
        "line 3: expected '2\\n', got '1\\n'",
        "line 15: expected '', got '3\\n'",
        "line 21: expected '4\\n', got ''",
    ]


@pytest.mark.parametrize(
    ("code", "problem"),
    [("x = 1\n1 / 0\n", "line 5: ZeroDivisionError: division by zero"),
     ("def f():\n    raise KeyError(7)\nf()\n", "line 5: KeyError: 7"),
     ("import json\njson.loads('[')\n", "line 5: JSONDecodeError: Expecting value: line 1 column 2 (char 1)"),
     ("raise SystemExit(3)\n", "line 4: SystemExit: 3"),
     ("x = 1\nx = = 2\n", "line 5: SyntaxError: invalid syntax (document, line 5)")],
)  # fmt: skip
def test_an_error_ends_the_document_and_keeps_what_was_found_before(code, problem):
    assert check(document(code, "print(1)\n", ">2\n")) == [problem]
    before = "line 3: expected '', got '1\\n'"
    moved = problem.replace("line 4", "line 10").replace("line 5", "line 11")
    assert check(document("print(1)\n", code)) == [before, moved]


def test_the_user_can_still_stop_it():
    with pytest.raises(KeyboardInterrupt):
        check(document("raise KeyboardInterrupt\n"))


def test_an_error_outside_the_document_has_no_line_in_it():
    with pytest.raises(ValueError, match="elsewhere") as raised:
        raise ValueError("elsewhere")
    assert place(raised.value, "document") is None
    assert place(raised.value, __file__) == raised.value.__traceback__.tb_lineno
    assert place(SyntaxError("x", ("other", 3, 1, "")), "document") is None


# The digest


def test_the_digest_is_of_code_and_output_alone():
    text = document("print(1)\n", ">1\n")
    same_program = "Another title\n\n" + text.replace("prose", "words")
    assert digest(same_program) == digest(text) == hashlib.sha256(b'[["print(1)\\n", "1\\n"]]').hexdigest()
    for old, new in [("print(1)", "print(1) "), ("\n1\n", "\n2\n"), (">1", "")]:
        changed = text.replace(old, new) if old in text else document("print(1)\n")
        assert digest(changed) != digest(text)


# Files


def test_files_are_checked_one_after_the_other(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.md").write_text(document("print('ü')\n", ">ü\n"), encoding="utf-8")
    (tmp_path / "bad.md").write_text(document("print(1)\n", ">2\n", "1 / 0\n"), encoding="utf-8")
    (tmp_path / "odd.md").write_text(f"{T}\n", encoding="utf-8")
    (tmp_path / "torn.md").write_text(document("x = = 2\n"), encoding="utf-8")
    assert verification.main(["good.md", "bad.md", "odd.md", "torn.md"]) == 4
    assert capsys.readouterr().out.splitlines() == [
        "good.md: 0 problems",
        "bad.md, line 3: expected '2\\n', got '1\\n'",
        "bad.md, line 16: ZeroDivisionError: division by zero",
        "bad.md: 2 problems",
        "odd.md, line 1: this fence never ends",
        "odd.md: 1 problems",
        "torn.md, line 4: SyntaxError: invalid syntax (torn.md, line 4)",
        "torn.md: 1 problems",
    ]


@pytest.mark.parametrize(("text", "status"), [(document("x = 1\n"), 0), (document("x\n"), 1)])
def test_the_exit_status_makes_it_a_step_of_a_test_run(tmp_path, monkeypatch, capsys, text, status):
    file = tmp_path / "a.md"
    file.write_text(text, encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["verification.py", str(file)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(verification.__file__, run_name="__main__")
    assert int(ended.value.code) == status


def test_nothing_to_check_is_an_error():
    with pytest.raises(SystemExit, match=r"^expected the names of documents, got none$"):
        verification.main([])


def test_without_names_it_shows_what_it_notices(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["verification.py"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(verification.__file__, run_name="__main__")
    assert ended.value.code is None
    lines = capsys.readouterr().out.splitlines()
    assert lines[:-1] == [f"{T}python", "print(2 / 3)", T, f"{T}text", "0.666", T]
    assert lines[-1].startswith(r"line 1: expected '0.666\n', got '0.66666")
    verification.demo()
    assert capsys.readouterr().out.splitlines() == lines
