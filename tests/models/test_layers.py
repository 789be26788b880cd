"""Layers by hand against torch.nn and torch.nn.functional, forward and backward."""

import re
import runpy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from snippets.models.layers import (
    attention,
    avg_pool2d,
    batch_norm,
    conv2d,
    gates,
    gru_cell,
    layer_norm,
    lstm_cell,
    main,
    max_pool2d,
    output_size,
    pair,
    place,
    rnn_cell,
    standardize,
    unroll,
    windows,
)

SEEDS = st.integers(0, 10_000)
KERNELS, STRIDES, DILATIONS, PADDINGS = (
    st.one_of(numbers, st.tuples(numbers, numbers))
    for numbers in (st.integers(1, 3), st.integers(1, 3), st.integers(1, 2), st.integers(0, 2))
)
DTYPES = [torch.float64, torch.float32, torch.bfloat16]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def draw(*shape, dtype=torch.float64):
    return torch.randn(shape, dtype=dtype)


def results(function, tensors):
    """The output of a function and the gradients of its inputs under random gradients of the output."""
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    y = function(*leaves)
    generator = torch.Generator().manual_seed(1)
    upstream = torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.dtype)
    return y, *torch.autograd.grad(y, leaves, upstream)


def assert_agree(mine, library, *tensors):
    for a, b in zip(results(mine, tensors), results(library, tensors), strict=True):
        torch.testing.assert_close(a, b)


def refuses(error, message):
    return pytest.raises(error, match="^" + re.escape(message) + "$")


# output_size


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.integers(1, 4), st.integers(1, 4), st.integers(0, 3), st.integers(1, 3))
def test_output_size_counts_the_windows_that_fit(size, kernel, stride, padding, dilation):
    starts = range(-padding, size + padding, stride)
    count = sum(start + dilation * (kernel - 1) < size + padding for start in starts)
    if count:
        assert output_size(size, kernel, stride, padding, dilation) == count
    else:
        span = dilation * (kernel - 1) + 1
        with refuses(ValueError, f"expected {span} cells or more, got {size + 2 * padding}"):
            output_size(size, kernel, stride, padding, dilation)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 4), st.integers(0, 3), st.integers(1, 3))
def test_output_size_is_that_of_the_layers(size, kernel, stride, padding, dilation):
    layers = [nn.Conv2d(1, 1, kernel, stride, padding, dilation, device="meta")]
    if 2 * padding <= kernel:
        layers.append(nn.MaxPool2d(kernel, stride, padding, dilation))
        if dilation == 1:
            layers.append(nn.AvgPool2d(kernel, stride, padding))
    x = torch.empty(1, 1, size, size, device="meta")
    for layer in layers:
        try:
            expected = output_size(size, kernel, stride, padding, dilation)
        except ValueError:
            with pytest.raises(RuntimeError):
                layer(x)
        else:
            assert layer(x).shape[2:] == (expected, expected)


def test_output_size_by_default_steps_by_one_without_padding_and_dilation():
    assert output_size(7, 3) == 5
    assert output_size(3, 3) == 1
    assert output_size(28, 3, 2, 1) == 14
    assert output_size(5, 3, dilation=2) == 1


@pytest.mark.parametrize(
    ("arguments", "got"),
    [((0,), (0, 1, 0, 1)), ((1, 0), (1, 0, 0, 1)), ((1, 1, -1), (1, 1, -1, 1)), ((1, 1, 0, 0), (1, 1, 0, 0))],
)
def test_output_size_refuses_numbers_out_of_range(arguments, got):
    got = "kernel={}, stride={}, padding={}, dilation={}".format(*got)
    with refuses(ValueError, f"expected 1, 1, 0, 1 or more, got {got}"):
        output_size(5, *arguments)


def test_output_size_refuses_a_window_that_does_not_fit():
    assert output_size(4, 3, padding=0, dilation=1) == 2
    with refuses(ValueError, "expected 7 cells or more, got 6"):
        output_size(4, 4, padding=1, dilation=2)


# windows


def test_pair_is_rows_and_columns():
    assert pair(3) == (3, 3)
    assert pair((1, 2)) == (1, 2)


@st.composite
def places(draw):
    """Kernel, stride, padding and dilation, and a size of at least one window."""
    kernel, stride, padding, dilation = (draw(s) for s in (KERNELS, STRIDES, PADDINGS, DILATIONS))
    size = tuple(draw(st.integers(max(1, d * (k - 1) + 1 - 2 * p), 7))
                 for k, p, d in zip(pair(kernel), pair(padding), pair(dilation), strict=True))
    return kernel, stride, padding, dilation, size


