"""Each library step against the hand-made one, and layers against formulas written out."""

import copy
import math
import re
import runpy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from snippets.training import mnist
from snippets.training import mnist_refactored as walk

DEVICE = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
SEEDS = st.integers(0, 10_000)

fast = settings(max_examples=20, deadline=None)


def message(text):
    """A pattern for exactly this message."""
    return f"^{re.escape(text)}$"


def problem(seed=0, n=150, inputs=784, classes=10, dtype=torch.float32):
    """Random rows in [0, 1), labels, weights (inputs, classes) and a bias, on the device."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, inputs, generator=generator).to(DEVICE, dtype)
    y = torch.randint(classes, (n,), generator=generator).to(DEVICE)
    weights = (torch.randn(inputs, classes, generator=generator) / math.sqrt(inputs)).to(DEVICE, dtype)
    bias = torch.randn(classes, generator=generator).to(DEVICE, dtype)
    return (x, y), weights.requires_grad_(), bias.requires_grad_()


def by_hand(data, weights, bias, lr=0.5, size=64):
    """One epoch with the gradient derived on paper: copies of the trained weights and bias."""
    weights, bias = weights.detach().clone(), bias.detach().clone()
    for first in range(0, len(data[1]), size):
        x, y = data[0][first : first + size], data[1][first : first + size]
        error = ((x @ weights + bias).softmax(dim=1) - F.one_hot(y, len(bias))) / len(y)
        weights, bias = weights - lr * x.T @ error, bias - lr * error.sum(dim=0)
    return weights, bias


def close(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.detach(), b.detach(), rtol=1e-4, atol=1e-5)


class Recorder(nn.Module):
    """Logits scale * x; notes the mode and the grad mode of each call."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))
        self.calls = []

    def forward(self, x):
        self.calls.append((self.training, torch.is_grad_enabled(), torch.is_inference_mode_enabled(), len(x)))
        return self.scale * x


def sgd(model, lr=0.5, **options):
    return torch.optim.SGD(model.parameters(), lr=lr, **options)


# largest_gap


@fast
@given(seed=SEEDS, shapes=st.lists(st.lists(st.integers(1, 4), max_size=3), min_size=1, max_size=4), data=st.data())
def test_largest_gap_finds_one_changed_number_wherever_it_is(seed, shapes, data):
    torch.manual_seed(seed)
    ours = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    theirs = [t.clone() for t in ours]
    assert walk.largest_gap(ours, theirs) == 0
    place = data.draw(st.integers(0, len(shapes) - 1))
    index = data.draw(st.integers(0, theirs[place].numel() - 1))
    sign = data.draw(st.sampled_from([-1, 1]))
    theirs[place].view(-1)[index] += 0.25 * sign
    assert walk.largest_gap(ours, theirs) == pytest.approx(0.25)
    assert type(walk.largest_gap(ours, theirs)) is float


def test_largest_gap_takes_the_largest_of_several_and_iterators():
    ours = (t for t in [torch.tensor([1.0, 5.0]), torch.tensor(-2.0)])
    theirs = iter([torch.tensor([1.5, 2.0]), torch.tensor(-1.0)])
    assert walk.largest_gap(ours, theirs) == 3.0


@pytest.mark.parametrize("place", [0, 1])
def test_a_nan_is_no_small_gap(place):
    ours = [torch.zeros(2), torch.zeros(2)]
    theirs = [t.clone() for t in ours]
    theirs[place][1] = math.nan
    assert math.isnan(walk.largest_gap(ours, theirs))


def test_largest_gap_reads_parameters_that_need_gradients():
    layer = nn.Linear(2, 3).to(DEVICE)
    assert walk.largest_gap(layer.parameters(), copy.deepcopy(layer).parameters()) == 0


