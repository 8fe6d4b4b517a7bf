"""Relaxations of tokens: their laws, their flows and their ends, by closed forms and quantiles."""

import math

import pytest
import torch

from isocline.processes.decided_schedule import DecidedShareSchedule, gaussian_undecided_share
from isocline.processes.dirichlet_path import DirichletPath, corner_speed
from isocline.processes.enumerated import EnumeratedLaw
from isocline.processes.enumerated_path import EnumeratedPathDenoiser
from isocline.processes.fisher_path import FisherPath
from isocline.processes.onehot_path import LogitPath, OneHotGaussianPath
from isocline.processes.schedule import LinearSchedule, VPCosineSchedule
from isocline.processes.simplex_path import LinearSimplexPath
from isocline.processes.token_path import share_in_play

PATHS = [LinearSimplexPath, DirichletPath, FisherPath, OneHotGaussianPath, LogitPath]
paths = pytest.mark.parametrize("kind", PATHS, ids=lambda kind: kind.__name__)
TIMES = torch.tensor([0.01, 0.2, 0.5, 0.9, 1.0], dtype=torch.float64)


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


@paths
@pytest.mark.parametrize("vocab_size", [4, 1024])
def test_time_is_the_inverse_of_position(kind, vocab_size):
    path = kind(vocab_size)
    torch.testing.assert_close(path.time(path.position(TIMES)), TIMES, rtol=1e-10, atol=1e-12)
    steps = path.position(TIMES).diff()
    assert bool((steps > 0).all() or (steps < 0).all())


@paths
def test_the_prior_is_the_state_at_the_end_whatever_the_token(kind):
    path = kind(6)
    tokens = torch.tensor([[0, 4]]).expand(4000, 2)
    x = path.sample(tokens, torch.ones(4000, dtype=torch.float64), stream(), torch.float64)
    prior = path.prior((4000, 2), stream(1), dtype=torch.float64)
    error = (x.std(0) ** 2 / 4000 + prior.std(0) ** 2 / 4000).sqrt()
    assert bool(((x.mean(0) - prior.mean(0)).abs() < 4.5 * error).all())


@paths
def test_near_the_data_the_view_is_the_token(kind):
    path = kind(50)
    tokens = torch.arange(49).repeat(20, 1)
    view = path.evidence(torch.full((20,), 1e-3, dtype=torch.float64), path.sample(
        tokens, torch.full((20,), 1e-3, dtype=torch.float64), stream(), torch.float64)).softmax(-1)  # fmt: skip
    assert view.gather(-1, tokens.unsqueeze(-1)).mean() > 0.97


@paths
@pytest.mark.parametrize("time", [0.1, 0.5, 0.9])
def test_the_posterior_that_the_evidence_gives_is_calibrated(kind, time):
    # Bayes' rule by Monte Carlo: of symbols that are given probability p, a share p is the token.
    path = kind(4)
    tokens = torch.randint(0, 3, (40_000, 1), generator=stream(3))
    t = torch.full((40_000,), time, dtype=torch.float64)
    probs = path.evidence(t, path.sample(tokens, t, stream(), torch.float64)).softmax(-1)[:, 0]
    right = torch.nn.functional.one_hot(tokens[:, 0], 3).double()
    score = ((right - probs) * probs).sum(-1)
    assert score.mean().abs() < 4 * score.std() / 40_000**0.5 + 1e-12
    for low in (0.0, 0.2, 0.4, 0.6, 0.8):
        cell = (probs >= low) & (probs <= low + 0.2)
        if cell.sum() > 200:
            error = (right[cell] - probs[cell]).std() / cell.sum() ** 0.5 + 1e-12
            assert (right[cell] - probs[cell]).mean().abs() < 4.5 * error


@paths
def test_conditional_velocities_carry_the_conditional_law(kind):
    # Euler steps of the conditional flow turn states at one time into states at another: same mean and variance.
    path = kind(5)
    start, end, count = 0.8, 0.4, 4000
    tokens = torch.full((count, 1), 2)
    time = lambda value: torch.full((count,), value, dtype=torch.float64)  # noqa: E731
    x = path.sample(tokens, time(start), stream(), torch.float64)
    wanted = path.sample(tokens, time(end), stream(1), torch.float64)
    probs = path.corner(tokens, torch.float64).sign()
    grid = torch.linspace(*path.position(torch.tensor([start, end], dtype=torch.float64)).tolist(), 31)
    for here, there in zip(grid[:-1].double(), grid[1:].double(), strict=True):
        middle = x + 0.5 * (there - here) * path.velocity(here, x, probs)
        x = x + (there - here) * path.velocity(0.5 * (here + there), middle, probs)
    for moment in (1, 2):
        found, expected = x**moment, wanted**moment
        error = (found.std(0) ** 2 / count + expected.std(0) ** 2 / count).sqrt()
        assert bool(((found.mean(0) - expected.mean(0)).abs() < 4.5 * error).all())


