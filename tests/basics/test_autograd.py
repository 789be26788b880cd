"""Autograd against closed forms, finite differences, backward() and a second implementation."""

import runpy
from collections import Counter

import matplotlib.pyplot as plt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, jacrev, vmap
from torch.nn.functional import cross_entropy, mse_loss

from snippets.basics.autograd import (
    Softplus,
    check,
    checked_backward,
    draw,
    graph,
    layout,
    leaf,
    main,
    numerical_gradient,
    per_sample_gradients,
)

SEEDS = st.integers(0, 10_000)
SHAPES = st.lists(st.integers(1, 4), max_size=3).map(tuple)
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
BAD = [float("nan"), float("inf"), -float("inf")]


def normal(shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def polynomial(x):
    return x**2 + 3 * x + 4


# check


@pytest.mark.parametrize("dtype", DTYPES)
def test_check_accepts_finite_floating_point(dtype):
    assert check("x", torch.tensor([-1.0, 0.0, 2.0], dtype=dtype)) is None
    check("x", torch.empty(0, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_check_refuses_other_dtypes(dtype):
    with pytest.raises(TypeError, match=rf"^expected floating-point weights, got {dtype}$"):
        check("weights", torch.zeros(2, dtype=dtype))


@pytest.mark.parametrize("bad", BAD)
def test_check_refuses_one_value_that_is_not_finite(bad):
    with pytest.raises(ValueError, match=r"^expected finite weights, got nan or inf$"):
        check("weights", torch.tensor([[1.0, 2.0], [bad, 3.0]]))


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_check_accepts_one_number_of_any_shape(shape):
    check("loss", torch.zeros(shape), size=1)


@pytest.mark.parametrize("shape", [(0,), (2,), (2, 1)])
def test_check_refuses_another_size(shape):
    with pytest.raises(ValueError, match=r"^expected loss of size 1, got torch\.Size") as caught:
        check("loss", torch.zeros(shape), size=1)
    assert str(caught.value) == f"expected loss of size 1, got {torch.Size(shape)}"


def test_check_looks_at_the_size_only_where_one_is_given():
    check("x", torch.zeros(3))
    check("x", torch.zeros(3), size=3)
    check("x", torch.zeros(0), size=0)
    with pytest.raises(ValueError, match=r"^expected x of size 0, got torch\.Size\(\[3\]\)$"):
        check("x", torch.zeros(3), size=0)


# leaf


@settings(max_examples=20, deadline=None)
@given(shape=SHAPES, seed=SEEDS, dtype=st.sampled_from(DTYPES), recorded=st.booleans())
def test_leaf_is_a_leaf_with_the_same_values(shape, seed, dtype, recorded):
    values = normal(shape, seed).to(dtype)
    if recorded:
        values = values.requires_grad_() * 2
    made = leaf(values)
    assert made.is_leaf
    assert made.requires_grad
    assert made.grad_fn is None
    assert made.dtype == dtype
    assert made.device == values.device
    assert torch.equal(made, values)


def test_leaf_shares_nothing_with_its_values():
    values = torch.ones(2, requires_grad=True)
    made = leaf(values)
    (made * 3).sum().backward()
    with torch.no_grad():
        made.fill_(5.0)
    assert values.tolist() == [1.0, 1.0]
    assert values.grad is None
    assert made.grad.tolist() == [3.0, 3.0]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_leaf_requires_grad_where_nothing_is_recorded(mode):
    with mode():
        assert leaf(torch.ones(1)).requires_grad


def test_leaf_refuses_integers():
    with pytest.raises(TypeError, match=r"^expected floating-point values, got torch\.int64$"):
        leaf(torch.tensor([1, 2]))


@pytest.mark.parametrize("bad", BAD)
def test_leaf_refuses_values_that_are_not_finite(bad):
    with pytest.raises(ValueError, match=r"^expected finite values, got nan or inf$"):
        leaf(torch.tensor([1.0, bad]))


# numerical_gradient


@settings(max_examples=30, deadline=None)
@given(shape=SHAPES, seed=SEEDS, result=st.sampled_from([(), (1,), (1, 1)]))
def test_numerical_gradient_follows_autograd(shape, seed, result):
    x, weights = leaf(normal(shape, seed)), normal(shape, seed + 1)

    def f(x):
        return (weights * x.sin() + x * x.exp().sum()).sum().reshape(result)

    f(x).backward()
    slopes = numerical_gradient(f, x)
    assert slopes.shape == x.shape
    assert slopes.dtype == x.dtype
    assert not slopes.requires_grad
    torch.testing.assert_close(slopes, x.grad, rtol=1e-7, atol=1e-7)


def test_numerical_gradient_keeps_the_order_of_a_transposed_tensor():
    x, weights = normal((3, 2)).T, torch.arange(6.0).double().reshape(2, 3)
    assert not x.is_contiguous()
    torch.testing.assert_close(numerical_gradient(lambda x: (weights * x).sum(), x), weights, rtol=0, atol=1e-9)


def test_numerical_gradient_is_the_central_difference():
    x = torch.tensor(1.0, dtype=torch.float64)
    assert numerical_gradient(lambda x: x * x * x, x, 0.5).item() == 3.25  # (1.5³ - 0.5³) / 1
    assert numerical_gradient(lambda x: x * x * x, x, h=0.25).item() == 3.0625  # 3 + h²


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_numerical_gradient_steps_by_the_cube_root_of_epsilon(dtype):
    seen = []
    numerical_gradient(lambda x: seen.append(x.clone()) or x.sum(), torch.zeros(2, dtype=dtype))
    h = torch.finfo(dtype).eps ** (1 / 3)
    steps = torch.tensor([[0, 0], [h, 0], [-h, 0], [0, h], [0, -h]], dtype=dtype)
    assert torch.equal(torch.stack(seen), steps)


@pytest.mark.parametrize(("dtype", "bits"), [(torch.float64, 53), (torch.float32, 24)])
def test_numerical_gradient_errs_as_the_page_says(dtype, bits):
    x, u = torch.tensor(1.3, dtype=dtype), 2.0**-bits
    exact, at = -1 / x.double() ** 2, x.double().item()
    errors = {}
    for h in (2.0**-k for k in range(2, bits - 2)):
        errors[h] = (numerical_gradient(torch.reciprocal, x, h) - exact).abs().item()
        truncation = h**2 / (at**2 * (at**2 - h**2))
        assert errors[h] <= truncation + 2 * u / (at - h) / h
        if h > 100 * u ** (1 / 3):
            assert errors[h] == pytest.approx(truncation, rel=0.01)
    best = min(errors, key=errors.get)
    assert u ** (1 / 3) / 10 < best < 10 * u ** (1 / 3)


def test_numerical_gradient_evaluates_without_recording_and_leaves_x_alone():
    x = leaf(torch.tensor([1.0, 2.0], dtype=torch.float64))
    modes = set()

    def f(x):
        modes.add(torch.is_grad_enabled())
        return (x**2).sum()

    numerical_gradient(f, x)
    assert modes == {False}
    assert torch.is_grad_enabled()
    assert x.tolist() == [1.0, 2.0]
    assert x.grad is None


@pytest.mark.parametrize("shape", [(0,), (2, 0)])
def test_numerical_gradient_of_nothing_is_empty(shape):
    assert numerical_gradient(torch.sum, torch.zeros(shape)).shape == shape


def test_numerical_gradient_refuses_integers():
    with pytest.raises(TypeError, match=r"^expected floating-point x, got torch\.int64$"):
        numerical_gradient(torch.sum, torch.tensor([1, 2]))


@pytest.mark.parametrize("bad", BAD)
def test_numerical_gradient_refuses_points_that_are_not_finite(bad):
    with pytest.raises(ValueError, match=r"^expected finite x, got nan or inf$"):
        numerical_gradient(torch.sum, torch.tensor([1.0, bad]))


def test_numerical_gradient_refuses_more_than_one_number():
    with pytest.raises(ValueError, match=r"^expected f\(x\) of size 1, got torch\.Size\(\[2\]\)$"):
        numerical_gradient(polynomial, torch.zeros(2))


def test_numerical_gradient_refuses_a_function_that_drops_digits():
    with pytest.raises(TypeError, match=r"^expected torch\.float64 from f, got torch\.float32$"):
        numerical_gradient(lambda x: x.float().sum(), torch.zeros(2, dtype=torch.float64))


def test_numerical_gradient_refuses_a_value_that_is_not_finite():
    with pytest.raises(ValueError, match=r"^expected finite f\(x\), got nan or inf$"):
        numerical_gradient(torch.log, torch.tensor(0.0))


def test_numerical_gradient_refuses_a_step_out_of_the_domain():
    with pytest.raises(ValueError, match=r"^expected finite slopes, got nan or inf$"):
        numerical_gradient(torch.sqrt, torch.tensor(0.0))


@pytest.mark.parametrize("h", [0.0, -1e-5, float("inf"), float("nan")])
def test_numerical_gradient_refuses_a_step_that_is_none(h):
    with pytest.raises(ValueError, match=rf"^expected 0 < h < inf, got {h}$"):
        numerical_gradient(torch.sum, torch.zeros(2), h)


def test_numerical_gradient_accepts_the_smallest_and_the_largest_step():
    for h in (5e-324, 1e300):
        assert numerical_gradient(lambda x: 0 * x.sum(), torch.zeros(1).double(), h).item() == 0


# graph


def test_graph_of_the_polynomial():
    x = torch.tensor(2.0, requires_grad=True)
    assert graph(polynomial(x), x=x) == (
        ["AddBackward0", "AddBackward0", "PowBackward0", "MulBackward0", "AccumulateGrad x"],
        [(0, 1), (1, 2), (1, 3), (2, 4), (3, 4)],
    )


def test_graph_names_the_leaves_given_and_no_other():
    w, b, x = torch.zeros(3, 1, requires_grad=True), torch.zeros(1, requires_grad=True), torch.ones(2, 3)
    loss = (x @ w + b).sum()
    assert graph(loss, b=b)[0] == ["SumBackward0", "AddBackward0", "MmBackward0", "AccumulateGrad b", "AccumulateGrad"]
    assert graph(loss, w=w, b=b)[0][3:] == ["AccumulateGrad b", "AccumulateGrad w"]
    assert graph(loss) == (["SumBackward0", "AddBackward0", "MmBackward0", "AccumulateGrad", "AccumulateGrad"],
                           [(0, 1), (1, 2), (1, 3), (2, 4)])


def test_graph_counts_a_factor_that_is_used_twice_twice():
    x = torch.tensor(2.0, requires_grad=True)
    assert graph(x * x, x=x) == (["MulBackward0", "AccumulateGrad x"], [(0, 1), (0, 1)])


def test_graph_takes_names_of_any_kind():
    model, output = nn.Linear(2, 1), torch.ones(1, requires_grad=True)
    labels, _ = graph((model(torch.ones(1, 2)) * output).sum(), output=output, **dict(model.named_parameters()))
    assert {"AccumulateGrad output", "AccumulateGrad weight", "AccumulateGrad bias"} < set(labels)


def test_graph_shows_an_operation_of_ones_own():
    assert graph(Softplus.apply(torch.zeros(1, requires_grad=True)))[0][0] == "SoftplusBackward"


OPERATIONS = [torch.mul, torch.add, lambda a, b: a.tanh(), lambda a, b: 2 * a]


def program(choices):
    """A random scalar program: each choice applies an operation to values made so far."""
    values = [torch.tensor(float(i + 1), requires_grad=i < 2) for i in range(3)]
    for kind, i, j in choices:
        values.append(OPERATIONS[kind](values[i % len(values)], values[j % len(values)]))
    return values[0] + values[-1]


@settings(max_examples=30, deadline=None)
@given(choices=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9), st.integers(0, 9)), max_size=8))
def test_graph_is_what_a_walk_by_recursion_finds(choices):
    output = program(choices)
    found, seen = Counter(), set()

    def walk(node):
        if node in seen:
            return
        seen.add(node)
        for below in [n for n, _ in node.next_functions if n is not None]:
            found[type(node).__name__, type(below).__name__] += 1
            walk(below)

    walk(output.grad_fn)
    labels, edges = graph(output)
    assert Counter((labels[a], labels[b]) for a, b in edges) == found
    assert Counter(labels) == Counter(type(node).__name__ for node in seen)
    assert labels[0] == type(output.grad_fn).__name__


