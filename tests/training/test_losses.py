"""Losses against torch.nn.functional, closed forms, finite differences and sampling."""

import math
import runpy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from snippets.training.losses import (
    bce_with_logits,
    check_labels,
    check_pair,
    cross_entropy,
    huber,
    log_sum_exp,
    main,
    nll,
    reduce,
    reliability,
)

SEEDS = st.integers(0, 10_000)
SCALES = st.sampled_from([0.1, 1.0, 10.0, 1000.0])
SIZES = st.integers(1, 9)
REDUCTIONS = st.sampled_from(["none", "mean", "sum"])


def draw(*shape, seed=0, scale=1.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(shape, generator=generator, dtype=dtype)).requires_grad_()


def draw_labels(n, classes, seed=0):
    return torch.randint(classes, (n,), generator=torch.Generator().manual_seed(seed))


def assert_same(ours, theirs, *inputs):
    """Equal values, shapes and dtypes, and equal gradients in every input."""
    torch.testing.assert_close(ours, theirs)
    weights = torch.rand(ours.shape, generator=torch.Generator().manual_seed(1)).to(ours)
    slopes = [torch.autograd.grad(loss, inputs, weights, retain_graph=True) for loss in (ours, theirs)]
    for a, b in zip(*slopes, strict=True):
        torch.testing.assert_close(a, b)


# reduce


def test_reduce_none_sum_and_mean():
    terms = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 9.0]])
    assert reduce(terms, "none") is terms
    assert reduce(terms, "sum") == 24
    assert reduce(terms, "mean") == 4
    assert reduce(terms, "mean", torch.tensor([1.0, 7.0])) == 3
    assert reduce(terms, "mean", torch.tensor(0.5)) == 48
    assert reduce(terms, "sum", torch.tensor([1.0, 7.0])) == 24
    assert reduce(terms, "none", torch.tensor([1.0, 7.0])) is terms


def test_a_sum_over_nothing_is_zero():
    assert reduce(torch.zeros(0), "sum") == 0


@pytest.mark.parametrize("name", ["avg", "batchmean", "Mean", None])
def test_reduce_refuses_another_name(name):
    with pytest.raises(ValueError, match=rf"^expected none, mean or sum, got {name}$"):
        reduce(torch.zeros(1), name)


@pytest.mark.parametrize(
    ("terms", "weight", "got"),
    [
        (torch.zeros(0), None, "0"),
        (torch.zeros(2), torch.zeros(2), "0"),
        (torch.zeros(2), torch.tensor([0.5, -1.0]), "-0.5"),
        (torch.zeros(2), torch.tensor([math.nan]), "nan"),
    ],
)
def test_reduce_refuses_a_mean_over_nothing(terms, weight, got):
    with pytest.raises(ValueError, match=rf"^expected a total weight > 0, got {got}$"):
        reduce(terms, "mean", weight)


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_batch_means_weighted_by_size_are_the_mean(seed, sizes):
    terms = draw(sum(sizes), seed=seed).detach()
    means = torch.stack([reduce(batch, "mean") for batch in terms.split(sizes)])
    torch.testing.assert_close((means * torch.tensor(sizes)).sum() / sum(sizes), reduce(terms, "mean"))


def test_the_mean_of_batch_means_is_another_number():
    terms = torch.arange(10.0)
    means = torch.stack([reduce(batch, "mean") for batch in terms.split(4)])
    assert means.mean() == pytest.approx(31 / 6)
    assert reduce(terms, "mean") == 4.5


# check_labels


def test_labels_that_fit_pass():
    assert check_labels(torch.zeros(3, 2), torch.tensor([0, 1, 1])) is None
    assert check_labels(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64)) is None
    assert check_labels(torch.zeros(2, 2).half(), torch.tensor([-100, 1]), -100) is None
    assert check_labels(torch.zeros(2, 2), torch.tensor([7, 1]), 7) is None


