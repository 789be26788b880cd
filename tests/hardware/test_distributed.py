"""Distributed: by threads that stand for ranks, by two real processes, and against the library's own classes."""

import copy
import json
import os
import queue
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from datetime import timedelta
from inspect import getsource
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DistributedSampler

from snippets.hardware import distributed as module
from snippets.hardware.distributed import (
    average_gradients,
    begin,
    load,
    main,
    ring_all_reduce,
    save,
    start,
    train,
    work,
)
from website import pages

PAGE = next(page for folder in Path(__file__).parents if (page := folder / "docs/hardware/distributed.md").exists())


def of_the_page(first: str, last: str) -> dict:
    """Run the lines of the page from first up to last: what stands there and in no module."""
    code = "".join(fence.code for fence in pages.load(PAGE).fences)
    names = {"Callable": Callable, "getsource": getsource, "json": json, "os": os, "select": select, "sys": sys,
             "subprocess": subprocess, "tempfile": tempfile, "torch": torch}
    exec(code[code.index(first):code.index(last)], names)
    return names


# Threads stand for ranks: each sees a torch.distributed of its own.


class World:
    """What the module uses of torch.distributed, for ranks that are threads."""

    isend, irecv = "isend", "irecv"

    def __init__(self, world):
        self.world, self.local = world, threading.local()
        self.barrier = threading.Barrier(world, timeout=20)
        self.slots = [None] * world
        self.wires = {(a, b): queue.Queue() for a in range(world) for b in range(world)}

    def get_rank(self):
        return self.local.rank

    def get_world_size(self):
        return self.world

    def all_reduce(self, tensor):
        self.slots[self.local.rank] = tensor.clone()
        self.barrier.wait()
        total = sum(self.slots[1:], self.slots[0].clone())
        self.barrier.wait()
        tensor.copy_(total)

    def P2POp(self, kind, tensor, peer):  # noqa: N802
        return kind, tensor, peer

    def batch_isend_irecv(self, operations):
        rank, waits = self.local.rank, []
        for kind, tensor, peer in operations:
            if kind == "isend":
                self.wires[rank, peer].put(tensor.clone())
            else:
                waits.append(Wait(self.wires[peer, rank], tensor))
        return waits

    def run(self, function):
        answers = [None] * self.world

        def one(rank):
            self.local.rank = rank
            try:
                answers[rank] = function(rank)
            except Exception as error:
                answers[rank] = error

        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(self.world)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        return answers


class Wait:
    def __init__(self, wire, tensor):
        self.wire, self.tensor = wire, tensor

    def wait(self):
        self.tensor.copy_(self.wire.get(timeout=20))