@pytest.mark.parametrize("output", [torch.ones(1), torch.ones(1, requires_grad=True)])
def test_graph_refuses_a_tensor_that_nothing_recorded_made(output):
    with pytest.raises(ValueError, match=r"^expected a tensor with a grad_fn, got None$"):
        graph(output)


@pytest.mark.parametrize(
    ("tensor", "got"),
    [
        (torch.ones(1, requires_grad=True) * 1, "is_leaf=False, requires_grad=True"),
        (torch.ones(1), "is_leaf=True, requires_grad=False"),
        (torch.ones(1, requires_grad=True), "is_leaf=True, requires_grad=True"),
    ],
)
def test_graph_refuses_what_is_no_leaf_of_it(tensor, got):
    x = torch.ones(1, requires_grad=True)
    with pytest.raises(ValueError, match=rf"^expected leaf w of the graph, got {got}$"):
        graph(x * 2, x=x, w=tensor)


# layout and draw


def longest_way(node, edges):
    return max((longest_way(a, edges) + 1 for a, b in edges if b == node), default=0)


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 7), data=st.data())
def test_layout_puts_a_node_below_all_that_feed_it(count, data):
    pairs = [(a, b) for b in range(count) for a in range(b)]
    edges = data.draw(st.lists(st.sampled_from(pairs), max_size=12)) if pairs else []
    places = layout(count, edges)
    assert [y for _, y in places] == [-longest_way(n, edges) for n in range(count)]
    for row in {y for _, y in places}:
        xs = [x for x, y in places if y == row]
        assert xs == pytest.approx([(2 * k + 1) / (2 * len(xs)) for k in range(len(xs))])


