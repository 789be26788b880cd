"""Distort digits, ask a linear classifier again, look at its mistakes.

Shapes: images (n, 1, 28, 28) in [0, 1], 10 classes. Page: training/mnist-lab.
Sources: docs.pytorch.org on F.affine_grid, F.grid_sample, F.max_pool2d.
"""

# --8<-- [start:imports]
import math

import torch
import torch.nn.functional as F
import torchvision
from matplotlib import pyplot as plt
from torch import Tensor

# --8<-- [end:imports]
from tqdm import tqdm


# --8<-- [start:predict]
def check(images: Tensor) -> None:
    """Raise ValueError unless images are finite floats (n, 1, s, s)."""
    side = images.shape[-1:]
    if images.shape[1:] != (1, *side, *side) or not images.is_floating_point():
        got = f"{images.dtype} {tuple(images.shape)}"
        raise ValueError(f"expected float images (n, 1, s, s), got {got}")
    if not images.isfinite().all():
        raise ValueError("expected finite pixels, got nan or inf")


def predict(images: Tensor, weights: Tensor, bias: Tensor) -> Tensor:
    """Probabilities (n, 10) for images (n, 1, 28, 28)."""
    check(images)
    logits = images.flatten(start_dim=1) @ weights + bias
    return F.softmax(logits, dim=1)


def accuracy(images, labels, weights, bias) -> float:
    """Share of the images whose most probable class is the label."""
    answers = predict(images, weights, bias).argmax(dim=1)
    return (answers == labels).float().mean().item()
# --8<-- [end:predict]


# --8<-- [start:fit]
def fit(images, labels, epochs: int = 2, lr: float = 0.5) -> list[Tensor]:
    """Train weights (784, 10) and a bias (10,) from zero, 64 at a time."""
    check(images)
    weights = torch.zeros(784, 10, device=images.device)
    bias = torch.zeros(10, device=images.device)
    parameters = [weights.requires_grad_(), bias.requires_grad_()]
    pixels = images.flatten(start_dim=1).split(64)
    for x, y in [*zip(pixels, labels.split(64), strict=True)] * epochs:
        loss = F.cross_entropy(x @ weights + bias, y)
        gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            weights -= lr * gradients[0]
            bias -= lr * gradients[1]
    return [parameter.detach() for parameter in parameters]
# --8<-- [end:fit]


# --8<-- [start:warp]
def warp(images: Tensor, theta: Tensor) -> Tensor:
    """Read each output pixel at theta (2, 3) or (n, 2, 3) times its place.

    Places are (x, y, 1) from -1 to 1, x right and y down; outside is 0.
    """
    check(images)
    theta = theta.to(images).expand(len(images), 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)
# --8<-- [end:warp]


# --8<-- [start:shift]
def shift(images: Tensor, right=0.0, down=0.0) -> Tensor:
    """Move images by pixels: numbers, or one number an image, (n,)."""
    check(images)
    move = [torch.as_tensor(m).to(images) for m in (right, down)]
    theta = torch.eye(2, 3).to(images).repeat(len(images), 1, 1)
    for axis in (0, 1):
        theta[:, axis, 2] = -2 * move[axis] / images.shape[-1]
    return warp(images, theta)
# --8<-- [end:shift]


# --8<-- [start:rotate]
def rotate(images: Tensor, degrees: float) -> Tensor:
    """Turn images counter-clockwise about their center."""
    angle = math.radians(degrees)
    c, s = math.cos(angle), math.sin(angle)
    return warp(images, torch.tensor([[c, -s, 0.0], [s, c, 0.0]]))
# --8<-- [end:rotate]


# --8<-- [start:ink]
def thicken(images: Tensor, size: int = 2) -> Tensor:
    """Each pixel becomes the brightest of size x size around it."""
    check(images)
    before = (size - 1) // 2
    after = size - 1 - before
    padded = F.pad(images, (before, after, before, after))
    return F.max_pool2d(padded, size, stride=1)


