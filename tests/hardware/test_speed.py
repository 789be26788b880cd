"""Proofs for snippets/hardware/speed.py: torch.optim, autograd and loops by hand as oracles."""

import copy
import os
import runpy
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision import datasets

from snippets.hardware import speed
from snippets.hardware.measure import Quartiles, Ratio, gap
from snippets.hardware.speed import (
    by_hand,
    eager,
    epoch,
    loss_of,
    main,
    remedies,
    update_of,
    ways,
    whole,
)
from snippets.training.data_loading import shuffled
from snippets.training.mnist_refactored import sequential

ROOT = Path(__file__).parents[2]
COMMON = [
    "DataLoader", "__getitems__", "index_select", "foreach SGD", "fused SGD", "set_to_none=False", "channels last",
]
SLOW = ["bf16", "bf16, channels last", "compiled step", "compiled step, bf16"]
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def data(rows: int, seed: int = 0):
    """Pixels (rows, 784) and labels (rows,)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(rows, 784, generator=generator), torch.randint(10, (rows,), generator=generator)


def linear() -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(784, 10)


def convnet() -> nn.Module:
    torch.manual_seed(1)
    return sequential()


def reference(model, batches, lr, momentum=0.0):
    """SGD by its definition, in float64; gradients by autograd."""
    model = copy.deepcopy(model).double()
    moments = [torch.zeros_like(p) for p in model.parameters()]
    for x, y in batches:
        slopes = torch.autograd.grad(F.cross_entropy(model(x.double()), y), list(model.parameters()))
        with torch.no_grad():
            for p, moment, slope in zip(model.parameters(), moments, slopes, strict=True):
                moment.mul_(momentum).add_(slope)
                p -= lr * moment
    return [p.detach().float() for p in model.parameters()]


def batches_of(x, y, size):
    return list(zip(x.split(size), y.split(size), strict=True))


# the loss


def test_loss_is_the_mean_cross_entropy():
    x, y = data(6)
    model = linear()
    torch.testing.assert_close(loss_of(model, x, y, False), F.cross_entropy(model(x), y))


def test_bf16_rounds_the_logits_and_no_more():
    x, y = data(6)
    seen = []

    def model(x):
        seen.append(x @ torch.ones(784, 10))
        return seen[-1]

    loss = loss_of(model, x, y, True)
    assert (seen[0].dtype, loss.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(loss, F.cross_entropy(seen[0].float(), y))


# steps


@pytest.mark.parametrize("model", [linear(), convnet()], ids=["linear", "convolutions"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_eager_and_whole_are_sgd_by_definition(model, momentum):
    x, y = data(24)
    batches = batches_of(x, y, 8)
    expected = reference(model, batches, 0.1, momentum)
    makers = {
        "eager": eager(model, 0.1, momentum=momentum),
        "whole": whole(model, 8, "eager", lr=0.1, momentum=momentum),
    }
    for make in makers.values():
        assert gap(epoch(lambda: batches, make)(), expected) < 1e-5
    several = epoch(lambda: [(x, y)], makers["whole"])
    assert gap(several(), expected) < 1e-5


def test_by_hand_is_sgd_by_definition_for_a_linear_classifier():
    x, y = data(21)
    model = linear()
    batches = batches_of(x, y, 8)
    assert gap(epoch(lambda: batches, by_hand(model, 0.3))(), reference(model, batches, 0.3)) < 1e-6


def makers_of(model):
    return {"eager": eager(model, 0.1), "whole": whole(model, 4, "eager", lr=0.1), "by hand": by_hand(model, 0.1)}


@pytest.mark.parametrize("name", ["eager", "whole", "by hand"])
def test_each_start_is_fresh_and_leaves_the_model_alone(name):
    model = linear()
    start = [p.detach().clone() for p in model.parameters()]
    make = makers_of(model)[name]
    run = epoch(lambda: batches_of(*data(8), 4), make)
    first, second = run(), run()
    assert gap(first, second) == 0
    assert gap(first, start) > 0
    assert gap(list(model.parameters()), start) == 0
    assert gap(make()[0], start) == 0


def test_eager_hands_options_to_sgd_and_keeps_gradients_only_if_asked(monkeypatch):
    made, zeroed = [], []

    class Spy(torch.optim.SGD):
        def __init__(self, parameters, lr, **options):
            made.append((lr, options))
            super().__init__(parameters, lr, **options)

        def zero_grad(self, set_to_none=True):
            zeroed.append(set_to_none)
            super().zero_grad(set_to_none)

    monkeypatch.setattr(torch.optim, "SGD", Spy)
    for options in {}, {"set_to_none": False}, {"nesterov": True, "momentum": 0.5}:
        _, step = eager(linear(), 0.2, **options)()
        step(*data(4))
    assert made == [(0.2, {}), (0.2, {}), (0.2, {"nesterov": True, "momentum": 0.5})]
    assert zeroed == [True, False, True]


def test_gradients_do_not_pile_up():
    x, y = data(8)
    model = linear()
    run = epoch(lambda: [(x, y)] * 3, eager(model, 0.1, set_to_none=False))
    assert gap(run(), reference(model, [(x, y)] * 3, 0.1)) < 1e-5


@pytest.mark.parametrize("make", [partial(eager, lr=0.1), partial(whole, size=8, backend="eager", lr=0.1)])
def test_bf16_changes_the_result_a_little(make):
    x, y = data(8)
    model = convnet()
    exact, rounded = (epoch(lambda: [(x, y)], make(model, bf16=bf16))() for bf16 in (False, True))
    assert 0 < gap(rounded, exact) < 0.01
    assert {p.dtype for p in rounded} == {torch.float32}


def test_update_needs_whole_steps_in_order_and_changes_in_place():
    x, y = data(12)
    model = linear()
    parameters = {name: p.detach().clone() for name, p in model.named_parameters()}
    kept = list(parameters.values())
    moments = {name: torch.zeros_like(p) for name, p in parameters.items()}
    assert update_of(model, 4, 0.1)(parameters, moments, x, y) is None
    assert gap(kept, reference(model, batches_of(x, y, 4), 0.1)) < 1e-5
    with pytest.raises(ValueError, match="zip"):
        update_of(model, 4, 0.1)(parameters, moments, x, y[:4])


def test_whole_compiles_one_graph_for_one_shape(monkeypatch):
    seen = []
    monkeypatch.setattr(torch, "compile", lambda function, **options: seen.append(options) or function)
    whole(linear(), 4, lr=0.1)
    whole(linear(), 4, "aot_eager", lr=0.1)
    assert seen == [
        {"fullgraph": True, "dynamic": False, "backend": "inductor"},
        {"fullgraph": True, "dynamic": False, "backend": "aot_eager"},
    ]


def test_epoch_takes_each_batch_once_in_order():
    seen, parameters = [], [torch.ones(1)]
    run = epoch(lambda: [(1, 2), (3, 4)], lambda: (parameters, lambda x, y: seen.append((x, y))))
    assert run() is parameters
    assert seen == [(1, 2), (3, 4)]


# ways


@pytest.fixture
def quick_compiler(monkeypatch):
    monkeypatch.setattr(speed, "whole", partial(whole, backend="eager"))


@pytest.mark.usefixtures("quick_compiler")
@pytest.mark.parametrize(
    ("model", "usual"),
    [(linear(), {"lr": 0.5}), (convnet(), {"lr": 0.05, "momentum": 0.9})], ids=["linear", "convolutions"],
)
def test_all_ways_train_alike(model, usual):
    x, y = data(53)
    result = {name: do() for name, do in ways(model, x, y, size=8, steps=3, **usual).items()}
    last = ["3 steps a graph"] + ["by hand"] * isinstance(model, nn.Linear)
    assert list(result) == COMMON + SLOW + last
    order = shuffled(48, 0)  # two graphs of three steps, five rows left over
    expected = reference(model, batches_of(x[:48][order], y[:48][order], 8), **usual)
    for name, parameters in result.items():
        assert gap(parameters, expected) < (0.02 if "bf16" in name else 1e-5), name
        assert (gap(parameters, result["DataLoader"]) > 1e-4) == ("bf16" in name), name


@pytest.fixture
def parts(monkeypatch):
    """What each way is made of: the feed, and how the step is made with which model and options."""
    monkeypatch.setattr(speed, "epoch", lambda feed, make: (feed, make))
    for name in "eager", "whole", "by_hand":
        monkeypatch.setattr(speed, name, lambda *args, name=name, **options: (name, args, options))
    return ways(convnet(), *data(128 * 11), lr=0.1, momentum=0.8)


def test_ways_are_what_they_are_called(parts):
    loop = {"lr": 0.1, "momentum": 0.8}
    made = {name: (kind, options) for name, (_, (kind, _, options)) in parts.items()}
    graph = ("whole", {"size": 64, **loop})
    assert made == {
        "DataLoader": ("eager", loop), "__getitems__": ("eager", loop), "index_select": ("eager", loop),
        "foreach SGD": ("eager", {**loop, "foreach": True}), "fused SGD": ("eager", {**loop, "fused": True}),
        "set_to_none=False": ("eager", {**loop, "set_to_none": False}), "channels last": ("eager", loop),
        "bf16": ("eager", {**loop, "bf16": True}), "bf16, channels last": ("eager", {**loop, "bf16": True}),
        "compiled step": graph, "compiled step, bf16": ("whole", {**graph[1], "bf16": True}), "11 steps a graph": graph,
    }
    last = {name for name, (_, (_, (model,), _)) in parts.items()
            if model[1].weight.is_contiguous(memory_format=torch.channels_last)
            and model[3].weight.is_contiguous(memory_format=torch.channels_last)}
    assert last == {"channels last", "bf16, channels last", "compiled step", "compiled step, bf16", "11 steps a graph"}


def test_feeds_hold_the_same_rows_in_the_same_order(parts):
    feeds = {name: feed for name, (feed, _) in parts.items()}
    x, y = data(128 * 11)
    order = shuffled(128 * 11, 0)
    for name, feed in feeds.items():
        batches = list(feed())
        assert {len(b) for _, b in batches} == ({704} if name == "11 steps a graph" else {64}), name
        assert torch.equal(torch.cat([a for a, _ in batches]), x[order]), name
        assert torch.equal(torch.cat([b for _, b in batches]), y[order]), name
    assert type(feeds["__getitems__"]().dataset) is speed.Gather
    assert type(feeds["DataLoader"]().dataset) is speed.TensorDataset
    assert {type(feeds[name]()) for name in list(feeds)[2:]} == {speed.Batches}


@pytest.mark.parametrize(("rows", "labels"), [(23, 23), (48, 24), (0, 0)])
def test_ways_refuse_too_few_rows(rows, labels):
    x, y = data(rows)[0], data(labels)[1]
    with pytest.raises(ValueError, match=rf"^expected as many rows as labels, 24 or more, got {rows} and {labels}$"):
        ways(linear(), x, y, size=8, steps=3, lr=0.1)


def test_as_many_rows_as_a_graph_takes_are_enough():
    assert ways(linear(), *data(24), size=8, steps=3, lr=0.1)


# remedies and the script


@pytest.fixture
def mnist(monkeypatch):
    """Twice 64 · 22 pictures of noise in place of MNIST."""
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(256, (2816, 28, 28), dtype=torch.uint8, generator=generator)
    found = SimpleNamespace(data=pictures, targets=torch.arange(2816) % 10)
    asked = []
    monkeypatch.setattr(datasets, "MNIST", lambda *args, **options: asked.append((args, options)) or found)
    yield found
    assert asked == [(("data",), {"download": True})]


@pytest.fixture
def compared(monkeypatch):
    """What was compared, for how many rounds, beside how many busy processes, with how many threads a way runs."""
    seen, beside = [], []

    def compare(choice, rounds):
        seen.append((choice, rounds, sum(beside)))
        return {name: rounds for name in choice}

    class Busy:
        def __init__(self, processes):
            self.processes = processes

        def __enter__(self):
            beside.append(self.processes)

        def __exit__(self, *error):
            beside.pop()

    monkeypatch.setattr(speed, "compare", compare)
    monkeypatch.setattr(speed, "busy", Busy)
    monkeypatch.setattr(speed, "with_threads", lambda count, do: (count, do))
    return seen


def test_remedies_compare_both_models_and_threads(mnist, compared):
    found = remedies(n=1500, rounds=3)
    names = {
        "linear classifier": [*COMMON, *SLOW, "11 steps a graph", "by hand"],
        "linear classifier, alone": ["two threads", "one thread"],
        "linear classifier, beside a busy process": ["two threads", "one thread"],
        "three convolutions": [*COMMON, *SLOW, "2 steps a graph"],
        "three convolutions, alone": ["two threads", "one thread"],
        "three convolutions, beside a busy process": ["two threads", "one thread"],
    }
    assert {group: list(rows) for group, rows in found.items()} == names
    assert list(found) == list(names)
    assert {rounds for _, rounds, _ in compared} == {3}
    assert [beside for *_, beside in compared] == [0, 0, 1, 0, 0, 1]
    for first in 0, 3:
        every = compared[first][0]
        for pair, _, _ in compared[first + 1 : first + 3]:
            assert pair == {"two threads": (2, every["index_select"]), "one thread": (1, every["index_select"])}


def test_remedies_in_short_leave_out_what_is_dear(mnist, compared):
    found = remedies(n=1500, full=False)
    assert {group: list(rows) for group, rows in found.items()} == {
        "linear classifier": [*COMMON, "by hand"], "three convolutions": COMMON}
    assert {rounds for _, rounds, _ in compared} == {9}


def test_remedies_train_on_the_first_n_pictures_with_the_usual_rates(mnist, compared, monkeypatch):
    asked = []
    monkeypatch.setattr(speed, "ways", lambda model, *args, **options: asked.append((model, args, options)) or {
        "index_select": None})
    remedies(n=1000)
    assert [options for *_, options in asked] == [{"lr": 0.5}, {"steps": 2, "lr": 0.05, "momentum": 0.9}]
    assert isinstance(asked[0][0], nn.Linear)
    assert asked[1][0](torch.zeros(1, 784)).shape == (1, 10)
    for _, (x, y), _ in asked:
        torch.testing.assert_close(x.cpu(), mnist.data[:1000].flatten(1) / 255)
        assert torch.equal(y.cpu(), mnist.targets[:1000])


def test_remedies_use_50000_images_and_forget_compiled_graphs(mnist, compared, monkeypatch):
    reset = []
    monkeypatch.setattr(torch.compiler, "reset", lambda: reset.append(1))
    monkeypatch.setattr(speed, "prepare", lambda pictures: pictures.flatten(1) / 255)
    mnist.data = mnist.data.expand(2816, 28, 28)
    remedies()
    assert reset == [1]
    assert remedies.__defaults__ == (50_000, 9, True)


def test_remedies_measure_for_real(tmp_path, monkeypatch):
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for archive in (ROOT / "data" / "MNIST" / "raw").glob("*.gz"):
        os.symlink(archive, raw / archive.name)
    monkeypatch.chdir(tmp_path)
    found = remedies(n=704, rounds=2, full=False)
    assert found["linear classifier"]["DataLoader"].cpu == (1.0, 1.0, 1.0)
    for rows in found.values():
        for ratio in rows.values():
            assert 0 < ratio.cpu.low <= ratio.cpu.median <= ratio.cpu.high


def test_main_prints_a_table_on_one_thread(monkeypatch, capsys):
    asked = []

    def fake(**options):
        asked.append((options, torch.get_num_threads()))
        return {"group": {"way": Ratio(Quartiles(1.25, 2.0, 3.0), Quartiles(3.0, 4.0, 5.0))}}

    monkeypatch.setattr(speed, "remedies", fake)
    monkeypatch.setattr(sys, "argv", ["speed"])
    torch.set_num_threads(2)
    main()
    assert asked == [({"n": 2816, "rounds": 5, "full": False}, 1)]
    assert capsys.readouterr().out == (
        "group: times as fast as the plain loop, by CPU time (quartiles) and by the wall clock\n"
        "  way                   2.00 (1.25-3.00)     4.00\n")


@pytest.fixture
def benchmark(monkeypatch):
    """Stands for the module that runs everything."""
    from snippets import hardware

    calls = []
    module = SimpleNamespace(main=lambda **options: calls.append(options))
    monkeypatch.setitem(sys.modules, "snippets.hardware.benchmark", module)
    monkeypatch.setattr(hardware, "benchmark", module, raising=False)
    return calls


def test_full_hands_over_to_the_benchmark(benchmark, capsys):
    main(["--full"])
    main(["--full", "--out", "file.json"])
    assert benchmark == [{"out": None}, {"out": "file.json"}]
    assert capsys.readouterr().out == ""


@pytest.mark.filterwarnings("ignore:.*found in sys.modules.*:RuntimeWarning")
def test_module_runs_as_a_script(benchmark, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["speed", "--full", "--out", "here"])
    runpy.run_module("snippets.hardware.speed", run_name="__main__")
    assert benchmark == [{"out": "here"}]


def test_options_are_explained(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    for words in ("remedies for a slow training loop", "the whole benchmark", "the JSON file to write"):
        assert words in text
