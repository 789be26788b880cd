"""Proofs for snippets/reference/corrections.py, and for the form of its page: each claim is proven and linked."""

import ast
import re
import runpy
import warnings
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown.extensions.toc import slugify
from torch import nn

from snippets.reference import corrections
from snippets.reference.corrections import agree, changed, differ, gradient_of, main, outcome, same_memory, span
from website import pages

DOCS = pages.ROOT / "docs"
PAGE = DOCS / "reference/corrections.md"
PARTS = ["Tensors", "Autograd", "Optimization", "Modules", "Data", "Evaluation", "Weights", "Devices", "Saving"]
LINK = re.compile(r"Taught in \[[^\]]+\]\(\.\./(?P<page>[\w/-]+\.md)#(?P<anchor>[\w-]+)\)\.")
FLOATS = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=6)


# outcome


def warn(*categories):
    for category in categories:
        warnings.warn("careful", category, stacklevel=2)


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        (lambda: None, "runs"),
        (lambda: 1 / 0, "raises ZeroDivisionError"),
        (lambda: warn(UserWarning), "warns UserWarning"),
        (lambda: warn(UserWarning, FutureWarning, UserWarning), "warns FutureWarning, UserWarning"),
        (lambda: (warn(UserWarning), {}["x"]), "raises KeyError"),
        (lambda: torch.zeros(2) + torch.zeros(3), "raises RuntimeError"),
    ],
)
def test_outcome_says_what_happened(action, expected):
    assert outcome(action) == expected


def test_outcome_sees_a_warning_each_time():
    def action():
        warnings.warn("careful", DeprecationWarning, stacklevel=1)

    assert [outcome(action), outcome(action)] == ["warns DeprecationWarning"] * 2


def test_outcome_lets_an_interrupt_pass():
    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        outcome(stop)


def test_outcome_leaves_the_filters_as_they_were():
    before = warnings.filters[:]
    outcome(lambda: warn(UserWarning))
    assert warnings.filters[:] == before


# agree


@settings(max_examples=50, deadline=None)
@given(values=FLOATS, shift=st.floats(-4e-5, 4e-5), where=st.integers(0, 5))
def test_agree_measures_against_the_largest_value(values, shift, where):
    """The oracle: the largest difference over the largest size, in Python."""
    index = where % len(values)
    other = list(values)
    other[index] += shift * max(map(abs, values))
    expected = all(abs(a - b) <= 1e-5 * max(map(abs, other)) for a, b in zip(values, other, strict=True))
    tensors = (torch.tensor(v, dtype=torch.float64) for v in (values, other))
    assert agree(*tensors) == expected


@pytest.mark.parametrize(("tolerance", "expected"), [(0.09, False), (0.11, True)])
def test_agree_takes_a_tolerance(tolerance, expected):
    a, b = torch.tensor([0.0, 9.0]), torch.tensor([0.0, 10.0])
    assert agree(a, b, tolerance) == expected
    assert agree(torch.tensor([1.0, 10.0]), b, tolerance) == expected  # what is near zero counts no less


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([1.0, 2.0], [1.0, 2.0], True),
        ([1.0, 2.0], [1.0, -2.0], False),
        ([1.0, float("inf")], [1.0, float("inf")], True),
        ([1.0, float("inf")], [1.0, -float("inf")], False),
        ([1.0, 5.0], [1.0, float("inf")], False),
        ([1.1, float("inf")], [1.0, float("inf")], False),  # infinity is no measure
        ([float("inf")], [float("inf")], True),
        ([float("nan")], [float("nan")], False),
        ([0.0, 0.0], [0.0, 0.0], True),
        ([1e-30], [0.0], False),
        ([], [], True),
        ([True, False], [True, False], True),
        ([True, False], [True, True], False),
        ([1, 2], [1.0, 2.0], True),
        ([1j, 2.0], [1j, 2.0], True),
        ([1j, 2.0], [-1j, 2.0], False),
        ([300], [44], False),
    ],
)
def test_agree_on_values_of_any_kind(a, b, expected):
    assert agree(torch.tensor(a), torch.tensor(b)) is expected


def test_agree_compares_in_the_wider_type():
    assert agree(torch.tensor([300.0]), torch.tensor([300], dtype=torch.int16))
    assert agree(torch.tensor([0.1]), torch.tensor([0.1], dtype=torch.float64), 1e-7)
    assert not agree(torch.tensor([0.1]), torch.tensor([0.1], dtype=torch.float64), 1e-9)
    assert agree(torch.tensor([1.0], requires_grad=True), torch.tensor([1.0], dtype=torch.bfloat16))
    for a, b in ([1j], [0.0]), ([0.0], [1j]):
        assert not agree(torch.tensor(a), torch.tensor(b))