@settings(max_examples=30, deadline=None)
@given(places(), SEEDS)
def test_windows_are_those_of_unfold(place, seed):
    kernel, stride, padding, dilation, size = place
    torch.manual_seed(seed)
    x = draw(2, 3, *size)
    mine = windows(x, kernel, stride, padding, dilation)
    rows, columns = mine.shape[2:4]
    assert mine.shape == (2, 3, rows, columns, *pair(kernel))
    unfolded = F.unfold(x, kernel, dilation, padding, stride)  # (n, c·kh·kw, rows·columns)
    assert torch.equal(mine.permute(0, 1, 4, 5, 2, 3).reshape(unfolded.shape), unfolded)


@pytest.mark.parametrize("fill", [-1.0, 7.0])
def test_windows_pad_with_fill(fill):
    y = windows(torch.zeros(1, 1, 2, 3), (1, 2), padding=(1, 0), fill=fill)
    assert y.shape == (1, 1, 4, 2, 1, 2)
    assert y[0, 0, :, 0, 0, 0].tolist() == [fill, 0, 0, fill]
    assert windows(torch.ones(1, 1, 1, 1), 1, padding=1)[0, 0, 0, 0].item() == 0


def test_windows_by_default_step_by_one_without_padding_and_dilation():
    x = torch.arange(12.0).view(1, 1, 3, 4)
    y = windows(x, 2)
    assert y.shape == (1, 1, 2, 3, 2, 2)
    assert y[0, 0, 1, 2].tolist() == [[6, 7], [10, 11]]


@pytest.mark.parametrize("shape", [(3, 4), (1, 3, 4), (1, 1, 1, 3, 4)])
def test_windows_refuse_other_shapes(shape):
    with refuses(ValueError, f"expected a float (n, c, h, w), got torch.float32 {shape}"):
        windows(torch.zeros(shape), 1)


def test_windows_refuse_integers():
    with refuses(ValueError, "expected a float (n, c, h, w), got torch.uint8 (1, 1, 3, 4)"):
        windows(torch.zeros(1, 1, 3, 4, dtype=torch.uint8), 1)


def test_windows_refuse_three_numbers_for_two_dims():
    with refuses(ValueError, "zip() argument 3 is longer than arguments 1-2"):
        windows(torch.zeros(1, 1, 3, 3), (2, 2), (1, 1, 1))


def test_windows_say_what_does_not_fit():
    with refuses(ValueError, "expected 3 cells or more, got 2"):
        windows(torch.zeros(1, 1, 3, 2), 3)
    with refuses(ValueError, "expected 5 cells or more, got 4"):
        windows(torch.zeros(1, 1, 2, 9), 3, 1, (1, 0), 2)


# conv2d


@settings(max_examples=30, deadline=None)
@given(places(), st.integers(1, 3), st.integers(1, 3), st.booleans(), SEEDS)
def test_conv2d_is_that_of_torch(place, channels, out, with_bias, seed):
    kernel, stride, padding, dilation, size = place
    torch.manual_seed(seed)
    tensors = [draw(2, channels, *size), draw(out, channels, *pair(kernel))]
    if with_bias:
        tensors.append(draw(out))
    where = {"stride": stride, "padding": padding, "dilation": dilation}
    assert_agree(lambda *t: conv2d(*t, **where), lambda *t: F.conv2d(*t, **where), *tensors)


def test_conv2d_takes_its_places_in_the_order_of_torch():
    x, weight, bias = draw(1, 2, 9, 8), draw(3, 2, 3, 2), draw(3)
    torch.testing.assert_close(conv2d(x, weight, bias, 2, (1, 3), (2, 1)), F.conv2d(x, weight, bias, 2, (1, 3), (2, 1)))
    torch.testing.assert_close(conv2d(x, weight), F.conv2d(x, weight))


def test_conv2d_passes_gradcheck():
    tensors = [draw(1, 2, 4, 5), draw(2, 2, 3, 2), draw(2)]
    assert torch.autograd.gradcheck(lambda *t: conv2d(*t, 2, 1, (1, 2)), [t.requires_grad_() for t in tensors])


def test_conv2d_is_the_sum_over_a_window():
    x, weight = draw(1, 2, 4, 4), draw(3, 2, 2, 3)
    y = conv2d(x, weight, stride=(2, 1))
    assert y.shape == (1, 3, 2, 2)
    torch.testing.assert_close(y[0, 1, 1, 1], (x[0, :, 2:4, 1:4] * weight[1]).sum())


def test_grouped_convolution_is_one_for_each_part_of_the_channels():
    x, weight = draw(2, 6, 5, 5), draw(4, 3, 3, 3)
    parts = [conv2d(a, w) for a, w in zip(x.chunk(2, dim=1), weight.chunk(2), strict=True)]
    torch.testing.assert_close(torch.cat(parts, dim=1), F.conv2d(x, weight, groups=2))


