"""Gradient descent against finite differences, autograd, torch.optim, closed forms and least squares."""

import math
import re
import runpy
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import mse_loss

from snippets.basics.gradient_descent import (
    by_backward,
    by_hand,
    by_sgd,
    check,
    gradient,
    hessian,
    main,
    outcome,
    stability_bound,
)

SEEDS = st.integers(0, 10_000)
X, Y = np.arange(1.0, 6.0), np.array([6.0, 11.0, 16.0, 21.0, 26.0])
A = np.vander(X, 2)
ANSWER = np.array([5.0, 1.0])
THREE_WAYS = ["by_hand", "by_backward", "by_sgd"]


def random_problem(rows: int, columns: int, seed: int):
    """A full-rank A, targets that no theta meets, a start."""
    random = np.random.default_rng(seed)
    return random.normal(size=(rows, columns)), random.normal(size=rows), random.normal(size=columns)


def mse(a, y, theta):
    return float(((a @ theta - y) ** 2).mean())


def torch_loss(a, y):
    a, y = torch.from_numpy(a), torch.from_numpy(y)
    return lambda theta: mse_loss(a @ theta, y)


def walk(way: str, a, y, start, lr, steps):
    """The path of one of the three ways, in float64."""
    if way == "by_hand":
        return by_hand(lambda theta: gradient(a, y, theta), start, lr, steps)
    function = {"by_backward": by_backward, "by_sgd": by_sgd}[way]
    return function(torch_loss(a, y), torch.from_numpy(start), lr, steps).numpy()


# gradient


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 12), columns=st.integers(1, 5), seed=SEEDS)
def test_gradient_is_what_finite_differences_and_autograd_say(rows, columns, seed):
    a, y, theta = random_problem(rows, columns, seed)
    h = 1e-5
    finite = [(mse(a, y, theta + h * e) - mse(a, y, theta - h * e)) / (2 * h) for e in np.eye(columns)]
    leaf = torch.from_numpy(theta).requires_grad_()
    torch_loss(a, y)(leaf).backward()
    got = gradient(a, y, theta)
    assert got.shape == (columns,)
    np.testing.assert_allclose(got, finite, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(got, leaf.grad.numpy(), rtol=1e-10, atol=1e-12)


def test_gradient_of_a_line_is_error_times_input_and_error():
    error = -Y
    assert gradient(A, Y, np.zeros(2)).tolist() == [2 * (error * X).mean(), 2 * error.mean()] == [-116.0, -32.0]


def test_gradient_at_minus_ten():
    x = np.arange(-3.0, 4.0)
    assert gradient(x[:, None], 2 * x, np.array([-10.0])).tolist() == [-96.0]


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(6, 20), columns=st.integers(1, 4), seed=SEEDS)
def test_gradient_is_zero_at_least_squares(rows, columns, seed):
    a, y, _ = random_problem(rows, columns, seed)
    best = np.linalg.lstsq(a, y)[0]
    np.testing.assert_allclose(gradient(a, y, best), 0, atol=1e-12)
    assert np.abs(gradient(a, y, best + 1)).max() > 1e-3


@pytest.mark.parametrize("shapes", [
    ((5,), (5,), (2,)), ((5, 2, 1), (5,), (2,)), ((5, 2), (5, 1), (2,)), ((5, 2), (4,), (2,)),
    ((5, 2), (5,), (3,)), ((5, 2), (5,), (2, 1)), ((5, 2), (5, 2), ()), ((5, 2), (), (5, 2)), ((5, 1), (1,), (5,)),
])  # fmt: skip
def test_gradient_refuses_other_shapes(shapes):
    want = "expected shapes (n, p), (n,), (p,), got " + ", ".join(map(str, shapes))
    with pytest.raises(ValueError, match=f"^{re.escape(want)}$"):
        gradient(*(np.ones(shape) for shape in shapes))


# check


@pytest.mark.parametrize("start", [np.zeros(1), np.zeros(0), torch.zeros(3)])
@pytest.mark.parametrize("lr", [5e-324, 0.5, 1, 2.0, 1.7e308])
def test_check_accepts_a_vector_and_a_positive_rate(start, lr):
    assert check(start, lr) is None


@pytest.mark.parametrize("start", [np.zeros(()), np.zeros((2, 1)), torch.tensor(1.0), torch.zeros(1, 2)])
def test_check_refuses_what_is_no_vector(start):
    with pytest.raises(ValueError, match=f"^expected a 1-D start, got {start.ndim}-D$"):
        check(start, 0.1)


