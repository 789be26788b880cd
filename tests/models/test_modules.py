"""Modules against torch.nn's own tables, F, closed-form counts and state_dict equality."""

import inspect
import pickle
import re
import runpy
from functools import partial
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.transforms.v2.functional import normalize

from snippets.models.modules import (
    ConvNet,
    Lambda,
    MultiTask,
    Normalize,
    count_parameters,
    from_state,
    hidden,
    main,
    map_side,
)

SEEDS = st.integers(0, 10_000)
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def says(message: str) -> str:
    """A pattern that matches this message and nothing else."""
    return f"^{re.escape(message)}$"


def holder(**attributes) -> nn.Module:
    module = nn.Module()
    for name, value in attributes.items():
        setattr(module, name, value)
    return module


# hidden


def test_nothing_is_hidden_in_what_torch_registers():
    module = holder(
        weight=nn.Parameter(torch.ones(2)), layer=nn.Linear(2, 2), buffer=nn.Buffer(torch.ones(2)),
        layers=nn.ModuleList([nn.ReLU()]), heads=nn.ModuleDict({"a": nn.ReLU()}), parameters_=nn.ParameterList([torch.ones(1)]),
        size=2, name="text", shape=(1, 2), table={"a": 1}, nothing=None,
    )
    assert hidden(module) == []


@pytest.mark.parametrize(
    "module",
    [nn.LSTM(2, 3, num_layers=2), nn.MultiheadAttention(4, 2), nn.BatchNorm2d(3), nn.TransformerEncoderLayer(4, 2), ConvNet(), nn.LazyLinear(3),
     nn.utils.parametrizations.spectral_norm(nn.Linear(2, 2))],
    ids=lambda m: type(m).__name__,
)
def test_nothing_is_hidden_in_the_layers_of_torch(module):
    assert hidden(module) == []


def test_hidden_names_tensors_and_modules_where_they_are():
    module = holder(
        tensor=torch.ones(1), leaf=torch.ones(1, requires_grad=True), several=[nn.ReLU(), 3, torch.ones(1)], pair=(nn.ReLU(),),
        table={"a": nn.ReLU(), 7: {"deep": [torch.ones(1)]}}, list_of_parameters=[nn.Parameter(torch.ones(1))],
    )
    assert hidden(module) == [
        "tensor", "leaf", "several[0]", "several[2]", "pair[0]", "table['a']", "table[7]['deep'][0]", "list_of_parameters[0]",
    ]


def test_hidden_looks_into_registered_children_and_gives_the_path():
    inner = holder(lost=nn.Linear(1, 1))
    inner.layers = [nn.ReLU()]
    outer = holder(a=nn.ModuleList([nn.ReLU(), inner]))
    assert hidden(outer) == ["a.1.layers[0]"]


def test_a_list_of_registered_things_hides_nothing():
    layer = nn.Linear(2, 2)
    norm = nn.BatchNorm1d(2)
    module = holder(layer=layer, norm=norm)
    module.order = [layer, norm, layer.weight, norm.running_mean]
    assert hidden(module) == []
    module.order.append(nn.Linear(2, 2).weight)
    assert hidden(module) == ["order[4]"]


def test_hidden_keeps_the_beginning_of_every_name():
    assert hidden(holder(_layers=[nn.ReLU()], X=torch.ones(1))) == ["_layers[0]", "X"]


@settings(max_examples=20, deadline=None)
@given(n=st.integers(0, 5), m=st.integers(0, 5))
def test_what_is_hidden_is_what_the_optimizer_lacks(n, m):
    module = holder(known=nn.ModuleList(nn.Linear(1, 1) for _ in range(n)), lost=[nn.Linear(1, 1) for _ in range(m)])
    assert len(hidden(module)) == m
    assert len(list(module.parameters())) == 2 * n
    module.lost = nn.ModuleList(module.lost)
    assert hidden(module) == []
    assert len(list(module.parameters())) == 2 * (n + m)


# MultiTask


