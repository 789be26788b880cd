"""Detection against torchvision, counted pixels and known pictures."""

import re
import runpy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision import ops
from torchvision.models import get_model, get_model_weights
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator

from snippets.models.detection import (
    Backbone,
    best_iou,
    check_boxes,
    count_parameters,
    detect,
    draw_scene,
    iou,
    main,
    nms,
    small_detector,
    train_step,
)

SEEDS = st.integers(0, 10_000)
DTYPES = st.sampled_from([torch.float32, torch.float64])
SQUARE = [0.0, 0.0, 4.0, 4.0]


def random_boxes(n: int, seed: int, dtype=torch.float64, whole: bool = False):
    """n boxes of positive area within 0..20, at whole pixels if wanted."""
    generator = torch.Generator().manual_seed(seed)
    if whole:
        low = torch.randint(0, 12, (n, 2), generator=generator)
        return torch.cat([low, low + torch.randint(1, 9, (n, 2), generator=generator)], dim=1).to(dtype)
    low = 12 * torch.rand(n, 2, generator=generator, dtype=torch.float64)
    size = 0.1 + 8 * torch.rand(n, 2, generator=generator, dtype=torch.float64)
    return torch.cat([low, low + size], dim=1).to(dtype)


def box(*corners: float) -> torch.Tensor:
    return torch.tensor([corners], dtype=torch.float32)


def objects(boxes, labels, **more) -> dict[str, torch.Tensor]:
    return {"boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), "labels": torch.tensor(labels, dtype=torch.int64)} | more


# check_boxes


@pytest.mark.parametrize(
    "boxes",
    [torch.zeros(0, 4), box(*SQUARE), box(1, 1, 1, 5), box(1, 1, 5, 1), box(-3, -2, -1, -1), torch.zeros(2, 4, dtype=torch.float64)],
)
def test_check_boxes_lets_boxes_pass(boxes):
    assert check_boxes(boxes) is None


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.float16, torch.bfloat16, torch.bool])
def test_check_boxes_refuses_other_dtypes(dtype):
    with pytest.raises(TypeError, match=rf"^expected float32 or float64, got {re.escape(str(dtype))}$"):
        check_boxes(torch.zeros(3, 4).to(dtype))


@pytest.mark.parametrize("shape", [(4,), (1, 5), (4, 3), (1, 1, 4), (0,), (2, 4, 4)])
def test_check_boxes_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match=rf"^expected boxes \(n, 4\), got {re.escape(str(shape))}$"):
        check_boxes(torch.zeros(shape))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("column", range(4))
def test_check_boxes_refuses_values_that_are_not_finite(bad, column):
    boxes = torch.tensor([SQUARE, SQUARE])
    boxes[1, column] = bad
    with pytest.raises(ValueError, match=r"^expected finite boxes, got nan or inf$"):
        check_boxes(boxes)


@pytest.mark.parametrize("wrong", [[5.0, 1.0, 4.0, 9.0], [1.0, 5.0, 9.0, 4.0], [5.0, 5.0, 4.0, 4.0]])
def test_check_boxes_names_the_first_box_whose_corners_are_exchanged(wrong):
    message = re.escape(f"expected x1 <= x2 and y1 <= y2, got {wrong}")
    with pytest.raises(ValueError, match=f"^{message}$"):
        check_boxes(torch.tensor([SQUARE, wrong, [9.0, 9.0, 0.0, 0.0]]))


# iou