@pytest.mark.parametrize(
    ("ours", "theirs", "got"),
    [
        ([(2, 1)], [(2,)], "[(2, 1)] and [(2,)]"),
        ([(2,)], [(2,), (1,)], "[(2,)] and [(2,), (1,)]"),
        ([(2,), (1,)], [(2,)], "[(2,), (1,)] and [(2,)]"),
        ([], [], "[] and []"),
    ],
)
def test_largest_gap_refuses_what_would_broadcast_or_be_left_out(ours, theirs, got):
    with pytest.raises(ValueError, match=message(f"expected equal shapes, got {got}")):
        walk.largest_gap([torch.zeros(s) for s in ours], [torch.zeros(s) for s in theirs])


# train_cross_entropy, Logistic and train_module: the gradient on paper and the hand-made loop are the oracles


@fast
@given(seed=SEEDS, n=st.integers(1, 200), lr=st.sampled_from([0.1, 0.5]))
def test_train_cross_entropy_follows_the_gradient_on_paper(seed, n, lr):
    data, weights, bias = problem(seed, n, inputs=12)
    wanted = by_hand(data, weights, bias, lr)
    assert walk.train_cross_entropy(data, weights, bias, lr) is None
    close((weights, bias), wanted)
    assert weights.grad is None
    assert bias.grad is None
    assert weights.is_leaf
    assert weights.requires_grad


def test_all_loops_have_the_rate_of_the_hand_made_one():
    data, weights, bias = problem(n=130)
    model, layer = walk.Logistic(weights, bias), walk.linear(weights, bias)
    ours = [t.detach().clone().requires_grad_() for t in (weights, bias)]
    for x, y in mnist.batches(*data):
        mnist.step(x, y, weights, bias)
    walk.train_cross_entropy(data, *ours)
    walk.train_module(data, model)
    walk.train_module(data, layer)
    close(ours, (weights, bias))
    close(model.parameters(), (weights, bias))
    close((layer.weight.T, layer.bias), (weights, bias))


def test_the_module_computes_what_the_loop_with_cross_entropy_does_to_the_bit():
    data, weights, bias = problem(3)
    model = walk.Logistic(weights, bias)
    walk.train_cross_entropy(data, weights, bias)
    walk.train_module(data, model)
    assert walk.largest_gap((weights, bias), model.parameters()) == 0


@fast
@given(seed=SEEDS, inputs=st.integers(1, 6), classes=st.integers(1, 5), double=st.booleans())
def test_logistic_and_linear_compute_x_times_weights_plus_bias(seed, inputs, classes, double):
    dtype = torch.float64 if double else torch.float32
    (x, _), weights, bias = problem(seed, 7, inputs, classes, dtype)
    wanted = (x.unsqueeze(2) * weights).sum(dim=1) + bias
    for model in walk.Logistic(weights, bias), walk.linear(weights, bias):
        torch.testing.assert_close(model(x), wanted)
        assert all(p.dtype == dtype and p.device == weights.device and p.requires_grad for p in model.parameters())


def test_logistic_registers_two_parameters_that_are_copies():
    _, weights, bias = problem(inputs=3)
    model = walk.Logistic(weights, bias)
    assert {name: tuple(p.shape) for name, p in model.named_parameters()} == {"weights": (3, 10), "bias": (10,)}
    assert all(p.is_leaf and isinstance(p, nn.Parameter) for p in model.parameters())
    with torch.no_grad():
        model.weights.zero_()
        model.bias.zero_()
    assert weights.count_nonzero() > 0
    assert bias.count_nonzero() > 0


def test_linear_is_a_layer_that_stores_a_transposed_copy():
    _, weights, bias = problem(inputs=3)
    layer = walk.linear(weights, bias)
    assert type(layer) is nn.Linear
    assert (layer.in_features, layer.out_features) == (3, 10)
    assert torch.equal(layer.weight, weights.T)
    assert torch.equal(layer.bias, bias)
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()
    assert weights.count_nonzero() > 0
    assert bias.count_nonzero() > 0