@pytest.mark.parametrize(
    ("scores", "labels"),
    [((2, 3, 4), (2, 4)), ((3,), (3,)), ((3, 2), (3, 1)), ((3, 2), (2,)), ((3, 2), ()), ((3, 2), (3, 2))],
)
def test_labels_of_another_shape_are_refused(scores, labels):
    with pytest.raises(ValueError, match=r"^expected \(n, C\)") as caught:
        check_labels(torch.zeros(scores), torch.zeros(labels, dtype=torch.int64))
    assert str(caught.value) == f"expected (n, C) and (n,), got {scores} and {labels}"


@pytest.mark.parametrize(
    ("scores", "labels"),
    [(torch.float32, torch.int32), (torch.float32, torch.float32), (torch.int64, torch.int64), (torch.float64, torch.bool)],
)
def test_labels_and_scores_of_another_dtype_are_refused(scores, labels):
    with pytest.raises(TypeError, match=rf"^expected float scores, int64 labels, got {scores} and {labels}$"):
        check_labels(torch.zeros(2, 2, dtype=scores), torch.zeros(2, dtype=labels))


@pytest.mark.parametrize(
    ("loss", "labels", "got"),
    [
        *((loss, labels, got) for loss in (check_labels, nll, cross_entropy)
          for labels, got in (([0, 3], 3), ([-1, 0], -1), ([2, 9, -7], 9))),
        (check_labels, [-100, 0], -100),
        (nll, [-100, 0], -100),
        (cross_entropy, [-99, -100], -99),
    ],
)
def test_labels_out_of_range_are_refused(loss, labels, got):
    scores = torch.zeros(len(labels), 3).log_softmax(dim=1)
    with pytest.raises(ValueError, match=rf"^expected labels 0\.\.2, got {got}$"):
        loss(scores, torch.tensor(labels))


def test_only_the_ignored_label_may_be_out_of_range():
    with pytest.raises(ValueError, match=r"^expected labels 0\.\.1, got -1$"):
        check_labels(torch.zeros(2, 2), torch.tensor([-100, -1]), -100)


# nll


@settings(max_examples=20, deadline=None)
@given(n=SIZES, classes=SIZES, seed=SEEDS, scale=SCALES, reduction=REDUCTIONS)
def test_nll_is_nll_loss(n, classes, seed, scale, reduction):
    z, y = draw(n, classes, seed=seed, scale=scale), draw_labels(n, classes, seed)
    log_p = z.log_softmax(dim=1)
    assert_same(nll(log_p, y, reduction), F.nll_loss(log_p, y, reduction=reduction), z)
    assert_same(nll(log_p, y, reduction), F.cross_entropy(z, y, reduction=reduction), z)


