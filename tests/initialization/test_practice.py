"""Initialization in practice against nn.init, closed forms, exact identities and sampling intervals."""

import math
import runpy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from snippets.initialization.practice import (
    RECOMMENDED,
    Residual,
    ResidualMLP,
    Scheme,
    draw_,
    initialize,
    main,
    materialize,
    refuse,
    scheme_for,
    signal,
    stack,
    tensors,
    zero_last_,
)

pytestmark = pytest.mark.usefixtures("one_thread")
SEEDS = st.integers(0, 10_000)
KNOWN = "linear, relu, leaky_relu, tanh, selu, gelu, silu"


def snapshot(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors(model).items()}


def same(model: nn.Module, before: dict[str, torch.Tensor]) -> bool:
    now = tensors(model)
    return now.keys() == before.keys() and all(torch.equal(now[name], before[name]) for name in now)


class Own(nn.Module):
    """One tensor of its own and no reset_parameters."""

    def __init__(self, kind: str):
        super().__init__()
        if kind == "parameter":
            self.tensor = nn.Parameter(torch.ones(2))
        else:
            self.register_buffer("tensor", torch.ones(2))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight


# draw_

LAYERS = {
    "linear": lambda: nn.Linear(30, 20),
    "conv1d": lambda: nn.Conv1d(4, 6, 3),
    "conv2d": lambda: nn.Conv2d(4, 6, (3, 5)),
    "conv3d": lambda: nn.Conv3d(2, 6, 3),
    "grouped": lambda: nn.Conv2d(8, 8, 3, groups=8),
    "no bias": lambda: nn.Linear(30, 20, bias=False),
}


@pytest.mark.parametrize("name", LAYERS)
@settings(max_examples=5, deadline=None)
@given(seed=SEEDS, dtype=st.sampled_from([torch.float32, torch.float64]))
def test_draw_makes_the_draws_of_kaiming_normal(name, seed, dtype):
    layer = LAYERS[name]().to(dtype)
    parameter, want = layer.weight, torch.empty_like(layer.weight)
    torch.manual_seed(seed)
    nn.init.kaiming_normal_(want, mode="fan_in", nonlinearity="relu")
    torch.manual_seed(seed)
    assert draw_(layer, 2**0.5) is None
    torch.testing.assert_close(layer.weight.data, want)
    assert layer.weight is parameter
    assert layer.weight.is_leaf
    assert layer.weight.requires_grad
    assert layer.bias is None or not layer.bias.any()


@pytest.mark.parametrize("gain", [0.5, 1.0, 3.0])
def test_draw_has_the_variance_of_its_gain(gain):
    torch.manual_seed(0)
    layer = nn.Linear(400, 250)
    draw_(layer, gain)
    n = layer.weight.numel()
    square = layer.weight.square().mean().item() * 400 / gain**2
    assert abs(square - 1) < 4 * math.sqrt(2 / n)
    assert abs(layer.weight.mean().item()) < 4 * gain / math.sqrt(400 * n)


def test_draw_resets_what_can_reset_itself_and_leaves_children_alone():
    norm = nn.BatchNorm1d(3)
    for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        nn.init.constant_(tensor, 7.0)
    parent = nn.Sequential(norm, nn.ReLU())
    draw_(parent, 1.0)
    draw_(parent[1], 1.0)
    assert norm.weight.tolist() == [7.0] * 3
    draw_(norm, 1.0)
    assert norm.weight.tolist() == norm.running_var.tolist() == [1.0] * 3
    assert norm.bias.tolist() == norm.running_mean.tolist() == [0.0] * 3


# initialize


