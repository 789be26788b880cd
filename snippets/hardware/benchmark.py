"""The benchmark: how long training takes to an accuracy, and what saved it.

One thread; seconds of CPU time and by the wall clock. A part is a table of
rows. Page: hardware/benchmark. All parts take about half an hour:
python -m snippets.hardware.benchmark records/speed/cpu.json
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import accumulate
from statistics import fmean, quantiles
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset
from torchvision import datasets, transforms

from snippets.hardware.measure import compare, limits, timed
from snippets.hardware.mnist_99 import LEFT_OUT, accuracy, crop, floor, network, variant, whitening
from snippets.hardware.speed import remedies
from snippets.training.loop import network as two_convolutions
from snippets.training.mnist_refactored import sequential as three_convolutions
from website import benchmark

Pair = tuple[Tensor, Tensor]  # pictures (n, 28, 28), labels (n,)


# --8<-- [start:example]
class Loop(NamedTuple):
    """What a usual training loop needs; feed yields an epoch's batches."""

    model: nn.Module
    loss_fn: Callable
    optimizer: torch.optim.Optimizer
    feed: Iterable
    schedule: StepLR | None = None  # steps after each epoch


def example(pictures) -> Loop:
    """The widely used example, with the hyperparameters it publishes.

    pictures: a data set of (1, 28, 28), label; on a CPU it is not shuffled.
    """
    model = nn.Sequential(
        nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(),
        nn.MaxPool2d(2), nn.Dropout(0.25), nn.Flatten(),
        nn.Linear(9216, 128), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(128, 10), nn.LogSoftmax(dim=1),
    )
    optimizer = torch.optim.Adadelta(model.parameters(), lr=1.0)
    feed, schedule = DataLoader(pictures, 64), StepLR(optimizer, 1, 0.7)
    return Loop(model, F.nll_loss, optimizer, feed, schedule)
# --8<-- [end:example]


# --8<-- [start:course]
def course(x: Tensor, y: Tensor, deep: bool) -> Loop:
    """This course's loop with two convolutions, or with three if deep.

    Pixels (n, 1, 28, 28) from 0 to 1, shuffled by a DataLoader.
    """
    model = two_convolutions()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    if deep:
        model = nn.Sequential(nn.Flatten(), three_convolutions())
        optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    feed = DataLoader(TensorDataset(x, y), 64, shuffle=True)
    return Loop(model, F.cross_entropy, optimizer, feed)
# --8<-- [end:course]


# --8<-- [start:laps]
def laps(loop: Loop, size: int) -> Iterator[bool]:
    """Train without end; pause every size batches, True after an epoch."""
    model, loss_fn, optimizer, feed, schedule = loop
    device = next(model.parameters()).device
    while True:
        model.train()
        for number, (x, y) in enumerate(feed, 1):
            x, y = x.to(device), y.to(device)
            optimizer.zero_grad()
            loss_fn(model(x), y).backward()
            optimizer.step()
            if number % size == 0 and number < len(feed):
                yield False
        if schedule:
            schedule.step()
        yield True
# --8<-- [end:laps]


# --8<-- [start:epochs]
def epochs(loop: Loop, x: Tensor, y: Tensor, goal: float, most: int) -> list:
    """Accuracy after each epoch, up to the first that reaches the goal."""
    found = []
    for _ in laps(loop, len(loop.feed)):
        found.append(accuracy(loop.model, x, y))
        if found[-1] >= goal or len(found) == most:
            return found
# --8<-- [end:epochs]


# --8<-- [start:seeds]
def again(models: list[nn.Module], *data: Tensor, **options) -> None:
    """Train with the next seed (0, 1, 2, …) and keep the model.

    It is scored later, when no clock is running.
    """
    torch.manual_seed(len(models))
    models.append(variant(*data, **options))


def scores(models: list, x: Tensor, y: Tensor, border=2, **_) -> dict:
    """Mean and lowest accuracy of the models, and how many they are."""
    found = [accuracy(model, crop(x, border), y) for model in models]
    return {"mean": fmean(found), "lowest": min(found), "seeds": len(found)}
# --8<-- [end:seeds]


STEPS = {0.955: 24, 0.98: 60, 0.99: 280}  # of the recipe, chosen on validation images