def test_layout_does_not_depend_on_the_order_of_the_edges():
    edges = [(2, 3), (1, 2), (0, 1), (0, 3)]
    assert layout(4, edges) == layout(4, edges[::-1]) == [(0.5, 0), (0.5, -1), (0.5, -2), (0.5, -3)]


def test_layout_places_a_row_from_left_to_right():
    assert layout(5, [(0, 1), (0, 2), (0, 3), (0, 4)]) == [(0.5, 0), (0.125, -1), (0.375, -1), (0.625, -1), (0.875, -1)]


@pytest.fixture
def axes():
    x = torch.tensor(2.0, requires_grad=True)
    plt.close("all")
    assert draw(*graph(polynomial(x), x=x)) is None
    assert len(plt.get_fignums()) == 1
    yield plt.gca()
    plt.close("all")


def test_draw_makes_a_box_a_node(axes):
    boxes = [text for text in axes.texts if text.get_text()]
    assert [(text.get_text(), text.get_position()) for text in boxes] == [
        ("AddBackward0", (0.5, 0)), ("AddBackward0", (0.5, -1)), ("PowBackward0", (0.25, -2)),
        ("MulBackward0", (0.75, -2)), ("AccumulateGrad x", (0.5, -3)),
    ]  # fmt: skip
    for text in boxes:
        box = text.get_bbox_patch()
        assert (text.get_ha(), text.get_va()) == ("center", "center")
        assert type(box.get_boxstyle()).__name__ == "Round"
        assert box.get_facecolor() == (0, 0, 0, 0)
        assert to_hex(box.get_edgecolor()) == to_hex("C1" if text.get_text() == "AccumulateGrad x" else "C0")


