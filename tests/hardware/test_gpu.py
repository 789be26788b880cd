"""Proofs for snippets/hardware/gpu.py: closed forms, events by hand, other dtypes and the allocator's view as oracles."""

import gc
import itertools
import math
import re
import runpy
import weakref
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from snippets.hardware.gpu import (
    Tape,
    fitting,
    main,
    needs_data,
    product_error,
    queue,
    rounded,
    saved,
    step_bytes,
    whereabouts,
)

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("one_thread")


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# whereabouts


def module(**attributes) -> nn.Module:
    made = nn.Module()
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


def test_whereabouts_are_those_of_parameters_and_buffers():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    assert whereabouts(model) == dict.fromkeys(model.state_dict(), "cpu")
    assert list(whereabouts(nn.Linear(2, 3))) == ["weight", "bias"]
    assert whereabouts(model.to("meta")) == dict.fromkeys(model.state_dict(), "meta")


def test_whereabouts_finds_what_does_not_move():
    model = module(
        layer=nn.Linear(1, 1, bias=False), plain=torch.ones(1), items=[torch.ones(1), {"deep": (torch.ones(1),)}],
        layers=[nn.Linear(1, 1, bias=False)], table={"a": torch.ones(1), 3: torch.ones(1)}, number=3, text="text")
    model.register_buffer("hidden", torch.ones(1), persistent=False)
    model.to("meta")
    assert whereabouts(model) == {
        "layer.weight": "meta", "hidden": "meta", "plain": "cpu", "items.0": "cpu", "items.1.deep.0": "cpu",
        "layers.0.weight": "cpu", "table.a": "cpu", "table.3": "cpu"}


def test_whereabouts_names_a_tensor_once_and_survives_circles():
    shared = torch.ones(1)
    model = module(one=shared, two=[shared, shared])
    model.parent = [model]
    model.items = model.two
    model.two.append(model.two)
    assert whereabouts(model) == {"one": "cpu"}


def test_whereabouts_of_tied_weights():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[1].weight = model[0].weight
    assert whereabouts(model) == {"0.weight": "cpu"}


@pytest.mark.parametrize(("wrong", "name"), [(torch.ones(1), "Tensor"), (None, "NoneType"), ([nn.Linear(1, 1)], "list")])
def test_whereabouts_refuses_what_is_no_module(wrong, name):
    with pytest.raises(TypeError, match=f"^expected a module, got {name}$"):
        whereabouts(wrong)


def test_whereabouts_of_an_empty_module():
    assert whereabouts(nn.Module()) == {}


# queue

TIMES = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12)


def by_clock(launch, work, waits):
    """The same program, moment by moment: in each the host launches or waits and the device works or idles."""
    launched, started, ended, host = {}, {}, {}, {}
    for now, i in itertools.product(range(400), range(len(launch))):
        before = i == 0 or (i - 1 in launched and launched[i - 1] <= now)
        if before and i - 1 in waits:
            before = ended.get(i - 1, math.inf) <= now
        if i not in host and before:
            host[i], launched[i] = now, now + launch[i]
        free = i == 0 or ended.get(i - 1, math.inf) <= now
        if i not in started and free and launched.get(i, math.inf) <= now:
            started[i], ended[i] = now, now + work[i]
    count = range(len(launch))
    return [(host[i], launch[i]) for i in count], [(started[i], work[i]) for i in count]


@settings(max_examples=60, deadline=None)
@given(times=TIMES, waits=st.sets(st.integers(0, 11)))
def test_queue_is_what_a_clock_shows(times, waits):
    launch, work = [a for a, _ in times], [w for _, w in times]
    # moments of no length follow each other within one moment of the clock, in order
    assert queue(launch, work, waits) == by_clock(launch, work, waits)


@pytest.mark.parametrize(("n", "a", "w"), [(8, 5, 20), (3, 5, 5), (8, 5, 2), (1, 4, 7), (5, 0.5, 0.25)])
def test_queue_has_closed_forms(n, a, w):
    host, device = queue([a] * n, [w] * n)
    assert sum(host[-1]) == n * a
    assert sum(device[-1]) == (a + n * w if w >= a else n * a + w)
    host, device = queue([a] * n, [w] * n, range(n))
    assert (sum(host[-1]), sum(device[-1])) == ((n - 1) * (a + w) + a, n * (a + w))
    assert queue([a] * n, [w] * n, {n - 1}) == queue([a] * n, [w] * n)


def test_queue_by_hand():
    host, device = queue([1, 2, 3], [10, 1, 1], waits={0})
    assert host == [(0, 1), (11, 2), (13, 3)]
    assert device == [(1, 10), (13, 1), (16, 1)]


def test_an_empty_queue():
    assert queue([], []) == ([], [])