@settings(max_examples=25, deadline=None)
@given(
    width=st.integers(1, 6), depth=st.integers(0, 4), leading=st.lists(st.integers(1, 3), max_size=2), seed=SEEDS,
    heads=st.dictionaries(st.sampled_from(["a", "b", "c"]), st.integers(1, 5), min_size=1),
)
def test_multi_task_equals_its_formula(width, depth, leading, seed, heads):
    torch.manual_seed(seed)
    model = MultiTask(width, depth, heads).double()
    state = model.state_dict()
    x = torch.randn(*leading, width, dtype=torch.float64)
    h = x
    for i in range(depth):
        h = h + F.relu(F.linear(h, state[f"body.{i}.weight"], state[f"body.{i}.bias"]))
    for task, n in heads.items():
        want = F.linear(h, state[f"heads.{task}.weight"], state[f"heads.{task}.bias"])
        assert model(x, task).shape == (*leading, n)
        torch.testing.assert_close(model(x, task).detach(), want)
    sizes = depth * (width * width + width) + sum(width * n + n for n in heads.values())
    assert sum(p.numel() for p in model.parameters()) == sizes


def test_multi_task_trains_only_the_head_that_is_used():
    model = MultiTask(4, 2, {"a": 2, "b": 3})
    model(torch.ones(5, 4), "b").sum().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert without == ["heads.a.weight", "heads.a.bias"]


def test_multi_task_names_the_tasks_it_has():
    model = MultiTask(4, 0, {"a": 2, "b": 3})
    with pytest.raises(ValueError, match=says("expected one of ['a', 'b'], got 'c'")):
        model(torch.ones(1, 4), "c")


# Lambda


@settings(max_examples=20, deadline=None)
@given(shape=st.lists(st.integers(1, 4), max_size=4), seed=SEEDS, dtype=st.sampled_from(DTYPES))
def test_lambda_is_its_function(shape, seed, dtype):
    torch.manual_seed(seed)
    x = torch.randn(shape).to(dtype)
    assert torch.equal(Lambda(torch.exp)(x), torch.exp(x))


def test_lambda_passes_gradients_and_holds_nothing():
    layer = Lambda(torch.square)
    x = torch.tensor([1.0, -3.0], requires_grad=True)
    layer(x).sum().backward()
    assert x.grad.tolist() == [2.0, -6.0]
    assert not layer.state_dict()
    assert not list(layer.parameters())


def test_lambda_prints_its_function():
    assert repr(Lambda(torch.relu)) == "Lambda(relu)"
    assert repr(Lambda(lambda x: x)) == "Lambda(<lambda>)"
    nameless = partial(torch.add, other=1)
    assert repr(Lambda(nameless)) == f"Lambda({nameless!r})"


def test_lambda_of_a_named_function_can_be_pickled():
    again = pickle.loads(pickle.dumps(nn.Sequential(nn.Linear(2, 2), Lambda(torch.relu))))
    assert again[1].function is torch.relu


def test_lambda_of_a_module_registers_it():
    layer = Lambda(nn.Linear(2, 3))
    assert [name for name, _ in layer.named_parameters()] == ["function.weight", "function.bias"]


def test_lambda_refuses_a_result_in_place_of_a_function():
    with pytest.raises(TypeError, match=says("expected a function, got <class 'torch.Tensor'>")):
        Lambda(torch.relu(torch.ones(2)))


# Normalize


@settings(max_examples=30, deadline=None)
@given(leading=st.lists(st.integers(1, 3), max_size=2), channels=st.integers(1, 4), height=st.integers(1, 5), width=st.integers(1, 5), seed=SEEDS)
def test_normalize_is_torchvisions(leading, channels, height, width, seed):
    torch.manual_seed(seed)
    mean, std = torch.randn(channels).tolist(), (torch.rand(channels) + 0.1).tolist()
    x = torch.randn(*leading, channels, height, width)
    torch.testing.assert_close(Normalize(mean, std)(x), normalize(x, mean, std))


