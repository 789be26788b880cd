"""Proofs for snippets/training/loop.py: closed forms, hand-written loops, and the program run on the real digits."""

import ast
import contextlib
import copy
import inspect
import io
import math
import os
import re
import runpy
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import lr_scheduler, swa_utils
from torch.overrides import TorchFunctionMode
from torch.utils import data

from snippets.training import loop
from snippets.training.checkpoints import Checkpoints
from snippets.training.loop import Metrics, Progress, evaluate, fit, main, network, train_step

ROOT = Path(__file__).resolve().parents[2]
DEVICE = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
SEEDS = st.integers(0, 10**6)
fast = settings(max_examples=25, deadline=None, derandomize=True)
pytestmark = pytest.mark.usefixtures("one_thread")


def message(text):
    """A pattern for exactly this message."""
    return f"^{re.escape(text)}$"


def problem(seed, n=12, classes=4, dtype=torch.float64):
    """Inputs (n, 3) and labels (n,) on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, generator=generator, dtype=dtype), torch.randint(classes, (n,), generator=generator)


def linear(seed=0, classes=4, dtype=torch.float64):
    torch.manual_seed(seed)
    return nn.Linear(3, classes, dtype=dtype)


def sgd(model, lr=0.1):
    return torch.optim.SGD(model.parameters(), lr=lr)


def loader(x, y, size, shuffle=False):
    return data.DataLoader(data.TensorDataset(x, y), size, shuffle=shuffle)


def same(a, b):
    """Whether two states are equal bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Recorder(nn.Module):
    """Notes the modes that it is called in."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 4))
        self.calls = []

    def forward(self, x):
        self.calls.append((self.training, torch.is_grad_enabled(), torch.is_inference_mode_enabled()))
        return x @ self.weight


class Reads(TorchFunctionMode):
    """Counts what hands a value to Python."""

    count = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.count += func.__name__ in {"item", "tolist", "__bool__", "__float__", "__int__", "__index__"}
        return func(*args, **(kwargs or {}))


# network


def test_network_has_the_shapes_of_the_page():
    model, shapes = network(), []
    h = torch.zeros(2, 1, 28, 28)
    for layer in model:
        h = layer(h)
        shapes.append((type(layer), tuple(h.shape)))
    assert shapes == [
        (nn.Conv2d, (2, 10, 24, 24)), (nn.ReLU, (2, 10, 24, 24)), (nn.Conv2d, (2, 20, 20, 20)),
        (nn.ReLU, (2, 20, 20, 20)), (nn.Flatten, (2, 8000)), (nn.Linear, (2, 200)), (nn.ReLU, (2, 200)), (nn.Linear, (2, 10)),
    ]
    assert sum(p.numel() for p in model.parameters()) == 1_607_490
    assert all(p.requires_grad for p in model.parameters())


def test_network_starts_near_the_logarithm_of_ten():
    torch.manual_seed(0)
    assert cross_entropy(network()(torch.rand(64, 1, 28, 28)), torch.arange(64) % 10).item() == pytest.approx(math.log(10), abs=0.1)


# Metrics


@fast
@given(seed=SEEDS, sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6), classes=st.integers(1, 5),
       dtype=st.sampled_from([torch.float32, torch.float64]))
def test_metrics_are_means_over_samples_whatever_the_batches(seed, sizes, classes, dtype):
    torch.manual_seed(seed)
    logits, y = torch.randn(sum(sizes), classes, dtype=dtype), torch.randint(classes, (sum(sizes),))
    metrics = Metrics()
    for z, labels in zip(logits.to(DEVICE).split(sizes), y.to(DEVICE).split(sizes), strict=True):
        metrics.add(cross_entropy(z, labels), z, labels)
    loss, accuracy = metrics.result()
    assert loss == pytest.approx(cross_entropy(logits.double(), y).item(), rel=1e-5, abs=1e-6)
    assert accuracy == pytest.approx((logits.argmax(dim=1) == y).double().mean().item(), rel=1e-6)


def test_metrics_by_hand():
    metrics = Metrics()
    metrics.add(torch.tensor(1.0), torch.tensor([[2.0, 1.0], [0.0, 3.0], [5.0, 4.0]]), torch.tensor([0, 1, 1]))
    metrics.add(torch.tensor(3.0), torch.tensor([[0.0, 1.0]]), torch.tensor([1]))
    assert metrics.result() == [1.5, 0.75]  # the mean of the batch means would be 2 and 5/6
    assert [type(value) for value in metrics.result()] == [float, float]


def test_metrics_count_in_float32_when_the_loss_is_bfloat16():
    metrics, y = Metrics(), torch.zeros(257, dtype=torch.int64)
    metrics.add(torch.tensor(1.0, dtype=torch.bfloat16), torch.eye(1).expand(257, 1), y)
    metrics.add(torch.tensor(1.0, dtype=torch.bfloat16), torch.eye(1).expand(257, 1), y)
    assert metrics.sums.dtype == torch.float32
    assert metrics.sums.tolist() == [514, 514]  # bfloat16 has no 257


def test_metrics_read_once_and_keep_no_graph():
    metrics = Metrics()
    logits = torch.randn(6, 3, requires_grad=True)
    y = torch.arange(6) % 3
    with Reads() as reads:
        for _ in range(5):
            metrics.add(cross_entropy(logits, y), logits, y)
    assert reads.count == 0
    assert not metrics.sums.requires_grad
    with Reads() as reads:
        metrics.result()
    assert reads.count == 1


def test_metrics_stay_on_the_device():
    metrics = Metrics()
    metrics.add(torch.tensor(1.0, device=DEVICE), torch.zeros(2, 3, device=DEVICE), torch.zeros(2, device=DEVICE, dtype=torch.int64))
    assert metrics.sums.device.type == DEVICE.type


@pytest.mark.parametrize(
    ("loss", "logits", "y"),
    [((1,), (4, 3), (4,)), ((4,), (4, 3), (4,)), ((), (4,), (4,)), ((), (4, 3, 2), (4,)), ((), (4, 3), (4, 1)),
     ((), (4, 3), (3,)), ((), (4, 3), (1,)), ((), (4, 3), ())],
)
def test_metrics_refuse_shapes_that_would_broadcast(loss, logits, y):
    metrics = Metrics()
    with pytest.raises(ValueError, match=message(f"expected (), (n, k) and (n,), got {[loss, logits, y]}")):
        metrics.add(torch.zeros(loss), torch.zeros(logits), torch.zeros(y))
    assert metrics.count == 0


def test_metrics_of_nothing_are_no_number():
    with pytest.raises(ZeroDivisionError):
        Metrics().result()


# train_step


@fast
@given(seed=SEEDS, n=st.integers(1, 9), classes=st.integers(2, 5), lr=st.sampled_from([0.01, 0.5]))
def test_train_step_follows_the_analytic_gradient(seed, n, classes, lr):
    model = linear(seed, classes)
    x, y = problem(seed, n, classes)
    weight, bias = model.weight.detach().clone(), model.bias.detach().clone()
    z = x @ weight.T + bias
    error = (z.softmax(dim=1) - nn.functional.one_hot(y, classes)) / n
    loss, logits = train_step(model, cross_entropy, sgd(model, lr), x, y)
    torch.testing.assert_close(logits, z)
    torch.testing.assert_close(loss, cross_entropy(z, y))
    torch.testing.assert_close(model.weight.detach(), weight - lr * error.T @ x)
    torch.testing.assert_close(model.bias.detach(), bias - lr * error.sum(dim=0))


def test_train_step_forgets_older_gradients_and_gives_tensors_without_graph():
    x, y = problem(1)
    model, fresh = linear(), linear()
    for p in model.parameters():
        p.grad = torch.full_like(p, 1e6)
    for net in model, fresh:
        loss, logits = train_step(net, cross_entropy, sgd(net), x, y)
        assert loss.shape == ()
        assert not loss.requires_grad
        assert not logits.requires_grad
    assert same(model.state_dict(), fresh.state_dict())


def test_train_step_runs_in_training_mode_and_reads_nothing():
    model = Recorder().eval()
    optimizer = sgd(model)
    with Reads() as reads:
        train_step(model, cross_entropy, optimizer, torch.ones(2, 3), torch.tensor([0, 1]))
    assert model.calls == [(True, True, False)]
    assert reads.count == 0


def test_one_batch_is_memorized():
    x, y = problem(2, 8, dtype=torch.float32)
    model = nn.Sequential(nn.Linear(3, 64), nn.ReLU(), nn.Linear(64, 4))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = [train_step(model, cross_entropy, optimizer, x, y)[0].item() for _ in range(400)]
    assert losses[-1] < 0.05 < losses[0]


# evaluate


@fast
@given(seed=SEEDS, n=st.integers(1, 30), size=st.integers(1, 12))
def test_evaluate_is_one_pass_over_all(seed, n, size):
    model = linear(seed)
    x, y = problem(seed, n)
    loss, accuracy = evaluate(model, cross_entropy, loader(x, y, size))
    with torch.no_grad():
        assert loss == pytest.approx(cross_entropy(model(x), y).item(), rel=1e-5)
        assert accuracy == pytest.approx((model(x).argmax(dim=1) == y).double().mean().item())


def test_evaluate_runs_in_eval_and_inference_mode_and_changes_nothing():
    model = Recorder()
    before = copy.deepcopy(model.state_dict())
    evaluate(model, cross_entropy, [(torch.ones(2, 3), torch.tensor([0, 1]))] * 3)
    assert model.calls == [(False, False, True)] * 3
    assert not model.training
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
    assert same(before, model.state_dict())
    assert model.weight.grad is None


def test_evaluate_uses_the_loss_it_is_given():
    model = linear()
    x, y = problem(3)
    smooth = nn.CrossEntropyLoss(label_smoothing=0.3)
    assert evaluate(model, smooth, loader(x, y, 5))[0] == pytest.approx(smooth(model(x), y).item(), rel=1e-6)


# fit


def by_hand(model, train, valid, optimizer, epochs, schedule=None):
    """The same loop, written out, with float64 sums on the host."""
    rows = []
    for _ in range(epochs):
        loss_sum = right = count = 0
        model.train()
        for x, y in train:
            optimizer.zero_grad()
            logits = model(x)
            loss = cross_entropy(logits, y)
            loss.backward()
            optimizer.step()
            if schedule:
                schedule.step()
            loss_sum, right, count = loss_sum + loss.item() * len(y), right + (logits.argmax(1) == y).sum().item(), count + len(y)
        model.eval()
        x, y = map(torch.cat, zip(*valid, strict=True))
        with torch.no_grad():
            rows.append([loss_sum / count, right / count, cross_entropy(model(x), y).item(), (model(x).argmax(1) == y).double().mean().item()])
    return rows


@pytest.mark.parametrize("scheduled", [False, True])
def test_fit_is_the_loop_written_out(scheduled):
    x, y = problem(4, 20)
    results = []
    for written_out in True, False:
        model = nn.Sequential(linear(7), nn.Dropout(0.3))
        optimizer = sgd(model, 0.5)
        schedule = lr_scheduler.ExponentialLR(optimizer, 0.8) if scheduled else None
        torch.manual_seed(3)
        train = loader(x, y, 6, shuffle=True)
        if written_out:
            rows = by_hand(model, train, loader(x, y, 8), optimizer, 3, schedule)
        else:
            history = fit(model, train, loader(x, y, 8), cross_entropy, optimizer, 3, schedule)
            rows = [[*now.train, *now.valid] for now in history]
        results.append((rows, model.state_dict(), optimizer.param_groups[0]["lr"]))
    (expected, weights, lr), (found, others, other_lr) = results
    assert same(weights, others)
    assert lr == other_lr == pytest.approx(0.5 * 0.8 ** (12 if scheduled else 0))
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=1e-5, atol=1e-6)


def small_fit(epochs, **options):
    model = linear()
    batches = loader(*problem(5), 5)
    return fit(model, batches, batches, cross_entropy, sgd(model), epochs, **options)


def test_fit_returns_what_the_callbacks_saw():
    seen, order = [], []
    history = small_fit(3, callbacks=[lambda now: order.append("first") or seen.append(now), lambda now: order.append("second")])
    assert [now.epoch for now in history] == [1, 2, 3]
    assert all(a is b for a, b in zip(seen, history, strict=True))
    assert order == ["first", "second"] * 3
    assert isinstance(history[0], Progress)
    assert history[2].train[0] < history[0].train[0]


def test_true_stops_and_every_callback_is_called_before():
    calls = []
    history = small_fit(9, callbacks=[lambda now: now.epoch == 2, lambda now: calls.append(now.epoch)])
    assert len(history) == 2
    assert calls == [1, 2]


@pytest.mark.parametrize("answer", [None, False])
def test_other_answers_do_not_stop(answer):
    assert len(small_fit(3, callbacks=[lambda now: answer])) == 3


@pytest.mark.parametrize(("epochs", "done", "expected"), [(3, 0, [1, 2, 3]), (3, 2, [3]), (3, 3, []), (3, 5, []), (0, 0, [])])
def test_fit_counts_the_epochs_that_are_done(epochs, done, expected):
    assert [now.epoch for now in small_fit(epochs, done=done)] == expected


def test_fit_steps_the_schedule_once_a_batch_after_the_optimizer():
    model = linear()
    optimizer, calls = sgd(model), []
    optimizer.register_step_post_hook(lambda *_: calls.append("optimizer"))

    class Schedule:
        def step(self):
            calls.append("schedule")

        def __len__(self):  # a schedule may be falsy
            return 0

    batches = loader(*problem(5), 5)
    fit(model, batches, batches, cross_entropy, optimizer, 2, Schedule())
    assert calls == ["optimizer", "schedule"] * 6


def test_fit_asks_for_one_iterator_an_epoch():
    class Counted(list):
        iterators = 0

        def __iter__(self):
            self.iterators += 1
            return super().__iter__()

    model, batches = linear(), Counted(loader(*problem(5), 5))
    fit(model, batches, list(batches), cross_entropy, sgd(model), 2)
    assert batches.iterators == 3


def test_fit_has_the_defaults_of_the_page():
    parameters = inspect.signature(fit).parameters
    assert {name: p.default for name, p in parameters.items() if p.default is not p.empty} == {"schedule": None, "callbacks": (), "done": 0}


def test_the_bar_is_drawn_on_a_terminal_only(monkeypatch):
    for terminal in False, True:
        stream = io.StringIO()
        stream.isatty = lambda terminal=terminal: terminal
        monkeypatch.setattr(sys, "stderr", stream)
        small_fit(2)
        text = stream.getvalue()
        assert ("epoch 1:" in text and "epoch 2:" in text and "/3" in text) == terminal
        assert terminal or text == ""
        assert "\n" not in text  # each bar is cleared


# what the page defines itself, taken out of its text


@pytest.fixture(scope="module")
def page():
    """The definitions of the page, by name, without running its other lines."""
    root = next(folder for folder in (ROOT, *ROOT.parents) if (folder / "docs/training/loop.md").is_file())
    text = (root / "docs/training/loop.md").read_text(encoding="utf-8")
    names = vars(loop) | {"math": math, "deepcopy": copy.deepcopy, "TorchFunctionMode": TorchFunctionMode}
    for code in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        lines = [line for line in code.splitlines() if not line.startswith("--8<--")]
        body = ast.parse("\n".join(lines)).body
        definitions = [node for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
        exec(compile(ast.Module(definitions, []), "<page>", "exec"), names)
    return names


@fast
@given(losses=st.lists(st.sampled_from([1.0, 2.0, 3.0, math.nan]), min_size=1, max_size=12), patience=st.integers(1, 4))
def test_early_stopping_stops_after_its_patience_and_restores_the_best(page, losses, patience):
    model = nn.Linear(1, 1)
    stopping = page["EarlyStopping"](model, patience)
    best, best_epoch = math.inf, 0
    for epoch, loss in enumerate(losses, 1):
        nn.init.constant_(model.weight, epoch)
        if loss < best:
            best, best_epoch = loss, epoch
        stop = stopping(Progress(epoch, [0.0, 0.0], [loss, 0.0]))
        assert stop == (epoch - best_epoch >= patience)
        if stop:
            break
    if best_epoch:
        stopping.restore()
        assert model.weight.item() == best_epoch


@fast
@given(seed=SEEDS, sizes=st.lists(st.integers(1, 8), min_size=1, max_size=5))
def test_accumulation_equals_the_large_batch_whatever_the_parts(page, seed, sizes):
    x, y = problem(seed, sum(sizes))
    large, parts = linear(seed), linear(seed)
    optimizers = [torch.optim.SGD(net.parameters(), 0.3, momentum=0.9) for net in (large, parts)]
    for _ in range(3):
        train_step(large, cross_entropy, optimizers[0], x, y)
        page["accumulate_step"](parts, cross_entropy, optimizers[1], page["split"](x, y, sizes))
        torch.testing.assert_close(parts.weight.grad, large.weight.grad)
    torch.testing.assert_close(parts.state_dict(), large.state_dict())


def rates(make, steps):
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.7)
    schedule, used = make(optimizer), []
    for _ in range(steps):
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return used


@fast
@given(warmup=st.integers(0, 20), rest=st.integers(1, 60))
def test_warmup_and_cosine_follow_their_formulas(page, warmup, rest):
    total = warmup + rest
    used = rates(lambda o: lr_scheduler.LambdaLR(o, page["warmup_cosine"](warmup, total)), total)
    closed = [0.7 * (t + 1) / (warmup + 1) for t in range(warmup)]
    closed += [0.7 * math.cos(math.pi * t / rest / 2) ** 2 for t in range(rest)]
    assert used == pytest.approx(closed)
    assert page["warmup_cosine"](warmup, total)(total) == pytest.approx(0)
    if warmup:
        parts = rates(lambda o: lr_scheduler.SequentialLR(o, [
            lr_scheduler.LinearLR(o, 1 / (warmup + 1), total_iters=warmup), lr_scheduler.CosineAnnealingLR(o, rest)], [warmup]), total)
        assert used == pytest.approx(parts)


@fast
@given(total=st.integers(10, 80))
def test_one_cycle_is_two_half_cosines(total):
    used = rates(lambda o: lr_scheduler.OneCycleLR(o, 0.7, total_steps=total), total)
    top, last = 0.3 * total - 1, total - 1

    def anneal(start, end, share):
        return end + (start - end) / 2 * (1 + math.cos(math.pi * share))

    closed = [anneal(0.7 / 25, 0.7, t / top) if t <= top else anneal(0.7, 0.7 / 25e4, (t - top) / (last - top)) for t in range(total)]
    assert used == pytest.approx(closed)


def test_decay_groups_hold_each_trained_parameter_once(page):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3), nn.LayerNorm(3))
    model[3].bias.requires_grad_(False)
    decayed, spared = page["decay_groups"](model, 0.2)
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.2, 0.0)
    names = {p: name for name, p in model.named_parameters()}
    assert [names[p] for p in decayed["params"]] == ["0.weight", "3.weight"]
    assert [names[p] for p in spared["params"]] == ["0.bias", "1.weight", "1.bias", "4.weight", "4.bias"]


def test_the_page_counts_reads_as_this_test_does(page):
    tensor = torch.ones(2)
    with page["CountReads"]() as reads:
        tensor.sum().item(), tensor.tolist(), bool(tensor.any()), float(tensor[0]), tensor + 1
    assert reads.count == 4


# claims of the page about the library


@pytest.mark.parametrize("decay", [0.5, 0.99])
def test_averaged_weights_follow_the_formula(decay):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double()
    average = swa_utils.AveragedModel(model, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(decay), use_buffers=True)
    expected = None
    for _ in range(5):
        with torch.no_grad():
            for p in model.parameters():
                p += torch.randn_like(p)
        model(torch.randn(6, 3, dtype=torch.float64))
        now = {name: value.clone() for name, value in model.state_dict().items() if value.is_floating_point()}
        expected = now if expected is None else {name: decay * expected[name] + (1 - decay) * now[name] for name in now}
        average.update_parameters(model)
    found = average.module.state_dict()
    torch.testing.assert_close({name: found[name] for name in expected}, expected)


@pytest.mark.parametrize(("bar", "starts"), [(loop.tqdm, 2), (lambda rows, **_: loop.tqdm(iter(rows), disable=True), 1)])
def test_a_bar_around_a_loader_asks_for_one_iterator_more(monkeypatch, bar, starts):
    started = []
    kind = data.dataloader._MultiProcessingDataLoaderIter
    monkeypatch.setattr(data.dataloader, "_MultiProcessingDataLoaderIter", lambda loader: started.append(1) or kind(loader))
    rows = data.DataLoader(range(3), None, num_workers=1, multiprocessing_context="fork")
    assert list(bar(rows, disable=True)) == [0, 1, 2]
    assert len(started) == starts


class Noise(data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return torch.rand(())


def test_the_number_of_workers_changes_the_random_stream():
    drawn = []
    for workers in 0, 0, 1:
        torch.manual_seed(0)
        context = "fork" if workers else None
        drawn.append(torch.cat(list(data.DataLoader(Noise(), num_workers=workers, multiprocessing_context=context))))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.isclose(drawn[0], drawn[2]).any()


# the program


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A folder with the real data set, unpacked once, and the data set."""
    folder = tmp_path_factory.mktemp("digits")
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for archive in (ROOT / "data" / "MNIST" / "raw").glob("*.gz"):
        (raw / archive.name).symlink_to(archive)
    return folder, torchvision.datasets.MNIST(folder, download=True)