@pytest.mark.parametrize("lr", [0, -0.0, -0.1, math.inf, -math.inf, math.nan])
def test_check_refuses_a_rate_that_is_no_positive_number(lr):
    with pytest.raises(ValueError, match=f"^expected a finite rate > 0, got {lr}$"):
        check(np.zeros(2), lr)


@pytest.mark.parametrize("way", THREE_WAYS)
def test_every_way_checks_its_start_and_rate(way):
    with pytest.raises(ValueError, match=r"^expected a 1-D start, got 2-D$"):
        walk(way, A, Y, np.zeros((2, 1)), 0.1, 1)
    with pytest.raises(ValueError, match=r"^expected a finite rate > 0, got 0\.0$"):
        walk(way, A, Y, np.zeros(2), 0.0, 1)


# three ways


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(1, 10), columns=st.integers(1, 4), seed=SEEDS, steps=st.integers(0, 15))
def test_three_ways_are_one_path_and_its_closed_form(rows, columns, seed, steps):
    a, y, start = random_problem(rows, columns, seed)
    lr = 0.9 * stability_bound(a)
    hand, auto, sgd = (walk(way, a, y, start, lr, steps) for way in THREE_WAYS)
    assert hand.shape == auto.shape == sgd.shape == (steps + 1, columns)
    np.testing.assert_allclose(auto, hand, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(sgd, hand, rtol=1e-8, atol=1e-9)
    best = np.linalg.lstsq(a, y)[0]  # any stationary point will do
    factor = np.eye(columns) - lr * 2 / rows * a.T @ a
    closed = [best + np.linalg.matrix_power(factor, t) @ (start - best) for t in range(steps + 1)]
    np.testing.assert_allclose(hand, closed, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("way", THREE_WAYS)
def test_every_way_ends_at_least_squares(way):
    random = np.random.default_rng(0)
    y = Y + random.normal(size=5)
    path = walk(way, A, y, np.zeros(2), 0.08, 1500)
    np.testing.assert_allclose(path[-1], np.linalg.lstsq(A, y)[0], atol=1e-9)


@pytest.mark.parametrize("way", THREE_WAYS)
def test_a_slope_alone_follows_one_minus_rate_times_curvature(way):
    x = np.arange(-3.0, 4.0)
    for lr in 0.005, 0.05, 0.2, 0.26:
        path = walk(way, x[:, None], 2 * x, np.array([-10.0]), lr, 12)[:, 0]
        np.testing.assert_allclose(path, 2 - 12 * (1 - 8 * lr) ** np.arange(13), rtol=1e-10)


@pytest.mark.parametrize("way", THREE_WAYS)
def test_at_the_bound_it_swings_and_at_half_the_bound_it_lands(way):
    x = np.arange(-3.0, 4.0)
    path = walk(way, x[:, None], 2 * x, np.array([-10.0]), 0.25, 100)[:, 0]
    np.testing.assert_allclose(path, np.where(np.arange(101) % 2, 14, -10), rtol=1e-9)
    path = walk(way, x[:, None], 2 * x, np.array([-10.0]), 0.125, 1)[:, 0]
    np.testing.assert_allclose(path, [-10, 2], rtol=1e-12)


@pytest.mark.parametrize("way", THREE_WAYS)
def test_the_path_begins_at_the_start_and_leaves_it_alone(way):
    start = np.array([1.0, 2.0])
    path = walk(way, A, Y, start, 0.01, 3)
    assert path[0].tolist() == start.tolist() == [1.0, 2.0]
    assert path[1].tolist() != [1.0, 2.0]


@pytest.mark.parametrize("way", [by_backward, by_sgd])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torch_paths_are_plain_tensors_of_the_start_s_dtype(way, dtype):
    start = torch.zeros(2, dtype=dtype, requires_grad=True)
    path = way(lambda t: (t**2).sum(), start, 0.1, 4)
    assert (path.dtype, path.requires_grad, path.device) == (dtype, False, start.device)
    assert start.grad is None
    assert start.requires_grad
    assert start.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("way", [by_backward, by_sgd])
def test_every_step_clears_the_gradient(way):
    seen = []

    def loss(theta):
        seen.append(None if theta.grad is None else theta.grad.tolist())
        return (theta**2).sum()

    way(loss, torch.ones(1), 0.1, 3)
    assert seen == [None] * 3


def test_by_hand_follows_any_slope():
    path = by_hand(lambda w: 3 * w**2, np.array([1.0]), 0.1, 2)
    np.testing.assert_allclose(path[:, 0], [1, 0.7, 0.553], rtol=1e-12)


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, momentum=st.sampled_from([0.0, 0.5, 0.9]))
def test_momentum_is_a_velocity_that_fades(seed, momentum):
    a, y, start = random_problem(6, 2, seed)
    lr = 0.5 * stability_bound(a)
    path = by_sgd(torch_loss(a, y), torch.from_numpy(start), lr, 10, momentum=momentum).numpy()
    theta, velocity = start, 0
    for point in path:
        np.testing.assert_allclose(point, theta, rtol=1e-8, atol=1e-9)
        velocity = momentum * velocity + gradient(a, y, theta)
        theta = theta - lr * velocity


def test_sgd_has_no_momentum_unless_asked():
    plain, none, some = (
        by_sgd(torch_loss(A, Y), torch.zeros(2, dtype=torch.float64), 0.01, 5, **options)
        for options in ({}, {"momentum": 0.0}, {"momentum": 0.9})
    )
    assert torch.equal(plain, none)
    assert not torch.allclose(plain, some)


def test_a_gradient_that_is_not_cleared_is_momentum_one():
    loss = torch_loss(A, Y)
    theta = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    path = by_sgd(loss, theta, 0.01, 30, momentum=1.0)
    for point in path:
        torch.testing.assert_close(theta.detach(), point)
        loss(theta).backward()
        with torch.no_grad():
            theta -= 0.01 * theta.grad


@pytest.mark.parametrize("side", [-1, 1])
def test_the_bound_with_momentum(side):
    lr = (1 + 0.01 * side) * 1.9 * stability_bound(A)
    path = by_sgd(torch_loss(A, Y), torch.zeros(2, dtype=torch.float64), lr, 1000, momentum=0.9).numpy()
    assert outcome(path, ANSWER) == ("there at step 256" if side < 0 else "diverges")


# hessian and stability_bound


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(1, 10), columns=st.integers(1, 4), seed=SEEDS)
def test_hessian_holds_the_second_derivatives(rows, columns, seed):
    a, y, theta = random_problem(rows, columns, seed)
    exact = torch.autograd.functional.hessian(torch_loss(a, y), torch.from_numpy(theta)).numpy()
    np.testing.assert_allclose(hessian(a), exact, rtol=1e-10, atol=1e-12)