def test_normalize_by_hand():
    x = torch.tensor([4.0, 4.0]).view(2, 1, 1)
    assert Normalize([1, 2], [3, 0.5])(x).flatten().tolist() == [1.0, 4.0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_normalize_keeps_the_dtype_of_x(dtype):
    layer = Normalize([0.5], [0.25])
    x = torch.tensor([1.0]).view(1, 1, 1).to(dtype)
    for module in layer, layer.half(), layer.double():
        assert module(x).dtype == dtype
        assert module(x).item() == 2.0


def test_normalize_has_buffers_of_the_default_dtype_that_move():
    layer = Normalize([1, 2], [3, 4])
    assert [(n, b.shape, b.dtype) for n, b in layer.named_buffers()] == [
        ("mean", (2, 1, 1), torch.float32), ("std", (2, 1, 1), torch.float32)]
    assert not list(layer.parameters())
    assert layer.half().std.dtype == torch.float16
    assert layer.to("meta").mean.is_meta
    with torch.device("meta"):
        assert Normalize([1], [2]).std.is_meta


def test_normalize_saves_its_buffers_unless_told_not_to():
    saved = Normalize([1], [2]).state_dict()
    assert {name: value.item() for name, value in saved.items()} == {"mean": 1.0, "std": 2.0}
    assert not Normalize([1], [2], persistent=False).state_dict()
    assert not Normalize([1], [2], False).state_dict()
    assert len(list(Normalize([1], [2], False).buffers())) == 2
    assert inspect.signature(Normalize).parameters["persistent"].default is True


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ([0, 0], [1], "expected 2 std, got 1"),
        ([0], [1, 1], "expected 1 std, got 2"),
        ([0, 0], [1, 0], "expected std > 0, got [1, 0]"),
        ([0], [-0.5], "expected std > 0, got [-0.5]"),
        ([0], (float("nan"),), "expected std > 0, got [nan]"),
    ],
)
def test_normalize_refuses_statistics_that_do_not_fit(mean, std, message):
    with pytest.raises(ValueError, match=says(message)):
        Normalize(mean, std)


@pytest.mark.parametrize("shape", [(2, 1, 4, 4), (3, 4, 2, 3), (2, 3, 3), (3, 3), (3,), ()])
def test_normalize_refuses_other_channels(shape):
    with pytest.raises(ValueError, match=says(f"expected 3 channels, got {shape}")):
        Normalize([0] * 3, [1] * 3)(torch.zeros(shape))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_normalize_refuses_integers(dtype):
    with pytest.raises(TypeError, match=says(f"expected floating-point x, got {dtype}")):
        Normalize([0], [1])(torch.zeros(1, 2, 2, dtype=dtype))


# map_side and ConvNet


def test_map_side_is_five_for_32_and_one_at_the_smallest():
    assert {image: map_side(image) for image in (16, 28, 31, 32, 35, 36, 224)} == {16: 1, 28: 4, 31: 4, 32: 5, 35: 5, 36: 6, 224: 53}


@pytest.mark.parametrize("image", range(16, 80))
def test_map_side_is_what_the_layers_give(image):
    x = torch.empty(1, 3, image, image, device="meta")
    with torch.device("meta"):
        layers = nn.Sequential(nn.Conv2d(3, 1, 5), nn.MaxPool2d(2), nn.Conv2d(1, 1, 5), nn.MaxPool2d(2))
    assert layers(x).shape == (1, 1, map_side(image), map_side(image))


@pytest.mark.parametrize("image", [15, 0, -1])
def test_map_side_refuses_images_of_which_nothing_is_left(image):
    with pytest.raises(ValueError, match=says(f"expected image >= 16, got {image}")):
        map_side(image)


def functional(state, x):
    """The convnet from F alone."""
    for name in "conv1", "conv2":
        x = F.max_pool2d(F.relu(F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"])), 2)
    x = torch.flatten(x, 1)
    for name in "fc1", "fc2":
        x = F.relu(F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"]))
    return F.linear(x, state["fc3.weight"], state["fc3.bias"])


@settings(max_examples=20, deadline=None)
@given(n=st.integers(0, 3), image=st.integers(16, 40), classes=st.integers(1, 12), seed=SEEDS)
def test_convnet_equals_the_functions(n, image, classes, seed):
    torch.manual_seed(seed)
    model = ConvNet(classes, image).double()
    x = torch.randn(n, 3, image, image, dtype=torch.float64)
    logits = model(x)
    assert logits.shape == (n, classes)
    torch.testing.assert_close(logits.detach(), functional(model.state_dict(), x))


def test_convnet_is_made_of_the_known_sizes():
    shapes = {name: tuple(p.shape) for name, p in ConvNet().named_parameters() if "weight" in name}
    assert shapes == {
        "conv1.weight": (6, 3, 5, 5), "conv2.weight": (16, 6, 5, 5), "fc1.weight": (120, 400), "fc2.weight": (84, 120), "fc3.weight": (10, 84),
    }
    assert ConvNet(classes=7).fc3.out_features == 7
    assert ConvNet(image=28).fc1.in_features == 256


def test_convnet_gives_negative_logits_too():
    torch.manual_seed(0)
    logits = ConvNet()(torch.randn(20, 3, 32, 32))
    assert (logits < 0).any()
    assert (logits > 0).any()


def test_convnet_keeps_the_images_of_a_batch_apart():
    torch.manual_seed(0)
    model, x = ConvNet().double(), torch.randn(3, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(model(x)[1:2], model(x[1:2]))
    changed = x.clone()
    changed[0] += 1
    assert torch.equal(model(changed)[1:], model(x)[1:])


def test_convnet_gives_every_parameter_a_gradient():
    torch.manual_seed(0)
    model = ConvNet()
    F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3])).backward()
    assert all(p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 1, 32, 32), (1, 3, 32, 28), (1, 3, 28, 32), (1, 1, 3, 32, 32), (2, 3072)])