@pytest.mark.parametrize(("a", "b"), [((4, 1), (4,)), ((1,), ()), ((2, 3), (3, 2)), ((0,), (1,))])
def test_agree_refuses_other_shapes(a, b):
    message = f"expected one shape, got {a} and {b}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        agree(torch.ones(a), torch.ones(b))


# same_memory


def test_same_memory_knows_views_from_copies():
    x = torch.arange(12.0).reshape(3, 4)
    shared = [x, x.T, x[0], x[:, 1:], x.detach(), x.data, nn.Parameter(x), x.reshape(4, 3), x.expand(2, 3, 4)]
    copied = [x.clone(), x[[0]], x + 0, x.T.reshape(12), x.double(), x.flip(0), torch.tensor(x.tolist())]
    assert [same_memory(x, y) for y in shared] == [True] * len(shared)
    assert [same_memory(y, x) for y in shared] == [True] * len(shared)
    assert [same_memory(x, y) for y in copied] == [False] * len(copied)


def test_same_memory_of_arrays_is_what_numpy_says():
    import numpy as np

    array = np.arange(10.0)
    cuts = [array, array[:5], array[5:], array[3:7], array[9:], array[:1], array.copy()]
    for a in cuts:
        for b in cuts:
            tensors = torch.from_numpy(a), torch.from_numpy(b)
            assert same_memory(*tensors) == np.shares_memory(a, b)


def test_halves_of_one_storage_share_it():
    first, second = torch.zeros(10).split(5)
    assert same_memory(first, second)


def test_nothing_shares_with_what_is_empty():
    assert not same_memory(torch.empty(0), torch.empty(0))
    assert not same_memory(torch.empty(0), torch.ones(1))


def test_other_devices_share_nothing(monkeypatch):
    """Addresses of two devices may be equal; only the CPU is here, so the addresses are made equal."""
    monkeypatch.setattr(corrections, "span", lambda tensor: (0, 8))
    assert same_memory(torch.ones(1), torch.ones(1))
    assert not same_memory(torch.ones(1), torch.ones(1, device="meta"))


def test_span_is_that_of_the_storage():
    x = torch.zeros(10, dtype=torch.float64)
    start, end = span(x[3:5])
    assert (start, end - start) == (x.data_ptr(), 80)


@pytest.mark.parametrize(
    ("tensor", "got"),
    [
        (torch.ones(2, device="meta"), "torch.strided on meta"),
        (torch.ones(2).to_sparse(), "torch.sparse_coo on cpu"),
    ],
)
def test_same_memory_refuses_what_has_none(tensor, got):
    for pair in (tensor, torch.ones(2)), (torch.ones(2), tensor):
        with pytest.raises(ValueError, match=f"^expected a tensor with memory, got {got}$"):
            same_memory(*pair)


# gradient_of


@settings(max_examples=30, deadline=None)
@given(values=st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=5))
def test_gradient_of_is_the_derivative(values):
    x = torch.tensor(values, dtype=torch.float64)
    slope = gradient_of(lambda x: (x**3 - 2 * x).sum(), x)
    torch.testing.assert_close(slope, 3 * x**2 - 2)
    ahead, back = ((x + h) ** 3 - 2 * (x + h) for h in (1e-5, -1e-5))
    torch.testing.assert_close(slope, (ahead - back) / 2e-5, atol=1e-6, rtol=1e-6)


def test_gradient_of_keeps_shape_and_dtype():
    for shape in (), (3,), (2, 1, 3):
        x = torch.ones(shape, dtype=torch.float16)
        slope = gradient_of(lambda x: (2 * x).sum(), x)
        assert (slope.shape, slope.dtype, slope.unique().tolist()) == (x.shape, x.dtype, [2.0])


def test_gradient_of_takes_one_number_of_any_shape():
    assert gradient_of(lambda x: (x**2).reshape(1, 1), torch.tensor(3.0)).item() == 6.0


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_gradient_of_works_in_every_mode(mode):
    with mode():
        slope = gradient_of(torch.square, torch.tensor(3.0))
    assert slope.item() == 6.0
    assert not slope.requires_grad


def test_gradient_of_takes_an_inference_tensor():
    with torch.inference_mode():
        x = torch.tensor(3.0)
    assert gradient_of(torch.square, x).item() == 6.0