def test_nll_is_the_mean_of_minus_log_p():
    p = torch.tensor([[0.5, 0.5], [0.75, 0.25]])
    assert nll(p.log(), torch.tensor([0, 1])) == pytest.approx(math.log(8) / 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_nll_keeps_the_dtype_and_takes_what_log_softmax_gives(dtype):
    log_p = draw(20, 50, dtype=torch.float32).detach().to(dtype).log_softmax(dim=1)
    assert nll(log_p, torch.zeros(20, dtype=torch.int64)).dtype == dtype


def test_a_probability_of_zero_costs_infinity():
    assert nll(torch.tensor([[0.0, 1.0]]).log(), torch.tensor([0])) == math.inf


@pytest.mark.parametrize(("row", "got"), [([4.0, 0.0, 0.0], "56.6"), ([math.nan, 0.0, 0.0], "nan"), ([-9.0, -9.0, -9.0], "0.0003702"), ([0.0, 0.0, 0.0], "3")])
def test_nll_refuses_logits(row, got):
    good = torch.tensor([0.25, 0.25, 0.5]).log()
    with pytest.raises(ValueError, match=rf"^expected rows with sum 1, got {got}$"):
        nll(torch.stack([good, torch.tensor(row)]), torch.tensor([0, 0]))


@pytest.mark.parametrize("mass", [0.991, 1.009])
def test_nll_accepts_a_sum_within_a_hundredth(mass):
    nll(torch.tensor([[mass / 2, mass / 2]]).log(), torch.tensor([0]))


@pytest.mark.parametrize("mass", [0.989, 1.011])
def test_nll_refuses_a_sum_beyond_a_hundredth(mass):
    with pytest.raises(ValueError, match=rf"^expected rows with sum 1, got {mass}$"):
        nll(torch.tensor([[mass / 2, mass / 2]]).log(), torch.tensor([0]))


# log_sum_exp


@settings(max_examples=20, deadline=None)
@given(shape=st.lists(SIZES, min_size=1, max_size=3), seed=SEEDS, scale=SCALES, shift=st.sampled_from([0.0, -1e4, 1e4]))
def test_log_sum_exp_is_logsumexp(shape, seed, scale, shift):
    z = (draw(*shape, seed=seed, scale=scale) + shift).detach().requires_grad_()
    assert log_sum_exp(z).shape == tuple(shape[:-1])
    assert_same(log_sum_exp(z), z.logsumexp(dim=-1), z)


@pytest.mark.parametrize("row", [[88.0, 89.0], [1e4, -1e4], [-999.0, -1000.0], [3.0, 3.0], [-300.0]])
def test_log_sum_exp_is_finite_where_the_naive_one_is_not(row):
    z = torch.tensor(row, requires_grad=True)
    value = log_sum_exp(z)
    (slope,) = torch.autograd.grad(value, z)
    exact = z.double().logsumexp(dim=0)
    assert value.item() == pytest.approx(exact.item(), rel=1e-6)
    torch.testing.assert_close(slope, z.detach().softmax(dim=0))


def test_the_naive_one_fails_in_value_and_gradient():
    for row, expected in ([88.0, 89.0], math.inf), ([-999.0, -1000.0], -math.inf):
        z = torch.tensor(row, requires_grad=True)
        naive = z.exp().sum().log()
        (slope,) = torch.autograd.grad(naive, z)
        assert naive == expected
        assert slope.isnan().any()


def test_log_sum_exp_has_first_and_second_derivatives():
    z = draw(3, 4)
    assert torch.autograd.gradcheck(log_sum_exp, z)
    assert torch.autograd.gradgradcheck(log_sum_exp, z)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("loss", [log_sum_exp, lambda z: cross_entropy(z, torch.tensor([0, 0]))])
def test_log_sum_exp_refuses_values_that_are_not_finite(bad, loss):
    with pytest.raises(ValueError, match=r"^expected finite values, got nan or inf$"):
        loss(torch.tensor([[0.0, 1.0], [bad, 1.0]]))


def test_log_sum_exp_refuses_integers():
    with pytest.raises(TypeError, match=r"^expected floating point, got torch\.int64$"):
        log_sum_exp(torch.tensor([1, 2]))


# cross_entropy


@settings(max_examples=20, deadline=None)
@given(
    n=st.integers(2, 9), classes=SIZES, seed=SEEDS, scale=SCALES, reduction=REDUCTIONS, weighted=st.booleans(),
    smoothing=st.sampled_from([0.0, 0.1, 1.0]), ignore=st.sampled_from([-100, -1, 5, 0]),
)
def test_cross_entropy_is_the_library_s(n, classes, seed, scale, reduction, weighted, smoothing, ignore):
    z, y = draw(n, classes, seed=seed, scale=scale), draw_labels(n, classes, seed)
    y[1::2] = ignore
    y[0] = classes - 1  # counts, unless that is the ignored label
    weight = draw(classes, seed=seed + 1).detach().abs() + 0.1 if weighted else None
    if reduction == "mean" and not (y != ignore).any():
        with pytest.raises(ValueError, match=r"^expected a total weight > 0, got 0$"):
            cross_entropy(z, y, weight, ignore, smoothing, reduction)
        return
    theirs = F.cross_entropy(z, y, weight, ignore_index=ignore, label_smoothing=smoothing, reduction=reduction)
    assert_same(cross_entropy(z, y, weight, ignore, smoothing, reduction), theirs, z)


def test_cross_entropy_defaults_are_the_library_s():
    z, y = draw(6, 4), torch.tensor([0, 1, -100, 3, 2, -100])
    assert_same(cross_entropy(z, y), F.cross_entropy(z, y), z)


@settings(max_examples=20, deadline=None)
@given(n=SIZES, classes=SIZES, seed=SEEDS, scale=SCALES)
def test_its_gradient_is_softmax_minus_one_hot_over_n(n, classes, seed, scale):
    z, y = draw(n, classes, seed=seed, scale=scale), draw_labels(n, classes, seed)
    expected = (z.detach().softmax(dim=1) - F.one_hot(y, classes)) / n
    (mean,) = torch.autograd.grad(cross_entropy(z, y), z)
    (total,) = torch.autograd.grad(cross_entropy(z, y, reduction="sum"), z)
    torch.testing.assert_close(mean, expected)
    torch.testing.assert_close(total, n * expected)


def test_cross_entropy_follows_finite_differences():
    weight = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    y = torch.tensor([2, 0, 1, -100])
    assert torch.autograd.gradcheck(lambda z: cross_entropy(z, y, weight, label_smoothing=0.2), draw(4, 3))


@settings(max_examples=20, deadline=None)
@given(classes=st.integers(1, 1000), constant=st.floats(-1e4, 1e4), label=st.integers(0, 999))
def test_equal_logits_cost_the_logarithm_of_the_classes(classes, constant, label):
    z = torch.full((1, classes), constant, dtype=torch.float64)
    assert cross_entropy(z, torch.tensor([label % classes])).item() == pytest.approx(math.log(classes), abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_cross_entropy_keeps_dtype_and_precision(dtype):
    z, y = draw(5, 3, dtype=torch.float32).detach().to(dtype), draw_labels(5, 3)
    loss = cross_entropy(z, y, label_smoothing=0.1)
    exact = F.cross_entropy(z.double(), y, label_smoothing=0.1)
    assert loss.dtype == dtype
    torch.testing.assert_close(loss.double(), exact, rtol=10 * torch.finfo(dtype).eps, atol=0)


def test_the_mean_divides_by_the_weights_of_the_labels():
    z, weight = draw(4, 2).detach(), torch.tensor([1.0, 9.0])
    y = torch.tensor([0, 1, 0, -100])
    terms = cross_entropy(z, y, weight, reduction="none")
    torch.testing.assert_close(cross_entropy(z, y, weight), terms.sum() / 11)
    assert terms[3] == 0
    torch.testing.assert_close(terms[1], 9 * cross_entropy(z[1:2], y[1:2]))


def test_a_weight_is_as_good_as_repeated_rows():
    z, y = draw(3, 2), torch.tensor([0, 1, 0])
    times = torch.tensor([1, 3, 1])
    repeated = cross_entropy(z.repeat_interleave(times, 0), y.repeat_interleave(times))
    assert_same(cross_entropy(z, y, torch.tensor([1.0, 3.0])), repeated, z)


def test_padding_is_as_good_as_absent():
    z, y = draw(5, 3), torch.tensor([2, -100, 0, -100, 1])
    kept = torch.tensor([0, 2, 4])
    assert_same(cross_entropy(z, y, label_smoothing=0.3), cross_entropy(z[kept], y[kept], label_smoothing=0.3), z)


def test_only_padding_is_refused_where_the_library_returns_nan():
    z, y = draw(2, 3), torch.full((2,), -100)
    assert F.cross_entropy(z, y).isnan()
    with pytest.raises(ValueError, match=r"^expected a total weight > 0, got 0$"):
        cross_entropy(z, y)
    assert cross_entropy(z, y, reduction="sum") == 0
    assert cross_entropy(z, y, reduction="none").tolist() == [0, 0]


@pytest.mark.parametrize("smoothing", [0.1, 0.5, 1.0])
def test_smoothing_is_least_at_the_smoothed_label(smoothing):
    q = torch.full((1, 4), smoothing / 4, dtype=torch.float64)
    q[0, 2] += 1 - smoothing
    best = q.log().requires_grad_()
    loss = cross_entropy(best, torch.tensor([2]), label_smoothing=smoothing)
    assert loss.item() == pytest.approx(-(q * q.log()).sum().item())
    assert torch.autograd.grad(loss, best)[0].abs().max() < 1e-12
    for seed in range(10):
        assert cross_entropy(best + draw(1, 4, seed=seed), torch.tensor([2]), label_smoothing=smoothing) > loss


@pytest.mark.parametrize("weight", [torch.ones(2), torch.ones(4), torch.ones(1, 3), torch.tensor([1.0, -1.0, 1.0]), torch.tensor([1.0, math.nan, 1.0])])
def test_cross_entropy_refuses_other_weights(weight):
    with pytest.raises(ValueError, match=r"^expected 3 weights ≥ 0, got tensor\(") as caught:
        cross_entropy(torch.zeros(2, 3), torch.tensor([0, 1]), weight)
    assert str(caught.value) == f"expected 3 weights ≥ 0, got {weight}"


def test_a_class_of_weight_zero_is_allowed():
    z, y, weight = draw(3, 2), torch.tensor([0, 1, 1]), torch.tensor([1.0, 0.0])
    assert_same(cross_entropy(z, y, weight), cross_entropy(z[:1], y[:1]), z)
    with pytest.raises(ValueError, match=r"^expected a total weight > 0, got 0$"):
        cross_entropy(z[1:], y[1:], weight)


@pytest.mark.parametrize("smoothing", [-0.1, 1.1, math.nan])
def test_cross_entropy_refuses_other_smoothing(smoothing):
    with pytest.raises(ValueError, match=rf"^expected smoothing 0\.\.1, got {smoothing}$"):
        cross_entropy(torch.zeros(1, 2), torch.tensor([0]), label_smoothing=smoothing)


# check_pair, shared by the losses of two tensors of one shape

PAIR_LOSSES = [check_pair, bce_with_logits, huber, reliability]


@pytest.mark.parametrize("loss", PAIR_LOSSES)
@pytest.mark.parametrize(("a", "b"), [((4, 1), (4,)), ((4,), (4, 1)), ((4,), (1,)), ((), (1,))])
def test_pairs_that_would_broadcast_are_refused(loss, a, b):
    with pytest.raises(ValueError, match=r"^expected equal shapes") as caught:
        loss(torch.zeros(a), torch.zeros(b))
    assert str(caught.value) == f"expected equal shapes, got {a} and {b}"


@pytest.mark.parametrize("loss", PAIR_LOSSES)
@pytest.mark.parametrize(("a", "b"), [(torch.float32, torch.int64), (torch.float32, torch.float64), (torch.int64, torch.int64)])
def test_pairs_of_other_dtypes_are_refused(loss, a, b):
    with pytest.raises(TypeError, match=rf"^expected one float dtype, got {a} and {b}$"):
        loss(torch.zeros(2, dtype=a), torch.zeros(2, dtype=b))


@pytest.mark.parametrize("loss", PAIR_LOSSES)
@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_pairs_that_are_not_finite_are_refused(loss, side, bad):
    pair = [torch.zeros(3), torch.zeros(3)]
    pair[side][1] = bad
    with pytest.raises(ValueError, match=r"^expected finite values, got nan or inf$"):
        loss(*pair)


def test_the_library_takes_such_a_pair_with_a_warning():
    y = torch.tensor([1.0, 2.0, 3.0, 4.0])
    with pytest.warns(UserWarning, match="Using a target size"):
        assert F.mse_loss(y.unsqueeze(1), y) == 2.5
    assert check_pair(y, y) is None


# bce_with_logits


@settings(max_examples=20, deadline=None)
@given(shape=st.lists(SIZES, max_size=3), seed=SEEDS, scale=SCALES, reduction=REDUCTIONS, w=st.floats(0.1, 10), hard=st.booleans())
def test_bce_is_the_library_s(shape, seed, scale, reduction, w, hard):
    z, y = draw(*shape, seed=seed, scale=scale), torch.rand(shape, generator=torch.Generator().manual_seed(seed)).double()
    y = y.round() if hard else y
    theirs = F.binary_cross_entropy_with_logits(z, y, pos_weight=torch.tensor(w).double(), reduction=reduction)
    ours = bce_with_logits(z, y, torch.tensor(w).double().item(), reduction)
    assert_same(ours, theirs, z)


@settings(max_examples=20, deadline=None)
@given(n=SIZES, seed=SEEDS, scale=SCALES, reduction=REDUCTIONS)
def test_two_outputs_are_one_output_of_their_difference(n, seed, scale, reduction):
    z, y = draw(n, 2, seed=seed, scale=scale), draw_labels(n, 2, seed)
    one = bce_with_logits(z[:, 1] - z[:, 0], y.double(), reduction=reduction)
    assert_same(cross_entropy(z, y, reduction=reduction), one, z)
    assert_same(F.cross_entropy(z, y, reduction=reduction), one, z)
    torch.testing.assert_close(z.softmax(dim=1)[:, 1], (z[:, 1] - z[:, 0]).sigmoid())


@settings(max_examples=20, deadline=None)
@given(n=SIZES, seed=SEEDS)
def test_its_gradient_is_sigmoid_minus_target_over_n(n, seed):
    z, y = draw(n, seed=seed, scale=5.0), draw_labels(n, 2, seed).double()
    (slope,) = torch.autograd.grad(bce_with_logits(z, y), z)
    torch.testing.assert_close(slope, (z.detach().sigmoid() - y) / n)


def test_bce_defaults_and_finite_differences():
    z, y = draw(4, 3), torch.rand(4, 3, generator=torch.Generator().manual_seed(0)).double()
    assert_same(bce_with_logits(z, y), F.binary_cross_entropy_with_logits(z, y), z)
    assert torch.autograd.gradcheck(lambda z: bce_with_logits(z, y, 3.0), z)


def test_bce_at_zero_has_the_slope_of_a_half():
    z = torch.zeros(2, requires_grad=True)
    (slope,) = torch.autograd.grad(bce_with_logits(z, torch.tensor([0.0, 1.0]), reduction="sum"), z)
    assert slope.tolist() == [0.5, -0.5]


def test_bce_has_no_floor_where_bce_loss_stops_at_100():
    z, y = torch.tensor([200.0], requires_grad=True), torch.zeros(1)
    loss = bce_with_logits(z, y)
    clamped = F.binary_cross_entropy(z.sigmoid(), y)
    assert (loss.item(), clamped.item()) == (200, 100)
    assert torch.autograd.grad(loss, z)[0] == 1
    assert torch.autograd.grad(clamped, z)[0] == 0
    assert bce_with_logits(torch.tensor([1e6]), torch.ones(1)) == 0
    assert 0 < bce_with_logits(torch.tensor([-50.0]), y) < 1e-20


def test_pos_weight_repeats_the_ones():
    z, y = draw(3), torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    times = torch.tensor([1, 4, 1])
    repeated = bce_with_logits(z.repeat_interleave(times), y.repeat_interleave(times), reduction="sum")
    assert_same(bce_with_logits(z, y, 4.0, "sum"), repeated, z)


@pytest.mark.parametrize(("target", "got"), [([0.0, 1.5], r"0\.\.1\.5"), ([-0.25, 1.0], r"-0\.25\.\.1"), ([-1.0, 2.0], r"-1\.\.2")])
def test_bce_refuses_targets_out_of_range(target, got):
    with pytest.raises(ValueError, match=rf"^expected targets in 0\.\.1, got {got}$"):
        bce_with_logits(torch.zeros(2), torch.tensor(target))


@pytest.mark.parametrize("w", [0.0, -1.0, math.inf, math.nan])
def test_bce_refuses_other_weights(w):
    with pytest.raises(ValueError, match=rf"^expected 0 < pos_weight < inf, got {w}$"):
        bce_with_logits(torch.zeros(2), torch.zeros(2), w)


def test_bce_keeps_the_dtype():
    for dtype in torch.float16, torch.bfloat16, torch.float32:
        assert bce_with_logits(torch.ones(2, dtype=dtype), torch.ones(2, dtype=dtype), 2.0).dtype == dtype


# reliability


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 60), bins=st.integers(1, 12), seed=SEEDS)
def test_reliability_counts_as_a_loop_does(n, bins, seed):
    generator = torch.Generator().manual_seed(seed)
    p = torch.rand(n, generator=generator, dtype=torch.float64)
    outcome = torch.rand(n, generator=generator).round().double()
    rows = []
    for k in range(bins):
        inside = [i for i in range(n) if k <= p[i].item() * bins < k + 1]
        if inside:
            rows.append((p[inside].mean().item(), outcome[inside].mean().item(), len(inside)))
    for ours, theirs in zip(reliability(p, outcome, bins), zip(*rows, strict=True), strict=True):
        assert ours.tolist() == pytest.approx(theirs)