def test_convnet_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match=says(f"expected a batch of (3, 32, 32), got {shape}")):
        ConvNet()(torch.zeros(shape))


def test_convnet_names_the_size_that_it_was_built_for():
    with pytest.raises(ValueError, match=says("expected a batch of (3, 28, 28), got (1, 3, 32, 32)")):
        ConvNet(image=28)(torch.zeros(1, 3, 32, 32))


def test_convnet_refuses_small_images_and_integers():
    with pytest.raises(ValueError, match=says("expected image >= 16, got 15")):
        ConvNet(image=15)
    with pytest.raises(TypeError, match=says("expected floating-point x, got torch.uint8")):
        ConvNet()(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_convnet_follows_the_dtype_of_the_model(dtype):
    assert ConvNet().to(dtype)(torch.zeros(1, 3, 32, 32, dtype=dtype)).dtype == dtype


def test_convnet_runs_under_autocast_and_on_meta():
    with torch.autocast("cpu", torch.bfloat16):
        assert ConvNet()(torch.zeros(1, 3, 32, 32)).dtype == torch.bfloat16
    assert ConvNet().to("meta")(torch.zeros(5, 3, 32, 32, device="meta")).shape == (5, 10)


# count_parameters


def test_counts_of_the_convnet_are_those_by_hand():
    counts = count_parameters(ConvNet())
    assert counts == {"conv1": 456, "conv2": 2416, "fc1": 48120, "fc2": 10164, "fc3": 850}
    assert list(counts) == ["conv1", "conv2", "fc1", "fc2", "fc3"]
    assert sum(counts.values()) == 62_006


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(1, 8), min_size=2, max_size=5), bias=st.booleans())
def test_counts_follow_the_formula(sizes, bias):
    layers = [nn.Linear(a, b, bias) for a, b in pairwise(sizes)]
    want = {str(i): (a + bias) * b for i, (a, b) in enumerate(pairwise(sizes))}
    assert count_parameters(nn.Sequential(*layers)) == want


def test_counts_go_by_layer_and_leave_buffers_out():
    model = nn.Sequential(nn.BatchNorm1d(5), nn.ReLU(), nn.Sequential(nn.Linear(2, 3)))
    model.scale = nn.Parameter(torch.ones(7))
    assert count_parameters(model) == {"": 7, "0": 10, "2.0": 9}


def test_shared_parameters_are_counted_once():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    assert count_parameters(model) == {"0": 12}


def test_frozen_parameters_are_counted():
    assert count_parameters(nn.Linear(2, 2).requires_grad_(False)) == {"": 6}


def test_counting_takes_nothing_from_a_model_without_parameters():
    assert count_parameters(nn.ReLU()) == {}


def test_counting_a_lazy_layer_waits_for_its_first_call():
    model = nn.Sequential(nn.Linear(2, 2), nn.LazyLinear(4))
    with pytest.raises(ValueError, match=says("expected a shape, 1.weight has none: call model")):
        count_parameters(model)
    model(torch.zeros(1, 2))
    assert count_parameters(model) == {"0": 6, "1": 12}


# from_state


