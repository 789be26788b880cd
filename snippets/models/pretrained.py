"""Pretrained models: find weights, load them from disk, freeze, fine-tune."""

# --8<-- [start:imports]
import hashlib
import re
import warnings
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchvision import models
from torchvision.models import WeightsEnum
from torchvision.models.resnet import BasicBlock

# --8<-- [end:imports]


# --8<-- [start:find]
def find_weights(name: str) -> WeightsEnum:
    """Return the default weights of a model, or the named ones.

    name: "resnet18" or "ResNet18_Weights.IMAGENET1K_V1". Loads nothing.
    Raises ValueError, with names that are close, for an unknown one.
    Source: docs.pytorch.org/vision/stable/models.html
    """
    known = {}
    for model in models.list_models():
        members = models.get_model_weights(model)
        known |= {str(weights): weights for weights in members}
        known[model] = members.DEFAULT
    if name not in known:
        close = get_close_matches(name, known)
        raise ValueError(f"expected weights or a model, got {name!r};"
                         f" close: {close}")
    return known[name]
# --8<-- [end:find]


# --8<-- [start:cached-file]
def cached_file(weights: WeightsEnum) -> Path:
    """Return where torchvision looks for the file before it downloads.

    The folder follows TORCH_HOME and torch.hub.set_dir. Creates nothing.
    """
    name = PurePosixPath(urlsplit(weights.url).path).name
    return Path(torch.hub.get_dir()) / "checkpoints" / name
# --8<-- [end:cached-file]


# --8<-- [start:load-cached]
def load_cached(model: nn.Module, weights: WeightsEnum) -> bool:
    """Load weights into model if their file is on disk; never download.

    Returns whether they were loaded. Warns and leaves the model as it is
    if the file is missing. Raises ValueError for a file whose SHA-256
    differs from the one in its name, RuntimeError if it does not fit.
    """
    file = cached_file(weights)
    if not file.is_file():
        warnings.warn(f"{file.name} is not in the cache: the model keeps"
                      " the weights it has", stacklevel=2)
        return False
    named = re.search(r"-([0-9a-f]{8,})\.", file.name)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    if named and not digest.startswith(named[1]):
        raise ValueError(f"expected {file.name} with SHA-256 {named[1]}…,"
                         f" got {digest[:8]}…")
    state = torch.load(file, map_location="cpu", weights_only=True)
    model.load_state_dict(state)
    return True
# --8<-- [end:load-cached]


# --8<-- [start:head]
def replace_head(model: nn.Module, name: str, classes: int) -> nn.Linear:
    """Put a fresh nn.Linear in place of the one called name; return it.

    It keeps inputs, bias, dtype and device. Raises ValueError unless
    name is a Linear layer of model and classes is positive.
    """
    linear = {
        path: layer for path, layer in model.named_modules()
        if path and isinstance(layer, nn.Linear)
    }
    if name not in linear:
        raise ValueError(f"expected one of {[*linear]}, got {name!r}")
    if classes < 1:
        raise ValueError(f"expected classes >= 1, got {classes}")
    old = linear[name]
    head = nn.Linear(old.in_features, classes, old.bias is not None)
    model.set_submodule(name, head.to(old.weight))  # its dtype and device
    return head
# --8<-- [end:head]


# --8<-- [start:digit-net]
def stage(inputs: int, outputs: int) -> nn.Module:
    """Return torchvision's residual block that halves height and width."""
    shortcut = nn.Conv2d(inputs, outputs, 1, stride=2, bias=False)
    norm = nn.BatchNorm2d(outputs)
    return BasicBlock(inputs, outputs, 2, nn.Sequential(shortcut, norm))


class DigitNet(nn.Module):
    """A ResNet for images (n, 1, 28, 28): logits (n, classes)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 5, stride=2, padding=2, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.layer1 = stage(8, 16)  # 14 x 14 -> 7 x 7
        self.layer2 = stage(16, 32)  # 7 x 7 -> 4 x 4
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(32, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x)).relu()
        x = self.avgpool(self.layer2(self.layer1(x)))
        return self.fc(x.flatten(1))
# --8<-- [end:digit-net]


# --8<-- [start:accuracy]
@torch.inference_mode()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Return the share of rows of x whose largest logit is at y."""
    model.eval()
    return (model(x).argmax(dim=1) == y).float().mean().item()
# --8<-- [end:accuracy]


# --8<-- [start:freeze]
def freeze(module: nn.Module) -> None:
    """Give no parameter of module a gradient, and forget old ones."""
    module.requires_grad_(False)
    module.zero_grad(set_to_none=True)  # an old .grad would still be used


def train_unfrozen(model: nn.Module) -> None:
    """Call instead of model.train(): what is frozen whole stays in eval.

    A submodule is frozen whole if it has parameters and none of them
    requires a gradient. Its norms keep their statistics, its dropout is off.
    """
    model.train()
    for module in model.modules():
        needs = [p.requires_grad for p in module.parameters()]
        if needs and not any(needs):
            module.eval()
# --8<-- [end:freeze]


# --8<-- [start:groups]
def parameter_groups(
    model: nn.Module, rates: Mapping[str, float]
) -> list[dict[str, object]]:
    """Return optimizer groups, one a name of rates, with its rate as lr.

    A name stands for the parameters below it, "" for all of them; the
    longest that fits wins. Frozen parameters are left out. Raises ValueError
    for a name without a trainable parameter and for one without a name.
    """
    groups = {name: [] for name in rates}
    for path, parameter in model.named_parameters():
        if parameter.requires_grad:
            fits = [k for k in rates if k in ("", path)
                    or path.startswith(f"{k}.")]
            if not fits:
                raise ValueError(f"expected a rate for {path}, got {[*rates]}")
            groups[max(fits, key=len)].append(parameter)
    for name, parameters in groups.items():
        if not parameters:
            raise ValueError(f"expected trainable parameters in {name!r}")
    return [{"params": groups[k], "lr": lr} for k, lr in rates.items()]
# --8<-- [end:groups]


# --8<-- [start:step]
def train_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor
) -> None:
    """Move what is not frozen once down the cross-entropy of one batch.

    x: (n, c, H, W), y: (n,) int64.
    """
    train_unfrozen(model)
    loss = cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
# --8<-- [end:step]


def main() -> None:
    """Look up weights, replace and train a head, show what moved."""
    weights = find_weights("resnet18")
    print(weights, cached_file(weights).name, len(weights.meta["categories"]))
    model = DigitNet(5)
    freeze(model)
    replace_head(model, "fc", 3)
    optimizer = torch.optim.SGD(parameter_groups(model, {"fc": 0.1}))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for _ in range(3):
        train_step(model, optimizer, torch.randn(9, 1, 28, 28), torch.arange(9) % 3)
    print("moved:", *(name for name, value in model.state_dict().items() if not value.equal(before[name])))


if __name__ == "__main__":
    main()