def test_reliability_has_ten_bins_and_leaves_out_empty_ones():
    p = torch.tensor([0.0, 0.05, 0.15, 0.95, 1.0, 1.0])
    mean, share, count = reliability(p, torch.tensor([0.0, 1, 0, 1, 1, 0]))
    torch.testing.assert_close(mean, torch.tensor([0.025, 0.15, 2.95 / 3]))
    torch.testing.assert_close(share, torch.tensor([0.5, 0.0, 2 / 3]))
    assert count.tolist() == [2, 1, 3]


def test_true_probabilities_are_reliable():
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(50_000, generator=generator).double()
    outcome = (torch.rand(50_000, generator=generator) < p).double()
    mean, share, count = reliability(p, outcome)
    error = (mean * (1 - mean) / count).sqrt()  # a little more than the standard error of a share
    assert len(mean) == 10
    assert ((share - mean).abs() < 4.5 * error).all()
    wrong = reliability(p**2, outcome)
    assert (wrong[1] - wrong[0]).max() > 0.2


@pytest.mark.parametrize(("p", "outcome"), [(1.5, 1.0), (-0.1, 0.0), (0.5, 0.5), (0.5, 2.0), (0.5, -1.0)])
def test_reliability_refuses_other_values(p, outcome):
    with pytest.raises(ValueError, match=r"^expected p in 0\.\.1 and outcomes 0 or 1$"):
        reliability(torch.tensor([0.5, p]), torch.tensor([1.0, outcome]))


