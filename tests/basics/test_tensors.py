"""Tensors against as_strided, broadcast_shapes, torchvision's conversion, closed forms and gradcheck."""

import runpy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torchvision.transforms.v2 import functional as transforms

from snippets.basics.tensors import (
    ScaledSquare,
    Square,
    broadcast_shape,
    main,
    pixels,
    positions,
    same_storage,
    to_batch,
)

SEEDS = st.integers(0, 10_000)
SIZES = st.integers(0, 4)
SHAPES = st.lists(SIZES, max_size=4).map(tuple)
CHANNELS = st.sampled_from([1, 3, 4])


def random_image(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


# pixels


@settings(max_examples=20, deadline=None)
@given(h=st.integers(1, 6), w=st.integers(1, 6), c=CHANNELS, seed=SEEDS)
def test_pixels_keeps_channels_last(h, w, c, seed):
    array = random_image(h, w, c, seed=seed)
    image = pixels(array)
    assert image.dtype == torch.uint8
    assert image.shape == (h, w, c)
    assert image.tolist() == array.tolist()
    assert torch.equal(pixels(torch.tensor(array)), image)


@pytest.mark.parametrize("convert", [torch.tensor, np.array, Image.fromarray], ids=["tensor", "array", "pillow"])
def test_a_gray_image_gets_one_channel(convert):
    array = random_image(5, 7)
    image = pixels(convert(array))
    assert image.shape == (5, 7, 1)
    assert image[..., 0].tolist() == array.tolist()


def test_pixels_takes_flipped_and_read_only_arrays_and_copies_them():
    array = random_image(4, 5, 3)
    flipped = pixels(array[::-1, :, ::-1])  # negative strides
    assert flipped.tolist() == array[::-1, :, ::-1].tolist()
    own = pixels(array)
    array.setflags(write=False)
    image = pixels(array)  # a warning would be an error here
    image[0, 0, 0] += 1
    assert image[0, 0, 0] != own[0, 0, 0]
    assert array[0, 0, 0] == own[0, 0, 0]


def test_pixels_looks_at_a_tensor_without_a_copy():
    image = torch.zeros(4, 5, 3, dtype=torch.uint8)
    assert pixels(image) is image
    assert same_storage(pixels(image[..., 0]), image)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.float32, torch.bool])
def test_pixels_refuses_another_dtype(dtype):
    with pytest.raises(TypeError, match=rf"^expected uint8 pixels, got {dtype}$"):
        pixels(torch.zeros(4, 4, dtype=dtype))
    with pytest.raises(TypeError, match=rf"^expected uint8 pixels, got {dtype}$"):
        pixels(torch.zeros(4, 4, dtype=dtype).numpy())


@pytest.mark.parametrize("shape", [(), (4,), (4, 4, 0), (4, 4, 2), (4, 4, 5), (3, 28, 28), (1, 4, 4, 3)])
def test_pixels_refuses_another_shape(shape):
    with pytest.raises(ValueError, match=r"^expected \(H, W\) or \(H, W, 1, 3 or 4\), got ") as caught:
        pixels(torch.zeros(shape, dtype=torch.uint8))
    assert str(caught.value) == f"expected (H, W) or (H, W, 1, 3 or 4), got {shape}"


# to_batch


@settings(max_examples=30, deadline=None)
@given(b=st.integers(1, 4), h=st.integers(1, 6), w=st.integers(1, 6), c=CHANNELS, seed=SEEDS)
def test_a_batch_is_what_torchvision_makes(b, h, w, c, seed):
    images = random_image(b, h, w, c, seed=seed)
    batch = to_batch(*images)
    expected = torch.stack([transforms.to_dtype(transforms.to_image(i), torch.float32, scale=True) for i in images])
    assert batch.dtype == torch.float32
    assert batch.shape == (b, c, h, w)
    assert batch.is_contiguous()
    torch.testing.assert_close(batch, expected, rtol=1e-6, atol=0)


def test_every_pixel_is_found_at_batch_channel_row_column():
    images = random_image(2, 4, 5, 3)
    batch = to_batch(*images)
    for (b, h, w, c), value in np.ndenumerate(images):
        assert batch[b, c, h, w].item() == pytest.approx(value / 255)


def test_black_is_zero_and_white_is_one():
    image = torch.tensor([[0, 51, 255]], dtype=torch.uint8)
    assert to_batch(image).tolist() == [[[[0.0, pytest.approx(0.2), 1.0]]]]


def test_a_batch_is_float32_under_another_default():
    torch.set_default_dtype(torch.float64)
    try:
        assert to_batch(random_image(2, 2)).dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_batch_stays_on_the_device_of_its_images():
    image = torch.zeros(2, 3, dtype=torch.uint8, device="meta")
    batch = to_batch(image, image)
    assert (batch.device.type, batch.shape) == ("meta", (2, 1, 2, 3))


