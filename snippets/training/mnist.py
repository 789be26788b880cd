"""Read handwritten digits with one weight matrix, trained by hand.

Shapes: n images of 28 x 28 = 784 pixels, 10 classes. Page: training/mnist.
Source of the data and of the linear classifier: LeCun, Bottou, Bengio and
Haffner, Gradient-based learning applied to document recognition, 1998.
"""

# --8<-- [start:imports]
import math

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

# --8<-- [end:imports]
from tqdm import tqdm


# --8<-- [start:prepare]
def prepare(images: Tensor) -> Tensor:
    """Turn uint8 images (n, height, width) into float32 rows in [0, 1].

    Raises TypeError for another dtype, ValueError for another shape.
    """
    if images.dtype != torch.uint8:
        raise TypeError(f"expected uint8 pixels, got {images.dtype}")
    if images.dim() != 3:
        got = tuple(images.shape)
        raise ValueError(f"expected (n, height, width), got {got}")
    return images.flatten(start_dim=1).float() / 255
# --8<-- [end:prepare]


# --8<-- [start:start]
def start(generator: torch.Generator, device="cpu") -> list[Tensor]:
    """Draw weights (784, 10), add a zero bias (10,): two leaves."""
    weights = torch.randn(784, 10, generator=generator)
    weights = weights / math.sqrt(784)
    bias = torch.zeros(10)
    return [p.to(device).requires_grad_() for p in (weights, bias)]
# --8<-- [end:start]


# --8<-- [start:log_softmax]
def log_softmax(logits: Tensor) -> Tensor:
    """Log-probabilities (n, classes) of logits (n, classes).

    Raises ValueError unless they are floating point, 2-D and finite.
    """
    if logits.dim() != 2 or not logits.is_floating_point():
        got = f"{logits.dtype} {tuple(logits.shape)}"
        raise ValueError(f"expected floats (n, classes), got {got}")
    if not logits.isfinite().all():
        raise ValueError("expected finite logits, got nan or inf")
    shifted = logits - logits.amax(dim=1, keepdim=True)
    return shifted - shifted.exp().sum(dim=1, keepdim=True).log()
# --8<-- [end:log_softmax]


# --8<-- [start:check]
def check(scores: Tensor, labels: Tensor) -> None:
    """Refuse labels (n,) that do not fit scores (n, classes).

    Raises TypeError for their dtype, ValueError for shape or range.
    """
    if labels.dtype != torch.int64:
        raise TypeError(f"expected int64 labels, got {labels.dtype}")
    if scores.dim() != 2 or labels.shape != scores.shape[:1]:
        got = f"{tuple(scores.shape)} and {tuple(labels.shape)}"
        raise ValueError(f"expected (n, classes) and (n,), got {got}")
    if not len(labels):
        raise ValueError("expected at least one label, got none")
    low, high, classes = labels.min(), labels.max(), scores.shape[1]
    if low < 0 or high >= classes:
        got = f"{low}..{high}"
        raise ValueError(f"expected labels 0..{classes - 1}, got {got}")
# --8<-- [end:check]


# --8<-- [start:nll]
def nll(log_probs: Tensor, labels: Tensor) -> Tensor:
    """Minus the log-probability of the right class, mean over n."""
    check(log_probs, labels)
    rows = torch.arange(len(labels), device=labels.device)
    return -log_probs[rows, labels].mean()


def accuracy(scores: Tensor, labels: Tensor) -> float:
    """Share of rows whose largest score is at the right class."""
    check(scores, labels)
    right = scores.argmax(dim=1) == labels
    return right.float().mean().item()
# --8<-- [end:nll]


# --8<-- [start:evaluate]
def batches(pixels: Tensor, labels: Tensor, size: int = 64) -> list:
    """Pairs of views with ``size`` rows each, the last pair fewer."""
    if len(pixels) != len(labels) or size < 1:
        got = f"{len(pixels)}, {len(labels)} and {size}"
        raise ValueError(f"expected n rows, n labels, a size > 0, got {got}")
    return list(zip(pixels.split(size), labels.split(size), strict=True))


@torch.no_grad()
def evaluate(pixels, labels, weights, bias) -> tuple[float, float]:
    """Loss and accuracy, averaged over images and not over batches."""
    loss = right = 0.0
    for x, y in batches(pixels, labels):
        log_probs = log_softmax(x @ weights + bias)
        loss += nll(log_probs, y).item() * len(y)
        right += accuracy(log_probs, y) * len(y)
    return loss / len(labels), right / len(labels)
# --8<-- [end:evaluate]


# --8<-- [start:gradient]
@torch.no_grad()
def gradient(pixels, labels, weights, bias) -> tuple[Tensor, Tensor]:
    """Gradient of the mean loss by hand: (784, 10) and (10,)."""
    probs = log_softmax(pixels @ weights + bias).exp()
    check(probs, labels)
    error = (probs - F.one_hot(labels, len(bias))) / len(labels)
    return pixels.T @ error, error.sum(dim=0)
# --8<-- [end:gradient]


# --8<-- [start:step]
def step(pixels, labels, weights, bias, lr: float = 0.5) -> Tensor:
    """Update in place; return the loss before it, without graph."""
    loss = nll(log_softmax(pixels @ weights + bias), labels)
    loss.backward()
    with torch.no_grad():
        for parameter in (weights, bias):
            parameter -= lr * parameter.grad
            parameter.grad = None
    return loss.detach()
# --8<-- [end:step]


def main() -> None:
    """Train for two epochs; print loss and accuracy before and after."""
    device = torch.accelerator.current_accelerator(check_available=True)
    data = torchvision.datasets.MNIST("data", download=True)
    pixels = prepare(data.data).to(device or "cpu")
    labels = data.targets.to(pixels.device)
    weights, bias = start(torch.Generator().manual_seed(0), pixels.device)
    train = batches(pixels[:50_000], labels[:50_000])
    valid = pixels[50_000:], labels[50_000:], weights, bias
    print("before: loss {:.3f}, accuracy {:.3f}".format(*evaluate(*valid)))
    for x, y in tqdm(train * 2, unit="batch"):
        step(x, y, weights, bias)
    print("after:  loss {:.3f}, accuracy {:.3f}".format(*evaluate(*valid)))


if __name__ == "__main__":
    main()
