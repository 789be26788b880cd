"""Tensor hooks against closed forms, finite differences and the same work done without hooks."""

import gc
import math
import runpy
import weakref
from contextlib import ExitStack, nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.utils.hooks import RemovableHandle

from snippets.hooks.tensor_hooks import (
    GradientLog,
    Packed,
    SavedBytes,
    clip_gradient_,
    main,
    optimizer_in_backward,
    storages,
)

SEEDS = st.integers(0, 10_000)


def randn(*shape, seed=0, dtype=torch.float64, requires_grad=False):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=dtype).requires_grad_(requires_grad)


def network(activation=nn.Tanh, width=8, seed=0, dtype=torch.float64):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(3, width), activation(), nn.Linear(width, width), activation(), nn.Linear(width, 2)
        ).to(dtype)


def loss_of(model, seed=1, dtype=torch.float64):
    return (model(randn(5, 3, seed=seed, dtype=dtype)) - randn(5, 2, seed=seed + 1, dtype=dtype)).square().mean()


def gradients(model, context, loss=loss_of):
    """The gradients of a loss whose forward pass runs in the context."""
    with context:
        value = loss(model)
    return torch.autograd.grad(value, list(model.parameters()))


def assert_equal(tensors, others):
    for tensor, other in zip(tensors, others, strict=True):
        assert torch.equal(tensor, other)


def same_storage(tensor, other):
    return tensor.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


# what the page tells about autograd itself


def example():
    a, b, d = (torch.tensor(v, requires_grad=True) for v in (2.0, 3.0, 4.0))
    c = a * b
    return a, b, c, d, c * d


@settings(max_examples=20, deadline=None)
@given(shift=st.floats(-5, 5), seed=SEEDS)
def test_adding_to_a_gradient_is_adding_to_the_result(shift, seed):
    """Finite differences of e + shift c, where the hook adds shift to the gradient of c."""
    start = randn(3, seed=seed)
    a, b, d = (v.clone().requires_grad_() for v in start)
    c = a * b
    c.register_hook(lambda grad: grad + shift)
    (c * d).backward()

    def changed(v):
        return v[0] * v[1] * v[2] + shift * v[0] * v[1]

    h = 1e-6
    slopes = [(changed(start + h * unit) - changed(start - h * unit)) / (2 * h) for unit in torch.eye(3).double()]
    torch.testing.assert_close(torch.stack([a.grad, b.grad, d.grad]), torch.stack(slopes), rtol=1e-6, atol=1e-7)


def test_the_kinds_of_hooks_run_in_the_order_of_the_page():
    a, b, c, _, e = example()
    ran = []
    torch.autograd.graph.register_multi_grad_hook([a, b], lambda _: ran.append("multi"))
    a.register_post_accumulate_grad_hook(lambda _: ran.append("post-accumulate"))
    a.register_hook(lambda _: ran.append("leaf"))
    c.grad_fn.register_hook(lambda *_: ran.append("node"))
    c.grad_fn.register_prehook(lambda *_: ran.append(f"before the node, {c.grad.item()}"))
    c.retain_grad()
    c.register_hook(lambda grad: ran.append(f"tensor, {c.grad}") or grad + 2)
    e.backward()
    assert ran == ["tensor, None", "before the node, 6.0", "node", "leaf", "post-accumulate", "multi"]


def test_a_pair_of_hooks_switches_the_version_check_off():
    """Why SavedBytes has one of its own."""
    w = torch.ones(2, requires_grad=True)
    with saved_tensors_hooks(lambda t: t.detach(), lambda t: t):
        h = w * 1
        out = (h * h).sum()
    h.detach().mul_(10)
    out.backward()
    assert w.grad.tolist() == [20.0, 20.0]


# clip_gradient_


