"""Module hooks against torchvision's feature extractor, manual autograd, closed forms and class activation maps."""

import re
import runpy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import interpolate
from torchvision.models.feature_extraction import create_feature_extractor

from snippets.hooks.module_hooks import (
    capture,
    check_finite,
    grad_cam,
    gradient_rms,
    guarded,
    main,
    nan_guard,
    pick,
    watch,
)

SEEDS = st.integers(0, 10_000)
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def mlp(seed: int = 0, width: int = 4, inplace: bool = False) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = nn.Linear(3, width), nn.ReLU(inplace=inplace), nn.Linear(width, 2)
    return nn.Sequential(*layers).double()


def batch(rows: int = 5, seed: int = 1) -> torch.Tensor:
    return torch.randn(rows, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def hooks_left(model: nn.Module) -> int:
    on_modules = sum(len(getattr(module, name)) for module in model.modules() for name in HOOKS)
    return on_modules + sum(len(p._backward_hooks or ()) for p in model.parameters())


class Fails(nn.Module):
    def forward(self, x):
        raise KeyError("forward")


class Twice(nn.Module):
    """Calls one layer twice, under two names."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.alias = self.first

    def forward(self, x):
        return self.alias(self.first(x))


# watch


def test_watch_calls_with_name_and_output_in_the_order_of_the_calls():
    net, x = mlp(), batch()
    seen = []
    with watch(net, ["", "2", "0"], lambda name, output: seen.append((name, output))):
        y = net(x)
    assert [name for name, _ in seen] == ["0", "2", ""]
    assert torch.equal(seen[0][1], net[0](x))
    assert seen[1][1] is y
    assert seen[2][1] is y


def test_watch_replaces_the_output_by_what_see_returns():
    net, x = mlp(), batch()
    with watch(net, ["0"], lambda name, output: output * 3):
        y = net(x)
    assert torch.equal(y, net[2](net[1](3 * net[0](x))))


def test_watch_leaves_other_modules_and_later_calls_alone():
    net, x = mlp(), batch()
    seen = []
    with watch(net, iter(["1"]), lambda name, output: seen.append(name)):
        net(x)
    net(x)
    assert seen == ["1"]
    assert hooks_left(net) == 0


def test_watch_knows_a_shared_module_under_each_name():
    seen = []
    with watch(Twice(), ["alias", "first"], lambda name, output: seen.append(name)) as yielded:
        assert yielded is None
    net = Twice()
    with watch(net, ["alias"], lambda name, output: seen.append(name)):
        net(torch.zeros(1, 3))
    assert seen == ["alias", "alias"]


def test_watch_removes_its_hooks_when_forward_raises():
    net = nn.Sequential(nn.Linear(3, 3), Fails())
    with pytest.raises(KeyError, match="forward"), watch(net, ["0", "1"], lambda name, output: None):
        net(torch.zeros(1, 3))
    assert hooks_left(net) == 0


def test_watch_names_the_known_modules_and_removes_what_it_had_registered():
    net = mlp()
    message = r"^expected one of \['', '0', '1', '2'\], got 'tanh'$"
    with pytest.raises(ValueError, match=message), watch(net, ["0", "tanh"], print):
        pytest.fail("the body must not run")
    assert hooks_left(net) == 0


def test_watch_refuses_a_string():
    with pytest.raises(TypeError, match=r"^expected a list of names, got '0'$"), watch(mlp(), "0", print):
        pytest.fail("the body must not run")


def test_watch_refuses_an_output_that_is_no_tensor():
    net = nn.Sequential(nn.LSTM(3, 4))
    message = r"^expected a tensor from '0', got tuple$"
    with pytest.raises(TypeError, match=message), watch(net, ["0"], print):
        net(torch.zeros(2, 3))
    assert hooks_left(net) == 0


# capture


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, width=st.integers(1, 6), rows=st.integers(1, 4), inplace=st.booleans())
def test_capture_equals_the_layers_by_hand(seed, width, rows, inplace):
    net, x = mlp(seed, width, inplace), batch(rows, seed)
    with capture(net, ["0", "1", "2"]) as outputs:
        y = net(x)
    assert list(outputs) == ["0", "1", "2"]
    torch.testing.assert_close(outputs["0"], x @ net[0].weight.T + net[0].bias)
    torch.testing.assert_close(outputs["1"], (x @ net[0].weight.T + net[0].bias).clamp_min(0))
    assert torch.equal(outputs["2"], y)


def test_capture_equals_torchvision():
    net, x = mlp(), batch()
    extractor = create_feature_extractor(net, ["0", "1"])
    with capture(net, ["0", "1"]) as outputs:
        net(x)
    features = extractor(x)
    assert set(features) == set(outputs)
    assert all(torch.equal(features[name], outputs[name]) for name in outputs)


def test_capture_keeps_copies_outside_the_graph():
    net, x = mlp(), batch()
    with capture(net, ["2"]) as outputs:
        y = net(x)
    assert y.requires_grad
    assert not outputs["2"].requires_grad
    assert outputs["2"].data_ptr() != y.data_ptr()


def test_capture_does_not_change_output_or_gradient():
    net, x = mlp(), batch()
    net(x).sum().backward()
    gradient = net[0].weight.grad.clone()
    net.zero_grad()
    with capture(net, ["0", "1", ""]):
        net(x).sum().backward()
    assert torch.equal(net[0].weight.grad, gradient)


def test_capture_keeps_the_last_call_and_starts_empty():
    net, x = Twice(), torch.ones(1, 3)
    with capture(net, ["first"]) as outputs:
        assert outputs == {}
        y = net(x)
    assert torch.equal(outputs["first"], y)


def test_capture_removes_its_hooks_and_keeps_what_came_before_an_error():
    net = nn.Sequential(nn.Linear(3, 2), Fails())
    with pytest.raises(KeyError, match="forward"), capture(net, ["0"]) as outputs:
        net(torch.zeros(1, 3))
    assert torch.equal(outputs["0"], net[0].bias.detach()[None])
    assert hooks_left(net) == 0


# gradient_rms


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, width=st.integers(1, 6), rows=st.integers(1, 4), inplace=st.booleans())
def test_gradient_rms_equals_autograd(seed, width, rows, inplace):
    net, x = mlp(seed, width), batch(rows, seed)
    hidden = net[0](x)
    y = net[2](hidden.relu())
    gradients = torch.autograd.grad(y.square().sum(), (hidden, y))
    net[1].inplace = inplace
    with gradient_rms(net, ["0", "2"]) as rms:
        net(x).square().sum().backward()
    assert list(rms) == ["2", "0"]
    for name, gradient in zip(("0", "2"), gradients, strict=True):
        assert type(rms[name]) is float
        assert rms[name] == pytest.approx((gradient**2).mean().sqrt().item())


def test_gradient_rms_equals_what_a_full_backward_hook_sees():
    net, x = mlp(), batch().requires_grad_()
    seen = []
    with net[0].register_full_backward_hook(lambda module, a, b: seen.append(b[0])), gradient_rms(net, ["0"]) as rms:
        net(x).exp().sum().backward()
    assert rms["0"] == pytest.approx(seen[0].square().mean().sqrt().item())


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_gradient_rms_neither_underflows_nor_overflows(size):
    net = nn.Sequential(nn.Linear(3, 4))
    with gradient_rms(net, ["0"]) as rms:
        (net(torch.ones(2, 3)) * size).sum().backward()
    assert rms["0"] == pytest.approx(size)


def test_gradient_rms_does_not_change_gradients():
    net, x = mlp(), batch()
    with gradient_rms(net, ["0", "1", "2"]) as rms:
        net(x).sum().backward()
    assert len(rms) == 3
    watched = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    net(x).sum().backward()
    assert all(torch.equal(p.grad, g) for p, g in zip(net.parameters(), watched, strict=True))
    assert hooks_left(net) == 0


def test_gradient_rms_needs_a_gradient():
    net = mlp()
    message = r"^cannot register a hook on a tensor that doesn't require gradient$"
    with torch.no_grad(), pytest.raises(RuntimeError, match=message), gradient_rms(net, ["0"]):
        net(batch())
    assert hooks_left(net) == 0


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, power=st.integers(-2, 2))
def test_gradient_flow_of_a_linear_chain_is_a_power(seed, power):
    """d loss / d output of layer l of n layers, each c times the identity, is c^(n - l)."""
    layers = [nn.Linear(3, 3, bias=False).double() for _ in range(4)]
    net = nn.Sequential(*layers)
    for layer in layers:
        nn.init.eye_(layer.weight)
        layer.weight.data *= 2.0**power
    with gradient_rms(net, list("0123")) as rms:
        net(batch(2, seed)).sum().backward()
    assert [rms[name] for name in "0123"] == [2.0 ** (power * steps) for steps in (3, 2, 1, 0)]


# pick


LOGITS = torch.tensor([[1.0, 5.0, 3.0], [9.0, 7.0, 8.0]])


@pytest.mark.parametrize(
    ("classes", "want"),
    [
        (None, [5.0, 9.0]),
        (0, [1.0, 9.0]),
        (2, [3.0, 8.0]),
        (torch.tensor([2, 0]), [3.0, 9.0]),
        (torch.tensor(1), [5.0, 7.0]),
    ],
)
def test_pick_takes_one_logit_of_each_row(classes, want):
    assert pick(LOGITS, classes).tolist() == want


def test_pick_takes_the_largest_by_default():
    assert pick(LOGITS).tolist() == [5.0, 9.0]


@pytest.mark.parametrize("classes", [None, 1])
def test_pick_sends_the_gradient_to_that_logit_alone(classes):
    logits = torch.tensor([[2.0, 5.0, 5.0]] if classes else [[2.0, 5.0, 4.0]], requires_grad=True)
    pick(logits, classes).sum().backward()
    assert logits.grad.tolist() == [[0.0, 1.0, 0.0]]


@pytest.mark.parametrize(
    ("classes", "got"), [(-1, "[-1, -1]"), (3, "[3, 3]"), (torch.tensor([0, 3]), "[0, 3]"), (torch.tensor([-1, 2]), "[-1, 2]")]
)
def test_pick_refuses_classes_out_of_range(classes, got):
    with pytest.raises(ValueError, match=rf"^expected classes 0\.\.2, got {re.escape(got)}$"):
        pick(LOGITS, classes)


@pytest.mark.parametrize("shape", [(3,), (1, 2, 3)])
def test_pick_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match=rf"^expected logits \(n, C\), got {re.escape(str(shape))}$"):
        pick(torch.zeros(shape))


# grad_cam


class GapNet(nn.Module):
    """Convolution, activation, mean over positions, linear: the network of Zhou et al. 2016."""

    def __init__(self, seed: int = 0, channels: int = 4, classes: int = 3, inplace: bool = False):
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(2, channels, 3, stride=2)
        self.act = nn.ReLU(inplace=inplace)
        self.head = nn.Linear(channels, classes)
        self.double().eval()

    def forward(self, x):
        return self.head(self.act(self.conv(x)).mean(dim=(2, 3)))


def pictures(n: int = 3, seed: int = 5, size: tuple[int, int] = (9, 7)) -> torch.Tensor:
    return torch.randn(n, 2, *size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def scaled(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Upsampled to size, each map divided by its maximum, where that is positive."""
    maps = interpolate(maps[:, None], size, mode="bilinear")[:, 0]
    return torch.stack([m / m.max() if m.max() > 0 else m for m in maps])


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, channels=st.integers(1, 5), n=st.integers(1, 3), label=st.integers(0, 2))
def test_grad_cam_is_the_class_activation_map_of_a_gap_network(seed, channels, n, label):
    net, x = GapNet(seed, channels), pictures(n, seed)
    features = net.act(net.conv(x)).detach()
    cam = torch.einsum("k,nkhw->nhw", net.head.weight[label].detach(), features).relu()
    torch.testing.assert_close(grad_cam(net, "act", x, label), scaled(cam, (9, 7)))


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, n=st.integers(1, 3))
def test_grad_cam_with_a_dense_head_averages_its_weights(seed, n):
    """z = V vec(A): the channel weight is the mean of V over the positions."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(3 * 7 * 5, 4)).double().eval()
    x = pictures(n, seed)
    alpha = net[2].weight.detach().view(4, 3, 7, 5).mean(dim=(2, 3))[2]
    maps = (alpha[:, None, None] * net[0](x).detach()).sum(dim=1).relu()
    torch.testing.assert_close(grad_cam(net, "0", x, 2), scaled(maps, (9, 7)))


def test_grad_cam_follows_finite_differences():
    """A head that is not linear: the channel weights are slopes of the logit."""
    torch.manual_seed(0)
    head = nn.Sequential(nn.Flatten(), nn.Linear(2 * 4 * 3, 5), nn.Tanh(), nn.Linear(5, 3))
    net = nn.Sequential(nn.Conv2d(2, 2, 3, stride=2), head).double().eval()
    x, h = pictures(1), 1e-6
    features = net[0](x).detach()
    slopes = torch.zeros_like(features)
    for i in range(features.numel()):
        step = torch.zeros_like(features)
        step.view(-1)[i] = h
        with torch.no_grad():
            slopes.view(-1)[i] = (head(features + step)[0, 1] - head(features - step)[0, 1]) / (2 * h)
    maps = (slopes.mean(dim=(2, 3), keepdim=True) * features).sum(dim=1).relu()
    torch.testing.assert_close(grad_cam(net, "0", x, 1), scaled(maps, (9, 7)), rtol=1e-6, atol=1e-7)


def test_grad_cam_explains_the_answer_by_default():
    net, x = GapNet(), pictures()
    assert torch.equal(grad_cam(net, "act", x), grad_cam(net, "act", x, net(x).argmax(dim=1)))


def test_grad_cam_takes_one_class_per_image_and_images_do_not_mix():
    net, x = GapNet(), pictures()
    together = grad_cam(net, "act", x, torch.tensor([2, 0, 1]))
    alone = [grad_cam(net, "act", x[i : i + 1], label) for i, label in enumerate((2, 0, 1))]
    torch.testing.assert_close(together, torch.cat(alone))


def test_grad_cam_lies_between_0_and_1():
    maps = grad_cam(GapNet(), "act", pictures(20), 1)
    assert maps.shape == (20, 9, 7)
    assert maps.dtype == torch.float64
    assert not maps.requires_grad
    assert maps.min() == 0
    tops = maps.amax(dim=(1, 2))
    assert ((tops == 1) | (tops == 0)).all()
    assert (tops == 1).any()


def test_grad_cam_of_evidence_against_is_zero():
    net = GapNet()
    nn.init.constant_(net.head.weight, -1.0)
    assert torch.equal(grad_cam(net, "act", pictures(), 0), torch.zeros(3, 9, 7, dtype=torch.float64))


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_grad_cam_does_not_depend_on_the_scale_of_the_logits(size):
    net, x = GapNet(), pictures()
    maps = grad_cam(net, "act", x, 0)
    net.head.weight.data *= size
    torch.testing.assert_close(grad_cam(net, "act", x, 0), maps)


def test_grad_cam_sees_the_layer_before_an_operation_in_place():
    x = pictures()
    assert torch.equal(grad_cam(GapNet(inplace=True), "conv", x), grad_cam(GapNet(inplace=False), "conv", x))


@pytest.mark.parametrize("layer", ["conv", "act"])
def test_grad_cam_works_without_gradients_and_leaves_everything_as_it_was(layer):
    net, x = GapNet(), pictures()
    want = grad_cam(net, layer, x)
    net.requires_grad_(False)
    with torch.no_grad():
        assert torch.equal(grad_cam(net, layer, x), want)
        assert not torch.is_grad_enabled()
    assert not x.requires_grad
    assert all(p.grad is None for p in net.parameters())
    assert hooks_left(net) == 0


def test_grad_cam_keeps_gradients_that_are_there():
    net, x = GapNet(), pictures()
    net(x).sum().backward()
    before = [p.grad.clone() for p in net.parameters()]
    grad_cam(net, "act", x)
    assert all(torch.equal(p.grad, g) for p, g in zip(net.parameters(), before, strict=True))


def test_grad_cam_refuses_training_mode():
    with pytest.raises(ValueError, match=r"^expected a model in eval mode, got training mode$"):
        grad_cam(GapNet().train(), "act", pictures())


def test_grad_cam_refuses_a_layer_without_positions():
    message = r"^expected one \(n, k, h, w\) of 'head', got \[\(3, 3\)\]$"
    with pytest.raises(ValueError, match=message):
        grad_cam(GapNet(), "head", pictures())


@pytest.mark.parametrize("calls", [0, 2])
def test_grad_cam_refuses_a_layer_that_is_not_called_once(calls):
    class Repeat(GapNet):
        def forward(self, x):
            for _ in range(calls):
                self.act(x)
            return self.head(self.conv(x).mean(dim=(2, 3)))

    got = re.escape(str([(3, 2, 9, 7)] * calls))
    with pytest.raises(ValueError, match=rf"^expected one \(n, k, h, w\) of 'act', got {got}$"):
        grad_cam(Repeat(), "act", pictures())


def test_grad_cam_refuses_an_unknown_layer_and_a_class_out_of_range():
    with pytest.raises(ValueError, match=r"^expected one of \['', 'conv', 'act', 'head'\], got 'features'$"):
        grad_cam(GapNet(), "features", pictures())
    with pytest.raises(ValueError, match=r"^expected classes 0\.\.2, got \[3, 3, 3\]$"):
        grad_cam(GapNet(), "act", pictures(), 3)


# check_finite and guarded


@pytest.mark.parametrize("value", [torch.zeros(2), torch.zeros(0), torch.tensor([1, 2]), torch.tensor([True])])
def test_check_finite_accepts_finite_values(value):
    assert check_finite("here", value) is None


@pytest.mark.parametrize(
    ("values", "count"),
    [
        ([float("nan"), 1.0, 2.0], "1 nan and 0 inf in 3 values"),
        ([float("inf"), -float("inf")], "0 nan and 2 inf in 2 values"),
        ([float("nan"), float("nan"), -float("inf"), 0.0], "2 nan and 1 inf in 4 values"),
    ],
)
def test_check_finite_counts_nan_and_inf(values, count):
    with pytest.raises(FloatingPointError, match=rf"^here: {count}$"):
        check_finite("here", torch.tensor(values))


def test_guarded_copies_tensors_in_tuples_and_passes_the_rest():
    a, b, other = torch.zeros(2), torch.ones(1, requires_grad=True), object()
    result = guarded("here", (a, (b, other), None, [a]))
    assert torch.equal(result[0], a)
    assert result[0].data_ptr() != a.data_ptr()
    assert torch.equal(result[1][0], b)
    assert result[1][0] is not b
    assert result[1][1] is other
    assert result[2] is None
    assert result[3][0] is a


def test_guarded_checks_the_gradient():
    value = torch.ones(2, requires_grad=True)
    guarded("here", value).sum().backward()
    assert value.grad.tolist() == [1.0, 1.0]
    with pytest.raises(FloatingPointError, match=r"^gradient of here: 0 nan and 2 inf in 2 values$"):
        (guarded("here", value) * float("inf")).sum().backward()


# nan_guard


class Op(nn.Module):
    """Applies a function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *args, **kwargs):
        return self.function(*args, **kwargs)


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, width=st.integers(1, 6), inplace=st.booleans())
def test_nan_guard_changes_no_output_and_no_gradient(seed, width, inplace):
    net, x = mlp(seed, width, inplace), batch(3, seed)
    y = net(x)
    y.exp().sum().backward()
    gradients = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    with nan_guard(net) as yielded:
        guarded_y = net(x)
        guarded_y.exp().sum().backward()
    assert yielded is None
    assert torch.equal(guarded_y, y)
    assert all(torch.equal(p.grad, g) for p, g in zip(net.parameters(), gradients, strict=True))
    assert hooks_left(net) == 0