@pytest.mark.parametrize(("launch", "work"), [([1], []), ([1], [1, 2]), ([-1], [1]), ([1, 1], [1, -0.5])])
def test_queue_refuses_other_times(launch, work):
    with pytest.raises(ValueError, match=f"^{re.escape(f'expected pairs of times, got {launch}, {work}')}$"):
        queue(launch, work)


def test_queue_accepts_times_of_zero():
    assert queue([0, 0], [0, 0]) == ([(0, 0), (0, 0)], [(0, 0), (0, 0)])


# needs_data

WAITS = {
    "item": lambda x: x.sum().item(), "tolist": lambda x: x.tolist(), "cpu": lambda x: x.cpu(), "bool": lambda x: bool(x.any()),
    "nonzero": lambda x: x.nonzero(), "mask": lambda x: x[x > 0], "unique": lambda x: x.unique(),
    "equal": lambda x: torch.equal(x, x), "format": lambda x: f"{x.sum():.1f}", "numpy": lambda x: x.numpy(),
}
AHEAD = {
    "sum": lambda x: x.sum(), "shape": lambda x: x.shape, "where": lambda x: torch.where(x > 0, x, 0), "sort": lambda x: x.sort(),
    "index": lambda x: x[x.argsort()], "matmul": lambda x: x @ x, "nothing": lambda x: None,
}


@pytest.mark.parametrize(("call", "waits"), [(c, True) for c in WAITS.values()] + [(c, False) for c in AHEAD.values()],
                         ids=[*WAITS, *AHEAD])
def test_needs_data_tells_which_calls_read(call, waits):
    assert needs_data(call, torch.arange(4.0)) is waits


