"""Xavier initialization against nn.init, autograd, closed forms, a second quadrature and sampling intervals."""

import math
import re
import runpy
import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from snippets.initialization.xavier import (
    RULES,
    coarse,
    fans,
    fill_,
    initialize_,
    interval,
    main,
    mean_squares,
    measure,
    moments,
    predict,
)

pytestmark = pytest.mark.usefixtures("one_thread")
SEEDS = st.integers(0, 10_000)
TINY, HUGE = 5e-324, 1.7976931348623157e308  # the smallest and the largest float64
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
KINDS = ["normal", "uniform"]
SHAPES = st.lists(st.integers(1, 6), min_size=2, max_size=5)


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


def double(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64)


def normal_mean(function, q: float) -> float:
    """E[function(z)] by the trapezoidal rule on a grid of its own, not cut at 0."""
    t = np.linspace(-11.3, 12.1, 30_011)
    density = np.exp(-(t**2) / 2) / math.sqrt(2 * math.pi)
    return float((function(math.sqrt(q) * t) * density).sum() * (t[1] - t[0]))


def covers(samples: torch.Tensor, theory: float) -> bool:
    mean, error = interval(samples)
    return abs(mean - theory) < error


# interval


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, n=st.integers(2, 300), center=st.floats(-100, 100), spread=st.floats(0.1, 10))
def test_interval_is_the_mean_and_3_29_standard_errors(seed, n, center, spread):
    samples = np.random.default_rng(seed).normal(center, spread, n)
    mean, error = interval(torch.from_numpy(samples))
    assert type(mean) is type(error) is float
    assert mean == pytest.approx(samples.mean(), rel=1e-12, abs=1e-12)
    assert error == pytest.approx(3.29 * samples.std(ddof=1) / math.sqrt(n), rel=1e-10)


def test_interval_of_two_samples():
    assert interval(torch.tensor([1.0, 5.0])) == (3.0, pytest.approx(3.29 * 2))
    assert interval(torch.tensor([4.0, 4.0, 4.0])) == (4.0, 0.0)


def test_the_interval_misses_once_in_a_thousand():
    torch.manual_seed(0)
    misses = sum(not covers(samples, 2.0) for samples in torch.randn(6000, 300) + 2)
    assert 1 <= misses <= 14  # 6.7 expected, Student with 299 degrees of freedom


@pytest.mark.parametrize("shape", [(), (0,), (1,), (2, 1), (1, 2), (2, 2, 2)])
def test_interval_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match=exactly(f"expected samples (n,), n > 1, got {shape}")):
        interval(torch.ones(shape))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_interval_refuses_samples_that_are_not_finite(value, at):
    samples = torch.zeros(3)
    samples[at] = value
    with pytest.raises(ValueError, match=r"^expected finite samples, got nan or inf$"):
        interval(samples)


# moments

CLOSED = {
    "linear": (nn.Identity(), lambda q: q, lambda q: 1),
    "minus two": (lambda z: -2 * z, lambda q: 4 * q, lambda q: 4),
    "plus one": (lambda z: z + 1, lambda q: q + 1, lambda q: 1),
    "relu": (torch.relu, lambda q: q / 2, lambda q: 1 / 2),
    "abs": (torch.abs, lambda q: q, lambda q: 1),
    "leaky 0.2": (lambda z: F.leaky_relu(z, 0.2), lambda q: q * 1.04 / 2, lambda q: 1.04 / 2),
    "leaky -3": (lambda z: F.leaky_relu(z, -3.0), lambda q: q * 5, lambda q: 5),
    "square": (torch.square, lambda q: 3 * q**2, lambda q: 4 * q),
    "cube": (lambda z: z**3, lambda q: 15 * q**3, lambda q: 27 * q**2),
    "sin": (torch.sin, lambda q: (1 - math.exp(-2 * q)) / 2, lambda q: (1 + math.exp(-2 * q)) / 2),
    "cos": (torch.cos, lambda q: (1 + math.exp(-2 * q)) / 2, lambda q: (1 - math.exp(-2 * q)) / 2),
    "exp(z/2)": (lambda z: torch.exp(z / 2), lambda q: math.exp(q / 2), lambda q: math.exp(q / 2) / 4),
    "erf": (
        torch.erf,
        lambda q: 2 / math.pi * math.asin(2 * q / (1 + 2 * q)),
        lambda q: 4 / math.pi / math.sqrt(1 + 4 * q),
    ),
}


@pytest.mark.parametrize("name", CLOSED)
@settings(max_examples=20, deadline=None)
@given(q=st.floats(1e-3, 3))
def test_moments_against_closed_forms(name, q):
    f, square, slope = CLOSED[name]
    got = moments(f, q)
    assert type(got) is tuple
    assert type(got[0]) is type(got[1]) is float
    assert got == (pytest.approx(square(q), rel=1e-10), pytest.approx(slope(q), rel=1e-10))


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