def test_draw_makes_an_arrow_an_edge(axes):
    arrows = [text for text in axes.texts if not text.get_text()]
    assert [(arrow.xyann, arrow.xy) for arrow in arrows] == [
        ((0.5, -0.2), (0.5, -0.8)), ((0.5, -1.2), (0.25, -1.8)), ((0.5, -1.2), (0.75, -1.8)),
        ((0.25, -2.2), (0.5, -2.8)), ((0.75, -2.2), (0.5, -2.8)),
    ]  # fmt: skip
    for arrow in arrows:
        assert type(arrow.arrow_patch.get_arrowstyle()).__name__ == "CurveFilledB"
        assert to_hex(arrow.arrow_patch.get_edgecolor()) == "#52606d"
        assert arrow.arrow_patch.shrinkA == 0


def test_draw_makes_room_and_hides_the_axes(axes):
    assert axes.get_xlim() == (0, 1)
    assert axes.get_ylim() == (-3.5, 0.5)
    assert axes.figure.get_size_inches().tolist() == pytest.approx([6.4, 0.85 * 4])
    assert not axes.get_frame_on()
    assert axes.get_xticks().tolist() == axes.get_yticks().tolist() == []


def test_draw_colors_an_unnamed_leaf_as_a_leaf():
    draw(["MulBackward0", "AccumulateGrad"], [(0, 1)])
    colors = [to_hex(text.get_bbox_patch().get_edgecolor()) for text in plt.gca().texts if text.get_text()]
    plt.close("all")
    assert colors == [to_hex("C0"), to_hex("C1")]