def test_gray_arrays_tensors_and_pillow_images_mix():
    array = random_image(3, 4)
    batch = to_batch(array, torch.tensor(array), Image.fromarray(array), array[..., None])
    assert batch.shape == (4, 1, 3, 4)
    assert all(torch.equal(batch[0], image) for image in batch)


def test_a_batch_needs_an_image():
    with pytest.raises(ValueError, match=r"^expected at least one image, got none$"):
        to_batch()


def test_a_batch_refuses_unequal_shapes():
    images = random_image(4, 2, 3), random_image(2, 2, 3), random_image(2, 2, 3)
    with pytest.raises(ValueError, match=r"^expected equal shapes, got \[\(2, 2, 3\), \(4, 2, 3\)\]$"):
        to_batch(*images)


def test_a_batch_that_was_not_unpacked_is_refused():
    with pytest.raises(ValueError, match=r"^expected \(H, W\) or \(H, W, 1, 3 or 4\), got \(64, 28, 28\)$"):
        to_batch(random_image(64, 28, 28))


# same_storage


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x,
        lambda x: x[2:],
        lambda x: x[1, 1],
        lambda x: x.T,
        lambda x: x.view(-1),
        lambda x: x[None].expand(5, 4, 6),
        lambda x: x.detach(),
        lambda x: torch.from_numpy(x.numpy()),
        lambda x: x.diagonal(),
    ],
)
def test_views_share_their_storage(view):
    x = torch.arange(24.0).view(4, 6)
    y = view(x)
    assert same_storage(x, y) is True
    assert same_storage(y, x) is True
    y.fill_(-1)
    assert (x == -1).any()


@pytest.mark.parametrize(
    "copy",
    [
        lambda x: x.clone(),
        lambda x: x[[0, 1]],
        lambda x: x[x > 3],
        lambda x: x.T.contiguous(),
        lambda x: x.T.reshape(-1),
        lambda x: x.double(),
        lambda x: torch.tensor(x.numpy()),
        lambda x: x + 0,
    ],
)
def test_copies_do_not(copy):
    x = torch.arange(24.0).view(4, 6)
    y = copy(x)
    assert same_storage(x, y) is False
    y.fill_(-1)
    assert not (x == -1).any()


@pytest.mark.parametrize("empty", [torch.empty(0), torch.empty(3, device="meta")])
def test_tensors_without_memory_are_refused(empty):
    x = torch.zeros(3)
    for pair in (empty, x), (x, empty), (empty, empty):
        with pytest.raises(ValueError, match=r"^expected memory, got an empty or meta tensor$"):
            same_storage(*pair)


# positions


@settings(max_examples=30, deadline=None)
@given(data=st.data(), shape=SHAPES, offset=st.integers(0, 5))
def test_positions_are_the_numbers_that_as_strided_reads(data, shape, offset):
    stride = data.draw(st.lists(st.integers(0, 7), min_size=len(shape), max_size=len(shape)))
    view = torch.arange(200).as_strided(shape, stride, offset)
    found = positions(view)
    assert found.dtype == torch.int64
    assert found.shape == shape
    assert torch.equal(found, view)  # the storage holds its own places


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float16, torch.float64, torch.complex64])
def test_positions_count_elements_not_bytes(dtype):
    x = torch.zeros(3, 4, dtype=dtype)
    assert positions(x[1:, ::2]).tolist() == [[4, 6], [8, 10]]


def test_positions_of_a_number_is_its_offset():
    x = torch.zeros(3, 4)
    assert positions(x[2, 1]).item() == 9
    assert positions(x[2, 1]).shape == ()


def test_positions_stay_on_the_device():
    for shape in (2, 3), ():
        found = positions(torch.empty(shape, device="meta"))
        assert (found.device.type, found.shape) == ("meta", shape)


def test_positions_refuses_a_tensor_without_strides():
    with pytest.raises(TypeError, match=r"^expected a strided tensor, got torch\.sparse_coo$"):
        positions(torch.eye(3).to_sparse())


# broadcast_shape


@settings(max_examples=30, deadline=None)
@given(shapes=st.lists(st.lists(st.sampled_from([0, 1, 1, 3]), max_size=4).map(tuple), min_size=1, max_size=4))
def test_broadcast_shape_is_torchs_own(shapes):
    try:
        expected = torch.broadcast_shapes(*shapes)
    except RuntimeError:
        with pytest.raises(ValueError, match=r"^expected equal sizes or 1 in dimension -\d, got \["):
            broadcast_shape(*shapes)
    else:
        result = broadcast_shape(*shapes)
        assert type(result) is torch.Size
        assert result == expected
        assert sum(torch.zeros(shape) for shape in shapes).shape == result