SMOOTH = {
    "tanh": (torch.tanh, np.tanh, lambda z: 1 - np.tanh(z) ** 2),
    "sigmoid": (torch.sigmoid, sigmoid, lambda z: sigmoid(z) * sigmoid(-z)),
    "silu": (F.silu, lambda z: z * sigmoid(z), lambda z: sigmoid(z) * (1 + z * sigmoid(-z))),
    "softplus": (F.softplus, lambda z: np.log1p(np.exp(z)), sigmoid),
}


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("q", [0.01, 1.0, 7.0])
def test_moments_against_another_quadrature(name, q):
    f, value, slope = SMOOTH[name]
    want = [normal_mean(lambda z: value(z) ** 2, q), normal_mean(lambda z: slope(z) ** 2, q)]
    assert moments(f, q) == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize("f", [F.gelu, F.selu, F.elu, F.hardtanh, F.relu6])
@pytest.mark.parametrize("q", [0.3, 1.0, 4.0])
def test_moments_against_samples(f, q):
    torch.manual_seed(0)
    z = (math.sqrt(q) * double(100_000)).requires_grad_()
    out = f(z)
    (slope,) = torch.autograd.grad(out.sum(), z)
    for theory, samples in zip(moments(f, q), (out.detach(), slope), strict=True):
        assert covers(samples**2, theory)


def test_moments_of_gelu_and_selu_at_one():
    gelu = 1 / 4 + (math.asin(1 / 2) + 1 / math.sqrt(3)) / (2 * math.pi)
    assert moments(F.gelu, 1.0)[0] == pytest.approx(gelu, rel=1e-12)
    assert moments(F.selu, 1.0)[0] == pytest.approx(1.0, abs=2e-6)  # made for this


def test_at_q_zero_everything_happens_at_zero():
    assert moments(torch.tanh, 0) == (0.0, pytest.approx(1.0))
    assert moments(torch.cos, 0.0) == (pytest.approx(1.0), 0.0)
    assert moments(torch.sigmoid, -0.0) == (pytest.approx(1 / 4), pytest.approx(1 / 16))
    assert moments(torch.relu, 0.0) == (0.0, 0.0)  # PyTorch's slope at 0


@pytest.mark.parametrize("q", [0.25, 1.0])
def test_the_cells_are_2560_and_meet_at_zero(q):
    seen = []

    def spy(z):
        seen.append(z)
        return z * 1.0

    moments(spy, q)
    (z,) = seen
    edges = torch.linspace(-10, 10, 2561, dtype=torch.float64) * math.sqrt(q)
    assert edges[1280] == 0
    assert edges[1281] == math.sqrt(q) / 128
    assert z.dtype == torch.float64
    torch.testing.assert_close(z.detach(), (edges[1:] + edges[:-1]) / 2, rtol=0, atol=1e-14)


@pytest.mark.parametrize("q", [-TINY, -1, -math.inf, math.inf, math.nan])
def test_moments_refuses_what_is_no_variance(q):
    with pytest.raises(ValueError, match=exactly(f"expected a finite q >= 0, got {q}")):
        moments(torch.tanh, q)


def test_moments_takes_the_smallest_and_the_largest_variance():
    assert moments(torch.tanh, TINY) == (pytest.approx(TINY, abs=TINY), pytest.approx(1.0))
    assert moments(torch.tanh, HUGE) == (pytest.approx(1.0), 0.0)


# predict

STACKS = st.lists(st.tuples(st.integers(1, 500), st.floats(1e-4, 10)), max_size=30)


