"""Initialize a model: a scheme for each activation, residual branches, the meta device."""

# --8<-- [start:imports]
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

# --8<-- [end:imports]


# --8<-- [start:draw]
WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def draw_(module: nn.Module, gain: float) -> None:
    """Fill one module, not its children: what initialize applies."""
    if isinstance(module, WEIGHTED):
        fan_in = module.weight[0].numel()  # weight: (out, in, ...)
        nn.init.normal_(module.weight, std=gain / math.sqrt(fan_in))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif hasattr(module, "reset_parameters"):
        module.reset_parameters()
# --8<-- [end:draw]


# --8<-- [start:initialize]
def initialize(model: nn.Module, nonlinearity: str = "relu") -> nn.Module:
    """Draw all parameters of model anew for one activation; return it.

    Linear and convolution weights get std gain / sqrt(fan_in) and bias 0.
    Every other module is reset by its own reset_parameters(). Raises
    ValueError (unknown activation), TypeError (a module has tensors and
    no reset_parameters). A model that is refused is left as it was.
    """
    gain = scheme_for(nonlinearity).gain
    for module in model.modules():
        own = [*module.parameters(False), *module.buffers(False)]
        if own and not hasattr(module, "reset_parameters"):
            name = type(module).__name__
            raise TypeError(f"expected reset_parameters, {name} has none")
    return model.apply(lambda module: draw_(module, gain))
# --8<-- [end:initialize]


# --8<-- [start:recommended]
class Scheme(NamedTuple):
    """Weights of std gain / sqrt(fan_in); norm: a LayerNorm before f."""

    activation: Callable[[], nn.Module]
    gain: float
    norm: bool = False


RECOMMENDED = {
    "linear": Scheme(nn.Identity, 1.0),  # LeCun
    "relu": Scheme(nn.ReLU, math.sqrt(2)),  # He
    "leaky_relu": Scheme(nn.LeakyReLU, math.sqrt(2 / (1 + 0.01**2))),
    "tanh": Scheme(nn.Tanh, 1.1),  # a little above 1, not 5/3
    "selu": Scheme(nn.SELU, 1.0),  # LeCun, not 3/4
    "gelu": Scheme(nn.GELU, 1.0, norm=True),  # no gain is enough
    "silu": Scheme(nn.SiLU, 1.0, norm=True),
}


def scheme_for(nonlinearity: str) -> Scheme:
    """Look an activation up; ValueError names the known ones."""
    if nonlinearity not in RECOMMENDED:
        known = ", ".join(RECOMMENDED)
        raise ValueError(f"expected one of {known}, got {nonlinearity!r}")
    return RECOMMENDED[nonlinearity]
# --8<-- [end:recommended]


# --8<-- [start:stack]
def stack(scheme: Scheme, width: int, depth: int) -> nn.Sequential:
    """Chain depth linear layers (width, width), drawn by scheme."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers.append(nn.Linear(width, width))
        draw_(layers[-1], scheme.gain)
        if scheme.norm:
            layers.append(nn.LayerNorm(width))
        layers.append(scheme.activation())
    return nn.Sequential(*layers)
# --8<-- [end:stack]


# --8<-- [start:signal]
def signal(model: nn.Module, x: Tensor) -> tuple[float, float]:
    """By what factor model changes mean squares: (forward, backward).

    Forward: output over input x. Backward: gradient at x over that at the
    output, which is drawn from N(0, 1). Raises TypeError for integers.
    """
    if not x.is_floating_point():
        raise TypeError(f"expected a floating-point x, got {x.dtype}")
    x = x.detach().requires_grad_()
    h = model(x)
    g = torch.randn(h.shape, dtype=h.dtype).to(h.device)
    (slope,) = torch.autograd.grad(h, x, g)
    h, x, slope, g = (t.square().mean().item() for t in (h, x, slope, g))
    return h / x, slope / g
# --8<-- [end:signal]


# --8<-- [start:residual]
class Residual(nn.Module):
    """x + scale * branch(x); ValueError if branch changes the shape."""

    def __init__(self, branch: nn.Module, scale: float = 1.0):
        super().__init__()
        self.branch, self.scale = branch, scale

    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(x)
        if y.shape != x.shape:
            raise ValueError(f"expected {x.shape} from branch, got {y.shape}")
        return x + self.scale * y


class ResidualMLP(nn.Sequential):
    """depth residual blocks on (..., width), two ReLU layers in each."""

    def __init__(self, width: int, depth: int, branch_scale: float = 1.0):
        super().__init__()
        for _ in range(depth):
            a, b = nn.Linear(width, width), nn.Linear(width, width)
            branch = nn.Sequential(nn.ReLU(), a, nn.ReLU(), b)
            self.append(Residual(branch, branch_scale))
        initialize(self, "relu")
# --8<-- [end:residual]


# --8<-- [start:zero-last]
NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)


def zero_last_(branch: nn.Module) -> nn.Module:
    """Zero weight and bias of the last layer in branch; return the layer.

    Last means registered last among linear, convolution and norm layers.
    Raises ValueError if none of them has a weight. Sources: Goyal et al.
    arXiv:1706.02677 (norms), Zhang et al. arXiv:1901.09321.
    """
    layers = [m for m in branch.modules()
              if isinstance(m, WEIGHTED + NORMS) and m.weight is not None]
    if not layers:
        raise ValueError("expected a layer with a weight, got none")
    for parameter in layers[-1].parameters():
        nn.init.zeros_(parameter)
    return layers[-1]
# --8<-- [end:zero-last]


# --8<-- [start:tensors]
def tensors(model: nn.Module, twice: bool = True) -> dict[str, Tensor]:
    """Parameters and buffers by name; shared ones twice, or once."""
    kinds = model.named_parameters, model.named_buffers
    return {name: tensor for kind in kinds
            for name, tensor in kind(remove_duplicate=not twice)}


def refuse(expected: str, names: list[str]) -> None:
    """Raise a ValueError that lists names, unless there are none."""
    if names:
        raise ValueError(f"expected {expected}, not so: {', '.join(names)}")
# --8<-- [end:tensors]


# --8<-- [start:materialize]
def materialize(
    make_model: Callable[[], nn.Module], device: torch.device | str = "cpu",
    init: Callable[[nn.Module], object] = initialize,
) -> nn.Module:
    """Build a model on meta, allocate it on device, fill it by init.

    Raises ValueError, with names, for tensors that make_model put on a
    real device, for shared ones, and for those that init left unfilled.
    """
    with torch.device("meta"):
        model = make_model()
    every, once = tensors(model), tensors(model, twice=False)
    refuse("all on meta", [k for k in every if not every[k].is_meta])
    refuse("none shared", [k for k in every if k not in once])
    model.to_empty(device=device)
    for tensor in tensors(model).values():
        if tensor.is_floating_point():
            nn.init.constant_(tensor, math.nan)
    init(model)
    every = tensors(model)
    refuse("all filled", [k for k in every if every[k].isnan().any()])
    return model
# --8<-- [end:materialize]


def main() -> None:
    """Print what 50 layers, initialized as recommended, do to a signal."""
    torch.manual_seed(0)
    for name, scheme in RECOMMENDED.items():
        h, g = signal(stack(scheme, 256, 50), torch.randn(64, 256))
        print(f"{name:10}  forward {h:5.2f}  backward {g:5.2f}")


if __name__ == "__main__":
    main()
