"""Remedies for a slow training loop, each measured against the plain loop.

Shapes: rows x (n, 784) and labels y (n,) of MNIST. Page: hardware/speed.
"""

import argparse

# --8<-- [start:imports]
import copy
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

# --8<-- [end:imports]
from torch.utils.data import DataLoader, TensorDataset
from torchvision import datasets

from snippets.hardware.measure import Ratio, busy, compare, with_threads
from snippets.training.data_loading import Batches, Gather, as_it_is, shuffled
from snippets.training.mnist import prepare
from snippets.training.mnist_refactored import sequential


# --8<-- [start:loss]
def loss_of(logits_of: Callable, x: Tensor, y: Tensor, bf16: bool) -> Tensor:
    """Mean cross-entropy; bf16 lets autocast choose types for the logits."""
    with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
        logits = logits_of(x)
    return F.cross_entropy(logits.float(), y)
# --8<-- [end:loss]


# --8<-- [start:eager]
def eager(model, lr, bf16=False, set_to_none=True, **options) -> Callable:
    """The usual step, with SGD and its options.

    Returns a function of nothing. It gives the parameters of a fresh copy
    of the model, and a step (x, y) that updates them.
    """
    def make():
        own = copy.deepcopy(model)
        optimizer = torch.optim.SGD(own.parameters(), lr, **options)

        def step(x: Tensor, y: Tensor) -> None:
            optimizer.zero_grad(set_to_none)
            loss_of(own, x, y, bf16).backward()
            optimizer.step()
        return list(own.parameters()), step
    return make
# --8<-- [end:eager]


# --8<-- [start:update]
def update_of(model, size, lr, momentum=0.0, bf16=False) -> Callable:
    """A step of SGD as a function of tensors, which it changes in place.

    k * size rows make k steps in a row.
    """
    def loss(parameters: dict, x: Tensor, y: Tensor) -> Tensor:
        return loss_of(partial(functional_call, model, parameters), x, y, bf16)

    def update(parameters: dict, moments: dict, xs: Tensor, ys: Tensor):
        for x, y in zip(xs.split(size), ys.split(size), strict=True):
            slopes = torch.func.grad(loss)(parameters, x, y)
            for name, slope in slopes.items():
                moments[name].mul_(momentum).add_(slope)
                parameters[name].sub_(lr * moments[name])
    return update
# --8<-- [end:update]


# --8<-- [start:whole]
def whole(model, size, backend="inductor", **options) -> Callable:
    """As eager, with the update compiled to one graph; options as there."""
    update = torch.compile(update_of(model, size, **options), fullgraph=True,
                           dynamic=False, backend=backend)

    def make():
        own = {n: p.detach().clone() for n, p in model.named_parameters()}
        moments = {name: torch.zeros_like(p) for name, p in own.items()}
        return list(own.values()), partial(update, own, moments)
    return make
# --8<-- [end:whole]


# --8<-- [start:by-hand]
def by_hand(model: nn.Linear, lr: float) -> Callable:
    """As eager, for a linear classifier: the gradient without autograd."""
    one_hot = torch.eye(model.out_features, device=model.weight.device)

    def make():
        weight, bias = (p.detach().clone() for p in model.parameters())

        def step(x: Tensor, y: Tensor) -> None:
            error = (x @ weight.T + bias).softmax(dim=1) - one_hot[y]
            weight.addmm_(error.T, x, alpha=-lr / len(y))
            bias.sub_(error.sum(dim=0), alpha=lr / len(y))
        return [weight, bias], step
    return make
# --8<-- [end:by-hand]


# --8<-- [start:epoch]
def epoch(feed: Callable, make: Callable) -> Callable[[], list[Tensor]]:
    """All batches of feed() from the same start; returns parameters."""
    def run() -> list[Tensor]:
        parameters, step = make()
        for x, y in feed():
            step(x, y)
        return parameters
    return run
# --8<-- [end:epoch]