@pytest.mark.parametrize(("f", "half"), [(nn.Identity(), 1), (torch.relu, 1 / 2), (lambda z: F.leaky_relu(z, 3.0), 5)])
@settings(max_examples=20, deadline=None)
@given(first=st.integers(1, 500), stack=STACKS)
def test_predict_adds_logarithms_of_fan_times_variance(f, half, first, stack):
    widths, variances = [first, *(n for n, _ in stack)], [v for _, v in stack]
    forward, total = predict(f, widths, variances)
    assert forward.dtype == total.dtype == torch.float64
    assert forward.shape == total.shape == (len(widths),)
    factors = half * np.array(variances)
    want = np.concatenate([[0], np.cumsum(np.log10(factors * widths[:-1]))])
    np.testing.assert_allclose(forward.numpy(), want, rtol=1e-9, atol=1e-9)
    want = np.concatenate([[0], np.cumsum(np.log10(factors * widths[1:]))])
    np.testing.assert_allclose(total.numpy(), want, rtol=1e-9, atol=1e-9)


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, depth=st.integers(1, 12))
@pytest.mark.parametrize("name", ["tanh", "silu"])
def test_predict_against_a_recursion_of_its_own(name, seed, depth):
    f, value, slope = SMOOTH[name]
    random = np.random.default_rng(seed)
    widths = random.integers(1, 50, depth + 1).tolist()
    variances = (random.uniform(0.3, 2, depth) / widths[:-1]).tolist()
    square, gradient, forward, total = 1.0, 1.0, [0.0], [0.0]
    for n_in, n_out, v in zip(widths[:-1], widths[1:], variances, strict=True):
        q = n_in * v * square
        square = normal_mean(lambda z: value(z) ** 2, q)
        gradient *= n_out * v * normal_mean(lambda z: slope(z) ** 2, q)
        forward.append(math.log10(square))
        total.append(math.log10(gradient))
    got = predict(f, widths, variances)
    np.testing.assert_allclose(got[0].numpy(), forward, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(got[1].numpy(), total, rtol=1e-6, atol=1e-6)


def test_without_layers_nothing_happens():
    forward, total = predict(torch.relu, [7], [])
    assert forward.tolist() == total.tolist() == [0.0]


def test_he_keeps_relu_and_lecun_keeps_linear_for_fifty_layers():
    for f, rule in (torch.relu, "He"), (nn.Identity(), "LeCun"), (nn.Identity(), "Xavier"):
        for line in predict(f, [64] * 51, [RULES[rule](64, 64)] * 50):
            np.testing.assert_allclose(line.numpy(), 0, atol=1e-10)


@pytest.mark.parametrize(("widths", "variances"), [(0, 0), (1, 1), (2, 0), (2, 2), (4, 2), (4, 4)])
def test_predict_wants_a_variance_a_layer(widths, variances):
    want = f"expected a variance a layer, got {variances} for {widths - 1} layers"
    with pytest.raises(ValueError, match=exactly(want)):
        predict(torch.relu, [3] * widths, [1.0] * variances)


def test_predict_says_minus_infinity_of_a_signal_that_dies():
    forward, total = predict(torch.relu, [4, 4, 4], [0.0, 1.0])
    assert forward.tolist() == [0.0, -math.inf, -math.inf]
    assert total[:2].tolist() == [0.0, -math.inf]


def test_predict_refuses_a_negative_variance():
    with pytest.raises(ValueError, match=r"^expected a finite q >= 0, got -3\.0$"):
        predict(torch.relu, [3, 3], [-1.0])


# coarse


def rounded(h: np.ndarray) -> np.ndarray:
    """One network: to multiples of 2**(exponent of the largest entry - 16)."""
    unit = np.ldexp(1.0, int(np.frexp(np.abs(h).max())[1]) - 16)
    return np.rint(h.astype(np.float64) / unit) * unit


@settings(max_examples=30, deadline=None)
@given(data=st.data(), rows=st.integers(1, 4), columns=st.integers(1, 4), wide=st.booleans())
def test_coarse_rounds_to_a_grid_of_a_power_of_two(data, rows, columns, wide):
    largest, width = (1e300, 64) if wide else (2.0**100, 32)
    numbers = st.floats(-largest, largest, width=width) | st.floats(-2, 2, width=width)
    entries = data.draw(st.lists(numbers, min_size=rows * columns, max_size=rows * columns))
    h = torch.tensor(entries, dtype=torch.float64 if wide else torch.float32).view(rows, columns)
    top = h.abs().max().item()
    assume(top == 0 or top > 1e-30)  # below the normal numbers there is no unit
    before, got = h.clone(), coarse(h)
    assert (got.dtype, got.shape) == (h.dtype, h.shape)
    assert torch.equal(h, before)
    if top == 0:
        assert torch.equal(got, h)
        return
    unit = 2.0 ** (math.frexp(top)[1] - 16)
    steps = got.double() / unit
    assert torch.equal(steps, steps.round())
    assert 2**15 <= steps.abs().max() <= 2**16
    assert (got.double() - h.double()).abs().max() <= unit / 2
    np.testing.assert_array_equal(got.double().numpy(), rounded(h.numpy()))
    if steps.abs().max() < 2**16:  # else the largest entry is the next power of two
        assert torch.equal(coarse(got), got)


def test_coarse_by_hand():
    unit = 2.0**-15  # of a largest entry in [1, 2)
    h = torch.tensor([[1.0, unit, 0.5 * unit, 1.5 * unit, 0.49 * unit, -0.51 * unit, 1 / 3]], dtype=torch.float64)
    assert (coarse(h) / unit).tolist() == [[32768, 1, 0, 2, 0, -1, 10923]]
    assert (coarse(1.9999 * h) / unit).tolist() == [[65533, 2, 1, 3, 1, -1, 21844]]
    assert (coarse(-h * 2**40) / unit / 2**40).tolist() == [[-32768, -1, 0, -2, 0, 1, -10923]]
    below = torch.tensor([[1 - 2.0**-20, unit / 2]], dtype=torch.float64)  # here, half of it is a unit
    assert coarse(below).tolist() == [[1.0, unit / 2]]


@pytest.mark.parametrize("lead", [(), (3,), (2, 3), (1, 2, 2)])
def test_every_network_is_rounded_by_its_own_largest_entry(lead):
    torch.manual_seed(0)
    size = torch.logspace(-40, 40, math.prod(lead), dtype=torch.float64).view(*lead, 1, 1)
    h = size * double(*lead, 4, 5)
    want = np.stack([rounded(network) for network in h.view(-1, 4, 5).numpy()])
    np.testing.assert_array_equal(coarse(h).view(-1, 4, 5).numpy(), want)


def test_the_largest_entry_is_sought_in_all_rows():
    h = torch.tensor([[0.3, 0.1], [1e5, 0.2]], dtype=torch.float64)
    assert coarse(h).tolist() == [[0.0, 0.0], [1e5, 0.0]]
    assert coarse(h.view(2, 1, 2))[0, 0].tolist() == rounded(np.array([0.3, 0.1])).tolist() != [0.0, 0.0]


def test_a_network_of_zeros_stays_zero_beside_another():
    h = torch.zeros(2, 3, 4, dtype=torch.float64)
    assert torch.equal(coarse(h), h)
    h[1] = 1 / 3
    got = coarse(h)
    assert not got[0].any()
    assert got[1].tolist() == [[43691 / 2**17] * 4] * 3


# mean_squares


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, batch=st.integers(1, 4), lead=st.lists(st.integers(1, 3), max_size=2),
       widths=st.lists(st.integers(1, 5), min_size=1, max_size=4))  # fmt: skip
