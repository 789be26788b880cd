"""Modules: what nn.Module registers and what it misses, buffers, a small convnet."""

# --8<-- [start:imports]
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

# --8<-- [end:imports]


# --8<-- [start:hidden]
def hidden(model: nn.Module) -> list[str]:
    """Names of the layers and tensors that model holds unregistered.

    Looks at the attributes of each registered module, and into lists,
    tuples and dicts. What is registered elsewhere in model is not hidden.
    """
    known = [*model.modules(), *model.parameters(), *model.buffers()]
    registered = {id(thing) for thing in known}

    def search(name: str, value: object) -> Iterator[str]:
        if isinstance(value, (list, tuple)):
            value = dict(enumerate(value))
        if isinstance(value, dict):
            for key, item in value.items():
                yield from search(f"{name}[{key!r}]", item)
        elif (isinstance(value, (Tensor, nn.Module))
              and id(value) not in registered):
            yield name

    return [found for path, module in model.named_modules()
            for name, value in vars(module).items()
            for found in search(f"{path}.{name}".lstrip("."), value)]
# --8<-- [end:hidden]


# --8<-- [start:multi-task]
class MultiTask(nn.Module):
    """Residual layers on (..., width), then a linear head for each task.

    heads gives the number of outputs of each task by its name.
    """

    def __init__(self, width: int, depth: int, heads: Mapping[str, int]):
        super().__init__()
        layers = [nn.Linear(width, width) for _ in range(depth)]
        self.body = nn.ModuleList(layers)
        by_task = {task: nn.Linear(width, n) for task, n in heads.items()}
        self.heads = nn.ModuleDict(by_task)

    def forward(self, x: Tensor, task: str) -> Tensor:
        if task not in self.heads:
            raise ValueError(f"expected one of {[*self.heads]}, got {task!r}")
        for layer in self.body:
            x = x + layer(x).relu()
        return self.heads[task](x)  # (..., heads[task])
# --8<-- [end:multi-task]


# --8<-- [start:lambda]
class Lambda(nn.Module):
    """A layer without parameters that calls a function of one tensor.

    Raises TypeError for what cannot be called, such as a result.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]):
        super().__init__()
        if not callable(function):
            raise TypeError(f"expected a function, got {type(function)}")
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)

    def extra_repr(self) -> str:
        return getattr(self.function, "__name__", repr(self.function))
# --8<-- [end:lambda]


# --8<-- [start:normalize]
class Normalize(nn.Module):
    """(x - mean) / std by channel; shape (..., C, H, W), dtype of x.

    mean and std: C numbers each. Raises ValueError (lengths differ, std
    not positive, other channels), TypeError (x is not floating-point).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float],
                 persistent: bool = True):
        super().__init__()
        if len(mean) != len(std):
            raise ValueError(f"expected {len(mean)} std, got {len(std)}")
        if not all(value > 0 for value in std):
            raise ValueError(f"expected std > 0, got {list(std)}")
        for name, values in ("mean", mean), ("std", std):
            column = torch.tensor([float(v) for v in values]).view(-1, 1, 1)
            self.register_buffer(name, column, persistent)

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_floating_point():
            raise TypeError(f"expected floating-point x, got {x.dtype}")
        if x.shape[-3:-2] != self.mean.shape[:1]:
            want, got = self.mean.shape[0], tuple(x.shape)
            raise ValueError(f"expected {want} channels, got {got}")
        return (x - self.mean.to(x.dtype)) / self.std.to(x.dtype)
# --8<-- [end:normalize]


# --8<-- [start:map-side]
def map_side(image: int) -> int:
    """Side of the maps that reach fc1, for images (3, image, image).

    Raises ValueError for images below 16, of which nothing is left.
    """
    if image < 16:
        raise ValueError(f"expected image >= 16, got {image}")
    for _ in range(2):
        image = (image - 4) // 2  # 5x5 without padding, then pooling
    return image
# --8<-- [end:map-side]


# --8<-- [start:convnet]
class ConvNet(nn.Module):
    """Logits (n, classes) for color images (n, 3, image, image).

    Raises ValueError for other shapes, TypeError for integer images.
    """

    def __init__(self, classes: int = 10, image: int = 32):
        super().__init__()
        self.image_shape = 3, image, image
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * map_side(image) ** 2, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, classes)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1:] != self.image_shape:
            want, got = self.image_shape, tuple(x.shape)
            raise ValueError(f"expected a batch of {want}, got {got}")
        if not x.is_floating_point():
            raise TypeError(f"expected floating-point x, got {x.dtype}")
        x = max_pool2d(self.conv1(x).relu(), 2)  # (n, 6, 14, 14) if image = 32
        x = max_pool2d(self.conv2(x).relu(), 2)  # (n, 16, 5, 5)
        x = self.fc1(x.flatten(1)).relu()  # (n, 400) to (n, 120)
        x = self.fc2(x).relu()  # (n, 84)
        return self.fc3(x)  # no ReLU: logits may be negative
# --8<-- [end:convnet]


# --8<-- [start:count]
def count_parameters(model: nn.Module) -> dict[str, int]:
    """Numbers in the parameters of a layer, by its name; shared ones once.

    Raises ValueError for a lazy layer that has not seen an input yet.
    """
    counts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        if isinstance(parameter, nn.UninitializedParameter):
            raise ValueError(f"expected a shape, {name} has none: call model")
        layer = name.rpartition(".")[0]
        counts[layer] = counts.get(layer, 0) + parameter.numel()
    return counts
# --8<-- [end:count]


# --8<-- [start:from-state]
def from_state(
    make_model: Callable[[], nn.Module], state: Mapping[str, Tensor]
) -> nn.Module:
    """Build a model that uses the tensors of state, without a copy.

    Raises RuntimeError (names or shapes differ), ValueError (parameters
    are shared, or tensors that state does not hold have no memory).
    """
    with torch.device("meta"):
        model = make_model()
    once = dict(model.named_parameters())
    every = dict(model.named_parameters(remove_duplicate=False))
    if shared := [name for name in every if name not in once]:
        raise ValueError(f"expected no shared parameters, got {shared}")
    model.load_state_dict(state, assign=True)
    tensors = *model.named_parameters(), *model.named_buffers()
    if empty := [name for name, tensor in tensors if tensor.is_meta]:
        raise ValueError(f"expected all tensors in state, not so: {empty}")
    return model
# --8<-- [end:from-state]


def main() -> None:
    """Print what the convnet registers, and what a list hides."""
    model = ConvNet()
    for name, count in (counts := count_parameters(model)).items():
        print(f"{name:5} {count:6,}")
    print(f"all   {sum(counts.values()):6,}")
    model.extra = [ConvNet()]
    print("hidden:", hidden(model), "still", len(list(model.parameters())))


if __name__ == "__main__":
    main()
