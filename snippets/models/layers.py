"""Layers by hand: windows, recurrent cells, attention and norms."""

# --8<-- [start:imports]
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Size = int | tuple[int, int]  # of rows and columns
Weights = tuple[Tensor, Tensor, Tensor, Tensor]  # w_ih, w_hh, b_ih, b_hh
# --8<-- [end:imports]


# --8<-- [start:output-size]
def output_size(size: int, kernel: int, stride: int = 1,
                padding: int = 0, dilation: int = 1) -> int:
    """Return how many windows fit along an axis, or ValueError."""
    if min(kernel, stride, padding + 1, dilation) < 1:
        got = f"{kernel=}, {stride=}, {padding=}, {dilation=}"
        raise ValueError(f"expected 1, 1, 0, 1 or more, got {got}")
    span = dilation * (kernel - 1) + 1  # cells from first to last
    room = size + 2 * padding - span  # how far the window can move
    if room < 0:
        raise ValueError(f"expected {span} cells or more, got {room + span}")
    return room // stride + 1
# --8<-- [end:output-size]


# --8<-- [start:windows]
def pair(value: Size) -> tuple[int, int]:
    """Return value for rows and for columns."""
    return (value, value) if isinstance(value, int) else value


def windows(x: Tensor, kernel: Size, stride: Size = 1, padding: Size = 0,
            dilation: Size = 1, fill: float = 0.0) -> Tensor:
    """Return the windows (n, c, rows, columns, kh, kw) of x (n, c, h, w).

    fill is the value of padding. Raises ValueError for another shape or
    dtype, and what output_size raises.
    """
    if x.dim() != 4 or not x.is_floating_point():
        got = f"{x.dtype} {tuple(x.shape)}"
        raise ValueError(f"expected a float (n, c, h, w), got {got}")
    where = map(pair, (kernel, stride, padding, dilation))
    for dim, k, s, p, d in zip((2, 3), *where, strict=True):
        output_size(x.shape[dim], k, s, p, d)  # raises if none fits
        x = F.pad(x, (0, 0, p, p), value=fill)  # dim is last but one
        x = x.unfold(dim, d * (k - 1) + 1, s)[..., ::d]  # a last dim more
    return x
# --8<-- [end:windows]


# --8<-- [start:conv2d]
def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None,
           stride: Size = 1, padding: Size = 0, dilation: Size = 1) -> Tensor:
    """Return the maps (n, out, rows, columns) of x (n, in, h, w).

    weight is (out, in, kh, kw), bias (out,). Raises ValueError if not.
    """
    if weight.dim() != 4 or x.shape[1:2] != weight.shape[1:2]:
        got = f"{tuple(x.shape)}, {tuple(weight.shape)}"
        raise ValueError(f"expected (n, in, …), (out, in, kh, kw), got {got}")
    patches = windows(x, weight.shape[2:], stride, padding, dilation)
    rows = patches.permute(0, 2, 3, 1, 4, 5).flatten(3)  # (…, in·kh·kw)
    return F.linear(rows, weight.flatten(1), bias).permute(0, 3, 1, 2)
# --8<-- [end:conv2d]


# --8<-- [start:pooling]
def place(kernel: Size, stride: Size | None, padding: Size) -> tuple:
    """Return kernel, stride (None is kernel), padding, or ValueError."""
    for k, p in zip(pair(kernel), pair(padding), strict=True):
        if 2 * p > k:
            raise ValueError(f"expected padding of at most {k // 2}, got {p}")
    return kernel, kernel if stride is None else stride, padding


def max_pool2d(x: Tensor, kernel: Size, stride: Size | None = None,
               padding: Size = 0, dilation: Size = 1) -> Tensor:
    """Return the largest value of each window; padding counts as -inf."""
    where = place(kernel, stride, padding)
    y = windows(x, *where, dilation, fill=-torch.inf)
    return y.flatten(4).max(dim=4).values


def avg_pool2d(x: Tensor, kernel: Size, stride: Size | None = None,
               padding: Size = 0, count_include_pad: bool = True) -> Tensor:
    """Return the mean of each window; padding is 0, counted or not."""
    where = place(kernel, stride, padding)
    ones = windows(torch.ones_like(x), *where, fill=float(count_include_pad))
    return windows(x, *where).sum(dim=(4, 5)) / ones.sum(dim=(4, 5))
# --8<-- [end:pooling]


# --8<-- [start:cells]
def gates(x: Tensor, h: Tensor, weights: Weights, count: int) -> list:
    """Return count pairs (from x, from h) of x (n, in) and h (n, hidden).

    Raises ValueError unless w_ih, w_hh have count·hidden rows that fit.
    """
    w_ih, w_hh, b_ih, b_hh = weights
    want = [(count * h.shape[-1], t.shape[-1]) for t in (x, h)]
    if (got := [tuple(w_ih.shape), tuple(w_hh.shape)]) != want:
        raise ValueError(f"expected weights {want}, got {got}")
    parts = F.linear(x, w_ih, b_ih), F.linear(h, w_hh, b_hh)
    return list(zip(*(p.chunk(count, dim=-1) for p in parts), strict=True))


