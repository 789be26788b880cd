"""Linear regression against closed forms, finite differences and torch.nn."""

import runpy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import l1_loss, mse_loss

from snippets.basics.linear_regression import (
    LinearRegression,
    checked_loss,
    evaluate,
    least_squares,
    main,
    split,
    train_step,
)

SEEDS = st.integers(0, 10_000)


def random_data(rows: int, inputs: int, outputs: int, seed: int = 0, dtype=torch.float64):
    """A noisy linear data set and nothing else."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, inputs, generator=generator, dtype=dtype)
    weight = torch.randn(outputs, inputs, generator=generator, dtype=dtype)
    return x, x @ weight.T + 2 + torch.randn(rows, outputs, generator=generator, dtype=dtype)


def sgd(model: nn.Module, lr: float = 0.1) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=lr)


class Recorder(nn.Module):
    """Predicts scale * x and notes the mode and grad mode of each call."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(3.0))
        self.calls = []

    def forward(self, x):
        self.calls.append((self.training, torch.is_grad_enabled(), torch.is_inference_mode_enabled()))
        return self.scale * x


# split


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(2, 60), seed=SEEDS, data=st.data())
def test_split_deals_every_row_once_and_keeps_pairs(rows, seed, data):
    n_train = data.draw(st.integers(1, rows - 1))
    torch.manual_seed(seed)
    x = torch.arange(rows).unsqueeze(1)
    (x_train, y_train), (x_test, y_test) = split(x, -7 * x, n_train)
    assert (len(x_train), len(x_test)) == (n_train, rows - n_train)
    assert torch.equal(torch.cat([x_train, x_test]).sort(dim=0).values, x)
    assert torch.equal(y_train, -7 * x_train)
    assert torch.equal(y_test, -7 * x_test)


def test_split_is_random_and_repeats_with_the_seed():
    x = torch.arange(100)
    torch.manual_seed(1)
    first, second = split(x, x, 80)[0][0], split(x, x, 80)[0][0]
    torch.manual_seed(1)
    again = split(x, x, 80)[0][0]
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert not torch.equal(first.sort().values, x[:80])


def test_split_puts_every_row_into_the_test_set_equally_often():
    torch.manual_seed(0)
    x = torch.arange(10)
    counts = sum(torch.bincount(split(x, x, 8)[1][0], minlength=10) for _ in range(1000))
    assert counts.sum() == 2000
    assert (counts - 200).abs().max() < 5 * (1000 * 0.2 * 0.8) ** 0.5


def test_split_refuses_unequal_lengths():
    with pytest.raises(ValueError, match=r"^expected 5 rows in y, got 4$"):
        split(torch.zeros(5, 1), torch.zeros(4, 1), 3)


@pytest.mark.parametrize("n_train", [-1, 0, 5, 6])
def test_split_refuses_an_empty_side(n_train):
    with pytest.raises(ValueError, match=rf"^expected 0 < n_train < 5, got {n_train}$"):
        split(torch.zeros(5, 1), torch.zeros(5, 1), n_train)


@pytest.mark.parametrize("n_train", [1, 4])
def test_split_accepts_one_row_on_a_side(n_train):
    train, test = split(torch.zeros(5, 1), torch.zeros(5, 1), n_train)
    assert (len(train[0]), len(test[0])) == (n_train, 5 - n_train)


# LinearRegression


def test_model_is_one_to_one_by_default():
    shapes = {name: tuple(p.shape) for name, p in LinearRegression().named_parameters()}
    assert shapes == {"linear.weight": (1, 1), "linear.bias": (1,)}


@settings(max_examples=20, deadline=None)
@given(inputs=st.integers(1, 5), outputs=st.integers(1, 5), leading=st.lists(st.integers(1, 4), max_size=3), seed=SEEDS)
def test_model_computes_x_times_weight_transposed_plus_bias(inputs, outputs, leading, seed):
    torch.manual_seed(seed)
    model = LinearRegression(inputs, outputs).double()
    x = torch.randn(*leading, inputs, dtype=torch.float64)
    weight, bias = model.parameters()
    by_hand = (x.unsqueeze(-2) * weight).sum(dim=-1) + bias
    assert weight.shape == (outputs, inputs)
    assert model(x).shape == (*leading, outputs)
    torch.testing.assert_close(model(x), by_hand)


def test_model_starts_within_one_over_root_inputs():
    torch.manual_seed(0)
    values = torch.cat([p.detach().flatten() for p in LinearRegression(100, 200).parameters()])
    assert 0.0999 < values.abs().max() <= 0.1
    assert abs(values.mean()) < 0.002


# checked_loss


@pytest.mark.parametrize(("loss_fn", "module"), [(mse_loss, nn.MSELoss()), (l1_loss, nn.L1Loss())])
def test_checked_loss_is_the_loss(loss_fn, module):
    x, y = random_data(20, 3, 3)
    assert torch.equal(checked_loss(loss_fn, x, y), module(x, y))
    assert checked_loss(loss_fn, x, y).shape == ()


