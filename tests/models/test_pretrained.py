"""Pretrained models: torchvision's own code paths and plain arithmetic are the oracles. Nothing is downloaded."""

import hashlib
import re
import runpy
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy
from torchvision import models
from torchvision.models import Weights, WeightsEnum
from torchvision.transforms import v2

from snippets.models.pretrained import (
    DigitNet,
    accuracy,
    cached_file,
    find_weights,
    freeze,
    load_cached,
    main,
    parameter_groups,
    replace_head,
    stage,
    train_step,
    train_unfrozen,
)

SEEDS = st.integers(0, 2**31 - 1)
MNIST_LIKE = (1, 28, 28)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty cache of its own."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path / "hub" / "checkpoints"


def enum_for(url):
    class DigitNetWeights(WeightsEnum):
        ONLY = Weights(url=url, transforms=v2.Identity, meta={})

    return DigitNetWeights.ONLY


def saved(folder, state, name="net-{}.pth"):
    """Save a state as torchvision names it; return its weights."""
    folder.mkdir(parents=True, exist_ok=True)
    loose = folder / "loose"
    torch.save(state, loose)
    name = name.format(hashlib.sha256(loose.read_bytes()).hexdigest()[:8])
    loose.rename(folder / name)
    return enum_for(f"https://example.org/some/folder/{name}")


def same_state(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def copy_of(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


def moved(model, before):
    return {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}


def small():
    """Every kind of module that freezing has to tell apart."""
    return nn.Sequential(
        nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, affine=False), nn.Dropout(0.5)),
        nn.BatchNorm1d(4),
        nn.Dropout(0.5),
        nn.Linear(4, 2),
    )


# find_weights


@pytest.mark.parametrize("name", models.list_models())
def test_find_weights_agrees_with_torchvision(name):
    members = models.get_model_weights(name)
    assert find_weights(name) is members.DEFAULT
    assert all(find_weights(str(weights)) is models.get_weight(str(weights)) for weights in members)


def test_the_default_is_not_always_the_first():
    assert find_weights("resnet50") is models.ResNet50_Weights.IMAGENET1K_V2
    assert find_weights("resnet18") is models.ResNet18_Weights.IMAGENET1K_V1


@pytest.mark.parametrize(
    ("name", "close"),
    [
        ("resnet19", ["resnet18", "resnet152", "resnet101"]),
        ("ResNet18_Weights", ["ResNet18_Weights.IMAGENET1K_V1", "ResNet50_Weights.IMAGENET1K_V2", "ResNet50_Weights.IMAGENET1K_V1"]),
        ("qqq", []),
    ],
)
def test_find_weights_names_what_is_close(name, close):
    with pytest.raises(ValueError, match=r"^expected weights or a model, got ") as caught:
        find_weights(name)
    text = str(caught.value)
    assert text.startswith(f"expected weights or a model, got {name!r}; close: [")
    found = re.findall(r"'([^']*)'", text.partition("close: ")[2])
    assert set(close[:1]) <= set(found)
    assert bool(close) is bool(found)


def test_resolving_touches_no_network_and_no_folder(home, monkeypatch):
    monkeypatch.setattr("torch.hub.download_url_to_file", lambda *args, **kwargs: pytest.fail("a download"))
    weights = find_weights("resnet18")
    assert weights.url == "https://download.pytorch.org/models/resnet18-f37072fd.pth"
    assert len(weights.meta["categories"]) == 1000
    assert weights.transforms().crop_size == [224]
    assert not cached_file(weights).exists()
    assert not home.exists()


def test_the_transforms_are_resize_crop_scale_normalize():
    torch.manual_seed(0)
    image = torch.randint(0, 256, (3, 240, 320), dtype=torch.uint8)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    steps = v2.Resize(256), v2.CenterCrop(224), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)
    levels = (v2.Compose(steps)(image) - find_weights("resnet18").transforms()(image)).abs() * 255 * 0.229
    assert levels.max() < 1.03


# cached_file


def test_cached_file_is_where_torchvision_puts_it(home):
    weights = enum_for("https://example.org/a/b/net-12345678.pth?version=2#part")
    assert cached_file(weights) == home / "net-12345678.pth"
    assert isinstance(cached_file(weights), Path)


