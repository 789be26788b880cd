"""Initial weights: draw them, predict what they do to a signal, measure it.

A layer is z = W h and h' = f(z), W of shape (fan_out, fan_in), no bias. The
variance of a weight is v, E[z^2] is q. Page: initialization/xavier. Sources:
Glorot and Bengio, PMLR 9:249-256, 2010; He, Zhang, Ren and Sun, 2015,
https://arxiv.org/abs/1502.01852; Schoenholz, Gilmer, Ganguli and
Sohl-Dickstein, 2017, https://arxiv.org/abs/1611.01232.
"""

# --8<-- [start:imports]
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Activation = Callable[[Tensor], Tensor]  # acts on each element
Rule = Callable[[int, int], float]  # variance from fan-in and fan-out
# --8<-- [end:imports]


# --8<-- [start:interval]
def interval(samples: Tensor) -> tuple[float, float]:
    """Mean of independent samples (n,) and 3.29 standard errors of it.

    Raises ValueError unless n > 1 and all samples are finite.
    """
    if samples.dim() != 1 or len(samples) < 2:
        got = tuple(samples.shape)
        raise ValueError(f"expected samples (n,), n > 1, got {got}")
    if not samples.isfinite().all():
        raise ValueError("expected finite samples, got nan or inf")
    error = samples.std().item() / math.sqrt(len(samples))
    return samples.mean().item(), 3.29 * error
# --8<-- [end:interval]


# --8<-- [start:moments]
def moments(activation: Activation, q: float) -> tuple[float, float]:
    """E[f(z)^2] and E[f'(z)^2] for normal z with mean 0, variance q.

    A sum over 2560 cells, 1/128 standard deviation wide, split at 0,
    where activations have their kinks. Raises ValueError for a bad q.
    """
    if not 0 <= q < math.inf:
        raise ValueError(f"expected a finite q >= 0, got {q}")
    t = (torch.arange(2560, dtype=torch.float64) + 0.5) / 128 - 10
    share = torch.softmax(-(t**2) / 2, dim=0)  # of each cell
    z = (math.sqrt(q) * t).requires_grad_()
    f = activation(z)
    (slope,) = torch.autograd.grad(f.sum(), z)
    return (share @ f.detach() ** 2).item(), (share @ slope**2).item()
# --8<-- [end:moments]


# --8<-- [start:predict]
def predict(
    f: Activation, widths: Sequence[int], variances: Sequence[float],
) -> tuple[Tensor, Tensor]:
    """log10 of E[h_l^2], and S_l, for l = 0 ... D; E[h_0^2] is 1.

    S_D - S_l is log10 E[g_l^2] if E[g_D^2] = 1. Raises ValueError
    unless there is one variance a layer.
    """
    if len(widths) != len(variances) + 1:
        got = f"{len(variances)} for {len(widths) - 1} layers"
        raise ValueError(f"expected a variance a layer, got {got}")
    forward, backward = [1.0], [1.0]
    for k, v in enumerate(variances):
        square, slope = moments(f, widths[k] * v * forward[k])
        forward.append(square)
        backward.append(widths[k + 1] * v * slope)
    both = torch.tensor([forward, backward], dtype=torch.float64)
    return both[0].log10(), both[1].log10().cumsum(dim=0)
# --8<-- [end:predict]


# --8<-- [start:coarse]
def coarse(h: Tensor) -> Tensor:
    """Round h (..., batch, n) to 16 bits below its largest entry."""
    top = h.abs().amax(dim=(-2, -1), keepdim=True)
    unit = top / torch.frexp(top).mantissa / 2**16  # a power of two
    return torch.where(top > 0, (h / unit).round() * unit, h)


def mean_squares(tensors: Sequence[Tensor]) -> Tensor:
    """Over batch and entries of each tensor, stacked."""
    return torch.stack([t.square().mean(dim=(-2, -1)) for t in tensors])
# --8<-- [end:coarse]