@pytest.fixture
def run(digits, tmp_path, monkeypatch):
    """Run the program on few images, in an empty folder. The data set is read only once."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torchvision.datasets, "MNIST", lambda folder, download: digits[1])

    def call(*options, images=60):
        main(["--images", str(images), "--batch-size", "16", *map(str, options)])

    return call


@pytest.fixture(scope="module")
def whole(digits, tmp_path_factory):
    """What is printed and kept when two epochs run at once; the folder."""
    folder, out = tmp_path_factory.mktemp("whole"), io.StringIO()
    with contextlib.redirect_stdout(out):
        main(["--data", str(digits[0]), "--images", "60", "--batch-size", "16", "--epochs", "2", "--folder", str(folder)])
    return out.getvalue().splitlines(), Checkpoints(folder).latest()[1], folder


LINE = re.compile(r"epoch (\d+): loss (\d\.\d{4}), (\d+\.\d\d)% right; validation (\d\.\d{4}), (\d+\.\d\d)% right")


def refused(capsys, call, *options):
    """The message of a refusal, after the usage."""
    with pytest.raises(SystemExit) as caught:
        call(*options)
    assert caught.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    usage, _, text = printed.err.rpartition("python -m snippets.training.loop: error: ")
    assert usage.startswith("usage: python -m snippets.training.loop [-h] [--epochs EPOCHS]")
    return text


def test_main_trains_as_a_loop_written_out_would(run, capsys, digits):
    run("--epochs", 2, "--seed", 5, "--lr", 0.002, "--folder", "kept")
    mnist = digits[1]
    x, y = mnist.data.unsqueeze(1).to(DEVICE) / 255, mnist.targets.to(DEVICE)
    torch.manual_seed(5)
    model = network().to(DEVICE)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.002)
    order = data.RandomSampler(range(60))
    train = data.DataLoader(data.TensorDataset(x[:60], y[:60]), None, sampler=data.BatchSampler(order, 16, False))
    rows = by_hand(model, train, loader(x[50_000:50_012], y[50_000:50_012], 20), optimizer, 2)
    step, state = Checkpoints("kept").latest()
    assert step == 2
    assert same(state["run"]["model"], {name: value.cpu() for name, value in model.state_dict().items()})
    assert state["settings"] == {"batch_size": 16, "lr": 0.002, "seed": 5, "images": 60}
    torch.testing.assert_close(torch.tensor(state["history"]), torch.tensor([[i + 1, *row] for i, row in enumerate(rows)]), rtol=1e-4, atol=1e-5)
    out, err = capsys.readouterr()
    lines = [LINE.fullmatch(line).groups() for line in out.splitlines()]
    for (epoch, *found), row in zip(lines, state["history"], strict=True):
        assert int(epoch) == row[0]
        assert [float(value) for value in found] == pytest.approx([row[1], 100 * row[2], row[3], 100 * row[4]], abs=6e-3)
    assert err == ""  # no bar without a terminal


def test_two_epochs_are_one_and_a_resume_of_one(run, capsys, whole):
    lines, a, _ = whole
    run("--folder", "parts")
    first = capsys.readouterr().out.splitlines()
    torch.rand(7)  # the generator is elsewhere
    run("--epochs", 2, "--folder", "parts")
    second = capsys.readouterr().out.splitlines()
    assert first + second == [lines[0], "resumed from parts after epoch 1", lines[1]]
    step, b = Checkpoints("parts").latest()
    assert step == 2
    assert same(a["run"]["model"], b["run"]["model"])
    assert a["history"] == b["history"]
    for index, values in a["run"]["optimizer"]["state"].items():
        assert same(values, b["run"]["optimizer"]["state"][index])
    assert torch.equal(a["run"]["rng"]["torch"], b["run"]["rng"]["torch"])
    run("--epochs", 2, "--folder", "parts")
    assert capsys.readouterr().out == "resumed from parts after epoch 2\n"


@pytest.mark.parametrize("folder", ["kept", None])
def test_ctrl_c_keeps_the_last_whole_epoch(run, capsys, monkeypatch, folder, whole):
    where = ["--folder", folder] if folder else []
    calls = []

    def interrupted(*args):
        calls.append(1)
        if len(calls) == 6:  # in the second epoch of four steps
            signal.raise_signal(signal.SIGINT)
        return train_step(*args)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", interrupted)
        with pytest.raises(SystemExit) as caught:
            run("--epochs", 2, *where)
    assert caught.value.code == 130
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 1
    way = "the same command goes on from kept" if folder else "nothing is kept without --folder"
    assert err == f"stopped after epoch 1: {way}\n"
    if folder:
        run("--epochs", 2, *where)
        assert same(Checkpoints("kept").latest()[1]["run"]["model"], whole[1]["run"]["model"])
    else:
        assert os.listdir() == []


@pytest.mark.parametrize(("name", "start"), [("curves.svg", b"<?xml"), ("curves.png", b"\x89PNG")])
def test_plot_draws_every_epoch_also_those_before_a_resume(run, name, start, monkeypatch, whole):
    drawn = []
    save = loop.plt.Figure.savefig
    monkeypatch.setattr(loop.plt.Figure, "savefig", lambda figure, path: drawn.append(figure) or save(figure, path))
    run(images=5)
    assert drawn == []
    shutil.copytree(whole[2], "kept")
    run("--epochs", 3, "--folder", "kept", "--plot", name)
    assert Path(name).read_bytes().startswith(start)
    axes = drawn[-1].axes[0]
    history = Checkpoints("kept").latest()[1]["history"]
    lines = axes.get_lines()
    assert [list(line.get_xdata()) for line in lines] == [[1, 2, 3], [1, 2, 3]]
    assert [list(line.get_ydata()) for line in lines] == [[row[1] for row in history], [row[3] for row in history]]
    assert [line.get_marker() for line in lines] == ["o", "X"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "loss (nats per image)")
    assert [text.get_text() for text in drawn[-1].legends[0].get_texts()] == ["training, running", "validation"]
    assert drawn[-1].get_layout_engine() is not None
    assert loop.plt.get_fignums() == []


@pytest.mark.parametrize(
    ("option", "value", "text"),
    [
        ("--epochs", "0", "argument --epochs: expected 1 to 1000000, got 0"),
        ("--epochs", "1000001", "argument --epochs: expected 1 to 1000000, got 1000001"),
        ("--epochs", "two", "argument --epochs: invalid int value: 'two'"),
        ("--epochs", "1.5", "argument --epochs: invalid int value: '1.5'"),
        ("--batch-size", "0", "argument --batch-size: expected 1 to 50000, got 0"),
        ("--batch-size", "50001", "argument --batch-size: expected 1 to 50000, got 50001"),
        ("--lr", "0", "argument --lr: expected 1e-09 to 10, got 0.0"),
        ("--lr", "-1", "argument --lr: expected 1e-09 to 10, got -1.0"),
        ("--lr", "10.5", "argument --lr: expected 1e-09 to 10, got 10.5"),
        ("--lr", "nan", "argument --lr: expected 1e-09 to 10, got nan"),
        ("--lr", "fast", "argument --lr: invalid float value: 'fast'"),
        ("--images", "4", "argument --images: expected 5 to 50000, got 4"),
        ("--images", "50001", "argument --images: expected 5 to 50000, got 50001"),
        ("--seed", "x", "argument --seed: invalid int value: 'x'"),
    ],
)
def test_bad_values_are_refused(capsys, option, value, text):
    assert refused(capsys, main, [f"{option}={value}"]) == text + "\n"


def test_a_seed_too_large_for_torch_is_refused(run, capsys):
    assert "verflow" in refused(capsys, run, "--seed", 2**65)


@pytest.mark.parametrize("options", [("--epochs", 1), ("--lr", 10), ("--lr", 1e-9), ("--batch-size", 1)])
def test_the_ends_of_the_ranges_are_accepted(run, capsys, options):
    run(*options, images=5)
    assert LINE.pattern[:5] in capsys.readouterr().out


def test_the_largest_values_are_accepted(monkeypatch):
    seen = []

    def stop(*args, **options):
        seen.append((args, options))
        raise OSError("far enough")

    monkeypatch.setattr(torchvision.datasets, "MNIST", stop)
    for options in ["--epochs=1000000"], ["--batch-size=50000"], ["--images=50000"], []:
        with pytest.raises(SystemExit):
            main(options)
    assert seen == [(("data",), {"download": True})] * 4


@pytest.mark.parametrize("error", [OSError, RuntimeError])
def test_data_that_cannot_be_had_are_reported(capsys, monkeypatch, error):
    def fail(*args, **options):
        raise error("no data here")

    monkeypatch.setattr(torchvision.datasets, "MNIST", fail)
    assert refused(capsys, main, []) == "no data here\n"


def test_a_plot_that_cannot_be_written_is_refused_before_the_training(run, capsys, monkeypatch):
    monkeypatch.setattr(loop, "fit", None)  # would fail if it were called
    assert "No such file or directory: 'nowhere/curves.svg'" in refused(capsys, run, "--plot", "nowhere/curves.svg")
    assert "xyz" in refused(capsys, run, "--plot", "curves.xyz")


def test_other_files_in_the_folder_stay_as_they_are(run, capsys):
    folder = Path("kept")
    folder.mkdir()
    strange = {"notes.txt": b"mine", "step-1.pt": b"other", "model.pt": b"\x80"}
    for name, content in strange.items():
        (folder / name).write_bytes(content)
    run("--folder", "kept")
    assert LINE.fullmatch(capsys.readouterr().out.strip())
    assert {name: (folder / name).read_bytes() for name in strange} == strange
    assert len(list(folder.iterdir())) == 4


def test_a_checkpoint_of_other_settings_or_of_another_program_is_refused(run, capsys, whole):
    shutil.copytree(whole[2], "kept")
    before = sorted(path.name for path in Path("kept").iterdir())
    mine = {"batch_size": 16, "lr": 0.001, "seed": 0, "images": 60}
    text = refused(capsys, run, "--folder", "kept", "--lr", 0.01)
    assert text == f"argument --folder: expected checkpoints of {mine | {'lr': 0.01}}, got {mine}\n"
    assert sorted(path.name for path in Path("kept").iterdir()) == before
    Checkpoints("foreign").save(3, {"weights": torch.zeros(2)})
    assert refused(capsys, run, "--folder", "foreign") == f"argument --folder: expected checkpoints of {mine}, got None\n"


def test_a_damaged_checkpoint_is_passed_over_and_two_are_refused(run, capsys, whole):
    shutil.copytree(whole[2], "kept")
    first, second = sorted(Path("kept").iterdir())
    second.write_bytes(second.read_bytes()[:1000])
    with pytest.warns(UserWarning, match=second.name):
        run("--epochs", 2, "--folder", "kept")
    assert capsys.readouterr().out.splitlines() == ["resumed from kept after epoch 1", whole[0][1]]
    first, second = sorted(Path("kept").iterdir())  # the second was written anew
    for path in first, second:
        path.write_bytes(b"PK")
    with pytest.warns(UserWarning, match="passed over") as record:
        assert "no good checkpoint in kept" in refused(capsys, run, "--folder", "kept")
    assert [path.name in str(warning.message) for path, warning in zip((second, first), record, strict=True)] == [True, True]


def test_a_file_in_place_of_the_folder_is_refused(run, capsys):
    Path("kept").write_text("mine")
    assert "kept" in refused(capsys, run, "--folder", "kept")


HELP = """\
usage: python -m snippets.training.loop [-h] [--epochs EPOCHS] [--batch-size BATCH_SIZE] [--lr LR] [--seed SEED] \
[--images IMAGES] [--folder FOLDER] [--plot PLOT] [--data DATA]