def test_mean_squares_of_every_tensor_and_network(seed, batch, lead, widths):
    torch.manual_seed(seed)
    tensors = [double(*lead, batch, n) for n in widths]
    got = mean_squares(tensors)
    assert got.shape == (len(widths), *lead)
    for k, t in enumerate(tensors):
        networks = t.view(-1, batch * widths[k])
        want = [sum(a**2 for a in row) / len(row) for row in networks.tolist()]
        np.testing.assert_allclose(got[k].flatten().numpy(), want, rtol=1e-12)


# measure

FUNCTIONS = {"linear": nn.Identity(), "relu": torch.relu, "tanh": torch.tanh, "softplus": F.softplus}


def random_networks(seed, lead, widths, batch):
    """Weights whose signals are neither large nor small, an input, an output gradient."""
    torch.manual_seed(seed)
    weights = [1.3 * double(*lead, n_out, n_in) / n_in**0.5 for n_in, n_out in pairwise(widths)]
    return weights, double(*lead, batch, widths[0]), double(*lead, batch, widths[-1])


def by_autograd(weights, f, x, g, scale, rounds):
    """One network: mean squares of all h and of the gradients of (h_D * g).sum() in them."""
    h = x.clone().requires_grad_()
    signals = [h]
    for w in weights:
        h = f(F.linear(h, scale * w))
        if rounds:  # without a gradient of its own
            h = h + (torch.from_numpy(rounded(h.detach().numpy())) - h).detach()
        h.retain_grad()
        signals.append(h)
    (h * g).sum().backward()
    forward = [h.detach().numpy() for h in signals]
    return [(a**2).mean() for a in forward], [(h.grad.numpy() ** 2).mean() for h in signals]


NETWORKS = {
    "seed": SEEDS, "batch": st.integers(1, 4), "scale": st.floats(0.5, 2), "lead": st.sampled_from([(), (1,), (3,), (2, 2)]),
    "widths": st.lists(st.integers(2, 6), min_size=2, max_size=6),
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
@settings(max_examples=20, deadline=None)
@given(**NETWORKS)
def test_measure_against_backward_through_the_whole_network(name, seed, batch, scale, lead, widths):
    f = FUNCTIONS[name]
    weights, x, g = random_networks(seed, lead, widths, batch)
    forward, backward = measure(weights, f, x, g, scale)
    assert forward.shape == backward.shape == (len(widths), *lead)
    assert forward.dtype == backward.dtype == torch.float64
    assert not forward.requires_grad
    assert not backward.requires_grad
    forward, backward = forward.view(len(widths), -1), backward.view(len(widths), -1)
    for k in range(forward.shape[1]):
        alone = [t.view(-1, *t.shape[-2:])[k] for t in (*weights, x, g)]
        *layers, a, b = alone
        want = by_autograd(layers, f, a, b, scale, rounds=True)
        np.testing.assert_allclose(forward[:, k].numpy(), want[0], rtol=1e-9, atol=1e-200)
        np.testing.assert_allclose(backward[:, k].numpy(), want[1], rtol=1e-9, atol=1e-200)


@pytest.mark.parametrize("activation", [nn.Identity, nn.Tanh, nn.ReLU, nn.Softplus])
@pytest.mark.parametrize("widths", [[5, 5], [7, 2, 4], [3, 8, 8, 2, 6]])
def test_measure_is_close_to_modules_that_do_not_round(activation, widths):
    weights, x, g = random_networks(0, (), widths, 3)
    model = nn.Sequential()
    for w in weights:
        layer = nn.Linear(*w.mT.shape, bias=False, dtype=torch.float64)
        layer.weight.data = w.clone()
        model.extend([layer, activation()])
    h = [x.clone().requires_grad_()]
    for k in range(0, len(model), 2):
        h.append(model[k : k + 2](h[-1]))
    gradients = torch.autograd.grad((h[-1] * g).sum(), h)
    forward, backward = measure(weights, activation(), x, g)
    want = [[t.detach().square().mean().item() for t in tensors] for tensors in (h, gradients)]
    np.testing.assert_allclose(forward.numpy(), want[0], rtol=3e-4)
    np.testing.assert_allclose(backward.numpy(), want[1], rtol=3e-4)
    assert forward[0] == x.square().mean()
    assert backward[-1] == g.square().mean()


@pytest.mark.parametrize("f", [nn.Identity(), torch.relu, torch.abs, F.hardtanh])
@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, widths=st.lists(st.integers(1, 4), min_size=2, max_size=4), batch=st.integers(1, 3),
       scale=st.sampled_from([0.25, 1.0, 2.0]))  # fmt: skip