def test_linear_stays_on_the_device_of_the_weights():
    """The meta device stands for an accelerator."""
    layer = walk.linear(torch.zeros(3, 2, device="meta"), torch.zeros(2, device="meta"))
    assert {p.device.type for p in layer.parameters()} == {"meta"}


@pytest.mark.parametrize("make", [walk.Logistic, walk.linear, walk.check_shapes])
@pytest.mark.parametrize(
    ("weights", "bias"), [((4,), ()), ((4, 3), (4,)), ((4, 3), (1,)), ((4, 3), (3, 1)), ((2, 4, 3), (4, 3)), ((4, 3), ())]
)
def test_other_shapes_are_refused(make, weights, bias):
    text = f"expected (in, out) and (out,), got {weights} and {bias}"
    with pytest.raises(ValueError, match=message(text)):
        make(torch.zeros(weights), torch.zeros(bias))


def test_train_module_takes_the_rate_it_is_given_and_clears_gradients():
    data, weights, bias = problem(5, inputs=12)
    model = walk.Logistic(weights, bias)
    assert walk.train_module(data, model, 0.05) is None
    close(model.parameters(), by_hand(data, weights, bias, 0.05))
    assert all(p.grad is None for p in model.parameters())


# train_epoch and slices


@fast
@given(seed=SEEDS, n=st.integers(1, 200), size=st.integers(1, 80), lr=st.sampled_from([0.1, 0.5]))
def test_train_epoch_on_slices_follows_the_gradient_on_paper(seed, n, size, lr):
    data, weights, bias = problem(seed, n, inputs=6)
    model = walk.linear(weights, bias)
    assert walk.train_epoch(walk.slices(TensorDataset(*data), size), model, sgd(model, lr)) is None
    close((model.weight.T, model.bias), by_hand(data, weights, bias, lr, size))


def test_slices_and_loader_train_to_the_same_bits():
    data, weights, bias = problem(n=150)
    trained = []
    for batches in (
        mnist.batches(*data),
        walk.slices(TensorDataset(*data)),
        DataLoader(TensorDataset(*data), batch_size=64),
    ):
        model = walk.linear(weights, bias)
        walk.train_epoch(batches, model, sgd(model))
        trained.append(list(model.parameters()))
    assert walk.largest_gap(trained[0], trained[1]) == 0
    assert walk.largest_gap(trained[0], trained[2]) == 0


def test_train_epoch_forgets_older_gradients():
    data, weights, bias = problem()
    model, other = walk.linear(weights, bias), walk.linear(weights, bias)
    for p in model.parameters():
        p.grad = torch.full_like(p, 1e6)
    walk.train_epoch([data], model, sgd(model))
    walk.train_epoch([data], other, sgd(other))
    assert walk.largest_gap(model.parameters(), other.parameters()) == 0


def test_train_epoch_switches_training_mode_on():
    model = Recorder().eval()
    y = torch.tensor([0, 1])
    walk.train_epoch([(torch.eye(2), y), (torch.eye(2)[:1], y[:1])], model, sgd(model))
    assert model.calls == [(True, True, False, 2), (True, True, False, 1)]


def test_train_epoch_uses_the_optimizer():
    """Momentum written out: v = mu v + g, p = p - lr v."""
    data, weights, bias = problem(7, 200, inputs=5)
    model = walk.linear(weights, bias)
    walk.train_epoch(walk.slices(TensorDataset(*data), 50), model, sgd(model, 0.05, momentum=0.9))
    w, b = weights.detach().T.clone(), bias.detach().clone()
    v, u = torch.zeros_like(w), torch.zeros_like(b)
    for x, y in zip(data[0].split(50), data[1].split(50), strict=True):
        error = ((x @ w.T + b).softmax(dim=1) - F.one_hot(y, 10)) / len(y)
        v, u = 0.9 * v + error.T @ x, 0.9 * u + error.sum(dim=0)
        w, b = w - 0.05 * v, b - 0.05 * u
    close(model.parameters(), (w, b))