def test_draw_refuses_labels_without_places():
    with pytest.raises(IndexError):
        draw(["MulBackward0"], [(0, 1)])
    plt.close("all")


# checked_backward


@settings(max_examples=20, deadline=None)
@given(shape=SHAPES, seed=SEEDS, result=st.sampled_from([(), (1,), (1, 1)]), calls=st.integers(1, 3))
def test_checked_backward_does_what_backward_does(shape, seed, result, calls):
    w, v = normal(shape, seed), normal(shape, seed + 1)
    checked, plain = (leaf(w), leaf(v)), (leaf(w), leaf(v))

    def loss(w, v):
        return ((w * v).sin() + w).sum().reshape(result)

    for _ in range(calls):
        assert checked_backward(loss(*checked), w=checked[0], v=checked[1]) is None
        loss(*plain).backward()
    for ours, theirs in zip(checked, plain, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
        assert not ours.grad.requires_grad


def test_checked_backward_fills_the_leaves_given_and_no_other():
    w, v = leaf(torch.ones(2)), leaf(torch.ones(2))
    checked_backward((w * v).sum(), w=w)
    assert w.grad.tolist() == [1.0, 1.0]
    assert v.grad is None


def test_checked_backward_takes_a_leaf_that_is_called_loss():
    loss = leaf(torch.ones(1))
    checked_backward(loss * 3, loss=loss)
    assert loss.grad.item() == 3


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda w, v: w * v, ValueError, r"expected loss of size 1, got torch\.Size\(\[2\]\)"),
        (lambda w, v: (w / 0).sum(), ValueError, "expected finite loss, got nan or inf"),
        (lambda w, v: torch.tensor(1), TypeError, r"expected floating-point loss, got torch\.int64"),
        (lambda w, v: torch.tensor(1.0), ValueError, "expected a tensor with a grad_fn, got None"),
        (lambda w, v: w.sum(), ValueError, "expected leaf v of the graph, got is_leaf=True, requires_grad=True"),
        (lambda w, v: (w + torch.where(v > 1, (v - 1).sqrt(), 0.0)).sum(), ValueError,
         "expected finite gradient of v, got nan or inf"),
    ],
)  # fmt: skip
def test_checked_backward_refuses_and_changes_nothing(make, error, message):
    w, v = leaf(torch.ones(2)), leaf(torch.ones(2))
    w.grad = torch.full((2,), 5.0)
    with pytest.raises(error, match=f"^{message}$"):
        checked_backward(make(w, v), w=w, v=v)
    assert w.grad.tolist() == [5.0, 5.0]
    assert v.grad is None


def test_checked_backward_refuses_what_is_no_leaf():
    w = leaf(torch.ones(2)) / 2
    with pytest.raises(ValueError, match=r"^expected leaf w of the graph, got is_leaf=False, requires_grad=True$"):
        checked_backward(w.sum(), w=w)


# Softplus


@settings(max_examples=20, deadline=None)
@given(shape=SHAPES, seed=SEEDS, scale=st.sampled_from([0.1, 1.0, 30.0]))
def test_softplus_is_right_to_the_second_derivative(shape, seed, scale):
    x = leaf(scale * normal(shape, seed))
    torch.testing.assert_close(Softplus.apply(x), torch.logaddexp(x, torch.zeros_like(x)))
    torch.testing.assert_close(torch.autograd.grad(Softplus.apply(x).sum(), x)[0], 1 / (1 + torch.exp(-x)))
    assert gradcheck(Softplus.apply, x)
    assert gradgradcheck(Softplus.apply, x)


def test_softplus_is_smooth_at_zero():
    x = torch.tensor(0.0, dtype=torch.float64)
    value, slope, curvature = Softplus.apply(x), grad(Softplus.apply)(x), grad(grad(Softplus.apply))(x)
    assert value.item() == pytest.approx(0.6931471805599453, abs=1e-15)
    assert (slope.item(), curvature.item()) == (0.5, 0.25)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_softplus_does_not_overflow(dtype):
    x = leaf(torch.tensor([-1000.0, 1000.0], dtype=dtype))
    y = Softplus.apply(x)
    y.sum().backward()
    assert y.dtype == dtype
    assert y.tolist() == [0.0, 1000.0]
    assert x.grad.tolist() == [0.0, 1.0]