@pytest.mark.parametrize(
    ("functions", "message"),
    [
        ((torch.log, torch.exp), "output of Op '0': 0 nan and 2 inf in 6 values"),
        ((torch.exp, lambda x: x - 1, torch.log), "output of Op '2': 0 nan and 2 inf in 6 values"),
        ((torch.sqrt, lambda x: x / x), "output of Op '1': 2 nan and 0 inf in 6 values"),
    ],
)
def test_nan_guard_names_the_first_module_and_the_kind(functions, message):
    net = nn.Sequential(*map(Op, functions))
    with pytest.raises(FloatingPointError, match=f"^{message}$"), nan_guard(net):
        net(torch.tensor([[0.0, 1.0, 2.0], [3.0, 0.0, 5.0]]))
    assert hooks_left(net) == 0


def test_nan_guard_names_the_input_of_the_model():
    net = mlp()
    x = batch()
    x[1, 2] = torch.nan
    with pytest.raises(FloatingPointError, match=r"^input of Sequential '': 1 nan and 0 inf in 15 values$"), nan_guard(net):
        net(x)


def test_nan_guard_names_the_module_that_is_handed_a_nan_between_modules():
    class Between(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Identity(), nn.Identity()

        def forward(self, x):
            return self.second(self.first(x).log())

    net = Between()
    message = r"^input of Identity 'second': 1 nan and 1 inf in 3 values$"
    with pytest.raises(FloatingPointError, match=message), nan_guard(net):
        net(torch.tensor([-1.0, 0.0, 1.0]))


def test_nan_guard_names_a_parameter_before_anything_runs():
    net = mlp()
    net[2].weight.data[0, 0] = -torch.inf
    with pytest.raises(FloatingPointError, match=r"^parameter '2\.weight': 0 nan and 1 inf in 8 values$"), nan_guard(net):
        pytest.fail("the body must not run")
    assert hooks_left(net) == 0


def test_nan_guard_names_the_module_whose_backward_fails():
    net = nn.Sequential(nn.Linear(2, 2), Op(torch.sqrt), nn.Linear(2, 2))
    nn.init.zeros_(net[0].weight)
    nn.init.zeros_(net[0].bias)
    with nan_guard(net):
        y = net(torch.ones(3, 2))
        assert y.isfinite().all()
        with pytest.raises(FloatingPointError, match=r"^gradient of input of Op '1': 0 nan and 6 inf in 6 values$"):
            y.sum().backward()


def test_nan_guard_names_the_model_when_the_loss_is_at_fault():
    net = mlp()
    with nan_guard(net), pytest.raises(FloatingPointError, match=r"^gradient of output of Sequential '': 10 nan and 0 inf in 10 values$"):
        (net(batch()) * 0).sqrt().sum().backward()


def test_nan_guard_names_a_parameter_whose_gradient_fails():
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(2))

        def forward(self, x):
            return x * self.weight.sqrt()

    net = nn.Sequential(Scale())
    with nan_guard(net), pytest.raises(FloatingPointError, match=r"^gradient of parameter '0\.weight': 0 nan and 2 inf in 2 values$"):
        net(torch.ones(2, requires_grad=True)).sum().backward()


