"""Composing: every pixel against plain Python, attributes against the wrapped model, files against what was saved."""

import pickle
import runpy
import warnings
from copy import copy, deepcopy
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import interpolate
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as v2

from snippets.models import composing
from snippets.models.composing import Detector, Prepare, Wrapper, load_weights, main

DTYPES = [torch.uint8, torch.int64, torch.bool, torch.float16, torch.bfloat16, torch.float32, torch.float64]
NAMES = ["car", "person", "sign"]
KEYS = ["body.0.weight", "body.0.bias", "body.2.weight", "body.2.bias", "head.weight", "head.bias"]


def pixels(*shape: int, dtype: torch.dtype = torch.uint8, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, 256, shape, generator=generator, dtype=torch.uint8).to(dtype)


def reference(images: list, size: int) -> list:
    """Three steps on nested lists (N, C, H, W), one pixel at a time."""
    return [[resized(padded(flipped(channel)), size) for channel in image] for image in images]


def flipped(channel: list) -> list:
    return [channel[len(channel) - 1 - row] for row in range(len(channel))]


def padded(channel: list) -> list:
    height, width = len(channel), len(channel[0])
    side = height if height > width else width
    square = [[0] * side for _ in range(side)]
    for row in range(height):
        for column in range(width):
            square[row + (side - height) // 2][column + (side - width) // 2] = channel[row][column]
    return square


def resized(channel: list, size: int) -> list:
    side = len(channel)
    return [[channel[(row * side) // size][(column * side) // size] for column in range(size)] for row in range(size)]


def detector(seed: int = 0, names: list[str] | None = None) -> Detector:
    torch.manual_seed(seed)
    return Detector(NAMES if names is None else names)


def same_state(a: nn.Module, b: nn.Module) -> bool:
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


class Results(TorchDispatchMode):
    """Records the kind of device and the shape of every tensor that an operation returns."""

    def __init__(self):
        super().__init__()
        self.devices, self.shapes = [], []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.devices.append(result.device.type)
        self.shapes.append(tuple(result.shape))
        return result


# Detector


@pytest.mark.parametrize("cells", [1, 2])
def test_detector_has_one_row_of_scores_for_each_cell(cells):
    model = detector()
    scores = model(torch.rand(2, 3, cells * model.stride, 64))
    assert scores.shape == (2, 3, cells, 2)


def test_detector_is_two_convolutions_and_a_linear_map_of_each_cell():
    model, image = detector().double(), torch.rand(1, 3, 32, 32, dtype=torch.float64)
    first, _, second, _ = model.body
    patches = nn.functional.unfold(image, 4, stride=4)  # (1, 3 * 16, 64)
    hidden = (first.weight.flatten(1) @ patches[0] + first.bias[:, None]).clamp(min=0)
    cell = (second.weight.flatten(1) @ hidden.flatten() + second.bias).clamp(min=0)
    scores = model.head.weight.flatten(1) @ cell + model.head.bias
    torch.testing.assert_close(model(image).flatten(), scores)


def test_detector_keeps_its_names():
    names = ("a", "b")
    model = Detector(names)
    assert (model.names, model.nc, model.stride) == (["a", "b"], 2, 32)
    assert model.head.out_channels == 2
    assert list(model.state_dict()) == KEYS


def test_detector_copies_the_list_of_names():
    names = ["a", "b"]
    model = Detector(names)
    names.append("c")
    assert model.names == ["a", "b"]


def test_detector_refuses_a_string():
    with pytest.raises(TypeError, match=r"^expected a list of names, got 'car'$"):
        Detector("car")


# Prepare


@settings(max_examples=30, deadline=None)
@given(
    images=st.integers(1, 3), channels=st.integers(1, 4), height=st.integers(1, 12), width=st.integers(1, 12),
    size=st.integers(1, 16), dtype=st.sampled_from(DTYPES), seed=st.integers(0, 1000),
)
def test_prepare_is_the_reference_at_every_pixel(images, channels, height, width, size, dtype, seed):
    batch = pixels(images, channels, height, width, dtype=dtype, seed=seed)
    result = Prepare(size)(batch)
    assert result.shape == (images, channels, size, size)
    assert result.dtype == dtype
    assert result.tolist() == reference(batch.tolist(), size)


@settings(max_examples=20, deadline=None)
@given(height=st.integers(1, 9), width=st.integers(1, 9), size=st.integers(1, 9))
def test_one_image_is_a_batch_of_one(height, width, size):
    image = pixels(3, height, width)
    result = Prepare(size)(image)
    assert result.shape == (1, 3, size, size)
    assert torch.equal(result, Prepare(size)(image.unsqueeze(0)))


@pytest.mark.parametrize(
    ("shape", "want"),
    [
        ((1, 1, 2), [[1, 2], [0, 0]]),  # one spare row: below
        ((1, 2, 1), [[2, 0], [1, 0]]),  # one spare column: right
        ((1, 1, 4), [[0, 0, 0, 0], [1, 2, 3, 4], [0, 0, 0, 0], [0, 0, 0, 0]]),  # three: one above, two below
        ((1, 2, 2), [[3, 4], [1, 2]]),  # no spare row: only upside down
    ],
)
def test_prepare_centers_and_puts_the_odd_row_after(shape, want):
    image = torch.arange(1, 1 + torch.Size(shape).numel()).view(shape)
    assert Prepare(max(shape))(image)[0, 0].tolist() == want


def test_the_photo_of_the_page_at_every_pixel():
    photo = pixels(1, 1200, 1328)
    result = Prepare()(photo)
    assert result.shape == (1, 1, 640, 640)
    assert result.tolist() == reference([photo.tolist()], 640)


def test_the_photo_of_the_page_by_torchvision():
    photo = pixels(2, 3, 1200, 1328)
    square = v2.pad(v2.vertical_flip(photo), [0, 64, 0, 64])
    assert square.shape == (2, 3, 1328, 1328)
    nearest = v2.resize(square, [640, 640], interpolation=InterpolationMode.NEAREST)
    assert torch.equal(Prepare(640)(photo), nearest)


@pytest.mark.parametrize(("side", "differ"), [(1328, 0), (1344, 31), (1664, 25)])
def test_interpolate_rounds_where_prepare_does_not(side, differ):
    row = torch.arange(side)
    by_float = interpolate(row.float().view(1, 1, -1), size=640).flatten()
    by_prepare = Prepare(640)(row.expand(1, side, side))[0, 0, 0]
    assert by_prepare.tolist() == [i * side // 640 for i in range(640)]
    assert (by_float != by_prepare).sum() == differ


def test_prepare_leaves_its_input_alone():
    image = pixels(3, 5, 7)
    before = image.clone()
    result = Prepare(7)(image)
    result.zero_()
    assert torch.equal(image, before)


def test_prepare_takes_any_memory_layout():
    batch = pixels(2, 3, 5, 7)
    strided = batch.contiguous(memory_format=torch.channels_last)
    assert torch.equal(Prepare(4)(strided), Prepare(4)(batch))
    assert torch.equal(Prepare(4)(batch.mT), Prepare(4)(batch.mT.contiguous()))


def test_prepare_takes_an_empty_batch():
    assert Prepare(4)(torch.zeros(0, 3, 5, 7)).shape == (0, 3, 4, 4)
    assert Prepare(4)(torch.zeros(2, 0, 5, 7)).shape == (2, 0, 4, 4)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16])
def test_prepare_makes_every_tensor_where_its_input_is(dtype):
    image = torch.empty(3, 6, 8, device="meta", dtype=dtype)
    with Results() as results:
        result = Prepare(4)(image)
    assert set(results.devices) == {"meta"}
    assert (result.device.type, result.dtype, result.shape) == ("meta", dtype, (1, 3, 4, 4))


@pytest.mark.parametrize("shape", [(3, 4, 9), (3, 9, 4)])
def test_prepare_makes_nothing_larger_than_the_square(shape):
    with Results() as results:
        Prepare(2)(pixels(*shape))
    assert max(results.shapes, key=lambda found: torch.Size(found).numel()) == (1, 3, 9, 9)


def test_prepare_passes_the_gradient_to_the_pixels_it_reads():
    image = torch.rand(1, 3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(Prepare(3), image)
    (gradient,) = torch.autograd.grad(Prepare(3)(image).sum(), image)
    # side 5 to 3 reads 0, 1, 3; rows 1 and 3 of the square are rows 2 and 0 of the photo
    assert gradient.tolist() == [[[1, 1, 0, 1, 0], [0, 0, 0, 0, 0], [1, 1, 0, 1, 0]]]


def test_prepare_records_nothing_without_a_gradient():
    assert not Prepare(3)(torch.rand(1, 3, 5)).requires_grad


def test_prepare_holds_nothing():
    layer = Prepare(8)
    assert [*layer.parameters(), *layer.buffers(), *layer.children()] == []
    assert layer.state_dict() == {}
    layer(torch.rand(3, 4, 5))
    assert [*layer.modules()] == [layer]
    assert repr(layer) == "Prepare(size=8)"
    assert Prepare().size == 640


@pytest.mark.parametrize("size", [0, -1, 640.0, "640", None, (640, 640)])
def test_prepare_refuses_sizes(size):
    with pytest.raises(ValueError, match=r"^expected a whole size >= 1, got ") as caught:
        Prepare(size)
    assert str(caught.value).endswith(f"got {size!r}")


def test_prepare_takes_the_smallest_size_and_image():
    assert Prepare(1)(torch.full((1, 1, 1), 7)).tolist() == [[[[7]]]]


@pytest.mark.parametrize("shape", [(), (5,), (4, 5), (1, 1, 3, 4, 5), (3, 0, 5), (3, 5, 0), (1, 3, 0, 0)])
def test_prepare_refuses_shapes(shape):
    with pytest.raises(ValueError, match=r"^expected \(C, H, W\) or \(N, C, H, W\) with H, W > 0, got ") as caught:
        Prepare(4)(torch.zeros(shape))
    assert str(caught.value).endswith(f"got {shape}")


def test_prepare_refuses_what_is_no_tensor():
    with pytest.raises(TypeError, match=r"^expected a tensor of images, got ndarray$"):
        Prepare(4)(torch.zeros(3, 4, 5).numpy())


def test_a_convnet_refuses_bytes():
    with pytest.raises(RuntimeError, match="should be the same"):
        Wrapper(detector(), Prepare(64))(pixels(3, 60, 64))


# Wrapper


def test_wrapper_computes_after_of_model_of_before():
    parts = [nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(5, 2)]
    before, model, after = parts
    x = torch.rand(2, 3)
    assert torch.equal(Wrapper(model, before, after)(x), after(model(before(x))))
    assert torch.equal(Wrapper(model, after=after)(before(x)), after(model(before(x))))
    assert torch.equal(Wrapper(model, before=before)(x), model(before(x)))


def test_wrapper_alone_is_the_model():
    model, x = nn.Linear(3, 4), torch.rand(2, 3)
    wrapper = Wrapper(model)
    assert torch.equal(wrapper(x), model(x))
    assert [name for name, _ in wrapper.named_children()] == ["before", "model", "after"]
    assert type(wrapper.before) is type(wrapper.after) is nn.Identity


def test_an_empty_sequential_is_a_part_too():
    empty = nn.Sequential()
    wrapper = Wrapper(nn.ReLU(), empty, empty)
    assert wrapper.before is wrapper.after is empty


@pytest.mark.parametrize("name", ["before", "model", "after"])
def test_wrapper_refuses_a_part_that_is_no_module(name):
    parts = {"model": nn.ReLU(), name: Detector}
    with pytest.raises(TypeError, match=rf"^expected a module as {name}, got <class '.*Detector'>$"):
        Wrapper(**parts)


def test_wrapper_needs_a_model():
    with pytest.raises(TypeError, match=r"^expected a module as model, got None$"):
        Wrapper(None)


def test_attributes_are_those_of_the_model_not_copies():
    model = detector()
    wrapper = Wrapper(model, Prepare(64))
    assert wrapper.names is model.names
    assert wrapper.head is model.head
    assert (wrapper.nc, wrapper.stride) == (3, 32)
    model.nc, model.names = 4, ["x"]
    assert (wrapper.nc, wrapper.names) == (4, ["x"])
    assert {"nc", "names", "stride"}.isdisjoint(vars(wrapper))


def test_parameters_and_buffers_of_the_model_show_once():
    model = nn.BatchNorm1d(3)
    wrapper = Wrapper(model)
    assert wrapper.weight is model.weight
    assert wrapper.running_mean is model.running_mean
    assert [name for name, _ in wrapper.named_parameters()] == ["model.weight", "model.bias"]


def test_methods_and_properties_are_those_of_the_model():
    class Model(nn.Linear):
        @property
        def twice(self):
            return 2 * self.in_features

        def itself(self):
            return self

    model = Model(3, 4)
    assert Wrapper(model).twice == 6
    assert Wrapper(model).itself() is model


def test_assignments_stay_on_the_wrapper():
    model = detector()
    wrapper = Wrapper(model)
    wrapper.nc = 80
    wrapper.head = nn.Identity()
    assert (wrapper.nc, model.nc) == (80, 3)
    assert isinstance(model.head, nn.Conv2d)
    del wrapper.nc, wrapper.head
    assert wrapper.nc == 3
    assert wrapper.head is model.head
    with pytest.raises(AttributeError):
        del wrapper.nc


def test_own_names_win():
    class Model(nn.Module):
        before, model, after, stride = 1, 2, 3, 4

    wrapper = Wrapper(Model())
    assert isinstance(wrapper.before, nn.Identity)
    assert isinstance(wrapper.after, nn.Identity)
    assert isinstance(wrapper.model, Model)
    assert wrapper.stride == 4


def test_a_wrapper_in_a_wrapper():
    model = detector()
    wrapper = Wrapper(Wrapper(model, nn.ReLU(), nn.Flatten()), Prepare(64), nn.Sigmoid())
    photo = torch.randn(3, 60, 64)
    want = model(Prepare(64)(photo).relu()).flatten(1).sigmoid()
    assert torch.equal(wrapper(photo), want)
    assert wrapper.names is model.names


def test_a_missing_name_is_an_attribute_error_of_the_model():
    wrapper = Wrapper(detector())
    with pytest.raises(AttributeError, match=r"^'Detector' object has no attribute 'missing'$"):
        wrapper.missing  # noqa: B018
    assert not hasattr(wrapper, "missing")
    assert getattr(wrapper, "missing", 7) == 7


@pytest.mark.parametrize("name", ["nc", "model", "before", "__deepcopy__"])
def test_an_unfinished_wrapper_says_what_it_lacks(name):
    unfinished = Wrapper.__new__(Wrapper)
    with pytest.raises(AttributeError, match=rf"^'Wrapper' object has no attribute '{name}'$"):
        getattr(unfinished, name)
    nn.Module.__init__(unfinished)
    with pytest.raises(AttributeError, match=rf"^'Wrapper' object has no attribute '{name}'$"):
        getattr(unfinished, name)


@pytest.mark.parametrize("twin", [deepcopy, lambda wrapper: pickle.loads(pickle.dumps(wrapper))])
def test_copies_are_whole_and_independent(twin):
    wrapper = Wrapper(detector(), Prepare(64), nn.Flatten())
    photo = torch.rand(3, 60, 64)
    other = twin(wrapper)
    assert type(other) is Wrapper
    assert torch.equal(other(photo), wrapper(photo))
    assert other.names == wrapper.names
    assert other.names is not wrapper.names
    with torch.no_grad():
        other.model.head.bias.add_(1)
    assert not torch.equal(other(photo), wrapper(photo))


def test_a_shallow_copy_shares_the_model():
    wrapper = Wrapper(detector())
    assert type(copy(wrapper)) is Wrapper
    assert copy(wrapper).model is wrapper.model


def test_a_model_with_a_deepcopy_of_its_own():
    traced = torch.fx.symbolic_trace(detector())
    assert hasattr(traced, "__deepcopy__")
    wrapper = Wrapper(traced, Prepare(64))
    assert not hasattr(wrapper, "__deepcopy__")
    assert type(deepcopy(wrapper)) is Wrapper
    assert hasattr(wrapper, "graph")


def test_one_underscore_is_passed_on():
    model = nn.ReLU()
    model._tag = "x"
    assert Wrapper(model)._tag == "x"


def test_modes_and_dtypes_reach_every_part():
    wrapper = Wrapper(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    assert [part.training for part in wrapper.eval().children()] == [False] * 3
    assert {p.dtype for p in wrapper.double().parameters()} == {torch.float64}
    assert len([*wrapper.parameters()]) == 6


def test_gradients_reach_every_part_and_the_input():
    wrapper = Wrapper(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)).double()
    x = torch.rand(3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(wrapper, x)
    wrapper(x).sum().backward()
    assert all(p.grad is not None for p in wrapper.parameters())


def test_keys_of_the_model_survive_wrapping_and_unwrapping():
    bare = detector(1)
    wrapper = Wrapper(detector(2), Prepare(64), nn.Linear(3, 2))
    assert list(wrapper.state_dict()) == [*(f"model.{key}" for key in KEYS), "after.weight", "after.bias"]
    assert list(wrapper.model.state_dict()) == KEYS
    wrapper.model.load_state_dict(bare.state_dict())
    assert same_state(wrapper.model, bare)
    back = detector(3)
    back.load_state_dict(wrapper.model.state_dict())
    assert same_state(back, bare)


def test_a_wrapper_restores_itself():
    one, two = (Wrapper(detector(seed), Prepare(64), nn.Linear(3, 2)) for seed in (1, 2))
    two.load_state_dict(one.state_dict())
    assert same_state(one, two)


@pytest.mark.filterwarnings("ignore")  # 2.11 warns about a read-only buffer in torch.export.load
def test_export_gives_the_same_for_every_batch_size(tmp_path):
    after = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    wrapper = Wrapper(detector(), Prepare(64), after).eval()
    batch = torch.rand(2, 3, 60, 80)
    program = torch.export.export(wrapper, (batch,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, tmp_path / "wrapper.pt2")
    exported = torch.export.load(tmp_path / "wrapper.pt2").module()
    for n in (1, 2, 5):
        photos = torch.rand(n, 3, 60, 80)
        torch.testing.assert_close(exported(photos), wrapper(photos))
    with pytest.raises(AssertionError, match=r"size\(\)\[2\] == 60"):
        exported(torch.rand(2, 3, 61, 80))


# load_weights


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, Detector]:
    model = detector(7)
    torch.save(model.state_dict(), tmp_path / "detector.pt")
    return tmp_path / "detector.pt", model


@pytest.mark.parametrize("kind", [Path, str])
@pytest.mark.parametrize("device", ["cpu", torch.device("cpu")])
def test_load_weights_restores_what_was_saved(saved, kind, device):
    path, model = saved
    wrapper = Wrapper(detector(8), Prepare(64))
    assert load_weights(wrapper.model, kind(path), device) is None
    assert same_state(wrapper.model, model)
    photo = torch.rand(3, 60, 64)
    assert torch.equal(wrapper(photo), model(Prepare(64)(photo)))


def test_load_weights_moves_model_and_file_to_the_device(saved, monkeypatch):
    path, _ = saved
    calls, load = [], torch.load
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: calls.append((args, kwargs)) or load(*args, **kwargs))
    model = detector()
    load_weights(model, path, "meta")  # the second device of every machine
    assert calls == [((path,), {"map_location": "meta", "weights_only": True})]
    assert {p.device.type for p in model.parameters()} == {"meta"}


def test_load_weights_keeps_the_parameters_and_their_dtype(saved):
    path, source = saved
    model = detector().half()
    before = [*model.parameters()]
    load_weights(model, path, "cpu")
    assert all(a is b for a, b in zip(model.parameters(), before, strict=True))
    assert all(p.requires_grad and p.dtype == torch.float16 for p in before)
    assert same_state(model, source.half())


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a", "b"], "head.weight: expected (2, 16, 1, 1), got (3, 16, 1, 1); head.bias: expected (2,), got (3,)"),
        (["a"], "head.weight: expected (1, 16, 1, 1), got (3, 16, 1, 1); head.bias: expected (1,), got (3,)"),
    ],
)
def test_load_weights_names_keys_and_shapes_and_leaves_the_model_alone(saved, names, message):
    path, _ = saved
    model = detector(0, names)
    before = deepcopy(model)
    with pytest.raises(ValueError, match=r"^head\.weight") as caught:
        load_weights(model, path, "meta")
    assert str(caught.value) == message
    assert same_state(model, before)  # and not moved


def test_load_state_dict_leaves_half_a_model(saved):
    _, source = saved
    for strict in (True, False):
        model = detector(0, ["a", "b"])
        with pytest.raises(RuntimeError, match=r"size mismatch for head\.weight"):
            model.load_state_dict(source.state_dict(), strict=strict)
        assert torch.equal(model.body[0].weight, source.body[0].weight)


def test_load_weights_names_missing_and_unexpected_keys(saved):
    path, source = saved
    state = source.state_dict()
    state["extra"] = state.pop("head.bias")
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"^head\.bias: expected \(3,\), got None; extra: expected None, got \(3,\)$"):
        load_weights(detector(), path, "cpu")


def test_load_weights_shows_the_prefix(saved):
    path, _ = saved
    with pytest.raises(ValueError, match=r"^model\.body") as caught:
        load_weights(Wrapper(detector()), path, "cpu")
    problems = str(caught.value).split("; ")
    assert [problem.split(":")[0] for problem in problems] == [f"model.{key}" for key in KEYS] + KEYS
    assert problems[5] == "model.head.bias: expected (3,), got None"
    assert problems[-1] == "head.bias: expected None, got (3,)"


def test_a_scalar_is_not_a_missing_key(tmp_path):
    model = nn.BatchNorm1d(2)  # num_batches_tracked has the shape ()
    state = model.state_dict()
    del state["num_batches_tracked"]
    torch.save(state, tmp_path / "norm.pt")
    with pytest.raises(ValueError, match=r"^num_batches_tracked: expected \(\), got None$"):
        load_weights(model, tmp_path / "norm.pt", "cpu")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "expected a dict, got list"),
        (torch.zeros(2), "expected a dict, got Tensor"),
        ({"model": {"w": torch.zeros(2)}, "w": torch.zeros(2), "epoch": 3}, "expected tensors, got other values at ['model', 'epoch']"),
    ],
)
def test_load_weights_refuses_other_files(tmp_path, content, message):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(TypeError, match=r"^expected") as caught:
        load_weights(detector(), tmp_path / "other.pt", "cpu")
    assert str(caught.value) == message