def test_needs_data_raises_the_errors_of_the_call_itself():
    with pytest.raises(RuntimeError, match="shape"):
        needs_data(lambda x: x.view(5), torch.ones(4))
    with pytest.raises(ZeroDivisionError):
        needs_data(lambda: 1 // 0)


def test_needs_data_leaves_its_tensors_alone_and_passes_all():
    one, two = torch.zeros(2), torch.ones(2)
    seen = []
    assert not needs_data(lambda a, b: seen.append((a.add_(b).device.type, b.device.type)), one, two)
    assert seen == [("cpu", "cpu"), ("meta", "meta")]
    assert one.tolist() == [0, 0]


def test_needs_data_does_not_hide_other_errors():
    def odd(x):
        if x.is_meta:
            raise KeyError("odd")

    with pytest.raises(KeyError):
        needs_data(odd, torch.ones(1))


# step_bytes and saved


def network(widths):
    layers = [nn.Linear(n, m) for n, m in itertools.pairwise(widths)]
    parts = [part for layer in layers for part in (layer, nn.ReLU())]
    return nn.Sequential(*parts[:-1])


def count(tensors) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


@settings(max_examples=25, deadline=None)
@given(widths=st.lists(st.integers(1, 40), min_size=2, max_size=5), batch=st.integers(1, 33))
def test_the_bytes_of_a_step_are_as_predicted(widths, batch):
    model = network(widths)
    adam = torch.optim.Adam(model.parameters())
    x, y = numbers(batch, widths[0]), torch.zeros(batch, dtype=torch.int64)
    loss, kept = saved(lambda: F.cross_entropy(model(x), y), model)
    loss.backward()
    adam.step()
    assert step_bytes(widths, batch) == {
        "parameters": count(model.parameters()),
        "gradients": count(p.grad for p in model.parameters()),
        "optimizer": count(t for state in adam.state.values() for t in state.values()),
        "activations": kept,
    }


def test_step_bytes_by_hand():
    assert step_bytes([3, 2], 5) == {
        "parameters": 32, "gradients": 32, "optimizer": 72, "activations": 4 * 5 * 5 + 44}
    assert list(step_bytes((3, 2), 5)) == ["parameters", "gradients", "optimizer", "activations"]


@pytest.mark.parametrize(("widths", "batch"), [([3], 1), ([], 1), ([3, 2], 0), ([3, 0], 1), ([-3, 2], 4)])
def test_step_bytes_refuses_other_sizes(widths, batch):
    with pytest.raises(ValueError, match=f"^{re.escape(f'expected sizes from 1 on, got {widths}, {batch}')}$"):
        step_bytes(widths, batch)


def test_step_bytes_accepts_the_smallest():
    assert step_bytes([1, 1], 1)["parameters"] == 8


def test_saved_counts_a_storage_once_and_no_parameter():
    layer = nn.Linear(4, 4)
    x = numbers(8, 4)
    result, kept = saved(lambda: layer(x).sum(), layer)
    assert kept == count([x])  # x for the weight's gradient; the weight is needed too, and is a parameter
    torch.testing.assert_close(result, layer(x).sum())
    _, kept = saved(lambda: (layer(x) + layer(x[:2]).sum()).sum(), layer)
    assert kept == count([x])
    assert saved(lambda: layer(x).tanh().sum(), layer)[1] == 2 * count([x])


def test_saved_counts_the_weights_of_another_model():
    layer, other = nn.Linear(4, 4), nn.Linear(4, 4)
    x = numbers(8, 4).requires_grad_()
    assert saved(lambda: layer(x).sum(), other)[1] == count([x, layer.weight])


def test_saved_keeps_backward_right():
    layer, x = nn.Linear(3, 2), numbers(5, 3)
    loss, _ = saved(lambda: layer(x).square().sum(), layer)
    loss.backward()
    (want,) = torch.autograd.grad(layer(x).square().sum(), layer.weight)
    torch.testing.assert_close(layer.weight.grad, want)


def test_saved_counts_nothing_without_gradients():
    with torch.no_grad():
        assert saved(lambda: nn.Linear(2, 2)(torch.ones(1, 2)), nn.Linear(2, 2))[1] == 0


# Tape


def test_the_tape_follows_tensors_as_they_come_and_go():
    x = torch.ones(100)
    with Tape(x) as tape:
        start = tape.watch(())
        y = x * 2
        z = y + 1
        del y
        z.mul_(2)
        view = z[:3]
        del z
        (view + 1)
    assert start == 400
    assert tape.names == ["mul", "add", "mul_", "slice", "add"]
    assert tape.bytes == [800, 1200, 800, 800, 812]
    assert tape.watch(()) == 800
    del view
    assert tape.watch(()) == 400


def test_the_tape_counts_a_storage_once():
    x = torch.ones(10)
    tape = Tape(x, x[:2], x.view(2, 5))
    assert tape.watch(()) == 40
    assert tape.watch([x, {"y": torch.ones(3), "n": 3}]) == 52
    assert tape.watch(()) == 40


def test_the_tape_sees_several_outputs_keywords_and_changes_nothing():
    x = numbers(6)
    with Tape() as tape:
        values, indices = x.sort(descending=True)
    assert torch.equal(values, torch.sort(x, descending=True).values)
    assert tape.names == ["sort"]
    assert tape.bytes == [6 * 4 + 6 * 8]
    assert len(indices) == 6


def test_the_tape_passes_keywords_on():
    with Tape() as tape:
        made = torch.zeros(3, dtype=torch.float64)
    assert (made.dtype, tape.bytes[-1]) == (torch.float64, 24)


def test_the_tape_keeps_nothing_alive():
    with Tape() as tape:
        x = torch.ones(10)
        reference = weakref.ref(x)
    del x
    assert reference() is None
    assert tape.watch(()) == 0
    assert tape.sizes == {}


def test_the_tape_counts_reads():
    with Tape() as tape:
        total = torch.ones(3).sum()
        for _ in range(4):
            total.item()
    assert tape.names.count("_local_scalar_dense") == 4


def test_levels_of_a_step():
    widths, batch = [30, 20, 10], 16
    model = network(widths)
    x, y = numbers(batch, 30), torch.zeros(batch, dtype=torch.int64)
    want = step_bytes(widths, batch)
    gc.collect()
    with Tape(*model.parameters(), x, y) as tape:
        loss = F.cross_entropy(model(x), y)
        assert tape.watch(()) == want["parameters"] + want["activations"] + 4
        loss.backward()
        assert tape.watch(()) == want["parameters"] + want["gradients"] + count([x, y, loss])
    assert max(tape.bytes) > tape.bytes[-1]


# fitting


class Step:
    """Pretends to have memory for `limit` rows; notes sizes, and how many failed tries are still alive."""

    def __init__(self, limit):
        self.limit, self.sizes, self.alive, self.made = limit, [], [], []

    def __call__(self, rows):
        self.alive.append(sum(reference() is not None for reference in self.made))
        self.sizes.append(rows)
        activations = torch.zeros(3)
        self.made.append(weakref.ref(activations))
        if rows > self.limit:
            raise torch.OutOfMemoryError(f"no memory for {rows} rows")


@pytest.mark.parametrize(
    ("limit", "size", "sizes"),
    [(512, 4096, [4096, 2048, 1024, 512]), (600, 1000, [1000, 500]), (8, 8, [8]), (1, 5, [5, 2, 1]), (1, 1, [1])],
)
def test_fitting_halves_and_lets_go(limit, size, sizes):
    step = Step(limit)
    assert fitting(step, size) == sizes[-1]
    assert step.sizes == sizes
    assert step.alive == [0] * len(sizes)


def test_fitting_gives_up_at_one_row():
    step = Step(0)
    with pytest.raises(torch.OutOfMemoryError, match=r"^no memory for 1 rows$"):
        fitting(step, 4)
    assert step.sizes == [4, 2, 1]


def test_fitting_lets_other_errors_through():
    with pytest.raises(RuntimeError, match=r"^odd$"):
        fitting(lambda rows: (_ for _ in ()).throw(RuntimeError("odd")), 4)


@pytest.mark.parametrize("size", [0, -3])
def test_fitting_refuses_no_rows(size):
    with pytest.raises(ValueError, match=f"^expected a size from 1 on, got {size}$"):
        fitting(print, size)


# rounded and product_error


@pytest.mark.parametrize(("bits", "dtype"), [(8, torch.bfloat16), (11, torch.float16), (24, torch.float32)])
def test_rounded_is_the_dtype_with_as_many_digits(bits, dtype):
    x = numbers(100_000)
    x = torch.cat([x, 1 + torch.arange(4096) / 4096, 100 * x, torch.zeros(1)])  # the second part holds the ties
    x = torch.cat([x[x.abs() > 1e-3], torch.zeros(1)])  # float16 is coarser below 6e-5
    assert torch.equal(rounded(x, bits), x.to(dtype).float())


def test_rounded_keeps_large_numbers_and_signs():
    x = torch.tensor([3e38 / 2, -3e38 / 2, -0.0, 1e-30])
    assert torch.equal(rounded(x, 8), x.bfloat16().float())
    assert rounded(torch.tensor([-0.0]), 8).signbit().item()


@settings(max_examples=50, deadline=None)
@given(bits=st.integers(1, 24), value=st.floats(2.0**-20, 2.0**20, width=32), sign=st.sampled_from([-1, 1]))
def test_rounded_takes_the_nearest(bits, value, sign):
    exponent = math.frexp(value)[1]
    step = 2.0 ** (exponent - bits)
    found = rounded(torch.tensor(sign * value), bits).item()
    assert found == sign * round(value / step) * step  # Python rounds ties to even
    assert abs(found - sign * value) <= step / 2


@pytest.mark.parametrize("bits", [0, 25, -1])
def test_rounded_refuses_other_digits(bits):
    with pytest.raises(ValueError, match=f"^expected 1 to 24 bits, got {bits}$"):
        rounded(torch.ones(1), bits)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int32])