@settings(max_examples=30, deadline=None)
@given(n=st.integers(0, 8), m=st.integers(0, 8), seed=SEEDS, dtype=DTYPES)
def test_iou_is_that_of_torchvision(n, m, seed, dtype):
    a, b = random_boxes(n, seed, dtype), random_boxes(m, seed + 1, dtype)
    result = iou(a, b)
    assert result.shape == (n, m)
    assert result.dtype == dtype
    torch.testing.assert_close(result, ops.box_iou(a, b))


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS)
def test_iou_is_the_share_of_counted_pixels(seed):
    a, b = random_boxes(4, seed, whole=True), random_boxes(5, seed + 1, whole=True)

    def masks(boxes):
        pixels = torch.zeros(len(boxes), 20, 20, dtype=torch.bool)
        for mask, (x1, y1, x2, y2) in zip(pixels, boxes.long().tolist(), strict=True):
            mask[y1:y2, x1:x2] = True
        return pixels

    p, q = masks(a)[:, None], masks(b)[None]
    counted = (p & q).sum(dim=(2, 3)) / (p | q).sum(dim=(2, 3)).double()
    torch.testing.assert_close(iou(a, b), counted)


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, shift=st.integers(-50, 50), scale=st.sampled_from([0.25, 2.0, 8.0]))
def test_iou_is_symmetric_bounded_and_without_a_unit(seed, shift, scale):
    boxes = random_boxes(6, seed)
    result = iou(boxes, boxes)
    assert torch.equal(result, result.T)
    assert torch.equal(result.diagonal(), torch.ones(6, dtype=torch.float64))
    assert ((result >= 0) & (result <= 1)).all()
    moved = boxes * scale + shift
    torch.testing.assert_close(iou(moved, moved), result)
    turned = boxes[:, [1, 0, 3, 2]]
    assert torch.equal(iou(turned, turned), result)


@pytest.mark.parametrize(
    ("other", "want"),
    [
        (SQUARE, 1.0),
        ([2, 0, 6, 4], 8 / 24),
        ([0, 2, 4, 6], 8 / 24),
        ([1, 1, 3, 3], 4 / 16),
        ([-1, -1, 5, 5], 16 / 36),
        ([3, 3, 5, 5], 1 / 19),
        ([4, 0, 8, 4], 0.0),  # an edge in common
        ([4, 4, 8, 8], 0.0),  # a corner in common
        ([5, 0, 8, 4], 0.0),
        ([0, 5, 4, 8], 0.0),
        ([5, 5, 8, 8], 0.0),  # two negative lengths are no positive area
        ([-8, -8, -5, -5], 0.0),
        ([0, 2, 4, 2], 0.0),  # a line
    ],
)
def test_iou_of_boxes_known_by_hand(other, want):
    assert iou(box(*SQUARE), box(*other)).item() == pytest.approx(want)
    assert iou(box(*other), box(*SQUARE)).item() == pytest.approx(want)


def test_boxes_without_area_score_zero_where_torchvision_has_nan():
    flat = torch.tensor([[1.0, 1, 1, 1], [2.0, 2, 2, 9], [1.0, 1, 1, 1]])
    assert torch.equal(iou(flat, flat), torch.zeros(3, 3))
    assert ops.box_iou(flat, flat).isnan().all()


def test_tiny_boxes_are_measured_too():
    boxes = box(0, 0, 1e-9, 1e-9)
    assert iou(boxes, boxes).item() == 1.0


@pytest.mark.parametrize("place", [0, 1])
def test_iou_checks_both_arguments(place):
    pair = [box(*SQUARE), box(*SQUARE)]
    pair[place] = torch.zeros(4)
    with pytest.raises(ValueError, match=r"^expected boxes \(n, 4\), got \(4,\)$"):
        iou(*pair)


# nms