@paths
def test_the_velocity_of_a_mixture_is_the_mean_of_the_conditional_ones(kind):
    path = kind(4)
    x = path.sample(torch.tensor([[1]]), torch.tensor([0.6], dtype=torch.float64), stream(), torch.float64)
    position = path.position(torch.tensor(0.6, dtype=torch.float64))
    law = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    each = torch.stack([path.velocity(position, x, row.view(1, 1, 3)) for row in torch.eye(3, dtype=torch.float64)])
    torch.testing.assert_close(path.velocity(position, x, law.view(1, 1, 3)), (law.view(3, 1, 1, 1) * each).sum(0))


@paths
def test_the_exact_denoiser_of_independent_positions_learns_nothing_from_the_others(kind):
    path = kind(4)
    table = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    network = EnumeratedPathDenoiser(EnumeratedLaw(table[:, None] * table), path)
    t = torch.tensor([0.5], dtype=torch.float64)
    x = path.sample(torch.tensor([[0, 2]]), t, stream(), torch.float64)
    found = path.log_probs(network, t, x)
    torch.testing.assert_close(found, (path.evidence(t, x) + table.log()).log_softmax(-1))


def test_velocities_at_times_of_their_own_are_those_one_by_one():
    for kind in PATHS:
        path = kind(5)
        t = torch.tensor([0.3, 0.8], dtype=torch.float64)
        x = path.sample(torch.tensor([[1, 0], [2, 3]]), t, stream(), torch.float64)
        probs = torch.full_like(x, 0.25)
        rows = [path.velocity(path.position(t[i]), x[i : i + 1], probs[i : i + 1]) for i in range(2)]
        torch.testing.assert_close(path.velocity(path.position(t), x, probs), torch.cat(rows))


def test_the_share_in_play_makes_the_chance_of_a_guess_linear():
    q = share_in_play(TIMES, 7)
    torch.testing.assert_close(1 / (1 + 6 * q), 1 - TIMES * (1 - 1 / 7))


def test_too_small_a_vocabulary_is_refused():
    with pytest.raises(ValueError, match="vocab_size = 2"):
        LinearSimplexPath(2)


# The Gaussian paths.


@pytest.mark.parametrize(
    ("kind", "symbols", "allowed"),
    [
        *((kind, symbols, 0.0) for kind in (OneHotGaussianPath, DirichletPath) for symbols in (2, 8, 1023)),
        (FisherPath, 1023, 0.01),  # to leading order in 1/S
        (LinearSimplexPath, 1023, 0.12),  # by the mean number of candidates
    ],
)
def test_the_share_of_decided_tokens_is_linear_in_time(kind, symbols, allowed):
    path = kind(symbols + 1)
    tokens = torch.zeros((3000, 1), dtype=torch.int64)
    for time in (0.25, 0.75):
        x = path.sample(tokens, torch.full((3000,), time, dtype=torch.float64), stream())
        right = (x.argmax(-1) == 0).double().mean()
        expected = 1 - time * (1 - 1 / symbols)
        assert abs(right - expected) < 4 * (expected * (1 - expected) / 3000) ** 0.5 + allowed


def test_two_symbols_are_decided_as_one_normal_variable_decides():
    ratio = torch.tensor([0.0, 0.5, 2.0, 6.0], dtype=torch.float64)
    share, slope = gaussian_undecided_share(ratio, 2)
    torch.testing.assert_close(share, torch.erfc(ratio / 2), rtol=1e-11, atol=0)
    torch.testing.assert_close(slope, -torch.exp(-(ratio**2) / 4) / math.sqrt(math.pi), rtol=1e-11, atol=0)


@pytest.mark.parametrize("scale", [1.0, 10.0])
@pytest.mark.parametrize("symbols", [3, 1023])
def test_derivatives_of_the_schedule_are_those_of_its_values(symbols, scale):
    schedule = DecidedShareSchedule(symbols, scale)
    t = torch.tensor([0.01, 0.3, 0.9], dtype=torch.float64)
    found = (schedule(t + 1e-6).alpha - schedule(t - 1e-6).alpha) / 2e-6
    torch.testing.assert_close(found, schedule(t).dalpha, rtol=1e-5, atol=0)
    torch.testing.assert_close(schedule(t).dsigma, -schedule(t).dalpha)


@pytest.mark.parametrize("symbols", [2, 3, 9, 100, 1023])
def test_the_schedule_ends_at_data_and_at_noise(symbols):
    start, end = DecidedShareSchedule(symbols)(0.0), DecidedShareSchedule(symbols)(1.0)
    assert (start.alpha, start.sigma, end.alpha, end.sigma) == (1, 0, 0, 1)
    assert DecidedShareSchedule(9).inverse_log_ratio(math.inf) == 0
    assert DecidedShareSchedule(9).inverse_log_ratio(-math.inf) == 1