def test_load_weights_refuses_a_pickled_module(tmp_path):
    torch.save(detector(), tmp_path / "module.pt")
    with pytest.raises(pickle.UnpicklingError, match=r"^Weights only load failed\."):
        load_weights(detector(), tmp_path / "module.pt", "cpu")


def test_load_weights_needs_a_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_weights(detector(), tmp_path / "none.pt", "cpu")


def test_the_alternative_to_export_is_deprecated():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.jit.script(nn.ReLU())
    assert "torch.export" in str(caught[0].message)


# the script

PRINTED = """\
prepared (3, 1200, 1328) -> (1, 3, 640, 640)
one photo (1, 3) two photos (2, 3)
attributes 3 ['car', 'person', 'sign'] 32
difference from the bare detector 0.0000
"""


def test_main_prints_shapes_and_attributes(capsys):
    main()
    assert capsys.readouterr().out == PRINTED


def test_main_leaves_no_file(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(composing.tempfile, "tempdir", str(tmp_path))
    main()
    assert capsys.readouterr().out == PRINTED
    assert [*tmp_path.iterdir()] == []


def test_main_loads_onto_an_accelerator_that_is_there(monkeypatch, capsys):
    there, devices = torch.device("cpu", 0), []

    def load(model, path, device):
        devices.append(device)
        load_weights(model, path, device.type)

    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: check_available and there)
    monkeypatch.setattr(composing, "load_weights", load)
    main()
    assert devices == [there]
    assert capsys.readouterr().out == PRINTED


@pytest.mark.filterwarnings("ignore:.*found in sys.modules.*:RuntimeWarning")
def test_module_runs_as_a_script(capsys):
    runpy.run_module("snippets.models.composing", run_name="__main__")
    assert capsys.readouterr().out == PRINTED
