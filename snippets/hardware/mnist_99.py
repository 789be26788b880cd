"""MNIST to 99 %: a recipe that is short to read and short to run.

Shapes: pictures (n, 1, h, w) of bytes, labels (n,), logits (n, 10).
Page: hardware/mnist-99. All draws come from the global generator.
"""

# --8<-- [start:imports]
from collections.abc import Iterable, Iterator
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

# --8<-- [end:imports]


# --8<-- [start:crop]
def crop(pictures: Tensor, border: int = 2) -> Tensor:
    """Cut a border off bytes (n, h, w); return (n, 1, h', w').

    Raises ValueError for other data or a border that leaves nothing; one
    below zero adds a border of zeros.
    """
    was, got = pictures.dtype, tuple(pictures.shape)
    if was != torch.uint8 or len(got) != 3 or 2 * border >= min(got[1:]):
        raise ValueError(f"expected bytes (n, h, w), got {was} {got} {border}")
    return F.pad(pictures.unsqueeze(1), [-border] * 4)
# --8<-- [end:crop]


# --8<-- [start:whitening]
def whitening(pictures: Tensor, filters: int = 12, size: int = 5) -> nn.Conv2d:
    """A frozen layer (n, 1, h, w) to (n, 2 * filters, h', w').

    Over all patches of the pictures, the first filters outputs have mean
    0, variance 1 and no correlation; the others are their negatives.
    Raises ValueError unless there are as many directions that vary.
    """
    patches = F.unfold(pictures.double().cpu(), size).mT.flatten(0, 1)
    values, vectors = torch.linalg.eigh(patches.T.cov(correction=0))
    if not 0 < filters <= (values > 1e-6 * values[-1]).sum():
        raise ValueError(f"expected {filters} directions that vary")
    weight = (vectors / values.sqrt()).T.flip(0)[:filters]  # largest first
    bias = -weight @ patches.mean(0)
    conv = nn.Conv2d(1, 2 * filters, size).requires_grad_(False)
    conv.weight.copy_(torch.cat([weight, -weight]).view_as(conv.weight))
    conv.bias.copy_(torch.cat([bias, -bias]))
    return conv
# --8<-- [end:whitening]