def row(name: str, ratio: Iterable, times: float = 1.0, **more) -> dict:
    """A row of a table: quartiles by CPU time and by the wall clock, and what else is known."""
    cpu, wall = ([float(f"{times * value:.4g}") for value in quartiles] for quartiles in ratio)
    return {"name": name, "cpu": cpu, "wall": wall, **more}


def race(pictures: Dataset, data: Pair, test: Pair, steps: dict, most: int, rounds: int, size: int) -> Iterator[dict]:
    """Time of each loop to an accuracy over the recipe's: epochs counted, laps of `size` batches timed in turns."""
    pixels, seen = data[0].unsqueeze(1) / 255, test[0].unsqueeze(1) / 255
    for name, make, images, goals in [
        ("three convolutions", partial(course, pixels, data[1], deep=True), seen, [0.955]),
        ("two convolutions", partial(course, pixels, data[1], deep=False), seen, [0.98, 0.99]),
        ("the widely used example", partial(example, pictures), (seen - 0.1307) / 0.3081, [0.98, 0.99]),
    ]:
        torch.manual_seed(1)
        found, loop, models = epochs(make(), images, test[1], goals[-1], most), make(), {goal: [] for goal in goals}
        ways = {goal: partial(again, models[goal], *data, steps=steps[goal]) for goal in goals}
        ratios = compare({"lap": partial(next, laps(loop, size)), **ways}, rounds)
        for goal in goals:
            needed = [*(share >= goal for share in found), True].index(True) + 1
            more = {"goal": goal, "reached": needed <= len(found), "found": found, **scores(models[goal], *test)}
            yield row(name, ratios[goal], min(needed, len(found)) * len(loop.feed) / size, **more)


def shares(data: Pair, test: Pair, rounds: int, steps: dict) -> Iterator[dict]:
    """Time without a part of the recipe over time with all of it, and accuracy."""
    models = {name: [] for name in LEFT_OUT}
    ways = {name: partial(again, models[name], *data, steps=steps[0.99], **left) for name, left in LEFT_OUT.items()}
    for name, ratio in compare(ways, rounds).items():
        inverse = ([1 / value for value in reversed(quartiles)] for quartiles in ratio)
        yield row(name, inverse, **scores(models[name], *test, **LEFT_OUT[name]))


def limit(data: Pair, rounds: int, steps: dict) -> Iterator[dict]:
    """Time of the recipe over the least that its operations and bytes would take."""
    most, x, y, models = limits(device=data[0].device), crop(data[0][:128]), data[1][:128], []
    operations, moved = floor(network(whitening(x)).to(x.device), x.float(), y)
    least = steps[0.99] * (operations / most.float32 + moved / most.copy) / 1e9
    spent = zip(*(timed(partial(again, models, *data, steps=steps[0.99])) for _ in range(rounds)), strict=True)
    ratio = [[value / least for value in quantiles(clock, method="inclusive")] for clock in spent]
    yield row("the recipe", ratio, operations=operations * steps[0.99], bytes=moved * steps[0.99], **most._asdict())


def main(out: str | None = None, *only: str) -> None:
    """Rehearse and print; with a file to write to, measure all parts, or only those that are named."""
    torch.set_num_threads(1)
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    mnist, held = (datasets.MNIST("data", train=part, download=True) for part in (True, False))
    mnist.transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
    n, steps, most, rounds, size = (60_000, STEPS, 8, 7, 94) if out else (640, dict.fromkeys(STEPS, 3), 1, 2, 2)
    data, test = ((part.data[:n].to(device), part.targets[:n].to(device)) for part in (mnist, held))
    parts = {"race": partial(race, Subset(mnist, range(n)), data, test, steps, most, rounds, size),
             "shares": partial(shares, data, test, rounds, steps), "limit": partial(limit, data, rounds, steps),
             "remedies": lambda: (row(f"{group}: {name}", ratio) for group, ways in remedies(
                 max(704, min(n // 5, 2816)), rounds, full=bool(out)).items() for name, ratio in ways.items())}
    for name in only or parts:
        for rows in accumulate([found] for found in parts[name]()):
            print(name, rows[-1], flush=True)
            if out:
                benchmark.save(out, name, rows, device.type)


if __name__ == "__main__":
    main(*sys.argv[1:])
