"""Proofs for snippets/hardware/benchmark.py: loops by hand, counting and arithmetic as oracles."""

import runpy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler, TensorDataset
from torchvision import datasets

from snippets.hardware import benchmark
from snippets.hardware.benchmark import (
    Loop,
    again,
    course,
    epochs,
    example,
    laps,
    limit,
    main,
    race,
    row,
    scores,
    shares,
)
from snippets.hardware.mnist_99 import LEFT_OUT, accuracy, crop, variant

pytestmark = pytest.mark.usefixtures("one_thread")


def data(rows: int = 200):
    """Bytes (rows, 28, 28) of noise and labels."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (rows, 28, 28), generator=generator, dtype=torch.uint8), torch.arange(rows) % 10


def small(feed, schedule=False) -> Loop:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Dropout(0.5))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return Loop(model, F.cross_entropy, optimizer, feed, StepLR(optimizer, 1, 0.5) if schedule else None)


def feed(batches: int = 5):
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(6, 1, 2, 2, generator=generator), torch.arange(6) % 3) for _ in range(batches)]


# the loops


def test_the_example_is_the_published_one():
    loop = example(TensorDataset(torch.zeros(130, 1, 28, 28), torch.zeros(130).long()))
    layers = [str(layer) for layer in loop.model]
    assert layers == [
        "Conv2d(1, 32, kernel_size=(3, 3), stride=(1, 1))", "ReLU()",
        "Conv2d(32, 64, kernel_size=(3, 3), stride=(1, 1))", "ReLU()",
        "MaxPool2d(kernel_size=2, stride=2, padding=0, dilation=1, ceil_mode=False)", "Dropout(p=0.25, inplace=False)",
        "Flatten(start_dim=1, end_dim=-1)", "Linear(in_features=9216, out_features=128, bias=True)", "ReLU()",
        "Dropout(p=0.5, inplace=False)", "Linear(in_features=128, out_features=10, bias=True)", "LogSoftmax(dim=1)",
    ]
    assert loop.loss_fn is F.nll_loss
    assert type(loop.optimizer) is torch.optim.Adadelta
    assert loop.optimizer.defaults["lr"] == 1.0
    assert (loop.schedule.step_size, loop.schedule.gamma) == (1, 0.7)
    assert loop.feed.batch_size == 64
    assert type(loop.feed.sampler) is SequentialSampler
    assert len(loop.feed) == 3


@pytest.mark.parametrize(
    ("deep", "weights", "kind", "settings"),
    [(False, 1_607_490, torch.optim.Adam, {"lr": 1e-3}), (True, 3_930, torch.optim.SGD, {"lr": 0.05, "momentum": 0.9})],
)
def test_the_loops_of_the_course(deep, weights, kind, settings):
    loop = course(torch.rand(130, 1, 28, 28), torch.zeros(130).long(), deep)
    assert sum(w.numel() for w in loop.model.parameters()) == weights
    assert type(loop.optimizer) is kind
    assert loop.optimizer.defaults.items() >= settings.items()
    assert loop.optimizer.param_groups[0]["params"] == list(loop.model.parameters())
    assert loop.loss_fn is F.cross_entropy
    assert loop.schedule is None
    assert (loop.feed.batch_size, len(loop.feed), type(loop.feed.sampler)) == (64, 3, RandomSampler)
    assert loop.model(torch.rand(2, 1, 28, 28)).shape == (2, 10)


# laps and epochs


@pytest.mark.parametrize(
    ("batches", "size", "marks"),
    [
        (5, 2, [False, False, True, False, False, True]),
        (4, 2, [False, True, False, True]),
        (3, 3, [True, True]),
        (2, 5, [True, True]),
        (3, 1, [False, False, True, False]),
    ],
)
def test_a_lap_ends_after_its_batches_and_with_the_epoch(batches, size, marks):
    turns = laps(small(feed(batches)), size)
    assert [next(turns) for _ in marks] == marks


def test_laps_train_as_a_plain_loop_does():
    loop, other = small(feed(), schedule=True), small(feed(), schedule=True)
    turns = laps(loop, 2)
    torch.manual_seed(3)
    for _ in range(6):  # two epochs
        next(turns)
        loop.model.eval()  # as a test would; the next epoch has to train again
    torch.manual_seed(3)
    for epoch in range(2):
        for number, (x, y) in enumerate(feed()):
            other.model.train(number < 2)  # evaluation above came after each lap
            other.optimizer.zero_grad()
            F.cross_entropy(other.model(x), y).backward()
            other.optimizer.step()
        other.schedule.step()
        assert other.optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 0.5 ** (epoch + 1))
    assert loop.optimizer.param_groups[0]["lr"] == pytest.approx(0.025)
    torch.testing.assert_close(loop.model[1].weight, other.model[1].weight)


def test_epochs_stop_at_the_first_that_reaches_the_goal(monkeypatch):
    found = iter([0.5, 0.9, 0.95, 0.97])
    seen = []
    monkeypatch.setattr(benchmark, "accuracy", lambda *args: seen.append(args) or next(found))
    loop, x, y = small(feed()), torch.zeros(1), torch.zeros(1)
    assert epochs(loop, x, y, 0.95, 10) == [0.5, 0.9, 0.95]
    assert all(args[0] is loop.model and args[1] is x and args[2] is y for args in seen)


def test_epochs_stop_after_the_most():
    assert len(epochs(small(feed()), torch.zeros(3, 1, 2, 2), torch.zeros(3), 2.0, 2)) == 2


def test_epochs_end_where_the_laps_do(monkeypatch):
    monkeypatch.setattr(benchmark, "laps", lambda loop, size: iter([]))
    assert epochs(small(feed()), torch.zeros(1), torch.zeros(1), 1.0, 1) is None


def test_an_epoch_is_scored_after_all_its_batches():
    loop, other = small(feed()), small(feed())
    torch.manual_seed(5)
    x, y = torch.randn(300, 1, 2, 2), torch.arange(300) % 3
    torch.manual_seed(3)
    (found,) = epochs(loop, x, y, 0.0, 5)
    torch.manual_seed(3)
    next(laps(other, 5))
    assert found == accuracy(other.model, x, y)


# seeds


def test_again_takes_the_next_seed_each_time():
    models = []
    for _ in range(3):
        again(models, *data(), steps=2)
    for seed, model in enumerate(models):
        torch.manual_seed(seed)
        expected = variant(*data(), steps=2)
        assert all(map(torch.equal, model.parameters(), expected.parameters()))


def test_scores_are_mean_and_lowest_with_the_border_of_the_variant():
    models = []
    for _ in range(2):
        again(models, *data(), steps=4, border=1)
    found = scores(models, *data(), border=1, fused=False)
    one, two = (accuracy(model, crop(data()[0], 1), data()[1]) for model in models)
    assert found == {"mean": pytest.approx((one + two) / 2), "lowest": min(one, two), "seeds": 2}
    assert one != two


# the tables


def test_a_row_holds_four_digits_of_each_quartile():
    made = row("name", ([1.0, 2.00004, 3.0], [4.0, 5.0, 6.12345]), 10, goal=0.9)
    assert made == {"name": "name", "cpu": [10.0, 20.0, 30.0], "wall": [40.0, 50.0, 61.23], "goal": 0.9}
    assert row("name", ([1.0], [2.0]))["cpu"] == [1.0]


@pytest.fixture
def fair(monkeypatch):
    """compare without a clock: the first way is 4 times as long as each other one; what was compared is kept."""
    seen = []

    def compared(ways, rounds):
        for way in ways.values():
            way()
        seen.append((list(ways), rounds))
        return {name: ([3.0, 4.0, 5.0], [1.0, 2.0, 4.0]) if number else ([1.0] * 3,) * 2
                for number, name in enumerate(ways)}

    monkeypatch.setattr(benchmark, "compare", compared)
    return seen


def test_race_multiplies_laps_by_batches_and_epochs(fair, monkeypatch):
    pictures, labels = data(640)
    monkeypatch.setattr(benchmark, "epochs", lambda loop, x, y, goal, most: {
        1_199_882: [0.97, 0.98, 0.985, 0.99], 1_607_490: [0.985, 0.987], 3_930: [0.9, 0.955],
    }[sum(w.numel() for w in loop.model.parameters())])
    loaded = TensorDataset(pictures[:, None] / 255, labels)
    steps = {0.955: 1, 0.98: 2, 0.99: 3}
    rows = list(race(loaded, (pictures, labels), (pictures, labels), steps, 9, 2, 5))
    assert [(r["name"], r["goal"], r["reached"]) for r in rows] == [
        ("three convolutions", 0.955, True), ("two convolutions", 0.98, True), ("two convolutions", 0.99, False),
        ("the widely used example", 0.98, True), ("the widely used example", 0.99, True),
    ]
    # ten batches are two laps of five; epochs that were needed: 2, 1, 2 (never), 2, 4
    assert [r["cpu"][1] for r in rows] == [4 * 2 * needed for needed in (2, 1, 2, 2, 4)]
    assert rows[0]["wall"] == [4, 8, 16]
    assert rows[3]["found"] == [0.97, 0.98, 0.985, 0.99]
    assert [r["seeds"] for r in rows] == [1] * 5
    assert fair == [(["lap", 0.955], 2), (["lap", 0.98, 0.99], 2), (["lap", 0.98, 0.99], 2)]


def test_race_tests_the_example_on_normalized_pictures(fair, monkeypatch):
    seen = []
    monkeypatch.setattr(benchmark, "epochs", lambda loop, x, y, goal, most: seen.append((x, y, goal, most)) or [1.0])
    monkeypatch.setattr(benchmark, "again", lambda models, *data, steps: models.append(nn.Flatten()))
    monkeypatch.setattr(benchmark, "scores", lambda models, x, y: {"scored": len(x)})
    pictures, labels = data(64)
    loaded = TensorDataset(pictures[:, None] / 255, labels)
    rows = list(race(loaded, (pictures, labels), (pictures[:10], labels[:10]), benchmark.STEPS, 7, 2, 5))
    assert [(goal, most) for _, _, goal, most in seen] == [(0.955, 7), (0.99, 7), (0.99, 7)]
    torch.testing.assert_close(seen[0][0], pictures[:10, None] / 255)
    torch.testing.assert_close(seen[2][0], (pictures[:10, None] / 255 - 0.1307) / 0.3081)
    assert all(torch.equal(y, labels[:10]) for _, y, _, _ in seen)
    assert [r["scored"] for r in rows] == [10] * 5


def test_shares_are_times_over_that_of_the_whole_recipe(fair, monkeypatch):
    calls = []

    def trained(models, *data, **options):
        calls.append(options)
        models.append(options)

    monkeypatch.setattr(benchmark, "again", trained)
    monkeypatch.setattr(benchmark, "scores", lambda models, *test, **options: {"options": options, "seeds": len(models)})
    rows = list(shares(data(), data(), 3, {0.99: 7}))
    assert [r["name"] for r in rows] == list(LEFT_OUT)
    assert calls == [{"steps": 7, **options} for options in LEFT_OUT.values()]
    assert [r["options"] for r in rows] == list(LEFT_OUT.values())
    assert rows[0]["cpu"] == [1, 1, 1]
    assert rows[1]["cpu"] == [0.2, 0.25, 0.3333]  # four times as fast is a quarter of the time
    assert rows[1]["wall"] == [0.25, 0.5, 1]
    assert fair[0][1] == 3


def test_limit_divides_time_by_what_operations_and_bytes_take(monkeypatch):
    class Top:
        float32, bfloat16, copy = 50.0, 100.0, 20.0

        def _asdict(self):
            return {"float32": 50.0, "bfloat16": 100.0, "copy": 20.0}

    clocks = iter([[2.0, 4.0], [4.0, 4.0], [6.0, 10.0]])
    monkeypatch.setattr(benchmark, "limits", lambda device: Top())
    monkeypatch.setattr(benchmark, "floor", lambda model, x, y: (100 * 10**9, 40 * 10**9))
    monkeypatch.setattr(benchmark, "timed", lambda way: next(clocks))
    (found,) = limit(data(), 3, {0.99: 5})
    # five steps of 2 s for operations and 2 s for bytes
    assert found["cpu"] == [0.15, 0.2, 0.25]
    assert found["wall"] == [0.2, 0.2, 0.35]
    assert (found["operations"], found["bytes"]) == (500 * 10**9, 200 * 10**9)
    assert (found["float32"], found["copy"]) == (50, 20)


def test_limit_counts_a_batch_of_128_and_times_the_recipe(monkeypatch):
    counted, trained = [], []
    floor = benchmark.floor
    monkeypatch.setattr(benchmark, "floor", lambda model, x, y: counted.append((x.shape, y.shape)) or floor(model, x, y))
    monkeypatch.setattr(benchmark, "again", lambda models, *data, steps: trained.append(steps))
    monkeypatch.setattr(benchmark, "limits", partial(benchmark.limits, 16, 1, 1))
    monkeypatch.setattr(benchmark, "timed", lambda way: way() or [1.0, 1.0])
    (found,) = limit(data(), 2, {0.99: 3})
    assert counted == [((128, 1, 24, 24), (128,))]
    assert trained == [3, 3]
    assert found["operations"] == 3 * 339_247_104


# the script


@pytest.fixture
def parts(monkeypatch):
    """main with parts that only tell what they were given."""
    seen = {}

    def part(name):
        def rows(*args):
            seen[name] = args
            yield {"name": name, "row": 1}
            yield {"name": name, "row": 2}
        return rows

    for name in ("race", "shares", "limit"):
        monkeypatch.setattr(benchmark, name, part(name))

    def measured(n, rounds, full):
        seen["remedies"] = n, rounds, full
        return {"group": {"plain": ([1.0] * 3, [1.0] * 3), "fast": ([2.0, 3.0, 4.0], [5.0, 6.0, 7.0])}}

    monkeypatch.setattr(benchmark, "remedies", measured)
    made = torch.zeros(70, 28, 28, dtype=torch.uint8)

    class Small:
        def __init__(self, root, train, download):
            assert (root, download) == ("data", True)
            self.data, self.targets = made + train, torch.full((70,), int(train))
            self.transform = None

        def __len__(self):
            return 70

    monkeypatch.setattr(datasets, "MNIST", Small)
    return seen


def test_main_rehearses_without_a_file(parts, capsys, monkeypatch):
    monkeypatch.setattr(benchmark.benchmark, "save", None)  # would fail if it were called
    main()
    assert list(parts) == ["race", "shares", "limit", "remedies"]
    assert parts["remedies"] == (704, 2, False)
    pictures, train, test, steps, most, rounds, size = parts["race"]
    assert len(pictures) == 640
    assert (most, rounds, size) == (1, 2, 2)
    assert set(steps) == {0.955, 0.98, 0.99}
    assert set(steps.values()) == {3}
    assert (train[0].max(), train[1].max(), test[0].max(), test[1].max()) == (1, 1, 0, 0)
    assert parts["shares"][2:] == (2, steps)
    assert parts["limit"][1:] == (2, steps)
    printed = capsys.readouterr().out
    assert printed.count("\n") == 8
    assert "remedies {'name': 'group: fast', 'cpu': [2.0, 3.0, 4.0], 'wall': [5.0, 6.0, 7.0]}" in printed
    normalize = pictures.dataset.transform.transforms[1]
    assert (normalize.mean, normalize.std) == ((0.1307,), (0.3081,))


def test_main_measures_all_and_saves_row_by_row(parts, monkeypatch, tmp_path):
    saved = []
    monkeypatch.setattr(benchmark.benchmark, "save", lambda file, part, rows, kind: saved.append(
        (file, part, [r.get("row", r["name"]) for r in rows], kind)))
    out = str(tmp_path / "cpu.json")
    main(out, "limit", "race", "remedies")
    kind = (torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")).type
    assert saved[:4] == [(out, part, rows, kind) for part in ("limit", "race") for rows in ([1], [1, 2])]
    names = ["group: plain", "group: fast"]
    assert saved[4:] == [(out, "remedies", names[:count], kind) for count in (1, 2)]
    assert parts["remedies"] == (2816, 7, True)
    assert len(parts["race"][0]) == 60_000
    assert parts["race"][3:] == (benchmark.STEPS, 8, 7, 94)
    assert parts["limit"][1:] == (7, benchmark.STEPS)
    assert "shares" not in parts


def test_module_hands_its_arguments_to_main(monkeypatch, tmp_path):
    monkeypatch.setattr("sys.argv", ["benchmark", str(tmp_path / "out.json"), "no such part"])
    monkeypatch.setattr(datasets, "MNIST", lambda root, train, download: type("Small", (), {
        "data": torch.zeros(3), "targets": torch.zeros(3)})())
    with pytest.raises(KeyError, match="no such part"):
        runpy.run_path(benchmark.__file__, run_name="__main__")


def test_a_loader_is_what_the_example_feeds_from():
    assert type(example(TensorDataset(torch.zeros(1, 1, 28, 28), torch.zeros(1).long())).feed) is DataLoader