@pytest.mark.parametrize("bins", [0, -1])
def test_reliability_refuses_no_bins(bins):
    with pytest.raises(ValueError, match=rf"^expected at least 1 bin, got {bins}$"):
        reliability(torch.tensor([0.5]), torch.tensor([1.0]), bins)


# huber


@settings(max_examples=20, deadline=None)
@given(shape=st.lists(SIZES, max_size=3), seed=SEEDS, scale=SCALES, reduction=REDUCTIONS, delta=st.floats(0.01, 100))
def test_huber_is_the_library_s(shape, seed, scale, reduction, delta):
    a, b = draw(*shape, seed=seed, scale=scale), draw(*shape, seed=seed + 1, scale=scale)
    ours = huber(a, b, delta, reduction)
    assert_same(ours, F.huber_loss(a, b, reduction=reduction, delta=delta), a, b)
    torch.testing.assert_close(ours, delta * F.smooth_l1_loss(a, b, reduction=reduction, beta=delta))


def test_huber_by_hand_on_both_sides_of_delta():
    error = torch.tensor([0.0, 0.5, 1.0, 1.5, -3.0], requires_grad=True)
    terms = huber(error, torch.zeros(5), reduction="none")
    (slope,) = torch.autograd.grad(terms.sum(), error)
    assert terms.tolist() == [0, 0.125, 0.5, 1.0, 2.5]
    assert slope.tolist() == [0, 0.5, 1, 1, -1]
    assert huber(error, torch.zeros(5)).item() == pytest.approx(4.125 / 5)