@pytest.mark.parametrize(
    ("x", "weight"),
    [((1, 3, 4, 4), (2, 2, 3, 3)), ((1, 2, 4, 4), (2, 3, 3, 3)), ((1, 2, 4, 4), (2, 2, 3)), ((4,), (2, 2, 3, 3))],
)
def test_conv2d_refuses_channels_that_do_not_fit(x, weight):
    with refuses(ValueError, f"expected (n, in, …), (out, in, kh, kw), got {x}, {weight}"):
        conv2d(torch.zeros(x), torch.zeros(weight))


def test_conv2d_refuses_what_windows_refuse():
    with refuses(ValueError, "expected a float (n, c, h, w), got torch.float32 (2, 3, 4)"):
        conv2d(torch.zeros(2, 3, 4), torch.zeros(1, 3, 1, 1))


# pooling


@st.composite
def pooling_places(draw):
    """A place whose padding is at most half a kernel."""
    kernel, stride, dilation = (draw(s) for s in (KERNELS, st.one_of(st.none(), STRIDES), DILATIONS))
    padding = tuple(draw(st.integers(0, k // 2)) for k in pair(kernel))
    # in an image of fewer than d cells a window may hold padding alone, whose gradient torch 2.14 writes anywhere
    size = tuple(draw(st.integers(max(d, d * (k - 1) + 1 - 2 * p), 8))
                 for k, p, d in zip(pair(kernel), padding, pair(dilation), strict=True))
    return kernel, stride, padding, dilation, size


@settings(max_examples=30, deadline=None)
@given(pooling_places(), SEEDS)
def test_max_pool2d_is_that_of_torch(place, seed):
    *where, size = place
    torch.manual_seed(seed)
    assert_agree(lambda x: max_pool2d(x, *where), lambda x: F.max_pool2d(x, *where), draw(2, 3, *size) - 5)


@settings(max_examples=30, deadline=None)
@given(pooling_places(), st.booleans(), SEEDS)
def test_avg_pool2d_is_that_of_torch(place, count, seed):
    kernel, stride, padding, _, _ = place
    torch.manual_seed(seed)
    x = draw(2, 3, 6, 5)
    assert_agree(lambda x: avg_pool2d(x, kernel, stride, padding, count),
                 lambda x: F.avg_pool2d(x, kernel, stride, padding, count_include_pad=count), x)


def test_pooling_steps_by_its_kernel_and_pads_nothing_by_default():
    x = draw(1, 2, 7, 8)
    for kernel in 2, (3, 2):
        assert torch.equal(max_pool2d(x, kernel), F.max_pool2d(x, kernel))
        torch.testing.assert_close(avg_pool2d(x, kernel), F.avg_pool2d(x, kernel))
    torch.testing.assert_close(avg_pool2d(x, 3, 1, 1), F.avg_pool2d(x, 3, 1, 1))


def test_padding_is_minus_infinity_for_max_and_zero_for_the_mean():
    x = -torch.ones(1, 1, 1, 1)
    assert max_pool2d(x, 2, 1, 1).tolist() == [[[[-1, -1], [-1, -1]]]]
    assert avg_pool2d(x, 2, 1, 1).tolist() == [[[[-0.25, -0.25], [-0.25, -0.25]]]]
    assert avg_pool2d(x, 2, 1, 1, count_include_pad=False).tolist() == [[[[-1, -1], [-1, -1]]]]


def test_of_equal_values_the_first_gets_the_gradient():
    x = torch.zeros(1, 1, 2, 2, requires_grad=True)
    max_pool2d(x, 2).sum().backward()
    assert x.grad.tolist() == [[[[1, 0], [0, 0]]]]


def test_min_pooling_is_max_pooling_of_the_negative():
    x = draw(2, 3, 6, 4)
    blocks = x.unflatten(3, (2, 2)).unflatten(2, (3, 2))
    assert torch.equal(-max_pool2d(-x, 2), blocks.amin(dim=(3, 5)))
    assert torch.equal(-max_pool2d(-x, 3, 1, 1), windows(x, 3, 1, 1, fill=torch.inf).amin(dim=(4, 5)))


def test_a_window_of_padding_alone_is_minus_infinity_without_a_gradient():
    x = torch.zeros(1, 1, 3, 1, requires_grad=True)
    y = max_pool2d(x, (1, 2), padding=(0, 1), dilation=2)
    assert y.tolist() == [[[[-torch.inf]] * 3]]
    y.sum().backward()
    assert x.grad.tolist() == [[[[0]] * 3]]


def test_pooling_passes_nan_on():
    x = torch.tensor([[[[1.0, torch.nan], [2.0, 3.0]]]])
    assert max_pool2d(x, 2).isnan().all()
    assert avg_pool2d(x, 2).isnan().all()


@pytest.mark.parametrize(
    ("kernel", "padding", "dilation", "refused"),
    [(2, 1, 1, None), (3, 1, 1, None), (2, 1, 2, None), ((3, 2), (0, 1), 1, None), (3, (1, 0), (1, 2), None),
     (1, 1, 1, (0, 1)), (3, 2, 1, (1, 2)), (3, 2, 2, (1, 2)), (4, 3, 1, (2, 3)), ((3, 1), (1, 1), 1, (0, 1)), ((1, 3), 1, 1, (0, 1))],
)
def test_max_pool2d_allows_the_padding_that_torch_allows(kernel, padding, dilation, refused):
    x = draw(1, 1, 9, 9)
    if refused is None:
        assert torch.equal(max_pool2d(x, kernel, 1, padding, dilation), F.max_pool2d(x, kernel, 1, padding, dilation))
    else:
        with pytest.raises(RuntimeError, match=r"pad should be .* half of .*kernel size"):
            F.max_pool2d(x, kernel, 1, padding, dilation)
        message = "expected padding of at most {}, got {}".format(*refused)
        with refuses(ValueError, message):
            max_pool2d(x, kernel, 1, padding, dilation)
        with refuses(ValueError, message):
            avg_pool2d(x, kernel, 1, padding)


def test_pooling_refuses_three_numbers_for_two_dims():
    with refuses(ValueError, "zip() argument 2 is longer than argument 1"):
        place((2, 2), None, (1, 1, 1))


def test_pooling_refuses_a_stride_of_zero():
    for pool in max_pool2d, avg_pool2d:
        with refuses(ValueError, "expected 1, 1, 0, 1 or more, got kernel=2, stride=0, padding=0, dilation=1"):
            pool(torch.zeros(1, 1, 4, 4), 2, 0)


# recurrence

KINDS = [(nn.RNNCell, nn.RNN, rnn_cell, 1), (nn.LSTMCell, nn.LSTM, lstm_cell, 4), (nn.GRUCell, nn.GRU, gru_cell, 3)]


def recurrent_weights(inputs, hidden, count):
    return [draw(count * hidden, inputs), draw(count * hidden, hidden), draw(count * hidden), draw(count * hidden)]


def with_weights(layer):
    """Call a layer with weights given as arguments."""
    names = list(layer.state_dict())

    def call(*tensors, state=()):
        inputs, weights = tensors[: len(tensors) - len(names)], tensors[len(tensors) - len(names):]
        x, *states = inputs
        args = (x, tuple(states)) if len(states) == 2 else (x, *states)
        return torch.func.functional_call(layer, dict(zip(names, weights, strict=True)), args)

    return call


@pytest.mark.parametrize(("cell", "mine", "count"), [(kind[0], *kind[2:]) for kind in KINDS])
@settings(max_examples=20, deadline=None)
@given(inputs=st.integers(1, 4), hidden=st.integers(1, 4), samples=st.integers(1, 3), part=st.integers(0, 1), seed=SEEDS)
def test_a_cell_is_that_of_torch(cell, mine, count, inputs, hidden, samples, part, seed):
    torch.manual_seed(seed)
    library = with_weights(cell(inputs, hidden))
    states = [draw(samples, hidden) for _ in range(2 if count == 4 else 1)]
    weights = recurrent_weights(inputs, hidden, count)

    def by_hand(x, *tensors):
        h, w = tensors[: len(states)], tensors[len(states):]
        y = mine(x, h if count == 4 else h[0], w)
        return y[part] if count == 4 else y

    def by_torch(*tensors):
        y = library(*tensors)
        return y[part] if count == 4 else y

    tensors = [draw(samples, inputs), *states, *weights]
    assert_agree(by_hand, by_torch, *tensors)


@pytest.mark.parametrize(("kind", "cell", "count"), [kind[1:] for kind in KINDS])
@settings(max_examples=20, deadline=None)
@given(steps=st.integers(1, 6), inputs=st.integers(1, 3), hidden=st.integers(1, 4), samples=st.integers(1, 3), seed=SEEDS)
def test_an_unrolled_cell_is_the_layer(kind, cell, count, steps, inputs, hidden, samples, seed):
    torch.manual_seed(seed)
    library = with_weights(kind(inputs, hidden))
    h = draw(samples, hidden)
    state = (h, h) if count == 4 else h
    first = (h[None], h[None]) if count == 4 else (h[None],)
    tensors = [draw(steps, samples, inputs), *recurrent_weights(inputs, hidden, count)]
    assert_agree(lambda x, *w: unroll(cell, x, state, w)[0], lambda x, *w: library(x, *first, *w)[0], *tensors)
    x, *w = tensors
    outputs, last = unroll(cell, x, state, w)
    expected = library(x, *first, *w)[1]
    last, expected = (last, expected) if count == 4 else ([last], [expected])
    assert outputs.shape == (steps, samples, hidden)
    for a, b in zip(last, expected, strict=True):
        torch.testing.assert_close(a, b[0])
    assert torch.equal(last[0], outputs[-1])


@pytest.mark.parametrize(("kind", "cell", "count"), [kind[1:] for kind in KINDS])
def test_layers_are_stacked_by_unrolling_the_outputs(kind, cell, count):
    layer = kind(3, 4, num_layers=2).double()
    weights = list(layer.parameters())
    x, h = draw(5, 2, 3), torch.zeros(2, 4, dtype=torch.float64)
    state = (h, h) if count == 4 else h
    y = unroll(cell, unroll(cell, x, state, weights[:4])[0], state, weights[4:])[0]
    torch.testing.assert_close(y, layer(x)[0])


@pytest.mark.parametrize(("cell", "mine", "count"), [(kind[0], *kind[2:]) for kind in KINDS])
def test_a_cell_takes_one_sample_without_a_batch(cell, mine, count):
    layer, x, h = cell(3, 4).double(), draw(3), draw(4)
    state = (h, h) if count == 4 else h
    torch.testing.assert_close(mine(x, state, tuple(layer.parameters())), layer(x, state))


def test_the_reset_gate_acts_after_the_matrix_product():
    x, h, zero = torch.zeros(1, 1), torch.full((1, 1), 2.0), torch.zeros(3, 1)
    b_hh = torch.tensor([0.0, -50.0, 1.0])  # r = 1/2, z = 0, bias of the new state 1
    y = gru_cell(x, h, (zero, zero, torch.zeros(3), b_hh))
    torch.testing.assert_close(y, torch.full((1, 1), 0.5).tanh())  # r · (0 · h + 1), and not 0 · (r · h) + 1


def test_the_gates_of_an_lstm_in_order():
    x, c = torch.zeros(1, 1), torch.full((1, 1), 2.0)
    bias = torch.tensor([50.0, -50.0, 1.0, 50.0])  # all in, nothing kept, tanh(1), all out
    h, new = lstm_cell(x, (x, c), (torch.zeros(4, 1), torch.zeros(4, 1), bias, torch.zeros(4)))
    torch.testing.assert_close(new, torch.ones(1, 1).tanh())
    torch.testing.assert_close(h, new.tanh())


@pytest.mark.parametrize("count", [1, 3, 4])
def test_gates_are_pairs_from_the_input_and_from_the_state(count):
    x, h, weights = draw(2, 3), draw(2, 5), recurrent_weights(3, 5, count)
    pairs = gates(x, h, weights, count)
    assert len(pairs) == count
    for i, (a, b) in enumerate(pairs):
        part = slice(5 * i, 5 * i + 5)
        torch.testing.assert_close(a, x @ weights[0][part].T + weights[2][part])
        torch.testing.assert_close(b, h @ weights[1][part].T + weights[3][part])


@pytest.mark.parametrize(("cell", "count"), [kind[2:] for kind in KINDS])
@pytest.mark.parametrize(("w_ih", "w_hh"), [((0, 4), (0, 5)), ((0, 3), (0, 4)), ((1, 3), (0, 5)), ((0, 3), (1, 5))])
def test_cells_refuse_weights_that_do_not_fit(cell, count, w_ih, w_hh):
    got = [(5 * count + w_ih[0], w_ih[1]), (5 * count + w_hh[0], w_hh[1])]
    h = torch.zeros(2, 5)
    weights = (torch.zeros(got[0]), torch.zeros(got[1]), torch.zeros(5 * count), torch.zeros(5 * count))
    with refuses(ValueError, f"expected weights {[(5 * count, 3), (5 * count, 5)]}, got {got}"):
        cell(torch.zeros(2, 3), (h, h) if count == 4 else h, weights)


# attention


@settings(max_examples=30, deadline=None)
@given(
    heads=st.integers(1, 3), queries=st.integers(1, 5), keys=st.integers(1, 5), e=st.integers(1, 4),
    values=st.integers(1, 4), masked=st.booleans(), seed=SEEDS,
)
def test_attention_is_that_of_torch(heads, queries, keys, e, values, masked, seed):
    torch.manual_seed(seed)
    q, k, v = draw(2, heads, queries, e), draw(2, heads, keys, e), draw(2, heads, keys, values)
    mask = None
    if masked:
        mask = torch.rand(2, 1, queries, keys) < 0.5
        mask[..., 0] |= ~mask.any(dim=-1)
    assert_agree(lambda *t: attention(*t, mask)[0],
                 lambda *t: F.scaled_dot_product_attention(*t, attn_mask=mask), q, k, v)
    weights = attention(q, k, v, mask)[1]
    assert weights.shape == (2, heads, queries, keys)
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones_like(weights[..., 0]))
    if masked:
        assert (weights[~mask.expand_as(weights)] == 0).all()
        assert (weights[mask.expand_as(weights)] > 0).all()


def test_attention_sees_everything_by_default_and_divides_by_the_root():
    q, k, v = draw(3, 4), draw(5, 4), draw(5, 2)
    output, weights = attention(q, k, v)
    torch.testing.assert_close(weights, (q @ k.T / 2).softmax(dim=1))
    torch.testing.assert_close(output, weights @ v)


def test_a_causal_mask_is_is_causal():
    q, k, v = draw(1, 2, 6, 3), draw(1, 2, 6, 3), draw(1, 2, 6, 3)
    causal = torch.ones(6, 6, dtype=torch.bool).tril()
    assert_agree(lambda *t: attention(*t, causal)[0],
                 lambda *t: F.scaled_dot_product_attention(*t, is_causal=True), q, k, v)


def test_true_takes_part_here_and_is_left_out_in_multihead_attention():
    mha = nn.MultiheadAttention(4, 1, batch_first=True).double()
    with torch.no_grad():
        mha.in_proj_weight.copy_(torch.eye(4).repeat(3, 1))
        mha.out_proj.weight.copy_(torch.eye(4))
    x = draw(2, 5, 4)
    mask = torch.ones(5, 5, dtype=torch.bool).tril()
    output, weights = attention(x, x, x, mask)
    library, library_weights = mha(x, x, x, attn_mask=~mask)
    torch.testing.assert_close(output, library)
    torch.testing.assert_close(weights, library_weights)


@pytest.mark.parametrize(
    ("q", "k", "v"), [((2, 3), (4, 2), (4, 3)), ((2, 3), (4, 3), (5, 3)), ((1, 2, 3), (1, 4, 3), (1, 3, 3))]
)
def test_attention_refuses_other_shapes(q, k, v):
    with refuses(ValueError, f"expected … (L, e), (S, e), (S, v), got {[q, k, v]}"):
        attention(torch.zeros(q), torch.zeros(k), torch.zeros(v))


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_attention_refuses_a_mask_that_is_not_of_bools(dtype):
    x = torch.zeros(2, 3)
    with refuses(TypeError, f"expected a mask of bools, got {dtype}"):
        attention(x, x, x, torch.ones(2, 2, dtype=dtype))


def test_attention_refuses_a_query_without_a_key():
    x = torch.zeros(2, 3)
    mask = torch.tensor([[True, False], [False, False]])
    with refuses(ValueError, "expected a key for each query, got none"):
        attention(x, x, x, mask)
    mask[1, 0] = True
    assert attention(x, x, x, mask)[1].tolist() == [[1, 0], [1, 0]]


# norms


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=2), st.lists(st.integers(1, 4), max_size=2), SEEDS)
def test_layer_norm_is_that_of_torch(shape, leading, seed):
    torch.manual_seed(seed)
    tensors = [3 + 2 * draw(*leading, *shape, 2), draw(*shape, 2), draw(*shape, 2)]
    assert_agree(layer_norm, lambda x, w, b: F.layer_norm(x, w.shape, w, b), *tensors)