@settings(max_examples=30, deadline=None)
@given(
    shape=st.lists(st.integers(1, 4), max_size=3), limit=st.floats(0, 3), seed=SEEDS,
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
def test_clip_clamps_the_gradient_on_its_way(shape, limit, seed, dtype):
    slope = randn(*shape, seed=seed).to(dtype)
    leaf = torch.ones(shape, dtype=dtype, requires_grad=True)
    middle = 3 * leaf
    middle.retain_grad()
    handle = clip_gradient_(middle, limit)
    assert type(handle) is RemovableHandle
    (middle * slope).sum().backward()
    expected = slope.double().clamp(-limit, limit)
    torch.testing.assert_close(middle.grad, expected.to(dtype))
    torch.testing.assert_close(leaf.grad, (3 * expected.to(dtype)))
    assert middle.grad.dtype == dtype


def test_clip_on_a_leaf_works_before_the_sum():
    w = torch.zeros(2, requires_grad=True)
    with clip_gradient_(w, 1.5):
        for _ in range(2):
            (w * torch.tensor([7.0, -9.0])).sum().backward()
    assert w.grad.tolist() == [3.0, -3.0]
    (w * torch.tensor([7.0, -9.0])).sum().backward()
    assert w.grad.tolist() == [10.0, -12.0]


def test_clip_turns_an_infinite_slope_into_a_number():
    x = torch.zeros(3, requires_grad=True)
    u = x**2
    clip_gradient_(u, 1e6)
    u.sqrt().sum().backward()
    assert x.grad.tolist() == [0.0, 0.0, 0.0]


def test_clip_leaves_nan_and_a_gradient_at_the_limit():
    w = torch.zeros(3, requires_grad=True)
    clip_gradient_(w, 2)
    (w * torch.tensor([math.nan, 2.0, math.inf])).sum().backward()
    assert w.grad[0].isnan()
    assert w.grad[1:].tolist() == [2.0, 2.0]


def test_clip_with_limit_zero_blocks_the_gradient():
    w = torch.ones(2, requires_grad=True)
    clip_gradient_(w, 0)
    (5 * w).sum().backward()
    assert w.grad.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("limit", [-1.0, -1e-9, math.inf, math.nan, -math.inf])
def test_clip_refuses_a_limit_that_cannot_be_meant(limit):
    w = torch.ones(2, requires_grad=True)
    with pytest.raises(ValueError, match=rf"^expected 0 <= limit < inf, got {limit}$"):
        clip_gradient_(w, limit)
    assert not w._backward_hooks


def test_clip_refuses_a_tensor_without_a_gradient():
    with pytest.raises(ValueError, match=r"^expected a tensor that requires a gradient$"):
        clip_gradient_(torch.ones(2), 1.0)


# optimizer_in_backward

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01),
}


