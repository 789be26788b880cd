"""Keep training stable: clip, refuse a spike, find the first NaN, scale.

Gradients are the .grad of leaf parameters, of any shape and device.
Page: training/stability. Sources stand at each definition.
"""

# --8<-- [start:imports]
import math
from collections.abc import Callable, Iterable
from statistics import median

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

# --8<-- [end:imports]


# --8<-- [start:clip-value]
def gradients(parameters: Iterable[Tensor]) -> list[Tensor]:
    """Return the .grad of each that has one; ValueError if none has."""
    found = [p.grad for p in parameters if p.grad is not None]
    if not found:
        raise ValueError("expected parameters with gradients, got none")
    return found


def clip_value_(parameters: Iterable[Tensor], limit: float) -> None:
    """Clamp each number of each gradient to [-limit, limit].

    Raises ValueError unless limit > 0, and without gradients.
    Source: docs.pytorch.org, nn.utils.clip_grad_value_
    """
    if not limit > 0:
        raise ValueError(f"expected limit > 0, got {limit}")
    for gradient in gradients(parameters):
        gradient.clamp_(-limit, limit)
# --8<-- [end:clip-value]


# --8<-- [start:clip-norm]
def clip_norm_(
    parameters: Iterable[Tensor], max_norm: float, p: float = 2.0
) -> Tensor:
    """Shrink all gradients by one factor; return their p-norm before.

    Raises ValueError unless max_norm > 0, and without gradients.
    Source: docs.pytorch.org, nn.utils.clip_grad_norm_
    """
    if not max_norm > 0:
        raise ValueError(f"expected max_norm > 0, got {max_norm}")
    found = gradients(parameters)
    norms = [torch.linalg.vector_norm(g, p) for g in found]
    total = torch.linalg.vector_norm(torch.stack(norms), p)
    factor = (max_norm / (total + 1e-6)).clamp(max=1.0)
    for gradient in found:
        gradient.mul_(factor)
    return total
# --8<-- [end:clip-norm]


# --8<-- [start:plausible]
def plausible(norm: float, norms: list[float], factor: float = 4.0) -> bool:
    """Say if norm is at most factor × the median of norms; then append it.

    The first five need only be finite. The median is of the last 50.
    Raises ValueError unless factor > 1.
    """
    if not factor > 1:
        raise ValueError(f"expected factor > 1, got {factor}")
    recent = norms[-50:]
    limit = factor * median(recent) if len(recent) >= 5 else math.inf
    good = math.isfinite(norm) and norm <= limit
    if good:
        norms.append(norm)
    return good
# --8<-- [end:plausible]


# --8<-- [start:where]
def where_safe(
    mask: Tensor, function: Callable[[Tensor], Tensor], x: Tensor,
    safe: float = 1.0, otherwise: float = 0.0,
) -> Tensor:
    """function(x) where mask holds, else `otherwise`; there it sees `safe`.

    Raises ValueError unless mask is boolean and has the shape of x.
    """
    if mask.dtype != torch.bool or mask.shape != x.shape:
        got = f"{mask.dtype} {tuple(mask.shape)}"
        raise ValueError(f"expected bool {tuple(x.shape)}, got {got}")
    inside = torch.where(mask, x, safe)
    return torch.where(mask, function(inside), otherwise)
# --8<-- [end:where]


# --8<-- [start:first-step]
def first_bad_step(first: Tensor, step: int, *values: Tensor) -> Tensor:
    """Return first, an int64, or step if first is -1 and values are bad.

    Bad: one holds nan or inf. The CPU does not wait for the answer.
    """
    good = torch.stack([v.detach().isfinite().all() for v in values]).all()
    return first.where(good | (first >= 0), step)
# --8<-- [end:first-step]


# --8<-- [start:first]
def first_nonfinite(
    model: nn.Module, optimizer: Optimizer | None = None
) -> str | None:
    """Name the first tensor that holds nan or inf, or return None."""
    named = [*model.named_parameters()]
    found = [(f"gradient of {n}", p.grad) for n, p in named]
    found += [(f"parameter {n}", p) for n, p in named]
    found += [(f"buffer {n}", b) for n, b in model.named_buffers()]
    for n, p in named if optimizer else []:
        state = optimizer.state.get(p, {}).items()
        found += [(f"{key} of {n}", value) for key, value in state]
    for what, tensor in found:
        if isinstance(tensor, Tensor) and not tensor.isfinite().all():
            return what
    return None
# --8<-- [end:first]


# --8<-- [start:scaler]
class Scaler:
    """Loss scaling for one optimizer, as torch.amp.GradScaler does it.

    Raises RuntimeError for unscale_ twice and for update before step.
    Source: arxiv.org/abs/1710.03740, section 3.2
    """

    def __init__(self, init_scale=2.0**16, growth_interval: int = 2000):
        self.factor, self.interval = float(init_scale), growth_interval
        self.good = 0  # steps since the factor changed
        self.overflow: bool | None = None  # None: not checked

    def scale(self, loss: Tensor) -> Tensor:
        return loss * self.factor

    def unscale_(self, optimizer: Optimizer) -> None:
        if self.overflow is not None:
            raise RuntimeError("expected one unscale_ per update, got two")
        groups = optimizer.param_groups
        found = gradients(p for group in groups for p in group["params"])
        self.overflow = not all(g.isfinite().all() for g in found)
        for gradient in found:
            gradient.mul_(1 / self.factor)

    def step(self, optimizer: Optimizer) -> None:
        if self.overflow is None:
            self.unscale_(optimizer)
        if not self.overflow:
            optimizer.step()

    def update(self) -> None:
        if self.overflow is None:
            raise RuntimeError("expected step before update")
        self.good += 1
        if self.overflow or self.good == self.interval:
            self.factor *= 0.5 if self.overflow else 2.0
            self.good = 0
        self.overflow = None
# --8<-- [end:scaler]


def main() -> None:
    """Clip, refuse a spike, find a NaN, scale a loss."""
    w = nn.Parameter(torch.tensor([3.0, -4.0]))
    w.grad = w.detach().clone()
    print(f"norm {clip_norm_([w], 1.0):.0f}, then {w.grad.norm():.4f}")
    clip_value_([w], 0.7)
    print("by value", w.grad)
    norms: list[float] = []
    print("plausible", {norm: plausible(norm, norms) for norm in (1.0, 3.0, 1.5, 2.5, 2.0, 8.5, 8.0)})
    x = torch.tensor([0.0, 1.0], requires_grad=True)
    where_safe(x > 0, torch.log, x).sum().backward()
    assert x.grad is not None
    print("gradient of log", x.grad.tolist())
    first, scaler = torch.tensor(-1), Scaler(init_scale=4.0, growth_interval=1)
    optimizer = torch.optim.SGD([w], lr=0.1)
    for step, factor in enumerate((math.inf, 1.0, 1.0)):
        optimizer.zero_grad()
        loss = factor * w.square().sum()
        scaler.scale(loss).backward()
        first = first_bad_step(first, step, loss)
        scaler.step(optimizer)
        scaler.update()
        print(f"step {step}: scale {scaler.factor:g}, weights {w.detach()}")
    print("not finite since step", first.item())
    model = nn.BatchNorm1d(2)
    model(torch.full((3, 2), torch.nan))
    print("first:", first_nonfinite(model))


if __name__ == "__main__":
    main()