def test_measure_of_small_integers_is_exact(f, seed, widths, batch, scale):
    generator = torch.Generator().manual_seed(seed)

    def integers(*shape):
        return torch.randint(-3, 4, shape, generator=generator).double()

    weights = [integers(n_out, n_in) for n_in, n_out in pairwise(widths)]
    x, g = integers(batch, widths[0]), integers(batch, widths[-1])
    forward, backward = measure(weights, f, x, g, scale)
    want = by_autograd(weights, f, x, g, scale, rounds=False)
    np.testing.assert_allclose(forward.numpy(), want[0], rtol=1e-14)
    np.testing.assert_allclose(backward.numpy(), want[1], rtol=1e-14)


def test_measure_by_hand():
    w1 = torch.tensor([[1.0, 2.0], [3.0, -1.0], [-1.0, -1.0]], dtype=torch.float64)
    w2 = torch.tensor([[2.0, 1.0, 5.0]], dtype=torch.float64)
    x, g = torch.tensor([[1.0, 2.0]]).double(), torch.tensor([[3.0]]).double()
    # z: 5, 1, -3 and 11; h: 5, 1, 0 and 11; g at them: 3 * (2, 1, 5), then (2 + 3, 4 - 1) * 3 = 15, 9
    forward, backward = measure([w1, w2], torch.relu, x, g)
    assert forward.tolist() == [5 / 2, pytest.approx(26 / 3), 121]
    assert backward.tolist() == [(225 + 81) / 2, pytest.approx((36 + 9 + 225) / 3), 9]
    forward, backward = measure([w1, w2], torch.relu, x, g, scale=2.0)  # twice per layer, four times in the square
    assert forward.tolist() == [5 / 2, pytest.approx(4 * 26 / 3), 16 * 121]
    assert backward.tolist() == [16 * (225 + 81) / 2, pytest.approx(4 * (36 + 9 + 225) / 3), 9]


def test_measure_hands_on_rounded_signals_and_measures_them():
    seen = []

    def spy(z):
        seen.append(z.detach().clone())
        return z + 0.0

    weights, x, g = random_networks(3, (), [4, 4, 4], 2)
    forward, _ = measure(weights, spy, x, g)
    first = torch.from_numpy(rounded(seen[0].numpy()))
    assert not torch.equal(first, seen[0])
    torch.testing.assert_close(seen[0], x @ weights[0].T, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(seen[1], first @ weights[1].T, rtol=1e-14, atol=1e-14)
    assert forward[1].item() == pytest.approx(first.square().mean().item(), rel=1e-14)


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, exponent=st.integers(-30, 30))
def test_a_scale_of_a_power_of_two_is_in_the_square_of_every_layer(seed, exponent):
    weights, x, g = random_networks(seed, (2,), [3, 5, 2, 4], 2)
    plain, scaled = measure(weights, torch.relu, x, g), measure(weights, torch.relu, x, g, scale=2.0**exponent)
    layers = 4.0 ** (exponent * torch.arange(4, dtype=torch.float64)).view(4, 1)
    assert torch.equal(scaled[0], plain[0] * layers)
    assert torch.equal(scaled[1], plain[1] * layers.flip(0))


def test_a_network_of_no_layers_is_its_input_and_its_output():
    x, g = double(3, 2, 4), double(3, 2, 4)
    forward, backward = measure([], torch.relu, x, g)
    assert forward.shape == backward.shape == (1, 3)
    torch.testing.assert_close(forward[0], x.square().mean(dim=(1, 2)))
    torch.testing.assert_close(backward[0], g.square().mean(dim=(1, 2)))


def test_a_signal_of_zero_stays_zero_and_the_gradient_goes_on():
    weights, _, g = random_networks(0, (), [3, 4, 2], 2)
    forward, backward = measure(weights, torch.tanh, torch.zeros(2, 3).double(), g)
    assert forward.tolist() == [0.0] * 3
    want = [(g @ weights[1] @ weights[0]).square().mean(), (g @ weights[1]).square().mean(), g.square().mean()]
    torch.testing.assert_close(backward, torch.stack(want))


def test_measure_takes_one_stacked_tensor_and_leaves_it_alone():
    torch.manual_seed(0)
    w, x, g = double(3, 2, 4, 4), double(2, 5, 4), double(2, 5, 4)
    before = [t.clone() for t in (w, x, g)]
    stacked, listed = measure(w, torch.tanh, x, g), measure(list(w), torch.tanh, x, g)
    assert torch.equal(stacked[0], listed[0])
    assert torch.equal(stacked[1], listed[1])
    for tensor, old in zip((w, x, g), before, strict=True):
        assert torch.equal(tensor, old)
        assert not tensor.requires_grad