@pytest.mark.parametrize("make_optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_every_step_equals_the_usual_loop(make_optimizer):
    usual, hooked = network(), network()
    optimizer = make_optimizer(usual.parameters())
    with optimizer_in_backward(hooked.parameters(), make_optimizer):
        for step in range(8):
            optimizer.zero_grad()
            loss_of(usual, seed=step).backward()
            optimizer.step()
            loss_of(hooked, seed=step).backward()
            assert_equal(usual.parameters(), hooked.parameters())
            assert [p.grad for p in hooked.parameters()] == [None] * 6
    assert not torch.equal(usual[0].weight, network()[0].weight)


def test_a_parameter_that_is_used_twice_steps_once():
    w = torch.tensor([1.0, 2.0], requires_grad=True)
    with optimizer_in_backward([w], lambda p: torch.optim.SGD(p, lr=0.5)):
        (w.sum() + 2 * (3 * w).sum()).backward()
    assert w.tolist() == [1 - 0.5 * 7, 2 - 0.5 * 7]


def test_a_parameter_that_is_given_twice_steps_once():
    w = torch.ones(1, requires_grad=True)
    with optimizer_in_backward([w, w], lambda p: torch.optim.SGD(p, lr=0.5)):
        assert len(w._post_accumulate_grad_hooks) == 1
        w.sum().backward()
    assert w.tolist() == [0.5]


def test_each_parameter_gets_an_optimizer_of_its_own():
    model = network()
    made = []

    def make_optimizer(parameters):
        made.append(parameters)
        return torch.optim.SGD(parameters, lr=0.1)

    with optimizer_in_backward(model.parameters(), make_optimizer):
        assert all(type(group) is list and len(group) == 1 for group in made)
        assert [group[0] for group in made] == list(model.parameters())


def test_gradients_never_live_together():
    model = network()
    parameters = list(model.parameters())
    live = []
    with ExitStack() as hooks:
        for p in parameters:
            hooks.enter_context(p.register_post_accumulate_grad_hook(
                lambda _: live.append(sum(q.grad is not None for q in parameters))
            ))
        with optimizer_in_backward(parameters, OPTIMIZERS["sgd"]):
            loss_of(model).backward()
        assert live == [1] * 6
        loss_of(model).backward()
    assert live[6:] == [1, 2, 3, 4, 5, 6]


def test_old_gradients_are_dropped_first():
    w = torch.ones(2, requires_grad=True)
    (100 * w).sum().backward()
    hooks = optimizer_in_backward([w], OPTIMIZERS["sgd"])
    assert w.grad is None
    w.sum().backward()
    hooks.close()
    torch.testing.assert_close(w.detach(), torch.full((2,), 0.9))


@pytest.mark.parametrize("leave", ["with", "close", "error"])
def test_leaving_removes_the_hooks(leave):
    w = torch.ones(2, requires_grad=True)
    hooks = optimizer_in_backward([w], OPTIMIZERS["sgd"])
    assert type(hooks) is ExitStack
    if leave == "with":
        with hooks:
            pass
    elif leave == "close":
        hooks.close()
    else:
        with pytest.raises(ZeroDivisionError), hooks:
            1 / 0  # noqa: B018
    w.sum().backward()
    assert w.tolist() == [1.0, 1.0]
    assert w.grad.tolist() == [1.0, 1.0]


def test_it_works_without_a_with_block():
    w = torch.ones(1, requires_grad=True)
    optimizer_in_backward([w], OPTIMIZERS["sgd"])
    w.sum().backward()
    assert w.item() == pytest.approx(0.9)


def test_a_step_that_comes_too_early_is_an_error():
    """The gradient of v needs w, but the one of w is complete before."""
    v, w = (torch.ones(2, requires_grad=True) for _ in range(2))
    loss = ((3 * v) * w.detach()).sum() + w.sum()
    with optimizer_in_backward([w], OPTIMIZERS["sgd"]), pytest.raises(RuntimeError, match="modified by an inplace"):
        loss.backward()


@pytest.mark.parametrize("bad", [torch.ones(2), torch.ones(2, requires_grad=True) * 2], ids=["frozen", "computed"])
def test_it_refuses_what_no_optimizer_can_move(bad):
    w = torch.ones(2, requires_grad=True)
    made = []
    with pytest.raises(ValueError, match=r"^expected leaves that require a gradient$"):
        optimizer_in_backward([w, bad], made.append)
    assert made == []
    assert not w._post_accumulate_grad_hooks


def test_it_refuses_parameters_that_are_used_up():
    parameters = network().parameters()
    list(parameters)
    with pytest.raises(ValueError, match=r"^expected parameters, got none$"):
        optimizer_in_backward(parameters, OPTIMIZERS["sgd"])


# GradientLog


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, steps=st.integers(1, 4))
def test_the_log_holds_the_norm_of_every_gradient(seed, steps):
    model = network(seed=seed)
    with GradientLog(model.named_parameters()) as log:
        for step in range(steps):
            model.zero_grad()
            loss_of(model, seed=step).backward()
            row = log.rows[-1]
            assert list(row) == [name for name, _ in model.named_parameters()]
            for name, p in model.named_parameters():
                assert type(row[name]) is float
                assert row[name] == pytest.approx(p.grad.square().sum().sqrt().item())
            total = nn.utils.get_total_norm([p.grad for p in model.parameters()])
            assert math.hypot(*row.values()) == pytest.approx(total.item())
    assert len(log.rows) == steps
    loss_of(model).backward()
    assert len(log.rows) == steps


def test_the_log_sees_one_pass_and_not_the_sum():
    w = torch.zeros(2, requires_grad=True)
    log = GradientLog([("w", w)])
    for _ in range(3):
        (w * torch.tensor([3.0, 4.0])).sum().backward()
    assert log.rows == [{"w": 5.0}] * 3
    assert w.grad.tolist() == [9.0, 12.0]


def test_the_log_sees_gradients_that_a_step_frees():
    w = torch.zeros(2, requires_grad=True)
    with GradientLog([("w", w)]) as log, optimizer_in_backward([w], OPTIMIZERS["sgd"]):
        (w * torch.tensor([3.0, 4.0])).sum().backward()
    assert log.rows == [{"w": 5.0}]
    assert w.grad is None


