"""Corrections: five small tools that decide whether a claim about PyTorch holds."""

# --8<-- [start:imports]
import warnings
from collections.abc import Callable
from itertools import chain

import torch
from torch import Tensor, nn

# --8<-- [end:imports]


# --8<-- [start:outcome]
def outcome(action: Callable[[], object]) -> str:
    """Say what action() does: "runs", "warns Category" or "raises Type".

    More than one category of warnings is listed in alphabetical order.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            action()
        except Exception as error:
            return f"raises {type(error).__name__}"
    names = sorted({warning.category.__name__ for warning in caught})
    return f"warns {', '.join(names)}" if names else "runs"
# --8<-- [end:outcome]


# --8<-- [start:agree]
def agree(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> bool:
    """Tell whether a and b have the same values, up to rounding.

    Differences are measured against the largest finite value of b. Dtype
    and device may differ. NaN agrees with nothing.
    Raises ValueError for other shapes: torch.allclose broadcasts them.
    """
    if a.shape != b.shape:
        got = f"{tuple(a.shape)} and {tuple(b.shape)}"
        raise ValueError(f"expected one shape, got {got}")
    wide = torch.promote_types(a.dtype, b.dtype)
    wide = torch.promote_types(wide, torch.float64)
    a, b = (t.detach().cpu().to(wide) for t in (a, b))
    sizes = b[b.isfinite()].abs()
    margin = tolerance * sizes.max().item() if len(sizes) else 0.0
    return torch.allclose(a, b, rtol=0.0, atol=margin)
# --8<-- [end:agree]


# --8<-- [start:same-memory]
def span(tensor: Tensor) -> tuple[int, int]:
    """Return where the storage of a tensor starts and ends, in bytes."""
    if tensor.is_meta or tensor.layout != torch.strided:
        got = f"{tensor.layout} on {tensor.device}"
        raise ValueError(f"expected a tensor with memory, got {got}")
    storage = tensor.untyped_storage()
    return storage.data_ptr(), storage.data_ptr() + storage.nbytes()


def same_memory(a: Tensor, b: Tensor) -> bool:
    """Tell whether a and b lie in one storage: to edit one may edit both.

    Raises ValueError for a tensor without memory ("meta", sparse).
    """
    (a_start, a_end), (b_start, b_end) = span(a), span(b)
    return a.device == b.device and a_start < b_end and b_start < a_end
# --8<-- [end:same-memory]


# --8<-- [start:gradient-of]
def gradient_of(f: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """Return the gradient of the number f(at), in the shape of at.

    Works under no_grad as well, and leaves every .grad as it is.
    Raises TypeError for a dtype without gradients, ValueError unless f
    gives one real number that depends on its argument.
    """
    if not at.is_floating_point():
        raise TypeError(f"expected floating point, got {at.dtype}")
    with torch.inference_mode(False), torch.enable_grad():
        x = at.detach().clone().requires_grad_()
        y = torch.as_tensor(f(x))
        if y.numel() != 1 or y.is_complex():
            got = f"{y.dtype} of shape {tuple(y.shape)}"
            raise ValueError(f"expected one real number, got {got}")
        slope = None
        if y.requires_grad:
            (slope,) = torch.autograd.grad(y.sum(), x, allow_unused=True)
    if slope is None:
        raise ValueError("expected f to depend on its argument")
    return slope
# --8<-- [end:gradient-of]


# --8<-- [start:differ]
def differ(a: Tensor, b: Tensor) -> bool:
    """Tell whether two tensors differ in dtype, shape or any value."""
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return True
    both_nan = (a != a) & (b != b)
    return not bool(((a == b) | both_nan).all())
# --8<-- [end:differ]


# --8<-- [start:changed]
def changed(model: nn.Module, action: Callable[[], object]) -> list[str]:
    """Return the parameters and buffers of model that action() changes.

    Those that it adds or removes count. Raises ValueError if there are none.
    """
    def state() -> dict[str, Tensor]:
        tensors = chain(model.named_parameters(), model.named_buffers())
        return {name: t.detach().cpu().clone() for name, t in tensors}

    before = state()
    if not before:
        raise ValueError("expected parameters or buffers, got none")
    action()
    after = state()
    return [name for name in before | after
            if name not in before or name not in after
            or differ(before[name], after[name])]
# --8<-- [end:changed]


def main() -> None:
    """Print what the tools say about five claims that are often told."""
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    x = torch.tensor([[1.0, 2.0, 3.0], [3.0, 1.0, 2.0]])
    logit, target = torch.tensor(-2.34), torch.tensor(1.0)
    slope = gradient_of(lambda x: model.eval()(x).square().sum(), x)
    for claim, found in {
        "from_numpy copies": not same_memory(x, torch.from_numpy(x.numpy())),
        "reshape moves dimensions": agree(x.reshape(3, 2), x.T),
        "eval() switches gradients off": not slope.any().item(),
        "no_grad freezes a model": not changed(
            model, torch.no_grad()(lambda: model.train()(x))),
        "BCELoss takes logits": outcome(
            lambda: nn.BCELoss()(logit, target)) == "runs",
    }.items():
        print(f"told: {claim:30} found: {found}")


if __name__ == "__main__":
    main()
