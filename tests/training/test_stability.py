"""Stability against torch.nn.utils, torch.amp, torch.where by hand, medians by NumPy and a count of host reads."""

import inspect
import math
import runpy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.utils._python_dispatch import TorchDispatchMode

from snippets.training.stability import (
    Scaler,
    clip_norm_,
    clip_value_,
    first_bad_step,
    first_nonfinite,
    gradients,
    main,
    plausible,
    where_safe,
)

SEEDS = st.integers(0, 10_000)
DTYPES = st.sampled_from([torch.float32, torch.float64])
SHAPES = st.lists(st.lists(st.integers(1, 4), max_size=3), min_size=1, max_size=4)


def leaves(seed: int, shapes: list, dtype: torch.dtype = torch.float64, scale: float = 1.0) -> list[torch.Tensor]:
    """Leaves with normal gradients; each third has none."""
    generator = torch.Generator().manual_seed(seed)
    made = [torch.zeros(shape, dtype=dtype, requires_grad=True) for shape in shapes]
    for i, leaf in enumerate(made):
        if i % 3 != 2:
            leaf.grad = scale * torch.randn(leaf.shape, generator=generator, dtype=dtype)
    return made


def parameter(*gradient: float) -> torch.Tensor:
    leaf = torch.zeros(len(gradient), requires_grad=True)
    leaf.grad = torch.tensor(gradient)
    return leaf


# gradients


def test_gradients_are_the_tensors_themselves_without_those_that_are_none():
    first, empty, last = parameter(1.0), torch.zeros(1, requires_grad=True), parameter(2.0)
    found = gradients(iter([first, empty, last]))
    assert [id(g) for g in found] == [id(first.grad), id(last.grad)]


@pytest.mark.parametrize("given_", [[], [torch.zeros(2, requires_grad=True)]])
@pytest.mark.parametrize("clip", [gradients, lambda p: clip_value_(p, 1.0), lambda p: clip_norm_(p, 1.0)])
def test_no_gradient_at_all_is_refused(clip, given_):
    with pytest.raises(ValueError, match=r"^expected parameters with gradients, got none$"):
        clip(given_)


def test_a_generator_that_is_used_up_is_refused():
    parameters = nn.Linear(2, 2).parameters()
    list(parameters)
    with pytest.raises(ValueError, match=r"^expected parameters with gradients, got none$"):
        clip_norm_(parameters, 1.0)


# clipping


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, shapes=SHAPES, dtype=DTYPES, limit=st.floats(0.01, 5.0))
def test_clip_value_equals_the_library(seed, shapes, dtype, limit):
    ours, theirs = (leaves(seed, shapes, dtype) for _ in range(2))
    assert clip_value_(ours, limit) is None
    clip_grad_value_(theirs, limit)
    for a, b in zip(ours, theirs, strict=True):
        assert a.grad is b.grad is None or torch.equal(a.grad, b.grad)


@settings(max_examples=20, deadline=None)
@given(
    seed=SEEDS, shapes=SHAPES, dtype=DTYPES, limit=st.floats(0.01, 5.0),
    p=st.sampled_from([0.5, 1.0, 2.0, 3.0, math.inf]), scale=st.sampled_from([1e-6, 1.0, 100.0]),
)  # fmt: skip
def test_clip_norm_equals_the_library_in_norm_and_gradients(seed, shapes, dtype, limit, p, scale):
    ours, theirs = (leaves(seed, shapes, dtype, scale) for _ in range(2))
    norm = clip_norm_(ours, limit, p)
    torch.testing.assert_close(norm, clip_grad_norm_(theirs, limit, norm_type=p))
    assert norm.shape == ()
    assert norm.dtype == dtype
    for a, b in zip(ours, theirs, strict=True):
        if b.grad is None:
            assert a.grad is None
        else:
            torch.testing.assert_close(a.grad, b.grad)


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, shapes=SHAPES, limit=st.floats(0.1, 5.0), p=st.sampled_from([1.0, 2.0, math.inf]))
def test_clip_norm_is_the_norm_of_one_vector_and_keeps_its_direction(seed, shapes, limit, p):
    made = leaves(seed, shapes)
    before = torch.cat([g.flatten() for g in gradients(made)])
    norm = clip_norm_(made, limit, p)
    after = torch.cat([g.flatten() for g in gradients(made)])
    torch.testing.assert_close(norm, before.norm(p))
    assert after.norm(p) <= limit
    torch.testing.assert_close(after, before * min(1.0, limit / (norm.item() + 1e-6)))