def test_the_log_leaves_out_what_got_no_gradient():
    v, w = (torch.ones(1, requires_grad=True) for _ in range(2))
    with GradientLog({"v": v, "w": w}.items()) as log:
        (2 * w).sum().backward()
        (v + 3 * w).sum().backward()
    assert log.rows == [{"w": 2.0}, {"v": 1.0, "w": 3.0}]


def test_the_log_changes_no_gradient_and_knows_intermediate_tensors():
    a, b, c, d, e = example()
    with GradientLog([("c", c), ("a", a)]) as log:
        e.backward()
    assert log.rows == [{"c": 4.0, "a": 12.0}]
    assert [t.grad.item() for t in (a, b, d)] == [12.0, 8.0, 6.0]


def test_the_log_removes_its_hook_after_an_error():
    w = torch.ones(1, requires_grad=True)
    with pytest.raises(ZeroDivisionError), GradientLog([("w", w)]) as log:
        1 / 0  # noqa: B018
    w.sum().backward()
    assert log.rows == []


def test_the_log_refuses_a_frozen_tensor_by_name():
    model = network()
    model[2].bias.requires_grad_(False)
    with pytest.raises(ValueError, match=r"^expected a gradient for '2\.bias'$"):
        GradientLog(model.named_parameters())
    assert not model[0].weight._backward_hooks


def test_the_log_expects_a_gradient_or_none_for_each_name():
    log = GradientLog([("w", torch.ones(1, requires_grad=True))])
    log.note([None])
    assert log.rows == [{}]
    with pytest.raises(ValueError, match=r"^zip"):
        log.note([])


def test_the_log_refuses_no_tensors():
    with pytest.raises(ValueError, match=r"^expected tensors, got none$"):
        GradientLog(iter(()))


# storages


def test_storages_count_memory_once_and_whole():
    base = torch.zeros(6, dtype=torch.float32)
    other = torch.zeros(3, dtype=torch.float64)
    assert storages([base[:2], base.view(2, 3).T, other]) == {base.data_ptr(): 24, other.data_ptr(): 24}
    assert storages([]) == {}


# SavedBytes

KEPT = {  # tensors of 40 floats that one operation keeps, from its derivative
    "sum": (lambda u, v: u + v, 0),
    "mean": (lambda u, v: u.mean(), 0),
    "product": (lambda u, v: u * v, 2),
    "square": (lambda u, v: u * u, 1),
    "exp": (lambda u, v: u.exp(), 1),
    "sin": (lambda u, v: u.sin(), 1),
    "chain": (lambda u, v: u.exp().sin(), 1),  # exp keeps its result, sin keeps the same tensor
    "views": (lambda u, v: u.view(5, 8).sin().sum() + u.T.cos().sum(), 1),
}


@pytest.mark.parametrize(("function", "count"), KEPT.values(), ids=KEPT)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_saved_bytes_of_single_operations(function, count, dtype):
    u, v = (randn(8, 5, seed=s, dtype=dtype, requires_grad=True) for s in range(2))
    with SavedBytes() as saved:
        out = function(u, v)
    assert saved.total() == count * 40 * dtype.itemsize
    del out
    assert saved.total() == 0


def test_saved_bytes_leave_out_what_is_alive_anyway():
    u, v = (torch.ones(4, requires_grad=True) for _ in range(2))
    for alive, total in (((), 32), ([u], 16), (iter([u, v]), 0), ([torch.ones(4)], 32)):
        with SavedBytes(alive) as saved:
            out = u * v
        assert saved.total() == total
        assert out.grad_fn is not None


def test_saved_bytes_of_a_layer_follow_its_derivative():
    """x W^T + b keeps x and W; a bias needs nothing."""
    layer, x = nn.Linear(3, 7), torch.ones(5, 3, requires_grad=True)
    with SavedBytes() as saved:
        out = layer(x)
    assert saved.total() == (5 * 3 + 7 * 3) * 4
    with SavedBytes([layer.weight]) as saved:
        out = layer(x)
    assert saved.total() == 5 * 3 * 4
    del out