@pytest.mark.parametrize("name", RECOMMENDED)
def test_initialize_draws_every_layer_in_order_with_the_gain_of_the_activation(name):
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Sequential(nn.BatchNorm2d(4), nn.Embedding(5, 6)), nn.Linear(6, 8))
    gain = RECOMMENDED[name].gain
    torch.manual_seed(3)
    conv = torch.empty(4, 2, 3, 3).normal_(std=gain / 18**0.5)
    embedding = torch.empty(5, 6).normal_()
    linear = torch.empty(8, 6).normal_(std=gain / 6**0.5)
    torch.manual_seed(3)
    assert initialize(model, name) is model
    for parameter, want in (model[0].weight, conv), (model[1][1].weight, embedding), (model[2].weight, linear):
        torch.testing.assert_close(parameter.data, want)
    assert model[1][0].weight.tolist() == [1.0] * 4
    assert not any(layer.bias.any() for layer in (model[0], model[1][0], model[2]))


def test_initialize_is_for_relu_by_default():
    model = nn.Linear(5, 4)
    torch.manual_seed(0)
    want = snapshot(initialize(model, "relu"))
    torch.manual_seed(0)
    assert same(initialize(model), want)


def test_initialize_draws_a_shared_weight_twice_and_the_last_wins():
    model = Tied()
    torch.manual_seed(0)
    torch.empty(7, 4).normal_()
    want = torch.empty(7, 4).normal_(std=0.5)
    torch.manual_seed(0)
    initialize(model, "linear")
    torch.testing.assert_close(model.embedding.weight.data, want)
    assert model.head.weight is model.embedding.weight


