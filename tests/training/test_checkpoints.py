"""Checkpoints against real kills, damaged and hostile files, full disks, and a second run of the same program."""

import io
import json
import mmap
import os
import pickle
import random
import re
import resource
import runpy
import signal
import stat
import subprocess
import sys
import time
import warnings
import zipfile
from collections.abc import Iterator
from hashlib import sha256
from inspect import signature
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from snippets.training import checkpoints as module
from snippets.training.checkpoints import (
    CheckpointError,
    Checkpoints,
    capture,
    decode,
    encode,
    load_plain,
    main,
    restore,
    rng_state,
    set_rng_state,
    write_atomic,
)

PAGE = next(page for folder in Path(__file__).parents if (page := folder / "docs/training/checkpoints.md").exists())
SAVE = ["before open", "after open", "before write", "in write", "after write", "before flush", "after flush",
        "before fsync", "after fsync", "before close", "after close", "before replace", "after replace",
        "before fsync", "after fsync"]
WHOLE = re.compile(r"step-(\d{8})-([0-9a-f]{16})\.pt")


def sampler_of_the_page():
    """ShuffledBatches is defined on the page: take it from there."""
    page = PAGE.read_text(encoding="utf-8")
    code = page[page.index("class ShuffledBatches"):page.index("\nbatches = ShuffledBatches")]
    namespace = {"np": np, "torch": torch, "Iterator": Iterator, "Tensor": Tensor}
    exec(code, namespace)
    return namespace["ShuffledBatches"]


def same(a, b):
    """Equal in every bit, through dicts and sequences."""
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    return type(a) is type(b) and a == b


class Run:
    """A small training that draws from every generator, with all the parts that a run can have."""

    def __init__(self, seed=0):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 1))
        adam = torch.optim.Adam(model.parameters(), lr=0.01)
        self.parts = {
            "model": model, "adam": adam,
            "cosine": torch.optim.lr_scheduler.CosineAnnealingLR(adam, 50),
            "scaler": torch.amp.GradScaler("cpu", growth_interval=3),
            "batches": sampler_of_the_page()(22, 5, seed=7),
        }

    def steps(self):
        data = torch.linspace(-1, 1, 88).view(22, 4)
        while True:
            for indices in self.parts["batches"]:
                x = data[indices] * random.uniform(0.5, 1) + float(np.random.normal(0, 0.1))
                loss = (self.parts["model"](x) - data[indices].sum(1, keepdim=True)).square().mean()
                self.parts["adam"].zero_grad()
                self.parts["scaler"].scale(loss).backward()
                self.parts["scaler"].step(self.parts["adam"])
                self.parts["scaler"].update()
                self.parts["cosine"].step()
                yield loss.item()


def train_in(folder, steps, saving=None):
    """Go on from the last checkpoint in folder up to a number of steps, saving after each."""
    run, checkpoints = Run(), Checkpoints(folder, keep=2)
    done, state = checkpoints.latest() or (0, None)
    if state is not None:
        restore(state, **run.parts)
    for step, _ in zip(range(done + 1, steps + 1), run.steps(), strict=False):
        if saving is not None:
            saving[0] = 1
        checkpoints.save(step, capture(**run.parts))
        if saving is not None:
            saving[0] = 0


# Kills: this file, run as a script, imports torch once and forks the processes that it kills.