def test_saved_bytes_fall_to_zero_with_backward_unless_the_graph_stays():
    w = torch.ones(4, requires_grad=True)
    with SavedBytes() as saved:
        out = w.exp().sum()
    out.backward(retain_graph=True)
    assert saved.total() == 16
    out.backward()
    assert saved.total() == 0


def test_saved_bytes_counts_in_its_block_only():
    w = torch.ones(4, requires_grad=True)
    before = w.exp()
    saved = SavedBytes()
    with saved as entered:
        assert entered is saved
    after = w.exp()
    assert saved.total() == 0
    assert before.grad_fn is not None
    assert after.grad_fn is not None


@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU, nn.Softplus])
def test_saved_bytes_changes_no_gradient(activation):
    model = network(activation)
    assert_equal(gradients(model, nullcontext()), gradients(model, SavedBytes()))


def test_saved_bytes_passes_first_and_second_derivatives():
    def function(u):
        with SavedBytes():
            return (u.exp() * u).sin()

    u = randn(4, requires_grad=True)
    assert gradcheck(function, u)
    assert gradgradcheck(function, u)


def test_saved_bytes_holds_no_cycle():
    w = torch.ones(3, requires_grad=True)
    with SavedBytes():
        y = w.exp()
    seen = weakref.ref(y)
    gc.disable()
    try:
        del y
        assert seen() is None
    finally:
        gc.enable()


def test_saved_bytes_notices_an_in_place_change():
    w = torch.ones(2, requires_grad=True)
    with SavedBytes():
        h = w * 1
        out = (h * h).sum()
    h.detach().mul_(10)
    with pytest.raises(RuntimeError, match=r"^a tensor kept for backward was changed$"):
        out.backward()


def test_saved_bytes_accepts_a_change_before_the_save():
    w = torch.ones(2, requires_grad=True)
    with SavedBytes():
        h = (w * 1).mul_(3)
        out = (torch.relu_(h) ** 2).sum()
    out.backward()
    assert w.grad.tolist() == [18.0, 18.0]


# Packed

WIDTHS = [(torch.float32, torch.bfloat16), (torch.float32, torch.float16), (torch.float64, torch.float32)]


@settings(max_examples=20, deadline=None)
@given(dtypes=st.sampled_from(WIDTHS), rows=st.integers(1, 5), seed=SEEDS)
def test_packed_rounds_the_factor_and_nothing_else(dtypes, rows, seed):
    """d(u v)/du is v, exactly as rounded."""
    wide, small = dtypes
    u, v = (randn(rows, 3, seed=seed + s, dtype=wide, requires_grad=True) for s in range(2))
    with Packed(small) as saved:
        out = u * v
    assert torch.equal(out, u * v)
    assert saved.total() == 2 * rows * 3 * small.itemsize
    out.sum().backward()
    assert torch.equal(u.grad, v.detach().to(small).to(wide))
    assert torch.equal(v.grad, u.detach().to(small).to(wide))
    assert u.grad.dtype == wide
    assert saved.total() == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("activation", "share"), [(nn.GELU, 0.5), (nn.Softplus, None), (nn.Tanh, 1.0)])
def test_packed_network_against_the_exact_gradient(activation, share, dtype):
    model = network(activation, width=64, dtype=torch.float32)

    def loss(model):
        return model(randn(32, 3, dtype=torch.float32)).sum()

    exact = torch.cat([g.flatten() for g in gradients(model, nullcontext(), loss)])
    full, small = SavedBytes(model.parameters()), Packed(dtype, model.parameters())
    with full:
        first = loss(model)
    with small:
        second = loss(model)
    assert torch.equal(first, second)
    if share is not None:
        assert small.total() / full.total() == pytest.approx(share, abs=0.02)
    rounded = torch.cat([g.flatten() for g in torch.autograd.grad(second, list(model.parameters()))])
    error = (rounded - exact).norm() / exact.norm()
    assert 0 < error < torch.finfo(dtype).eps


def test_packed_leaves_alive_tensors_exact():
    u, v = (torch.full((2,), 1 / 3, requires_grad=True) for _ in range(2))
    with Packed(torch.bfloat16, iter([v])) as saved:
        out = u * v
    assert saved.total() == 4
    out.sum().backward()
    assert torch.equal(u.grad, v.detach())
    assert v.grad.tolist() != u.tolist()