@pytest.mark.parametrize("make", [lambda: Own("parameter"), lambda: Own("buffer")])
def test_initialize_refuses_what_it_cannot_fill_and_touches_nothing(make):
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), make())
    before, state = snapshot(model), torch.get_rng_state()
    with pytest.raises(TypeError, match=r"^expected reset_parameters, Own has none$"):
        initialize(model)
    assert same(model, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_initialize_refuses_attention_whose_projections_sit_in_no_linear():
    with pytest.raises(TypeError, match=r"^expected reset_parameters, MultiheadAttention has none$"):
        initialize(nn.MultiheadAttention(4, 2))


@pytest.mark.parametrize("refused", [initialize, lambda model, name: scheme_for(name)])
@pytest.mark.parametrize("name", ["sigmoid", "ReLU", ""])
def test_unknown_activations_are_named_with_the_known_ones(refused, name):
    model = nn.Linear(2, 2)
    before = snapshot(model)
    with pytest.raises(ValueError, match=rf"^expected one of {KNOWN}, got '{name}'$"):
        refused(model, name)
    assert same(model, before)


# the table


def test_the_table():
    assert {name: (scheme.activation, scheme.norm) for name, scheme in RECOMMENDED.items()} == {
        "linear": (nn.Identity, False),
        "relu": (nn.ReLU, False),
        "leaky_relu": (nn.LeakyReLU, False),
        "tanh": (nn.Tanh, False),
        "selu": (nn.SELU, False),
        "gelu": (nn.GELU, True),
        "silu": (nn.SiLU, True),
    }
    for name in "linear", "relu", "leaky_relu":
        assert RECOMMENDED[name].gain == pytest.approx(nn.init.calculate_gain(name))
    assert [RECOMMENDED[name].gain for name in ("tanh", "selu", "gelu", "silu")] == [1.1, 1.0, 1.0, 1.0]
    assert Scheme(nn.ReLU, 1.0).norm is False
    assert all(scheme_for(name) is scheme for name, scheme in RECOMMENDED.items())


@pytest.mark.parametrize("name", ["linear", "relu", "leaky_relu", "selu"])
def test_these_gains_keep_a_mean_square_of_one(name):
    z = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    density = torch.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    kept = torch.trapezoid(RECOMMENDED[name].activation()(z).square() * density, z).item()
    assert RECOMMENDED[name].gain ** 2 * kept == pytest.approx(1.0, abs=1e-6)


def fifty(scheme: Scheme) -> list[float]:
    pairs = [signal(stack(scheme, 128, 50), torch.randn(32, 128)) for _ in range(6)]
    return torch.tensor(pairs, dtype=torch.float64).log().mean(dim=0).exp().tolist()


# geometric means of an independent script, width 256; the factor allows for narrower layers and six draws
EXPECTED = {
    "linear": (0.97, 0.97, 3), "relu": (0.5, 0.7, 5), "leaky_relu": (0.6, 0.8, 5), "tanh": (0.096, 0.27, 2),
    "selu": (1.0, 33, 2), "gelu": (0.425, 13, 4), "silu": (0.35, 12, 4),
}  # fmt: skip


@pytest.mark.parametrize("name", RECOMMENDED)
def test_fifty_recommended_layers_stay_within_a_factor_of_100(name):
    torch.manual_seed(0)
    *want, factor = EXPECTED[name]
    for value, expected in zip(fifty(RECOMMENDED[name]), want, strict=True):
        assert 0.01 < value < 100
        assert expected / factor < value < expected * factor


@pytest.mark.parametrize(
    ("scheme", "which"),
    [
        (Scheme(nn.ReLU, 1.0), 0),
        (Scheme(nn.Tanh, 5 / 3), 1),
        (Scheme(nn.GELU, 2**0.5), 0),
        (Scheme(nn.GELU, 1.5335), 1),
        (Scheme(nn.SiLU, 1.6765), 0),
        (Scheme(nn.Sigmoid, 1.0), 1),
    ],
)
def test_fifty_layers_of_other_schemes_do_not(scheme, which):
    torch.manual_seed(0)
    value = fifty(scheme)[which]
    assert value < 0.01 or value > 100


# stack


@pytest.mark.parametrize("norm", [False, True])
def test_stack_chains_layers_drawn_by_the_scheme(norm):
    torch.manual_seed(0)
    weights = []
    for _ in range(3):
        nn.Linear(40, 40)
        weights.append(torch.empty(40, 40).normal_(std=1.5 / 40**0.5))
    torch.manual_seed(0)
    model = stack(Scheme(nn.Tanh, 1.5, norm), 40, 3)
    unit = [nn.Linear, nn.LayerNorm, nn.Tanh] if norm else [nn.Linear, nn.Tanh]
    assert type(model) is nn.Sequential
    assert [type(layer) for layer in model] == unit * 3
    for layer, weight in zip(model[:: len(unit)], weights, strict=True):
        torch.testing.assert_close(layer.weight.data, weight)
        assert not layer.bias.any()
    if norm:
        assert model[1].normalized_shape == (40,)


def test_a_stack_without_layers_is_the_identity():
    x = torch.randn(2, 3)
    assert torch.equal(stack(RECOMMENDED["relu"], 3, 0)(x), x)


# signal


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, n_in=st.integers(1, 6), n_out=st.integers(1, 6), rows=st.integers(1, 5),
       dtype=st.sampled_from([torch.float32, torch.float64]))  # fmt: skip
def test_signal_of_a_linear_map(seed, n_in, n_out, rows, dtype):
    torch.manual_seed(seed)
    layer = nn.Linear(n_in, n_out, bias=False).to(dtype)
    x = torch.randn(rows, n_in, dtype=dtype)
    torch.manual_seed(seed)
    g = torch.randn(rows, n_out, dtype=dtype)
    torch.manual_seed(seed)
    forward, backward = signal(layer, x)
    a = layer.weight.detach()
    assert type(forward) is type(backward) is float
    assert forward == pytest.approx((x @ a.T).square().mean().item() / x.square().mean().item(), rel=1e-4)
    assert backward == pytest.approx((g @ a).square().mean().item() / g.square().mean().item(), rel=1e-4)


def test_signal_leaves_input_and_parameters_as_they_are():
    layer, x = nn.Linear(3, 3), torch.randn(2, 3)
    before = x.clone()
    signal(layer, x)
    assert torch.equal(x, before)
    assert not x.requires_grad
    assert x.grad is None
    assert layer.weight.grad is None
    assert signal(nn.Identity(), x.requires_grad_()) == (1.0, 1.0)
    assert x.grad is None


