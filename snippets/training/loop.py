"""The loop: train, evaluate and resume a small convolutional network on MNIST.

Shapes: images (n, 1, 28, 28), labels (n,), logits (n, k). Page: training/loop.
As a script it trains the network: python -m snippets.training.loop --help
"""

import argparse

# --8<-- [start:imports]
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import matplotlib.pyplot as plt
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils import data
from tqdm.auto import tqdm

# --8<-- [end:imports]
from snippets.training.checkpoints import Checkpoints, capture, restore


# --8<-- [start:network]
def network() -> nn.Sequential:
    """Images (n, 1, 28, 28) to logits (n, 10)."""
    return nn.Sequential(
        nn.Conv2d(1, 10, 5), nn.ReLU(),  # (n, 10, 24, 24)
        nn.Conv2d(10, 20, 5), nn.ReLU(),  # (n, 20, 20, 20)
        nn.Flatten(), nn.Linear(8000, 200), nn.ReLU(), nn.Linear(200, 10),
    )
# --8<-- [end:network]


# --8<-- [start:metrics]
class Metrics:
    """Mean loss and accuracy over samples, summed on the device."""

    def __init__(self) -> None:
        self.sums, self.count = 0, 0

    def add(self, loss: Tensor, logits: Tensor, y: Tensor) -> None:
        """Take in a batch: mean loss (), logits (n, k), labels (n,)."""
        if loss.dim() or logits.dim() != 2 or y.shape != logits.shape[:1]:
            got = [tuple(tensor.shape) for tensor in (loss, logits, y)]
            raise ValueError(f"expected (), (n, k) and (n,), got {got}")
        sums = loss.detach().float() * len(y), (logits.argmax(1) == y).sum()
        self.sums = self.sums + torch.stack(sums)
        self.count += len(y)

    def result(self) -> list[float]:
        """[loss, accuracy]; only here does Python wait for the device."""
        return (self.sums / self.count).tolist()
# --8<-- [end:metrics]