@pytest.mark.parametrize("eps", [0.1, 1e-3])
def test_layer_norm_adds_eps_to_the_variance(eps):
    x, weight, bias = draw(3, 4), draw(4), draw(4)
    torch.testing.assert_close(layer_norm(x, weight, bias, eps), F.layer_norm(x, (4,), weight, bias, eps))


def test_layer_norm_adds_a_hundred_thousandth_by_default():
    x, one, zero = torch.tensor([[-1e-3, 1e-3]]), torch.ones(2), torch.zeros(2)
    expected = 1e-3 / (1e-6 + 1e-5) ** 0.5
    torch.testing.assert_close(layer_norm(x, one, zero), torch.tensor([[-expected, expected]]))


@pytest.mark.parametrize(("x", "weight", "want"), [((2, 3), (2,), "2,)"), ((3, 4, 2), (3, 2), "3, 2)"), ((3,), (2, 3), "2, 3)")])
def test_layer_norm_refuses_other_shapes(x, weight, want):
    with refuses(ValueError, f"expected (…, {want}, got {x}"):
        layer_norm(torch.zeros(x), torch.zeros(weight), torch.zeros(weight))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), SEEDS)
def test_the_other_norms_standardize_other_dims(groups, size, seed):
    torch.manual_seed(seed)
    x = draw(2, groups * size, 3, 2)
    parts = x.unflatten(1, (groups, size))
    torch.testing.assert_close(standardize(parts, (2, 3, 4), 1e-5).flatten(1, 2), F.group_norm(x, groups))
    torch.testing.assert_close(standardize(x, (2, 3), 1e-5), F.instance_norm(x))


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 5), st.integers(1, 4), st.lists(st.integers(1, 3), max_size=3), st.booleans(),
       st.sampled_from([0.1, 0.5]), st.sampled_from([1e-5, 0.1]), SEEDS)