def test_signal_refuses_integers():
    with pytest.raises(TypeError, match=r"^expected a floating-point x, got torch\.int64$"):
        signal(nn.Identity(), torch.ones(2, dtype=torch.int64))


def test_default_relu_layers_keep_a_sixth_and_their_biases_a_fifth_of_one_over_fan_in():
    torch.manual_seed(0)
    kept, held = [], []
    for _ in range(20):
        keep = nn.Sequential(*(m for _ in range(4) for m in (nn.Linear(128, 128, bias=False), nn.ReLU())))
        hold = nn.Sequential(*(m for _ in range(12) for m in (nn.Linear(128, 128), nn.ReLU())))
        kept.append(signal(keep, torch.randn(64, 128))[0])
        with torch.no_grad():
            held.append(hold(torch.randn(8, 128)).square().mean().item() * 5 * 128)
    for values, theory in (kept, 6**-4), (held, 1.0):
        values = torch.tensor(values)
        assert abs(values.mean() - theory) < 4 * values.std() / math.sqrt(len(values))


# Residual, ResidualMLP


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, scale=st.floats(-3, 3), shape=st.lists(st.integers(1, 3), max_size=2))
def test_residual_adds_the_scaled_branch(seed, scale, shape):
    torch.manual_seed(seed)
    branch, x = nn.Linear(4, 4), torch.randn(*shape, 4)
    torch.testing.assert_close(Residual(branch, scale)(x), x + scale * branch(x))
    torch.testing.assert_close(Residual(branch)(x), x + branch(x))


@pytest.mark.parametrize("width", [1, 3])
def test_residual_refuses_a_branch_that_changes_the_shape(width):
    message = rf"^expected torch\.Size\(\[2, 4\]\) from branch, got torch\.Size\(\[2, {width}\]\)$"
    with pytest.raises(ValueError, match=message):
        Residual(nn.Linear(4, width))(torch.zeros(2, 4))


def test_residual_mlp_is_what_it_says():
    model = ResidualMLP(6, 3, 0.25)
    assert [type(block) for block in model] == [Residual] * 3
    assert [block.scale for block in model] == [0.25] * 3
    assert [block.scale for block in ResidualMLP(6, 2)] == [1.0, 1.0]
    x = h = torch.randn(5, 6)
    for block in model:
        first, last = block.branch[1::2]
        assert [type(layer) for layer in block.branch] == [nn.ReLU, nn.Linear] * 2
        assert first.weight.shape == last.weight.shape == (6, 6)
        assert not first.bias.any()
        assert not last.bias.any()
        h = h + 0.25 * (h.clamp(min=0) @ first.weight.T).clamp(min=0) @ last.weight.T
    torch.testing.assert_close(model(x), h)


def test_residual_mlp_starts_with_he():
    torch.manual_seed(0)
    weights = [p for p in ResidualMLP(100, 5).parameters() if p.dim() == 2]
    squares = torch.stack([w.square().mean() for w in weights]) * 100 / 2
    assert len(weights) == 10
    assert abs(squares.mean().item() - 1) < 4 * math.sqrt(2 / 1e5)


@pytest.mark.parametrize("scale", [20**-0.5, 40**-0.5, 0.5])
def test_residual_blocks_multiply_mean_squares_by_one_plus_scale_squared(scale):
    torch.manual_seed(0)
    depth = 20 if scale < 0.5 else 4
    pairs = [signal(ResidualMLP(64, depth, scale), torch.randn(32, 64)) for _ in range(40)]
    ratios = torch.tensor(pairs, dtype=torch.float64) / (1 + scale**2) ** depth
    error = 4 * ratios.std(dim=0) / math.sqrt(len(ratios))
    assert (error < 0.25).all()
    assert ((ratios.mean(dim=0) - 1).abs() < error).all()