# --8<-- [start:train_step]
def train_step(model, loss_fn, optimizer, x, y) -> tuple[Tensor, Tensor]:
    """One update; loss () and logits (n, k) from before it, no graph."""
    model.train()
    logits = model(x)
    loss = loss_fn(logits, y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach(), logits.detach()
# --8<-- [end:train_step]


# --8<-- [start:evaluate]
@torch.inference_mode()
def evaluate(model, loss_fn, loader: Iterable) -> list[float]:
    """[loss, accuracy] in eval mode, means over samples."""
    model.eval()
    metrics = Metrics()
    for x, y in loader:
        logits = model(x)
        metrics.add(loss_fn(logits, y), logits, y)
    return metrics.result()
# --8<-- [end:evaluate]


# --8<-- [start:fit]
@dataclass
class Progress:
    """What a callback gets after an epoch; scores are [loss, accuracy]."""

    epoch: int  # counted from 1
    train: list[float]  # running: measured while the weights moved
    valid: list[float]


Callback = Callable[[Progress], bool | None]


def fit(model, train, valid, loss_fn, optimizer, epochs: int, schedule=None,
        callbacks: Iterable[Callback] = (), done: int = 0) -> list[Progress]:
    """Train up to epoch ``epochs``, or until a callback returns True.

    ``schedule`` steps once a batch; ``done`` epochs are behind already.
    """
    history = []
    for epoch in range(done + 1, epochs + 1):
        running = Metrics()
        bar = tqdm(iter(train), f"epoch {epoch}", leave=False, disable=None)
        for x, y in bar:
            running.add(*train_step(model, loss_fn, optimizer, x, y), y)
            if schedule is not None:
                schedule.step()
        scores = evaluate(model, loss_fn, valid)
        history.append(Progress(epoch, running.result(), scores))
        if any([call(history[-1]) for call in callbacks]):  # call them all
            break
    return history
# --8<-- [end:fit]


def main(argv: list[str] | None = None) -> None:
    """Train on MNIST as the options say: a line per epoch, checkpoints, learning curves.

    Ends with exit code 2 for an option that is refused and 130 after Ctrl-C, with a message on stderr.
    """
    parser = argparse.ArgumentParser("python -m snippets.training.loop", description="Train a small network on MNIST.")
    parser.add_argument("--epochs", type=int, default=1, help="passes over the images, those before a resume too (1)")
    parser.add_argument("--batch-size", type=int, default=64, help="images per step (64)")
    parser.add_argument("--lr", type=float, default=1e-3, help="learning rate of Adam (0.001)")
    parser.add_argument("--seed", type=int, default=0, help="of the first weights and the order of the images (0)")
    parser.add_argument("--images", type=int, default=50_000, help="to train on; a fifth as many validate (50000)")
    parser.add_argument("--folder", help="keep checkpoints there, and go on from the last one in it")
    parser.add_argument("--plot", help="draw the learning curves into this file, curves.svg or curves.png for example")
    parser.add_argument("--data", default="data", help="folder of the data set, downloaded if it is not there (data)")
    args = parser.parse_args(argv)
    for name, low, high in ("epochs", 1, 10**6), ("batch_size", 1, 50_000), ("lr", 1e-9, 10), ("images", 5, 50_000):
        if not low <= (value := vars(args)[name]) <= high:
            parser.error(f"argument --{name.replace('_', '-')}: expected {low} to {high}, got {value}")
    settings = {name: vars(args)[name] for name in ("batch_size", "lr", "seed", "images")}
    store, figure, saved = None, plt.Figure(layout="constrained"), {"settings": settings, "history": []}
    try:
        torch.manual_seed(args.seed)
        mnist = torchvision.datasets.MNIST(args.data, download=True)
        if args.plot:
            figure.savefig(args.plot)  # a bad name is refused before the training
        if args.folder and (found := (store := Checkpoints(args.folder)).latest()):
            saved = found[1]
        if saved.get("settings") != settings:
            raise ValueError(f"argument --folder: expected checkpoints of {settings}, got {saved.get('settings')}")
    except (OSError, RuntimeError, ValueError) as error:
        parser.error(str(error))
    device = torch.accelerator.current_accelerator(check_available=True) or "cpu"
    rows = data.TensorDataset(mnist.data.unsqueeze(1).to(device) / 255, mnist.targets.to(device))
    draws = (data.RandomSampler(range(args.images)), args.batch_size), (range(50_000, 50_000 + args.images // 5), 1000)
    train, valid = (data.DataLoader(rows, None, sampler=data.BatchSampler(*draw, drop_last=False)) for draw in draws)
    model = network().to(device)
    optimizer = torch.optim.Adam(model.parameters(), args.lr)
    if history := saved["history"]:
        restore(saved["run"], model=model, optimizer=optimizer)
        print(f"resumed from {args.folder} after epoch {len(history)}")

    def report(now: Progress) -> None:
        history.append([now.epoch, *now.train, *now.valid])
        print("epoch {}: loss {:.4f}, {:.2%} right; validation {:.4f}, {:.2%} right".format(*history[-1]), flush=True)
        if store:
            store.save(now.epoch, saved | {"run": capture(model=model, optimizer=optimizer)})

    try:
        fit(model, train, valid, cross_entropy, optimizer, args.epochs, callbacks=[report], done=len(history))
    except KeyboardInterrupt:
        way = f"the same command goes on from {args.folder}" if store else "nothing is kept without --folder"
        parser.exit(130, f"stopped after epoch {len(history)}: {way}\n")
    if args.plot:
        epochs, running, _, losses, _ = zip(*history, strict=True)
        figure.gca().plot(epochs, running, "o-", epochs, losses, "X-")
        figure.gca().set(xlabel="epoch", ylabel="loss (nats per image)")
        figure.legend(["training, running", "validation"], loc="outside upper right")
        figure.savefig(args.plot)


if __name__ == "__main__":
    main()