def test_cached_file_follows_set_dir(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.hub._hub_dir", str(tmp_path / "elsewhere"))
    assert cached_file(enum_for("https://example.org/x.pth")) == tmp_path / "elsewhere" / "checkpoints" / "x.pth"


def test_torchvision_reads_the_same_file(home, monkeypatch):
    monkeypatch.setattr("torch.hub.download_url_to_file", lambda *args, **kwargs: pytest.fail("a download"))
    torch.manual_seed(0)
    model = models.shufflenet_v2_x0_5(weights=None)
    weights = models.ShuffleNet_V2_X0_5_Weights.DEFAULT
    home.mkdir(parents=True)
    torch.save(model.state_dict(), cached_file(weights))
    assert same_state(models.shufflenet_v2_x0_5(weights=weights), model)


def test_pretrained_true_warns_and_means_the_old_weights(home):
    model = models.mobilenet_v2(weights=None)
    home.mkdir(parents=True)
    torch.save(model.state_dict(), cached_file(models.MobileNet_V2_Weights.IMAGENET1K_V1))
    with pytest.warns(UserWarning, match="deprecated since 0.13") as caught:
        old = models.mobilenet_v2(pretrained=True)
    assert len(caught) == 2
    assert "equivalent to passing `weights=MobileNet_V2_Weights.IMAGENET1K_V1`" in str(caught[1].message)
    assert same_state(old, model)
    assert models.MobileNet_V2_Weights.DEFAULT is models.MobileNet_V2_Weights.IMAGENET1K_V2


# load_cached


@pytest.mark.parametrize("name", ["net-{}.pth", "net.pth", "net-v2.pth", "net-1234567.pth", "net-12345678"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_load_cached_loads_what_is_there(home, name, dtype):
    torch.manual_seed(0)
    source, model = DigitNet(5), DigitNet(5).to(dtype)
    weights = saved(home, source.state_dict(), name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_cached(model, weights) is True
    assert same_state(model, source.to(dtype))
    assert model.fc.weight.dtype == dtype


def test_load_cached_says_what_is_missing_and_changes_nothing(home):
    model = DigitNet(5)
    before = copy_of(model)
    with pytest.warns(UserWarning, match=r"^net-12345678\.pth is not in the cache: the model keeps the weights it has$"):
        assert load_cached(model, enum_for("https://example.org/net-12345678.pth")) is False
    assert moved(model, before) == set()
    assert not home.exists()


def test_a_folder_of_that_name_is_no_file(home):
    (home / "x.pth").mkdir(parents=True)
    with pytest.warns(UserWarning, match="is not in the cache"):
        assert not load_cached(DigitNet(5), enum_for("https://example.org/x.pth"))


@pytest.mark.parametrize("named", ["00000000", "0123456789abcdef"])
def test_load_cached_refuses_another_content(home, named):
    model = DigitNet(5)
    before = copy_of(model)
    weights = saved(home, DigitNet(5).state_dict(), f"net-{named}.pth")
    digest = hashlib.sha256(cached_file(weights).read_bytes()).hexdigest()[:8]
    with pytest.raises(ValueError, match=rf"^expected net-{named}\.pth with SHA-256 {named}…, got {digest}…$"):
        load_cached(model, weights)
    assert moved(model, before) == set()


def test_a_truncated_file_is_refused(home):
    weights = saved(home, DigitNet(5).state_dict())
    file = cached_file(weights)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"^expected net-[0-9a-f]{8}\.pth with SHA-256"):
        load_cached(DigitNet(5), weights)


def test_load_cached_refuses_another_architecture(home):
    weights = saved(home, DigitNet(5).state_dict())
    with pytest.raises(RuntimeError, match=r"size mismatch for fc\.weight"):
        load_cached(DigitNet(6), weights)
    with pytest.raises(RuntimeError, match=r"Unexpected key"):
        load_cached(nn.Linear(1, 1), weights)


def test_load_cached_runs_no_code_of_the_file(home):
    weights = saved(home, DigitNet(5))  # a whole module, pickled
    with pytest.raises(Exception, match="Weights only load failed"):
        load_cached(DigitNet(5), weights)


def test_load_cached_reads_onto_the_cpu(home, monkeypatch):
    seen = []
    load = torch.load
    monkeypatch.setattr("torch.load", lambda *args, **options: seen.append(options) or load(*args, **options))
    load_cached(DigitNet(5), saved(home, DigitNet(5).state_dict()))
    assert seen == [{"map_location": "cpu", "weights_only": True}]


# replace_head

HEADS = {
    "resnet18": ("fc", 512),
    "resnet50": ("fc", 2048),
    "densenet121": ("classifier", 1024),
    "vgg16": ("classifier.6", 4096),
    "mobilenet_v3_small": ("classifier.3", 1024),
    "efficientnet_b0": ("classifier.1", 1280),
    "convnext_tiny": ("classifier.2", 768),
    "swin_t": ("head", 768),
    "vit_b_16": ("heads.head", 768),
}


@pytest.mark.parametrize("name", HEADS)
def test_replace_head_of_each_family(name):
    head, inputs = HEADS[name]
    with torch.device("meta"):  # shapes without numbers
        model = models.get_model(name, weights=None).eval()
        new = replace_head(model, head, 7)
        assert model.get_submodule(head) is new
        assert new.weight.shape == (7, inputs)
        assert model(torch.empty(2, 3, 224, 224)).shape == (2, 7)


@settings(max_examples=20, deadline=None)
@given(
    inputs=st.integers(1, 6), old=st.integers(1, 6), new=st.integers(1, 6), bias=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]), device=st.sampled_from(["cpu", "meta"]),
)
def test_the_new_head_keeps_inputs_bias_dtype_and_device(inputs, old, new, bias, dtype, device):
    first = nn.Linear(inputs, inputs)
    model = nn.Sequential(first, nn.Sequential(nn.ReLU(), nn.Linear(inputs, old, bias))).to(device, dtype)
    freeze(model)
    head = replace_head(model, "1.1", new)
    assert model[1][1] is head
    assert model[0] is first
    assert type(head) is nn.Linear
    assert head.weight.shape == (new, inputs)
    assert (head.bias is not None) is bias
    assert {p.dtype for p in head.parameters()} == {dtype}
    assert {p.device.type for p in head.parameters()} == {device}
    assert all(p.requires_grad and p.is_leaf for p in head.parameters())
    assert not any(p.requires_grad for p in first.parameters())


@pytest.mark.parametrize("name", ["head", "layer1", "", "fc.weight", "f"])
def test_replace_head_refuses_what_is_no_linear_layer(name):
    with pytest.raises(ValueError, match=rf"^expected one of \['fc'\], got '{re.escape(name)}'$"):
        replace_head(DigitNet(5), name, 3)


def test_a_model_that_is_the_layer_has_no_head_to_replace():
    with pytest.raises(ValueError, match=r"^expected one of \[\], got ''$"):
        replace_head(nn.Linear(2, 2), "", 3)


@pytest.mark.parametrize("classes", [0, -1])
def test_replace_head_refuses_no_classes(classes):
    model = DigitNet(5)
    with pytest.raises(ValueError, match=rf"^expected classes >= 1, got {classes}$"):
        replace_head(model, "fc", classes)
    assert model.fc.out_features == 5


# DigitNet


def test_digit_net_halves_three_times():
    model = DigitNet(7)
    shapes = {}
    for name in ("bn1", "layer1", "layer2", "avgpool", "fc"):
        model.get_submodule(name).register_forward_hook(lambda m, x, y, name=name: shapes.update({name: tuple(y.shape[1:])}))
    model(torch.randn(2, *MNIST_LIKE))
    assert shapes == {"bn1": (8, 14, 14), "layer1": (16, 7, 7), "layer2": (32, 4, 4), "avgpool": (32, 1, 1), "fc": (7,)}
    assert model.conv1.bias is None
    assert sum(p.numel() for p in model.parameters()) == 200 + 16 + 3680 + 14528 + 231


def test_a_stage_is_torchvisions_block():
    block = stage(3, 6).eval()
    x = torch.randn(2, 3, 8, 8)
    y = block.bn1(block.conv1(x)).relu()
    y = block.bn2(block.conv2(y))
    shortcut = torch.nn.functional.conv2d(x, block.downsample[0].weight, stride=2)
    torch.testing.assert_close(block(x), (y + block.downsample[1](shortcut)).relu())
    assert block.downsample[0].bias is None
    assert block(x).shape == (2, 6, 4, 4)


def test_digit_net_is_its_layers_in_order():
    torch.manual_seed(0)
    model = DigitNet(4).eval().double()
    x = torch.randn(3, *MNIST_LIKE, dtype=torch.float64)
    stem = model.bn1(torch.nn.functional.conv2d(x, model.conv1.weight, stride=2, padding=2)).clamp(min=0)
    maps = model.layer2(model.layer1(stem))
    torch.testing.assert_close(model(x), maps.mean(dim=(2, 3)) @ model.fc.weight.T + model.fc.bias)


# accuracy


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 20), classes=st.integers(1, 5), seed=SEEDS)
def test_accuracy_counts_the_rows_that_are_right(n, classes, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, classes, generator=generator, dtype=torch.float64)
    y = torch.randint(classes, (n,), generator=generator)
    right = sum(max(range(classes), key=row.__getitem__) == label for row, label in zip(logits.tolist(), y.tolist(), strict=True))
    result = accuracy(nn.Identity(), logits, y)
    assert type(result) is float
    assert result == pytest.approx(right / n)