# --8<-- [start:measure]
def measure(
    weights: Sequence[Tensor], f: Activation,
    x: Tensor, g: Tensor, scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Mean squares of h_l and g_l for l = 0 ... D, each (D + 1, ...).

    Layer l is scale * weights[l], (..., n_out, n_in). From the input x
    (..., batch, n_in) and the gradient g (..., batch, n_out) at the
    output. Raises TypeError unless all are float64: others overflow.
    """
    if any(t.dtype != torch.float64 for t in (*weights, x, g)):
        got = {str(t.dtype) for t in (*weights, x, g)}
        raise TypeError(f"expected float64, got {sorted(got)}")
    signals, gradients, tape = [x], [g], []
    for w in weights:
        z = (scale * (signals[-1] @ w.mT)).requires_grad_()
        h = f(z)
        tape.append((w, z, h))
        signals.append(coarse(h.detach()))
    for w, z, h in reversed(tape):
        (dz,) = torch.autograd.grad(h, z, gradients[-1])  # f'(z) g
        gradients.append(scale * (dz @ w))
    return mean_squares(signals), mean_squares(gradients[::-1])
# --8<-- [end:measure]


# --8<-- [start:fill]
@torch.no_grad()
def fill_(weight: Tensor, variance: float, kind: str = "normal") -> Tensor:
    """Draw weight in place with mean 0; kind is "normal" or "uniform".

    Raises TypeError (not floats), ValueError (variance, kind).
    """
    if not weight.is_floating_point():
        raise TypeError(f"expected a weight of floats, got {weight.dtype}")
    if not 0 < variance < math.inf:
        raise ValueError(f"expected a variance > 0, got {variance}")
    if kind not in ("normal", "uniform"):
        raise ValueError(f"expected normal or uniform, got {kind!r}")
    if kind == "normal":
        return weight.normal_(0, math.sqrt(variance))
    bound = math.sqrt(3) * math.sqrt(variance)
    return weight.uniform_(-bound, bound)
# --8<-- [end:fill]


# --8<-- [start:initialize]
def fans(weight: Tensor) -> tuple[int, int]:
    """(fan_in, fan_out) of weight (out, in, *kernel), as nn.init counts.

    Raises ValueError for fewer than two dimensions or no element.
    """
    if weight.dim() < 2 or not weight.numel():
        got = tuple(weight.shape)
        raise ValueError(f"expected a weight (out, in, ...), got {got}")
    area = math.prod(weight.shape[2:])
    return weight.shape[1] * area, weight.shape[0] * area


RULES: dict[str, Rule] = {
    "LeCun": lambda n_in, n_out: 1 / n_in,
    "Xavier": lambda n_in, n_out: 2 / (n_in + n_out),
    "He": lambda n_in, n_out: 2 / n_in,
    "nn.Linear": lambda n_in, n_out: 1 / (3 * n_in),
}


def initialize_(weight: Tensor, rule: str, kind: str = "normal") -> Tensor:
    """Draw weight in place by one of RULES; see fill_ for the kind."""
    if rule not in RULES:
        raise ValueError(f"expected one of {list(RULES)}, got {rule!r}")
    return fill_(weight, RULES[rule](*fans(weight)), kind)
# --8<-- [end:initialize]


def main() -> None:
    """Print what 50 layers do to signal and gradient, for three rules."""
    torch.manual_seed(0)
    weights = fill_(torch.empty(50, 4, 64, 64), 1.0).double()
    x, g = torch.randn(2, 4, 16, 64).double()
    print("50 ReLU layers, log10   predicted  measured")
    for rule in "nn.Linear", "Xavier", "He":
        v = RULES[rule](64, 64)
        predicted = predict(torch.relu, [64] * 51, [v] * 50)
        h, d = measure(weights, torch.relu, x, g, math.sqrt(v))
        found = h[-1].log10().mean(), d[0].log10().mean()
        for side, a, b in zip(("forward", "backward"), predicted, found, strict=True):
            print(f"{rule:10} {side:12} {a[-1]:z9.1f} {b:z9.1f}")


if __name__ == "__main__":
    main()
