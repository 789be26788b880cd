"""Gradient descent: the gradient, three ways to follow it, the learning rates that work."""

# --8<-- [start:imports]
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import mse_loss

Array = np.ndarray
Slope = Callable[[Array], Array]  # parameters -> gradient
Loss = Callable[[Tensor], Tensor]  # parameters -> one number
# --8<-- [end:imports]


# --8<-- [start:gradient]
def gradient(a: Array, y: Array, theta: Array) -> Array:
    """Return 2/n A^T (A theta - y), the gradient of the mean squared error.

    Raises ValueError unless a is (n, p), y is (n,) and theta is (p,).
    """
    if (a.ndim, y.ndim) != (2, 1) or a.shape != y.shape + theta.shape:
        got = f"{a.shape}, {y.shape}, {theta.shape}"
        raise ValueError(f"expected shapes (n, p), (n,), (p,), got {got}")
    error = a @ theta - y  # (n,)
    return 2 / len(y) * a.T @ error  # (p,)
# --8<-- [end:gradient]


# --8<-- [start:check]
def check(start: Array | Tensor, lr: float) -> None:
    """Raise ValueError unless start is (p,) and lr positive and finite."""
    if start.ndim != 1:
        raise ValueError(f"expected a 1-D start, got {start.ndim}-D")
    if not 0 < lr < math.inf:
        raise ValueError(f"expected a finite rate > 0, got {lr}")
# --8<-- [end:check]


# --8<-- [start:by-hand]
def by_hand(slope: Slope, start: Array, lr: float, steps: int) -> Array:
    """Return the path (steps + 1, p) of theta <- theta - lr * slope(theta).

    Raises ValueError as `check` does.
    """
    check(start, lr)
    path = [start]
    for _ in range(steps):
        path.append(path[-1] - lr * slope(path[-1]))
    return np.stack(path)
# --8<-- [end:by-hand]


# --8<-- [start:by-backward]
def by_backward(
    loss: Loss, start: Tensor, lr: float, steps: int
) -> Tensor:
    """Return the path (steps + 1, p), with the slopes of loss by autograd.

    Raises ValueError as `check` does.
    """
    check(start, lr)
    theta = start.detach().clone().requires_grad_()
    path = [start.detach()]
    for _ in range(steps):
        loss(theta).backward()  # add d loss / d theta to theta.grad
        with torch.no_grad():
            theta -= lr * theta.grad
        theta.grad = None
        path.append(theta.detach().clone())
    return torch.stack(path)
# --8<-- [end:by-backward]


# --8<-- [start:by-sgd]
def by_sgd(
    loss: Loss, start: Tensor, lr: float, steps: int, momentum: float = 0.0
) -> Tensor:
    """Return the path (steps + 1, p) of torch.optim.SGD.

    Raises ValueError as `check` does.
    """
    check(start, lr)
    theta = start.detach().clone().requires_grad_()
    optimizer = torch.optim.SGD([theta], lr=lr, momentum=momentum)
    path = [start.detach()]
    for _ in range(steps):
        optimizer.zero_grad()
        loss(theta).backward()
        optimizer.step()
        path.append(theta.detach().clone())
    return torch.stack(path)
# --8<-- [end:by-sgd]


# --8<-- [start:stability]
def hessian(a: Array) -> Array:
    """Return 2/n A^T A (p, p), the second derivatives of the loss.

    Raises ValueError unless a is (n, p) and finite.
    """
    if a.ndim != 2 or not np.isfinite(a).all():
        raise ValueError(f"expected a finite matrix, got {a}")
    return 2 / len(a) * a.T @ a


def stability_bound(a: Array) -> float:
    """Return 2 / (largest eigenvalue of the Hessian), a learning rate.

    Raises ValueError as `hessian` does.
    """
    return float(2 / np.linalg.eigvalsh(hessian(a))[-1])
# --8<-- [end:stability]


# --8<-- [start:outcome]
def outcome(path: Array, minimum: Array, tolerance: float = 5e-5) -> str:
    """Say what a path (steps + 1, p) did. 5e-5 is half a fourth decimal.

    Raises ValueError unless minimum is (p,).
    """
    if path.ndim != 2 or path.shape[1:] != minimum.shape:
        got = f"{path.shape} and {minimum.shape}"
        raise ValueError(f"expected (steps + 1, p) and (p,), got {got}")
    distance = np.abs(path - minimum).max(axis=1)  # (steps + 1,)
    middle, end = distance[len(path) // 2], distance[-1]
    if end < tolerance:
        outside = np.flatnonzero(distance >= tolerance)
        return f"there at step {outside.max(initial=-1) + 1}"
    if not end <= middle * (1 + 1e-6):  # nan is not <= anything
        return "diverges"
    return "no closer" if end > middle * (1 - 1e-6) else "on its way"
# --8<-- [end:outcome]


def main() -> None:
    """Fit y = 5x + 1 in three ways; print what learning rates do to it."""
    x = np.arange(1.0, 6.0)
    y, answer = 5 * x + 1, np.array([5.0, 1.0])
    a = np.vander(x, 2)  # columns x and 1

    def slope(theta: Array) -> Array:
        return gradient(a, y, theta)

    def loss(theta: Tensor) -> Tensor:
        w, b = theta
        return mse_loss(w * torch.from_numpy(x) + b, torch.from_numpy(y))

    start = torch.zeros(2, dtype=torch.float64)
    for name, path in (
        ("NumPy", by_hand(slope, start.numpy(), 0.01, 3000)),
        ("backward", by_backward(loss, start, 0.01, 3000).numpy()),
        ("SGD", by_sgd(loss, start, 0.01, 3000).numpy()),
    ):
        w, b = path[-1]
        print(f"{name:8} {w:.4f} {b:.4f} {outcome(path, answer)}")
    bound = stability_bound(a)
    print(f"bound    {bound:.4f}")
    for lr in 0.001, 0.01, 0.08, bound, 0.09:
        path = by_hand(slope, start.numpy(), lr, 4000)
        print(f"lr {lr:.4f} {outcome(path, answer)}")


if __name__ == "__main__":
    main()