@settings(max_examples=30, deadline=None)
@given(n=st.integers(0, 25), seed=SEEDS, dtype=DTYPES, threshold=st.sampled_from([0.0, 0.125, 0.25, 0.5, 0.75, 1.0]))
def test_nms_is_that_of_torchvision(n, seed, dtype, threshold):
    boxes = random_boxes(n, seed, dtype, whole=True)
    scores = torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
    keep = nms(boxes, scores, threshold)
    assert keep.dtype == torch.int64
    assert keep.tolist() == ops.nms(boxes, scores, threshold).tolist()


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 25), seed=SEEDS, threshold=st.floats(0, 1), levels=st.integers(1, 4))
def test_nms_keeps_what_its_rules_say(n, seed, threshold, levels):
    """Also with equal scores, where the first row wins."""
    boxes = random_boxes(n, seed)
    scores = torch.randint(levels, (n,), generator=torch.Generator().manual_seed(seed)).double()
    keep = nms(boxes, scores, threshold).tolist()
    ranks = sorted(range(n), key=lambda row: (-scores[row].item(), row))
    assert [row for row in ranks if row in keep] == keep
    overlap = ops.box_iou(boxes, boxes) > threshold
    for place, row in enumerate(ranks):
        suppressed = any(overlap[row, other] for other in ranks[:place] if other in keep)
        assert (row in keep) != suppressed


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 20), seed=SEEDS)
def test_nms_per_class_by_moving_classes_apart(n, seed):
    boxes = random_boxes(n, seed)
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(n, generator=generator, dtype=torch.float64)
    labels = torch.randint(3, (n,), generator=generator)
    keep = nms(boxes + 1000.0 * labels[:, None], scores, 0.25)
    assert keep.tolist() == ops.batched_nms(boxes, scores, labels, 0.25).tolist()


def test_nms_of_equal_scores_keeps_the_first_rows():
    boxes = torch.tensor([SQUARE, [9.0, 9, 12, 12], SQUARE, [9.0, 9, 12, 12], [20.0, 0, 22, 2]])
    assert nms(boxes, torch.ones(5), 0.5).tolist() == [0, 1, 4]


def test_nms_keeps_a_box_at_the_threshold():
    boxes = torch.tensor([SQUARE, [0.0, 0, 4, 2]])
    scores = torch.tensor([0.8, 0.9])
    assert nms(boxes, scores, 0.5).tolist() == [1, 0]
    assert nms(boxes, scores, 0.4999).tolist() == [1]


def test_a_box_that_is_gone_suppresses_nothing():
    chain = torch.tensor([[0.0, 0, 4, 4], [1.0, 0, 5, 4], [2.0, 0, 6, 4]])  # neighbors 0.6, ends 1/3
    assert nms(chain, torch.tensor([0.9, 0.8, 0.7]), 0.5).tolist() == [0, 2]
    assert nms(chain, torch.tensor([0.7, 0.9, 0.8]), 0.5).tolist() == [1]


def test_nms_of_nothing_is_nothing():
    keep = nms(torch.zeros(0, 4), torch.zeros(0), 0.5)
    assert keep.shape == (0,)
    assert keep.dtype == torch.int64


@pytest.mark.parametrize(
    ("scores", "got"),
    [
        (torch.ones(3), "(3,), 0 nan"),
        (torch.ones(2, 1), "(2, 1), 0 nan"),
        (torch.tensor([1.0, torch.nan]), "(2,), 1 nan"),
        (torch.tensor([torch.nan, torch.nan]), "(2,), 2 nan"),
    ],
)
def test_nms_refuses_other_scores(scores, got):
    with pytest.raises(ValueError, match=rf"^expected scores \(2,\), got {re.escape(got)}$"):
        nms(torch.tensor([SQUARE, SQUARE]), scores, 0.5)


@pytest.mark.parametrize("threshold", [-0.01, 1.01, float("nan")])
def test_nms_refuses_other_thresholds(threshold):
    with pytest.raises(ValueError, match=f"^expected a threshold in 0..1, got {threshold}$"):
        nms(box(*SQUARE), torch.ones(1), threshold)


def test_nms_checks_its_boxes():
    with pytest.raises(TypeError, match=r"^expected float32 or float64, got torch.int64$"):
        nms(torch.zeros(2, 4, dtype=torch.int64), torch.ones(2), 0.5)


# count_parameters

PARAMETERS = {
    "fasterrcnn_mobilenet_v3_large_320_fpn": 19_410_754,
    "fasterrcnn_mobilenet_v3_large_fpn": 19_410_754,
    "fasterrcnn_resnet50_fpn": 41_808_406,
    "fasterrcnn_resnet50_fpn_v2": 43_712_278,
    "fcos_resnet50_fpn": 32_322_720,
    "retinanet_resnet50_fpn": 34_068_119,
    "retinanet_resnet50_fpn_v2": 38_198_935,
}