def test_checked_loss_passes_prediction_first_and_target_second():
    seen = []
    prediction, target = torch.tensor([1.0]), torch.tensor([2.0])
    checked_loss(lambda a, b: seen.extend([a, b]) or (a - b).sum(), prediction, target)
    assert seen[0] is prediction
    assert seen[1] is target


def test_checked_loss_refuses_what_would_broadcast():
    with pytest.raises(ValueError, match=r"^expected target torch\.Size\(\[4, 1\]\), got torch\.Size\(\[4\]\)$"):
        checked_loss(mse_loss, torch.zeros(4, 1), torch.zeros(4))


def test_checked_loss_refuses_another_dtype():
    with pytest.raises(TypeError, match=r"^expected target torch\.float32, got torch\.float64$"):
        checked_loss(mse_loss, torch.zeros(4), torch.zeros(4, dtype=torch.float64))


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_checked_loss_refuses_a_loss_that_is_not_finite(value):
    with pytest.raises(ValueError, match=rf"^expected a finite loss, got {value}$"):
        checked_loss(mse_loss, torch.zeros(1), torch.tensor([float(value)]))


# train_step


@settings(max_examples=20, deadline=None)
@given(inputs=st.integers(1, 4), outputs=st.integers(1, 3), seed=SEEDS, lr=st.sampled_from([0.01, 0.1, 0.3]))
def test_train_step_follows_the_analytic_gradient(inputs, outputs, seed, lr):
    torch.manual_seed(seed)
    x, y = random_data(12, inputs, outputs, seed)
    model = LinearRegression(inputs, outputs).double()
    weight, bias = (p.detach().clone() for p in model.parameters())
    error = x @ weight.T + bias - y
    loss = train_step(model, sgd(model, lr), (x, y))
    new_weight, new_bias = model.parameters()
    assert loss == pytest.approx((error**2).mean().item())
    torch.testing.assert_close(new_weight.data, weight - lr * 2 * error.T @ x / error.numel())
    torch.testing.assert_close(new_bias.data, bias - lr * 2 * error.sum(dim=0) / error.numel())


@pytest.mark.parametrize("loss_fn", [mse_loss, l1_loss])
def test_train_step_follows_finite_differences(loss_fn):
    torch.manual_seed(0)
    x, y = random_data(15, 2, 2)
    model = LinearRegression(2, 2).double()
    start = nn.utils.parameters_to_vector(model.parameters()).detach().clone()

    def loss_at(vector):
        nn.utils.vector_to_parameters(vector, model.parameters())
        return evaluate(model, (x, y), loss_fn)

    h = 1e-6
    slopes = torch.tensor(
        [(loss_at(start + h * e) - loss_at(start - h * e)) / (2 * h) for e in torch.eye(len(start)).double()],
        dtype=torch.float64,
    )
    nn.utils.vector_to_parameters(start.clone(), model.parameters())
    train_step(model, sgd(model, 1.0), (x, y), loss_fn)
    moved = nn.utils.parameters_to_vector(model.parameters()).detach() - start
    torch.testing.assert_close(moved, -slopes, rtol=1e-6, atol=1e-7)


def test_train_step_returns_a_float_from_before_the_step():
    data = random_data(10, 1, 1, dtype=torch.float32)
    model = LinearRegression()
    before = evaluate(model, data)
    loss = train_step(model, sgd(model), data)
    assert type(loss) is float
    assert loss == pytest.approx(before)
    assert evaluate(model, data) < before


