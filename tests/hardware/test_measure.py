"""Proofs for snippets/hardware/measure.py: clocks that obey, NumPy's quantiles, closed forms."""

import contextlib
import re
import runpy
import subprocess
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from snippets.hardware import measure
from snippets.hardware.measure import (
    Limits,
    Quartiles,
    Ratio,
    at_least,
    busy,
    compare,
    counted,
    cpu_time,
    gap,
    limits,
    ratios,
    settle,
    timed,
    with_threads,
)

pytestmark = pytest.mark.usefixtures("one_thread")


class Clock:
    """Stands still until a job moves it."""

    def __init__(self):
        self.now, self.calls = 0.0, []

    def __call__(self):
        return self.now

    def job(self, name, costs):
        costs = iter(costs)

        def run():
            self.calls.append(name)
            self.now += next(costs)
        return run


# clocks


def test_cpu_time_counts_computing_and_no_sleep():
    start = cpu_time()
    time.sleep(0.3)
    slept = cpu_time() - start
    end = time.process_time() + 0.05
    while time.process_time() < end:
        pass
    assert slept < 0.2
    assert cpu_time() - start >= 0.05


def test_cpu_time_adds_user_and_system_time_of_ended_children(monkeypatch):
    monkeypatch.setattr(measure.os, "times", lambda: (1.0, 2.0, 4.0, 8.0, 16.0))
    monkeypatch.setattr(measure.time, "process_time", lambda: 32.0)
    assert cpu_time() == 44.0


@pytest.mark.parametrize("available", [True, False])
def test_settle_waits_for_an_accelerator_if_there_is_one(available, monkeypatch):
    waited = []
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: available)
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda: waited.append(1))
    settle()
    assert waited == [1] * available


def test_timed_settles_before_and_after_and_reads_each_clock(monkeypatch):
    clock, second = Clock(), Clock()

    def way():
        clock.calls.append("way")
        clock.now += 3.0
        second.now += 5.0

    monkeypatch.setattr(measure, "settle", lambda: clock.calls.append("settle"))
    assert timed(way, (clock, second)) == [3.0, 5.0]
    assert clock.calls == ["settle", "way", "settle"]


def test_timed_reads_cpu_time_first_and_then_the_wall_clock():
    cpu, wall = timed(lambda: time.sleep(0.3))
    assert wall >= 0.3
    assert 0 <= cpu < 0.2


# compare


def test_compare_goes_there_and_back_after_a_call_that_does_not_count():
    clock = Clock()
    ways = {"base": clock.job("base", [100.0, 6.0, 8.0, 9.0]), "other": clock.job("other", [1.0, 2.0, 1.0, 6.0])}
    result = compare(ways, 3, (clock, clock))
    assert clock.calls == ["base", "other", "base", "other", "other", "base", "base", "other"]
    assert list(result) == ["base", "other"]
    assert result["base"] == Ratio(Quartiles(1.0, 1.0, 1.0), Quartiles(1.0, 1.0, 1.0))
    assert result["other"].cpu == result["other"].wall == pytest.approx((2.25, 3.0, 5.5))  # of 3, 8 and 1.5


def test_compare_makes_nine_rounds_by_both_clocks():
    calls = []

    def work():
        calls.append(sum(range(1000)))

    (ratio,) = compare({"only": work}).values()
    assert len(calls) == 10
    assert ratio.cpu == ratio.wall == (1.0, 1.0, 1.0)


def test_compare_keeps_cpu_time_and_wall_clock_apart():
    cpu, wall = Clock(), Clock()

    def way(seconds, waited):
        def run():
            cpu.now += seconds
            wall.now += waited
        return run

    ratio = compare({"a": way(2.0, 3.0), "b": way(1.0, 6.0)}, 2, (cpu, wall))["b"]
    assert (ratio.cpu.median, ratio.wall.median) == (2.0, 0.5)