@pytest.mark.parametrize(("name", "count"), PARAMETERS.items())
def test_the_seven_detectors_have_these_parameters(name, count):
    assert count_parameters(name) == count
    assert torch.empty(0).device.type == "cpu"  # the default device is back


@pytest.mark.parametrize(("name", "count"), PARAMETERS.items())
def test_without_weights_only_batch_normalization_adds_parameters(name, count):
    """The published counts are those of the trained models, whose batch normalization may be frozen."""
    with torch.device("meta"):
        model = get_model(name, weights=None, weights_backbone=None)
    weights = get_model_weights(name).DEFAULT
    extra = sum(p.numel() for m in model.backbone.body.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters())
    assert count - weights.meta["num_params"] == (0 if name.endswith("v2") else extra)
    assert len(weights.meta["categories"]) == 91


def test_a_model_in_memory_has_as_many():
    name = "fasterrcnn_mobilenet_v3_large_320_fpn"
    model = get_model(name, weights=None, weights_backbone=None)
    assert {p.device.type for p in model.parameters()} == {"cpu"}
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]


# draw_scene


def scenes(seed: int, n: int):
    generator = torch.Generator().manual_seed(seed)
    return [draw_scene(generator) for _ in range(n)]


def test_scenes_use_the_whole_range_of_sizes_counts_and_classes():
    many = scenes(0, 400)
    sides = {side for image, _ in many for side in image.shape[1:]}
    assert (min(sides), max(sides)) == (64, 96)
    assert {len(target["labels"]) for _, target in many} == {1, 2, 3}
    labels = torch.cat([target["labels"] for _, target in many])
    assert labels.unique().tolist() == [1, 2]
    assert abs((labels == 1).double().mean().item() - 0.5) < 0.1
    boxes = torch.cat([target["boxes"] for _, target in many])
    size = boxes[:, 2:] - boxes[:, :2]
    for label in 1, 2:
        mine = size[labels == label]
        assert (mine.min().item(), mine.max().item()) == (16, 32)
        assert (mine[:, 0] == mine[:, 1]).all().item() == (label == 2)
    assert boxes[:, :2].amin(dim=0).tolist() == [0, 0]
    edges = torch.cat([target["boxes"][:, 2:].amax(dim=0)[None] - torch.tensor(image.shape[:0:-1]) for image, target in many])
    assert edges.amax(dim=0).tolist() == [0, 0]  # the far edges are reached, and not crossed


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, most=st.integers(1, 5))
def test_a_scene_shows_what_its_target_says(seed, most):
    image, target = draw_scene(torch.Generator().manual_seed(seed), most)
    boxes, labels = target["boxes"], target["labels"]
    assert list(target) == ["boxes", "labels"]
    assert image.dtype == boxes.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert image.shape[0] == 3
    assert boxes.shape == (len(labels), 4)
    assert 1 <= len(labels) <= most
    assert ((image >= 0) & (image <= 1)).all()
    assert torch.equal(ops.box_iou(boxes, boxes) > 0, torch.eye(len(labels)) > 0)
    shown = image.amax(dim=0) == 1.0  # only shapes have a channel at 1
    for (x1, y1, x2, y2), label in zip(boxes.long().tolist(), labels.tolist(), strict=True):
        patch, part = shown[y1:y2, x1:x2], image[:, y1:y2, x1:x2]
        assert patch.any(dim=0).all()  # the box is tight: the shape reaches all four sides
        assert patch.any(dim=1).all()
        assert part[:, patch].unique(dim=1).shape == (3, 1)  # in one color
        assert part[label][patch].eq(1).all()
        others = [channel for channel in range(3) if channel != label]
        assert part[others][:, patch].lt(0.5).all()
        y, x = torch.meshgrid(torch.arange(y2 - y1) + 0.5, torch.arange(x2 - x1) + 0.5, indexing="ij")
        distance = (x - (x2 - x1) / 2) ** 2 + (y - (y2 - y1) / 2) ** 2
        assert torch.equal(patch, distance < ((x2 - x1) / 2) ** 2 if label == 2 else torch.ones_like(patch))
        shown[y1:y2, x1:x2] = False
    assert not shown.any()  # nothing outside the boxes