def test_train_step_forgets_older_gradients():
    x, y = random_data(10, 2, 1)
    model, fresh = LinearRegression(2).double(), LinearRegression(2).double()
    fresh.load_state_dict(model.state_dict())
    for p in model.parameters():
        p.grad = torch.full_like(p, 1e6)
    train_step(model, sgd(model), (x, y))
    train_step(fresh, sgd(fresh), (x, y))
    for p, q in zip(model.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(p, q)


def test_train_step_runs_in_training_mode_with_gradients():
    model = Recorder().eval()
    train_step(model, sgd(model), (torch.ones(2), torch.zeros(2)))
    assert model.calls == [(True, True, False)]


def test_a_refused_step_moves_nothing():
    model = LinearRegression()
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(ValueError, match=r"expected target torch\.Size"):
        train_step(model, sgd(model), (torch.ones(4, 1), torch.ones(4)))
    for p, old in zip(model.parameters(), before, strict=True):
        assert torch.equal(p, old)
        assert p.grad is None


def test_a_learning_rate_that_is_too_large_is_reported():
    data = random_data(10, 1, 1, dtype=torch.float32)
    model = LinearRegression()
    optimizer = sgd(model, 100.0)

    def train():
        for _ in range(100):
            train_step(model, optimizer, data)

    with pytest.raises(ValueError, match="expected a finite loss, got inf"):
        train()


# evaluate


@pytest.mark.parametrize("loss_fn", [mse_loss, l1_loss])
def test_evaluate_is_the_loss_and_changes_no_parameter(loss_fn):
    x, y = random_data(10, 2, 3)
    model = LinearRegression(2, 3).double()
    before = [p.detach().clone() for p in model.parameters()]
    result = evaluate(model, (x, y), loss_fn)
    assert type(result) is float
    assert result == loss_fn(model(x), y).item()
    assert all(torch.equal(p, old) and p.grad is None for p, old in zip(model.parameters(), before, strict=True))


def test_evaluate_measures_squared_error_by_default():
    assert evaluate(Recorder(), (torch.ones(2), torch.zeros(2))) == 9.0


def test_evaluate_runs_in_eval_and_inference_mode_and_restores_gradients():
    model = Recorder().train()
    evaluate(model, (torch.ones(2), torch.zeros(2)))
    assert model.calls == [(False, False, True)]
    assert not model.training
    assert torch.is_grad_enabled()


def test_evaluate_refuses_what_would_broadcast():
    with pytest.raises(ValueError, match=r"expected target torch\.Size"):
        evaluate(LinearRegression(), (torch.ones(4, 1), torch.ones(4)))


# least_squares


@settings(max_examples=30, deadline=None)
@given(inputs=st.integers(1, 4), outputs=st.integers(1, 3), seed=SEEDS)
def test_least_squares_solves_the_normal_equations(inputs, outputs, seed):
    x, y = random_data(20, inputs, outputs, seed)
    weight, bias = least_squares(x, y)
    a = torch.cat([x, torch.ones(20, 1, dtype=x.dtype)], dim=1)
    theta = torch.linalg.solve(a.T @ a, a.T @ y)
    assert weight.shape == (outputs, inputs)
    assert bias.shape == (outputs,)
    torch.testing.assert_close(weight, theta[:-1].T)
    torch.testing.assert_close(bias, theta[-1])


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, step=st.sampled_from([-0.1, 0.1]), slope=st.booleans())
def test_every_other_line_is_worse(seed, step, slope):
    x, y = random_data(20, 1, 1, seed)
    weight, bias = least_squares(x, y)
    best = mse_loss(x @ weight.T + bias, y)
    other = mse_loss(x @ (weight + step * slope).T + bias + step * (not slope), y)
    assert other > best


def test_least_squares_finds_the_line_that_made_the_data():
    x = torch.linspace(0, 1, 100).unsqueeze(1)
    weight, bias = least_squares(x, 0.7 * x + 0.3)
    assert (weight.item(), bias.item()) == (pytest.approx(0.7, abs=1e-5), pytest.approx(0.3, abs=1e-5))


def test_training_ends_at_least_squares():
    data = random_data(50, 2, 2, seed=3)
    model = LinearRegression(2, 2).double()
    optimizer = sgd(model, 0.3)
    for _ in range(300):
        train_step(model, optimizer, data)
    for p, best in zip(model.parameters(), least_squares(*data), strict=True):
        torch.testing.assert_close(p.data, best)


def test_two_points_are_enough_for_a_line():
    weight, bias = least_squares(torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [5.0]]))
    assert (weight.item(), bias.item()) == (pytest.approx(2.0), pytest.approx(1.0))


@pytest.mark.parametrize(
    ("x_shape", "y_shape"),
    [((5,), (5, 1)), ((5, 1), (5,)), ((5, 1), (4, 1)), ((5, 1, 1), (5, 1)), ((5, 1), (5, 1, 1))],
)
def test_least_squares_refuses_other_shapes(x_shape, y_shape):
    want = f"expected 2-D pairs, got {torch.Size(x_shape)} and {torch.Size(y_shape)}"
    with pytest.raises(ValueError, match=r"^expected 2-D pairs") as caught:
        least_squares(torch.rand(x_shape), torch.rand(y_shape))
    assert str(caught.value) == want


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("side", [0, 1])
def test_least_squares_refuses_values_that_are_not_finite(bad, side):
    data = random_data(5, 1, 1)
    data[side][2] = bad
    with pytest.raises(ValueError, match=r"^expected finite x and y, got nan or inf$"):
        least_squares(*data)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.full((5, 1), 2.0), "expected rank 2, got 1"),  # a multiple of the ones
        (torch.tensor([[1.0]]), "expected rank 2, got 1"),  # one point
        (torch.arange(5.0).unsqueeze(1).repeat(1, 2), "expected rank 3, got 2"),  # one column twice
    ],
)
def test_least_squares_refuses_dependent_columns(x, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        least_squares(x, torch.ones(len(x), 1))


# the script

PRINTED = "trained 0.7000 0.3000\nexact   0.7000 0.3000\ntest loss 0.0000\n"


def test_main_prints_both_lines(capsys):
    main()
    assert capsys.readouterr().out == PRINTED


@pytest.mark.filterwarnings("ignore:.*found in sys.modules.*:RuntimeWarning")
def test_module_runs_as_a_script(capsys):
    runpy.run_module("snippets.basics.linear_regression", run_name="__main__")
    assert capsys.readouterr().out == PRINTED