def test_rounded_refuses_other_dtypes(dtype):
    with pytest.raises(TypeError, match=f"^expected float32, got {dtype}$"):
        rounded(torch.ones(1, dtype=dtype), 8)


@pytest.mark.parametrize("bits", [3, 5, 8, 11, 14])
def test_the_error_of_a_product_is_as_predicted(bits):
    a, b = numbers(2, 400, 400)
    exact = a.double() @ b.double()
    error = rounded(a, bits).double() @ rounded(b, bits).double() - exact
    assert (error.norm() / exact.norm()).item() == pytest.approx(product_error(bits), rel=0.015)


def test_each_digit_halves_the_error():
    assert product_error(8) == pytest.approx(8 * product_error(11), rel=1e-12)
    # entries of variance 1, steps between 2**-bits of half and of the whole entry
    assert 2.0**-8 / math.sqrt(6) < product_error(8) < 2 * 2.0**-8 / math.sqrt(6)


def test_the_spread_is_an_integral():
    """4**e over the normal distribution, by the trapezoidal rule in each octave."""
    spread = 0.0
    for e in range(-30, 6):
        x = torch.linspace(2.0 ** (e - 1), 2.0**e, 2001, dtype=torch.float64)
        density = 2 * torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi)
        spread += 4.0**e * torch.trapezoid(density, x).item()
    assert product_error(0) == pytest.approx(math.sqrt(spread / 6), rel=1e-6)


# the page and the script


def test_the_page_names_functions_that_exist():
    page = (ROOT / "docs/hardware/gpu.md").read_text(encoding="utf-8")
    names = set(re.findall(r"torch\.(accelerator|cuda)\.(\w+)", page))
    assert len(names) > 10
    assert [f"{part}.{name}" for part, name in names if not hasattr(getattr(torch, part), name)] == []


OUTPUT = """\
parameters     814,120 bytes predicted
gradients      814,120 bytes predicted
optimizer    1,628,256 bytes predicted
activations    269,316 bytes predicted
activations    269,316 bytes found
TF32          2.94e-04 error of a product
bfloat16      2.35e-03 error of a product
"""


def test_main_prints_what_is_predicted_and_found(capsys):
    main()
    assert capsys.readouterr().out == OUTPUT


@pytest.mark.filterwarnings("ignore:.*found in sys.modules.*:RuntimeWarning")
def test_module_runs_as_a_script(capsys):
    runpy.run_module("snippets.hardware.gpu", run_name="__main__")
    assert capsys.readouterr().out == OUTPUT
