"""Tensor hooks: clip, log, step during backward, count what is kept."""

# --8<-- [start:imports]
import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.autograd.graph import register_multi_grad_hook, saved_tensors_hooks
from torch.utils.hooks import RemovableHandle

Tensors = Iterable[Tensor]
# --8<-- [end:imports]


# --8<-- [start:clip]
def clip_gradient_(tensor: Tensor, limit: float) -> RemovableHandle:
    """Keep the gradient that reaches tensor in [-limit, limit].

    Returns the handle that removes the clipping. A NaN stays a NaN.
    Raises ValueError if no gradient can come or limit is not in [0, inf).
    """
    if not tensor.requires_grad:
        raise ValueError("expected a tensor that requires a gradient")
    if not 0 <= limit < math.inf:
        raise ValueError(f"expected 0 <= limit < inf, got {limit}")
    return tensor.register_hook(lambda grad: grad.clamp(-limit, limit))
# --8<-- [end:clip]


# --8<-- [start:optimizer-in-backward]
def optimizer_in_backward(
    parameters: Tensors,
    make_optimizer: Callable[[list[Tensor]], torch.optim.Optimizer],
) -> ExitStack:
    """Give each parameter an optimizer that steps during backward.

    A step runs as soon as a gradient is complete, and then frees it.
    Gradients from before are dropped. Leaving the context that is
    returned, or its close(), removes the hooks. Raises ValueError for no
    parameters at all and for one that is not a trainable leaf.
    Idea: https://arxiv.org/abs/2306.09782
    """
    if not (parameters := list(parameters)):
        raise ValueError("expected parameters, got none")
    if not all(p.is_leaf and p.requires_grad for p in parameters):
        raise ValueError("expected leaves that require a gradient")
    optimizers = {p: make_optimizer([p]) for p in parameters}

    def step(parameter: Tensor) -> None:
        optimizers[parameter].step()
        parameter.grad = None  # frees the memory now

    hooks = ExitStack()
    for p in optimizers:
        p.grad = None
        hooks.enter_context(p.register_post_accumulate_grad_hook(step))
    return hooks
# --8<-- [end:optimizer-in-backward]


# --8<-- [start:gradient-log]
class GradientLog:
    """Note the norm of each gradient, one row per backward pass.

    A row is a dict from name to norm; names without a gradient are left
    out. As a context manager the log removes its hook. Raises ValueError
    for no tensors at all and for one that requires no gradient.
    """

    def __init__(self, named_tensors: Iterable[tuple[str, Tensor]]):
        if not (tensors := dict(named_tensors)):
            raise ValueError("expected tensors, got none")
        for name, tensor in tensors.items():
            if not tensor.requires_grad:
                raise ValueError(f"expected a gradient for {name!r}")
        self.names = list(tensors)
        self.rows: list[dict[str, float]] = []
        self.hook = register_multi_grad_hook([*tensors.values()], self.note)

    def note(self, gradients: Sequence[Tensor | None]) -> None:
        pairs = zip(self.names, gradients, strict=True)
        norms = {n: g.norm() for n, g in pairs if g is not None}
        self.rows.append({n: norm.item() for n, norm in norms.items()})

    def __enter__(self) -> "GradientLog":
        return self

    def __exit__(self, *error: object) -> None:
        self.hook.remove()
# --8<-- [end:gradient-log]


# --8<-- [start:storages]
@dataclass(eq=False)
class Kept:
    tensor: Tensor
    version: int  # goes up with every in-place change
    dtype: torch.dtype  # what backward gets


def storages(tensors: Tensors) -> dict[int, int]:
    """Return address and bytes of the memory behind some tensors."""
    memory = [tensor.untyped_storage() for tensor in tensors]
    return {m.data_ptr(): m.nbytes() for m in memory}
# --8<-- [end:storages]


# --8<-- [start:saved-bytes]
class SavedBytes(saved_tensors_hooks):
    """Count the bytes that graphs built in a with block keep.

    The memory of the tensors in alive is left out: it exists anyway.
    """

    def __init__(self, alive: Tensors = ()):
        super().__init__(self.pack, self.unpack)
        self.alive = list(alive)
        self.kept: WeakSet[Kept] = WeakSet()  # empties with the graph

    def __enter__(self) -> "SavedBytes":
        super().__enter__()
        return self

    def pack(self, tensor: Tensor) -> Kept:
        kept = Kept(tensor.detach(), tensor._version, tensor.dtype)
        self.kept.add(kept)
        return kept

    def unpack(self, kept: Kept) -> Tensor:
        """Raises RuntimeError if the tensor was changed in place."""
        if kept.tensor._version != kept.version:
            raise RuntimeError("a tensor kept for backward was changed")
        return kept.tensor.to(kept.dtype)

    def total(self) -> int:
        """Return the bytes kept now. Shared memory counts once."""
        memory = storages(kept.tensor for kept in list(self.kept))
        return sum(memory[a] for a in memory.keys() - storages(self.alive))
# --8<-- [end:saved-bytes]


# --8<-- [start:packed]
class Packed(SavedBytes):
    """Keep floating tensors, except those in alive, in a smaller dtype.

    Raises TypeError for a dtype that is not floating point, ValueError
    for a number that would become infinite in it.
    """

    def __init__(self, dtype: torch.dtype, alive: Tensors = ()):
        if not dtype.is_floating_point:
            raise TypeError(f"expected a floating dtype, got {dtype}")
        super().__init__(alive)
        self.dtype = dtype

    def pack(self, tensor: Tensor) -> Kept:
        wide = tensor.itemsize > self.dtype.itemsize
        alive = storages([tensor]).keys() <= storages(self.alive).keys()
        if alive or not (wide and tensor.is_floating_point()):
            return super().pack(tensor)
        small = tensor.to(self.dtype)
        lost = tensor.isfinite() & ~small.to(tensor.dtype).isfinite()
        if lost.any():
            raise ValueError(f"expected values within {self.dtype}")
        kept = super().pack(small)
        kept.dtype = tensor.dtype
        return kept
# --8<-- [end:packed]


def main() -> None:
    """Print the example with a hook, a training run and its saved bytes."""
    a, b, d = (torch.tensor(v, requires_grad=True) for v in (2.0, 3.0, 4.0))
    c = a * b
    with c.register_hook(lambda grad: grad + 2):
        (c * d).backward()
    print("gradients of a, b, d:", *(t.grad.item() for t in (a, b, d)))

    torch.manual_seed(0)
    x = torch.linspace(-1, 1, 64).unsqueeze(1)
    model = nn.Sequential(nn.Linear(1, 32), nn.GELU(), nn.Linear(32, 1))
    clip_gradient_(model[2].weight, 0.5)
    steps = optimizer_in_backward(model.parameters(), lambda p: torch.optim.SGD(p, lr=0.1))
    with steps, GradientLog(model.named_parameters()) as log:
        for _ in range(100):
            (model(x) - torch.sin(3 * x)).square().mean().backward()
    print(f"gradient norm {math.hypot(*log.rows[-1].values()):.3f} in step {len(log.rows)}")
    alive = [*model.parameters(), x]
    for saved in SavedBytes(alive), Packed(torch.bfloat16, alive):
        with saved:
            loss = (model(x) - torch.sin(3 * x)).square().mean()
        before = saved.total()
        loss.backward()
        print(f"{before} bytes kept before backward, {saved.total()} after")


if __name__ == "__main__":
    main()
