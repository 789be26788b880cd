"""Autograd: finite differences, the graph, a backward that refuses, an operation of your own, per-sample gradients."""

# --8<-- [start:imports]
from collections.abc import Callable
from typing import Any

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

Scalar = Callable[[Tensor], Tensor]  # x -> one number
Loss = Callable[[Tensor, Tensor], Tensor]  # (prediction, y) -> number
Edge = tuple[int, int]  # gradient goes from the first node to the second
# --8<-- [end:imports]


# --8<-- [start:check]
def check(name: str, values: Tensor, size: int | None = None) -> None:
    """Raise for other sizes, nan, inf (ValueError) or no float (TypeError)."""
    if size not in (None, values.numel()):
        raise ValueError(f"expected {name} of size {size}, got {values.shape}")
    if not values.is_floating_point():
        raise TypeError(f"expected floating-point {name}, got {values.dtype}")
    if not values.isfinite().all():
        raise ValueError(f"expected finite {name}, got nan or inf")
# --8<-- [end:check]


# --8<-- [start:leaf]
def leaf(values: Tensor) -> Tensor:
    """Return a copy of values that has no history and requires grad.

    Raises TypeError (not floating point), ValueError (not finite).
    """
    check("values", values)
    return values.detach().clone().requires_grad_()
# --8<-- [end:leaf]


# --8<-- [start:numerical-gradient]
@torch.no_grad()
def numerical_gradient(f: Scalar, x: Tensor, h: float | None = None) -> Tensor:
    """Return (f(x + h e) - f(x - h e)) / 2h for each element of x.

    f maps x to one number of its dtype. The default h is the cube root of
    the machine epsilon. Raises TypeError (dtypes), ValueError (f(x) not one
    number, h not positive, values that are not finite).
    """
    check("x", x)
    value = f(x)
    check("f(x)", value, size=1)
    if value.dtype != x.dtype:
        raise TypeError(f"expected {x.dtype} from f, got {value.dtype}")
    h = torch.finfo(x.dtype).eps ** (1 / 3) if h is None else h
    if not 0 < h < float("inf"):
        raise ValueError(f"expected 0 < h < inf, got {h}")
    slopes = torch.zeros_like(x).flatten()
    for i, unit in enumerate(torch.eye(x.numel()).to(x)):
        step = h * unit.reshape(x.shape)
        slopes[i] = (f(x + step) - f(x - step)) / (2 * h)
    check("slopes", slopes)
    return slopes.reshape(x.shape)
# --8<-- [end:numerical-gradient]


# --8<-- [start:graph]
def graph(output: Tensor, /, **leaves: Tensor) -> tuple[list[str], list[Edge]]:
    """Return the nodes behind output, by label, and the edges between them.

    Node 0 made output; the leaves given appear by name. Raises ValueError
    (output has no grad_fn, a tensor is not a leaf behind it).
    """
    if output.grad_fn is None:
        raise ValueError("expected a tensor with a grad_fn, got None")
    nodes, edges = [output.grad_fn], []
    for number, node in enumerate(nodes):  # nodes grows on the way
        for below, _ in node.next_functions:
            if below is not None and below not in nodes:
                nodes.append(below)
            if below is not None:  # None stands for a constant
                edges.append((number, nodes.index(below)))
    labels = [type(node).__name__ for node in nodes]
    variables = [id(getattr(node, "variable", None)) for node in nodes]
    for name, x in leaves.items():
        if id(x) not in variables:
            got = f"is_leaf={x.is_leaf}, requires_grad={x.requires_grad}"
            raise ValueError(f"expected leaf {name} of the graph, got {got}")
        labels[variables.index(id(x))] += f" {name}"
    return labels, edges
# --8<-- [end:graph]


# --8<-- [start:layout]
def layout(count: int, edges: list[Edge]) -> list[tuple[float, int]]:
    """Place nodes 0 to count - 1: x from 0 to 1, y below all that feed it."""
    depths = [0] * count
    for _ in range(count):
        for above, below in edges:
            depths[below] = max(depths[below], depths[above] + 1)
    return [
        ((depths[:n].count(depth) + 0.5) / depths.count(depth), -depth)
        for n, depth in enumerate(depths)
    ]
# --8<-- [end:layout]


# --8<-- [start:draw]
def draw(labels: list[str], edges: list[Edge]) -> None:
    """Draw a box for each node and an arrow for each edge."""
    places = layout(len(labels), edges)
    bottom = min(y for _, y in places)
    _, axes = plt.subplots(figsize=(6.4, 0.85 * (1 - bottom)))
    for (x, y), label in zip(places, labels, strict=True):
        color = "C1" if label.startswith("Accumulate") else "C0"
        box = {"boxstyle": "round", "fc": "none", "ec": color}
        axes.text(x, y, label, ha="center", va="center", bbox=box)
    arrow = {"arrowstyle": "-|>", "color": "#52606d", "shrinkA": 0}
    for above, below in edges:
        (x, y), (end_x, end_y) = places[above], places[below]
        start, end = (x, y - 0.2), (end_x, end_y + 0.2)
        axes.annotate("", end, start, arrowprops=arrow)
    axes.set(ylim=(bottom - 0.5, 0.5), frame_on=False, xticks=[], yticks=[])
# --8<-- [end:draw]


# --8<-- [start:checked-backward]
def checked_backward(loss: Tensor, /, **leaves: Tensor) -> None:
    """Add d loss / d leaf to each .grad, or raise and change nothing.

    Raises what check does for the loss, which is one number, and for the
    gradients, and what graph does for the leaves.
    """
    check("loss", loss, size=1)
    graph(loss, **leaves)  # raises unless all are leaves behind the loss
    gradients = torch.autograd.grad(loss, tuple(leaves.values()))
    for name, gradient in zip(leaves, gradients, strict=True):
        check(f"gradient of {name}", gradient)
    for x, gradient in zip(leaves.values(), gradients, strict=True):
        x.grad = gradient if x.grad is None else x.grad + gradient
# --8<-- [end:checked-backward]


# --8<-- [start:softplus]
class Softplus(torch.autograd.Function):
    """log(1 + exp(x)) of each element, without overflow.

    The derivative is the logistic function, 1 / (1 + exp(-x)).
    """

    generate_vmap_rule = True  # vmap may batch forward and backward

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.relu(x) + torch.log1p(torch.exp(-x.abs()))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient * torch.sigmoid(x)
# --8<-- [end:softplus]


# --8<-- [start:per-sample]
def per_sample_gradients(
    model: nn.Module, loss_fn: Loss, x: Tensor, y: Tensor
) -> dict[str, Tensor]:
    """Return the gradients (rows, *shape) of each row's loss, by parameter.

    Raises ValueError unless x and y have equally many rows, at least one.
    """
    if not 0 < len(x) == len(y):
        raise ValueError(f"expected paired rows, got {len(x)} and {len(y)}")
    parameters = {k: p.detach() for k, p in model.named_parameters()}

    def loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return loss_fn(functional_call(model, parameters, x[None]), y[None])

    return vmap(grad(loss), in_dims=(None, 0, 0))(parameters, x, y)
# --8<-- [end:per-sample]


def main() -> None:
    """Print the derivative of x² + 3x + 4 at 2 twice, then the graph behind it."""
    x = leaf(torch.tensor(2.0, dtype=torch.float64))
    y = x**2 + 3 * x + 4
    checked_backward(y, x=x)
    print(f"backward {x.grad:.4f}  finite differences {numerical_gradient(lambda x: x**2 + 3 * x + 4, x):.4f}")
    print(*graph(y, x=x)[0], sep=", ")


if __name__ == "__main__":
    main()
