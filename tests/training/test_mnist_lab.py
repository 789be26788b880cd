"""Proofs for snippets/training/mnist_lab.py: the library, torchvision, NumPy loops and the real data as oracles."""

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
from matplotlib import pyplot as plt
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tvf

from snippets.training import mnist_lab as lab

ROOT = Path(__file__).resolve().parents[2]
DEVICE = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")

fast = settings(max_examples=25, deadline=None, derandomize=True)
seeds = st.integers(0, 10**6)
close = {"rtol": 1e-4, "atol": 1e-5}


def pictures(seed, n=3, side=28):
    """Random images (n, 1, side, side) in [0, 1] on the device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, 1, side, side, generator=generator).to(DEVICE)


def message(text):
    """A pattern for exactly this message."""
    return f"^{re.escape(text)}$"


# what every function refuses

PARAMETERS = torch.zeros(784, 10), torch.zeros(10)
TAKES_IMAGES = [
    lab.check,
    lambda images: lab.fit(images, torch.zeros(2, dtype=torch.int64)),
    lambda images: lab.predict(images, *PARAMETERS),
    lambda images: lab.accuracy(images, torch.zeros(2), *PARAMETERS),
    lambda images: lab.warp(images, torch.eye(2, 3)),
    lab.shift,
    lambda images: lab.rotate(images, 10),
    lab.thicken,
    lab.thin,
    lambda images: lab.noisy(images, 0.1, torch.Generator()),
    lab.center,
]


@pytest.mark.parametrize("function", TAKES_IMAGES)
@pytest.mark.parametrize(
    "shape", [(), (28,), (28, 28), (2, 28, 28), (2, 3, 28, 28), (2, 1, 28, 27), (2, 1, 27, 28), (2, 1, 1, 28, 28)]
)
def test_other_shapes_are_refused(function, shape):
    with pytest.raises(ValueError, match=message(f"expected float images (n, 1, s, s), got torch.float32 {shape}")):
        function(torch.zeros(shape))


@pytest.mark.parametrize("function", [f for f in TAKES_IMAGES if f is not lab.thin])
def test_bytes_are_refused(function):
    text = "expected float images (n, 1, s, s), got torch.uint8 (2, 1, 28, 28)"
    with pytest.raises(ValueError, match=message(text)):
        function(torch.zeros(2, 1, 28, 28, dtype=torch.uint8))


@pytest.mark.parametrize("function", TAKES_IMAGES)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_pixels_that_are_not_finite_are_refused(function, value):
    images = torch.zeros(2, 1, 28, 28)
    images[1, 0, 3, 4] = value
    with pytest.raises(ValueError, match=message("expected finite pixels, got nan or inf")):
        function(images)


# fit, predict, accuracy


@pytest.mark.parametrize(("epochs", "lr"), [(None, None), (3, 0.1)])
def test_fit_equals_a_linear_layer_with_sgd(epochs, lr):
    images = pictures(0, 150)
    labels = torch.randint(10, (150,), generator=torch.Generator().manual_seed(1)).to(DEVICE)
    layer = torch.nn.Linear(784, 10, device=DEVICE)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    optimizer = torch.optim.SGD(layer.parameters(), lr=lr or 0.5)
    for _ in range(epochs or 2):
        for first in (0, 64, 128):
            rows = slice(first, first + 64)
            optimizer.zero_grad()
            F.cross_entropy(layer(images[rows].reshape(-1, 784)), labels[rows]).backward()
            optimizer.step()
    given_ = {} if epochs is None else {"epochs": epochs, "lr": lr}
    weights, bias = lab.fit(images, labels, **given_)
    torch.testing.assert_close(weights, layer.weight.detach().T, **close)
    torch.testing.assert_close(bias, layer.bias.detach(), **close)
    assert weights.device == images.device
    assert not weights.requires_grad
    assert not bias.requires_grad


def test_fit_refuses_another_number_of_labels():
    with pytest.raises(ValueError, match="zip"):
        lab.fit(pictures(0, 64), torch.zeros(65, dtype=torch.int64, device=DEVICE))


def test_predict_is_softmax_of_the_product():
    images = pictures(1, 4)
    generator = torch.Generator().manual_seed(2)
    weights, bias = torch.randn(784, 10, generator=generator), torch.randn(10, generator=generator)
    found = lab.predict(images, weights.to(DEVICE), bias.to(DEVICE)).cpu().numpy()
    logits = images.cpu().double().numpy().reshape(4, 784) @ weights.double().numpy() + bias.double().numpy()
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    answers = torch.from_numpy(expected.argmax(axis=1)).to(DEVICE)
    model = weights.to(DEVICE), bias.to(DEVICE)
    assert lab.accuracy(images, answers, *model) == 1.0
    answers[0] = (answers[0] + 1) % 10
    assert lab.accuracy(images, answers, *model) == 0.75


# warp, shift, rotate


def bilinear(image, theta):
    """A second implementation of warp for one image (s, s), pixel by pixel."""
    side = len(image)
    result = np.zeros((side, side))
    for row in range(side):
        for column in range(side):
            place = np.array([(2 * column + 1) / side - 1, (2 * row + 1) / side - 1, 1.0])
            x, y = (((theta @ place) + 1) * side - 1) / 2
            left, top = math.floor(x), math.floor(y)
            for r in (top, top + 1):
                for c in (left, left + 1):
                    if 0 <= r < side and 0 <= c < side:
                        result[row, column] += image[r, c] * (1 - abs(x - c)) * (1 - abs(y - r))
    return result


@fast
@given(seeds, st.integers(1, 6))
def test_warp_equals_a_bilinear_loop(seed, side):
    images = pictures(seed, 2, side)
    theta = torch.eye(2, 3) + 0.4 * torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(seed))
    each, all_ = lab.warp(images, theta).cpu(), lab.warp(images, theta[0]).cpu()
    for i in range(2):
        image = images[i, 0].cpu().double().numpy()
        np.testing.assert_allclose(each[i, 0], bilinear(image, theta[i].double().numpy()), atol=1e-4)
        np.testing.assert_allclose(all_[i, 0], bilinear(image, theta[0].double().numpy()), atol=1e-4)


def moved(image, right, down):
    """An image (s, s) moved by whole pixels, black where nothing was."""
    side, result = len(image), torch.zeros_like(image)
    for row in range(side):
        for column in range(side):
            if 0 <= row - down < side and 0 <= column - right < side:
                result[row, column] = image[row - down, column - right]
    return result


@fast
@given(seeds, st.integers(-7, 7), st.integers(-7, 7))
def test_shift_by_whole_pixels_is_a_copy(seed, right, down):
    images = pictures(seed, 2, 6)
    expected = torch.stack([moved(image[0], right, down)[None] for image in images])
    torch.testing.assert_close(lab.shift(images, right, down), expected, **close)
    torch.testing.assert_close(lab.shift(images, right=right), lab.shift(images, right, 0.0))
    torch.testing.assert_close(lab.shift(images, down=down), lab.shift(images, 0.0, down))


def test_shift_takes_one_number_an_image():
    images = pictures(3, 3, 6)
    right, down = torch.tensor([1, 0, -2]), torch.tensor([0, 3, -1])
    found = lab.shift(images, right, down)
    for i in range(3):
        torch.testing.assert_close(found[i, 0], moved(images[i, 0], right[i].item(), down[i].item()), **close)


def test_shift_by_half_a_pixel_is_the_mean_of_neighbors():
    image = pictures(4, 1, 6)
    expected = (image + moved(image[0, 0], 1, 0)) / 2
    torch.testing.assert_close(lab.shift(image, right=0.5), expected, **close)


@pytest.mark.parametrize(
    "function",
    [lab.shift, lambda x: lab.shift(x, 1, torch.tensor([2, 1, 0])), lambda x: lab.rotate(x, 5), lab.center, lab.thin,
     lab.thicken, lambda x: lab.noisy(x, 0.1, torch.Generator())],
)
def test_double_precision_stays_double(function):
    images = pictures(11).double()
    assert function(images).dtype == torch.float64
    assert function(images).shape == images.shape


def test_no_shift_and_no_rotation_change_nothing():
    images = pictures(5)
    torch.testing.assert_close(lab.shift(images), images, **close)
    torch.testing.assert_close(lab.rotate(images, 0), images, **close)


@pytest.mark.parametrize("quarter", [-1, 1, 2, 3])
def test_rotate_by_quarters_is_rot90(quarter):
    images = pictures(6, 2, 9)
    torch.testing.assert_close(lab.rotate(images, 90 * quarter), torch.rot90(images, quarter, (2, 3)), **close)


@fast
@given(seeds, st.floats(-180, 180))
def test_rotate_equals_torchvision(seed, degrees):
    images = pictures(seed, 2, 12)
    theirs = tvf.rotate(images, degrees, InterpolationMode.BILINEAR)
    torch.testing.assert_close(lab.rotate(images, degrees), theirs, rtol=0, atol=1e-4)


# ink


def windows(image, size, choose):
    """Brightest or darkest of each window of an image (s, s), what is outside left out."""
    side, before = len(image), (size - 1) // 2
    result = torch.zeros_like(image)
    for row in range(side):
        for column in range(side):
            rows = slice(max(row - before, 0), row - before + size)
            columns = slice(max(column - before, 0), column - before + size)
            result[row, column] = choose(image[rows, columns])
    return result


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_thicken_and_thin_equal_a_loop(size):
    images = pictures(7, 2, 7)
    for i in range(2):
        torch.testing.assert_close(lab.thicken(images, size)[i, 0], windows(images[i, 0], size, torch.max))
        torch.testing.assert_close(lab.thin(images, size)[i, 0], windows(images[i, 0], size, torch.min))


def test_the_default_window_has_two_by_two_pixels():
    images = pictures(8, 2, 7)
    assert torch.equal(lab.thicken(images), lab.thicken(images, 2))
    assert torch.equal(lab.thin(images), lab.thin(images, 2))


def test_noise_is_the_generators_times_std_and_stays_in_range():
    images = torch.full((2, 1, 5, 5), 0.5, device=DEVICE)
    drawn = torch.randn(2, 1, 5, 5, generator=torch.Generator().manual_seed(9))
    found = lab.noisy(images, 0.4, torch.Generator().manual_seed(9)).cpu()
    torch.testing.assert_close(found, (0.5 + 0.4 * drawn).clamp(0, 1))
    strong = lab.noisy(images, 100.0, torch.Generator().manual_seed(9))
    assert set(strong.unique().tolist()) == {0.0, 1.0}


# confusion and the surest mistakes


@fast
@given(seeds, st.integers(2, 6), st.integers(1, 60))
def test_confusion_equals_a_loop(seed, classes, n):
    generator = torch.Generator().manual_seed(seed)
    labels, answers = torch.randint(classes, (2, n), generator=generator).to(DEVICE)
    found = lab.confusion(labels, answers, classes)
    expected = np.zeros((classes, classes), dtype=int)
    for label, answer in zip(labels.tolist(), answers.tolist(), strict=True):
        expected[label, answer] += 1
    assert found.tolist() == expected.tolist()
    pairs = lab.confused_pairs(found, 4)
    everything = sorted(
        ((a, b, int(expected[a, b] + expected[b, a])) for a in range(classes) for b in range(a + 1, classes)),
        key=lambda pair: -pair[2],
    )
    assert [pair[2] for pair in pairs if pair[2]] == [pair[2] for pair in everything[:4] if pair[2]]
    assert set(pair for pair in pairs if pair[2]) <= set(everything)


def test_confusion_counts_ten_classes_and_confused_pairs_gives_three():
    labels, answers = torch.tensor([9, 3, 3, 5, 7, 7, 1]), torch.tensor([9, 5, 5, 3, 9, 9, 2])
    counts = lab.confusion(labels, answers)
    assert counts.shape == (10, 10)
    assert counts[3, 5] == 2
    assert counts[5, 3] == 1
    assert lab.confused_pairs(counts) == [(3, 5, 3), (7, 9, 2), (1, 2, 1)]
    assert lab.confused_pairs(counts, 1) == [(3, 5, 3)]


def test_equally_frequent_pairs_come_in_the_order_of_their_digits():
    counts = torch.ones(10, 10, dtype=torch.int64)
    assert lab.confused_pairs(counts, 12)[8:11] == [(0, 9, 2), (1, 2, 2), (1, 3, 2)]


@pytest.mark.parametrize(
    ("labels", "answers", "span"), [([0, 3], [0, 0], "0..3"), ([0, 0], [0, 3], "0..3"), ([0, -1], [2, 0], "-1..2")]
)
def test_confusion_refuses_what_is_no_class(labels, answers, span):
    with pytest.raises(ValueError, match=message(f"expected 0..2, got {span}")):
        lab.confusion(torch.tensor(labels), torch.tensor(answers), 3)


@fast
@given(seeds, st.integers(1, 40), st.integers(1, 12))
def test_surest_mistakes_equal_a_sort(seed, n, most):
    generator = torch.Generator().manual_seed(seed)
    probs = torch.rand(n, 3, generator=generator).softmax(dim=1).to(DEVICE)
    labels = torch.randint(3, (n,), generator=generator).to(DEVICE)
    wrong = [i for i in range(n) if probs[i].argmax() != labels[i]]
    expected = sorted(wrong, key=lambda i: -probs[i].max().item())[:most]
    assert lab.surest_mistakes(probs, labels, most).tolist() == expected


def test_surest_mistakes_gives_ten_and_keeps_the_order_of_equals():
    probs = torch.tensor([[0.5, 0.2, 0.3]]).repeat(30, 1)
    assert lab.surest_mistakes(probs, torch.ones(30, dtype=torch.int64)).tolist() == list(range(10))


@pytest.mark.parametrize(("probs", "labels"), [((3,), (3,)), ((3, 2), (2,)), ((3, 2), (3, 1)), ((3, 2, 2), (3,))])
def test_surest_mistakes_refuses_other_shapes(probs, labels):
    text = f"expected (n, classes) and (n,), got {probs} and {labels}"
    with pytest.raises(ValueError, match=message(text)):
        lab.surest_mistakes(torch.zeros(probs), torch.zeros(labels, dtype=torch.int64))


# center


@fast
@given(seeds, st.integers(-3, 3), st.integers(-3, 3))
def test_center_undoes_every_shift(seed, right, down):
    images = torch.zeros(2, 1, 16, 16, device=DEVICE)
    images[:, :, 6:9, 6:10] = pictures(seed, 2, 12)[:, :, :3, :4] + 0.5
    centered = lab.center(images)
    torch.testing.assert_close(lab.center(lab.shift(images, right, down)), centered, rtol=0, atol=1e-3)
    torch.testing.assert_close(lab.center(centered), centered, rtol=0, atol=1e-3)


def test_center_puts_a_dot_at_the_middle_and_leaves_black_images_black():
    images = torch.zeros(3, 1, 8, 8, device=DEVICE)
    images[0, 0, 1, 6] = images[1, 0, 7, 0] = 1.0
    found = lab.center(images)
    expected = torch.zeros(8, 8)
    expected[4, 4] = 1.0
    for i in (0, 1):
        torch.testing.assert_close(found[i, 0].cpu(), expected, **close)
    assert not found[2].any()


@pytest.mark.parametrize("brightness", [0.01, 0.5, 1.0, 1.3])
def test_center_weighs_by_brightness_and_is_the_same_for_dim_images(brightness):
    image = torch.zeros(1, 1, 8, 8, device=DEVICE)
    image[0, 0, 2, 0], image[0, 0, 2, 4] = 0.25, 0.75  # center of mass: column 3, row 2
    image *= brightness
    torch.testing.assert_close(lab.center(image), lab.shift(image, 1.0, 2.0), **close)


# the real data


def script():
    """What `python -m snippets.training.mnist_lab` does."""
    runpy.run_path(lab.__file__, run_name="__main__")


@pytest.mark.parametrize("main", [lab.main, script])
def test_main_measures_the_real_digits(main, tmp_path, monkeypatch, capsys):
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for archive in (ROOT / "data" / "MNIST" / "raw").glob("*.gz"):
        (raw / archive.name).symlink_to(archive)
    monkeypatch.chdir(tmp_path)
    drawn = []
    monkeypatch.setattr(plt, "show", lambda: drawn.append(plt.gca()))
    main()
    printed, progress = capsys.readouterr()
    lines = printed.splitlines()
    scores = [float(re.fullmatch(r" *-?\d+ degrees: accuracy (\d\.\d\d)", line)[1]) for line in lines[:13]]
    assert [int(line.split()[0]) for line in lines[:13]] == list(range(-90, 91, 15))
    assert scores[6] == pytest.approx(0.92, abs=0.005)
    assert scores[0] == pytest.approx(0.16, abs=0.02)
    assert scores[:7] == sorted(scores[:7])
    assert [int(digit) for digit in re.findall(r"^(\d) and (\d): confused", lines[13])[0]] == [3, 5]
    assert [re.sub(r"\d+ times", "times", line) for line in lines[13:]] == [
        "3 and 5: confused times", "7 and 9: confused times", "2 and 8: confused times",
    ]
    assert "13/13" in progress
    assert "angle/s" in progress or "s/angle" in progress
    (ax,) = drawn
    assert ax.get_xlabel() == "rotation (degrees)"
    assert ax.get_ylabel() == "accuracy"
    np.testing.assert_allclose(ax.lines[0].get_xdata(), range(-90, 91, 15))
    np.testing.assert_allclose(ax.lines[0].get_ydata(), scores, atol=0.0051)
    plt.close("all")
