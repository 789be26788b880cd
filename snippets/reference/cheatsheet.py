"""Cheat sheet: the definitions that a training run needs, short enough to know by heart."""

# --8<-- [start:imports]
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, random_split

# --8<-- [end:imports]


# --8<-- [start:stripes]
def stripes(n: int) -> tuple[Tensor, Tensor]:
    """Noise (n, 1, 28, 28), row 2c brighter by 3 in class c: (n,)."""
    x, y = torch.randn(n, 1, 28, 28), torch.arange(n) % 10
    x[torch.arange(n), 0, 2 * y] += 3
    return x, y
# --8<-- [end:stripes]


# --8<-- [start:net]
class Net(nn.Module):
    """Turn pictures (n, 1, 28, 28) into logits (n, classes)."""

    def __init__(self, classes: int = 10, width: int = 8):
        super().__init__()  # before any layer
        self.conv = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)  # has the bias
        self.head = nn.Linear(width * 14 * 14, classes)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1:] != (1, 28, 28):
            raise ValueError(f"expected (n, 1, 28, 28), got {x.shape}")
        x = F.relu(self.norm(self.conv(x)))  # (n, width, 28, 28)
        x = F.max_pool2d(x, 2)  # (n, width, 14, 14)
        return self.head(x.flatten(1))  # logits: no softmax here
# --8<-- [end:net]


# --8<-- [start:he]
def he(layer: nn.Module) -> None:
    """Draw weights as He et al. 2015 do, set biases to zero."""
    if isinstance(layer, (nn.Linear, nn.Conv2d)):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
# --8<-- [end:he]


# --8<-- [start:train]
def train(model: nn.Module, batches: Iterable, optimizer,
          schedule=None, clip: float = 1.0) -> float:
    """Run an epoch, return its mean loss; ValueError: NaN or no row."""
    device, total, rows = next(model.parameters()).device, 0.0, 0
    model.train()
    for x, y in batches:
        x, y = x.to(device), y.to(device)
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        if schedule:
            schedule.step()
        total += loss.detach() * len(y)  # waits for nothing
        rows += len(y)
    if not rows or not math.isfinite(total):
        raise ValueError(f"expected a loss, got {total} of {rows} rows")
    return float(total / rows)
# --8<-- [end:train]


# --8<-- [start:evaluate]
@torch.inference_mode()
def evaluate(model: nn.Module, batches: Iterable) -> tuple[float, float]:
    """Return mean loss and accuracy; ValueError for no batch."""
    device, mode = next(model.parameters()).device, model.training
    loss = hits = rows = 0
    model.eval()
    for x, y in batches:
        x, y = x.to(device), y.to(device)
        logits = model(x)
        loss += F.cross_entropy(logits, y, reduction="sum")
        hits += (logits.argmax(dim=1) == y).sum()
        rows += len(y)
    model.train(mode)
    if not rows:
        raise ValueError("expected a batch, got none")
    return float(loss / rows), float(hits / rows)
# --8<-- [end:evaluate]


# --8<-- [start:save]
def save(path: str | Path, model: nn.Module, optimizer, **more) -> None:
    """Write a checkpoint beside the old one, then take its place."""
    parts = {"model": model.state_dict(),
             "optimizer": optimizer.state_dict()}
    beside = Path(f"{path}.part")
    torch.save(parts | more, beside)
    beside.replace(path)
# --8<-- [end:save]


# --8<-- [start:load]
def load(path: str | Path, model: nn.Module, optimizer) -> dict:
    """Fill both, return the rest; ValueError if either is missing."""
    found = torch.load(path, map_location="cpu", weights_only=True)
    parts = {"model", "optimizer"}
    if not isinstance(found, dict) or not parts <= set(found):
        raise ValueError(f"expected {parts} in {path}")
    model.load_state_dict(found.pop("model"))
    optimizer.load_state_dict(found.pop("optimizer"))
    return found
# --8<-- [end:load]


# --8<-- [start:outputs]
@contextmanager
def outputs(model: nn.Module, *names: str) -> Iterator[dict]:
    """Keep what submodules return; ValueError for no such name."""
    layers, kept = dict(model.named_modules()), {}
    if unknown := set(names) - set(layers):
        raise ValueError(f"expected names of {list(layers)}, got {unknown}")

    hooks = [layers[n].register_forward_hook(
        lambda layer, args, y, n=n: kept.update({n: y.detach()})
    ) for n in names]
    try:
        yield kept
    finally:
        for hook in hooks:
            hook.remove()
# --8<-- [end:outputs]


# --8<-- [start:suspects]
def suspects(model: nn.Module, x: Tensor, y: Tensor) -> list[str]:
    """Name what looks wrong in a batch x (n, …), y (n,)."""
    model.zero_grad()
    logits = model(x)
    chance = math.log(logits.shape[1])
    loss = F.cross_entropy(logits, y)
    loss.backward()
    found = []
    if not loss < 2 * chance:  # NaN is not less, either
        found.append(f"loss {loss:.2f}, chance is {chance:.2f}")
    for name, p in model.named_parameters():
        if not p.requires_grad:
            found.append(f"{name}: frozen")
        elif p.grad is None:
            found.append(f"{name}: not used")
        elif not p.grad.isfinite().all():
            found.append(f"{name}: gradient not finite")
        elif not p.grad.any():
            found.append(f"{name}: gradient zero")
    model.zero_grad()
    return found
# --8<-- [end:suspects]


def main() -> None:
    """Print loss and accuracy on striped pictures, epoch by epoch."""
    torch.manual_seed(0)
    first, rest = random_split(TensorDataset(*stripes(600)), [500, 100])
    model = Net().apply(he)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.003)
    for epoch in range(3):
        loss = train(model, DataLoader(first, 50, shuffle=True), optimizer)
        print(epoch, f"loss {loss:.3f}", evaluate(model, [rest[:]]))


if __name__ == "__main__":
    main()
