"""Proofs for snippets/reference/cheatsheet.py: steps by hand, the library's functions and whole batches as oracles."""

import copy
import math
import re
import runpy
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snippets.reference import cheatsheet
from snippets.reference.cheatsheet import Net, evaluate, he, load, outputs, save, stripes, suspects, train

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def rows(n: int, seed: int = 1):
    """Vectors (n, 4) and classes (n,) of three."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 4, generator=generator), torch.randint(3, (n,), generator=generator)


def unequal(x, y):
    """The rows in batches of 5, 5, … and a short last one."""
    return list(zip(x.split(5), y.split(5), strict=True))


# stripes, Net, he


def test_stripes_are_noise_with_one_brighter_row():
    x, y = stripes(23)
    torch.manual_seed(0)
    noise = torch.randn(23, 1, 28, 28)
    assert y.tolist() == [k % 10 for k in range(23)]
    for picture, plain, label in zip(x, noise, y, strict=True):
        bright = picture - plain
        assert torch.allclose(bright[0, 2 * label], torch.full((28,), 3.0), atol=1e-6)
        assert bright.abs().sum().item() == pytest.approx(3 * 28, rel=1e-5)


@pytest.mark.parametrize(("classes", "width"), [(10, 8), (3, 2)])
def test_net_is_convolution_norm_relu_pool_linear(classes, width):
    net = Net(classes, width).eval()
    nn.init.normal_(net.norm.running_mean)
    nn.init.uniform_(net.norm.running_var, 0.5, 2)
    x = torch.randn(4, 1, 28, 28)
    y = F.unfold(x, 3, padding=1).transpose(1, 2) @ net.conv.weight.flatten(1).T  # (4, 784, width)
    y = (y - net.norm.running_mean) / (net.norm.running_var + 1e-5).sqrt()
    y = y.clamp(min=0).transpose(1, 2).reshape(4, width, 14, 2, 14, 2).amax((3, 5)).reshape(4, -1)
    expected = y @ net.head.weight.T + net.head.bias
    assert torch.allclose(net(x), expected, atol=1e-4)
    assert sum(p.numel() for p in net.parameters()) == 9 * width + 2 * width + (width * 196 + 1) * classes


def test_net_is_small_unless_asked():
    net = Net()
    assert net.conv.weight.shape == (8, 1, 3, 3)
    assert net.conv.bias is None
    assert net.head.weight.shape == (10, 1568)


@pytest.mark.parametrize("shape", [(4, 28, 28), (4, 3, 28, 28), (4, 1, 32, 32), (1, 28, 28), (28, 28)])
def test_net_names_the_shape_that_it_does_not_take(shape):
    with pytest.raises(ValueError, match=re.escape(f"expected (n, 1, 28, 28), got torch.Size({list(shape)})")):
        Net()(torch.zeros(shape))


def test_net_takes_no_rows():
    assert Net().eval()(torch.zeros(0, 1, 28, 28)).shape == (0, 10)


@pytest.mark.parametrize(("layer", "inputs"), [(nn.Linear(500, 400), 500), (nn.Conv2d(20, 300, 5), 20 * 25)])
def test_he_draws_normal_weights_of_variance_two_over_inputs(layer, inputs):
    nn.init.ones_(layer.bias)
    he(layer)
    weights = layer.weight.detach().double().flatten()
    assert weights.var().item() == pytest.approx(2 / inputs, rel=0.03)
    assert abs(weights.mean().item()) < 0.05 * math.sqrt(2 / inputs)
    kurtosis = ((weights - weights.mean()) / weights.std()).pow(4).mean().item()
    assert kurtosis == pytest.approx(3, abs=0.1)  # normal: 3, uniform: 1.8
    assert not layer.bias.any()


def test_he_leaves_other_layers_as_they_are_and_needs_no_bias():
    norm, conv = nn.BatchNorm2d(3), nn.Conv2d(3, 3, 3, bias=False)
    nn.init.constant_(norm.weight, 7)
    nn.init.constant_(norm.bias, 5)
    before = conv.weight.clone()
    nn.Sequential(norm, conv).apply(he)
    assert norm.weight.tolist() == [7, 7, 7]
    assert norm.bias.tolist() == [5, 5, 5]
    assert not torch.equal(before, conv.weight)


# train


@pytest.mark.parametrize(("clip", "length"), [({"clip": 0.05}, 0.05), ({"clip": 1e9}, 1e9), ({}, 1.0)])
def test_train_takes_the_steps_that_a_loop_by_hand_takes(clip, length):
    x, y = rows(12)
    x = 5 * x
    model = nn.Linear(4, 3)
    weight, bias, lr, total, clipped = model.weight.detach().clone(), model.bias.detach().clone(), 0.3, 0.0, 0
    for part, label in unequal(x, y):
        share = (part @ weight.T + bias).softmax(1)
        total += -share[torch.arange(len(label)), label].log().sum().item()
        error = (share - F.one_hot(label, 3)) / len(label)  # the gradient of the mean
        slopes = [error.T @ part, error.sum(0)]
        norm = math.sqrt(sum(s.square().sum().item() for s in slopes))
        clipped += norm > length
        scale = min(1.0, length / (norm + 1e-6))
        weight, bias = weight - lr * scale * slopes[0], bias - lr * scale * slopes[1]
    loss = train(model, unequal(x, y), torch.optim.SGD(model.parameters(), lr=lr), **clip)
    assert type(loss) is float
    assert loss == pytest.approx(total / 12, rel=1e-5)
    assert torch.allclose(model.weight, weight, atol=1e-5)
    assert torch.allclose(model.bias, bias, atol=1e-5)
    assert (clipped == 0) == (length == 1e9)


def test_train_steps_the_schedule_with_each_batch_after_the_optimizer():
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    used = []
    optimizer.register_step_pre_hook(lambda opt, args, kwargs: used.append(opt.param_groups[0]["lr"]))
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    train(model, unequal(*rows(12)), optimizer, schedule)
    assert used == [1.0, 0.5, 0.25]
    assert schedule.get_last_lr() == [0.125]


def test_train_sets_the_mode_and_keeps_no_gradient_of_earlier_batches():
    model = Net().eval()
    x, y = stripes(20)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    train(model, [(x, y), (x, y)], optimizer, clip=1e9)
    assert model.training
    twice = model.head.weight.grad.clone()
    again = copy.deepcopy(model)
    again.zero_grad()
    F.cross_entropy(again(x), y).backward()
    assert torch.allclose(twice, again.head.weight.grad, atol=1e-6)


def test_train_says_what_it_got_instead_of_a_loss():
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=re.escape("expected a loss, got 0.0 of 0 rows")):
        train(model, [], optimizer)
    x, y = rows(7)
    x[0, 0] = math.inf
    with pytest.raises(ValueError, match="expected a loss, got nan of 7 rows"):
        train(model, [(x, y)], optimizer)


# evaluate


@pytest.mark.parametrize("mode", [True, False])
def test_evaluate_is_what_the_whole_batch_gives_and_leaves_the_mode(mode):
    model = Net().train(mode)
    x, y = stripes(33)
    before = copy.deepcopy(model.state_dict())
    loss, accuracy = evaluate(model, unequal(x, y))
    assert model.training is mode
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))
    logits = copy.deepcopy(model).eval()(x).detach().double()
    expected = logits.logsumexp(1) - logits[torch.arange(33), y]
    assert loss == pytest.approx(expected.mean().item(), rel=1e-4)
    assert accuracy == pytest.approx((logits.max(1).indices == y).double().mean().item(), abs=1e-6)
    assert (type(loss), type(accuracy)) == (float, float)


def test_evaluate_counts_hits():
    model = nn.Linear(3, 3, bias=False)
    nn.init.eye_(model.weight)
    x = torch.eye(3)[[0, 1, 2, 0, 1, 2, 0]]
    loss, accuracy = evaluate(model, unequal(x, torch.tensor([0, 1, 2, 0, 0, 0, 1])))
    assert accuracy == pytest.approx(4 / 7)
    chance = math.log(math.e + 2)
    assert loss == pytest.approx((4 * (chance - 1) + 3 * chance) / 7, rel=1e-5)


def test_evaluate_builds_no_graph():
    seen = []

    class Watch(nn.Linear):
        def forward(self, x):
            seen.append((torch.is_inference_mode_enabled(), self.training))
            return super().forward(x)

    evaluate(Watch(4, 3), unequal(*rows(3)))
    assert seen == [(True, False)]


@pytest.mark.parametrize("mode", [True, False])
def test_evaluate_needs_a_batch(mode):
    model = nn.Linear(4, 3).train(mode)
    with pytest.raises(ValueError, match="expected a batch, got none"):
        evaluate(model, [])
    assert model.training is mode


# save and load


def trained():
    model = nn.Linear(4, 3)
    adam = torch.optim.AdamW(model.parameters(), lr=0.01)
    train(model, unequal(*rows(12)), adam)
    return model, adam


def test_a_checkpoint_goes_on_as_if_nothing_had_happened(tmp_path):
    model, adam = trained()
    save(tmp_path / "run.pt", model, adam, epoch=3, rng=torch.get_rng_state())
    assert [file.name for file in tmp_path.iterdir()] == ["run.pt"]
    other = nn.Linear(4, 3)
    its_adam = torch.optim.AdamW(other.parameters(), lr=1.0)
    rest = load(str(tmp_path / "run.pt"), other, its_adam)
    assert set(rest) == {"epoch", "rng"}
    assert rest["epoch"] == 3
    for m, a in ((model, adam), (other, its_adam)):
        train(m, unequal(*rows(12, seed=2)), a)
    assert torch.equal(model.weight, other.weight)
    assert torch.equal(model.bias, other.bias)


def test_a_broken_save_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    model, adam = trained()
    save(tmp_path / "run.pt", model, adam, epoch=1)

    def full(content, path):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(cheatsheet.torch, "save", full)
    with pytest.raises(OSError, match="disk full"):
        save(tmp_path / "run.pt", model, adam, epoch=2)
    assert load(tmp_path / "run.pt", *trained()) == {"epoch": 1}
    assert (tmp_path / "run.pt.part").read_bytes() == b"half"


@pytest.mark.parametrize("content", [{}, {"model": {}}, {"optimizer": {}}, torch.zeros(2), 3, ["model", "optimizer"]])
def test_a_file_of_something_else_is_named(tmp_path, content):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"expected \{'(model|optimizer)', '(model|optimizer)'\} in .*other\.pt"):
        load(tmp_path / "other.pt", *trained())


def test_load_maps_to_the_cpu_and_runs_no_code(tmp_path, monkeypatch):
    save(tmp_path / "run.pt", *trained())
    read, how = torch.load, {}

    def noted(path, **options):
        how.update(options)
        return read(path, **options)

    monkeypatch.setattr(cheatsheet.torch, "load", noted)
    load(tmp_path / "run.pt", *trained())
    assert how == {"map_location": "cpu", "weights_only": True}


# outputs


def test_outputs_are_those_of_the_named_layers():
    net, x = Net().eval(), torch.randn(2, 1, 28, 28)
    with outputs(net, "conv", "head") as kept:
        assert kept == {}
        y = net(x)
    assert set(kept) == {"conv", "head"}
    assert torch.equal(kept["conv"], net.conv(x))
    assert torch.equal(kept["head"], y)
    assert y.requires_grad
    assert not kept["head"].requires_grad
    kept.clear()
    net(x)
    assert kept == {}


def test_outputs_hold_what_came_last_and_go_when_the_block_fails():
    net = nn.Sequential(nn.Linear(4, 3))

    def fail():
        with outputs(net, "0", "") as kept:
            net(torch.zeros(1, 4))
            last = net(torch.ones(1, 4))
            assert torch.equal(kept["0"], last)
            assert torch.equal(kept[""], last)  # the model itself
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert not net[0]._forward_hooks
    assert not net._forward_hooks


def test_outputs_name_what_is_not_there():
    net = Net()
    expected = "expected names of ['', 'conv', 'norm', 'head'], got {'tail'}"
    with pytest.raises(ValueError, match=re.escape(expected)), outputs(net, "conv", "tail"):
        pass
    assert not net.conv._forward_hooks


# suspects


def test_nothing_is_suspect_in_a_fresh_net_and_no_gradient_stays():
    net = Net()
    net.head.weight.grad = torch.full_like(net.head.weight, math.nan)  # of an earlier step
    assert suspects(net, *stripes(32)) == []
    assert all(p.grad is None for p in net.parameters())


def test_a_loss_far_from_chance_is_suspect():
    net = Net().apply(he)
    with torch.no_grad():
        net.head.weight.mul_(100)
    x, y = stripes(32)
    loss = F.cross_entropy(net(x), y).item()
    assert suspects(net, x, y) == [f"loss {loss:.2f}, chance is 2.30"]


@pytest.mark.parametrize(("times", "suspect"), [(1.99, False), (2.01, True)])
def test_twice_chance_is_the_limit(times, suspect):
    """Logits (0, a) cost the class 0 log(1 + exp(a)); chance of two classes is log 2."""
    model = nn.Linear(1, 2)
    nn.init.zeros_(model.weight)
    with torch.no_grad():
        model.bias.copy_(torch.tensor([0.0, math.log(math.expm1(times * math.log(2)))]))
    found = suspects(model, torch.ones(4, 1), torch.zeros(4, dtype=torch.int64))
    assert found == ([f"loss {times * math.log(2):.2f}, chance is 0.69"] if suspect else [])


def test_frozen_unused_dead_and_infinite_parameters_are_named():
    class Ill(nn.Module):
        def __init__(self):
            super().__init__()
            self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
            self.spare = nn.Parameter(torch.ones(3))
            self.dead = nn.Parameter(torch.full((3,), -1.0))
            self.steep = nn.Parameter(torch.zeros(3))
            self.well = nn.Parameter(torch.zeros(3))

        def forward(self, x):
            return x * self.frozen + self.dead.relu() + self.steep.sqrt() + self.well

    x, y = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    expected = ["frozen: frozen", "spare: not used", "dead: gradient zero", "steep: gradient not finite"]
    assert suspects(Ill(), x, y) == expected


def test_a_loss_that_is_not_a_number_is_suspect():
    model = nn.Linear(4, 3)
    x, y = rows(6)
    x[2, 1] = math.nan
    found = suspects(model, x, y)
    assert found[0] == "loss nan, chance is 1.10"
    assert found[1:] == ["weight: gradient not finite", "bias: gradient not finite"]


def test_the_script_prints_losses_that_fall(capsys, monkeypatch):
    monkeypatch.delitem(sys.modules, "snippets.reference.cheatsheet")
    runpy.run_module("snippets.reference.cheatsheet", run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["0", "1", "2"]
    losses = [float(line.split()[2]) for line in lines]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.2
    assert lines[-1].endswith(", 1.0)")