def ways(model: nn.Module, x: Tensor, y: Tensor, size: int = 64, steps: int = 11, **usual) -> dict[str, Callable]:
    """An epoch by each remedy, with the same batches in the same order; the plain loop comes first.

    The model takes rows x (n, 784) and gives logits for labels y (n,); usual has lr and, if wanted, momentum.
    Rows that do not fill a graph of so many steps are dropped. Raises ValueError for too few rows or labels.
    """
    n = len(y) - len(y) % (size * steps)
    if not n or len(x) != len(y):
        raise ValueError(f"expected as many rows as labels, {size * steps} or more, got {len(x)} and {len(y)}")
    x, y, order = x[:n], y[:n], shuffled(n, seed=0).tolist()
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    loop, graph = partial(eager, **usual), partial(whole, size=size, **usual)
    batches, groups = (partial(Batches, x, y, size=rows, shuffle=True, seed=0) for rows in (size, size * steps))
    loader = partial(DataLoader, batch_size=size, sampler=order)
    table = {
        "DataLoader": (partial(loader, TensorDataset(x, y)), loop(model)),
        "__getitems__": (partial(loader, Gather(x, y), collate_fn=as_it_is), loop(model)),
        "index_select": (batches, loop(model)),
        "foreach SGD": (batches, loop(model, foreach=True)),
        "fused SGD": (batches, loop(model, fused=True)),
        "set_to_none=False": (batches, loop(model, set_to_none=False)),
        "channels last": (batches, loop(last)),
        "bf16": (batches, loop(model, bf16=True)),
        "bf16, channels last": (batches, loop(last, bf16=True)),
        "compiled step": (batches, graph(last)),
        "compiled step, bf16": (batches, graph(last, bf16=True)),
        f"{steps} steps a graph": (groups, graph(last)),
    } | ({"by hand": (batches, by_hand(model, usual["lr"]))} if isinstance(model, nn.Linear) else {})
    return {name: epoch(*parts) for name, parts in table.items()}


def remedies(n: int = 50_000, rounds: int = 9, full: bool = True) -> dict[str, dict[str, Ratio]]:
    """Compare with n images, by group and way. Without full, nothing is compiled, in bf16 or done by two threads."""
    torch.compiler.reset()
    device = torch.accelerator.current_accelerator(check_available=True) or "cpu"
    mnist = datasets.MNIST("data", download=True)
    x, y = prepare(mnist.data[:n]).to(device), mnist.targets[:n].to(device)
    linear, net, result = nn.Linear(784, 10).to(device), sequential().to(device), {}
    for group, every in {
        "linear classifier": ways(linear, x, y, lr=0.5),
        "three convolutions": ways(net, x, y, steps=2, lr=0.05, momentum=0.9),
    }.items():
        dear = {name for name in every if any(word in name for word in ("bf16", "compiled", "graph")) and not full}
        result[group] = compare({name: do for name, do in every.items() if name not in dear}, rounds)
        pair = {name: with_threads(n, every["index_select"]) for name, n in (("two threads", 2), ("one thread", 1))}
        for others, where in enumerate(["alone", "beside a busy process"] if full else []):
            with busy(others):
                result[f"{group}, {where}"] = compare(pair, rounds)
    return result


def main(arguments: list[str] | None = None) -> None:
    """Print the table, or with --full hand over to the whole benchmark."""
    parser = argparse.ArgumentParser(description="Measure remedies for a slow training loop.")
    parser.add_argument("--full", action="store_true", help="the whole benchmark; without --out only its rehearsal")
    parser.add_argument("--out", help="with --full: the JSON file to write")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.full:
        from snippets.hardware import benchmark

        return benchmark.main(out=options.out)
    for group, rows in remedies(n=2_816, rounds=5, full=False).items():
        print(f"{group}: times as fast as the plain loop, by CPU time (quartiles) and by the wall clock")
        for name, (cpu, wall) in rows.items():
            print(f"  {name:20}{cpu.median:6.2f} ({cpu.low:.2f}-{cpu.high:.2f}) {wall.median:8.2f}")


if __name__ == "__main__":
    main()
