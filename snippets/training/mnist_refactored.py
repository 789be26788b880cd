"""Replace a training loop written by hand with the library, piece by piece.

Shapes: n images of 28 x 28 = 784 pixels in rows, 10 classes. Page:
training/mnist-refactored. It follows the path of the tutorial "What is
torch.nn really?", https://docs.pytorch.org/tutorials/beginner/nn_tutorial.html
"""

# --8<-- [start:imports]
from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

# --8<-- [end:imports]
from snippets.training.mnist import batches, prepare

# --8<-- [start:largest-gap]
Pair = tuple[Tensor, Tensor]  # a batch: pixels (n, 784), labels (n,)


def largest_gap(ours: Iterable[Tensor], theirs: Iterable[Tensor]) -> float:
    """Largest absolute difference between tensors, pair by pair.

    Zero means equal values everywhere; any nan gives nan. Raises
    ValueError for no tensor, another number of them or another shape.
    """
    ours, theirs = list(ours), list(theirs)
    mine, other = ([tuple(t.shape) for t in ts] for ts in (ours, theirs))
    if not mine or mine != other:
        raise ValueError(f"expected equal shapes, got {mine} and {other}")
    pairs = zip(ours, theirs, strict=True)
    gaps = [(a - b).detach().abs().max().cpu() for a, b in pairs]
    return torch.stack(gaps).max().item()
# --8<-- [end:largest-gap]


# --8<-- [start:cross-entropy]
def train_cross_entropy(data: Pair, weights, bias, lr: float = 0.5) -> None:
    """Train weights (784, 10) and bias (10,) in place, one epoch."""
    for x, y in batches(*data):
        loss = F.cross_entropy(x @ weights + bias, y)
        loss.backward()
        with torch.no_grad():
            for parameter in (weights, bias):
                parameter -= lr * parameter.grad
                parameter.grad = None
# --8<-- [end:cross-entropy]


# --8<-- [start:module]
def check_shapes(weights: Tensor, bias: Tensor) -> None:
    """Raise ValueError unless they are (in, out) and (out,)."""
    if weights.dim() != 2 or bias.shape != weights.shape[1:]:
        got = f"{tuple(weights.shape)} and {tuple(bias.shape)}"
        raise ValueError(f"expected (in, out) and (out,), got {got}")


class Logistic(nn.Module):
    """Logits x W + b, from copies of weights (in, out) and bias (out,)."""

    def __init__(self, weights: Tensor, bias: Tensor):
        super().__init__()
        check_shapes(weights, bias)
        self.weights = nn.Parameter(weights.detach().clone())
        self.bias = nn.Parameter(bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weights + self.bias


def train_module(data: Pair, model: nn.Module, lr: float = 0.5) -> None:
    """Train a model of any shape in place, one epoch."""
    for x, y in batches(*data):
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= lr * parameter.grad
        model.zero_grad()
# --8<-- [end:module]


# --8<-- [start:linear]
def linear(weights: Tensor, bias: Tensor) -> nn.Linear:
    """A layer with copies of weights (in, out) and bias (out,)."""
    check_shapes(weights, bias)
    layer = nn.Linear(*weights.shape)
    layer.to(weights.device, weights.dtype)
    with torch.no_grad():
        layer.weight.copy_(weights.T)  # stored as (out, in)
        layer.bias.copy_(bias)
    return layer
# --8<-- [end:linear]


# --8<-- [start:train-epoch]
def train_epoch(
    loader: Iterable[Pair], model: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Take one step on each batch (x, y) that loader yields."""
    model.train()
    for x, y in loader:
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
# --8<-- [end:train-epoch]


# --8<-- [start:slices]
def slices(dataset: TensorDataset, size: int = 64) -> Iterator[Pair]:
    """Yield batches of ``size`` in order, the last one may be shorter.

    Raises ValueError for a size below 1.
    """
    if size < 1:
        raise ValueError(f"expected a size of at least 1, got {size}")
    for first in range(0, len(dataset), size):
        yield dataset[first:first + size]
# --8<-- [end:slices]


# --8<-- [start:validate]
@torch.inference_mode()
def validate(model: nn.Module, loader: Iterable[Pair]) -> tuple[float, float]:
    """Loss and accuracy, means over images and not over batches.

    Leaves the model in eval mode. Raises ValueError without any batch.
    """
    model.eval()
    loss = right = images = 0
    for x, y in loader:
        logits = model(x)
        loss += F.cross_entropy(logits, y).item() * len(y)
        right += (logits.argmax(dim=1) == y).sum().item()
        images += len(y)
    if not images:
        raise ValueError("expected at least one image, got none")
    return loss / images, right / images
# --8<-- [end:validate]


# --8<-- [start:fit]
def fit(
    epochs: int, model: nn.Module, optimizer: torch.optim.Optimizer,
    train: Iterable[Pair], valid: Iterable[Pair],
) -> list[tuple[float, float]]:
    """Go on training; return what validate finds after each epoch."""
    history = []
    for _ in range(epochs):
        train_epoch(train, model, optimizer)
        history.append(validate(model, valid))
    return history
# --8<-- [end:fit]


# --8<-- [start:convnet]
class ConvNet(nn.Module):
    """Three convolutions: from pixels (n, 784) to logits (n, 10)."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(16, 16, 3, stride=2, padding=1)
        self.conv3 = nn.Conv2d(16, 10, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 2 or x.shape[1] != 784:
            raise ValueError(f"expected (n, 784), got {tuple(x.shape)}")
        x = x.unflatten(1, (1, 28, 28))
        x = F.relu(self.conv1(x))  # (n, 16, 14, 14)
        x = F.relu(self.conv2(x))  # (n, 16, 7, 7)
        # no ReLU on the logits: (n, 10, 4, 4) to (n, 10)
        return F.avg_pool2d(self.conv3(x), 4).flatten(1)
# --8<-- [end:convnet]


# --8<-- [start:sequential]
def sequential(outputs: int = 10) -> nn.Sequential:
    """The layers of ConvNet in a row, with any number of outputs."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 28, 28)),
        nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(16, 16, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(16, outputs, 3, stride=2, padding=1),
        nn.AvgPool2d(4), nn.Flatten(),
    )
# --8<-- [end:sequential]


def main() -> None:
    """Fit the linear model for one epoch and check what it has learned."""
    data = torchvision.datasets.MNIST("data", download=True)
    pixels = prepare(data.data).to(torch.accelerator.current_accelerator(check_available=True) or "cpu")
    labels = data.targets.to(pixels.device)
    train, valid = (TensorDataset(*pair) for pair in zip(pixels.split(50_000), labels.split(50_000), strict=True))
    model = nn.Linear(784, 10).to(pixels.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    loss, accuracy = fit(1, model, optimizer, DataLoader(train, 64, shuffle=True), [valid[:]])[0]
    print(f"loss below 0.7: {loss < 0.7}, accuracy above 0.8: {accuracy > 0.8}")


if __name__ == "__main__":
    main()