def test_turns_cancel_a_drift_and_rows_do_not():
    clock = Clock()

    def job(cost):
        def run():
            clock.now += cost * (1 + clock.now / 40)
        return run

    start = clock.now
    for _ in range(9):
        job(1.25)()
    middle = clock.now
    for _ in range(9):
        job(1.0)()
    assert (middle - start) / (clock.now - middle) < 1
    clock.now = 0.0
    fair = compare({"old": job(1.25), "new": job(1.0)}, 10, (clock, clock))
    assert fair["new"].cpu.median == pytest.approx(1.25, abs=0.01)


@pytest.mark.parametrize(("names", "rounds"), [("", 3), ("a", 1), ("ab", 0)])
def test_compare_refuses_nothing_to_compare(names, rounds):
    want = f"expected a way and two rounds or more, got {len(names)} and {rounds}"
    with pytest.raises(ValueError, match=f"^{re.escape(want)}$"):
        compare(dict.fromkeys(names, list), rounds)


def test_two_rounds_are_enough():
    clock = Clock()
    assert compare({"a": clock.job("a", [1.0, 1.0, 1.0])}, 2, (clock, clock))["a"].cpu.high == 1.0


def test_a_way_too_short_for_a_clock_is_named():
    clock = Clock()
    with pytest.raises(ValueError, match=r"^expected ways that take time, got 0 s for \['short'\]$"):
        compare({"long": clock.job("long", [1.0] * 3), "short": list}, 2, (clock, clock))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(*[st.floats(0.01, 100)] * 4), min_size=2, max_size=9))
def test_ratios_are_numpys_quantiles_round_by_round(rounds):
    data = np.array(rounds)
    result = ratios({"first": data[:, :2].tolist(), "second": data[:, 2:].tolist()})["second"]
    for column, found in enumerate(result):
        expected = np.quantile(data[:, column] / data[:, 2 + column], [0.25, 0.5, 0.75])
        np.testing.assert_allclose(found, expected)


# gap


def test_gap_is_the_relative_norm_over_all_tensors():
    ours = [torch.tensor([[3.0, 1.0]]), torch.tensor([5.0])]
    theirs = [torch.tensor([[3.0, 4.0]]), torch.tensor([1.0])]
    assert gap(ours, theirs) == pytest.approx(5 / 26**0.5)
    assert gap(theirs, theirs) == 0
    assert gap([nn.Parameter(torch.ones(2))], [torch.full((2,), 2.0)]) == pytest.approx(0.5)


# limits


@pytest.fixture
def seconds(monkeypatch):
    """Every timing answers the next of a list; what was timed is noted."""
    seen = []

    def fake(way, clocks):
        seen.append((way, tuple(clocks)))
        way()
        return [1.0 / len(seen)]

    monkeypatch.setattr(measure, "timed", fake)
    return seen


def test_limits_count_operations_and_bytes_over_the_shortest_time(seconds):
    found = limits(size=10, megabytes=1, rounds=2)
    assert [clocks for _, clocks in seconds] == [(cpu_time,)] * 9
    # three calls each, of 1, 1/2, …, 1/9 s: the shortest are 1/3, 1/6 and 1/9 s
    assert found == pytest.approx((2 * 10**3 * 3 / 1e9, 2 * 10**3 * 6 / 1e9, 2e6 * 9 / 1e9))


def test_limits_multiply_what_they_say(seconds):
    limits(size=7, megabytes=2, rounds=1)
    results = [way() for way, _ in seconds[::2]]
    assert [(r.dtype, tuple(r.shape)) for r in results] == [
        (torch.float32, (7, 7)), (torch.bfloat16, (7, 7)), (torch.float32, (500_000,))]
    assert (results[2] == 1).all()


def test_limits_use_the_wall_clock_on_other_devices(seconds):
    limits(size=2, megabytes=1, rounds=1, device="meta")
    assert {clocks for _, clocks in seconds} == {(time.perf_counter,)}


def test_limits_of_this_machine_are_plausible():
    found = limits(size=64, megabytes=4, rounds=2)
    assert all(0.01 < value < 1e6 for value in found)