@fast
@given(n=st.integers(0, 40), size=st.integers(1, 45))
def test_slices_give_every_row_once_in_order(n, size):
    dataset = TensorDataset(torch.arange(n), -torch.arange(n))
    found = list(walk.slices(dataset, size))
    assert len(found) == math.ceil(n / size)
    assert [i for x, _ in found for i in x.tolist()] == list(range(n))
    assert all(torch.equal(x, -y) for x, y in found)
    assert all(len(x) == size for x, _ in found[:-1])


def test_slices_hold_64_rows_unless_told_otherwise():
    assert [len(x) for x, in walk.slices(TensorDataset(torch.arange(130)))] == [64, 64, 2]


@pytest.mark.parametrize("size", [0, -1])
def test_slices_refuse_other_sizes(size):
    with pytest.raises(ValueError, match=message(f"expected a size of at least 1, got {size}")):
        next(walk.slices(TensorDataset(torch.arange(3)), size))


# validate


@fast
@given(seed=SEEDS, n=st.integers(1, 60), size=st.integers(1, 70), classes=st.integers(2, 5))
def test_validate_is_the_mean_over_images_whatever_the_batches(seed, n, size, classes):
    (x, y), weights, bias = problem(seed, n, 4, classes, torch.float64)
    model = walk.linear(weights, bias)
    loss, accuracy = walk.validate(model, walk.slices(TensorDataset(x, y), size))
    logits = (x @ weights + bias).detach()
    terms = [math.log(sum(math.exp(z) for z in row)) - row[k] for row, k in zip(logits.tolist(), y.tolist(), strict=True)]
    assert loss == pytest.approx(sum(terms) / n)
    right = [row.index(max(row)) == k for row, k in zip(logits.tolist(), y.tolist(), strict=True)]
    assert accuracy == pytest.approx(sum(right) / n)
    assert type(loss) is type(accuracy) is float


def test_validate_runs_in_eval_and_inference_mode_and_leaves_eval_mode():
    model = Recorder().train()
    walk.validate(model, [(torch.eye(3), torch.arange(3)), (torch.eye(3)[:1], torch.tensor([2]))])
    assert model.calls == [(False, False, True, 3), (False, False, True, 1)]
    assert not model.training
    assert torch.is_grad_enabled()
    assert model.scale.grad is None


@pytest.mark.parametrize("batches", [[], [(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))]])
@pytest.mark.filterwarnings("ignore")
def test_validate_refuses_to_average_nothing(batches):
    with pytest.raises(ValueError, match=message("expected at least one image, got none")):
        walk.validate(Recorder(), batches)


def test_validate_accepts_a_single_image():
    loss, accuracy = walk.validate(Recorder(0.0), [(torch.ones(1, 4), torch.tensor([0]))])
    assert loss == pytest.approx(math.log(4))
    assert accuracy == 1.0


# fit


def test_fit_trains_and_then_validates_each_epoch():
    (x, y), weights, bias = problem(n=120, inputs=8)
    train, valid = [(x[:50], y[:50]), (x[50:70], y[50:70])], [(x[70:], y[70:])]
    model, other = walk.linear(weights, bias), walk.linear(weights, bias)
    optimizer, wanted = sgd(other), []
    for _ in range(3):
        walk.train_epoch(train, other, optimizer)
        wanted.append(walk.validate(other, valid))
    assert walk.fit(3, model, sgd(model), train, valid) == wanted
    assert walk.largest_gap(model.parameters(), other.parameters()) == 0


def test_fit_goes_on_where_it_stopped():
    (x, y), weights, bias = problem(n=120, inputs=8)
    found = []
    for plan in [3], [1, 2]:
        model = walk.linear(weights, bias)
        optimizer = sgd(model, 0.05, momentum=0.9)
        found.append([pair for epochs in plan for pair in walk.fit(epochs, model, optimizer, [(x, y)], [(x, y)])])
    assert found[0] == found[1]
    assert len({loss for loss, _ in found[0]}) == 3