def in_threads(world, function):
    """function(rank) in threads whose torch.distributed is a World."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "dist", fake := World(world))
        return fake.run(function)


@settings(max_examples=30, deadline=None)
@given(world=st.integers(1, 5), size=st.integers(0, 23), seed=st.integers(0, 99))
def test_the_ring_sums_and_sends_what_the_formula_says(world, size, seed):
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randint(-1000, 1000, (world, size), generator=draw).double()
    mine = [row.clone() for row in rows]
    sent = in_threads(world, lambda rank: ring_all_reduce(mine[rank]))
    assert all(torch.equal(row, rows.sum(dim=0)) for row in mine)
    assert sum(sent) == 2 * (world - 1) * size
    if size % world == 0:
        assert sent == [2 * (world - 1) * size // world] * world


def test_the_ring_takes_any_shape_and_dtype():
    mine = [torch.full((2, 3, 1), rank, dtype=torch.int32) for rank in range(3)]
    in_threads(3, lambda rank: ring_all_reduce(mine[rank]))
    assert all(torch.equal(x, torch.full((2, 3, 1), 3, dtype=torch.int32)) for x in mine)


def test_the_ring_refuses_a_tensor_that_it_cannot_change_in_place():
    (error,) = in_threads(1, lambda rank: ring_all_reduce(torch.zeros(3, 2).T))
    assert isinstance(error, ValueError)
    assert str(error) == "expected a contiguous tensor, got (1, 2)"


def model_and_rows(rows=12):
    draw = torch.Generator().manual_seed(3)
    x = torch.randn(rows, 3, dtype=torch.float64, generator=draw)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    for p in model.parameters():
        p.data = torch.randn(p.shape, dtype=torch.float64, generator=draw)
    return model, x, x.prod(dim=1, keepdim=True)


@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(0, 12), min_size=0, max_size=3))
def test_weighted_gradients_are_those_of_one_process(cuts):
    bounds = [0, *sorted(cuts), 12]
    world = len(bounds) - 1
    model, x, y = model_and_rows()
    nn.functional.mse_loss(model(x), y).backward()
    copies = [copy.deepcopy(model) for _ in range(world)]

    def step(rank):
        rows = slice(bounds[rank], bounds[rank + 1])
        copies[rank].zero_grad()
        if len(x[rows]):
            nn.functional.mse_loss(copies[rank](x[rows]), y[rows]).backward()
        average_gradients(copies[rank], len(x[rows]))

    assert in_threads(world, step) == [None] * world
    for other in copies:
        for p, q in zip(other.parameters(), model.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad, rtol=0, atol=1e-12)


def test_a_rank_without_rows_gives_nothing_not_even_nan():
    model, x, y = model_and_rows()
    nn.functional.mse_loss(model(x), y).backward()
    full, empty = copy.deepcopy(model), copy.deepcopy(model)
    for p, q in zip(full.parameters(), model.parameters(), strict=True):
        p.grad = q.grad.clone()
    for p in empty.parameters():
        p.grad = torch.full_like(p, torch.nan)
    assert in_threads(2, lambda rank: average_gradients([empty, full][rank], [0, 12][rank])) == [None, None]
    for p, q in zip(empty.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("rows", "total"), [((0, 0), 0), ((-1, 3), 2), ((-2, 2), 0)])
def test_all_ranks_refuse_what_is_no_count(rows, total):
    errors = in_threads(2, lambda rank: average_gradients(nn.Linear(1, 1), rows[rank]))
    assert [type(error) for error in errors] == [ValueError] * 2
    assert [str(error) for error in errors] == [f"expected rows >= 0, got {n} of {total}" for n in rows]


# A group of one, in this process


@pytest.fixture
def alone(monkeypatch):
    for name in "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT":
        monkeypatch.delenv(name, raising=False)
    device = start()
    yield device
    if dist.is_initialized():
        dist.destroy_process_group()


def test_start_without_a_launcher_is_a_group_of_one(alone):
    assert (dist.get_rank(), dist.get_world_size()) == (0, 1)
    assert dist.get_backend() == ("nccl" if torch.cuda.is_available() else "gloo")
    assert alone.type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize(("gpus", "here", "nccl", "device"), [(2, 2, True, "cuda"), (1, 2, True, "cpu"), (8, 2, False, "cpu"), (0, 1, True, "cpu")])
def test_start_takes_a_gpu_for_each_process_or_none(monkeypatch, gpus, here, nccl, device):
    said = {}
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(here))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(dist, "is_nccl_available", lambda: nccl)
    monkeypatch.setattr(torch.accelerator, "set_device_index", lambda index: said.update(index=index))
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(dist, "init_process_group", lambda backend, **options: said.update(backend=backend, **options))
    assert start() == torch.device(device)
    wanted = {"backend": "nccl", "index": 1} if device == "cuda" else {"backend": "gloo"}
    assert said == wanted | {"timeout": timedelta(seconds=60)}


def by_hand(steps, batch=32):
    """The training in numbers: gradient by torch.autograd.grad, momentum and order written out."""
    x, y, model, _ = begin(torch.device("cpu"))
    weights = list(model.parameters())
    speed = [torch.zeros_like(p) for p in weights]
    for step in range(steps):
        epoch, turn = divmod(step, 256 // batch)
        order = torch.randperm(256, generator=torch.Generator().manual_seed(epoch))[turn * batch:][:batch]
        gradients = torch.autograd.grad((model(x[order]) - y[order]).square().mean(), weights)
        with torch.no_grad():
            for p, v, g in zip(weights, speed, gradients, strict=True):
                v.mul_(0.9).add_(g)
                p.sub_(0.1 * v)
    return model.state_dict()


def close(a, b):
    return a.keys() == b.keys() and all(torch.allclose(a[k], b[k].to(a[k]), rtol=0, atol=1e-12) for k in a)


@pytest.mark.parametrize(("steps", "batch"), [(24, 32), (5, 64), (0, 32)])
def test_training_alone_is_what_it_says(alone, one_thread, tmp_path, steps, batch):
    seen = []
    weights = train(tmp_path, alone, steps=steps, batch=batch, after=seen.append)
    assert close(weights, by_hand(steps, batch))
    assert seen == list(range(1, steps + 1))
    assert sorted(file.name for file in tmp_path.iterdir()) == (["last.pt"] if steps else [])
    if steps:
        assert torch.load(tmp_path / "last.pt")["step"] == steps // 3 * 3


def test_training_takes_24_steps_of_32_rows(alone, one_thread, tmp_path):
    assert close(train(tmp_path, alone), by_hand(24))


@pytest.mark.parametrize("steps", [3, 11, 13])
def test_a_run_goes_on_bit_for_bit(alone, one_thread, tmp_path, steps):
    calm = train(tmp_path / "none" if (tmp_path / "none").mkdir() else tmp_path, alone)
    (tmp_path / "last.pt").unlink()
    train(tmp_path, alone, steps=steps)
    seen = []
    weights = train(tmp_path, alone, after=seen.append)
    assert seen[0] == steps // 3 * 3 + 1
    assert all(torch.equal(calm[key], weights[key]) for key in calm)


@pytest.mark.parametrize("batch", [0, -32, 3, 512])
def test_a_batch_that_does_not_divide_is_refused(alone, tmp_path, batch):
    with pytest.raises(ValueError, match=f"^no share of {batch} of 256 for 1 ranks$"):
        train(tmp_path, alone, batch=batch)


def test_a_batch_that_has_no_equal_shares_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(dist, "get_rank", lambda: 0)
    monkeypatch.setattr(dist, "get_world_size", lambda: 3)
    with pytest.raises(ValueError, match=r"^no share of 32 of 256 for 3 ranks$"):
        train(tmp_path, torch.device("cpu"))


def test_save_replaces_and_load_restores(tmp_path):
    model, other = nn.Linear(2, 1), nn.Linear(2, 1)
    assert load(tmp_path / "a.pt", model=other) == 0
    for step in 1, 2:
        save(tmp_path / "a.pt", step, model=model)
    assert load(tmp_path / "a.pt", model=other) == 2
    assert torch.equal(model.weight, other.weight)
    assert [file.name for file in tmp_path.iterdir()] == ["a.pt"]


def test_a_save_that_fails_leaves_the_last_one(tmp_path, monkeypatch):
    save(tmp_path / "a.pt", 1, model=nn.Linear(2, 1))

    def half(state, file):
        Path(file).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="disk full"):
        save(tmp_path / "a.pt", 2, model=nn.Linear(2, 1))
    assert load(tmp_path / "a.pt", model=nn.Linear(2, 1)) == 1


@pytest.mark.parametrize(("rank", "steps_before", "killed"), [(1, 0, True), (0, 0, False), (1, 3, False)])
def test_work_kills_rank_1_once(monkeypatch, tmp_path, capsys, rank, steps_before, killed):
    kills, ended = [], []
    if steps_before:
        save(tmp_path / "last.pt", steps_before, model=nn.Linear(1, 1))
    monkeypatch.setattr(module, "start", lambda: torch.device("cpu"))
    monkeypatch.setattr(dist, "get_rank", lambda: rank)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: ended.append(1))
    monkeypatch.setattr(module.os, "kill", lambda pid, number: kills.append((pid, number)))
    monkeypatch.setattr(module, "train", lambda folder, device, after: [after(step) for step in range(1, 25)])
    work(tmp_path, kill_at=13)
    assert kills == ([(os.getpid(), signal.SIGKILL)] if killed else [])
    assert ended == [1]
    assert (tmp_path / "weights-2.pt").exists() == (rank == 0)
    assert capsys.readouterr().out == ("world size 2, begun after step 0\n" if rank == 0 else "")


def test_main_compares(alone, one_thread, monkeypatch, capsys):
    dist.destroy_process_group()
    monkeypatch.setattr(module, "__spec__", type("Spec", (), {"name": "the.module"}))
    calls, change = [], [0.0]

    def launched(command, env, text, timeout):
        calls.append((command, env["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"], text))
        folder = Path(command[-1])
        assert not (folder / "last.pt").exists()
        one = torch.load(folder / "weights-1.pt")
        torch.save({key: value + change[0] for key, value in one.items()}, folder / "weights-2.pt")
        return "launched\n"

    monkeypatch.setattr(module.subprocess, "check_output", launched)
    for change[0], equal in (0.0, True), (1e-9, False):
        main()
        assert capsys.readouterr().out == f"world size 1, begun after step 0\nlaunched\nequal to 1e-12: {equal}\n"
    command, variable, text = calls[0]
    assert command[:-1] == [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
                            "--max-restarts=3", "-m", "the.module"]
    assert (variable, text) == ("1", True)


@pytest.mark.filterwarnings("ignore:.*found in sys.modules.*:RuntimeWarning")
def test_as_a_script_it_is_launcher_or_worker(monkeypatch, tmp_path, one_thread, capsys):
    for name in "LOCAL_WORLD_SIZE", "LOCAL_RANK":
        monkeypatch.delenv(name, raising=False)
    server = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(server.port),
                        "TORCHELASTIC_USE_AGENT_STORE": "True"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["distributed.py", str(tmp_path)])
    runpy.run_module("snippets.hardware.distributed", run_name="__main__")
    assert (tmp_path / "weights-1.pt").exists()
    assert capsys.readouterr().out == "world size 1, begun after step 0\n"


def test_as_a_script_alone_it_runs_main(monkeypatch, one_thread, capsys):
    monkeypatch.delenv("RANK", raising=False)

    def launched(command, **options):
        folder = Path(command[-1])
        (folder / "weights-2.pt").write_bytes((folder / "weights-1.pt").read_bytes())
        return "launched\n"

    monkeypatch.setattr(subprocess, "check_output", launched)
    with pytest.warns(RuntimeWarning, match="found in sys.modules"):
        runpy.run_module("snippets.hardware.distributed", run_name="__main__", alter_sys=True)
    assert capsys.readouterr().out.endswith("equal to 1e-12: True\n")


# The page's own pieces


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 40), world=st.integers(1, 9), epoch=st.integers(0, 5), shuffle=st.booleans(), drop_last=st.booleans())
def test_the_shards_of_the_page_are_the_samplers(n, world, epoch, shuffle, drop_last):
    shard = SHARD["shard"]
    for rank in range(world):
        sampler = DistributedSampler(range(n), world, rank, shuffle=shuffle, drop_last=drop_last)
        sampler.set_epoch(epoch)
        assert shard(n, rank, world, epoch, shuffle, drop_last) == list(sampler)


SHARD = of_the_page("def shard(", "for drop_last in False, True:")


@pytest.mark.parametrize("arguments", [(0, 0, 1), (5, 2, 2), (5, -1, 2)])
def test_the_shards_refuse(arguments):
    n, rank, world = arguments
    with pytest.raises(ValueError, match=f"got {n}, {rank}, {world}$"):
        SHARD["shard"](n, rank, world)


RANKS = of_the_page('HEAD = f"""', "def who(rank")["Ranks"]