class Faults:
    """Count each call by which a save changes the disk; die before the one with number at."""

    def __init__(self, at=None):
        self.at, self.seen = at, []

    def point(self, name):
        if len(self.seen) == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.seen.append(name)

    def around(self, name, call):
        def wrapper(*args, **kwargs):
            self.point(f"before {name}")
            result = call(*args, **kwargs)
            self.point(f"after {name}")
            return result
        return wrapper

    def open(self, path, mode):
        faults, file = self, self.around("open", open)(path, mode)

        class Watched:
            def __enter__(self):
                return self

            def __exit__(self, *error):
                faults.around("close", file.close)()

            def write(self, data):
                faults.point("before write")
                file.write(data[:len(data) // 2])
                file.flush()
                faults.point("in write")
                file.write(data[len(data) // 2:])
                faults.point("after write")

            def flush(self):
                faults.around("flush", file.flush)()

            def fileno(self):
                return file.fileno()
        return Watched()

    def install(self):
        module.open = self.open
        for name in ("fsync", "replace"):
            setattr(os, name, self.around(name, getattr(os, name)))
        unlink = Path.unlink

        def watched(path, missing_ok=False):
            if path.exists():  # the call for a temporary file that is gone changes nothing
                return self.around("unlink", unlink)(path, missing_ok)
            return unlink(path, missing_ok)
        Path.unlink = watched


def forked(function, *args):
    """Start function in a fork; return the process id."""
    if pid := os.fork():
        return pid
    code = 1
    try:
        warnings.simplefilter("error")
        function(*args)
        code = 0
    except BaseException:
        import traceback
        traceback.print_exc()
    finally:
        os._exit(code)


def ended(pid):
    """Wait; return the exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def train_with_faults(folder, steps, at, report=None):
    faults = Faults(at)
    faults.install()
    train_in(folder, steps)
    if report:
        report.write_text(json.dumps(faults.seen))


def kills_at_every_point(home):
    """Kill a run before and after each call of its first save and of its last, in the middle of a write; resume; compare."""
    assert ended(forked(train_with_faults, home / "calm-3", 3, None, home / "events")) == 0
    events = json.loads((home / "events").read_text())
    calm = Checkpoints(home / "calm-3").latest()
    wrong, points = [], [*range(len(SAVE)), *range(2 * len(SAVE), len(events))]
    for at in points:
        folder = home / f"at-{at}"
        code = ended(forked(train_with_faults, folder, 3, at))
        saved = events[:at].count("after replace") + (events[at] == "after replace")
        found = Checkpoints(folder, keep=2).latest() if saved else (0, None)
        again = ended(forked(train_in, folder, 3))
        files = os.listdir(folder)
        if (code, again, found[0]) != (-signal.SIGKILL, 0, saved) or not all(map(WHOLE.fullmatch, files)):
            wrong.append((at, events[at], code, again, found[0], saved, files))
        elif len(files) != 2 + (saved == 3 and at < len(events) - 1):  # nothing is left to save, so nothing to tidy
            wrong.append((at, events[at], files))
        elif not same(Checkpoints(folder).latest(), calm):
            wrong.append((at, events[at], "other bits"))
    return {"events": events, "tried": len(points), "wrong": wrong}


def kills_at_random(home, kills=50, steps=16):
    """Kill runs from outside at random times until they end; compare each with an undisturbed one."""
    saving, draw = mmap.mmap(-1, 1), random.Random()
    begin = time.perf_counter()
    assert ended(forked(train_in, home / "calm", steps)) == 0
    longest = (time.perf_counter() - begin) / 3
    calm = Checkpoints(home / "calm").latest()
    report = {"killed": 0, "in a save": 0, "runs": 0, "wrong": []}
    while report["killed"] < kills:
        folder = home / f"random-{report['runs']}"
        while True:
            saving[0] = 0
            pid = forked(train_in, folder, steps, saving)
            time.sleep(draw.uniform(0, longest))
            os.kill(pid, signal.SIGKILL)
            if (code := ended(pid)) != -signal.SIGKILL:
                break
            report["killed"] += 1
            report["in a save"] += saving[0]
        report["runs"] += 1
        files = [name for name in os.listdir(folder) if WHOLE.fullmatch(name)]
        if code or not same(Checkpoints(folder).latest(), calm):
            report["wrong"].append((code, files))
        Checkpoints(folder, keep=2).save(steps + 1, {})  # tidies, should the last kill have come after the last save
        if len(os.listdir(folder)) != 2:
            report["wrong"].append(os.listdir(folder))
    return report


def save_many(checkpoints, seed):
    for step in range(12):
        checkpoints.save(step, {"seed": seed, "w": torch.full((2000,), float(seed))})


def two_at_once(home):
    """Two processes save into one folder."""
    folder = Checkpoints(home / "both")
    pids = [forked(save_many, folder, seed) for seed in range(2)]
    codes = [ended(pid) for pid in pids]
    states = [folder.load(file) for file in folder.files()]
    wrong = [s["seed"] for s in states if not torch.equal(s["w"], torch.full((2000,), float(s["seed"])))]
    return {"codes": codes, "newest": folder.latest()[0], "files": len(states), "others": len(os.listdir(home / "both")) - len(states), "wrong": wrong}


@pytest.fixture(scope="module")
def reports():
    """What the three functions above say, from a process that has imported torch and nothing else that has threads."""
    source = Path(module.__file__).parents[2]  # where this module comes from, the tests' copy included
    with TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as home:  # for quick syncs
        result = subprocess.run(
            [sys.executable, __file__, home], capture_output=True, text=True, timeout=200, check=False, cwd=source,
            env=os.environ | {"PYTHONPATH": str(source), "CUDA_VISIBLE_DEVICES": ""})
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_a_kill_at_every_point_of_a_save_costs_nothing(reports):
    report = reports["kills_at_every_point"]
    assert report["events"] == SAVE * 2 + [*SAVE, "before unlink", "after unlink"]
    assert report["wrong"] == []
    assert report["tried"] == 32


def test_kills_at_random_times_cost_nothing(reports):
    report = reports["kills_at_random"]
    print(report)
    assert report["wrong"] == []
    assert report["killed"] >= 50
    assert report["in a save"] >= 5


def test_two_processes_in_one_folder_spoil_nothing(reports):
    report = reports["two_at_once"]
    assert report["codes"] == [0, 0]
    assert report["wrong"] == []
    assert report["others"] == 0
    assert report["newest"] == 11
    assert 1 <= report["files"] <= 6


# The generators


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), drawn=st.integers(0, 3))
def test_generators_go_on_where_they_were(seed, drawn):
    def draw():
        return [random.random(), random.gauss(0, 1), np.random.normal(), torch.randn(3), torch.rand(1)]

    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
    for _ in range(drawn):
        np.random.normal()  # the second of a pair is kept in the state
        random.gauss(0, 1)
        torch.rand(1)
    state = rng_state()
    first = draw()
    other = draw()
    set_rng_state(load_plain(encode(0, state)[1], "cpu")["state"])
    assert same(draw(), first)
    assert not same(first, other)


def test_states_of_generators_are_plain_values():
    state = rng_state()
    assert {"python", "numpy", "torch"} <= state.keys()
    assert type(state["numpy"][1]) is list
    assert pickle.loads(pickle.dumps(state["python"])) == random.getstate()
    assert state["numpy"][0] == "MT19937"
    assert torch.equal(state["torch"], torch.get_rng_state())


class Accelerator:
    """Stands for torch.cuda."""

    def __init__(self):
        self.state = torch.arange(4, dtype=torch.uint8)

    def get_rng_state(self):
        return self.state

    def set_rng_state(self, state):
        self.state = state


class OnCuda:
    """Stands for a tensor that map_location has put on an accelerator."""

    def __init__(self, tensor):
        self.tensor = tensor

    def cpu(self):
        return self.tensor


@pytest.fixture
def accelerator(monkeypatch):
    """A device of type cuda, given only to those who ask whether it is there."""
    fake, device = Accelerator(), torch.device("cuda")
    monkeypatch.setattr(torch.accelerator, "current_accelerator",
                        lambda check_available=False: device if check_available is True else torch.device("mps"))
    monkeypatch.setattr(torch, "get_device_module", {device: fake}.__getitem__)
    return fake


def test_the_generator_of_the_accelerator_is_among_them(accelerator):
    state = rng_state()
    assert set(state) == {"python", "numpy", "torch", "cuda"}
    assert torch.equal(state["cuda"], torch.arange(4, dtype=torch.uint8))
    before = accelerator.state
    set_rng_state(state | {"cuda": OnCuda("restored"), "torch": OnCuda(state["torch"])})
    assert accelerator.state == "restored"
    accelerator.state = before
    set_rng_state({name: state[name] for name in ("python", "numpy", "torch")})
    assert accelerator.state is before


def test_without_an_accelerator_its_state_is_left_alone(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: None)
    assert set(rng_state()) == {"python", "numpy", "torch"}
    set_rng_state(rng_state() | {"cuda": "not looked at"})


# capture and restore


def states_of(run):
    return {name: part.state_dict() for name, part in run.parts.items()}


@settings(max_examples=6, deadline=None)
@given(before=st.integers(0, 12), after=st.integers(1, 12), seed=st.integers(0, 99))
def test_a_restored_run_goes_on_bit_for_bit(before, after, seed):
    run = Run(seed)
    for _ in zip(range(before), run.steps(), strict=False):
        pass
    state = decode(*encode(before, capture(**run.parts)), "cpu")
    losses = [loss for _, loss in zip(range(after), run.steps(), strict=False)]
    other = Run(seed + 1)
    restore(state, **other.parts)
    assert [loss for _, loss in zip(range(after), other.steps(), strict=False)] == losses
    assert same(states_of(other), states_of(run))
    assert same(rng_state(), capture(**other.parts)["rng"])


def test_capture_and_restore_copy():
    run = Run()
    next(run.steps())
    state = capture(**run.parts)
    copy = decode(*encode(0, state), "cpu")
    next(run.steps())
    assert same(state, copy)
    restore(state, **run.parts)
    next(run.steps())
    assert same(state, copy)
    assert not same(states_of(run)["adam"], copy["adam"])


def test_capture_takes_what_it_is_given():
    layer = nn.Linear(2, 2)
    assert set(capture()) == {"rng"}
    state = capture(a=layer, b=layer)
    assert set(state) == {"a", "b", "rng"}
    assert same(dict(state["a"]), dict(layer.state_dict()))
    assert same(state["rng"], rng_state())


def test_capture_refuses_parts_without_a_state():
    with pytest.raises(AttributeError, match=r"^'int' object has no attribute 'state_dict'$"):
        capture(epoch=3)
    with pytest.raises(TypeError, match="multiple values for keyword argument 'rng'"):
        capture(rng=nn.Linear(1, 1))


@pytest.mark.parametrize(("parts", "want"), [
    (["model"], ["model", "rng"]), (["a", "b", "model"], ["a", "b", "model", "rng"]), (["a", "c"], ["a", "c", "rng"])])
def test_restore_refuses_other_parts_and_changes_nothing(parts, want):
    layer = nn.Linear(2, 2)
    state = capture(model=nn.Linear(2, 2), a=nn.Linear(2, 2))
    torch.manual_seed(1)
    before, weight = rng_state(), layer.weight.clone()
    message = f"expected the state of {want}, got ['a', 'model', 'rng']"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        restore(state, **dict.fromkeys(parts, layer))
    assert same(rng_state(), before)
    assert torch.equal(layer.weight, weight)


# The sampler of the page


@settings(max_examples=30, deadline=None)
@given(size=st.integers(1, 30), batch=st.integers(1, 12), seed=st.integers(0, 99), used=st.integers(0, 20))
def test_batches_resume_anywhere(size, batch, seed, used):
    shuffled = sampler_of_the_page()
    first = shuffled(size, batch, seed)
    whole = [indices for _ in range(3) for indices in first]
    assert first.state_dict() == {"size": size, "batch": batch, "seed": seed, "epoch": 3, "position": 0}
    for epoch in torch.cat(whole).view(3, size):
        assert torch.equal(epoch.sort().values, torch.arange(size))
    assert {len(indices) for indices in whole} <= {batch, size % batch or batch, min(size, batch)}
    second = shuffled(size, batch, seed)
    used = min(used, len(whole) - 1)
    taken = 0
    while taken < used:
        for _ in second:
            taken += 1
            if taken == used:
                break
    third = shuffled(size, batch, seed + 1)
    third.load_state_dict(second.state_dict())
    rest = [indices for _ in range(3 - third.epoch) for indices in third]
    assert same(rest, whole[used:])


def test_batches_have_another_order_each_epoch_and_for_each_seed():
    shuffled = sampler_of_the_page()
    batches = shuffled(100, 100, 0)
    orders = [*batches, *batches, *shuffled(100, 100, 1)]
    assert not any(torch.equal(orders[i], orders[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    state = np.random.get_state()[1].copy()
    list(shuffled(10, 2))
    assert (np.random.get_state()[1] == state).all()


def test_batches_refuse_what_cannot_be():
    shuffled = sampler_of_the_page()
    for size, batch in ((0, 1), (1, 0), (-1, 3)):
        with pytest.raises(ValueError, match=rf"^expected 1 or more, got {size}, {batch}$"):
            shuffled(size, batch)
    with pytest.raises(ValueError, match=r"^expected 5, got 6$"):
        shuffled(5, 1).load_state_dict(shuffled(6, 1).state_dict())


# Bytes


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5) | st.binary(min_size=1, max_size=5)
    | st.builds(lambda n, d: torch.arange(n).to(d), st.integers(0, 5), st.sampled_from([torch.float16, torch.int64, torch.bool])),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(step=st.integers(0, 10**8 - 1), state=st.dictionaries(st.text(max_size=3), PLAIN, max_size=3))
def test_what_is_encoded_is_decoded(step, state):
    name, data = encode(step, state)
    found = WHOLE.fullmatch(name)
    assert int(found[1]) == step
    assert found[2] == sha256(data).hexdigest()[:16]
    assert same(decode(name, data, "cpu"), state)
    content = torch.load(io.BytesIO(data), weights_only=True)
    assert same(content, {"format": 1, "step": step, "state": state})


def test_decode_maps_to_a_device():
    name, data = encode(1, {"w": torch.ones(3)})
    assert decode(name, data, "meta")["w"].is_meta
    assert not decode(name, data, torch.device("cpu"))["w"].is_meta


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def bytes_of(thing):
    file = io.BytesIO()
    torch.save(thing, file)
    return file.getvalue()


def archive(*names):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as opened:
        for name in names:
            opened.writestr(name, "hello, this is text")
    return file.getvalue()


GOOD = {"format": 1, "step": 5, "state": {"w": torch.arange(20.0)}}
FOREIGN = {
    "empty": (b"", "not of torch.save, it starts with b''"),
    "text": (b"learning rate 0.1\n" * 9, "not of torch.save, it starts with b'lear'"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(99), r"not of torch.save, it starts with b'\x89PNG'"),
    "zip": (archive("notes.txt", "data.pkl"), r"not of torch.save, it starts with b'PK\x03\x04'"),
    "old torch.save": (pickle.dumps(torch.ones(3)), r"not of torch.save, it starts with b'\x80\x04\x95"),
    "weights": (bytes_of({"w": torch.ones(3)}), "expected format 1, got None"),
    "list": (bytes_of([1, 2]), "expected format 1, got None"),
    "future": (bytes_of(GOOD | {"format": 2}), "expected format 1, got 2"),
    "text as format": (bytes_of(GOOD | {"format": "1"}), "expected format 1, got '1'"),
    "module": (bytes_of(nn.Linear(1, 1)), "not plain values: torch.nn.modules.linear.Linear"),
    "module inside": (bytes_of(GOOD | {"state": nn.Linear(1, 1)}), "not plain values: torch.nn.modules.linear.Linear"),
    "hostile": (bytes_of(Hostile("hacked")), f"not plain values: {os.mkdir.__module__}.mkdir"),
    "two": (bytes_of([Hostile("hacked"), slice(1)]), f"not plain values: builtins.slice, {os.mkdir.__module__}.mkdir"),
}


def named(data, step=5):
    return f"step-{step:08}-{sha256(data).hexdigest()[:16]}.pt"


@pytest.mark.parametrize("what", FOREIGN)
def test_a_foreign_file_says_what_it_is_and_the_last_good_one_is_used(what, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data, message = FOREIGN[what]
    with pytest.raises(ValueError, match=f"^{re.escape(message)}") as caught:
        decode(named(data), data, "cpu")
    assert type(caught.value) is ValueError
    checkpoints = Checkpoints(tmp_path / "run")
    checkpoints.save(4, {"last": "good"})
    path = checkpoints.folder / named(data)
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=f"^{re.escape(f'{path.name}: {message}')}"):
        checkpoints.load(path)
    with pytest.warns(UserWarning, match=f"^{re.escape(f'passed over {path.name}: {message}')}") as warned:
        assert checkpoints.latest() == (4, {"last": "good"})
    assert [w.filename == module.__file__ for w in warned] == [False]  # it points at the caller
    assert not Path("hacked").exists()


def test_the_hostile_file_is_hostile(tmp_path):
    torch.load(io.BytesIO(bytes_of(Hostile(tmp_path / "hacked"))), weights_only=False)
    assert (tmp_path / "hacked").is_dir()


def test_torch_refuses_what_the_search_for_names_might_miss(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.serialization, "get_unsafe_globals_in_checkpoint", lambda file: [])
    data = bytes_of(Hostile(tmp_path / "hacked"))
    with pytest.raises(pickle.UnpicklingError, match=r"^Weights only load failed"):
        load_plain(data, "cpu")
    assert not (tmp_path / "hacked").exists()


def test_weights_only_is_said_and_the_trial_load_takes_no_memory(monkeypatch):
    calls, load = [], torch.load

    def look(file, map_location=None, **options):
        calls.append((map_location, options))
        return load(file, map_location, **options)

    monkeypatch.setattr(torch, "load", look)
    decode(*encode(1, {"w": torch.ones(3)}), "cpu")
    assert calls == [("meta", {"weights_only": True}), ("cpu", {"weights_only": True})]


def test_every_truncation_and_every_flipped_bit_is_noticed():
    name, data = encode(5, {"w": torch.arange(20.0)})
    for length in range(len(data)):
        with pytest.raises(ValueError, match=r"^(not of torch.save, it starts with .*|cut off, its end is missing)$"):
            decode(name, data[:length], "cpu")
    for index in range(len(data)):
        flipped = bytearray(data)
        flipped[index] ^= 1 << index % 8
        with pytest.raises(ValueError, match=r"^(not of|cut off|damaged, its digest is not that in its name$)"):
            decode(name, bytes(flipped), "cpu")


def test_a_file_that_torch_wrote_under_another_name_is_read(tmp_path):
    for stem in ("a", "x" * 200):  # the archive's folder has this name
        torch.save(GOOD, tmp_path / f"{stem}.pt")
        data = (tmp_path / f"{stem}.pt").read_bytes()
        assert not data.startswith(b"archive", 30)
        assert same(decode(named(data), data, "cpu"), GOOD["state"])


def test_each_damage_has_its_own_message():
    name, data = encode(5, {"w": torch.arange(20.0)})
    assert data[30:46] == b"archive/data.pkl"
    with pytest.raises(ValueError, match=r"^not of torch.save, it starts with b'PK\\x03\\x04'$"):
        decode(name, data[:45], "cpu")
    with pytest.raises(ValueError, match=r"^cut off, its end is missing$"):
        decode(name, data[:46], "cpu")
    with pytest.raises(ValueError, match=r"^cut off, its end is missing$"):
        decode(name, data + b"x", "cpu")
    middle = bytearray(data)
    middle[len(data) // 2] ^= 1
    with pytest.raises(ValueError, match=r"^damaged, its digest is not that in its name$"):
        decode(name, bytes(middle), "cpu")
    with pytest.raises(ValueError, match=r"^damaged, its digest is not that in its name$"):
        decode("best.pt", data, "cpu")
    with pytest.raises(ValueError, match=r"^damaged, its digest is not that in its name$"):
        decode(f"step-00000005-{sha256(data).hexdigest()[1:17]}.pt", data, "cpu")


@pytest.mark.parametrize(("value", "message"), [
    (b"", "not plain values: builtins.bytes"), (frozenset(), "not plain values: builtins.frozenset"),  # torch cannot load these
    (np.float64(1), "not plain values: numpy._core.multiarray.scalar, numpy.dtype"),
    (np.zeros(2), "not plain values: numpy._core.multiarray._reconstruct, numpy.dtype, numpy.ndarray"),
    (Path("x"), "not plain values: pathlib"),
    (nn.ReLU(), "not plain values: torch.nn.modules.activation.ReLU"),
    (lambda: 0, "Can't pickle "), ((i for i in "ab"), "cannot pickle 'generator' object")])
def test_what_could_not_be_loaded_is_not_saved(value, message, tmp_path):
    checkpoints = Checkpoints(tmp_path)
    kept = checkpoints.save(1, {"good": 1})
    with pytest.raises(CheckpointError, match=f"^step 2 not saved: {re.escape(message)}"):
        checkpoints.save(2, {"metrics": [value]})
    assert [*tmp_path.iterdir()] == [kept]


def test_a_state_is_a_dict(tmp_path):
    with pytest.raises(CheckpointError, match=r"^step 2 not saved: 'list' object is not a mapping$"):
        Checkpoints(tmp_path).save(2, [1])
    assert [*tmp_path.iterdir()] == []


# Writing


def test_write_creates_replaces_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "file"
    for data in (b"first", b"", b"second" * 100_000):
        write_atomic(path, data)
        assert path.read_bytes() == data
        assert [*tmp_path.iterdir()] == [path]


def test_others_may_read_what_the_umask_allows(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomic(tmp_path / "file", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_data_reach_the_disk_before_the_name_and_the_name_after(tmp_path, monkeypatch):
    calls = []
    fsync, replace, close = os.fsync, os.replace, os.close

    def look_fsync(handle):
        calls.append(("fsync", Path(f"/proc/self/fd/{handle}").resolve().name, os.fstat(handle).st_size))
        fsync(handle)

    def look_replace(source, target):
        calls.append(("replace", Path(source).name, Path(target).name))
        replace(source, target)

    def look_close(handle):
        calls.append(("close", handle))
        close(handle)

    monkeypatch.setattr(os, "fsync", look_fsync)
    monkeypatch.setattr(os, "replace", look_replace)
    monkeypatch.setattr(os, "close", look_close)
    write_atomic(tmp_path / "file", b"12345")
    (_, temporary, size), second, third, _ = calls
    assert size == 5
    assert re.fullmatch(r"\.new-\d{19}-[0-9a-f]{16}", temporary)
    assert second == ("replace", temporary, "file")
    assert third[:2] == ("fsync", tmp_path.name)
    assert calls[-1][0] == "close"


def test_temporary_names_are_unique(tmp_path, monkeypatch):
    names = set()
    monkeypatch.setattr(time, "time_ns", lambda: 10**18)
    monkeypatch.setattr(os, "replace", lambda source, target: names.add(Path(source).name))
    for _ in range(20):
        write_atomic(tmp_path / "file", b"")
    assert len(names) == 20
    assert [*tmp_path.iterdir()] == []


def full(*args):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_an_error_leaves_the_last_good_one(call, tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    kept = checkpoints.save(1, {"good": 1})
    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(CheckpointError, match=r"^step 2 not saved: \[Errno 28\] No space left on device$") as caught:
            checkpoints.save(2, {"good": 2})
    assert isinstance(caught.value.__cause__, OSError)
    assert [*tmp_path.iterdir()] == [kept]
    assert checkpoints.latest() == (1, {"good": 1})


def test_a_disk_that_fills_up_leaves_the_last_good_one(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    kept = checkpoints.save(1, {"good": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(CheckpointError, match=r"^step 2 not saved: \[Errno 27\] File too large$"):
            checkpoints.save(2, {"w": torch.ones(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [*tmp_path.iterdir()] == [kept]
    assert checkpoints.latest() == (1, {"good": 1})


def test_an_interrupted_write_leaves_no_temporary_file(tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    checkpoints = Checkpoints(tmp_path)
    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(2, {})
    assert [*tmp_path.iterdir()] == []


# The folder


def test_defaults():
    assert str(signature(Checkpoints)) == "(folder: str | pathlib.Path, keep: int = 3)"
    for method in (Checkpoints.load, Checkpoints.latest):
        assert signature(method).parameters["map_location"].default == "cpu"


def test_three_are_kept_unless_told_otherwise(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    paths = [checkpoints.save(step, {}) for step in range(5)]
    assert checkpoints.files() == paths[:1:-1]
    assert {*tmp_path.iterdir()} == {*paths[2:]}


def test_the_same_step_twice_does_not_cost_an_older_one(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    older = checkpoints.save(1, {})
    for number in range(3):
        path = checkpoints.save(2, {"number": number})
        assert checkpoints.files() == [path, older]


def test_missing_folders_are_created_and_empty_ones_hold_nothing(tmp_path):
    checkpoints = Checkpoints(str(tmp_path / "a" / "b"), keep=1)
    assert (tmp_path / "a" / "b").is_dir()
    assert checkpoints.latest() is None
    assert checkpoints.files() == []
    assert Checkpoints(tmp_path / "a" / "b").folder == tmp_path / "a" / "b"


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError, match=r"^\[Errno 17\] File exists: '.*file'$"):
        Checkpoints(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_that_has_gone_is_an_error(tmp_path):
    checkpoints = Checkpoints(tmp_path / "run")
    (tmp_path / "run").rmdir()
    with pytest.raises(CheckpointError, match=r"^step 1 not saved: \[Errno 2\] No such file or directory: "):
        checkpoints.save(1, {})


@pytest.mark.parametrize("keep", [0, -1, 1.5, "3", None])
def test_keep_is_at_least_one(keep, tmp_path):
    with pytest.raises(ValueError, match=rf"^expected an int >= 1 as keep, got {keep!r}$"):
        Checkpoints(tmp_path / "run", keep)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("step", [-1, 10**8, 1.0, True, "7", None, torch.tensor(7)])
def test_a_step_is_a_small_int(step, tmp_path):
    with pytest.raises(ValueError, match=rf"^expected 0 <= step < 10\*\*8, got {re.escape(repr(step))}$"):
        Checkpoints(tmp_path).save(step, {})
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("step", [0, 10**8 - 1])
def test_the_smallest_and_the_largest_step(step, tmp_path):
    checkpoints = Checkpoints(tmp_path)
    path = checkpoints.save(step, {"a": 1})
    assert path.parent == tmp_path
    assert path.name.startswith(f"step-{step:08}-")
    assert checkpoints.files() == [path]
    assert checkpoints.latest() == (step, {"a": 1})


@settings(max_examples=20, deadline=None)
@given(steps=st.lists(st.integers(0, 12) | st.sampled_from([99, 100, 1000]), min_size=1, max_size=8), keep=st.integers(1, 4))
def test_the_last_few_are_kept_by_number_and_not_by_letter(steps, keep, tmp_path_factory):
    checkpoints = Checkpoints(tmp_path_factory.mktemp("run"), keep)
    model = {}  # what should be there: state by step
    for number, step in enumerate(steps):
        path = checkpoints.save(step, {"number": number})
        older = sorted((s for s in model if s < step), reverse=True)[:keep - 1]
        model = {s: n for s, n in model.items() if s > step or s in older} | {step: number}
        assert checkpoints.load(path) == {"number": number}
        assert checkpoints.latest() == (max(model), {"number": model[max(model)]})
    found = {int(f.name[5:13]): checkpoints.load(f)["number"] for f in checkpoints.files()}
    assert found == model
    assert [*found] == sorted(found, reverse=True)
    assert len(os.listdir(checkpoints.folder)) == len(model)


def test_a_bad_file_of_a_later_step_does_not_push_out_the_good_one(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1)
    bad = tmp_path / "step-00000009-0123456789abcdef.pt"
    bad.write_bytes(b"")
    good = checkpoints.save(7, {"a": 1})
    assert checkpoints.files() == [bad, good]
    with pytest.warns(UserWarning, match=r"^passed over step-00000009-0123456789abcdef.pt: not of torch.save"):
        assert checkpoints.latest() == (7, {"a": 1})
    later = checkpoints.save(9, {"a": 2})
    assert checkpoints.files() == [later]


@pytest.mark.parametrize("name", [
    "best.pt", "step-00000001.pt", "step-1-0123456789abcdef.pt", "step-000000001-0123456789abcdef.pt",
    "step-00000001-0123456789abcdeg.pt", "step-00000001-0123456789ABCDEF.pt", "step-00000001-0123456789abcdef.pt.bak",
    "a-step-00000001-0123456789abcdef.pt", "step-00000001-0123456789abcde.pt", "step-00000002-notes.txt",
    ".news", ".new", "new-1", ".new-er"])
def test_foreign_files_are_left_alone(name, tmp_path):
    (tmp_path / name).write_text("mine")
    checkpoints = Checkpoints(tmp_path, keep=1)
    assert checkpoints.latest() is None
    for step in (1, 2, 2, 3):
        path = checkpoints.save(step, {"s": step, "r": random.random()})
    assert {*os.listdir(tmp_path)} == {name, path.name}
    assert (tmp_path / name).read_text() == "mine"


def test_temporary_files_of_before_are_removed_and_those_of_now_are_not(tmp_path):
    left = tmp_path / f".new-{time.time_ns()}-0123456789abcdef"
    left.write_text("half")
    checkpoints = Checkpoints(tmp_path)
    now = tmp_path / f".new-{time.time_ns()}-0123456789abcdef"
    now.write_text("half")
    assert left.exists()
    path = checkpoints.save(1, {})
    assert {*tmp_path.iterdir()} == {now, path}
    path = Checkpoints(tmp_path).save(1, {})
    assert {*tmp_path.iterdir()} == {path}


def test_what_another_process_has_removed_is_no_error(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path, keep=1)
    gone = [tmp_path / f"step-0000000{n}-0123456789abcdef.pt" for n in (2, 1)]
    files = checkpoints.files
    monkeypatch.setattr(checkpoints, "files", lambda: [*files(), *gone])
    checkpoints.save(2, {})
    monkeypatch.setattr(checkpoints, "files", lambda: [gone[1], *files()])
    with pytest.warns(UserWarning, match=r"^passed over step-00000001-0123456789abcdef.pt: \[Errno 2\] No such file"):
        assert checkpoints.latest() == (2, {})


@pytest.mark.parametrize("first", ["a", "b"])
def test_two_runs_at_the_same_step_never_remove_each_others_file(first, tmp_path, monkeypatch):
    """Both write step 5 between the other's look at the folder and its removing."""
    one, two = Checkpoints(tmp_path, keep=1), Checkpoints(tmp_path, keep=1)
    other = {"a": "b", "b": "a"}[first]
    write = module.write_atomic

    def write_after_the_other(path, data):
        monkeypatch.setattr(module, "write_atomic", write)
        two.save(5, {"run": other})
        write(path, data)

    monkeypatch.setattr(module, "write_atomic", write_after_the_other)
    one.save(5, {"run": first})
    assert {one.load(file)["run"] for file in one.files()} == {"a", "b"}
    path = one.save(5, {"run": "c"})
    assert one.files() == [path]


def test_a_folder_with_bad_files_only_is_not_a_fresh_start(tmp_path):
    (tmp_path / "step-00000009-0123456789abcdef.pt").write_bytes(b"")
    (tmp_path / "step-00000010-0123456789abcdef.pt").mkdir()
    checkpoints = Checkpoints(tmp_path)
    with (pytest.warns(UserWarning, match="^passed over") as warned,
          pytest.raises(CheckpointError, match=rf"^no good checkpoint in {tmp_path}$")):
        checkpoints.latest()
    assert [str(w.message)[12:42] for w in warned] == ["step-00000010-0123456789abcdef", "step-00000009-0123456789abcdef"]
    assert "Is a directory" in str(warned[0].message)


def test_load_takes_a_path_or_its_text_and_a_device(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    path = checkpoints.save(3, {"w": torch.ones(2)})
    assert torch.equal(checkpoints.load(str(path))["w"], torch.ones(2))
    assert checkpoints.load(path, "meta")["w"].is_meta
    assert checkpoints.load(path, torch.device("meta"))["w"].is_meta
    assert checkpoints.latest("meta")[1]["w"].is_meta
    assert checkpoints.load(path)["w"].device.type == "cpu"
    with pytest.raises(CheckpointError, match=r"^missing.pt: \[Errno 2\] No such file or directory: '.*missing.pt'$"):
        checkpoints.load(tmp_path / "missing.pt")


def test_errors_are_value_errors_with_a_cause(tmp_path):
    assert issubclass(CheckpointError, ValueError)
    with pytest.raises(CheckpointError) as caught:
        Checkpoints(tmp_path).load(tmp_path)
    assert isinstance(caught.value.__cause__, IsADirectoryError)


# The script


PRINTED = "['step-00000000', 'step-00000001', 'step-00000002', 'step-00000003'] (3, {})\n"


def test_main_saves_and_finds(capsys):
    main()
    assert capsys.readouterr().out == PRINTED


@pytest.mark.filterwarnings("ignore:.*found in sys.modules.*:RuntimeWarning")
def test_module_runs_as_a_script(capsys):
    runpy.run_module("snippets.training.checkpoints", run_name="__main__")
    assert capsys.readouterr().out == PRINTED


if __name__ == "__main__":
    torch.set_num_threads(1)
    home = Path(sys.argv[1])
    train_in(home / "first", 1)  # what torch imports at the first step is not for each fork to import
    print(json.dumps({task.__name__: task(home) for task in (kills_at_every_point, kills_at_random, two_at_once)}))