def test_a_schedule_that_bends_the_path_is_refused():
    with pytest.raises(ValueError, match="VPCosineSchedule"):
        OneHotGaussianPath(4, schedule=VPCosineSchedule())
    assert OneHotGaussianPath(4, schedule=LinearSchedule()).position(torch.tensor(0.3)) == pytest.approx(0.3)


def test_one_hot_vectors_of_another_length_are_the_same_process_in_other_units():
    # s c e + (1 − c) ε: when a token is decided depends on the share alone.
    small, large = OneHotGaussianPath(6), OneHotGaussianPath(6, scale=10.0)
    t = torch.tensor([0.4], dtype=torch.float64)
    x, y = (path.sample(torch.tensor([[2]]), t, stream(), torch.float64) for path in (small, large))
    torch.testing.assert_close(small.view(t, x), large.view(t, y))


def test_the_logit_path_shows_the_softmax_of_its_logits():
    path = LogitPath(6, logit=7.0)
    t = torch.tensor([0.4], dtype=torch.float64)
    x = path.sample(torch.tensor([[2]]), t, stream(), torch.float64)
    torch.testing.assert_close(path.view(t, x), (7.0 * x).softmax(-1))
    found = path.evidence_in(t, path.view(t, x))
    torch.testing.assert_close(found.softmax(-1), OneHotGaussianPath(6).view(t, x))
    with pytest.raises(ValueError, match="logit = 0"):
        LogitPath(6, logit=0.0)


# The Dirichlet path.


@pytest.mark.parametrize("symbols", [2, 5, 1023])
@pytest.mark.parametrize("concentration", [0.5, 3.0, 20.0])
def test_the_corner_speed_is_that_of_the_quantiles(symbols, concentration):
    from scipy import stats

    levels, step = [0.001, 0.1, 0.5, 0.9, 0.999], 1e-4
    low, here, high = (
        torch.tensor(stats.beta(1 + concentration + shift, symbols - 1).ppf(levels)) for shift in (-step, 0, step)
    )
    found = corner_speed(concentration, symbols, here.log()) * here * (1 - here)
    torch.testing.assert_close(found, (high - low) / (2 * step), rtol=1e-6, atol=0)


def test_the_corner_speed_is_finite_at_both_ends():
    y = torch.tensor([-29.0, -1e-6], dtype=torch.float64)
    for symbols in (2, 1023):
        speed = corner_speed(4.0, symbols, y)
        assert bool(speed.isfinite().all())
        assert bool((speed > 0).all())


def test_the_tabulated_velocity_is_the_exact_one():
    path = DirichletPath(41)
    x = path.sample(torch.arange(40).view(1, -1), torch.tensor([0.3], dtype=torch.float64), stream(), torch.float64)
    probs = torch.full_like(x, 1 / 40)
    position = path.position(torch.tensor(0.3, dtype=torch.float64))
    speed = corner_speed(float(position), 40, x.log()) * x / 40
    exact = speed - x * speed.sum(-1, keepdim=True)
    torch.testing.assert_close(path.velocity(position, x, probs), exact, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", [DirichletPath, LinearSimplexPath])
def test_velocities_on_the_simplex_keep_the_sum(kind):
    path = kind(9)
    x = path.sample(torch.tensor([[3, 4]]), torch.tensor([0.5], dtype=torch.float64), stream(), torch.float64)
    velocity = path.velocity(path.position(torch.tensor(0.5, dtype=torch.float64)), x, torch.full_like(x, 1 / 8))
    torch.testing.assert_close(velocity.sum(-1), torch.zeros(1, 2, dtype=torch.float64))


# The spherical path.


def test_states_of_the_spherical_path_lie_on_the_geodesic():
    path = FisherPath(6)
    tokens = torch.tensor([[1, 4]])
    t = torch.tensor([0.4], dtype=torch.float64)
    x = path.sample(tokens, t, stream(), torch.float64)
    noise = path.prior((1, 2), stream(), dtype=torch.float64)
    torch.testing.assert_close(x.norm(dim=-1), torch.ones(1, 2, dtype=torch.float64))
    assert bool((x >= 0).all())
    corner = path.corner(tokens, torch.float64)
    whole, part = ((corner * point).sum(-1).acos() for point in (noise, x))
    torch.testing.assert_close(part, path.position(t) * whole)
    torch.testing.assert_close((x * noise).sum(-1).acos(), whole - part)


def test_the_spherical_velocity_is_tangent_and_of_constant_speed():
    path = FisherPath(6)
    tokens = torch.tensor([[1, 4]])
    t = torch.tensor([0.4], dtype=torch.float64)
    x = path.sample(tokens, t, stream(), torch.float64)
    noise = path.prior((1, 2), stream(), dtype=torch.float64)
    corner = path.corner(tokens, torch.float64)
    velocity = path.velocity(path.position(t), x, corner)
    torch.testing.assert_close((velocity * x).sum(-1), torch.zeros(1, 2, dtype=torch.float64))
    torch.testing.assert_close(velocity.norm(dim=-1), (corner * noise).sum(-1).acos())