def test_packed_keeps_the_memory_of_alive_tensors_through_views():
    layer, x = nn.Linear(3, 7), torch.ones(5, 3)
    with Packed(torch.bfloat16, [layer.weight, x]) as saved:
        out = layer(x.requires_grad_())
    assert saved.total() == 0
    weight = next(k for k in saved.kept if same_storage(k.tensor, layer.weight))
    assert weight.tensor.dtype == torch.float32
    del out


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
def test_packed_leaves_indices_alone(dtype):
    w = torch.ones(4, requires_grad=True)
    index = torch.tensor([1, 0, 1, 1]).to(dtype)
    with Packed(torch.bfloat16) as saved:
        out = w[index].sum()
    assert {kept.tensor.dtype for kept in saved.kept} <= {torch.int64, torch.bool}
    out.backward()
    assert w.grad.tolist() == ([1.0, 3.0, 0.0, 0.0] if dtype == torch.int64 else [1.0, 0.0, 1.0, 1.0])


@pytest.mark.parametrize(
    ("dtype", "target"),
    [(torch.float32, torch.float32), (torch.float32, torch.float64), (torch.bfloat16, torch.float16)],
)
def test_packed_never_widens_and_never_swaps_equal_sizes(dtype, target):
    """bfloat16 into float16 would round and save no byte."""
    w = torch.full((2,), 1 / 3, dtype=dtype, requires_grad=True)
    with Packed(target) as saved:
        out = w * w
    assert {kept.tensor.dtype for kept in saved.kept} == {dtype}
    assert all(same_storage(kept.tensor, w) for kept in saved.kept)
    out.sum().backward()
    assert torch.equal(w.grad, 2 * w.detach())


def test_packed_complex_numbers_stay():
    w = torch.tensor([1 + 2j], requires_grad=True)
    with Packed(torch.float16) as saved:
        out = (w * w).abs().sum()
    assert torch.complex64 in {kept.tensor.dtype for kept in saved.kept}
    out.backward()


def test_packed_refuses_what_becomes_infinite():
    w = torch.tensor([65_504.0, 70_000.0], requires_grad=True)
    with Packed(torch.float16), pytest.raises(ValueError, match=r"^expected values within torch\.float16$"):
        w.square()
    with Packed(torch.bfloat16):
        w.square()
    with Packed(torch.float16):
        w[:1].square()


def test_packed_passes_what_is_infinite_already():
    w = torch.tensor([math.inf, -math.inf, math.nan, 1.0], requires_grad=True)
    with Packed(torch.float16):
        out = w * w
    out.sum().backward()
    torch.testing.assert_close(w.grad, 2 * w.detach(), equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.complex64])
def test_packed_refuses_other_dtypes(dtype):
    with pytest.raises(TypeError, match=rf"^expected a floating dtype, got {dtype}$"):
        Packed(dtype)


def test_packed_is_a_copy_that_later_changes_do_not_reach():
    w = torch.ones(2, requires_grad=True)
    with Packed(torch.bfloat16):
        h = w * 1
        out = (h * h).sum()
    h.detach().mul_(10)
    out.backward()
    assert w.grad.tolist() == [2.0, 2.0]


def test_only_the_innermost_pair_is_called():
    w = torch.ones(4, requires_grad=True)
    with SavedBytes() as outer, Packed(torch.bfloat16) as inner:
        out = w.exp()
    assert (outer.total(), inner.total()) == (0, 8)
    with SavedBytes() as outer, save_on_cpu():
        other = w.exp()
    assert outer.total() == 0
    del out, other


# the script

PRINTED = (
    "gradients of a, b, d: 18.0 12.0 6.0\n"
    "gradient norm 0.025 in step 100\n"
    "16640 bytes kept before backward, 0 after\n"
    "8320 bytes kept before backward, 0 after\n"
)


def test_main_prints_gradients_norm_and_bytes(capsys):
    with torch.random.fork_rng(devices=[]):
        main()
    assert capsys.readouterr().out == PRINTED


@pytest.mark.filterwarnings("ignore:.*found in sys.modules.*:RuntimeWarning")
def test_module_runs_as_a_script(capsys):
    with torch.random.fork_rng(devices=[]):
        runpy.run_module("snippets.hooks.tensor_hooks", run_name="__main__")
    assert capsys.readouterr().out == PRINTED