def test_hessian_and_bound_of_the_five_points():
    np.testing.assert_allclose(hessian(A), [[22, 6], [6, 2]], rtol=1e-14)
    assert stability_bound(A) == pytest.approx(2 / (12 + 136**0.5), rel=1e-12)
    assert type(stability_bound(A)) is float


def test_the_bound_of_a_slope_alone():
    assert stability_bound(np.arange(-3.0, 4.0)[:, None]) == pytest.approx(0.25)


def test_the_bound_does_not_depend_on_how_often_the_points_are_taken():
    assert stability_bound(np.tile(A, (4, 1))) == pytest.approx(stability_bound(A))


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(4, 10), columns=st.integers(1, 3), seed=SEEDS)
def test_below_the_bound_it_comes_closer_and_above_it_leaves(rows, columns, seed):
    a, y, _ = random_problem(rows, columns, seed)
    best = np.linalg.lstsq(a, y)[0]
    steep = np.linalg.eigh(hessian(a))[1][:, -1]
    for lr, grows in ((0.99 * stability_bound(a), False), (1.01 * stability_bound(a), True)):
        path = walk("by_hand", a, y, best + steep, lr, 200)
        assert bool(np.linalg.norm(path[-1] - best) > 1) is grows


def test_a_sum_has_a_bound_smaller_by_the_number_of_points():
    bound = stability_bound(A) / len(A)
    for share, want in ((0.99, True), (1.01, False)):
        path = by_hand(lambda theta: len(A) * gradient(A, Y, theta), np.zeros(2), share * bound, 1500)
        assert bool(np.abs(path[-1] - ANSWER).max() < 0.1) is want


@pytest.mark.parametrize("a", [np.ones(3), np.ones((2, 2, 2)), np.array([[1.0, np.nan]]), np.array([[np.inf], [1.0]])])
@pytest.mark.parametrize("function", [hessian, stability_bound])
def test_no_bound_for_what_is_no_finite_matrix(function, a):
    with pytest.raises(ValueError, match=f"^{re.escape(f'expected a finite matrix, got {a}')}$"):
        function(a)


# outcome


def line(*distances):
    return np.array(distances, dtype=float)[:, None]