# --8<-- [start:network]
def network(first: nn.Conv2d, side: int = 24) -> nn.Sequential:
    """From pictures (n, 1, side, side) of 0 to 255 to logits (n, 10)."""
    left = ((side - 4) // 2 - 2) // 2  # pixels a side after both pools
    return nn.Sequential(
        first, nn.MaxPool2d(2), nn.ReLU(),
        nn.Conv2d(first.out_channels, 32, 3, bias=False), nn.MaxPool2d(2),
        nn.BatchNorm2d(32, momentum=0.4), nn.ReLU(), nn.Flatten(),
        nn.Linear(32 * left**2, 128), nn.ReLU(), nn.Linear(128, 10),
    ).to(memory_format=torch.channels_last)
# --8<-- [end:network]


# --8<-- [start:batches]
def batches(x: Tensor, y: Tensor, steps: int, size: int = 128) -> Iterator:
    """Yield shuffled batches, in a new order for each epoch.

    Raises ValueError for unequal rows or a size they do not allow.
    """
    if not 0 < size <= len(x) == len(y):
        got = f"{len(x)}, {len(y)} and {size}"
        raise ValueError(f"expected equal rows, 0 < size <= rows, got {got}")
    each = len(y) // size  # whole batches of an epoch
    for step in range(steps):
        if step % each == 0:
            order = torch.randperm(len(y)).to(y.device).split(size)
        rows = order[step % each]
        yield x[rows].float(), y[rows]
# --8<-- [end:batches]


# --8<-- [start:triangle]
def triangle(time: float, top: float = 0.3) -> float:
    """The share of the peak rate at a time from 0 to 1: up, then down."""
    return min(time / top, (1 - time) / (1 - top))
# --8<-- [end:triangle]


# --8<-- [start:train]
def train(model: nn.Module, feed: Iterable, steps: int, peak: float = 0.015,
          schedule=triangle, smoothing: float = 0.1, bfloat16: bool = False,
          fused: bool = True) -> nn.Module:
    """Take a step on each batch (x, y) of the feed; return the model."""
    adam = torch.optim.Adam(model.parameters(), peak, (0.7, 0.9), fused=fused)
    for step, (x, y) in enumerate(feed):
        adam.param_groups[0]["lr"] = peak * schedule((step + 0.5) / steps)
        with torch.autocast(x.device.type, torch.bfloat16, bfloat16):
            loss = F.cross_entropy(model(x), y, label_smoothing=smoothing)
        loss.backward()
        adam.step()
        adam.zero_grad()
    return model
# --8<-- [end:train]


# --8<-- [start:recipe]
def recipe(x: Tensor, y: Tensor, steps: int = 280, **options) -> nn.Module:
    """Train on bytes (n, 1, h, w) and labels; options go to train."""
    model = network(whitening(x[:100]), x.shape[-1]).to(x.device)
    return train(model.train(), batches(x, y, steps), steps, **options)
# --8<-- [end:recipe]


# --8<-- [start:accuracy]
@torch.inference_mode()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of pictures (n, …) whose label gets the largest logit."""
    model.eval()
    best = torch.cat([model(rows.float()).argmax(1) for rows in x.split(1000)])
    return (best == y).double().mean().item()
# --8<-- [end:accuracy]


# --8<-- [start:variants]
LEFT_OUT = {
    "the whole recipe": {},
    "border kept": {"border": 0},
    "first layer also trained": {"frozen": False},
    "first layer trained from noise": {"white": False},
    "no batch norm": {"norm": False},
    "constant rate": {"schedule": lambda time: 0.5},
    "no label smoothing": {"smoothing": 0.0},
    "no channels last": {"layout": torch.contiguous_format},
    "batches from a DataLoader": {"loader": True},
    "Adam not fused": {"fused": False},
    "bfloat16 autocast": {"bfloat16": True},
    "torch.compile": {"compiled": True},
}


def variant(pictures: Tensor, y: Tensor, border: int = 2, frozen=True,
            white=True, norm=True, layout=torch.channels_last,
            loader=False, compiled=False, steps: int = 280,
            **options) -> nn.Module:
    """The recipe on bytes (n, 28, 28), with a part of it left out."""
    x = crop(pictures, border)
    first = whitening(x[:100]) if white else nn.Conv2d(1, 24, 5)
    model = network(first.requires_grad_(not frozen or not white), x.shape[-1])
    if not norm:
        model[5] = nn.Identity()
    if not white:  # pixels of 0 to 255 need some normalization
        model.insert(0, nn.BatchNorm2d(1, affine=False))
    model.to(x.device, memory_format=layout).train()
    feed = batches(x, y, steps)
    if loader:
        rows = DataLoader(TensorDataset(x, y), 128, shuffle=True)
        feed = ((a.float(), b) for a, b in islice(rows, steps))
    torch.compiler.reset()  # compile anew, if at all
    fast = torch.compile(model) if compiled else model
    train(fast, feed, steps, **options)
    return model
# --8<-- [end:variants]


# --8<-- [start:floor]
def floor(model: nn.Module, x: Tensor, y: Tensor) -> tuple[int, int]:
    """Operations of a training step on a batch, and bytes it has to move.

    Hooks stay on the layers of the model, so give it a fresh one.
    Bytes: each layer's output is written and read on the way there, and
    its gradient on the way back. Frozen layers have no way back.
    """
    moved = [x.nbytes]
    for layer in model:
        layer.register_forward_hook(lambda layer, inputs, out: moved.append(
            out.nbytes * (4 if out.requires_grad else 2)))
    with FlopCounterMode(display=False) as count:
        F.cross_entropy(model(x), y).backward()
    return count.get_total_flops(), sum(moved)
# --8<-- [end:floor]


def main(steps: int = 280) -> None:
    """Train with three seeds; print accuracy on the test set and seconds of CPU time."""
    import time

    import torchvision

    torch.set_num_threads(1)
    data = [torchvision.datasets.MNIST("data", train=part, download=True) for part in (True, False)]
    device = torch.accelerator.current_accelerator(check_available=True) or "cpu"
    images, test = [(crop(part.data).to(device), part.targets.to(device)) for part in data]
    for seed in range(3):
        torch.manual_seed(seed)
        start = time.process_time()
        model = recipe(*images, steps)
        spent = time.process_time() - start
        print(f"seed {seed}: {accuracy(model, *test):.2%} right after {spent:.1f} s")


if __name__ == "__main__":
    main()
