"""Object detection: IoU and NMS by hand, a small detector that learns."""

# --8<-- [start:imports]
import torch
from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOS, FCOSHead

Objects = dict[str, Tensor]  # boxes (n, 4), labels (n,), perhaps scores (n,)
Scene = tuple[Tensor, Objects]  # an image (3, h, w) and what is in it
# --8<-- [end:imports]


# --8<-- [start:check-boxes]
def check_boxes(boxes: Tensor) -> None:
    """Raise unless boxes are (n, 4) rows x1, y1, x2, y2 in pixels.

    Raises TypeError unless they are float32 or float64, ValueError for
    another shape, nan or inf, and a right edge left of the left edge.
    """
    if boxes.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"expected float32 or float64, got {boxes.dtype}")
    if boxes.dim() != 2 or boxes.shape[1] != 4:
        raise ValueError(f"expected boxes (n, 4), got {tuple(boxes.shape)}")
    if not boxes.isfinite().all():
        raise ValueError("expected finite boxes, got nan or inf")
    wrong = (boxes[:, 2:] < boxes[:, :2]).any(dim=1)
    if wrong.any():
        first = boxes[wrong][0].tolist()
        raise ValueError(f"expected x1 <= x2 and y1 <= y2, got {first}")
# --8<-- [end:check-boxes]


# --8<-- [start:iou]
def iou(a: Tensor, b: Tensor) -> Tensor:
    """Return shared area / joint area (n, m) of boxes (n, 4) and (m, 4).

    Two boxes without any area score 0. Raises what check_boxes raises.
    """
    check_boxes(a)
    check_boxes(b)
    low = torch.maximum(a[:, None, :2], b[:, :2])  # (n, m, 2)
    high = torch.minimum(a[:, None, 2:], b[:, 2:])  # (n, m, 2)
    shared = (high - low).clamp(min=0).prod(dim=2)  # (n, m)
    area_a, area_b = ((c[:, 2:] - c[:, :2]).prod(dim=1) for c in (a, b))
    joint = area_a[:, None] + area_b - shared
    return shared / joint.where(joint > 0, 1)
# --8<-- [end:iou]