@settings(max_examples=20, deadline=None)
@given(width=st.integers(1, 5), seed=SEEDS, dtype=st.sampled_from(DTYPES))
def test_from_state_uses_the_tensors_of_the_state(width, seed, dtype):
    def make():
        return nn.Sequential(nn.Linear(width, 3), nn.BatchNorm1d(3), Normalize([1], [2]))

    torch.manual_seed(seed)
    state = make().to(dtype).state_dict()
    generator = torch.get_rng_state()
    model = from_state(make, state)
    assert torch.equal(torch.get_rng_state(), generator)
    again = model.state_dict()
    assert list(again) == list(state)
    for name, tensor in state.items():
        assert torch.equal(again[name], tensor)
        assert again[name].dtype == tensor.dtype
        assert again[name].data_ptr() == tensor.data_ptr()
    assert all(p.requires_grad and p.is_leaf and isinstance(p, nn.Parameter) for p in model.parameters())
    assert len(list(model.parameters())) == 4


def test_from_state_gives_the_same_logits():
    torch.manual_seed(0)
    model, x = ConvNet(), torch.randn(2, 3, 32, 32)
    assert torch.equal(from_state(ConvNet, model.state_dict())(x), model(x))


def test_from_state_refuses_missing_and_unexpected_names():
    state = nn.Linear(2, 2).state_dict()
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "bias"'):
        from_state(lambda: nn.Linear(2, 2), {"weight": state["weight"]})
    with pytest.raises(RuntimeError, match=r'Unexpected key\(s\) in state_dict: "bias"'):
        from_state(lambda: nn.Linear(2, 2, bias=False), state)
    with pytest.raises(RuntimeError, match=r"size mismatch for weight"):
        from_state(lambda: nn.Linear(3, 2), state)


def test_from_state_refuses_buffers_that_no_state_holds():
    def make():
        return nn.Sequential(nn.Linear(2, 2), Normalize([1], [2], persistent=False))

    with pytest.raises(ValueError, match=says("expected all tensors in state, not so: ['1.mean', '1.std']")):
        from_state(make, make().state_dict())


def test_from_state_refuses_a_state_without_memory():
    with torch.device("meta"):
        state = nn.Linear(2, 2).state_dict()
    with pytest.raises(ValueError, match=says("expected all tensors in state, not so: ['weight', 'bias']")):
        from_state(lambda: nn.Linear(2, 2), state)


def test_from_state_refuses_shared_parameters():
    def make():
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        model[1].weight = model[0].weight
        return model

    with pytest.raises(ValueError, match=says("expected no shared parameters, got ['1.weight']")):
        from_state(make, make().state_dict())


def test_from_state_leaves_the_default_device_alone():
    from_state(lambda: nn.Linear(1, 1), nn.Linear(1, 1).state_dict())
    assert torch.empty(1).device == torch.device("cpu")


# what the page says about nn.Module


def test_an_optimizer_refuses_a_model_whose_layers_are_in_a_list():
    model = holder(layers=[nn.Linear(2, 2)])
    assert list(model.parameters()) == []
    with pytest.raises(ValueError, match=says("optimizer got an empty parameter list")):
        torch.optim.SGD(model.parameters(), lr=0.1)


def test_a_hook_runs_on_the_call_only():
    calls = []
    model = ConvNet()
    model.register_forward_hook(lambda *args: calls.append(1))
    x = torch.zeros(1, 3, 32, 32)
    model.forward(x)
    assert calls == []
    model(x)
    assert calls == [1]


@pytest.mark.parametrize("move", [lambda m: m.double(), lambda m: m.to(torch.bfloat16)])
def test_a_module_moves_in_place(move):
    model = ConvNet()
    before = list(model.parameters())
    assert move(model) is model
    assert all(a is b for a, b in zip(before, model.parameters(), strict=True))


# the script

PRINTED = """conv1    456
conv2  2,416
fc1   48,120
fc2   10,164
fc3      850
all   62,006
hidden: ['extra[0]'] still 10
"""


def test_main_prints_counts_and_what_is_hidden(capsys):
    main()
    assert capsys.readouterr().out == PRINTED


@pytest.mark.filterwarnings("ignore:.*found in sys.modules.*:RuntimeWarning")
def test_module_runs_as_a_script(capsys):
    runpy.run_module("snippets.models.modules", run_name="__main__")
    assert capsys.readouterr().out == PRINTED