def rnn_cell(x: Tensor, h: Tensor, weights: Weights) -> Tensor:
    """Return the next state (n, hidden) of a plain recurrent network."""
    ((a, b),) = gates(x, h, weights, 1)
    return (a + b).tanh()


def lstm_cell(x: Tensor, state: tuple[Tensor, Tensor],
              weights: Weights) -> tuple[Tensor, Tensor]:
    """Return the next state h, c: input, forget, cell and output gate."""
    h, c = state
    i, f, g, o = (a + b for a, b in gates(x, h, weights, 4))
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def gru_cell(x: Tensor, h: Tensor, weights: Weights) -> Tensor:
    """Return the next state: reset gate, update gate, new state."""
    (rx, rh), (zx, zh), (nx, nh) = gates(x, h, weights, 3)
    r, z = (rx + rh).sigmoid(), (zx + zh).sigmoid()
    return (1 - z) * (nx + r * nh).tanh() + z * h
# --8<-- [end:cells]


# --8<-- [start:unroll]
def unroll(cell: Callable, x: Tensor, state, weights: Weights) -> tuple:
    """Return h of all steps (L, n, hidden) and the last state of cell."""
    outputs = []
    for step in x:  # (n, in)
        state = cell(step, state, weights)
        outputs.append(state if isinstance(state, Tensor) else state[0])
    return torch.stack(outputs), state
# --8<-- [end:unroll]


# --8<-- [start:attention]
def attention(q: Tensor, k: Tensor, v: Tensor,
              mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the output (…, L, values) and its weights (…, L, S).

    q is (…, L, e), k (…, S, e), v (…, S, values). Where mask (…, L, S) is
    True, the key takes part. Raises ValueError for other shapes and for a
    query without a key, TypeError for a mask that is not of bools.
    """
    if q.shape[-1] != k.shape[-1] or k.shape[-2] != v.shape[-2]:
        got = [tuple(t.shape) for t in (q, k, v)]
        raise ValueError(f"expected … (L, e), (S, e), (S, v), got {got}")
    scores = q @ k.mT / q.shape[-1] ** 0.5  # (…, L, S)
    if mask is not None:
        if mask.dtype != torch.bool:
            raise TypeError(f"expected a mask of bools, got {mask.dtype}")
        if not mask.any(dim=-1).all():
            raise ValueError("expected a key for each query, got none")
        scores = scores.masked_fill(~mask, -torch.inf)
    weights = scores.softmax(dim=-1)
    return weights @ v, weights
# --8<-- [end:attention]


# --8<-- [start:layer-norm]
def standardize(x: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    """Return x with mean 0 and biased variance 1 over dims."""
    var, mean = torch.var_mean(x, dims, correction=0, keepdim=True)
    return (x - mean) / (var + eps).sqrt()


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor,
               eps: float = 1e-5) -> Tensor:
    """Standardize over the last dims, those of weight, or ValueError."""
    want, got = tuple(weight.shape), tuple(x.shape)
    if got[-len(want):] != want:
        raise ValueError(f"expected (…, {str(want)[1:]}, got {got}")
    dims = tuple(range(-len(want), 0))
    return standardize(x, dims, eps) * weight + bias
# --8<-- [end:layer-norm]


# --8<-- [start:batch-norm]
def batch_norm(x: Tensor, mean: Tensor, var: Tensor, training: bool,
               momentum: float = 0.1, eps: float = 1e-5) -> Tensor:
    """Standardize each channel of x (n, c, …), without scale and shift.

    In training by the batch, which also moves the running mean and var
    (c,), otherwise by these. Raises ValueError for another shape and for
    training on one value a channel.
    Source: Ioffe and Szegedy 2015, algorithms 1 and 2.
    """
    if x.shape[1:2] != mean.shape:
        raise ValueError(f"expected (n, {len(mean)}, …), got {tuple(x.shape)}")
    if not training:
        return ((x.movedim(1, -1) - mean) / (var + eps).sqrt()).movedim(-1, 1)
    if x[:, 0].numel() < 2:
        raise ValueError("expected 2 values a channel or more, got 1")
    dims = (0, *range(2, x.dim()))
    with torch.no_grad():
        mean.lerp_(x.mean(dims), momentum)
        var.lerp_(x.var(dims, correction=1), momentum)  # unbiased
    return standardize(x, dims, eps)
# --8<-- [end:batch-norm]


def main() -> None:
    """Print the sizes that some layers give."""
    x, weight = torch.zeros(2, 3, 28, 28), torch.zeros(8, 3, 5, 5)
    print("conv2d", tuple(conv2d(x, weight).shape), "max_pool2d", tuple(max_pool2d(x, 2).shape))


if __name__ == "__main__":
    main()