@pytest.mark.parametrize("which", [0, 1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int64])
def test_measure_refuses_any_other_dtype(which, dtype):
    tensors = [torch.ones(2, 2, dtype=torch.float64) for _ in range(4)]
    tensors[which] = tensors[which].to(dtype)
    *weights, x, g = tensors
    with pytest.raises(TypeError, match=exactly(f"expected float64, got {sorted([str(dtype), 'torch.float64'])}")):
        measure(weights, torch.relu, x, g)


def test_measure_names_each_dtype_once_and_in_order():
    one = torch.ones(1, 1)
    with pytest.raises(TypeError, match=exactly("expected float64, got ['torch.float32']")):
        measure([one, one], torch.relu, one, one)
    with pytest.raises(
        TypeError, match=exactly("expected float64, got ['torch.bfloat16', 'torch.float16', 'torch.float32']")
    ):
        measure([one, one.half()], torch.relu, one, one.bfloat16())


@pytest.mark.parametrize("f", [nn.Identity(), torch.relu])
def test_the_laws_are_exact_for_narrow_networks_with_other_widths(f):
    torch.manual_seed(0)
    widths, variances, nets = [3, 5, 2, 4], [0.4, 0.3, 0.7], 40_000
    pairs = zip(widths[:-1], widths[1:], variances, strict=True)
    weights = [math.sqrt(v) * double(nets, n_out, n_in) for n_in, n_out, v in pairs]
    x, g = double(nets, 1, 3), double(nets, 1, 4)
    log, total = predict(f, widths, variances)
    forward, backward = measure(weights, f, x, g)
    assert covers(backward[0], 10 ** total[-1].item())
    for layer in range(4):
        alive = forward[layer] > 0  # of a layer without a signal, all ReLUs above are closed
        assert covers(forward[layer], 10 ** log[layer].item())
        assert covers(backward[layer, alive], 10 ** (total[-1] - total[layer]).item())


def test_the_laws_for_tanh_in_wide_networks():
    torch.manual_seed(0)
    widths, scale = [200, 300, 150, 250], 1.5 / math.sqrt(200)
    weights = [double(40, n_out, n_in) for n_in, n_out in pairwise(widths)]
    x, g = double(40, 1, 200), double(40, 1, 250)
    log, total = predict(torch.tanh, widths, [scale**2] * 3)
    forward, backward = measure(weights, torch.tanh, x, g, scale)
    for layer in range(4):
        assert covers(forward[layer], 10 ** log[layer].item())
        assert covers(backward[layer], 10 ** (total[-1] - total[layer]).item())


# fill_


@settings(max_examples=30, deadline=None)
@given(shape=SHAPES, dtype=st.sampled_from(DTYPES), seed=SEEDS, variance=st.floats(1e-4, 100))
def test_fill_makes_the_draws_of_nn_init(shape, dtype, seed, variance):
    std = math.sqrt(variance)
    bound = math.sqrt(3) * std
    for kind, draw in {
        "normal": lambda w: nn.init.normal_(w, 0.0, std),
        "uniform": lambda w: nn.init.uniform_(w, -bound, bound),
    }.items():
        weight, want = torch.full(shape, math.nan, dtype=dtype), torch.empty(shape, dtype=dtype)
        torch.manual_seed(seed)
        draw(want)
        after = torch.get_rng_state()
        torch.manual_seed(seed)
        assert fill_(weight, variance, kind) is weight
        assert torch.equal(weight, want)
        assert torch.equal(torch.get_rng_state(), after)