def test_default_branches_are_small():
    torch.manual_seed(0)
    factors = []
    for _ in range(20):
        model = ResidualMLP(64, 10)
        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.reset_parameters()
        factors.append(signal(model, 1000 * torch.randn(64, 64))[0] / (1 + 1 / 36) ** 10)  # large: biases do not count
    factors = torch.tensor(factors)
    assert abs(factors.mean() - 1) < 4 * factors.std() / math.sqrt(len(factors)) < 0.1


# zero_last_


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, width=st.integers(1, 6), depth=st.integers(1, 6), scale=st.floats(-2, 2))
def test_zeroed_branches_make_the_identity_exactly(seed, width, depth, scale):
    torch.manual_seed(seed)
    model, x = ResidualMLP(width, depth, scale), torch.randn(3, width)
    for block in model:
        assert zero_last_(block.branch) is block.branch[3]
    assert torch.equal(model(x), x)
    assert signal(model, x) == (1.0, 1.0)


@pytest.mark.parametrize(
    "last",
    [
        nn.Linear(3, 3), nn.Linear(3, 3, bias=False), nn.Conv1d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Conv3d(3, 3, 1),
        nn.BatchNorm1d(3), nn.BatchNorm2d(3), nn.GroupNorm(1, 3), nn.LayerNorm(3),
    ],
)  # fmt: skip
def test_zero_last_zeroes_weight_and_bias_of_the_last_layer_only(last):
    for parameter in last.parameters():
        nn.init.constant_(parameter, 2.0)
    first = nn.Linear(3, 3)
    branch = nn.Sequential(first, nn.Sequential(nn.ReLU(), last), nn.PReLU(), nn.LayerNorm(3, elementwise_affine=False))
    before = first.weight.detach().clone(), first.bias.detach().clone()
    assert zero_last_(branch) is last
    assert all(not parameter.any() and parameter.requires_grad for parameter in last.parameters())
    assert torch.equal(first.weight, before[0])
    assert torch.equal(first.bias, before[1])
    assert branch[2].weight.item() == 0.25


def test_zero_last_takes_a_layer_by_itself():
    layer = nn.Linear(2, 2)
    assert zero_last_(layer) is layer
    assert not layer.weight.any()


@pytest.mark.parametrize("branch", [nn.ReLU(), nn.Sequential(), nn.PReLU(), nn.Embedding(2, 2),
                                    nn.BatchNorm1d(2, affine=False)])  # fmt: skip
def test_zero_last_refuses_a_branch_without_such_a_layer(branch):
    with pytest.raises(ValueError, match=r"^expected a layer with a weight, got none$"):
        zero_last_(branch)


def test_a_zeroed_layer_learns_before_what_is_before_it():
    torch.manual_seed(0)
    model, x, goal = ResidualMLP(8, 2), torch.randn(16, 8), torch.randn(16, 8)
    for block in model:
        zero_last_(block.branch)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen = []
    for _ in range(2):
        optimizer.zero_grad()
        (model(x) - goal).square().mean().backward()
        seen.append([bool(model[0].branch[i].weight.grad.any()) for i in (1, 3)])
        optimizer.step()
    assert seen == [[False, True], [True, True]]
    assert not torch.equal(model(x), x)


# tensors, refuse


def test_tensors_names_parameters_and_buffers():
    model = nn.Sequential(nn.BatchNorm1d(2), Own("buffer"))
    model.register_buffer("hidden", torch.zeros(1), persistent=False)
    assert list(tensors(model)) == ["0.weight", "0.bias", "hidden", "0.running_mean", "0.running_var",
                                    "0.num_batches_tracked", "1.tensor"]  # fmt: skip
    assert tensors(model)["0.weight"] is model[0].weight


def test_tensors_names_shared_ones_twice_or_once():
    model = Tied()
    assert list(tensors(model)) == ["embedding.weight", "head.weight"]
    assert list(tensors(model, twice=False)) == ["embedding.weight"]


def test_refuse_lists_names():
    assert refuse("anything", []) is None
    with pytest.raises(ValueError, match=r"^expected peace, not so: a, b$"):
        refuse("peace", ["a", "b"])