def test_huber_lies_between_half_the_square_and_the_absolute_error():
    a, b = draw(100, scale=3.0).detach(), draw(100, seed=1, scale=3.0).detach()
    torch.testing.assert_close(huber(a, b, 1e6), F.mse_loss(a, b) / 2)
    torch.testing.assert_close(huber(a, b, 1e-9) / 1e-9, F.l1_loss(a, b))


@pytest.mark.parametrize("last", [100.0, 1000.0])
def test_what_each_loss_estimates(last):
    y = torch.tensor([9.0, 10.0, 11.0, 12.0, last]).double()
    c = torch.linspace(0, 250, 25_001).double().unsqueeze(1)
    pair = c.expand(-1, 5), y.expand(len(c), 5)

    def best(terms):
        return c[terms.mean(dim=1).argmin()].item()

    assert best(F.mse_loss(*pair, reduction="none")) == pytest.approx(y.mean().item())
    assert best(F.l1_loss(*pair, reduction="none")) == pytest.approx(y.median().item())
    assert best(huber(*pair, 5.0, "none")) == pytest.approx((9 + 10 + 11 + 12 + 5) / 4)


@pytest.mark.parametrize("delta", [0.0, -1.0, math.nan])
def test_huber_refuses_other_deltas(delta):
    with pytest.raises(ValueError, match=rf"^expected delta > 0, got {delta}$"):
        huber(torch.zeros(1), torch.zeros(1), delta)