def test_fill_is_normal_by_default():
    torch.manual_seed(0)
    want = torch.empty(5, 4).normal_()
    torch.manual_seed(0)
    assert torch.equal(fill_(torch.empty(5, 4), 1.0), want)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variance", [0.01, 1 / 3, 7.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fill_has_mean_zero_and_the_variance_asked_for(kind, variance, dtype):
    torch.manual_seed(0)
    draws = fill_(torch.empty(300, 200, dtype=dtype), variance, kind).flatten().double()
    assert covers(draws, 0.0)
    assert covers(draws**2, variance)
    assert covers(draws**4, variance**2 * {"normal": 3, "uniform": 9 / 5}[kind])
    assert covers(draws[:-1] * draws[1:], 0.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fill_has_the_distribution_by_kolmogorov_and_smirnov(kind, dtype):
    torch.manual_seed(0)
    n, variance = 50_000, 0.02
    z = fill_(torch.empty(n // 50, 50, dtype=dtype), variance, kind).flatten().double().sort().values
    z = z / math.sqrt(variance)
    cdf = (1 + torch.erf(z / math.sqrt(2))) / 2 if kind == "normal" else (1 + z / math.sqrt(3)) / 2
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    distance = torch.maximum((cdf - steps[:-1]).abs(), (cdf - steps[1:]).abs()).max()
    assert distance < 1.95 / math.sqrt(n)  # 0.1 %
    assert distance > 0.3 / math.sqrt(n)  # nor is it a grid


def test_uniform_draws_reach_their_bound_and_stay_inside():
    torch.manual_seed(0)
    weight = fill_(torch.empty(400, 500), 2.0, "uniform")
    bound = math.sqrt(6)
    assert weight.max() <= bound
    assert weight.min() >= -bound
    assert weight.max() > 0.9999 * bound
    assert weight.min() < -0.9999 * bound


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("draw", [lambda w, kind: fill_(w, 0.5, kind), lambda w, kind: initialize_(w, "He", kind)])
def test_a_parameter_is_filled_in_place_and_stays_a_leaf(draw, kind):
    parameter = nn.Parameter(torch.full((4, 4), 9.0))
    memory, version = parameter.data_ptr(), parameter._version
    torch.manual_seed(5)
    assert draw(parameter, kind) is parameter
    assert parameter.is_leaf
    assert parameter.requires_grad
    assert parameter.grad_fn is None
    assert parameter.data_ptr() == memory
    assert parameter._version > version
    torch.manual_seed(5)
    plain = draw(torch.empty(4, 4), kind)
    assert torch.equal(plain, parameter)
    assert not plain.requires_grad
    assert torch.is_grad_enabled()


def test_a_part_of_a_tensor_can_be_filled_alone():
    whole = torch.full((4, 6), 9.0)
    fill_(whole[1:3], 1.0)
    assert (whole[[0, 3]] == 9).all()
    assert (whole[1:3] != 9).all()


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.complex64])
@pytest.mark.parametrize("call", [lambda w: fill_(w, 1.0), lambda w: initialize_(w, "Xavier", "uniform")])
def test_fill_refuses_what_is_not_a_float(dtype, call):
    weight = torch.ones(2, 2, dtype=dtype)
    state = torch.get_rng_state()
    with pytest.raises(TypeError, match=exactly(f"expected a weight of floats, got {dtype}")):
        call(weight)
    assert weight.all()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variance", [0, -0.0, -TINY, -1.0, math.inf, -math.inf, math.nan])
def test_fill_refuses_what_is_no_positive_variance(kind, variance):
    weight = torch.ones(2, 2)
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match=exactly(f"expected a variance > 0, got {variance}")):
        fill_(weight, variance, kind)
    assert torch.equal(weight, torch.ones(2, 2))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variance", [TINY, 1e-200, 1e200, HUGE])
def test_fill_takes_every_other_positive_variance(kind, variance):
    torch.manual_seed(0)
    weight = fill_(torch.empty(100, 100, dtype=torch.float64), variance, kind)
    square = (weight / math.sqrt(variance)).square()
    assert covers(square.flatten(), 1.0)


@pytest.mark.parametrize("kind", ["Normal", "UNIFORM", "", "norm", None])
@pytest.mark.parametrize("call", [lambda w, kind: fill_(w, 1.0, kind), lambda w, kind: initialize_(w, "He", kind)])
def test_fill_refuses_other_kinds(kind, call):
    weight = torch.ones(2, 2)
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match=exactly(f"expected normal or uniform, got {kind!r}")):
        call(weight, kind)
    assert torch.equal(weight, torch.ones(2, 2))
    assert torch.equal(torch.get_rng_state(), state)


# fans