def test_there_is_no_world_of_no_ranks():
    with pytest.raises(ValueError, match=r"^expected world >= 1, got 0$"):
        RANKS(0)


@pytest.fixture(scope="module")
def ranks():
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        patch.setenv("OMP_NUM_THREADS", "1")
        processes = RANKS(2, seconds=240)
    yield processes
    processes.close()


def both(rank, world, folder):
    print("what a function prints is no answer")
    if rank == 0:
        try:
            train(Path(folder), torch.device("cpu"), batch=1)
        except ValueError as error:
            refused = str(error)
    else:
        refused = "no share of 1 of 256 for 2 ranks"
    weights = train(Path(folder), torch.device("cpu"))
    x = torch.arange(7.0) * (rank + 1)
    sent = ring_all_reduce(x)
    layer = nn.Linear(2, 1).double()
    torch.nn.init.ones_(layer.weight)
    layer(torch.full((rank + 1, 2), 1.0 + rank, dtype=torch.float64)).mean().backward()
    average_gradients(layer, rank + 1)
    return [refused, {k: v.tolist() for k, v in weights.items()}, x.tolist(), sent, layer.weight.grad.tolist()]


def test_two_processes_are_one(ranks, one_thread, tmp_path):
    answers = ranks(both, save, load, begin, train, ring_all_reduce, average_gradients, folder=str(tmp_path))
    for rank, (refused, weights, x, sent, gradient) in enumerate(answers):
        assert refused == "no share of 1 of 256 for 2 ranks"
        assert close(by_hand(24), {k: torch.tensor(v, dtype=torch.float64) for k, v in weights.items()})
        assert x == [0.0, 3.0, 6.0, 9.0, 12.0, 15.0, 18.0]
        assert sent == 7 if rank in (0, 1) else None
        assert gradient == [[pytest.approx(5 / 3), pytest.approx(5 / 3)]]
    assert torch.load(tmp_path / "last.pt")["step"] == 24


def fails(rank, world):
    if rank == 1:
        raise KeyError("planted")


def test_a_failure_names_its_line_and_a_death_is_no_hang(ranks):
    with pytest.raises(RuntimeError, match="KeyError: 'planted'"):
        ranks(fails)
    ranks.seconds = 0.05
    with pytest.raises(RuntimeError):
        ranks(sleeps)
    ranks.seconds = 240
    ranks.processes[0].stdout.readline()
    ranks.processes[1].stdout.readline()
    with pytest.raises(RuntimeError):
        ranks(dies)


def sleeps(rank, world):
    time.sleep(1.0)  # noqa: F821


def dies(rank, world):
    os._exit(3)