def test_the_background_is_one_dark_color():
    for image, target in scenes(3, 20):
        outside = torch.ones(image.shape[1:], dtype=torch.bool)
        for x1, y1, x2, y2 in target["boxes"].long().tolist():
            outside[y1:y2, x1:x2] = False
        assert image[:, outside].unique(dim=1).shape == (3, 1)
        assert image[:, outside].max() < 0.3
    shades = torch.stack([image[:, 0, 0] for image, _ in scenes(4, 100) if image[:, 0, 0].max() < 0.3])
    assert shades.max() > 0.25


def test_shapes_have_many_colors():
    second = [image.flatten(1)[0][image.flatten(1)[1] == 1].max().item() for image, t in scenes(5, 60) if 1 in t["labels"]]
    assert min(second) < 0.1
    assert max(second) > 0.4


def test_scenes_repeat_with_the_seed_and_leave_the_global_generator_alone():
    state = torch.get_rng_state()
    (image, target), (again, same), (other, _) = scenes(1, 1)[0], scenes(1, 1)[0], scenes(2, 1)[0]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(image, again)
    assert torch.equal(target["boxes"], same["boxes"])
    assert image.shape != other.shape or not torch.equal(image, other)


def test_three_shapes_are_the_default():
    image, target = draw_scene(torch.Generator().manual_seed(7))
    same, as_well = draw_scene(torch.Generator().manual_seed(7), most=3)
    assert torch.equal(image, same)
    assert torch.equal(target["boxes"], as_well["boxes"])


@pytest.mark.parametrize("most", [0, -1])
def test_a_scene_has_a_shape(most):
    with pytest.raises(ValueError, match=f"^expected most >= 1, got {most}$"):
        draw_scene(torch.Generator(), most)


# the small detector