def test_softplus_multiplies_the_incoming_gradient():
    x = leaf(torch.tensor([0.0, 0.0, 0.0]))
    Softplus.apply(x).backward(gradient=torch.tensor([1.0, -2.0, 10.0]))
    assert x.grad.tolist() == [0.5, -1.0, 5.0]


def test_softplus_works_in_torch_func():
    x = normal((4,))
    torch.testing.assert_close(vmap(Softplus.apply)(x), Softplus.apply(x))
    torch.testing.assert_close(vmap(grad(Softplus.apply))(x), torch.sigmoid(x))
    torch.testing.assert_close(jacrev(Softplus.apply)(x), torch.sigmoid(x).diag())
    assert Softplus.generate_vmap_rule is True


def test_softplus_notices_that_its_input_was_changed():
    inside = leaf(torch.ones(2)) * 1
    output = Softplus.apply(inside)
    inside.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


# per_sample_gradients


def network(inputs=3, outputs=2, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(inputs, 4), nn.Tanh(), nn.Linear(4, outputs)).double()


def by_loop(model, loss_fn, x, y):
    rows = []
    for i in range(len(x)):
        model.zero_grad()
        loss_fn(model(x[i : i + 1]), y[i : i + 1]).backward()
        rows.append({name: p.grad.clone() for name, p in model.named_parameters()})
    model.zero_grad()
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(1, 6), outputs=st.integers(1, 3), seed=SEEDS)
def test_per_sample_gradients_are_those_of_a_loop(rows, outputs, seed):
    model, x, y = network(3, outputs, seed), normal((rows, 3), seed), normal((rows, outputs), seed + 1)
    each, expected = per_sample_gradients(model, mse_loss, x, y), by_loop(model, mse_loss, x, y)
    assert list(each) == list(expected) == [name for name, _ in model.named_parameters()]
    for name, gradient in each.items():
        assert gradient.shape == (rows, *model.get_parameter(name).shape)
        assert not gradient.requires_grad
        torch.testing.assert_close(gradient, expected[name])
    mse_loss(model(x), y).backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(each[name].mean(dim=0), p.grad)


def test_per_sample_gradients_of_a_classifier_of_images():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 3 * 3, 4)).double()
    x, y = normal((5, 1, 5, 5)), torch.tensor([0, 1, 2, 3, 0])
    for name, gradient in by_loop(model, cross_entropy, x, y).items():
        torch.testing.assert_close(per_sample_gradients(model, cross_entropy, x, y)[name], gradient)


def test_per_sample_gradients_call_the_loss_with_a_batch_of_one_and_the_prediction_first():
    shapes = []

    def loss_fn(prediction, y):
        shapes.append((tuple(prediction.shape), tuple(y.shape)))
        return (prediction.sum() - y.sum()) ** 3

    model, x, y = network(3, 2), normal((5, 3)), normal((5, 4))
    each = per_sample_gradients(model, loss_fn, x, y)
    assert shapes == [((1, 2), (1, 4))]
    slope = 3 * (model(x).sum(dim=1) - y.sum(dim=1)) ** 2
    torch.testing.assert_close(each["2.bias"], slope.detach().unsqueeze(1).expand(5, 2))


def test_per_sample_gradients_leave_the_model_alone():
    model = network()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    per_sample_gradients(model, mse_loss, normal((4, 3)), normal((4, 2)))
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name])
        assert p.requires_grad
        assert p.grad is None


@pytest.mark.parametrize(("rows_x", "rows_y"), [(4, 3), (3, 4), (0, 0), (0, 1), (1, 0)])
def test_per_sample_gradients_refuse_rows_without_a_partner(rows_x, rows_y):
    with pytest.raises(ValueError, match=rf"^expected paired rows, got {rows_x} and {rows_y}$"):
        per_sample_gradients(network(), mse_loss, torch.zeros(rows_x, 3), torch.zeros(rows_y, 2))


# the script

PRINTED = """\
backward 7.0000  finite differences 7.0000
AddBackward0, AddBackward0, PowBackward0, MulBackward0, AccumulateGrad x
"""


def test_main_prints_the_derivative_and_the_graph(capsys):
    main()
    assert capsys.readouterr().out == PRINTED


@pytest.mark.filterwarnings("ignore:.*found in sys.modules.*:RuntimeWarning")
def test_module_runs_as_a_script(capsys):
    runpy.run_module("snippets.basics.autograd", run_name="__main__")
    assert capsys.readouterr().out == PRINTED