def test_batch_norm_is_that_of_torch(samples, channels, rest, training, momentum, eps, seed):
    torch.manual_seed(seed)
    x = 3 + 2 * draw(samples, channels, *rest)
    mine = [draw(channels), draw(channels).exp()]
    theirs = [t.clone() for t in mine]
    assert_agree(lambda x: batch_norm(x, *mine, training, momentum, eps),
                 lambda x: F.batch_norm(x, *theirs, training=training, momentum=momentum, eps=eps), x)
    torch.testing.assert_close(mine, theirs)


def test_batch_norm_is_the_layer_with_its_scale_and_shift():
    layer = nn.BatchNorm2d(3).double()
    with torch.no_grad():
        layer.weight.copy_(draw(3))
        layer.bias.copy_(draw(3))
    x, mean, var = draw(4, 3, 5, 2), torch.zeros(3).double(), torch.ones(3).double()
    for training in True, False:
        y = batch_norm(x, mean, var, training)  # with the default momentum and eps
        scaled = y * layer.weight[:, None, None] + layer.bias[:, None, None]
        torch.testing.assert_close(scaled, layer.train(training)(x))
    torch.testing.assert_close([mean, var], [layer.running_mean, layer.running_var])


def test_batch_norm_divides_by_the_biased_and_keeps_the_unbiased_variance():
    mean, var = torch.zeros(1), torch.ones(1)
    y = batch_norm(torch.tensor([[0.0], [2.0]]), mean, var, training=True)
    torch.testing.assert_close(y, torch.tensor([[-1.0], [1.0]]), rtol=0, atol=1e-5)
    torch.testing.assert_close([mean, var], [torch.tensor([0.1]), torch.tensor([1.1])])