def test_accuracy_runs_in_eval_and_inference_mode():
    calls = []

    class Probe(nn.Module):
        def forward(self, x):
            calls.append((self.training, torch.is_inference_mode_enabled()))
            return x

    accuracy(Probe(), torch.eye(2), torch.arange(2))
    assert calls == [(False, True)]


# freeze


def test_freeze_forgets_old_gradients():
    model = DigitNet(5)
    model(torch.randn(4, *MNIST_LIKE)).sum().backward()
    freeze(model.layer1)
    for name, parameter in model.named_parameters():
        frozen = name.startswith("layer1.")
        assert parameter.requires_grad is not frozen
        assert (parameter.grad is None) is frozen


def test_a_frozen_resnet_trains_its_new_head_only():
    model = models.resnet18(weights=None)
    freeze(model)
    replace_head(model, "fc", 10)
    sizes = {n: p.numel() for n, p in model.named_parameters() if p.requires_grad}
    assert sizes == {"fc.weight": 5120, "fc.bias": 10}
    assert sum(p.numel() for p in model.parameters()) == 11_181_642


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("optimizer_type", [torch.optim.SGD, torch.optim.RMSprop])
def test_after_freeze_no_optimizer_moves_a_parameter(optimizer_type, momentum):
    layer = nn.Linear(2, 2)
    optimizer = optimizer_type(layer.parameters(), lr=0.1, momentum=momentum, weight_decay=0.5)
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    freeze(layer)
    before = copy_of(layer)
    optimizer.step()
    assert moved(layer, before) == set()