@pytest.mark.parametrize(("distances", "want"), [
    ((0, 0, 0), "there at step 0"),
    ((0,), "there at step 0"),
    ((1, 0), "there at step 1"),
    ((4, 2, 1, 0), "there at step 3"),
    ((4, 0, 1, 0), "there at step 3"),
    ((4, -1, 0, 0), "there at step 2"),
    ((1, 4.9e-5), "there at step 1"),
    ((1, -4.9e-5), "there at step 1"),
    ((4, 3, 2, 1), "on its way"),
    ((1, 1, 1.0), "no closer"),
    ((1, -1, 1, -1, 1), "no closer"),
    ((1, 1, 1 - 0.9e-6), "no closer"),
    ((1, 1, 1 - 1.1e-6), "on its way"),
    ((1, 1, 1 + 0.9e-6), "no closer"),
    ((1, 1, 1 + 1.1e-6), "diverges"),
    ((1, 2, 4), "diverges"),
    ((4, 1, 2), "diverges"),
    ((1, 9, 8, 7), "on its way"),
    ((9, 1, 8, 7), "on its way"),
    ((1, 9, 2, 7), "diverges"),
    ((1, 2, math.nan), "diverges"),
    ((1, math.nan, math.nan), "diverges"),
    ((1, 2, math.inf), "diverges"),
])  # fmt: skip
def test_outcome(distances, want):
    assert outcome(3 + line(*distances), np.array([3.0])) == want


def test_outcome_judges_the_parameter_that_is_farthest():
    path = np.array([[1.0, 1.0], [0.0, 1.0], [0.0, 0.5]])
    assert outcome(path, np.zeros(2)) == "on its way"
    assert outcome(np.vstack([path, np.zeros((1, 2))]), np.zeros(2)) == "there at step 3"


def test_outcome_takes_another_tolerance():
    assert outcome(line(4, 2, 1), np.zeros(1), tolerance=1.5) == "there at step 2"
    assert outcome(line(4, 2, 1), np.zeros(1), tolerance=1.0) == "on its way"
    assert outcome(line(4, 1, 0.5), np.zeros(1), tolerance=1.0) == "there at step 2"


def test_four_decimals_are_the_tolerance_by_default():
    assert outcome(line(2, 1, 5e-5), np.zeros(1)) == "on its way"
    assert outcome(line(2, 5e-5, 4.999e-5), np.zeros(1)) == "there at step 2"


@pytest.mark.parametrize(("path", "minimum"), [((3,), ()), ((3,), (3,)), ((3, 2), (1,)), ((3, 2), ()), ((3, 2), (2, 1)), ((2, 3, 4), (3, 4))])
def test_outcome_refuses_other_shapes(path, minimum):
    want = f"expected (steps + 1, p) and (p,), got {path} and {minimum}"
    with pytest.raises(ValueError, match=f"^{re.escape(want)}$"):
        outcome(np.zeros(path), np.zeros(minimum))


def test_the_number_of_steps_follows_from_the_small_curvature():
    values, vectors = np.linalg.eigh(hessian(A))
    flat = vectors[:, 0] @ (np.zeros(2) - ANSWER) * vectors[:, 0]
    for lr in 0.005, 0.01, 0.04:
        predicted = math.ceil(math.log(5e-5 / np.abs(flat).max()) / math.log(1 - lr * values[0]))
        path = walk("by_hand", A, Y, np.zeros(2), lr, 6000)
        assert outcome(path, ANSWER) == f"there at step {predicted}"


# points where the gradient is zero


def test_a_path_ends_at_a_saddle_only_from_its_ridge():
    def saddle(theta):
        return theta[0] ** 2 - theta[1] ** 2

    ridge = by_backward(saddle, torch.tensor([1.0, 0.0], dtype=torch.float64), 0.1, 80)
    beside = by_backward(saddle, torch.tensor([1.0, 1e-6], dtype=torch.float64), 0.1, 80)
    assert ridge[-1].tolist() == [pytest.approx(0.8**80), 0.0]
    assert beside[-1].tolist() == [pytest.approx(0.8**80), pytest.approx(1e-6 * 1.2**80)]


# the script

PRINTED = """\
NumPy    5.0000 1.0000 there at step 2621
backward 5.0000 1.0000 there at step 2621
SGD      5.0000 1.0000 there at step 2621
bound    0.0845
lr 0.0010 on its way
lr 0.0100 there at step 2621
lr 0.0800 there at step 324
lr 0.0845 no closer
lr 0.0900 diverges
"""


def test_main_prints_the_answers_and_the_outcomes(capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        main()
    assert capsys.readouterr().out == PRINTED


@pytest.mark.filterwarnings("ignore:.*found in sys.modules.*:RuntimeWarning")
def test_module_runs_as_a_script(capsys):
    runpy.run_module("snippets.basics.gradient_descent", run_name="__main__")
    assert capsys.readouterr().out == PRINTED