def test_batch_norm_adds_a_hundred_thousandth_by_default():
    x, mean, var = torch.tensor([[-1e-3], [1e-3]]), torch.zeros(1), torch.full((1,), 1e-6)
    expected = 1e-3 / (1e-6 + 1e-5) ** 0.5
    for training in False, True:
        y = batch_norm(x, mean, var, training)
        torch.testing.assert_close(y, torch.tensor([[-expected], [expected]]))


def test_batch_norm_keeps_running_values_out_of_the_graph():
    mean, var = torch.zeros(2), torch.ones(2)
    x = torch.randn(3, 2, requires_grad=True)
    assert batch_norm(x, mean, var, True).requires_grad
    assert not mean.requires_grad
    assert not var.requires_grad
    before = mean.clone(), var.clone()
    batch_norm(x, mean, var, False)
    assert torch.equal(mean, before[0])
    assert torch.equal(var, before[1])


@pytest.mark.parametrize("shape", [(4,), (3, 4), (3, 1, 2), (2, 3)])
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_refuses_other_shapes(shape, training):
    with refuses(ValueError, f"expected (n, 2, …), got {shape}"):
        batch_norm(torch.zeros(shape), torch.zeros(2), torch.ones(2), training)


def test_batch_norm_refuses_to_train_on_one_value():
    mean, var = torch.zeros(2), torch.ones(2)
    with refuses(ValueError, "expected 2 values a channel or more, got 1"):
        batch_norm(torch.zeros(1, 2), mean, var, True)
    assert batch_norm(torch.zeros(1, 2), mean, var, False).tolist() == [[0, 0]]
    assert batch_norm(torch.zeros(1, 2, 2), mean, var, True).shape == (1, 2, 2)
    assert batch_norm(torch.zeros(2, 2), mean, var, True).shape == (2, 2)