def test_clip_norm_defaults_to_the_euclidean_norm():
    leaf = parameter(3.0, 4.0)
    assert clip_norm_([leaf], 1.0).item() == 5.0
    torch.testing.assert_close(leaf.grad, torch.tensor([0.6, 0.8]))


def test_clip_norm_leaves_a_shorter_gradient_and_all_parameters_alone():
    leaf = parameter(0.3, 0.4)
    before = leaf.grad.clone()
    clip_norm_([leaf], 1.0)
    clip_norm_([leaf], math.inf)
    assert torch.equal(leaf.grad, before)
    assert torch.equal(leaf, torch.zeros(2))


@pytest.mark.parametrize(("gradient", "after"), [
    ((0.0, 0.0), (0.0, 0.0)),
    ((math.nan, 1.0), (math.nan, math.nan)),
    ((math.inf, 1.0), (math.nan, 0.0)),
])  # fmt: skip
def test_clip_norm_at_the_edges_is_what_the_library_does(gradient, after):
    ours, theirs = parameter(*gradient), parameter(*gradient)
    clip_norm_([ours], 1.0)
    clip_grad_norm_([theirs], 1.0)
    torch.testing.assert_close(ours.grad, torch.tensor(after), equal_nan=True)
    torch.testing.assert_close(ours.grad, theirs.grad, equal_nan=True)


def test_the_small_number_in_the_denominator_is_a_millionth():
    leaf = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    leaf.grad = torch.tensor([1e-6], dtype=torch.float64)
    clip_norm_([leaf], 1e-6)
    assert leaf.grad.item() == pytest.approx(0.5e-6, rel=1e-12)


@pytest.mark.parametrize("limit", [0.0, -1.0, math.nan])
def test_limits_that_are_not_positive_are_refused(limit):
    leaf = parameter(1.0)
    with pytest.raises(ValueError, match=rf"^expected limit > 0, got {limit}$"):
        clip_value_([leaf], limit)
    with pytest.raises(ValueError, match=rf"^expected max_norm > 0, got {limit}$"):
        clip_norm_([leaf], limit)
    assert leaf.grad.item() == 1.0


# plausible


@settings(max_examples=20, deadline=None)
@given(norms=st.lists(st.floats(0.01, 100.0), max_size=80), norm=st.floats(0.01, 1000.0), factor=st.floats(1.01, 10.0))
def test_plausible_is_a_bound_by_the_median_of_the_last_fifty(norms, norm, factor):
    kept = list(norms)
    limit = factor * np.median(norms[-50:]) if len(norms) >= 5 else math.inf
    assert plausible(norm, kept, factor) is bool(norm <= limit)
    assert kept == ([*norms, norm] if norm <= limit else norms)


def test_plausible_accepts_the_limit_itself_and_by_default_four_medians():
    assert plausible(4.0, [1.0] * 5)
    assert not plausible(math.nextafter(4.0, 5.0), [1.0] * 5)
    assert plausible(1e9, [1.0] * 4)
    assert not plausible(1e9, [1.0] * 5)


def test_plausible_looks_back_fifty_norms_and_no_further():
    assert plausible(40.0, [1.0] * 1000 + [10.0] * 26 + [1.0] * 24)
    assert not plausible(40.0, [10.0] * 1000 + [10.0] * 24 + [1.0] * 26)
    assert not plausible(41.0, [100.0] + [1.0] * 25 + [10.0] * 25)  # median 5.5
    assert plausible(22.0, [0.0] + [1.0] * 25 + [10.0] * 25)


