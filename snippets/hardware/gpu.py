"""GPU: what moves, what waits, what memory a step takes, how numbers round."""

# --8<-- [start:imports]
import math
from collections.abc import Callable, Collection, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

# --8<-- [end:imports]


# --8<-- [start:whereabouts]
def whereabouts(model: nn.Module) -> dict[str, str]:
    """Return the device of every tensor within reach of the module.

    Looks into attributes, lists, tuples and dicts; each tensor once.
    Raises TypeError if model is no module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected a module, got {type(model).__name__}")
    found, seen, todo = {}, set(), [("", model)]
    for path, value in todo:  # grows on the way
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            found[path[1:]] = value.device.type
        elif isinstance(value, nn.Module):
            value = vars(value)
        elif isinstance(value, list | tuple):
            value = dict(enumerate(value))
        if isinstance(value, dict):
            for key, inner in value.items():
                table = key in ("_parameters", "_buffers", "_modules")
                todo.append((path if table else f"{path}.{key}", inner))
    return found
# --8<-- [end:whereabouts]


# --8<-- [start:queue]
def queue(launch: Sequence[float], work: Sequence[float],
          waits: Collection[int] = ()) -> tuple[list, list]:
    """Model a host that launches kernels and a device that runs them.

    Kernel i costs the host launch[i] and the device work[i]; after a
    kernel in waits the host waits for its end. Returns what host and
    device do as pairs (start, length), in the unit of the arguments.
    Raises ValueError for unequal lengths or a time below 0.
    """
    if len(launch) != len(work) or min([0, *launch, *work]) < 0:
        raise ValueError(f"expected pairs of times, got {launch}, {work}")
    host, device, now, free = [], [], 0.0, 0.0
    for i, (cost, length) in enumerate(zip(launch, work, strict=True)):
        host.append((now, cost))
        device.append((max(now + cost, free), length))  # in order
        free = device[-1][0] + length
        now = free if i in waits else now + cost
    return host, device
# --8<-- [end:queue]


# --8<-- [start:needs-data]
def needs_data(function: Callable, *tensors: Tensor) -> bool:
    """Whether function(*tensors) has to read the numbers.

    It runs on copies, so its own errors are raised, then on the meta
    device, where there are no numbers to read.
    """
    function(*(tensor.clone() for tensor in tensors))
    try:
        function(*(tensor.to("meta") for tensor in tensors))
    except (RuntimeError, TypeError):
        return True
    return False
# --8<-- [end:needs-data]


# --8<-- [start:step-bytes]
def step_bytes(widths: Sequence[int], batch: int) -> dict[str, int]:
    """Predict the bytes of a step in float32, with Adam.

    Linear layers of these widths, ReLU between them, cross-entropy of
    `batch` rows. Raises ValueError for less than a layer, a size < 1.
    """
    if len(widths) < 2 or min(batch, *widths) < 1:
        raise ValueError(f"expected sizes from 1 on, got {widths}, {batch}")
    weights = 4 * sum(n * m + m for n, m in pairwise(widths))
    labels = 8 * batch + 4  # int64, and the sum of the class weights
    return {
        "parameters": weights,
        "gradients": weights,
        "optimizer": 2 * weights + 8 * len(widths) - 8,  # and counters
        "activations": 4 * batch * sum(widths) + labels,
    }
# --8<-- [end:step-bytes]


# --8<-- [start:tape]
class Tape(TorchDispatchMode):
    """Record the bytes of tensors alive after each operation, by name.

    Counts the given tensors and what is made inside, a storage once.
    """

    def __init__(self, *tensors: Tensor):
        super().__init__()
        self.sizes: dict[StorageWeakRef, int] = {}
        self.names, self.bytes = [], []
        self.watch(tensors)

    def watch(self, tensors: object) -> int:
        """Add tensors to those watched; return the bytes alive."""
        for tensor in torch.utils._pytree.tree_leaves(tensors):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self.sizes[StorageWeakRef(storage)] = storage.nbytes()
        self.sizes = {r: n for r, n in self.sizes.items() if not r.expired()}
        return sum(self.sizes.values())

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.names.append(func._schema.name.partition("::")[2])
        self.bytes.append(self.watch(out))
        return out
# --8<-- [end:tape]


# --8<-- [start:saved]
def saved(function: Callable, model: nn.Module) -> tuple[Tensor, int]:
    """Return function() and the bytes it keeps for backward.

    Each storage counts once, parameters of the model do not.
    """
    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[StorageWeakRef(storage)] = storage.nbytes()
        return tensor

    sizes: dict[StorageWeakRef, int] = {}
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        result = function()
    for parameter in model.parameters():
        sizes.pop(StorageWeakRef(parameter.untyped_storage()), None)
    return result, sum(sizes.values())
# --8<-- [end:saved]


# --8<-- [start:fitting]
def fitting(step: Callable[[int], object], size: int) -> int:
    """Halve size until step(size) has enough memory, return that size.

    Raises ValueError for a size below 1, and torch.OutOfMemoryError
    where one row is too much.
    """
    if size < 1:
        raise ValueError(f"expected a size from 1 on, got {size}")
    while True:
        try:
            step(size)
            return size
        except torch.OutOfMemoryError:
            if size == 1:
                raise
        size //= 2  # out here the exception is gone, and what it held
# --8<-- [end:fitting]


# --8<-- [start:rounded]
def rounded(x: Tensor, bits: int) -> Tensor:
    """Round to `bits` binary digits, to nearest, ties to even.

    x: float32 below 2**127. Raises TypeError for another dtype and
    ValueError for bits outside 1, …, 24.
    """
    if x.dtype != torch.float32:
        raise TypeError(f"expected float32, got {x.dtype}")
    if not 1 <= bits <= 24:
        raise ValueError(f"expected 1 to 24 bits, got {bits}")
    digits, exponent = torch.frexp(x)  # 1/2 <= |digits| < 1
    return torch.ldexp((digits * 2**bits).round() / 2**bits, exponent)


def product_error(bits: int) -> float:
    """Predict the error of A @ B, entries normal, rounded to `bits`.

    It is relative: root mean square of the error over that of A @ B.
    An entry with 2**(e - 1) <= |x| < 2**e is off by up to 2**(e - bits)
    over 2, evenly, and P(|x| < t) is erf(t / sqrt(2)).
    """
    spread = sum(
        4.0**e * (math.erf(2 ** (e - 0.5)) - math.erf(2 ** (e - 1.5)))
        for e in range(-40, 6)
    )
    return 2.0**-bits * math.sqrt(2 * spread / 12)
# --8<-- [end:rounded]


def main() -> None:
    """Print predicted bytes and errors, and what is found."""
    model = nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10))
    x, y = torch.randn(64, 784), torch.randint(10, (64,))
    _, found = saved(lambda: nn.functional.cross_entropy(model(x), y), model)
    for name, size in step_bytes([784, 256, 10], 64).items():
        print(f"{name:12}{size:10,} bytes predicted")
    print(f"{'activations':12}{found:10,} bytes found")
    for name, bits in ("TF32", 11), ("bfloat16", 8):
        print(f"{name:12}{product_error(bits):10.2e} error of a product")


if __name__ == "__main__":
    main()