# every layer


@pytest.mark.parametrize("dtype", DTYPES)
def test_layers_keep_the_dtype(dtype):
    x, weight = draw(2, 3, 5, 5, dtype=dtype), draw(4, 3, 2, 2, dtype=dtype)
    rows, h = draw(3, 2, 4, dtype=dtype), draw(2, 4, dtype=dtype)
    mean, var = torch.zeros(3, dtype=dtype), torch.ones(3, dtype=dtype)
    square = [draw(12, 4, dtype=dtype), draw(12, 4, dtype=dtype), draw(12, dtype=dtype), draw(12, dtype=dtype)]
    outputs = [
        windows(x, 2, 1, 1, fill=-torch.inf), conv2d(x, weight, weight[:, 0, 0, 0], padding=1), max_pool2d(x, 2, padding=1),
        avg_pool2d(x, 2, padding=1), avg_pool2d(x, 2, padding=1, count_include_pad=False), unroll(gru_cell, rows, h, square)[0],
        *attention(rows, rows, rows), layer_norm(rows, h[0], h[1]), batch_norm(x, mean, var, True),
        batch_norm(x, mean, var, False), mean, var,
    ]  # fmt: skip
    assert {y.dtype for y in outputs} == {dtype}


def test_layers_stay_on_the_device():
    """On the meta device any tensor made on the CPU by the way would be an error."""
    with torch.device("meta"):
        x, weight, rows, h = torch.empty(2, 3, 6, 6), torch.empty(4, 3, 2, 2), torch.empty(5, 2, 4), torch.empty(2, 4)
        weights = torch.empty(16, 4), torch.empty(16, 4), torch.empty(16), torch.empty(16)
        mean, var = torch.empty(3), torch.empty(3)
    assert conv2d(x, weight, weight[:, 0, 0, 0], 2, 1).shape == (2, 4, 4, 4)
    assert max_pool2d(x, 2, padding=1).shape == (2, 3, 4, 4)
    assert avg_pool2d(x, 2, padding=1).shape == (2, 3, 4, 4)
    assert unroll(lstm_cell, rows, (h, h), weights)[0].shape == (5, 2, 4)
    assert attention(rows, rows, rows)[0].shape == (5, 2, 4)
    assert layer_norm(rows, h[0], h[1]).shape == (5, 2, 4)
    assert batch_norm(x, mean, var, True).shape == batch_norm(x, mean, var, False).shape == x.shape


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 3), steps=st.integers(1, 4), d=st.sampled_from([4, 8]), e=st.integers(1, 5),
       c=st.sampled_from([2, 4]), h=st.integers(3, 9), w=st.integers(3, 9))