@pytest.mark.parametrize("norm", [math.nan, math.inf, -math.inf])
def test_a_norm_that_is_not_finite_is_never_plausible(norm):
    norms: list[float] = []
    assert plausible(norm, norms) is False
    assert norms == []


@pytest.mark.parametrize("factor", [1.0, 0.5, math.nan])
def test_plausible_refuses_a_factor_that_would_shrink_the_level(factor):
    with pytest.raises(ValueError, match=rf"^expected factor > 1, got {factor}$"):
        plausible(1.0, [], factor)


# where_safe


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, shape=st.lists(st.integers(1, 4), max_size=3), dtype=DTYPES)
def test_where_safe_is_function_where_the_mask_holds_and_has_its_gradient(seed, shape, dtype):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=dtype).requires_grad_()
    y = where_safe(x > 0, torch.log, x, otherwise=-3.0)
    good = x > 0
    torch.testing.assert_close(y[good], x[good].log())
    assert (y[~good] == -3.0).all()
    assert y.dtype == dtype
    y.sum().backward()
    torch.testing.assert_close(x.grad, torch.where(good, 1 / x, 0).detach())


def test_where_safe_shows_the_function_one_and_returns_zero_by_default():
    seen = []

    def function(z):
        seen.append(z.tolist())
        return 5 * z

    x = torch.tensor([2.0, 3.0])
    mask = torch.tensor([True, False])
    assert where_safe(mask, function, x).tolist() == [10.0, 0.0]
    assert where_safe(mask, function, x, 7.0, 9.0).tolist() == [10.0, 9.0]
    assert seen == [[2.0, 1.0], [2.0, 7.0]]


def test_where_alone_has_the_trap_that_where_safe_avoids():
    x = torch.zeros(1, requires_grad=True)
    torch.where(x > 0, x.log(), 0.0).sum().backward()
    assert x.grad.isnan().all()


def test_where_safe_passes_gradcheck():
    x = torch.tensor([-1.0, 0.0, 0.5, 2.0], dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([False, False, True, True])
    assert torch.autograd.gradcheck(lambda v: where_safe(mask, torch.log, v), x)


@pytest.mark.parametrize(("mask", "got"), [
    (torch.ones(3), r"torch\.float32 \(3,\)"),
    (torch.ones(1, dtype=torch.bool), r"torch\.bool \(1,\)"),
    (torch.ones(3, 1, dtype=torch.bool), r"torch\.bool \(3, 1\)"),
    (torch.ones(2), r"torch\.float32 \(2,\)"),
])  # fmt: skip
def test_where_safe_refuses_a_mask_of_another_type_or_shape(mask, got):
    with pytest.raises(ValueError, match=rf"^expected bool \(3,\), got {got}$"):
        where_safe(mask, torch.log, torch.ones(3))


# first_bad_step


class HostReads(TorchDispatchMode):
    """Counts the numbers that Python reads: each would wait for an accelerator."""

    count = 0

    def __torch_dispatch__(self, call, types, args=(), kwargs=None):
        self.count += call is torch.ops.aten._local_scalar_dense.default
        return call(*args, **(kwargs or {}))


@settings(max_examples=20, deadline=None)
@given(bad=st.lists(st.booleans(), max_size=12), value=st.sampled_from([math.nan, math.inf, -math.inf]))
def test_first_bad_step_is_the_first_one(bad, value):
    first = torch.tensor(-1)
    for step, is_bad in enumerate(bad):
        first = first_bad_step(first, step, torch.tensor(value if is_bad else 1.0))
    assert first.dtype == torch.int64
    assert first.shape == ()
    assert first.item() == (bad.index(True) if any(bad) else -1)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_first_bad_step_looks_at_every_number_of_every_value(place):
    values = [torch.ones(2, 3), torch.ones(()), torch.ones(4)]
    values[place].view(-1)[-1] = math.nan
    assert first_bad_step(torch.tensor(-1), 7, *values).item() == 7
    assert first_bad_step(torch.tensor(0), 7, *values).item() == 0


def test_first_bad_step_reads_nothing_back_and_keeps_no_graph():
    loss = torch.ones(3, requires_grad=True).square().sum()
    with HostReads() as reads:
        first = first_bad_step(torch.tensor(-1), 3, loss)
    assert reads.count == 0
    assert not first.requires_grad
    with HostReads() as reads:
        assert bool(loss.isfinite())
    assert reads.count == 1


def test_first_bad_step_runs_without_data():
    ghost = torch.ones(2, device="meta")
    first = first_bad_step(torch.tensor(-1, device="meta"), 0, ghost)
    assert first.device.type == "meta"


# first_nonfinite


def trained() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(4, 2)).square().sum().backward()
    optimizer.step()
    return model, optimizer