# what the page says beyond the module


@settings(max_examples=20, deadline=None)
@given(n=SIZES, classes=st.integers(2, 9), seed=SEEDS)
def test_argmax_needs_no_softmax(n, classes, seed):
    z = draw(n, classes, seed=seed, scale=3.0).detach()
    assert torch.equal(z.argmax(dim=1), z.softmax(dim=1).argmax(dim=1))
    assert torch.equal(z.topk(2).indices, z.softmax(dim=1).topk(2).indices)


@settings(max_examples=20, deadline=None)
@given(n=SIZES, classes=st.integers(2, 9), seed=SEEDS)
def test_kl_divergence_takes_log_q_first_and_batchmean(n, classes, seed):
    z, p = draw(n, classes, seed=seed).detach(), draw(n, classes, seed=seed + 1).detach().softmax(dim=1)
    kl = (p * (p.log() - z.log_softmax(dim=1))).sum(dim=1).mean()
    torch.testing.assert_close(F.kl_div(z.log_softmax(dim=1), p, reduction="batchmean"), kl)
    entropy = -(p * p.log()).sum(dim=1).mean()
    torch.testing.assert_close(F.cross_entropy(z, p), kl + entropy)


@pytest.mark.parametrize("seed", range(2))
def test_two_outputs_train_like_one_with_twice_the_rate(seed):
    x, y = draw(200, 3, seed=seed).detach(), draw_labels(200, 2, seed)
    two, one = torch.zeros(3, 2).double(), torch.zeros(3, 1).double()
    for _ in range(20):
        two.requires_grad_()
        one.requires_grad_()
        (slope_two,) = torch.autograd.grad(cross_entropy(x @ two, y), two)
        (slope_one,) = torch.autograd.grad(bce_with_logits((x @ one)[:, 0], y.double()), one)
        two, one = two.detach() - slope_two, one.detach() - 2 * slope_one
    assert one.abs().max() > 0.01
    torch.testing.assert_close((x @ two).softmax(dim=1)[:, 1], (x @ one).sigmoid()[:, 0])


# the script

PRINTED = """\
cross-entropy 73.723 73.723
with options  50.445 50.445
binary        42.151 42.151
huber         833.003 833.003
"""


def test_main_prints_each_loss_twice(capsys):
    main()
    assert capsys.readouterr().out == PRINTED


@pytest.mark.filterwarnings("ignore:.*found in sys.modules.*:RuntimeWarning")
def test_module_runs_as_a_script(capsys):
    runpy.run_module("snippets.training.losses", run_name="__main__")
    assert capsys.readouterr().out == PRINTED