def test_shapes_in_and_out(n, steps, d, e, c, h, w):
    rows, sequence, maps = torch.zeros(n, steps, d), torch.zeros(steps, n, d), torch.zeros(n, c, h, w)
    small = output_size(h, 3, 2, 1), output_size(w, 3, 2, 1)
    table = [
        (nn.Linear(d, e), rows, (n, steps, e)),
        (nn.Conv2d(c, e, 3, 2, 1), maps, (n, e, *small)),
        (nn.MaxPool2d(3, 2, 1), maps, (n, c, *small)),
        (nn.AvgPool2d(3, 2, 1), maps, (n, c, *small)),
        (nn.AdaptiveAvgPool2d(1), maps, (n, c, 1, 1)),
        (nn.RNN(d, e), sequence, [(steps, n, e), (1, n, e)]),
        (nn.GRU(d, e, bidirectional=True), sequence, [(steps, n, 2 * e), (2, n, e)]),
        (nn.LSTM(d, e, num_layers=4, batch_first=True), rows, [(n, steps, e), [(4, n, e), (4, n, e)]]),
        (nn.TransformerEncoderLayer(d, 4, 8, batch_first=True), rows, rows.shape),
        (nn.BatchNorm2d(c), maps, maps.shape),
        (nn.GroupNorm(2, c), maps, maps.shape),
        (nn.LayerNorm(d), rows, rows.shape),
        (nn.RMSNorm(d), rows, rows.shape),
        (nn.Dropout(0.5), rows, rows.shape),
        (nn.Embedding(9, d), rows[:, :, 0].long(), rows.shape),
    ]

    def shapes(value):
        return tuple(value.shape) if isinstance(value, torch.Tensor) else [shapes(part) for part in value]

    for layer, x, expected in table:
        assert shapes(layer(x)) == (expected if isinstance(expected, list) else tuple(expected)), layer


# the script

PRINTED = "conv2d (2, 8, 24, 24) max_pool2d (2, 3, 14, 14)\n"


def test_main_prints_sizes(capsys):
    main()
    assert capsys.readouterr().out == PRINTED


@pytest.mark.filterwarnings("ignore:.*found in sys.modules.*:RuntimeWarning")
def test_module_runs_as_a_script(capsys):
    runpy.run_module("snippets.models.layers", run_name="__main__")
    assert capsys.readouterr().out == PRINTED
