"""Linear regression: split, model, training step, evaluation, oracle."""

# --8<-- [start:imports]
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

Pair = tuple[Tensor, Tensor]  # inputs and targets, row by row
Loss = Callable[[Tensor, Tensor], Tensor]  # (prediction, y) -> number
# --8<-- [end:imports]


# --8<-- [start:split]
def split(x: Tensor, y: Tensor, n_train: int) -> tuple[Pair, Pair]:
    """Return (x, y) of n_train random rows and (x, y) of the others.

    Raises ValueError if the row counts differ or one side is empty.
    """
    if len(x) != len(y):
        raise ValueError(f"expected {len(x)} rows in y, got {len(y)}")
    if not 0 < n_train < len(x):
        raise ValueError(f"expected 0 < n_train < {len(x)}, got {n_train}")
    train, test = torch.randperm(len(x)).tensor_split([n_train])
    return (x[train], y[train]), (x[test], y[test])
# --8<-- [end:split]


# --8<-- [start:model]
class LinearRegression(nn.Module):
    """y = x W^T + b, from (..., in_features) to (..., out_features)."""

    def __init__(self, in_features: int = 1, out_features: int = 1):
        super().__init__()
        self.linear = nn.Linear(in_features, out_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)
# --8<-- [end:model]


# --8<-- [start:checked-loss]
def checked_loss(loss_fn: Loss, prediction: Tensor, y: Tensor) -> Tensor:
    """Return loss_fn(prediction, y), one finite number.

    Raises ValueError (shapes differ, loss not finite), TypeError (dtypes).
    """
    if prediction.shape != y.shape:
        raise ValueError(f"expected target {prediction.shape}, got {y.shape}")
    if prediction.dtype != y.dtype:
        raise TypeError(f"expected target {prediction.dtype}, got {y.dtype}")
    loss = loss_fn(prediction, y)
    if not loss.isfinite():
        raise ValueError(f"expected a finite loss, got {loss.item()}")
    return loss
# --8<-- [end:checked-loss]


# --8<-- [start:train-step]
def train_step(
    model: nn.Module, optimizer: torch.optim.Optimizer,
    data: Pair, loss_fn: Loss = mse_loss,
) -> float:
    """Take a step on data (x, y); return the checked loss before it."""
    x, y = data
    model.train()  # training mode
    loss = checked_loss(loss_fn, model(x), y)  # forward
    optimizer.zero_grad()  # forget the gradients of the last step
    loss.backward()  # write d loss / d parameter into .grad
    optimizer.step()  # move every parameter against its .grad
    return loss.item()
# --8<-- [end:train-step]


# --8<-- [start:evaluate]
def evaluate(model: nn.Module, data: Pair, loss_fn: Loss = mse_loss) -> float:
    """Return the checked loss on data (x, y); leave eval mode switched on."""
    x, y = data
    model.eval()
    with torch.inference_mode():
        return checked_loss(loss_fn, model(x), y).item()
# --8<-- [end:evaluate]


# --8<-- [start:least-squares]
def least_squares(x: Tensor, y: Tensor) -> Pair:
    """Return the weight (out, in) and bias (out,) of least squared error.

    Raises ValueError unless x is (n, in), y is (n, out), both are finite
    and the columns of x and a column of ones are linearly independent.
    """
    if x.dim() != 2 or y.dim() != 2 or len(x) != len(y):
        raise ValueError(f"expected 2-D pairs, got {x.shape} and {y.shape}")
    if not (x.isfinite().all() and y.isfinite().all()):
        raise ValueError("expected finite x and y, got nan or inf")
    a = torch.cat([x, x.new_ones(len(x), 1)], dim=1)  # (n, in + 1)
    if (rank := torch.linalg.matrix_rank(a)) < a.shape[1]:
        raise ValueError(f"expected rank {a.shape[1]}, got {rank}")
    theta = torch.linalg.lstsq(a, y).solution  # (in + 1, out)
    return theta[:-1].T, theta[-1]
# --8<-- [end:least-squares]


def main() -> None:
    """Train on y = 0.7 x + 0.3 and print the line beside least squares."""
    torch.manual_seed(0)
    x = torch.rand(100, 1)
    train, test = split(x, 0.7 * x + 0.3, n_train=80)
    model = LinearRegression()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(1000):
        train_step(model, optimizer, train)
    print("trained", *(f"{p.item():.4f}" for p in model.parameters()))
    print("exact  ", *(f"{p.item():.4f}" for p in least_squares(*train)))
    print(f"test loss {evaluate(model, test):.4f}")


if __name__ == "__main__":
    main()