def test_gradient_of_leaves_gradients_and_values_alone():
    x = torch.tensor(3.0, requires_grad=True)
    w = torch.tensor(2.0, requires_grad=True)
    x.grad = torch.tensor(5.0)
    assert gradient_of(lambda x: w * (x * 1).mul_(2), x).item() == 4.0
    assert (x.grad.item(), w.grad, x.item()) == (5.0, None, 3.0)


def test_gradient_of_may_edit_its_copy():
    x = torch.tensor([3.0])

    def f(copy):
        copy.data.fill_(7.0)
        return copy.square().sum()

    assert gradient_of(f, x).item() == 14.0
    assert x.item() == 3.0


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_gradient_of_refuses_other_dtypes(dtype):
    with pytest.raises(TypeError, match=f"^expected floating point, got {dtype}$"):
        gradient_of(torch.sum, torch.ones(2, dtype=dtype))


@pytest.mark.parametrize(
    ("f", "got"),
    [
        (lambda x: x * 2, "torch.float32 of shape (2,)"),
        (lambda x: x[:0], "torch.float32 of shape (0,)"),
        (lambda x: (x * 1j).sum(), "torch.complex64 of shape ()"),
    ],
)
def test_gradient_of_refuses_what_is_no_number(f, got):
    with pytest.raises(ValueError, match=f"^expected one real number, got {re.escape(got)}$"):
        gradient_of(f, torch.ones(2))


@pytest.mark.parametrize(
    "f",
    [
        lambda x: 3.0,
        lambda x: torch.tensor(3.0),
        lambda x: x.detach().sum(),
        lambda x: torch.tensor(3.0, requires_grad=True) * 2,
        lambda x: (x > 0).sum(),
    ],
)
def test_gradient_of_refuses_what_does_not_depend(f):
    with pytest.raises(ValueError, match=r"^expected f to depend on its argument$"):
        gradient_of(f, torch.ones(2))


# changed


def small_model():
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


@torch.no_grad()
def edit(model, name, value):
    model.state_dict()[name].fill_(value)


@pytest.mark.parametrize("name", list(small_model().state_dict()))
def test_changed_names_each_tensor(name):
    model = small_model()
    assert changed(model, lambda: edit(model, name, 7)) == [name]


def test_changed_names_one_element_and_several_tensors_in_order():
    model = small_model()

    def action():
        with torch.no_grad():
            model[1].running_mean[1] += 1e-6
            model[0].weight[1, 2] += 1.0

    assert changed(model, action) == ["0.weight", "1.running_mean"]
    assert changed(model, lambda: None) == []


def test_changed_sees_every_kind_of_change():
    model = small_model()
    mask = nn.Buffer(torch.zeros(1), persistent=False)
    assert changed(model, lambda: setattr(model, "mask", mask)) == ["mask"]
    assert changed(model, lambda: mask.add_(1)) == ["mask"]
    assert changed(model, lambda: delattr(model, "mask")) == ["mask"]
    assert changed(model, lambda: model[0].half()) == ["0.weight", "0.bias"]
    assert changed(model, lambda: setattr(model[1], "bias", nn.Parameter(torch.zeros(5)))) == ["1.bias"]


def test_changed_sees_through_what_it_does_not_own():
    """Nor does it change anything itself: gradients, modes and requires_grad stay."""
    model = small_model().eval()
    model[0].weight.grad = torch.ones(2, 3)
    seen = []
    assert changed(model, lambda: seen.append(1)) == []
    assert seen == [1]
    assert model[0].weight.grad.sum() == 6
    assert not model.training


def test_changed_refuses_a_model_of_nothing():
    called = []
    with pytest.raises(ValueError, match=r"^expected parameters or buffers, got none$"):
        changed(nn.ReLU(), lambda: called.append(1))
    assert called == []


def test_changed_lets_errors_pass():
    with pytest.raises(ZeroDivisionError):
        changed(small_model(), lambda: 1 / 0)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([1.0, 2.0], [1.0, 2.0], False),
        ([1.0, 2.0], [1.0, 3.0], True),
        ([float("nan"), 1.0], [float("nan"), 1.0], False),
        ([float("nan"), 1.0], [float("nan"), 2.0], True),
        ([float("nan")], [1.0], True),
        ([1.0], [float("nan")], True),
        ([1.0], [1], True),
        ([1.0], [[1.0]], True),
        ([1.0, 1.0], [1.0], True),
        ([], [], False),
        ([True], [False], True),
        ([0.0], [-0.0], False),
    ],
)
def test_differ(a, b, expected):
    assert differ(torch.tensor(a), torch.tensor(b)) is expected


# main