def spoil(tensor: torch.Tensor, value: float = math.nan) -> None:
    with torch.no_grad():
        tensor.view(-1)[-1] = value


def test_first_nonfinite_finds_nothing_in_a_healthy_model():
    model, optimizer = trained()
    assert first_nonfinite(model) is None
    assert first_nonfinite(model, optimizer) is None
    optimizer.zero_grad()
    assert first_nonfinite(model, optimizer) is None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_first_nonfinite_names_each_kind_and_gradients_come_first(value):
    model, optimizer = trained()
    spoil(optimizer.state[model[1].weight]["exp_avg_sq"], value)
    assert first_nonfinite(model) is None
    assert first_nonfinite(model, optimizer) == "exp_avg_sq of 1.weight"
    spoil(optimizer.state[model[0].bias]["exp_avg"], value)
    assert first_nonfinite(model, optimizer) == "exp_avg of 0.bias"
    spoil(model[1].running_var, value)
    assert first_nonfinite(model, optimizer) == "buffer 1.running_var"
    spoil(model[1].bias, value)
    assert first_nonfinite(model, optimizer) == "parameter 1.bias"
    assert first_nonfinite(model) == "parameter 1.bias"
    spoil(model[1].weight.grad, value)
    assert first_nonfinite(model, optimizer) == "gradient of 1.weight"


def test_first_nonfinite_leaves_an_unused_optimizer_as_it_was():
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    assert first_nonfinite(model, optimizer) is None
    assert len(optimizer.state) == 0


def test_first_nonfinite_passes_over_state_that_is_no_tensor():
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    optimizer.state[model.weight]["momentum_buffer"] = None
    optimizer.state[model.bias]["note"] = math.nan
    assert first_nonfinite(model, optimizer) is None


# Scaler


def run(scaler, steps: int, bad: set[int], seed: int, clip: float | None) -> tuple[list[float], torch.Tensor]:
    """Train three numbers through float16; a step in bad has an infinite loss."""
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(3, generator=generator).requires_grad_()
    target = 8 * torch.randn(3, generator=generator)
    optimizer = torch.optim.SGD([w], lr=0.1, momentum=0.5)
    scales = []
    for step in range(steps):
        loss = (w.half().float() - target).square().mean() * (math.inf if step in bad else 1.0)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scales.append(scaler.scale(torch.ones(())).item())
        if clip is not None:
            scaler.unscale_(optimizer)
            clip_grad_norm_([w], clip)
        scaler.step(optimizer)
        scaler.update()
    return [*scales, scaler.scale(torch.ones(())).item()], w.detach()


@settings(max_examples=20, deadline=None)
@given(
    seed=SEEDS, bad=st.sets(st.integers(0, 19)), interval=st.integers(1, 7),
    power=st.integers(-2, 24), clip=st.sampled_from([None, 0.5, 100.0]),
)  # fmt: skip
def test_scaler_equals_the_library_step_by_step(seed, bad, interval, power, clip):
    scale = 2.0**power
    ours = run(Scaler(scale, interval), 20, bad, seed, clip)
    theirs = run(torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=interval), 20, bad, seed, clip)
    assert ours[0] == theirs[0]
    assert torch.equal(ours[1], theirs[1])