@pytest.mark.parametrize(("h", "w"), [(64, 96), (96, 64), (64, 64)])
def test_the_backbone_makes_one_place_of_eight_by_eight_pixels(h, w):
    features = Backbone()(torch.rand(2, 3, h, w))
    assert features.shape == (2, Backbone.out_channels, h // 8, w // 8)
    assert (features >= 0).all()


def test_the_backbone_sees_in_both_modes_the_same():
    torch.manual_seed(0)
    backbone, images = Backbone(), torch.rand(2, 3, 64, 64)
    assert torch.equal(backbone.train()(images), backbone.eval()(images))
    assert torch.allclose(backbone(images[:1]), backbone(images)[:1], atol=1e-5)
    assert not list(backbone.buffers())


def test_the_small_detector_is_built_as_the_page_says():
    model = small_detector(num_classes=3)
    assert type(model) is FCOS
    assert type(model.backbone) is Backbone
    assert model.head.classification_head.num_classes == 3
    assert model.head.classification_head.cls_logits.out_channels == 3
    assert (model.score_thresh, model.nms_thresh) == (0.4, 0.3)
    assert (model.transform.min_size, model.transform.max_size) == ((64,), 96)
    assert model.anchor_generator.sizes == ((8,),)
    assert model.anchor_generator.aspect_ratios == ((1.0,),)
    convolutions = [m for m in model.head.classification_head.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 2
    channels = [(m.in_channels, m.out_channels, m.stride[0]) for m in model.backbone.modules() if isinstance(m, nn.Conv2d)]
    assert channels == [(3, 32, 2), (32, 32, 2), (32, 32, 1), (32, 32, 2), (32, 32, 1)]
    assert [m.num_groups for m in model.backbone.modules() if isinstance(m, nn.GroupNorm)] == [8] * 5


def test_the_anchors_tile_the_image():
    from torchvision.models.detection.image_list import ImageList

    model = small_detector(num_classes=1)
    images = ImageList(torch.rand(1, 3, 64, 96), [(64, 96)])
    anchors = model.anchor_generator(images, [model.backbone(images.tensors)])[0]
    assert anchors.shape == (8 * 12, 4)
    assert anchors[0].tolist() == [-4, -4, 4, 4]
    assert anchors[1].tolist() == [4, -4, 12, 4]
    assert anchors[12].tolist() == [-4, 4, 4, 12]


@pytest.mark.parametrize("num_classes", [0, -2])
def test_a_detector_needs_a_class(num_classes):
    with pytest.raises(ValueError, match=f"^expected num_classes >= 1, got {num_classes}$"):
        small_detector(num_classes)


# what the page says of torchvision


def tiny(kind: str) -> nn.Module:
    if kind == "FCOS":
        return small_detector(3)
    anchors = AnchorGenerator(sizes=((32,),), aspect_ratios=((1.0,),))
    if kind == "RetinaNet":
        return RetinaNet(Backbone(), 3, min_size=64, max_size=96, anchor_generator=anchors)
    pool = ops.MultiScaleRoIAlign(["0"], 7, 2)
    return FasterRCNN(Backbone(), 3, min_size=64, max_size=96, rpn_anchor_generator=anchors, box_roi_pool=pool)


@pytest.mark.parametrize("kind", ["FasterRCNN", "FCOS", "RetinaNet"])
def test_what_the_detectors_refuse_and_what_not(kind):
    torch.manual_seed(0)
    model, image = tiny(kind).train(), torch.rand(3, 32, 32)
    good = objects([[4, 4, 20, 20]], [1])
    with pytest.raises(TypeError, match=r"^Expected input images to be of floating type \(in range \[0, 1\]\), but found type torch.uint8"):
        model([(255 * image).byte()], [good])
    with pytest.raises(AssertionError, match=r"Found invalid box \[16.0, 8.0, 16.0, 40.0\] for target at index 0"):
        model([image], [objects([[8, 4, 8, 20]], [1])])
    for accepted in ([image[:1]], good), ([image], objects([[-20, 4, 90, 20]], [1])), ([image], objects([[0.1, 0.1, 0.5, 0.6]], [1])), ([image], objects([], [])):
        losses = model(accepted[0], [accepted[1]])
        assert all(loss.isfinite() for loss in losses.values())
    with pytest.raises(AssertionError, match="targets should not be none when in training mode"):
        model([image])


# train_step and detect


def sgd(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=0.1)


def test_a_step_follows_the_gradient_of_the_summed_losses():
    data = scenes(0, 3)
    torch.manual_seed(0)
    model, twin = small_detector(3).eval(), small_detector(3)
    twin.load_state_dict(model.state_dict())
    for p in model.parameters():
        p.grad = torch.full_like(p, 1e6)  # to be forgotten
    losses = twin.train()([image for image, _ in data], [target for _, target in data])
    total = losses["classification"] + losses["bbox_regression"] + losses["bbox_ctrness"]
    gradients = torch.autograd.grad(total, [*twin.parameters()])
    loss = train_step(model, sgd(model), data)
    assert type(loss) is float
    assert loss == pytest.approx(total.item(), rel=1e-5)
    assert model.training
    for p, old, gradient in zip(model.parameters(), twin.parameters(), gradients, strict=True):
        torch.testing.assert_close(p.data, old.data - 0.1 * gradient)


def test_steps_on_one_batch_lower_the_loss():
    data = scenes(1, 2)
    torch.manual_seed(0)
    model = small_detector(3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = [train_step(model, optimizer, data) for _ in range(30)]
    assert losses[-1] < 0.7 * losses[0]


def test_a_step_needs_a_target_for_each_image():
    model = small_detector(3)
    with pytest.raises(ValueError, match="not enough values"):
        train_step(model, sgd(model), [])


class Recorder(nn.Module):
    """Returns what it is given and notes the mode of each call."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, images):
        self.calls.append((self.training, torch.is_inference_mode_enabled()))
        return images


def test_detect_calls_the_model_in_eval_and_inference_mode():
    model = Recorder().train()
    images = [torch.rand(3, 8, 8)]
    assert detect(model, images) is images
    assert model.calls == [(False, True)]
    assert not model.training
    assert not torch.is_inference_mode_enabled()


def test_detections_lie_inside_their_image_best_score_first():
    torch.manual_seed(0)
    model = small_detector(3)
    model.score_thresh = 0.0
    images = [torch.rand(3, 64, 96), torch.rand(3, 90, 70), torch.rand(3, 128, 130)]
    for image, found in zip(images, detect(model, images), strict=True):
        assert found["boxes"].shape == (len(found["scores"]), 4)
        assert len(found["labels"]) == len(found["scores"]) > 0
        assert (found["scores"].diff() <= 0).all()
        h, w = image.shape[1:]
        assert (found["boxes"] >= 0).all()
        assert (found["boxes"] <= torch.tensor([w, h, w, h]) + 1e-3).all()


# best_iou


def test_best_iou_takes_the_best_of_the_same_class_in_the_same_image():
    wanted = [objects([SQUARE, [10, 0, 14, 4]], [1, 2]), objects([SQUARE], [1])]
    offered = [
        objects([[2, 0, 6, 4], [1, 1, 3, 3], [10, 0, 14, 4], SQUARE], [1, 1, 1, 2]),
        objects([[10, 0, 14, 4]], [1]),
    ]
    assert best_iou(wanted, offered).tolist() == [pytest.approx(1 / 3), 0, 0]
    assert best_iou(offered, wanted).tolist() == [pytest.approx(1 / 3), 0.25, 0, 0, 0]


def test_best_iou_without_detections_is_zero_and_without_objects_empty():
    nothing = objects([], [])
    assert best_iou([objects([SQUARE, SQUARE], [1, 2])], [nothing]).tolist() == [0, 0]
    assert best_iou([nothing], [objects([SQUARE], [1])]).shape == (0,)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 6), m=st.integers(0, 6), seed=SEEDS, dtype=DTYPES)
def test_best_iou_against_a_loop(n, m, seed, dtype):
    generator = torch.Generator().manual_seed(seed)
    want = {"boxes": random_boxes(n, seed, dtype), "labels": torch.randint(2, (n,), generator=generator)}
    offer = {"boxes": random_boxes(m, seed + 1, dtype), "labels": torch.randint(2, (m,), generator=generator)}
    best = best_iou([want], [offer])
    assert best.dtype == dtype
    for i in range(n):
        rivals = [ops.box_iou(want["boxes"][i : i + 1], offer["boxes"][j : j + 1]).item() for j in range(m) if want["labels"][i] == offer["labels"][j]]
        assert best[i].item() == pytest.approx(max(rivals, default=0.0))


@pytest.mark.parametrize(("n", "m"), [(1, 2), (2, 1)])
def test_best_iou_refuses_lists_that_do_not_fit(n, m):
    with pytest.raises(ValueError, match=r"zip\(\) argument 2 is (longer|shorter) than argument 1"):
        best_iou([objects([SQUARE], [1])] * n, [objects([SQUARE], [1])] * m)


# the script

PRINTED = "the loss fell to less than half: True\nmean iou above 0.5: True\n"


def test_main_trains_a_detector(capsys):
    state = torch.get_rng_state()
    main()
    torch.set_rng_state(state)
    assert capsys.readouterr().out == PRINTED


@pytest.mark.filterwarnings("ignore:.*found in sys.modules.*:RuntimeWarning")
def test_module_runs_as_a_script(capsys):
    runpy.run_module("snippets.models.detection", run_name="__main__")
    assert capsys.readouterr().out == PRINTED