def test_fit_of_no_epochs_does_nothing():
    model = Recorder()
    assert walk.fit(0, model, sgd(model), [(torch.eye(2), torch.arange(2))], []) == []
    assert model.calls == []


# ConvNet and sequential


def convolve(x, weight, bias):
    """Stride 2, padding 1, window by window: x (n, c, h, w), weight (out, c, 3, 3)."""
    n, _, height, width = x.shape
    padded = torch.zeros(n, x.shape[1], height + 2, width + 2, dtype=x.dtype)
    padded[:, :, 1:-1, 1:-1] = x
    rows, columns = (height + 1) // 2, (width + 1) // 2
    out = torch.empty(n, len(weight), rows, columns, dtype=x.dtype)
    for i in range(rows):
        for j in range(columns):
            window = padded[:, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
            out[:, :, i, j] = torch.einsum("nchw,ochw->no", window, weight) + bias
    return out


@settings(max_examples=5, deadline=None)
@given(seed=SEEDS, n=st.integers(1, 4))
def test_convnet_and_sequential_equal_the_network_written_out(seed, n):
    torch.manual_seed(seed)
    net, row = walk.ConvNet().double(), walk.sequential().double()
    row.load_state_dict(dict(zip(row.state_dict(), net.state_dict().values(), strict=True)))
    pixels = torch.rand(n, 784, dtype=torch.float64)
    weights = [p.detach() for p in net.parameters()]
    x = pixels.reshape(n, 1, 28, 28)
    x = convolve(x, *weights[:2]).clamp(min=0)
    x = convolve(x, *weights[2:4]).clamp(min=0)
    wanted = convolve(x, *weights[4:]).mean(dim=(2, 3))
    assert wanted.shape == (n, 10)
    torch.testing.assert_close(net(pixels).detach(), wanted)
    assert torch.equal(net(pixels), row(pixels))


def test_logits_can_be_negative_and_the_untrained_loss_is_near_ln_10():
    torch.manual_seed(0)
    pixels = torch.rand(200, 784)
    y = torch.arange(200) % 10
    for model in walk.ConvNet(), walk.sequential():
        logits = model(pixels)
        assert logits.min() < 0 < logits.max()
        assert F.cross_entropy(logits, y).item() == pytest.approx(math.log(10), abs=0.05)


def test_the_same_seed_gives_class_and_sequential_the_same_start():
    torch.manual_seed(3)
    net = walk.ConvNet()
    torch.manual_seed(3)
    row = walk.sequential()
    assert walk.largest_gap(net.parameters(), row.parameters()) == 0
    assert list(net.state_dict()) == [f"conv{i}.{kind}" for i in (1, 2, 3) for kind in ("weight", "bias")]
    assert list(row.state_dict()) == [f"{i}.{kind}" for i in (1, 3, 5) for kind in ("weight", "bias")]


def test_parameters_and_outputs_are_counted():
    assert sum(p.numel() for p in walk.ConvNet().parameters()) == 160 + 2320 + 1450 == 3930
    shapes = [tuple(p.shape) for p in walk.sequential(16).parameters()]
    assert shapes == [(16, 1, 3, 3), (16,), (16, 16, 3, 3), (16,), (16, 16, 3, 3), (16,)]
    assert walk.sequential(16)(torch.rand(2, 784)).shape == (2, 16)
    kinds = [nn.Unflatten, nn.Conv2d, nn.ReLU, nn.Conv2d, nn.ReLU, nn.Conv2d, nn.AvgPool2d, nn.Flatten]
    assert [type(layer) for layer in walk.sequential()] == kinds


def test_class_and_sequential_train_to_the_same_weights():
    torch.manual_seed(0)
    net, row = walk.ConvNet().to(DEVICE, torch.float64), walk.sequential().to(DEVICE, torch.float64)
    row.load_state_dict(dict(zip(row.state_dict(), net.state_dict().values(), strict=True)))
    before = [p.detach().clone() for p in net.parameters()]
    data, _, _ = problem(n=100, dtype=torch.float64)
    for model in net, row:
        walk.train_epoch(walk.slices(TensorDataset(*data), 20), model, sgd(model, 0.05, momentum=0.9))
    assert walk.largest_gap(net.parameters(), row.parameters()) <= 1e-12
    assert walk.largest_gap(net.parameters(), before) > 1e-3


@pytest.mark.parametrize("shape", [(784,), (2, 783), (2, 785), (2, 1, 28, 28), (2, 1, 784)])
def test_convnet_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match=message(f"expected (n, 784), got {shape}")):
        walk.ConvNet()(torch.zeros(shape))


