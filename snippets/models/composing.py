"""Composing models: a layer before, layers after, attributes, weights."""

# --8<-- [start:imports]
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

Device = torch.device | str
# --8<-- [end:imports]


# --8<-- [start:detector]
class Detector(nn.Module):
    """Scores (N, nc, H/32, W/32) of nc classes for images (N, 3, H, W).

    Raises TypeError for one string instead of several names.
    """

    def __init__(self, names: Sequence[str]):
        super().__init__()
        if isinstance(names, str):
            raise TypeError(f"expected a list of names, got {names!r}")
        self.names, self.nc, self.stride = list(names), len(names), 32
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, kernel_size=4, stride=4), nn.ReLU(),
            nn.Conv2d(8, 16, kernel_size=8, stride=8), nn.ReLU(),
        )
        self.head = nn.Conv2d(16, self.nc, kernel_size=1)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images))
# --8<-- [end:detector]


# --8<-- [start:prepare]
class Prepare(nn.Module):
    """Turn images upside down, center them on a square, resize to size.

    From (C, H, W) or (N, C, H, W) to (N, C, size, size), same dtype and
    device. The square is filled with 0. Output pixel i reads pixel
    floor(i * side / size) of the square, in rows and in columns.
    Raises TypeError for no tensor, ValueError for a shape or size.
    """

    def __init__(self, size: int = 640):
        super().__init__()
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"expected a whole size >= 1, got {size!r}")
        self.size = size

    def forward(self, images: Tensor) -> Tensor:
        if not isinstance(images, Tensor):
            kind = type(images).__name__
            raise TypeError(f"expected a tensor of images, got {kind}")
        if images.dim() not in (3, 4) or 0 in images.shape[-2:]:
            shape = tuple(images.shape)
            expected = "(C, H, W) or (N, C, H, W) with H, W > 0"
            raise ValueError(f"expected {expected}, got {shape}")
        if images.dim() == 3:
            images = images.unsqueeze(0)  # (1, C, H, W)
        height, width = images.shape[-2:]
        side = max(height, width)
        top, left = (side - height) // 2, (side - width) // 2
        bottom, right = side - height - top, side - width - left
        square = pad(images.flip(-2), (left, right, top, bottom))
        index = torch.arange(self.size, device=images.device)
        index = index * side // self.size  # whole numbers: exact
        return square[..., index[:, None], index]  # rows, columns

    def extra_repr(self) -> str:
        return f"size={self.size}"
# --8<-- [end:prepare]


# --8<-- [start:wrapper]
class Wrapper(nn.Module):
    """Compute after(model(before(x))); show the attributes of model.

    What the wrapper itself lacks is looked up in model. Assignments stay
    on the wrapper. Raises TypeError for a part that is no module.
    """

    def __init__(
        self, model: nn.Module,
        before: nn.Module | None = None, after: nn.Module | None = None,
    ):
        super().__init__()
        before = nn.Identity() if before is None else before
        after = nn.Identity() if after is None else after
        parts = {"before": before, "model": model, "after": after}
        for name, part in parts.items():
            if not isinstance(part, nn.Module):
                raise TypeError(f"expected a module as {name}, got {part!r}")
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.model(self.before(x)))

    def __getattr__(self, name: str) -> Any:  # only for what is not found
        try:
            return super().__getattr__(name)  # parameters, submodules
        except AttributeError:
            modules = self.__dict__.get("_modules", {})
            if name.startswith("__") or "model" not in modules:
                raise
            return getattr(modules["model"], name)
# --8<-- [end:wrapper]


# --8<-- [start:load-weights]
def load_weights(
    model: nn.Module, path: str | os.PathLike[str], device: Device
) -> None:
    """Move model to device, then copy the state dict in a file into it.

    Values take the dtypes of model. Source: torch.load, load_state_dict.
    Raises TypeError if the file holds anything but a dict of tensors,
    ValueError with all keys and shapes that do not fit. After an error
    model is as it was.
    """
    state = torch.load(path, map_location=device, weights_only=True)
    if not isinstance(state, dict):
        raise TypeError(f"expected a dict, got {type(state).__name__}")
    others = [k for k, v in state.items() if not isinstance(v, Tensor)]
    if others:
        raise TypeError(f"expected tensors, got other values at {others}")
    own = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    new = {k: tuple(v.shape) for k, v in state.items()}
    wrong = [f"{k}: expected {own.get(k)}, got {new.get(k)}"
             for k in own | new if own.get(k) != new.get(k)]
    if wrong:
        raise ValueError("; ".join(wrong))
    model.to(device).load_state_dict(state)
# --8<-- [end:load-weights]


def main() -> None:
    """Wrap a small detector, save its weights, load them on a device."""
    torch.manual_seed(0)
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    detector = Detector(["car", "person", "sign"])
    wrapper = Wrapper(Detector(detector.names), Prepare(640), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "detector.pt"
        torch.save(detector.state_dict(), path)
        load_weights(wrapper.model, path, device)
    photo = torch.rand(3, 1200, 1328).to(device)
    print("prepared", tuple(photo.shape), "->", tuple(wrapper.before(photo).shape))
    print("one photo", tuple(wrapper(photo).shape), "two photos", tuple(wrapper(torch.stack([photo, photo])).shape))
    print("attributes", wrapper.nc, wrapper.names, wrapper.stride)
    scores = detector.to(device)(wrapper.before(photo)).mean(dim=(2, 3))
    print(f"difference from the bare detector {(wrapper(photo) - scores).abs().max():.4f}")


if __name__ == "__main__":
    main()
