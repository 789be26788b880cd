"""Measure before you tune: a fair clock, operations counted, limits, shares.

Units: seconds, floating-point operations (FLOP), bytes; rates in 10^9 a
second. Page: hardware/measure.
"""

# --8<-- [start:imports]
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import truediv
from statistics import quantiles
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

# --8<-- [end:imports]


# --8<-- [start:clocks]
def cpu_time() -> float:
    """CPU seconds of this process, and of its children that have ended."""
    return time.process_time() + sum(os.times()[2:4])


def settle() -> None:
    """Wait until an accelerator, if there is one, has nothing left to do."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


CLOCKS = cpu_time, time.perf_counter
# --8<-- [end:clocks]


# --8<-- [start:timed]
def timed(way: Callable[[], object], clocks=CLOCKS) -> list[float]:
    """Seconds that one call of way takes, by each clock."""
    settle()
    before = [clock() for clock in clocks]
    way()
    settle()
    pairs = zip(clocks, before, strict=True)
    return [clock() - start for clock, start in pairs]
# --8<-- [end:timed]


# --8<-- [start:ratios]
class Quartiles(NamedTuple):
    """Three values: a quarter, a half, three quarters lie below."""

    low: float
    median: float
    high: float


class Ratio(NamedTuple):
    """Baseline over way, round by round: above 1, the way is faster."""

    cpu: Quartiles
    wall: Quartiles


def ratios(spent: dict[str, list[list[float]]]) -> dict[str, Ratio]:
    """Quartiles of first way / way, from seconds by round and clock."""
    short = [way for way, runs in spent.items() if min(map(min, runs)) <= 0]
    if short:
        raise ValueError(f"expected ways that take time, got 0 s for {short}")
    by_clock = {way: [*zip(*runs, strict=True)] for way, runs in spent.items()}
    first = next(iter(by_clock.values()))
    return {way: Ratio(*(
        Quartiles(*quantiles(map(truediv, base, own), method="inclusive"))
        for base, own in zip(first, column, strict=True)
    )) for way, column in by_clock.items()}
# --8<-- [end:ratios]


# --8<-- [start:compare]
def compare(
    ways: dict[str, Callable[[], object]], rounds: int = 9,
    clocks: tuple[Callable[[], float], ...] = CLOCKS,
) -> dict[str, Ratio]:
    """Take turns; return the first way's time over that of each way.

    A way is a function of nothing. Each runs once untimed, then once a
    round, and every other round runs backwards. Raises ValueError for no
    way, fewer than two rounds, or a way too short for a clock.
    """
    if not ways or rounds < 2:
        got = f"{len(ways)} and {rounds}"
        raise ValueError(f"expected a way and two rounds or more, got {got}")
    for way in ways.values():
        way()
    spent = {name: [] for name in ways}
    for turn in range(rounds):
        for name in list(ways)[:: (-1) ** turn]:  # there and back
            spent[name].append(timed(ways[name], clocks))
    return ratios(spent)
# --8<-- [end:compare]


# --8<-- [start:gap]
def gap(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """The norm of all differences over the norm of theirs: 0 if equal."""
    mine, other = (torch.cat([t.detach().flatten() for t in tensors])
                   for tensors in (ours, theirs))
    return ((mine - other).norm() / other.norm()).item()
# --8<-- [end:gap]


# --8<-- [start:limits]
class Limits(NamedTuple):
    """The most that was seen: GFLOP/s of two matrix products, GB/s."""

    float32: float
    bfloat16: float
    copy: float


def limits(
    size: int = 512, megabytes: int = 128, rounds: int = 5,
    device: torch.device | str = "cpu",
) -> Limits:
    """Measure products of (size, size) and a copy, as fast as they get.

    On the CPU a second is one of CPU time, so with one thread set it is
    one core's. A copy counts what it reads and what it writes. Raises
    ValueError for a size, megabytes or rounds below 1.
    """
    if min(size, megabytes, rounds) < 1:
        got = f"{size}, {megabytes} and {rounds}"
        raise ValueError(f"expected three positive numbers, got {got}")
    clock = CLOCKS[torch.device(device).type != "cpu"]
    a = torch.rand(size, size, device=device)
    b = a.bfloat16()
    source = torch.ones(megabytes * 250_000, device=device)
    target = torch.zeros_like(source)
    work = {
        "float32": (lambda: a @ a, 2 * size**3),
        "bfloat16": (lambda: b @ b, 2 * size**3),
        "copy": (lambda: target.copy_(source), 8 * source.numel()),
    }
    return Limits(*(
        amount / 1e9 / min(timed(do, [clock])[0] for _ in range(rounds + 1))
        for do, amount in work.values()
    ))
# --8<-- [end:limits]


# --8<-- [start:counted]
def counted(work: Callable[[], object]) -> int:
    """Floating-point operations of the products in work, as PyTorch counts.

    A multiplication and an addition are two. What runs element by element
    is left out.
    """
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()
# --8<-- [end:counted]


# --8<-- [start:at-least]
def at_least(flops: float, transferred: float, most: Limits) -> float:
    """Seconds that no float32 program can beat: the roofline.

    Arithmetic and transfer may overlap, so the longer one counts. Raises
    ValueError for negative amounts.
    """
    if flops < 0 or transferred < 0:
        got = f"{flops} and {transferred}"
        raise ValueError(f"expected amounts of at least 0, got {got}")
    return max(flops / most.float32, transferred / most.copy) / 1e9
# --8<-- [end:at-least]


# --8<-- [start:threads]
@contextmanager
def busy(processes: int = 1) -> Iterator[None]:
    """Let so many other processes compute for as long as the block runs."""
    loop = [sys.executable, "-c", "while True: pass"]
    others = [subprocess.Popen(loop) for _ in range(processes)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def with_threads(count: int, do: Callable[[], object]) -> Callable:
    """The same work with this number of threads, then again as before."""
    def run():
        before = torch.get_num_threads()
        torch.set_num_threads(count)
        try:
            return do()
        finally:
            torch.set_num_threads(before)
    return run
# --8<-- [end:threads]


def main() -> None:
    """Print the limits of one core, and how far a product is from them."""
    torch.set_num_threads(1)
    most = limits()
    print(f"float32 {most.float32:.0f} GFLOP/s, bfloat16 {most.bfloat16:.1f} GFLOP/s, copy {most.copy:.1f} GB/s")


if __name__ == "__main__":
    main()
