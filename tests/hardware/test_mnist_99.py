"""Proofs for snippets/hardware/mnist_99.py: eigenvectors, closed forms and PyTorch's own functions as oracles."""

import re
import runpy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from snippets.hardware import mnist_99
from snippets.hardware.mnist_99 import (
    LEFT_OUT,
    accuracy,
    batches,
    crop,
    floor,
    main,
    network,
    recipe,
    train,
    triangle,
    variant,
    whitening,
)
from tests.test_house import code_lines

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("one_thread")


def noise(rows: int = 200, side: int = 28, seed: int = 0) -> torch.Tensor:
    """Bytes (rows, side, side) whose neighbors are related, as in pictures."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(rows, 1, 7, 7, generator=generator)
    fine = torch.rand(rows, 1, side, side, generator=generator)
    return (200 * F.interpolate(coarse, side) + 55 * fine).to(torch.uint8)[:, 0]


def labels(rows: int = 200) -> torch.Tensor:
    return torch.arange(rows) % 10


def test_the_recipe_has_at_most_60_lines(tmp_path):
    text = Path(mnist_99.__file__).read_text(encoding="utf-8")
    lines = text[: text.index("# --8<-- [start:variants]")].splitlines(keepends=True)
    variants_need = ("from itertools import islice", "from torch.utils.")  # imports for what comes after the recipe
    alone = tmp_path / "recipe.py"
    alone.write_text("".join(line for line in lines if not line.startswith(variants_need)), encoding="utf-8")
    for name in ("crop", "whitening", "network", "batches", "triangle", "train", "recipe", "accuracy"):
        assert f"def {name}(" in alone.read_text(encoding="utf-8")
    assert code_lines(alone) <= 60


# crop


def test_crop_cuts_all_four_sides_alike():
    pictures = noise(3)
    for border in (0, 1, 2, 13):
        cut = crop(pictures, border)
        assert torch.equal(cut[:, 0], pictures[:, border : 28 - border, border : 28 - border])
        assert cut.is_contiguous()
    assert torch.equal(crop(pictures), crop(pictures, 2))


def test_a_border_below_zero_adds_zeros():
    grown = crop(noise(2), -1)
    assert grown.shape == (2, 1, 30, 30)
    assert grown[:, :, [0, -1]].sum() == 0
    assert torch.equal(grown[:, 0, 1:-1, 1:-1], noise(2))


def test_crop_keeps_a_single_picture_and_other_shapes():
    assert crop(noise(1), 2).shape == (1, 1, 24, 24)
    assert crop(torch.zeros(2, 10, 7, dtype=torch.uint8), 3).shape == (2, 1, 4, 1)


@pytest.mark.parametrize(
    ("pictures", "border", "got"),
    [
        (torch.zeros(2, 28, 28), 2, "torch.float32 (2, 28, 28) 2"),
        (torch.zeros(28, 28, dtype=torch.uint8), 2, "torch.uint8 (28, 28) 2"),
        (torch.zeros(2, 1, 28, 28, dtype=torch.uint8), 2, "torch.uint8 (2, 1, 28, 28) 2"),
        (torch.zeros(2, 28, 28, dtype=torch.uint8), 14, "torch.uint8 (2, 28, 28) 14"),
        (torch.zeros(2, 28, 6, dtype=torch.uint8), 3, "torch.uint8 (2, 28, 6) 3"),
    ],
)
def test_crop_refuses_other_data(pictures, border, got):
    with pytest.raises(ValueError, match=f"^{re.escape(f'expected bytes (n, h, w), got {got}')}$"):
        crop(pictures, border)


# whitening


@pytest.mark.parametrize(("filters", "size"), [(12, 5), (3, 3), (9, 3)])
def test_outputs_are_uncorrelated_with_variance_1(filters, size):
    pictures = noise()[:, None]
    conv = whitening(pictures, filters, size)
    assert conv.weight.shape == (2 * filters, 1, size, size)
    assert not any(w.requires_grad for w in conv.parameters())
    z = conv.double()(pictures.double()).transpose(0, 1).flatten(1)
    torch.testing.assert_close(z[:filters].cov(correction=0), torch.eye(filters).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(z.mean(dim=1), torch.zeros(2 * filters).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(z[filters:], -z[:filters])


def test_filters_are_the_directions_that_vary_most_in_order():
    pictures = noise()
    patches = pictures.unfold(1, 5, 1).unfold(2, 5, 1).reshape(-1, 25).double()  # cut without F.unfold
    centered = patches - patches.mean(dim=0)
    _, scales, directions = torch.linalg.svd(centered, full_matrices=False)
    weight = whitening(pictures[:, None], 12).weight.double().flatten(1)[:12]
    expected = directions[:12] * (len(patches) ** 0.5 / scales[:12, None])
    signs = (weight * expected).sum(dim=1, keepdim=True).sign()
    torch.testing.assert_close(weight * signs, expected, atol=1e-5, rtol=1e-4)


def test_twelve_filters_of_5_by_5_are_the_default():
    assert whitening(noise()[:, None]).weight.shape == (24, 1, 5, 5)


@pytest.mark.parametrize("filters", [0, -1, 26])
def test_whitening_refuses_counts_that_do_not_exist(filters):
    with pytest.raises(ValueError, match=rf"^expected {filters} directions that vary$"):
        whitening(noise()[:, None], filters)


def test_whitening_refuses_pictures_that_vary_in_too_few_directions():
    level = torch.arange(100, dtype=torch.uint8)[:, None, None, None].expand(100, 1, 8, 8)  # one gray each
    assert whitening(level, 1).weight.shape == (2, 1, 5, 5)
    with pytest.raises(ValueError, match=r"^expected 2 directions that vary$"):
        whitening(level, 2)
    with pytest.raises(ValueError, match=r"^expected 1 directions that vary$"):
        whitening(torch.zeros_like(level), 1)


# network


@pytest.mark.parametrize("side", [24, 28, 20])
def test_the_network_fits_pictures_of_its_side(side):
    model = network(whitening(noise()[:, None]), side)
    assert model(torch.rand(3, 1, side, side)).shape == (3, 10)
    assert model[3].in_channels == 24
    assert model[3].bias is None
    assert model[3].weight.is_contiguous(memory_format=torch.channels_last)
    assert not model[3].weight.is_contiguous()
    assert model[5].momentum == 0.4
    kinds = [type(layer).__name__ for layer in model]
    assert kinds == ["Conv2d", "MaxPool2d", "ReLU", "Conv2d", "MaxPool2d", "BatchNorm2d", "ReLU", "Flatten",
                     "Linear", "ReLU", "Linear"]


def test_the_network_is_made_for_24_pixels_and_has_73930_weights_to_train():
    model = network(whitening(noise()[:, None]))
    assert model(torch.rand(2, 1, 24, 24)).shape == (2, 10)
    assert sum(w.numel() for w in model.parameters() if w.requires_grad) == 32 * 24 * 9 + 64 + 513 * 128 + 1290
    assert (model[3].out_channels, model[8].out_features) == (32, 128)


# batches


def test_batches_give_each_row_once_an_epoch_and_then_a_new_order():
    x, y = torch.arange(100, dtype=torch.uint8)[:, None], torch.arange(100)
    torch.manual_seed(0)
    found = list(batches(x, y, steps=7, size=32))
    assert [len(rows) for _, rows in found] == [32] * 7
    for pictures, rows in found:
        assert pictures.dtype == torch.float32
        assert torch.equal(pictures[:, 0], rows.float())
    first, second = (torch.cat([rows for _, rows in found[i : i + 3]]).tolist() for i in (0, 3))
    assert len(set(first)) == len(set(second)) == 96
    assert first != second
    torch.manual_seed(0)
    assert first == torch.randperm(100)[:96].tolist()


def test_a_batch_may_be_all_rows_and_128_is_the_default():
    x, y = torch.zeros(256, 1), torch.zeros(256)
    assert [len(rows) for _, rows in batches(x, y, 3)] == [128] * 3
    assert [len(rows) for _, rows in batches(x, y, 2, 256)] == [256] * 2
    assert list(batches(x, y, 0)) == []


@pytest.mark.parametrize(("n", "m", "size"), [(4, 3, 2), (3, 4, 2), (4, 4, 5), (4, 4, 0), (4, 4, -1)])
def test_batches_refuse_unequal_rows_and_sizes_that_do_not_fit(n, m, size):
    message = f"expected equal rows, 0 < size <= rows, got {n}, {m} and {size}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        next(batches(torch.zeros(n, 1), torch.zeros(m), 1, size))


# triangle


@pytest.mark.parametrize("top", [0.1, 0.3, 0.5, 0.9])
def test_the_triangle_is_the_line_through_three_points(top):
    import numpy as np

    for time in np.linspace(0, 1, 41):
        assert triangle(time, top) == pytest.approx(np.interp(time, [0, top, 1], [0, 1, 0]))
    mean = sum(triangle((i + 0.5) / 280, top) for i in range(280)) / 280
    assert mean == pytest.approx(0.5)


def test_the_peak_is_at_30_percent():
    assert triangle(0.3) == pytest.approx(1)
    assert triangle(0.15) == pytest.approx(0.5)
    assert triangle(0.65) == pytest.approx(0.5)


# train


def linear(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(9, 10))


def feed(steps: int = 6):
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(8, 1, 3, 3, generator=generator), torch.arange(8)) for _ in range(steps)]


def test_train_is_adam_with_a_scheduler_on_the_smoothed_loss():
    model, other = linear(), linear()
    assert train(model, feed(), 6) is model
    adam = torch.optim.Adam(other.parameters(), lr=0.015, betas=(0.7, 0.9), fused=False)
    schedule = LambdaLR(adam, lambda step: min((step + 0.5) / 1.8, (5.5 - step) / 4.2))
    for x, y in feed():
        adam.zero_grad()
        logs = other(x).log_softmax(dim=1)
        target = 0.9 * F.one_hot(y, 10) + 0.01
        (-(target * logs).sum() / 8).backward()
        adam.step()
        schedule.step()
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
        assert ours.grad is None


def test_peak_schedule_and_smoothing_are_options():
    model, other = linear(), linear()
    train(model, feed(), 6, peak=0.1, schedule=lambda time: 1 - time, smoothing=0.0, fused=False)
    adam = torch.optim.Adam(other.parameters(), betas=(0.7, 0.9))
    for step, (x, y) in enumerate(feed()):
        adam.param_groups[0]["lr"] = 0.1 * (5.5 - step) / 6
        adam.zero_grad()
        F.cross_entropy(other(x), y).backward()
        adam.step()
    torch.testing.assert_close(model[1].weight, other[1].weight)


@pytest.mark.parametrize("fused", [True, False])
def test_fused_reaches_the_optimizer(fused, monkeypatch):
    seen = []

    class Spy(torch.optim.Adam):
        def __init__(self, *args, **options):
            seen.append(options["fused"])
            super().__init__(*args, **options)

    monkeypatch.setattr(torch.optim, "Adam", Spy)
    train(linear(), feed(1), 1, fused=fused)
    train(linear(), feed(1), 1)
    assert seen == [fused, True]


@pytest.mark.parametrize(("options", "dtype"), [({}, torch.float32), ({"bfloat16": True}, torch.bfloat16)])
def test_bfloat16_is_used_where_it_is_asked_for(options, dtype):
    seen, model = [], linear()
    model[1].register_forward_hook(lambda layer, inputs, out: seen.append(out.dtype))
    train(model, feed(2), 2, **options)
    assert seen == [dtype] * 2
    assert model[1].weight.dtype == torch.float32


def test_frozen_weights_stay():
    model = linear()
    model[1].bias.requires_grad_(False)
    before = model[1].bias.clone()
    train(model, feed(), 6)
    assert torch.equal(model[1].bias, before)


# recipe, accuracy, variants


def test_the_recipe_whitens_by_100_pictures_and_trains_in_training_mode():
    x = crop(noise(600))
    torch.manual_seed(0)
    model = recipe(x, labels(600), steps=3)
    assert torch.equal(model[0].weight, whitening(x[:100]).weight)
    assert not torch.equal(model[0].weight, whitening(x[:99]).weight)
    assert model.training
    assert model[5].num_batches_tracked == 3


def test_the_recipe_takes_280_steps_and_passes_options_on(monkeypatch):
    seen = {}
    monkeypatch.setattr(mnist_99, "train", lambda model, feed, steps, **options: seen.update(
        options, steps=steps, batches=sum(1 for _ in feed)))
    recipe(crop(noise()), labels(), peak=0.03)
    assert seen == {"steps": 280, "batches": 280, "peak": 0.03}


def test_accuracy_counts_over_batches_in_eval_mode():
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.9))  # in training mode this would drop nearly all
    y = torch.arange(2500) % 10
    x = F.one_hot(y, 10).to(torch.uint8)[:, None]
    wrong = torch.cat([torch.zeros(2200), torch.ones(300)]).long()
    assert accuracy(model.train(), x, (y + wrong) % 10) == pytest.approx(0.88)
    assert accuracy(model.train(), x[:3], y[:3]) == 1
    assert not model.training


def test_it_learns():
    """Ten classes that differ by the place of a bright square: all right after a few steps."""
    pictures, y = noise(1000) // 8, labels(1000)
    for number in range(10):
        row, column = 2 + 9 * (number // 4), 2 + 6 * (number % 4)
        pictures[y == number, row : row + 5, column : column + 5] += 200
    torch.manual_seed(0)
    model = recipe(crop(pictures[:800]), y[:800], steps=30)
    assert accuracy(model, crop(pictures[800:]), y[800:]) > 0.95


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


def varied(steps=2, **options):
    torch.manual_seed(0)
    return variant(noise(), labels(), steps=steps, **options)


def test_a_variant_with_nothing_left_out_is_the_recipe():
    torch.manual_seed(0)
    plain = recipe(crop(noise()), labels(), steps=2)
    assert all(map(torch.equal, weights(plain), weights(varied())))


def test_variants_leave_out_what_they_say(monkeypatch):
    first = whitening(crop(noise()))
    assert varied(border=0)[8].in_features == 32 * 25
    trained = varied(frozen=False)
    assert trained[0].weight.requires_grad
    assert 0 < (trained[0].weight - first.weight).abs().max() < 0.1
    white = varied(white=False)
    assert [type(layer) for layer in white[:2]] == [nn.BatchNorm2d, nn.Conv2d]
    assert white[1].weight.requires_grad
    assert not white[0].affine
    torch.manual_seed(0)
    drawn = nn.Conv2d(1, 24, 5).weight
    assert torch.equal(varied(steps=0, white=False)[1].weight, drawn)
    assert type(varied(norm=False)[5]) is nn.Identity
    assert varied(layout=torch.contiguous_format)[3].weight.is_contiguous()
    assert not torch.equal(varied(smoothing=0.0)[10].weight, varied()[10].weight)


def test_the_loader_of_a_variant_gives_shuffled_batches_of_128(monkeypatch):
    seen = []

    def spy(model, feed, steps, **options):
        seen.extend(feed)

    monkeypatch.setattr(mnist_99, "train", spy)
    variant(noise(400), torch.arange(400), loader=True, steps=2)
    assert [len(y) for _, y in seen] == [128, 128]
    assert seen[0][0].dtype == torch.float32
    rows = torch.cat([y for _, y in seen])
    assert len(rows.unique()) == 256
    assert not torch.equal(rows, torch.arange(256))
    assert torch.equal(seen[1][0], crop(noise(400))[seen[1][1]].float())


def test_a_compiled_variant_trains_the_compiled_model_and_returns_the_plain_one(monkeypatch):
    calls = []

    def compiled(model):
        calls.append("compile")
        return nn.Sequential(model)

    monkeypatch.setattr(torch, "compile", compiled)
    monkeypatch.setattr(torch.compiler, "reset", lambda: calls.append("reset"))
    model = varied(compiled=True)
    assert calls == ["reset", "compile"]
    assert all(map(torch.equal, weights(model), weights(varied())))
    assert type(model[0]) is nn.Conv2d


def test_a_variant_takes_280_steps_and_compiles_nothing_unless_asked(monkeypatch):
    seen = []
    monkeypatch.setattr(torch, "compile", lambda model: seen.append("compile"))
    monkeypatch.setattr(mnist_99, "train", lambda model, feed, steps: seen.extend([steps, sum(1 for _ in feed)]))
    variant(noise(), labels())
    assert seen == [280, 280]


def test_left_out_names_options_that_train():
    assert next(iter(LEFT_OUT)) == "the whole recipe"
    assert LEFT_OUT["the whole recipe"] == {}
    assert LEFT_OUT["constant rate"]["schedule"](0.9) == 0.5
    changed = [tuple(options) for options in LEFT_OUT.values()]
    assert sorted(changed) == sorted({(), ("border",), ("frozen",), ("white",), ("norm",), ("schedule",), ("smoothing",),
                                      ("layout",), ("loader",), ("fused",), ("bfloat16",), ("compiled",)})


# floor


def test_floor_counts_what_the_layers_do():
    model = nn.Sequential(nn.Conv2d(1, 2, 3).requires_grad_(False), nn.Conv2d(2, 3, 2), nn.Flatten(), nn.Linear(12, 10))
    x, y = torch.rand(4, 1, 5, 5), torch.arange(4)
    operations, moved = floor(model, x, y)
    frozen, trained = 2 * 4 * 9 * 2 * 9, 2 * 4 * 4 * 3 * 2 * 4
    assert operations == frozen + 2 * trained + 3 * 2 * 4 * 12 * 10
    assert moved == x.nbytes + 4 * 4 * (2 * 18 + 4 * 12 + 4 * 12 + 4 * 10)


# the script


@pytest.mark.filterwarnings("ignore:.*found in sys.modules.*:RuntimeWarning")
def test_main_trains_three_seeds(tmp_path, monkeypatch, capsys):
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for archive in (ROOT / "data" / "MNIST" / "raw").glob("*.gz"):
        (raw / archive.name).symlink_to(archive)
    monkeypatch.chdir(tmp_path)
    main(steps=12)
    lines = capsys.readouterr().out.splitlines()
    found = [re.fullmatch(r"seed (\d): (\d+\.\d\d)% right after \d+\.\d s", line) for line in lines]
    assert [match[1] for match in found] == ["0", "1", "2"]
    assert all(float(match[2]) > 85 for match in found)
    assert len({match[2] for match in found}) > 1


def test_module_runs_as_a_script(monkeypatch, capsys):
    """With a data set of noise in place of MNIST, and few steps."""
    import torchvision

    class Small:
        def __init__(self, root, train, download):
            assert (root, download) == ("data", True)
            self.data, self.targets = noise(), labels()

    monkeypatch.setattr(torchvision.datasets, "MNIST", Small)
    threads = torch.get_num_threads()
    runpy.run_path(mnist_99.__file__, run_name="__main__")
    torch.set_num_threads(threads)
    assert capsys.readouterr().out.count("right after") == 3