# --8<-- [start:nms]
def nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Return the rows to keep of boxes (n, 4), best score (n,) first.

    A box goes when its iou with a kept one is above threshold. Of equal
    scores the first row wins. Raises what check_boxes raises, ValueError
    for other scores and for a threshold outside 0..1.
    """
    check_boxes(boxes)
    if scores.shape != boxes.shape[:1] or scores.isnan().any():
        got = f"{tuple(scores.shape)}, {int(scores.isnan().sum())} nan"
        raise ValueError(f"expected scores ({len(boxes)},), got {got}")
    if not 0 <= threshold <= 1:
        raise ValueError(f"expected a threshold in 0..1, got {threshold}")
    overlaps = iou(boxes, boxes) > threshold  # (n, n)
    order = scores.argsort(descending=True, stable=True)
    keep = []
    while len(order) > 0:
        best, rest = order[0], order[1:]
        keep.append(best)
        order = rest[~overlaps[best, rest]]
    return torch.stack(keep) if keep else order
# --8<-- [end:nms]


# --8<-- [start:count]
def count_parameters(name: str) -> int:
    """Return the parameters of a torchvision model built without weights.

    On the meta device tensors have shapes but no memory.
    """
    with torch.device("meta"):
        model = get_model(name, weights=None, weights_backbone=None)
    return sum(p.numel() for p in model.parameters())
# --8<-- [end:count]


# --8<-- [start:scene]
def draw_scene(generator: torch.Generator, most: int = 3) -> Scene:
    """Return an image (3, h, w) in 0..1 and its 1 to most shapes.

    h and w are 64 to 96 pixels. Label 1 is a green rectangle, 2 a blue
    disc. Their boxes share no area. Raises ValueError if most is below 1.
    """
    if most < 1:
        raise ValueError(f"expected most >= 1, got {most}")

    def pick(low, high, *shape):  # low to high - 1
        return torch.randint(low, high, shape, generator=generator)

    h, w = pick(64, 97, 2).tolist()
    y, x = torch.arange(h)[:, None] + 0.5, torch.arange(w) + 0.5  # centers
    image = 0.3 * torch.rand(3, 1, 1, generator=generator).expand(3, h, w)
    boxes, labels = torch.zeros(0, 4), pick(0, 1, 0)
    for label in pick(1, 3, most):
        width, height = pick(16, 33, 2 // label).expand(2).tolist()
        left, top = int(pick(0, w - width + 1)), int(pick(0, h - height + 1))
        box = torch.tensor([[left, top, left + width, top + height]]).float()
        if iou(box, boxes).any():
            continue
        # From edge to edge, u and v go from -1 to 1.
        u, v = (x - left) / width * 2 - 1, (y - top) / height * 2 - 1
        far = u**2 + v**2 if label == 2 else torch.maximum(u.abs(), v.abs())
        color = 0.5 * torch.rand(3, 1, 1, generator=generator)
        color[label] = 1.0  # green rectangles, blue discs
        image = torch.where(far < 1, color, image)
        boxes = torch.cat([boxes, box])
        labels = torch.cat([labels, label[None]])
    return image, {"boxes": boxes, "labels": labels}
# --8<-- [end:scene]


# --8<-- [start:detector]
class Backbone(nn.Sequential):
    """Features (n, 32, h / 8, w / 8) of images (n, 3, h, w)."""

    out_channels = 32  # the detectors of torchvision read this

    def __init__(self):
        super().__init__()
        channels = 3
        for stride in (2, 2, 1, 2, 1):
            self += nn.Sequential(
                nn.Conv2d(channels, 32, 3, stride, padding=1),
                nn.GroupNorm(8, 32), nn.ReLU())
            channels = 32


def small_detector(num_classes: int) -> FCOS:
    """Return an untrained FCOS for small images and labels below num_classes.

    It resizes an image to a short side of 64 pixels. Raises ValueError if
    num_classes is below 1.
    """
    if num_classes < 1:
        raise ValueError(f"expected num_classes >= 1, got {num_classes}")
    cells = AnchorGenerator(sizes=((8,),), aspect_ratios=((1.0,),))
    head = FCOSHead(Backbone.out_channels, 1, num_classes, num_convs=1)
    return FCOS(
        Backbone(), num_classes, min_size=64, max_size=96,
        anchor_generator=cells, head=head, score_thresh=0.4, nms_thresh=0.3)
# --8<-- [end:detector]


# --8<-- [start:train-step]
def train_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, scenes: list[Scene],
) -> float:
    """Take a step on scenes; return the sum of the losses before it."""
    images, targets = zip(*scenes, strict=True)
    model.train()  # in this mode the model returns its losses
    loss = sum(model(images, targets).values())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()
# --8<-- [end:train-step]


# --8<-- [start:detect]
def detect(model: nn.Module, images: list[Tensor]) -> list[Objects]:
    """Return what model finds in each image; leave eval mode on."""
    model.eval()  # in this mode the model returns boxes
    with torch.inference_mode():
        return model(images)


def best_iou(wanted: list[Objects], offered: list[Objects]) -> Tensor:
    """Return, for each wanted box, the iou with the best offered one.

    Offered are the boxes of the same image with the same label; without
    any the iou is 0. Raises ValueError if the lengths of the lists differ.
    """
    best = []
    for want, offer in zip(wanted, offered, strict=True):
        same = want["labels"][:, None] == offer["labels"]  # (n, m)
        ious = iou(want["boxes"], offer["boxes"]) * same
        best.append(nn.functional.pad(ious, (0, 1)).amax(dim=1))  # 0: none
    return torch.cat(best)
# --8<-- [end:detect]


def main() -> None:
    """Train the small detector on drawn scenes and measure it on others."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    scenes = [draw_scene(generator) for _ in range(420)]
    model = small_detector(num_classes=3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, eps=1e-4)
    losses = [train_step(model, optimizer, scenes[k : k + 4]) for k in range(0, 400, 4)]
    images, targets = zip(*scenes[400:], strict=True)
    print("the loss fell to less than half:", losses[-1] < losses[0] / 2)
    print("mean iou above 0.5:", best_iou(targets, detect(model, images)).mean().item() > 0.5)


if __name__ == "__main__":
    main()
