"""Module hooks: capture outputs, measure gradients, Grad-CAM, find a nan."""

# --8<-- [start:imports]
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

Names = Iterable[str]  # of model.named_modules()
See = Callable[[str, Tensor], Tensor | None]  # (name, output)
# --8<-- [end:imports]


# --8<-- [start:watch]
@contextmanager
def watch(model: nn.Module, names: Names, see: See) -> Iterator[None]:
    """Call see(name, output) after each call of a named submodule.

    A tensor that see returns replaces the output. Raises ValueError for an
    unknown name, TypeError for one string instead of several and for an
    output that is no tensor.
    """
    if isinstance(names, str):
        raise TypeError(f"expected a list of names, got {names!r}")
    modules = dict(model.named_modules(remove_duplicate=False))

    def hook(name, module, args, output):
        if not isinstance(output, Tensor):
            kind = type(output).__name__
            raise TypeError(f"expected a tensor from {name!r}, got {kind}")
        return see(name, output)

    with ExitStack() as hooks:  # removes them, also after an error
        for name in names:
            if name not in modules:
                raise ValueError(f"expected one of {[*modules]}, got {name!r}")
            handle = modules[name].register_forward_hook(partial(hook, name))
            hooks.enter_context(handle)
        yield
# --8<-- [end:watch]


# --8<-- [start:capture]
@contextmanager
def capture(model: nn.Module, names: Names) -> Iterator[dict[str, Tensor]]:
    """Yield a dict that calls of model fill with copies of outputs.

    The copies are outside the graph. A later call replaces an entry.
    Raises what watch raises.
    """
    outputs = {}

    def keep(name, output):
        outputs[name] = output.detach().clone()

    with watch(model, names, keep):
        yield outputs
# --8<-- [end:capture]


# --8<-- [start:gradient-rms]
@contextmanager
def gradient_rms(model: nn.Module, names: Names) -> Iterator[dict[str, float]]:
    """Yield a dict that backward() fills: rms of d loss / d output.

    Raises what watch raises, RuntimeError if an output needs no gradient.
    """
    rms = {}

    def measure(name, gradient):
        # in float32 the squares of small numbers would be 0
        rms[name] = gradient.cpu().double().square().mean().sqrt().item()

    def mark(name, output):
        output.register_hook(partial(measure, name))

    with watch(model, names, mark):
        yield rms
# --8<-- [end:gradient-rms]


# --8<-- [start:pick]
def pick(logits: Tensor, classes: Tensor | int | None = None) -> Tensor:
    """Return one logit (n,) of each row of logits (n, C).

    classes is one for all rows or one each; None picks the largest logit.
    Raises ValueError unless logits are (n, C) and classes in 0..C-1.
    """
    if logits.dim() != 2:
        raise ValueError(f"expected logits (n, C), got {tuple(logits.shape)}")
    if classes is None:
        return logits.max(dim=1).values
    index = torch.as_tensor(classes, device=logits.device).expand(len(logits))
    if index.min() < 0 or index.max() >= logits.shape[1]:
        top = logits.shape[1] - 1
        raise ValueError(f"expected classes 0..{top}, got {index.tolist()}")
    return logits.gather(1, index[:, None])[:, 0]
# --8<-- [end:pick]


# --8<-- [start:grad-cam]
def grad_cam(
    model: nn.Module, layer: str, images: Tensor,
    classes: Tensor | int | None = None,
) -> Tensor:
    """Return heat maps (n, H, W) in [0, 1] for images (n, c, H, W).

    layer names a submodule with outputs (n, k, h, w); classes as in pick.
    A map that is nowhere positive is 0. Parameters keep their .grad.
    Raises ValueError for training mode and for shapes that do not fit.
    Source: Selvaraju et al. 2017, equations 1 and 2.
    """
    if model.training:
        raise ValueError("expected a model in eval mode, got training mode")
    kept = []

    def keep(name, output):
        kept.append(output)
        return output.clone()  # the next layer may work in place

    with torch.enable_grad(), watch(model, [layer], keep):
        logits = model(images.detach().requires_grad_())
        score = pick(logits, classes).sum()  # one logit of each image
    if [output.dim() for output in kept] != [4]:
        got = [tuple(output.shape) for output in kept]
        raise ValueError(f"expected one (n, k, h, w) of {layer!r}, got {got}")
    (gradient,) = torch.autograd.grad(score, kept)  # (n, k, h, w)
    weights = gradient.mean(dim=(2, 3), keepdim=True)  # (n, k, 1, 1)
    maps = (weights * kept[0]).sum(dim=1, keepdim=True).relu().detach()
    maps = interpolate(maps, images.shape[2:], mode="bilinear")[:, 0]
    top = maps.amax(dim=(1, 2), keepdim=True)
    return maps / top.where(top > 0, 1)
# --8<-- [end:grad-cam]


# --8<-- [start:check-finite]
def check_finite(where: str, value: Tensor) -> None:
    """Raise FloatingPointError if value holds nan or inf."""
    if not value.isfinite().all():
        nan, inf = value.isnan().sum(), value.isinf().sum()
        count = f"{nan} nan and {inf} inf in {value.numel()} values"
        raise FloatingPointError(f"{where}: {count}")


def guarded(where: str, value: object) -> object:
    """Check value now and its gradient later; return it as a new tensor."""
    if type(value) is tuple:
        return tuple(guarded(where, part) for part in value)
    if not isinstance(value, Tensor):
        return value
    check_finite(where, value)
    value = value.clone()  # each border gets a gradient of its own
    if value.requires_grad:
        value.register_hook(partial(check_finite, f"gradient of {where}"))
    return value
# --8<-- [end:check-finite]


# --8<-- [start:nan-guard]
@contextmanager
def nan_guard(model: nn.Module) -> Iterator[None]:
    """Raise FloatingPointError at the first nan or inf of model.

    Checked are the parameters, then what enters and leaves each module
    (positional arguments and outputs: tensors, alone or in tuples), then
    the gradients of all these in backward. For debugging: it is slow.
    """
    with ExitStack() as hooks:
        for name, p in model.named_parameters():
            where = f"parameter {name!r}"
            check_finite(where, p)
            if p.requires_grad:
                hooks.enter_context(p.register_hook(
                    partial(check_finite, f"gradient of {where}")))
        for name, module in model.named_modules():
            where = f"{type(module).__name__} {name!r}"
            hooks.enter_context(module.register_forward_pre_hook(
                lambda _, x, at=where: guarded(f"input of {at}", x)))
            hooks.enter_context(module.register_forward_hook(
                lambda _, x, y, at=where: guarded(f"output of {at}", y)))
        yield
# --8<-- [end:nan-guard]


def main() -> None:
    """Capture, measure and explain a small convnet; find a planted nan."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)).eval()
    images = torch.randn(2, 1, 8, 8)
    with capture(model, ["0"]) as outputs, gradient_rms(model, ["0", "4"]) as rms:
        model(images).logsumexp(dim=1).sum().backward()
    print(f"captured {tuple(outputs['0'].shape)}, measured {sorted(rms)}")
    print("heat maps", tuple(grad_cam(model, "1", images).shape))
    images[0, 0, 0, 0] = torch.nan
    try:
        with nan_guard(model):
            model(images)
    except FloatingPointError as error:
        print(error)


if __name__ == "__main__":
    main()