def test_scaler_has_the_defaults_of_the_library():
    library = torch.amp.GradScaler("cpu").state_dict()
    ours = Scaler()
    assert (ours.factor, ours.interval) == (library["scale"], library["growth_interval"]) == (65536.0, 2000)
    assert (library["growth_factor"], library["backoff_factor"]) == (2.0, 0.5)
    assert (ours.good, ours.overflow) == (0, None)
    assert isinstance(Scaler(2).factor, float)


def stepped(scaler: Scaler, *gradient: float) -> torch.Tensor:
    w = parameter(*gradient)
    optimizer = torch.optim.SGD([w], lr=1.0)
    scaler.step(optimizer)
    return w


def test_scaler_unscales_before_the_step_and_skips_an_overflow():
    scaler = Scaler(4.0, 2)
    assert stepped(scaler, 8.0, -4.0).tolist() == [-2.0, 1.0]
    scaler.update()
    assert (scaler.factor, scaler.good, scaler.overflow) == (4.0, 1, None)
    assert stepped(scaler, 8.0, math.inf).tolist() == [0.0, 0.0]
    scaler.update()
    assert (scaler.factor, scaler.good, scaler.overflow) == (2.0, 0, None)
    stepped(scaler, 8.0)
    scaler.update()
    stepped(scaler, 8.0)
    scaler.update()
    assert (scaler.factor, scaler.good) == (4.0, 0)


def test_scaler_finds_an_overflow_in_any_group_and_any_number():
    for place in range(3):
        made = [parameter(1.0, 1.0) for _ in range(3)]
        made[place].grad[1] = -math.inf
        optimizer = torch.optim.SGD([{"params": made[:1]}, {"params": made[1:]}], lr=1.0)
        scaler = Scaler()
        scaler.unscale_(optimizer)
        assert scaler.overflow is True


def test_scaler_refuses_a_second_unscale_until_update():
    scaler = Scaler(2.0)
    w = parameter(4.0)
    optimizer = torch.optim.SGD([w], lr=1.0)
    scaler.unscale_(optimizer)
    with pytest.raises(RuntimeError, match=r"^expected one unscale_ per update, got two$"):
        scaler.unscale_(optimizer)
    assert w.grad.item() == 2.0
    scaler.step(optimizer)
    assert w.item() == -2.0
    scaler.update()
    scaler.unscale_(optimizer)
    assert w.grad.item() == 1.0


def test_scaler_refuses_an_update_without_a_step():
    scaler = Scaler()
    with pytest.raises(RuntimeError, match=r"^expected step before update$"):
        scaler.update()
    assert (scaler.factor, scaler.good) == (65536.0, 0)


def test_scaler_scales_the_loss_inside_the_graph():
    x = torch.tensor(3.0, requires_grad=True)
    y = Scaler(8.0).scale(x)
    y.backward()
    assert (y.item(), x.grad.item()) == (24.0, 8.0)


# the module


def test_what_the_page_says_about_defaults():
    defaults = {n: p.default for n, p in inspect.signature(clip_norm_).parameters.items()}
    assert defaults["p"] == 2.0
    assert inspect.signature(plausible).parameters["factor"].default == 4.0


EXPECTED = """\
norm 5, then 1.0000
by value tensor([ 0.6000, -0.7000])
plausible {1.0: True, 3.0: True, 1.5: True, 2.5: True, 2.0: True, 8.5: False, 8.0: True}
gradient of log [0.0, 1.0]
step 0: scale 2, weights tensor([ 3., -4.])
step 1: scale 4, weights tensor([ 2.4000, -3.2000])
step 2: scale 8, weights tensor([ 1.9200, -2.5600])
not finite since step 0
first: buffer running_mean
"""


def test_main(capsys):
    main()
    assert capsys.readouterr().out == EXPECTED


@pytest.mark.filterwarnings("ignore:.*found in sys.modules.*:RuntimeWarning")
def test_runs_as_a_script(capsys):
    runpy.run_module("snippets.training.stability", run_name="__main__")
    assert capsys.readouterr().out == EXPECTED
