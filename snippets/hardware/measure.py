"""Measure before you tune: a fair clock, operations counted, limits, shares.

Units: seconds, floating-point operations (FLOP), bytes; rates in 10^9 a
second. Page: hardware/measure.
"""

# --8<-- [start:imports]
import os
import time
from collections.abc import Callable
from operator import truediv
from statistics import quantiles
from typing import NamedTuple

import torch
from torch import Tensor, nn
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


# --8<-- [start:compare]
class Quartiles(NamedTuple):
    """Three values: a quarter, a half, three quarters lie below."""

    low: float
    median: float
    high: float


class Ratio(NamedTuple):
    """Baseline over way, round by round: above 1, the way is faster."""

    cpu: Quartiles
    wall: Quartiles


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


# --8<-- [start:ratios]
def timed(way: Callable[[], object], clocks=CLOCKS) -> list[float]:
    """Seconds that one call of way takes, by each clock."""
    settle()
    before = [clock() for clock in clocks]
    way()
    settle()
    return [clock() - start for clock, start in zip(clocks, before)]


def ratios(spent: dict[str, list[list[float]]]) -> dict[str, Ratio]:
    """Quartiles of first way / way, from seconds by round and clock."""
    short = [way for way, rounds in spent.items() if min(map(min, rounds)) <= 0]
    if short:
        raise ValueError(f"expected ways that take time, got 0 s for {short}")
    columns = {way: list(zip(*rounds)) for way, rounds in spent.items()}
    first = next(iter(columns.values()))
    return {way: Ratio(*(
        Quartiles(*quantiles(map(truediv, base, own), method="inclusive"))
        for base, own in zip(first, column)
    )) for way, column in columns.items()}
# --8<-- [end:ratios]


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
