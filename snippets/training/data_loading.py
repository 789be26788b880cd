"""Data loading: padding, sharded streams, batches without a loader, splits."""

# --8<-- [start:imports]
import math
import os
import time
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from operator import truediv
from statistics import quantiles

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import (
    DataLoader,
    IterableDataset,
    Subset,
    TensorDataset,
    get_worker_info,
)
from torchvision import datasets, transforms

Pair = tuple[Tensor, Tensor]
# --8<-- [end:imports]


# --8<-- [start:shuffled]
def shuffled(n: int, seed: int, epoch: int = 0) -> Tensor:
    """Return 0, …, n - 1 in the order of this seed and epoch, on the CPU."""
    mixed = (1_000_003 * seed + epoch) % 2**32  # the generator reads 32 bits
    return torch.randperm(n, generator=torch.Generator().manual_seed(mixed))
# --8<-- [end:shuffled]


# --8<-- [start:pad]
def pad(samples: list[Pair]) -> tuple[Tensor, ...]:
    """Collate n pairs: sequence (length, …) and label.

    Returns sequences (n, longest, …) filled up with zeros, a mask
    (n, longest) that is True where data are, and labels (n, …).
    Raises ValueError if there is no sample.
    """
    if not samples:
        raise ValueError("expected at least one sample, got none")
    sequences, labels = zip(*samples, strict=True)
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    padded = pad_sequence(sequences, batch_first=True)
    mask = torch.arange(padded.shape[1]) < lengths.unsqueeze(1)
    return padded, mask, torch.stack(labels)
# --8<-- [end:pad]


# --8<-- [start:sharded]
class Sharded(IterableDataset):
    """A stream whose items are dealt to the workers, each item to one.

    Raises TypeError if source cannot start anew with each epoch.
    """

    def __init__(self, source: Iterable):
        if isinstance(source, Iterator):
            raise TypeError(f"expected what restarts, got {type(source)}")
        self.source = source

    def __iter__(self) -> Iterator:
        worker = get_worker_info()  # None in the main process
        start, step = (worker.id, worker.num_workers) if worker else (0, 1)
        return islice(self.source, start, None, step)
# --8<-- [end:sharded]


# --8<-- [start:gather]
class Gather(TensorDataset):
    """A TensorDataset on the CPU that looks up a batch; for as_it_is."""

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, ...]:
        index = torch.tensor(indices)
        return tuple(t.index_select(0, index) for t in self.tensors)


def as_it_is(batch):
    """Collate nothing: the batch is complete."""
    return batch
# --8<-- [end:gather]


# --8<-- [start:batches]
class Batches:
    """Tuples of `size` rows of the tensors, in order or shuffled by seed.

    Each `for` is an epoch with its own order; set `epoch` to repeat one.
    Raises ValueError for unequal rows, two devices, or a size below 1.
    """

    def __init__(self, *tensors: Tensor, size: int, shuffle: bool = False,
                 drop_last: bool = False, seed: int = 0):
        got = [(len(t), str(t.device)) for t in tensors]
        if len(set(got)) != 1 or size < 1:
            raise ValueError(
                f"expected equal rows, size > 0, got {got}, {size}")
        self.tensors, self.size, self.shuffle = tensors, size, shuffle
        self.drop_last, self.seed, self.epoch = drop_last, seed, 0

    def __len__(self) -> int:
        full, rest = divmod(len(self.tensors[0]), self.size)
        return full + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        n, device = len(self.tensors[0]), self.tensors[0].device
        order = torch.arange(n)
        if self.shuffle:
            order = shuffled(n, self.seed, self.epoch)
        self.epoch += 1
        for rows in order.to(device).split(self.size)[: len(self)]:
            yield tuple(t.index_select(0, rows) for t in self.tensors)
# --8<-- [end:batches]


# --8<-- [start:floats]
def floats(pictures: Tensor) -> Tensor:
    """Turn bytes into floats of mean 0 and deviation 1, near enough."""
    return (pictures / 255 - 0.13) / 0.31
# --8<-- [end:floats]


# --8<-- [start:feeds]
def feeds(mnist: datasets.MNIST, n: int, size: int = 64, **options) -> dict:
    """Return ways to feed n pictures, shuffled; options go to workers."""
    raw, labels = mnist.data[:n].unsqueeze(1), mnist.targets[:n]
    pixels = floats(raw)
    rows, gather = TensorDataset(pixels, labels), Gather(pixels, labels)
    loader = partial(DataLoader, batch_size=size, shuffle=True)
    lists = loader(rows).batch_sampler
    batches = partial(Batches, size=size, shuffle=True)
    return {
        "pictures, one by one": partial(loader, Subset(mnist, range(n))),
        "tensors, 2 workers": partial(loader, rows, num_workers=2, **options),
        "tensors, one by one": partial(loader, rows),
        "lists of indices": partial(DataLoader, rows, None, sampler=lists),
        "__getitems__": partial(loader, gather, collate_fn=as_it_is),
        "Batches, from bytes": lambda: (
            (floats(x), y) for x, y in batches(raw, labels)
        ),
        "Batches": partial(batches, pixels, labels),
    }
# --8<-- [end:feeds]


# --8<-- [start:compare]
def seconds() -> float:
    """CPU time of this process and of its workers that have ended."""
    return time.process_time() + sum(os.times()[2:4])


def compare(ways: dict, rounds: int = 5) -> dict[str, list[float]]:
    """Return the quartiles of each way's CPU time over the last way's.

    A way is a function of nothing that returns an epoch to run through.
    """
    spent = {name: [] for name in ways}
    for turn in range(rounds):
        for name in list(ways)[:: (-1) ** turn]:  # there and back
            start = seconds()
            for _ in ways[name]():
                pass
            spent[name].append(seconds() - start)
    last = spent[list(ways)[-1]]
    return {way: quantiles(map(truediv, t, last)) for way, t in spent.items()}
# --8<-- [end:compare]


# --8<-- [start:group-split]
def group_split(groups: Tensor, share: float, seed: int = 0) -> Pair:
    """Deal whole groups (n,) at random; return rows to train and to test.

    Groups go to the test until it has share of the rows; one stays behind.
    Raises ValueError for fewer than two groups or a share outside (0, 1).
    """
    if groups.dim() != 1 or not 0 < share < 1:
        got = f"{tuple(groups.shape)}, {share}"
        raise ValueError(f"expected a row of groups, 0 < share < 1, got {got}")
    _, group, sizes = groups.unique(return_inverse=True, return_counts=True)
    if len(sizes) < 2:
        raise ValueError(f"expected two groups or more, got {len(sizes)}")
    order = shuffled(len(sizes), seed).to(groups.device)
    rows = sizes[order].cumsum(dim=0)  # with each further group
    few = int((rows < math.ceil(share * len(groups))).sum())
    in_test = torch.isin(group, order[:-1][: few + 1])
    return (~in_test).nonzero().flatten(), in_test.nonzero().flatten()
# --8<-- [end:group-split]


def main(n: int = 2_000) -> None:
    """Print each feed's CPU time over that of `Batches`, with quartiles."""
    steps = transforms.ToTensor(), transforms.Normalize(0.13, 0.31)
    mnist = datasets.MNIST("data", download=True)
    mnist.transform = transforms.Compose(steps)
    for name, (low, middle, high) in compare(feeds(mnist, n)).items():
        print(f"{name:21}{middle:8.1f} times ({low:.1f} to {high:.1f})")


if __name__ == "__main__":
    main()
