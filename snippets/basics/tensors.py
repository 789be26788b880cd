"""Tensors: a batch of images, storage and strides, broadcasting, core types.

Shapes: B images of C channels, H rows and W columns. Page: basics/tensors.
"""

# --8<-- [start:imports]
import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

# --8<-- [end:imports]


# --8<-- [start:batch]
def pixels(image: Tensor | ArrayLike) -> Tensor:
    """Return a uint8 image (H, W) or (H, W, C) as a tensor (H, W, C).

    Raises TypeError for another dtype, ValueError for another shape.
    """
    if not isinstance(image, Tensor):  # even if read-only or flipped
        image = torch.from_numpy(np.array(image))
    if image.dtype != torch.uint8:
        raise TypeError(f"expected uint8 pixels, got {image.dtype}")
    image = image.unsqueeze(-1) if image.dim() == 2 else image
    if image.dim() != 3 or image.shape[-1] not in (1, 3, 4):
        got = tuple(image.shape)
        raise ValueError(f"expected (H, W) or (H, W, 1, 3 or 4), got {got}")
    return image


def to_batch(*images: Tensor | ArrayLike) -> Tensor:
    """Stack images as in pixels to float32 (B, C, H, W), from 0 to 1.

    Raises ValueError without an image and for unequal shapes.
    """
    if not images:
        raise ValueError("expected at least one image, got none")
    rows = [pixels(image) for image in images]
    if len(shapes := {tuple(row.shape) for row in rows}) > 1:
        raise ValueError(f"expected equal shapes, got {sorted(shapes)}")
    return torch.stack(rows).permute(0, 3, 1, 2).contiguous().float() / 255
# --8<-- [end:batch]


# --8<-- [start:same-storage]
def same_storage(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors read the same block of memory.

    Raises ValueError for a tensor that owns no memory.
    """
    places = [t.untyped_storage().data_ptr() for t in (a, b)]
    if 0 in places:
        raise ValueError("expected memory, got an empty or meta tensor")
    return places[0] == places[1]
# --8<-- [end:same-storage]


# --8<-- [start:positions]
def positions(x: Tensor) -> Tensor:
    """Return where in its storage each element of x lies.

    x[i, j, ...] lies at offset + i * stride[0] + j * stride[1] + ...
    Raises TypeError if x has no strides, like a sparse tensor.
    """
    if x.layout != torch.strided:
        raise TypeError(f"expected a strided tensor, got {x.layout}")
    place = torch.tensor(x.storage_offset(), device=x.device)
    for size, stride in zip(x.shape, x.stride(), strict=True):
        steps = stride * torch.arange(size, device=x.device)
        place = place.unsqueeze(-1) + steps  # one more dimension
    return place
# --8<-- [end:positions]


# --8<-- [start:broadcast-shape]
def broadcast_shape(*shapes: tuple[int, ...]) -> torch.Size:
    """Return the shape to which tensors of these shapes broadcast.

    Raises ValueError that names the dimension that does not fit,
    counted from the right: -1 is the last one.
    """
    result: list[int] = []
    for dim in range(-1, -1 - max(map(len, shapes), default=0), -1):
        sizes = [shape[dim] for shape in shapes if len(shape) >= -dim]
        wanted = set(sizes) - {1} or {1}
        if len(wanted) > 1 or min(wanted) < 0:
            raise ValueError(
                f"expected equal sizes or 1 in dimension {dim}, got {sizes}"
            )
        result.insert(0, wanted.pop())
    return torch.Size(result)
# --8<-- [end:broadcast-shape]


# --8<-- [start:square]
class Square(torch.autograd.Function):
    """x * x element by element, with its derivative written by hand."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x * x

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad_output: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad_output * 2 * x
# --8<-- [end:square]


# --8<-- [start:module]
class ScaledSquare(nn.Module):
    """(scale * x)^2 for x (..., features), with one scale per feature.

    Raises ValueError if the last dimension of x has another size.
    """

    def __init__(self, features: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(features))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1:] != self.scale.shape:
            want, got = len(self.scale), tuple(x.shape)
            raise ValueError(f"expected (..., {want}), got {got}")
        return Square.apply(self.scale * x)
# --8<-- [end:module]


def main() -> None:
    """Print a batch, a transposed view, a broadcast shape and a gradient."""
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    print("batch", tuple(to_batch(image, image).shape))
    x = torch.arange(6).reshape(2, 3)
    print("shares storage:", same_storage(x, x.T), positions(x.T).tolist())
    print("broadcast", tuple(broadcast_shape((64, 1, 28, 28), (3, 1, 1))))
    model = ScaledSquare(2)
    model(torch.tensor([1.0, 3.0])).sum().backward()
    print("gradient", model.scale.grad.tolist())


if __name__ == "__main__":
    main()