@settings(max_examples=30, deadline=None)
@given(shape=st.lists(st.integers(1, 9), min_size=2, max_size=6), dtype=st.sampled_from([*DTYPES, torch.int64]))
def test_fans_are_those_of_nn_init(shape, dtype):
    weight = torch.zeros(shape, dtype=dtype)
    got = fans(weight)
    assert got == nn.init._calculate_fan_in_and_fan_out(weight)
    assert got == (weight[0].numel(), weight.numel() // shape[1])
    assert type(got) is tuple
    assert [type(n) for n in got] == [int, int]


def test_fans_of_modules():
    assert fans(nn.Linear(784, 10).weight) == (784, 10)
    assert fans(nn.Conv2d(16, 32, (3, 5)).weight) == (16 * 15, 32 * 15)
    assert fans(nn.Conv3d(2, 4, 3, groups=2).weight) == (27, 4 * 27)
    assert fans(nn.ConvTranspose1d(3, 7, 2).weight) == (14, 6)  # stored as (in, out, kernel)


@pytest.mark.parametrize("call", [fans, lambda w: initialize_(w, "Xavier")])
@pytest.mark.parametrize("shape", [(), (1,), (5,), (0,), (0, 3), (3, 0), (2, 3, 0), (0, 0)])
def test_fans_refuses_what_is_no_weight(call, shape):
    with pytest.raises(ValueError, match=exactly(f"expected a weight (out, in, ...), got {shape}")):
        call(torch.ones(shape))


# RULES and initialize_

THEIRS = {
    "LeCun": (
        lambda w: nn.init.kaiming_normal_(w, nonlinearity="linear"),
        lambda w: nn.init.kaiming_uniform_(w, nonlinearity="linear"),
    ),
    "Xavier": (nn.init.xavier_normal_, nn.init.xavier_uniform_),
    "He": (
        lambda w: nn.init.kaiming_normal_(w, nonlinearity="relu"),
        lambda w: nn.init.kaiming_uniform_(w, nonlinearity="relu"),
    ),
    "nn.Linear": (
        lambda w: nn.init.kaiming_normal_(w, a=math.sqrt(5)),
        lambda w: nn.init.kaiming_uniform_(w, a=math.sqrt(5)),
    ),
}


def test_the_rules_by_name():
    assert list(RULES) == ["LeCun", "Xavier", "He", "nn.Linear"]
    assert {name: rule(8, 56) for name, rule in RULES.items()} == {
        "LeCun": 1 / 8, "Xavier": 1 / 32, "He": 1 / 4, "nn.Linear": pytest.approx(1 / 24, rel=1e-15),
    }  # fmt: skip
    assert RULES["Xavier"](1, 1) == RULES["LeCun"](1, 99) == 1.0


@settings(max_examples=30, deadline=None)
@given(n_in=st.integers(1, 10_000), n_out=st.integers(1, 10_000))
def test_the_rules_meet_what_they_are_made_for(n_in, n_out):
    v = {name: rule(n_in, n_out) for name, rule in RULES.items()}
    assert n_in * v["LeCun"] == pytest.approx(1)
    assert n_in * v["Xavier"] + n_out * v["Xavier"] == pytest.approx(2)
    assert n_in * v["He"] / 2 == pytest.approx(1)
    assert math.sqrt(3 * v["nn.Linear"]) == pytest.approx(1 / math.sqrt(n_in))
    assert math.sqrt(v["LeCun"]) == pytest.approx(nn.init.calculate_gain("linear") / math.sqrt(n_in))
    assert math.sqrt(v["He"]) == pytest.approx(nn.init.calculate_gain("relu") / math.sqrt(n_in))
    gain = nn.init.calculate_gain("leaky_relu", math.sqrt(5))
    assert math.sqrt(v["nn.Linear"]) == pytest.approx(gain / math.sqrt(n_in))


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=20, deadline=None)
@given(shape=SHAPES, dtype=st.sampled_from(DTYPES), seed=SEEDS)
def test_initialize_makes_the_draws_of_nn_init(rule, shape, dtype, seed):
    for kind, theirs in zip(KINDS, THEIRS[rule], strict=True):
        torch.manual_seed(seed)
        want = theirs(torch.empty(shape, dtype=dtype))
        weight = torch.full(shape, math.nan, dtype=dtype)
        torch.manual_seed(seed)
        assert initialize_(weight, rule, kind) is weight
        torch.testing.assert_close(weight, want)
        if rule == "Xavier":
            assert torch.equal(weight, want)


def test_initialize_is_normal_by_default():
    torch.manual_seed(0)
    want = nn.init.xavier_normal_(torch.empty(5, 4))
    torch.manual_seed(0)
    assert torch.equal(initialize_(torch.empty(5, 4), "Xavier"), want)


@settings(max_examples=10, deadline=None)
@given(seed=SEEDS, n_in=st.integers(1, 40), n_out=st.integers(1, 40))
def test_the_rule_named_nn_linear_is_its_reset_parameters(seed, n_in, n_out):
    convolution = nn.Conv2d(2 * n_in, 2 * n_out, (1, 3), groups=2, bias=False)
    for layer in nn.Linear(n_in, n_out, bias=False), convolution:
        torch.manual_seed(seed)
        layer.reset_parameters()
        torch.manual_seed(seed)
        own = initialize_(torch.empty_like(layer.weight), "nn.Linear", "uniform")
        torch.testing.assert_close(own, layer.weight.data)


@pytest.mark.parametrize("rule", ["xavier", "he", "", "Kaiming", None])
def test_initialize_names_the_rules_it_knows(rule):
    weight = torch.ones(2, 2)
    want = f"expected one of ['LeCun', 'Xavier', 'He', 'nn.Linear'], got {rule!r}"
    with pytest.raises(ValueError, match=exactly(want)):
        initialize_(weight, rule)
    assert torch.equal(weight, torch.ones(2, 2))


# the script

PRINTED = """\
50 ReLU layers, log10   predicted  measured
nn.Linear  forward          -38.9     -40.5
nn.Linear  backward         -38.9     -39.7
Xavier     forward          -15.1     -16.7
Xavier     backward         -15.1     -15.9
He         forward            0.0      -1.6
He         backward           0.0      -0.8
"""


def test_main_prints_predictions_and_measurements(capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        main()
    assert capsys.readouterr().out == PRINTED


@pytest.mark.filterwarnings("ignore:.*found in sys.modules.*:RuntimeWarning")
def test_module_runs_as_a_script(capsys):
    runpy.run_module("snippets.initialization.xavier", run_name="__main__")
    assert capsys.readouterr().out == PRINTED