# the script

PRINTED = "loss below 0.7: True, accuracy above 0.8: True\n"


@pytest.fixture
def digits(tmp_path, monkeypatch):
    """A working directory with the archives of MNIST, so that they are not unpacked in the repository."""
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for archive in (Path(__file__).resolve().parents[2] / "data" / "MNIST" / "raw").glob("*.gz"):
        (raw / archive.name).symlink_to(archive)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def fake_digits(monkeypatch):
    """60,000 black images, which are loaded in no time."""
    images, labels = torch.zeros(60_000, 1, 1, dtype=torch.uint8), torch.zeros(60_000, dtype=torch.int64)

    def dataset(root, download=False):
        assert (root, download) == ("data", True)
        return type("Fake", (), {"data": images, "targets": labels})

    monkeypatch.setattr(torchvision.datasets, "MNIST", dataset)


def test_main_reads_most_digits(digits, capsys, monkeypatch):
    plans = []
    fit = walk.fit
    monkeypatch.setattr(walk, "fit", lambda *args: plans.append(args) or fit(*args))
    walk.main()
    assert capsys.readouterr().out == PRINTED
    ((epochs, model, optimizer, train, valid),) = plans
    assert epochs == 1
    assert type(model) is nn.Linear
    assert (model.in_features, model.out_features) == (784, 10)
    assert {p.device.type for p in model.parameters()} == {DEVICE.type}
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert len(train.dataset) == 50_000
    assert train.batch_size == 64
    assert isinstance(train.sampler, torch.utils.data.RandomSampler)
    assert [(tuple(x.shape), tuple(y.shape)) for x, y in valid] == [((10_000, 784), (10_000,))]


def test_main_computes_on_the_accelerator(fake_digits, monkeypatch):
    plans = []
    asked = {"check_available": True}
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **how: how == asked and torch.device("meta"))
    monkeypatch.setattr(walk, "fit", lambda *args: plans.append(args) or [(0.0, 1.0)])
    walk.main()
    ((_, model, _, train, valid),) = plans
    tensors = [*model.parameters(), *train.dataset.tensors, *valid[0]]
    assert [t.device.type for t in tensors] == ["meta"] * 6


@pytest.mark.parametrize(("loss", "accuracy", "low", "high"), [
    (0.69, 0.81, True, True), (0.7, 0.81, False, True), (0.69, 0.8, True, False),
])
def test_main_tells_a_bad_run_from_a_good_one(fake_digits, capsys, monkeypatch, loss, accuracy, low, high):
    monkeypatch.setattr(walk, "fit", lambda *args: [(loss, accuracy)])
    walk.main()
    assert capsys.readouterr().out == f"loss below 0.7: {low}, accuracy above 0.8: {high}\n"


@pytest.mark.filterwarnings("ignore:.*found in sys.modules.*:RuntimeWarning")
def test_module_runs_as_a_script(digits, capsys):
    runpy.run_module("snippets.training.mnist_refactored", run_name="__main__")
    assert capsys.readouterr().out == PRINTED