@pytest.mark.parametrize(
    ("zeros", "options", "moves"),
    [(False, {}, True), (True, {}, False), (True, {"momentum": 0.9}, True), (True, {"weight_decay": 0.5}, True)],
)
def test_requires_grad_alone_does_not_stop_an_optimizer(zeros, options, moves):
    layer = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, **options)
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    if zeros:
        optimizer.zero_grad(set_to_none=False)
    layer.requires_grad_(False)
    before = copy_of(layer)
    optimizer.step()
    assert (moved(layer, before) != set()) is moves


# train_unfrozen


def test_train_unfrozen_is_train_where_nothing_is_frozen():
    model = small().eval()
    train_unfrozen(model)
    assert all(module.training for module in model.modules())


def test_train_unfrozen_leaves_what_is_frozen_whole_in_eval():
    model = small()
    freeze(model[0])
    model[3].bias.requires_grad_(False)  # in part
    train_unfrozen(model)
    modes = {name: module.training for name, module in model.named_modules()}
    assert modes == {"": True, "0": False, "0.0": False, "0.1": False, "0.2": False, "1": True, "2": True, "3": True}


def test_train_unfrozen_with_everything_frozen_is_eval():
    model = small()
    freeze(model)
    train_unfrozen(model)
    assert not any(module.training for module in model.modules())


def test_modules_without_parameters_follow_train():
    model = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2, affine=False)).eval()
    train_unfrozen(model)
    assert all(module.training for module in model.modules())


def test_frozen_statistics_stay_only_in_eval():
    model = DigitNet(5)
    freeze(model)
    before = copy_of(model)
    x = torch.randn(6, *MNIST_LIKE) + 3
    train_unfrozen(model)
    model(x)
    assert moved(model, before) == set()
    model.train()
    with torch.no_grad():
        model(x)
    assert {name.rpartition(".")[2] for name in moved(model, before)} == {"running_mean", "running_var", "num_batches_tracked"}


# parameter_groups


def names_of(model, groups):
    names = {id(p): name for name, p in model.named_parameters()}
    return [[names[id(p)] for p in group["params"]] for group in groups]


def test_the_longest_name_that_fits_wins():
    model = DigitNet(5)
    groups = parameter_groups(model, {"": 0.1, "layer1": 0.2, "layer1.bn1": 0.3, "fc.bias": 0.4})
    rest, layer, norm, bias = names_of(model, groups)
    assert [set(group) for group in groups] == [{"params", "lr"}] * 4
    assert [group["lr"] for group in groups] == [0.1, 0.2, 0.3, 0.4]
    assert bias == ["fc.bias"]
    assert norm == ["layer1.bn1.weight", "layer1.bn1.bias"]
    assert len(layer) == 7
    assert all(name.startswith("layer1.") for name in layer)
    assert len(rest) + len(layer) + len(norm) + len(bias) == len(list(model.parameters()))