@settings(max_examples=30, deadline=None)
@given(data=st.data(), full=st.lists(st.integers(1, 5), min_size=1, max_size=5).map(tuple))
def test_shapes_that_fit_give_the_full_shape(data, full):
    keep = data.draw(st.lists(st.booleans(), min_size=len(full), max_size=len(full)))
    start = data.draw(st.integers(0, len(full)))
    part = tuple(n if k else 1 for n, k in zip(full, keep, strict=True))[start:]
    assert broadcast_shape(full, part) == full
    assert broadcast_shape(part, full) == full


def test_nothing_broadcasts_to_a_scalar():
    assert broadcast_shape() == torch.Size([])
    assert broadcast_shape((), ()) == torch.Size([])


@pytest.mark.parametrize(
    ("shapes", "dim", "sizes"),
    [
        (((2, 3), (2, 4)), -1, [3, 4]),
        (((2, 3), (4, 3)), -2, [2, 4]),
        (((5, 2, 3), (4, 3)), -2, [2, 4]),
        (((5, 2, 3), (3,), (6, 1, 1)), -3, [5, 6]),
        (((2, 3), (4, 5)), -1, [3, 5]),  # the first from the right
        (((3,), (1,), (2,)), -1, [3, 1, 2]),
        (((0,), (3,)), -1, [0, 3]),
        (((3, -1), (3, 1)), -1, [-1, 1]),
        (((-1,),), -1, [-1]),
    ],
)
def test_broadcast_shape_names_the_dimension(shapes, dim, sizes):
    with pytest.raises(ValueError, match=r"^expected equal sizes or 1 in dimension ") as caught:
        broadcast_shape(*shapes)
    assert str(caught.value) == f"expected equal sizes or 1 in dimension {dim}, got {sizes}"


# Square


@settings(max_examples=20, deadline=None)
@given(shape=st.lists(st.integers(1, 4), max_size=3).map(tuple), seed=SEEDS)
def test_square_and_its_derivatives_are_those_of_autograd(shape, seed):
    generator = torch.Generator().manual_seed(seed)
    x, v = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    x = x.clone().requires_grad_()
    assert torch.equal(Square.apply(x), x**2)
    (own,) = torch.autograd.grad(Square.apply(x), x, v)
    torch.testing.assert_close(own, 2 * x.detach() * v)
    assert torch.autograd.gradcheck(Square.apply, x)
    assert torch.autograd.gradgradcheck(Square.apply, x)


def test_square_keeps_the_dtype_and_leaves_its_input_alone():
    x = torch.tensor([-3.0, 2.0], dtype=torch.float32)
    assert Square.apply(x).tolist() == [9.0, 4.0]
    assert Square.apply(x).dtype == torch.float32
    assert x.tolist() == [-3.0, 2.0]


# ScaledSquare


def test_the_module_owns_one_parameter_of_ones():
    named = dict(ScaledSquare(3).named_parameters())
    assert list(named) == ["scale"]
    assert type(named["scale"]) is nn.Parameter
    assert named["scale"].tolist() == [1.0, 1.0, 1.0]


@settings(max_examples=20, deadline=None)
@given(leading=st.lists(st.integers(1, 4), max_size=3), features=st.integers(1, 4), seed=SEEDS)
def test_the_module_squares_the_scaled_input(leading, features, seed):
    generator = torch.Generator().manual_seed(seed)
    model = ScaledSquare(features).double()
    with torch.no_grad():
        model.scale.normal_(generator=generator)
    x = torch.randn(*leading, features, generator=generator, dtype=torch.float64)
    out = model(x)
    assert out.shape == x.shape
    torch.testing.assert_close(out, model.scale**2 * x**2)
    out.sum().backward()
    expected = 2 * model.scale.detach() * (x**2).reshape(-1, features).sum(dim=0)
    torch.testing.assert_close(model.scale.grad, expected)


@pytest.mark.parametrize("shape", [(), (1,), (2, 1), (2, 4), (3, 2)])
def test_the_module_refuses_what_would_broadcast(shape):
    with pytest.raises(ValueError, match=r"^expected \(\.\.\., 3\), got ") as caught:
        ScaledSquare(3)(torch.zeros(shape))
    assert str(caught.value) == f"expected (..., 3), got {shape}"


# the script

PRINTED = """\
batch (2, 3, 2, 4)
shares storage: True [[0, 3], [1, 4], [2, 5]]
broadcast (64, 3, 28, 28)
gradient [2.0, 18.0]
"""


def test_main_prints_what_the_page_shows(capsys):
    main()
    assert capsys.readouterr().out == PRINTED


@pytest.mark.filterwarnings("ignore:.*found in sys.modules.*:RuntimeWarning")
def test_module_runs_as_a_script(capsys):
    runpy.run_module("snippets.basics.tensors", run_name="__main__")
    assert capsys.readouterr().out == PRINTED