def test_main_prints_that_no_claim_holds(capsys):
    main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert {line.rpartition("found: ")[2] for line in lines} == {"False"}
    assert len({line.index("found: ") for line in lines}) == 1


def test_runs_as_a_script(capsys):
    runpy.run_path(str(Path(corrections.__file__)), run_name="__main__")
    assert "from_numpy copies" in capsys.readouterr().out


# The page


def headings(path: Path) -> list[tuple[int, str, str]]:
    """Of each heading outside of fences: its line, its level, its anchor."""
    found, fence = [], ""
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n")):
        ticks = re.match(r"\s*(`{3,})", line)
        if fence:
            fence = "" if line.strip() == fence else fence
        elif ticks:
            fence = ticks[1]
        elif match := re.fullmatch(r"(#{1,6}) (.*?)(?: \{ #([\w-]+) \})?", line):
            found.append((number, match[1], match[3] or slugify(re.sub(r"[`$]", "", match[2]), "-")))
    return found


@cache
def own_text(path: Path) -> dict[str, str]:
    """The text of each section of a page, without that of the sections below it, by anchor."""
    lines = path.read_text(encoding="utf-8").split("\n")
    marks = [*headings(path), (len(lines), "", "")]
    return {anchor: "\n".join(lines[start:end])
            for (start, _, anchor), (end, _, _) in pairwise(marks)}


CLAIMS = [anchor for _, level, anchor in headings(PAGE) if level == "###"]


def test_claims_stand_in_their_parts():
    parts, counts = [], {}
    for _, level, anchor in headings(PAGE):
        if level == "##":
            parts.append(anchor)
        elif level == "###":
            counts[parts[-1]] = counts.get(parts[-1], 0) + 1
    assert list(counts) == [part.lower() for part in PARTS]
    assert sum(counts.values()) == len(set(CLAIMS)) >= 40
    assert min(counts.values()) >= 2


def test_the_page_says_how_many():
    text = PAGE.read_text(encoding="utf-8")
    assert int(re.search(r"Here are (\d+) things", text)[1]) == len(CLAIMS)
    assert [part.lower() for part in PARTS] == re.findall(r"\[(\w+)\]\(#\1\)", text)


def test_anchors_are_given_and_short():
    text = PAGE.read_text(encoding="utf-8")
    assert re.findall(r"^### .* \{ #([a-z0-9-]+) \}$", text, re.MULTILINE) == CLAIMS
    assert max(map(len, CLAIMS)) <= 30


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_claim_is_told_corrected_and_proven(claim):
    text = own_text(PAGE)[claim]
    question, *rest = text.split("\n\n")
    assert "?" in question
    assert [part[:8] for part in rest[:3]] == ["*Told:* ", "*Fact:* ", "```pytho"]
    fences = re.findall(r"```python\n(.*?)```\n\n<!--pytest-codeblocks:expected-output-->\n```text\n.", text, re.DOTALL)
    assert len(fences) == text.count("```python") == 1
    assert len(fences[0].rstrip().split("\n")) <= 12
    assert any(isinstance(node, ast.Call) and ast.unparse(node.func) == "print" for node in ast.walk(ast.parse(fences[0])))
    assert len(LINK.findall(text.replace("\n", " "))) == text.count("](../") == 1


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_claim_and_the_section_that_teaches_it_link_to_each_other(claim):
    link = LINK.search(own_text(PAGE)[claim].replace("\n", " "))
    sections = own_text(DOCS / link["page"])
    assert link["anchor"] in sections, f"{link['page']} has no section {link['anchor']}"
    assert f"](../reference/corrections.md#{claim})" in sections[link["anchor"]]


def test_links_to_a_claim_lead_to_one():
    """Any page may name a claim; a claim that was renamed is noticed here."""
    named = {name for page in DOCS.rglob("*.md")
             for name in re.findall(r"reference/corrections\.md#([\w-]+)", page.read_text(encoding="utf-8"))}
    assert named == set(CLAIMS)


def test_links_back_ask_the_question_of_the_claim():
    text = PAGE.read_text(encoding="utf-8")
    questions = {anchor: question for question, anchor in re.findall(r"^### (.*) \{ #([\w-]+) \}$", text, re.MULTILINE)}
    for page in DOCS.rglob("*.md"):
        links = re.findall(r"Often told otherwise: (.*?)\n\n", page.read_text(encoding="utf-8"), re.DOTALL)
        for shown, claim in re.findall(r"\[([^\]]+)\]\(\.\./reference/corrections\.md#([\w-]+)\)", "\n".join(links)):
            assert shown == questions[claim]