def test_nan_guard_checks_backward_outside_the_block_too():
    net = nn.Sequential(Op(torch.sqrt))
    x = torch.zeros(1, requires_grad=True)
    with nan_guard(net):
        y = net(x)
    with pytest.raises(FloatingPointError, match=r"^gradient of input of Op '0': 0 nan and 1 inf in 1 values$"):
        y.sum().backward()


def test_nan_guard_looks_into_tuples():
    net = nn.Sequential(nn.LSTM(3, 4), Op(lambda pair: (pair[0], torch.full((1,), torch.nan))))
    with pytest.raises(FloatingPointError, match=r"^output of Op '1': 1 nan and 0 inf in 1 values$"), nan_guard(net):
        net(torch.zeros(2, 3))


def test_nan_guard_leaves_keyword_arguments_alone():
    net = Op(lambda x, mask: (x + mask).softmax(dim=0))
    with nan_guard(net):
        y = net(torch.zeros(2), mask=torch.tensor([0.0, -torch.inf]))
    assert y.tolist() == [1.0, 0.0]


def test_nan_guard_works_without_gradients_on_frozen_and_integer_modules():
    net = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 2)).requires_grad_(False)
    x = torch.tensor([1, 4])
    with nan_guard(net):
        assert torch.equal(net(x), net(x))
        with torch.no_grad():
            net.requires_grad_()
            assert net(x).shape == (2, 2)
    with torch.no_grad(), nan_guard(net):
        net(x)
    assert hooks_left(net) == 0


# the script

PRINTED = (
    "captured (2, 4, 6, 6), measured ['0', '4']\n"
    "heat maps (2, 8, 8)\n"
    "input of Sequential '': 1 nan and 0 inf in 128 values\n"
)


def test_main_prints_what_hooks_find(capsys):
    main()
    assert capsys.readouterr().out == PRINTED


@pytest.mark.filterwarnings("ignore:.*found in sys.modules.*:RuntimeWarning")
def test_module_runs_as_a_script(capsys):
    runpy.run_module("snippets.hooks.module_hooks", run_name="__main__")
    assert capsys.readouterr().out == PRINTED
