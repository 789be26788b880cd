"""Keep training stable: clip, refuse a spike, find the first NaN, scale.

Gradients are the .grad of leaf parameters, of any shape and device.
Page: training/stability. Sources stand at each definition.
"""

# --8<-- [start:imports]
import math
from collections import deque
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
    """Clamp each number of each gradient to [-limit, limit], in place.

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
    parameters: Iterable[Tensor], max_norm: float, p: float = 2.0,
    error_if_nonfinite: bool = False,
) -> Tensor:
    """Shrink all gradients by one factor; return the norm before, shape ().

    The p-norm is that of all gradients as one vector. Raises ValueError
    unless max_norm > 0, and without gradients; RuntimeError if asked to.
    Source: docs.pytorch.org, nn.utils.clip_grad_norm_
    """
    if not max_norm > 0:
        raise ValueError(f"expected max_norm > 0, got {max_norm}")
    found = gradients(parameters)
    norms = [torch.linalg.vector_norm(g, p) for g in found]
    total = torch.linalg.vector_norm(torch.stack(norms), p)
    if error_if_nonfinite and not total.isfinite():
        raise RuntimeError(f"expected a finite norm, got {total.item()}")
    factor = (max_norm / (total + 1e-6)).clamp(max=1.0)
    for gradient in found:
        gradient.mul_(factor)
    return total
# --8<-- [end:clip-norm]


# --8<-- [start:guard]
class Guard:
    """Say which steps to take: no norm above factor × the median so far.

    The median is over the last `window` norms of steps taken, from the
    fifth on. RuntimeError after `patience` refusals in a row: then it is
    no spike.
    """

    def __init__(self, factor: float = 4.0, window=50, patience=10):
        if not factor > 1:
            raise ValueError(f"expected factor > 1, got {factor}")
        self.factor, self.patience = factor, patience
        self.norms: deque[float] = deque(maxlen=window)
        self.refused = 0  # in a row

    def allows(self, norm: float) -> bool:
        known = len(self.norms) >= 5
        limit = self.factor * median(self.norms) if known else math.inf
        if math.isfinite(norm) and norm <= limit:
            self.norms.append(norm)
            self.refused = 0
            return True
        self.refused += 1
        if self.refused == self.patience:
            raise RuntimeError(f"{self.refused} refused, norm {norm:.3g}")
        return False
# --8<-- [end:guard]


# --8<-- [start:adam]
def adam_step(
    k: int, size: float, before: int,
    betas: tuple[float, float] = (0.9, 0.999),
) -> float:
    """Adam's step / learning rate, k steps after one gradient of `size`.

    All others are 1, `before` of them came first. k = 0 is the spike's own
    step. Raises ValueError for a negative count.
    Source: arxiv.org/abs/1412.6980, algorithm 1 with epsilon = 0
    """
    if k < 0 or before < 0:
        raise ValueError(f"expected counts ≥ 0, got {k} and {before}")
    b1, b2 = betas
    t = before + 1 + k
    m = 1 + (1 - b1) * (size - 1) * b1**k / (1 - b1**t)
    v = 1 + (1 - b2) * (size**2 - 1) * b2**k / (1 - b2**t)
    return m / math.sqrt(v)
# --8<-- [end:adam]


# --8<-- [start:where]
def where_safe(
    mask: Tensor, function: Callable[[Tensor], Tensor], x: Tensor,
    safe: float = 1.0, otherwise: float = 0.0,
) -> Tensor:
    """function(x) where mask holds, else `otherwise`, and no NaN behind.

    function sees `safe` where the mask is False. Raises TypeError unless
    mask is boolean, ValueError unless it has the shape of x.
    """
    if mask.dtype != torch.bool:
        raise TypeError(f"expected a mask of bool, got {mask.dtype}")
    if mask.shape != x.shape:
        got = f"{tuple(mask.shape)} and {tuple(x.shape)}"
        raise ValueError(f"expected equal shapes, got {got}")
    inside = torch.where(mask, x, safe)
    return torch.where(mask, function(inside), otherwise)
# --8<-- [end:where]


# --8<-- [start:watch]
class Watch:
    """Remember on the device the first step that was not finite."""

    def __init__(self, device: torch.device | str):
        self.first = torch.full((), -1, device=device)

    def see(self, step: int, *values: Tensor) -> None:
        """Check the values of a step; the CPU does not wait for it."""
        good = torch.stack([v.detach().isfinite().all() for v in values])
        keep = good.all() | (self.first >= 0)
        self.first = self.first.where(keep, step)

    def read(self) -> int | None:
        """Return the step or None; this waits for the device."""
        first = int(self.first.item())
        return None if first < 0 else first
# --8<-- [end:watch]


# --8<-- [start:first]
def first_nonfinite(
    model: nn.Module, optimizer: Optimizer | None = None
) -> str | None:
    """Name the first tensor of a model that holds nan or inf, or None.

    Order: gradients, parameters, buffers, then the optimizer's state.
    """
    named = [*model.named_parameters()]
    found = [(f"gradient of {n}", p.grad) for n, p in named]
    found += [(f"parameter {n}", p) for n, p in named]
    found += [(f"buffer {n}", b) for n, b in model.named_buffers()]
    if optimizer is not None:
        for n, p in named:
            state = optimizer.state.get(p, {})
            found += [(f"{key} of {n}", v) for key, v in state.items()]
    for what, tensor in found:
        if isinstance(tensor, Tensor) and not tensor.isfinite().all():
            return what
    return None
# --8<-- [end:first]


# --8<-- [start:scaler]
class Scaler:
    """Loss scaling for one optimizer, as torch.amp.GradScaler does it.

    Raises TypeError for float16 gradients, RuntimeError for a second
    unscale_ before update and for an update before a step.
    Source: arxiv.org/abs/1710.03740, section 3.2
    """

    def __init__(
        self, init_scale: float = 2.0**16, growth_factor: float = 2.0,
        backoff_factor: float = 0.5, growth_interval: int = 2000,
    ):
        self.factor, self.good = init_scale, 0
        self.growth, self.backoff = growth_factor, backoff_factor
        self.interval = growth_interval
        self.overflow: bool | None = None  # None: not checked yet

    def scale(self, loss: Tensor) -> Tensor:
        return loss * self.factor

    def unscale_(self, optimizer: Optimizer) -> None:
        if self.overflow is not None:
            raise RuntimeError("expected one unscale_ before update, got two")
        groups = optimizer.param_groups
        found = gradients(p for group in groups for p in group["params"])
        if any(g.dtype == torch.float16 for g in found):
            raise TypeError("expected float32 gradients, got float16")
        self.overflow = not all(bool(g.isfinite().all()) for g in found)
        for gradient in found:
            gradient.mul_(1 / self.factor)

    def step(self, optimizer: Optimizer) -> None:
        if self.overflow is None:
            self.unscale_(optimizer)
        if not self.overflow:
            optimizer.step()

    def update(self) -> None:
        if self.overflow is None:
            raise RuntimeError("expected a step before update, got none")
        self.good = 0 if self.overflow else self.good + 1
        if self.overflow:
            self.factor *= self.backoff
        elif self.good == self.interval:
            self.factor, self.good = self.factor * self.growth, 0
        self.overflow = None
# --8<-- [end:scaler]


def main() -> None:
    """Clip, refuse a spike, step after one, find a NaN, scale a loss."""
    w = nn.Parameter(torch.tensor([3.0, -4.0]))
    w.grad = w.detach().clone()
    print(f"norm {clip_norm_([w], 1.0):.0f}, then {w.grad.norm():.4f}")
    clip_value_([w], 0.7)
    print("by value", [round(v, 4) for v in w.grad.tolist()])
    guard = Guard()
    print("guard", [guard.allows(norm) for norm in (1.0, 2.0, 1.0, 2.0, 1.0, 9.0, 2.0)])
    print("step of Adam", [round(adam_step(k, 100.0, 1000), 2) for k in (0, 10, 100, 1000)])
    x = torch.tensor([0.0, 1.0], requires_grad=True)
    where_safe(x > 0, torch.log, x).sum().backward()
    assert x.grad is not None
    print("gradient of log", x.grad.tolist())
    watch, scaler = Watch("cpu"), Scaler(init_scale=4.0, growth_interval=1)
    optimizer = torch.optim.SGD([w], lr=0.1)
    for step, factor in enumerate((1.0, math.inf, 1.0)):
        optimizer.zero_grad()
        loss = factor * w.square().sum()
        scaler.scale(loss).backward()
        watch.see(step, loss)
        scaler.step(optimizer)
        scaler.update()
        print(f"step {step}: scale {scaler.factor:g}, weights {[round(v, 3) for v in w.tolist()]}")
    print("not finite since step", watch.read())
    model = nn.BatchNorm1d(2)
    model(torch.full((3, 2), torch.nan))
    print("first:", first_nonfinite(model))


if __name__ == "__main__":
    main()