Train a small network on MNIST.

options:
  -h, --help            show this help message and exit
  --epochs EPOCHS       passes over the images, those before a resume too (1)
  --batch-size BATCH_SIZE
                        images per step (64)
  --lr LR               learning rate of Adam (0.001)
  --seed SEED           of the first weights and the order of the images (0)
  --images IMAGES       to train on; a fifth as many validate (50000)
  --folder FOLDER       keep checkpoints there, and go on from the last one in it
  --plot PLOT           draw the learning curves into this file, curves.svg or curves.png for example
  --data DATA           folder of the data set, downloaded if it is not there (data)
"""


def test_help_names_every_option_and_its_default(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == HELP


def test_the_defaults_are_those_of_the_help(monkeypatch, digits, tmp_path):
    seen = {}

    def note(model, train, valid, loss_fn, optimizer, epochs, callbacks, done):
        seen.update(images=len(train.sampler.sampler), batch=train.sampler.batch_size, lr=optimizer.param_groups[0]["lr"],
                    others=(valid.sampler.sampler, valid.sampler.batch_size), epochs=epochs, done=done, loss=loss_fn,
                    seed=torch.initial_seed(), drop=(train.sampler.drop_last, valid.sampler.drop_last))

    monkeypatch.setattr(loop, "fit", note)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(digits[0])
    main([])
    assert seen == {"images": 50_000, "batch": 64, "lr": 1e-3, "others": (range(50_000, 60_000), 1000), "epochs": 1, "done": 0,
                    "loss": cross_entropy, "seed": 0, "drop": (False, False)}


@pytest.mark.filterwarnings("ignore:.*found in sys.modules.*:RuntimeWarning")
def test_module_runs_as_a_script(capsys, monkeypatch, digits, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["loop", "--images", "60", "--data", str(digits[0])])
    runpy.run_module("snippets.training.loop", run_name="__main__")
    assert LINE.fullmatch(capsys.readouterr().out.strip())