# materialize


def norm_net() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, width=st.integers(1, 5), depth=st.integers(0, 3))
def test_materialize_equals_initialize_on_a_model_with_memory(seed, width, depth):
    direct = ResidualMLP(width, depth, 0.5)
    torch.manual_seed(seed)
    initialize(direct)
    torch.manual_seed(seed)
    late = materialize(lambda: ResidualMLP(width, depth, 0.5))
    assert type(late) is ResidualMLP
    assert same(late, snapshot(direct))
    assert all(p.requires_grad and p.is_leaf and p.device.type == "cpu" for p in late.parameters())


def test_materialize_fills_with_nan_before_init_and_draws_nothing_itself():
    seen = []

    def init(model):
        seen.extend((name, bool(t.isnan().all())) for name, t in tensors(model).items())
        initialize(model, "linear")

    state = torch.get_rng_state()
    torch.manual_seed(5)
    model = materialize(norm_net, torch.device("cpu"), init)
    weight = model[0].weight.detach().clone()
    torch.manual_seed(5)
    torch.testing.assert_close(weight, torch.empty(3, 3).normal_(std=3**-0.5))
    assert [nan for _, nan in seen] == [True] * 6 + [False]
    assert seen[-1][0] == "1.num_batches_tracked"
    assert model[1].num_batches_tracked.item() == 0
    torch.set_rng_state(state)


def test_materialize_builds_on_meta():
    devices = []

    def make():
        devices.append(torch.empty(1).device.type)
        return nn.Linear(2, 2)

    materialize(make, "cpu")
    assert devices == ["meta"]
    assert torch.empty(1).device.type == "cpu"


def test_materialize_passes_the_device_on():
    def init(model):
        seen.append(model.weight.device.type)
        raise InterruptedError

    seen = []
    for device in "meta", torch.device("cpu"):
        with pytest.raises(InterruptedError):
            materialize(lambda: nn.Linear(2, 2), device, init)
    assert seen == ["meta", "cpu"]


def test_materialize_refuses_tensors_with_memory():
    def make():
        return nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, device="cpu"))

    with pytest.raises(ValueError, match=r"^expected all on meta, not so: 1\.weight, 1\.bias$"):
        materialize(make)


def test_materialize_refuses_shared_tensors_which_to_empty_would_part():
    with pytest.raises(ValueError, match=r"^expected none shared, not so: head\.weight$"):
        materialize(Tied)
    with torch.device("meta"):
        model = Tied()
    model.to_empty(device="cpu")
    assert model.head.weight is not model.embedding.weight


def test_materialize_names_what_init_forgot():
    def init(model):
        initialize(model[0])

    message = r"^expected all filled, not so: 1\.weight, 1\.bias, 1\.running_mean, 1\.running_var$"
    with pytest.raises(ValueError, match=message):
        materialize(norm_net, init=init)


def test_materialize_names_a_tensor_with_one_hole():
    def init(model):
        nn.init.zeros_(model.bias)
        nn.init.zeros_(model.weight)
        model.weight.data[1, 1] = math.nan

    with pytest.raises(ValueError, match=r"^expected all filled, not so: weight$"):
        materialize(lambda: nn.Linear(2, 2), init=init)


# the script

PRINTED = """\
linear      forward  0.86  backward  0.79
relu        forward  0.14  backward  0.38
leaky_relu  forward  0.56  backward  0.53
tanh        forward  0.09  backward  0.29
selu        forward  1.00  backward 35.69
gelu        forward  0.44  backward 20.28
silu        forward  0.37  backward  7.01
"""


def test_main_prints_one_line_an_activation(capsys):
    main()
    assert capsys.readouterr().out == PRINTED


@pytest.mark.filterwarnings("ignore:.*found in sys.modules.*:RuntimeWarning")
def test_module_runs_as_a_script(capsys):
    runpy.run_module("snippets.initialization.practice", run_name="__main__")
    assert capsys.readouterr().out == PRINTED