def test_limits_take_five_rounds_of_512_and_128_megabytes(seconds, monkeypatch):
    monkeypatch.setattr(torch, "ones", lambda n, device: torch.empty(n // 1000))
    found = limits()
    assert len(seconds) == 18
    assert found == pytest.approx((2 * 512**3 * 6 / 1e9, 2 * 512**3 * 12 / 1e9, 256e3 * 18 / 1e9))


@pytest.mark.parametrize("bad", [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_limits_refuse_sizes_below_one(bad):
    with pytest.raises(ValueError, match=r"^expected three positive numbers, got {} and {}$".format(
            f"{bad[0]}, {bad[1]}", bad[2])):
        limits(*bad)


# operations and the roofline


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
def test_products_are_counted_as_their_closed_form(n, i, o):
    layer, x = nn.Linear(i, o), torch.rand(n, i)
    assert counted(lambda: layer(x)) == 2 * n * i * o
    assert counted(lambda: layer(x).sum().backward()) == 4 * n * i * o
    x.requires_grad_()
    assert counted(lambda: layer(x).sum().backward()) == 6 * n * i * o


def test_convolutions_are_counted_and_elementwise_work_is_not():
    layer, x = nn.Conv2d(3, 5, 3, stride=2, padding=1), torch.rand(2, 3, 8, 8)
    assert counted(lambda: layer(x)) == 2 * 2 * 16 * 5 * 3 * 9
    assert counted(lambda: x.exp() + x) == 0


def test_counting_is_silent(capsys):
    counted(lambda: torch.ones(2, 2) @ torch.ones(2, 2))
    assert capsys.readouterr() == ("", "")


def test_the_longer_of_arithmetic_and_transfer_counts():
    most = Limits(float32=2.0, bfloat16=1000.0, copy=4.0)
    assert at_least(6e9, 4e9, most) == 3.0
    assert at_least(2e9, 12e9, most) == 3.0
    assert at_least(0, 0, most) == 0


@pytest.mark.parametrize("bad", [(-1, 0), (0, -1)])
def test_negative_amounts_are_refused(bad):
    with pytest.raises(ValueError, match=rf"^expected amounts of at least 0, got {bad[0]} and {bad[1]}$"):
        at_least(*bad, Limits(1, 1, 1))


# threads


def test_busy_starts_as_many_processes_and_ends_them(monkeypatch):
    started = []

    class Process(subprocess.Popen):
        def __init__(self, command):
            super().__init__(command)
            started.append(self)

    monkeypatch.setattr(measure.subprocess, "Popen", Process)
    with contextlib.suppress(KeyError), busy(2):
        assert [process.poll() for process in started] == [None, None]
        raise KeyError
    assert all(process.returncode not in (None, 0) for process in started)
    with busy():
        pass
    assert len(started) == 3


def test_busy_processes_compute():
    start = cpu_time()
    for _ in range(20):  # a machine may be too busy to let it begin
        with busy(1):
            time.sleep(0.5)
        if cpu_time() - start > 0.2:
            break
    assert cpu_time() - start > 0.2


def test_with_threads_sets_and_restores_also_after_an_error():
    before = torch.get_num_threads()
    assert with_threads(2, torch.get_num_threads)() == 2
    assert torch.get_num_threads() == before
    with pytest.raises(ZeroDivisionError):
        with_threads(2, lambda: 1 / 0)()
    assert torch.get_num_threads() == before


# the script


@pytest.mark.filterwarnings("ignore:.*found in sys.modules.*:RuntimeWarning")
def test_module_runs_as_a_script(capsys):
    runpy.run_module("snippets.hardware.measure", run_name="__main__")
    pattern = r"float32 \d+ GFLOP/s, bfloat16 \d+\.\d GFLOP/s, copy \d+\.\d GB/s\n"
    assert re.fullmatch(pattern, capsys.readouterr().out)