def thin(images: Tensor, size: int = 2) -> Tensor:
    """Each pixel becomes the darkest of size x size around it."""
    return 1 - thicken(1 - images, size)


def noisy(images, std: float, generator: torch.Generator) -> Tensor:
    """Add normal noise drawn on the CPU, keep pixels in [0, 1]."""
    check(images)
    noise = torch.randn(images.shape, generator=generator)
    return (images + std * noise.to(images)).clamp(0, 1)
# --8<-- [end:ink]


# --8<-- [start:confusion]
def confusion(labels: Tensor, answers: Tensor, classes: int = 10) -> Tensor:
    """Counts (classes, classes): a row a label, a column an answer."""
    both = torch.stack([labels, answers])
    if both.min() < 0 or both.max() >= classes:
        got = f"{both.min()}..{both.max()}"
        raise ValueError(f"expected 0..{classes - 1}, got {got}")
    flat = torch.bincount(labels * classes + answers, minlength=classes**2)
    return flat.reshape(classes, classes)


def confused_pairs(counts: Tensor, most: int = 3) -> list[tuple]:
    """(a, b, times a was read as b or b as a), most frequent first."""
    either = (counts + counts.T).triu(diagonal=1)
    order = either.flatten().argsort(descending=True, stable=True)
    pairs = [divmod(index, len(counts)) for index in order[:most].tolist()]
    return [(a, b, either[a, b].item()) for a, b in pairs]
# --8<-- [end:confusion]


# --8<-- [start:surest_mistakes]
def surest_mistakes(probs: Tensor, labels: Tensor, most: int = 10) -> Tensor:
    """Indices of wrong answers, the most confident first."""
    if probs.dim() != 2 or labels.shape != probs.shape[:1]:
        got = f"{tuple(probs.shape)} and {tuple(labels.shape)}"
        raise ValueError(f"expected (n, classes) and (n,), got {got}")
    confidence, answers = probs.max(dim=1)
    wrong = (answers != labels).nonzero().flatten()
    order = confidence[wrong].argsort(descending=True, stable=True)
    return wrong[order[:most]]
# --8<-- [end:surest_mistakes]


# --8<-- [start:center]
def center(images: Tensor) -> Tensor:
    """Move each center of mass to pixel s / 2, by whole pixels."""
    check(images)
    size = images.shape[-1]
    place = torch.arange(size).to(images)
    mass = images.sum(dim=(1, 2, 3)).clamp(min=1e-6)
    across = images.sum(dim=(1, 2)) @ place / mass
    below = images.sum(dim=(1, 3)) @ place / mass
    target = size / 2
    return shift(images, (target - across).round(), (target - below).round())
# --8<-- [end:center]


def main() -> None:
    """Train; print and draw the accuracy at each angle."""
    data = torchvision.datasets.MNIST("data", download=True)
    device = torch.accelerator.current_accelerator(check_available=True)
    images = data.data[:, None].to(device or "cpu").float() / 255
    labels = data.targets.to(images.device)
    model = fit(images[:50_000], labels[:50_000])
    images, labels = images[50_000:], labels[50_000:]
    angles = range(-90, 91, 15)
    scores = []
    for angle in tqdm(angles, unit="angle"):
        turned = rotate(images[:2000], angle)
        scores.append(accuracy(turned, labels[:2000], *model))
    for angle, score in zip(angles, scores, strict=True):
        print(f"{angle:4} degrees: accuracy {score:.2f}")
    answers = predict(images, *model).argmax(dim=1)
    for a, b, times in confused_pairs(confusion(labels, answers)):
        print(f"{a} and {b}: confused {times} times")
    plt.plot(angles, scores)
    plt.xlabel("rotation (degrees)")
    plt.ylabel("accuracy")
    plt.show()


if __name__ == "__main__":
    main()