def test_order_of_rates_does_not_matter():
    model = DigitNet(5)
    a = names_of(model, parameter_groups(model, {"layer1.bn1": 1, "layer1": 2, "": 3}))
    b = names_of(model, parameter_groups(model, {"": 3, "layer1": 2, "layer1.bn1": 1}))
    assert a == b[::-1]


@settings(max_examples=20, deadline=None)
@given(frozen=st.sets(st.sampled_from(["conv1", "bn1", "layer1", "layer2"])), rate=st.floats(0, 1))
def test_groups_hold_each_trainable_parameter_once(frozen, rate):
    model = DigitNet(5)
    for name in frozen:
        freeze(model.get_submodule(name))
    (group,) = parameter_groups(model, {"": rate})
    assert group["lr"] == rate
    assert [id(p) for p in group["params"]] == [id(p) for p in model.parameters() if p.requires_grad]


def test_a_name_is_no_mere_prefix():
    model = nn.ModuleDict({"fc": nn.Linear(1, 1), "fc2": nn.Linear(1, 1)})
    with pytest.raises(ValueError, match=r"^expected a rate for fc2\.weight, got \['fc'\]$"):
        parameter_groups(model, {"fc": 0.1})


def test_a_parameter_of_the_model_itself_has_its_name():
    model = nn.Linear(2, 2)
    assert names_of(model, parameter_groups(model, {"weight": 1.0, "bias": 2.0})) == [["weight"], ["bias"]]


@pytest.mark.parametrize("name", ["head", "layer1"])
def test_a_name_without_trainable_parameters_is_refused(name):
    model = DigitNet(5)
    freeze(model.layer1)
    with pytest.raises(ValueError, match=rf"^expected trainable parameters in '{name}'$"):
        parameter_groups(model, {"": 0.1, name: 0.2})


def test_each_group_moves_by_its_own_rate():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.SGD(parameter_groups(model, {"0": 0.5, "1": 0.25}))
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    steps = [(old - p.detach()).mean().item() for old, p in zip(before, model.parameters(), strict=True)]
    assert steps == pytest.approx([0.5, 0.5, 0.25, 0.25])


# train_step


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS)
def test_train_step_is_one_step_of_gradient_descent(seed):
    torch.manual_seed(seed)
    model = nn.Linear(3, 4).double()
    x, y = torch.randn(6, 3, dtype=torch.float64), torch.randint(4, (6,))
    weight, bias = (p.detach().clone() for p in model.parameters())
    error = (x @ weight.T + bias).softmax(dim=1) - nn.functional.one_hot(y, 4)
    for p in model.parameters():
        p.grad = torch.full_like(p, 1e6)  # from before
    assert train_step(model, torch.optim.SGD(model.parameters(), lr=0.5), x, y) is None
    torch.testing.assert_close(model.weight.data, weight - 0.5 * error.T @ x / 6)
    torch.testing.assert_close(model.bias.data, bias - 0.5 * error.mean(dim=0))


def test_train_step_keeps_frozen_parts_as_they_are():
    torch.manual_seed(0)
    model = DigitNet(3)
    freeze(model.conv1)
    freeze(model.bn1)
    freeze(model.layer1)
    before = copy_of(model.eval())
    optimizer = torch.optim.SGD(parameter_groups(model, {"": 0.1}))
    train_step(model, optimizer, torch.randn(6, *MNIST_LIKE), torch.arange(6) % 3)
    changed = moved(model, before)
    assert changed == {name for name in before if name.startswith(("layer2.", "fc."))}


def test_fine_tuning_lowers_the_loss():
    torch.manual_seed(0)
    model = DigitNet(5)
    freeze(model)
    replace_head(model, "fc", 2)
    x, y = torch.randn(8, *MNIST_LIKE), torch.arange(8) % 2
    optimizer = torch.optim.SGD(parameter_groups(model, {"fc": 0.5}))
    start = cross_entropy(model.eval()(x), y).item()
    for _ in range(20):
        train_step(model, optimizer, x, y)
    assert cross_entropy(model(x), y).item() < start


# the script

PRINTED = "ResNet18_Weights.IMAGENET1K_V1 resnet18-f37072fd.pth 1000\nmoved: fc.weight fc.bias\n"


def test_main_prints_what_moved(capsys):
    main()
    assert capsys.readouterr().out == PRINTED


@pytest.mark.filterwarnings("ignore:.*found in sys.modules.*:RuntimeWarning")
def test_module_runs_as_a_script(capsys):
    runpy.run_module("snippets.models.pretrained", run_name="__main__")
    assert capsys.readouterr().out == PRINTED
