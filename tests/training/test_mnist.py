"""Proofs for snippets/training/mnist.py: the library, NumPy, calculus and the real data as oracles."""

import math
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from snippets.training import mnist

ROOT = Path(__file__).resolve().parents[2]
DEVICE = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")

fast = settings(max_examples=25, deadline=None, derandomize=True)
seeds = st.integers(0, 10**6)


def scores_and_labels(seed, n=7, classes=5, scale=3.0, dtype=torch.float32):
    """Random scores (n, classes) and labels (n,) on the device."""
    generator = torch.Generator().manual_seed(seed)
    scores = scale * torch.randn(n, classes, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (n,), generator=generator)
    return scores.to(DEVICE, dtype), labels.to(DEVICE)


def problem(seed, n=20, dtype=torch.float32):
    """Random pixels, labels, weights and bias of a 784 -> 10 problem on the device."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.rand(n, 784, generator=generator).to(DEVICE, dtype)
    labels = torch.randint(10, (n,), generator=generator).to(DEVICE)
    weights = (torch.randn(784, 10, generator=generator) / 28).to(DEVICE, dtype)
    bias = torch.randn(10, generator=generator).to(DEVICE, dtype)
    return pixels, labels, weights.requires_grad_(), bias.requires_grad_()


def message(text):
    """A pattern for exactly this message."""
    return f"^{re.escape(text)}$"


# prepare


@fast
@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=3, max_dims=3, max_side=6)))
def test_prepare_is_the_division_by_255_row_by_row(images):
    rows = mnist.prepare(torch.from_numpy(images))
    assert rows.dtype == torch.float32
    np.testing.assert_allclose(rows.numpy(), images.reshape(len(images), -1) / 255, rtol=1e-6)


def test_prepare_reaches_exactly_0_and_1():
    rows = mnist.prepare(torch.tensor([[[0, 255]]], dtype=torch.uint8))
    assert rows.tolist() == [[0.0, 1.0]]


def test_prepare_refuses_other_dtypes():
    with pytest.raises(TypeError, match=message("expected uint8 pixels, got torch.float32")):
        mnist.prepare(torch.zeros(2, 28, 28))


@pytest.mark.parametrize("shape", [(28, 28), (2, 1, 28, 28)])
def test_prepare_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match=message(f"expected (n, height, width), got {shape}")):
        mnist.prepare(torch.zeros(shape, dtype=torch.uint8))


# start


def test_start_draws_the_generator_and_divides_by_28():
    weights, bias = mnist.start(torch.Generator().manual_seed(5), DEVICE)
    drawn = torch.randn(784, 10, generator=torch.Generator().manual_seed(5)) / 28
    torch.testing.assert_close(weights.detach().cpu(), drawn)
    assert bias.tolist() == [0.0] * 10
    assert weights.std().item() == pytest.approx(1 / math.sqrt(784), rel=0.03)


def test_start_gives_leaves_on_the_device_that_collect_gradients():
    for parameter in mnist.start(torch.Generator(), DEVICE):
        assert parameter.is_leaf
        assert parameter.requires_grad
        assert parameter.device.type == DEVICE.type
    assert all(p.device.type == "cpu" for p in mnist.start(torch.Generator()))
    assert all(p.device.type == "meta" for p in mnist.start(torch.Generator(), "meta"))


# log_softmax


@fast
@given(seeds, st.integers(1, 9), st.integers(1, 12), st.sampled_from([0.01, 1.0, 50.0, 1e4]))
def test_log_softmax_equals_the_library(seed, n, classes, scale):
    logits, _ = scores_and_labels(seed, n, classes, scale)
    torch.testing.assert_close(mnist.log_softmax(logits), F.log_softmax(logits, dim=1))


@pytest.mark.parametrize("top", [89.0, 1000.0, -1000.0, 3e38, -3e38])
def test_log_softmax_survives_where_exp_does_not(top):
    logits = torch.full((2, 4), top, device=DEVICE)
    torch.testing.assert_close(mnist.log_softmax(logits).cpu(), torch.full((2, 4), -math.log(4)))


def test_log_softmax_has_the_right_gradient_also_where_the_largest_is_not_unique():
    logits, _ = scores_and_labels(1, 4, 5, dtype=torch.float64)
    assert torch.autograd.gradcheck(mnist.log_softmax, logits.requires_grad_())
    equal = torch.zeros(1, 4, dtype=torch.float64, requires_grad=True)
    mnist.log_softmax(equal)[0, 1].backward()
    torch.testing.assert_close(equal.grad, torch.tensor([[-0.25, 0.75, -0.25, -0.25]], dtype=torch.float64))


@pytest.mark.parametrize("logits", [torch.zeros(3), torch.zeros(2, 3, 4), torch.zeros(2, 3, dtype=torch.int64)])
def test_log_softmax_refuses_other_shapes_and_integers(logits):
    text = f"expected floats (n, classes), got {logits.dtype} {tuple(logits.shape)}"
    with pytest.raises(ValueError, match=message(text)):
        mnist.log_softmax(logits)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_log_softmax_refuses_a_single_value_that_is_not_finite(value):
    logits = torch.zeros(2, 3)
    logits[1, 2] = value
    with pytest.raises(ValueError, match=message("expected finite logits, got nan or inf")):
        mnist.log_softmax(logits)


# nll and accuracy, and what both refuse


@fast
@given(seeds, st.integers(1, 9), st.integers(1, 12))
def test_nll_equals_the_library_and_a_loop(seed, n, classes):
    logits, labels = scores_and_labels(seed, n, classes)
    log_probs = F.log_softmax(logits, dim=1)
    loss = mnist.nll(log_probs, labels)
    torch.testing.assert_close(loss, F.nll_loss(log_probs, labels))
    torch.testing.assert_close(loss, F.cross_entropy(logits, labels))
    by_loop = -sum(log_probs[i, labels[i]].item() for i in range(n)) / n
    assert loss.item() == pytest.approx(by_loop, rel=1e-5, abs=1e-6)


def test_nll_has_the_right_gradient():
    log_probs, labels = scores_and_labels(2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda p: mnist.nll(p, labels), log_probs.requires_grad_())


@fast
@given(seeds, st.integers(1, 30))
def test_accuracy_equals_numpy_and_needs_no_softmax(seed, n):
    scores, labels = scores_and_labels(seed, n, 3)
    found = mnist.accuracy(scores, labels)
    assert isinstance(found, float)
    assert found == pytest.approx(np.mean(scores.cpu().numpy().argmax(axis=1) == labels.cpu().numpy()))
    assert found == mnist.accuracy(mnist.log_softmax(scores), labels)


def test_accuracy_of_three_rows_by_hand():
    assert mnist.accuracy(torch.tensor([[2.0, 1], [0, 3], [5, 4]]), torch.tensor([0, 1, 1])) == pytest.approx(2 / 3)


def test_the_edges_of_the_label_range_are_labels():
    mnist.check(torch.zeros(2, 4), torch.tensor([0, 3]))
    mnist.check(torch.zeros(1, 1), torch.tensor([0]))


@pytest.mark.parametrize("measure", [mnist.check, mnist.nll, mnist.accuracy])
@pytest.mark.parametrize(
    ("scores", "labels", "error", "text"),
    [
        ((2, 4), torch.tensor([0.0, 1.0]), TypeError, "expected int64 labels, got torch.float32"),
        ((2, 4), torch.tensor([0, 1], dtype=torch.uint8), TypeError, "expected int64 labels, got torch.uint8"),
        ((4,), torch.tensor([0, 1, 2, 3]), ValueError, "expected (n, classes) and (n,), got (4,) and (4,)"),
        ((2, 4), torch.tensor([0, 1, 2]), ValueError, "expected (n, classes) and (n,), got (2, 4) and (3,)"),
        ((2, 4), torch.tensor([[0], [1]]), ValueError, "expected (n, classes) and (n,), got (2, 4) and (2, 1)"),
        ((2, 4, 4), torch.tensor([0, 1]), ValueError, "expected (n, classes) and (n,), got (2, 4, 4) and (2,)"),
        ((0, 4), torch.tensor([], dtype=torch.int64), ValueError, "expected at least one label, got none"),
        ((2, 4), torch.tensor([0, 4]), ValueError, "expected labels 0..3, got 0..4"),
        ((2, 4), torch.tensor([-1, 3]), ValueError, "expected labels 0..3, got -1..3"),
    ],
)
def test_labels_that_do_not_fit_are_refused(measure, scores, labels, error, text):
    with pytest.raises(error, match=message(text)):
        measure(torch.zeros(scores), labels)


# batches and evaluate


@fast
@given(st.integers(1, 200), st.integers(1, 70))
def test_batches_cover_every_row_once_and_in_order(n, size):
    pixels, labels = torch.arange(n * 3).reshape(n, 3), torch.arange(n)
    pairs = mnist.batches(pixels, labels, size)
    assert len(pairs) == math.ceil(n / size)
    assert [len(y) for _, y in pairs[:-1]] == [size] * (len(pairs) - 1)
    assert torch.equal(torch.cat([x for x, _ in pairs]), pixels)
    assert torch.equal(torch.cat([y for _, y in pairs]), labels)
    assert pairs[-1][0].untyped_storage().data_ptr() == pixels.untyped_storage().data_ptr()


def test_50000_rows_make_782_batches_of_64_and_the_last_has_16():
    pairs = mnist.batches(torch.zeros(50_000, 1), torch.zeros(50_000))
    assert (len(pairs), len(pairs[0][1]), len(pairs[-1][1])) == (782, 64, 16)


@pytest.mark.parametrize(("rows", "labels", "size"), [(5, 4, 2), (4, 5, 2), (4, 4, 0), (4, 4, -1)])
def test_batches_refuses_what_does_not_fit(rows, labels, size):
    text = f"expected n rows, n labels, a size > 0, got {rows}, {labels} and {size}"
    with pytest.raises(ValueError, match=message(text)):
        mnist.batches(torch.zeros(rows, 3), torch.zeros(labels), size)


@pytest.mark.parametrize("n", [1, 64, 150])
def test_evaluate_is_the_mean_over_images_and_builds_no_graph(n):
    pixels, labels, weights, bias = problem(3, n)
    loss, accuracy = mnist.evaluate(pixels, labels, weights, bias)
    logits = (pixels @ weights + bias).detach()
    assert loss == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
    assert accuracy == pytest.approx((logits.argmax(1) == labels).double().mean().item())
    assert weights.grad is None


def test_evaluate_differs_from_the_mean_of_batch_means_when_the_last_batch_is_short():
    pixels, labels, weights, bias = problem(4, 80)
    labels[64:] = (pixels[64:] @ weights + bias).argmin(dim=1)
    exact, _ = mnist.evaluate(pixels, labels, weights, bias)
    means = [mnist.evaluate(x, y, weights, bias)[0] for x, y in mnist.batches(pixels, labels)]
    assert exact == pytest.approx((64 * means[0] + 16 * means[1]) / 80)
    assert exact < sum(means) / 2


def test_zero_logits_score_the_logarithm_of_the_number_of_classes():
    pixels, labels, weights, bias = problem(5, 30)
    loss, accuracy = mnist.evaluate(pixels, labels, torch.zeros_like(weights), torch.zeros_like(bias))
    assert loss == pytest.approx(math.log(10), rel=1e-6)
    assert accuracy == pytest.approx((labels == 0).double().mean().item())


# gradient and step


@fast
@given(seeds, st.integers(1, 40))
def test_gradient_by_hand_equals_autograd(seed, n):
    pixels, labels, weights, bias = problem(seed, n)
    F.cross_entropy(pixels @ weights + bias, labels).backward()
    by_hand = mnist.gradient(pixels, labels, weights, bias)
    torch.testing.assert_close(by_hand[0], weights.grad, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(by_hand[1], bias.grad, rtol=1e-4, atol=1e-6)
    assert not by_hand[0].requires_grad


def test_gradient_equals_finite_differences():
    pixels, labels, weights, bias = problem(6, 12, torch.float64)
    by_hand = mnist.gradient(pixels, labels, weights, bias)
    h = 1e-5
    for parameter, found in zip((weights, bias), by_hand, strict=True):
        flat, found = parameter.detach().view(-1), found.reshape(-1)
        for index in (0, 3, flat.numel() - 1):
            losses = []
            for sign in (1, -2):
                flat[index] += sign * h
                losses.append(mnist.evaluate(pixels, labels, weights, bias)[0])
            flat[index] += h
            assert found[index].item() == pytest.approx((losses[0] - losses[1]) / (2 * h), rel=1e-5, abs=1e-9)


def test_gradient_refuses_labels_that_do_not_fit():
    pixels, labels, weights, bias = problem(7)
    with pytest.raises(ValueError, match=message("expected labels 0..9, got 0..10")):
        mnist.gradient(pixels, labels.fill_(0).index_fill_(0, torch.tensor([2], device=DEVICE), 10), weights, bias)


@pytest.mark.parametrize("lr", [0.5, 0.01])
def test_step_equals_the_librarys_sgd(lr):
    pixels, labels, weights, bias = problem(8, 64)
    theirs = [weights.detach().clone().requires_grad_(), bias.detach().clone().requires_grad_()]
    optimizer = torch.optim.SGD(theirs, lr=lr)
    addresses = weights.data_ptr(), bias.data_ptr()
    for _ in range(5):
        expected = F.cross_entropy(pixels @ theirs[0] + theirs[1], labels)
        optimizer.zero_grad()
        expected.backward()
        optimizer.step()
        loss = mnist.step(pixels, labels, weights, bias, *([] if lr == 0.5 else [lr]))
        torch.testing.assert_close(loss, expected.detach())
        assert not loss.requires_grad
        assert weights.grad is None
        assert bias.grad is None
    torch.testing.assert_close(weights, theirs[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(bias, theirs[1], rtol=1e-4, atol=1e-6)
    assert (weights.data_ptr(), bias.data_ptr()) == addresses
    assert weights.is_leaf
    assert weights.requires_grad


def test_one_batch_is_memorized():
    pixels, labels, weights, bias = problem(9, 16)
    losses = [mnist.step(pixels, labels, weights, bias, 0.05).item() for _ in range(200)]
    assert losses[-1] < 0.05 < losses[0]
    assert mnist.evaluate(pixels, labels, weights, bias)[1] == 1.0


# the real data


def script():
    """What `python -m snippets.training.mnist` does."""
    runpy.run_path(mnist.__file__, run_name="__main__")


@pytest.mark.parametrize("main", [mnist.main, script])
def test_main_trains_on_the_real_digits(main, tmp_path, monkeypatch, capsys):
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for archive in (ROOT / "data" / "MNIST" / "raw").glob("*.gz"):
        (raw / archive.name).symlink_to(archive)
    monkeypatch.chdir(tmp_path)
    main()
    printed, progress = capsys.readouterr()
    number = r"(\d\.\d{3})"
    pattern = rf"before: loss {number}, accuracy {number}\nafter:  loss {number}, accuracy {number}\n"
    before, chance, after, accuracy = map(float, re.fullmatch(pattern, printed).groups())
    assert (before, chance) == (pytest.approx(2.392, abs=2e-3), pytest.approx(0.090, abs=2e-3))
    assert (after, accuracy) == (pytest.approx(0.293, abs=2e-3), pytest.approx(0.918, abs=2e-3))
    assert "1564/1564" in progress
    assert "batch/s" in progress
