"""Exact Markov samplers against the matrix exponential and waiting-time laws of small enumerated chains."""

import itertools
import math

import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isocline.processes.token_schedule import CosineSurvival, LinearSurvival
from isocline.solvers import ConstantSteps, FixedGrid, MarkovProblem, ODEProblem, SaveAt, Status, solve
from isocline.solvers.first_hitting import FirstHitting
from isocline.solvers.gillespie import Gillespie, ThinnedGillespie
from isocline.solvers.markov_clock import PiecewiseConstantClock, SurvivalClock, UniformClock
from isocline.solvers.markov_exponential import (
    MarkovExponential,
    generator_matrices,
    integrated_generators,
    transition_matrices,
)

F64 = torch.float64
SYMBOLS, LENGTH = 3, 2
STATES = SYMBOLS**LENGTH
WEIGHTS = torch.tensor([[0.4, 1.1, 0.3], [0.9, 0.2, 1.3], [0.5, 0.8, 0.1]], dtype=F64)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def interacting(t, z, cond):
    """Rates of each position that depend on the symbol of the other one."""
    other = z.flip(1)
    return WEIGHTS[z] * (1.0 + other[..., None])


def swelling(t, z, cond):
    """As `interacting`, of different course in time for different symbols: the generators do not commute."""
    t = t.reshape(-1, 1, 1)
    return interacting(t, z, cond) * torch.cat([t.square(), 1 - t, 1 + 0.5 * torch.sin(5 * t)], -1)


def joint_generator(rate, t):
    """Generator of the chain on all sequences of two symbols, by enumeration."""
    states = torch.tensor([[i, j] for i in range(SYMBOLS) for j in range(SYMBOLS)])
    rates = rate(torch.full((STATES,), t, dtype=F64), states, None).expand(STATES, LENGTH, SYMBOLS)
    q = np.zeros((STATES, STATES))
    for state, (i, j) in enumerate(states.tolist()):
        for symbol in range(SYMBOLS):
            if symbol != i:
                q[state, symbol * SYMBOLS + j] += float(rates[state, 0, symbol])
            if symbol != j:
                q[state, i * SYMBOLS + symbol] += float(rates[state, 1, symbol])
    return q - np.diag(q.sum(1))


def kolmogorov(rate, t0, t1, start):
    """Law at t1 of a chain whose generators do not commute, started in a state; jumps per unit of |dt|."""
    direction = 1.0 if t1 > t0 else -1.0
    found = scipy.integrate.solve_ivp(
        lambda t, p: direction * p @ joint_generator(rate, t),
        (t0, t1),
        np.eye(STATES)[start],
        rtol=1e-9,
        atol=1e-12,
    )
    return found.y[:, -1]


def sequences(tokens):
    return tokens[:, 0] * SYMBOLS + tokens[:, 1]


def assert_law(states, law):
    """Chi-squared test of frequencies: a wrong law of this many samples has a p-value far below the bound."""
    law = np.asarray(law)
    count = torch.bincount(states.flatten(), minlength=len(law)).numpy()
    assert count[law < 1e-14].sum() == 0
    possible = law >= 1e-14
    if possible.sum() == 1:
        return
    expected = law[possible] / law[possible].sum() * count.sum()
    assert scipy.stats.chisquare(count[possible], expected).pvalue > 1e-3, (count / count.sum(), law)


def chain(rate, tokens, t0=0.0, t1=1.0, count=None, seed=0, **settings):
    z0 = torch.tensor(tokens) if count is None else torch.tensor([tokens]).expand(count, -1).clone()
    return MarkovProblem(rate, z0, t0, t1, generator=generator(seed), **settings)


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("span", [(0.0, 0.7), (0.7, 0.0)], ids=["forward", "reversed"])
def test_the_direct_method_gives_the_law_of_interacting_positions_on_any_grid(span, steps):
    problem = chain(interacting, [0, 1], *span, count=20_000, seed=steps)
    solution = solve(problem, Gillespie(), ConstantSteps(steps))
    assert_law(sequences(solution.final), scipy.linalg.expm(0.7 * joint_generator(interacting, 0.0))[1])
    assert solution.status.tolist() == [Status.SUCCESS] * 20_000
    assert solution.final.dtype == torch.int64


def test_the_path_is_exact_at_every_time_asked_for():
    ts = [0.9, 0.1, 0.4]
    solution = solve(chain(interacting, [2, 0], count=20_000), Gillespie(), ConstantSteps(2), SaveAt(ts=ts))
    for time, states in zip(ts, solution.ys, strict=True):
        assert_law(sequences(states), scipy.linalg.expm(time * joint_generator(interacting, 0.0))[6])
    # The states are those of one path: the law of the last given the one before is the chain's, too.
    later = sequences(solution.ys[0])[sequences(solution.ys[2]) == 0]
    assert_law(later, scipy.linalg.expm(0.5 * joint_generator(interacting, 0.0))[0])


def test_the_direct_method_asks_once_a_jump_and_once_more_whatever_the_grid():
    jumps = []
    for steps in (1, 9):
        asked = []

        def count(t, z, cond, asked=asked):
            asked.append(len(z))
            return interacting(t, z, cond)

        problem = chain(count, [0, 0], count=300, is_separable=True)
        solution = solve(problem, Gillespie(), ConstantSteps(steps))
        assert sum(asked) == int(solution.stats.nfe.sum())
        jumps.append(solution.stats.nfe.double() - 1)
    # Along the way from [0, 0] the number of jumps has the mean ∫ p(t) · exits dt.
    q = joint_generator(interacting, 0.0)
    times = np.linspace(0, 1, 401)
    mean = scipy.integrate.simpson([(scipy.linalg.expm(t * q)[0] @ -np.diag(q)) for t in times], x=times)
    for found in jumps:
        assert float(found.mean()) == pytest.approx(mean, abs=4 * float(found.std()) / math.sqrt(300))


@pytest.mark.parametrize("stepper", [Gillespie(), ThinnedGillespie(20.0)])
def test_chains_that_cannot_be_taken_apart_jump_the_same(stepper):
    def run(is_separable):
        return solve(chain(interacting, [0, 1], count=200, is_separable=is_separable), stepper, ConstantSteps(3))

    apart, together = run(True), run(False)
    assert torch.equal(apart.final, together.final)
    assert torch.equal(apart.stats.nfe, together.stats.nfe)
    assert len(set(apart.stats.nfe.tolist())) > 1


@pytest.mark.parametrize("span", [(0.0, 1.0), (1.0, 0.0)], ids=["forward", "reversed"])
def test_thinning_gives_the_law_of_rates_that_change_in_time(span):
    law = kolmogorov(swelling, *span, 1)

    def bound(t, end, z, cond):
        return interacting(t, z, cond).sum((1, 2)) * 1.5

    for stepper, steps, seed in ((ThinnedGillespie(20.0), 1, 0), (ThinnedGillespie(bound), 3, 1)):
        solution = solve(chain(swelling, [0, 1], *span, count=20_000, seed=seed), stepper, ConstantSteps(steps))
        assert_law(sequences(solution.final), law)
        assert bool(solution.succeeded.all())


def test_a_tighter_bound_costs_fewer_evaluations():
    def bound(t, end, z, cond):
        return interacting(t, z, cond).sum((1, 2)) * 1.5

    problem = chain(swelling, [0, 1], count=2000, is_separable=True)
    loose = solve(problem, ThinnedGillespie(20.0), ConstantSteps(1)).stats.nfe.double().mean()
    tight = solve(problem, ThinnedGillespie(bound), ConstantSteps(1)).stats.nfe.double().mean()
    assert float(loose) == pytest.approx(20.0, abs=0.5)
    assert float(tight) < 0.6 * float(loose)


def test_rates_above_their_bound_are_a_status():
    solution = solve(chain(interacting, [[0, 0], [2, 2]]), ThinnedGillespie(3.0), ConstantSteps(1))
    assert Status.STEP_FAILED in solution.status.tolist()
    with pytest.raises(ValueError, match="bound=0"):
        ThinnedGillespie(0.0)


def test_waiting_times_are_exponential():
    asked = []

    def once(t, z, cond):
        asked.append(t.clone().expand(len(z)))
        return torch.where(z[..., None] == 0, torch.tensor([0.0, 0.7], dtype=F64), 0.0)

    solve(chain(once, [0], 0.0, 60.0, count=5000), Gillespie(), ConstantSteps(1))
    assert scipy.stats.kstest(asked[1], scipy.stats.expon(scale=1 / 0.7).cdf).pvalue > 1e-3


def test_a_piecewise_constant_clock_is_inverted_exactly():
    clock = PiecewiseConstantClock([0.0, 0.4, 0.6, 1.0], [2.0, 0.0, 0.5])
    asked = []

    def once(t, z, cond):
        asked.append(t.clone().expand(len(z)))
        return torch.where(z[..., None] == 0, torch.tensor([0.0, 3.0], dtype=F64), 0.0)

    for span in ((0.0, 1.0), (1.0, 0.0)):
        asked.clear()
        solution = solve(chain(once, [0], *span, count=20_000), Gillespie(clock), ConstantSteps(1))
        assert float((solution.final == 0).double().mean()) == pytest.approx(math.exp(-3.0), abs=0.007)
        jumped = asked[1][solution.final[:, 0] == 1]
        assert not bool(((jumped > 0.4) & (jumped < 0.6)).any())
        elapsed = clock.elapsed(torch.full_like(jumped, span[0]), jumped)
        assert scipy.stats.kstest(elapsed, scipy.stats.truncexpon(b=3.0, scale=1 / 3).cdf).pvalue > 1e-3
    problem = chain(interacting, [1, 1], count=20_000)
    final = solve(problem, Gillespie(clock), FixedGrid([0.0, 0.5, 1.0])).final
    assert_law(sequences(final), scipy.linalg.expm(joint_generator(interacting, 0.0))[4])


CLOCKS = [
    UniformClock(),
    PiecewiseConstantClock([0.0, 0.3, 0.5, 1.0], [1.0, 0.0, 4.0]),
    SurvivalClock(LinearSurvival()),
    SurvivalClock(CosineSurvival()),
]


@pytest.mark.parametrize("clock", CLOCKS)
@settings(max_examples=40, deadline=None)
@given(start=st.floats(0.2, 1.0), end=st.floats(0.01, 0.99), share=st.floats(0.001, 0.999))
def test_the_clocks_inverse_finds_the_time_at_which_an_amount_has_elapsed(clock, start, end, share):
    if isinstance(clock, SurvivalClock):
        end *= start
    t0, t1 = torch.tensor([start], dtype=F64), torch.tensor([end], dtype=F64)
    total = clock.elapsed(t0, t1)
    found, arrives = clock.arrivals(t0, t1, share * total)
    if float(total) > 1e-9:
        assert bool(arrives)
        assert min(start, end) <= float(found) <= max(start, end)
        assert float(clock.elapsed(t0, found)) == pytest.approx(share * float(total), rel=1e-6, abs=1e-9)
    assert not bool(clock.arrivals(t0, t1, total * 1.01 + 1e-9)[1])


def test_clocks_refuse_what_they_do_not_cover():
    with pytest.raises(ValueError, match="increase"):
        PiecewiseConstantClock([0.0, 0.0], [1.0])
    with pytest.raises(ValueError, match="negative"):
        PiecewiseConstantClock([0.0, 1.0], [-1.0])
    with pytest.raises(ValueError, match="shape"):
        PiecewiseConstantClock([0.0, 1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="asked about"):
        solve(chain(interacting, [[0, 0]], 0.0, 2.0), Gillespie(CLOCKS[1]), ConstantSteps(1))
    with pytest.raises(ValueError, match="from noise to data"):
        solve(chain(interacting, [[0, 0]]), Gillespie(CLOCKS[2]), ConstantSteps(1))


def single(t, z, cond):
    """Independent positions, each with its own rates."""
    scale = torch.tensor([1.0, 0.3], dtype=F64)[:, None]
    return WEIGHTS[z] * scale


def single_generator(position):
    q = WEIGHTS.numpy() * [1.0, 0.3][position]
    q = q - np.diag(np.diag(q))
    return q - np.diag(q.sum(1))


@pytest.mark.parametrize("clock", [None, UniformClock(), PiecewiseConstantClock([0.0, 0.5, 2.0], [1.0, 0.4])])
@pytest.mark.parametrize("span", [(0.0, 1.5), (1.5, 0.0)], ids=["forward", "reversed"])
def test_one_step_of_the_matrix_exponential_is_exact(clock, span):
    solution = solve(chain(single, [0, 2], *span, count=20_000), MarkovExponential(clock), ConstantSteps(1))
    length = 0.9 if isinstance(clock, PiecewiseConstantClock) else 1.5
    for position, start in enumerate([0, 2]):
        assert_law(solution.final[:, position], scipy.linalg.expm(length * single_generator(position))[start])
    assert bool(solution.succeeded.all())


def test_generators_of_a_clock_are_read_once():
    asked = []

    def rate(t, z, cond):
        asked.append(t)
        return single(t, z, cond)

    for clock, expected in ((UniformClock(), 3 + 1), (None, 7 * 2 * 3 + 2)):
        asked.clear()
        solution = solve(chain(rate, [[0, 2], [1, 1]]), MarkovExponential(clock), ConstantSteps(7))
        assert solution.stats.nfe.tolist() == [expected] * 2
        assert len(asked) == expected


def test_rates_that_commute_are_integrated_exactly_and_others_to_order_two():
    def transition(rate, steps):
        problem = chain(rate, [[0, 0]])
        edges = torch.linspace(0, 1, steps + 1, dtype=F64)
        product = torch.eye(SYMBOLS, dtype=F64).expand(1, 2, SYMBOLS, SYMBOLS)
        for t0, t1 in itertools.pairwise(edges):
            product = product @ transition_matrices(integrated_generators(problem, t0, t1, problem.z0))[0]
        return product[0, 0].numpy()

    def commuting(t, z, cond):
        return single(t, z, cond) * (1 + 4 * t**3)

    def moving(t, z, cond):
        return WEIGHTS[z] * torch.stack([t.square(), 1 - t, 1 + 0.5 * torch.sin(5 * t)])

    assert transition(commuting, 1) == pytest.approx(scipy.linalg.expm(2 * single_generator(0)), abs=1e-12)
    problem = chain(moving, [[0, 0]])

    def slope(t, p):
        q = generator_matrices(problem, torch.tensor(t, dtype=F64), problem.z0)[0, 0].numpy()
        return (p.reshape(3, 3) @ q).ravel()

    exact = scipy.integrate.solve_ivp(slope, (0, 1), np.eye(3).ravel(), rtol=1e-11, atol=1e-13).y[:, -1].reshape(3, 3)
    errors = [np.abs(transition(moving, steps) - exact).max() for steps in (4, 8, 16, 32)]
    orders = -np.diff(np.log2(errors))
    assert orders == pytest.approx(2.0, abs=0.2)


def test_the_matrix_exponential_follows_rates_that_change_in_time():
    def moving(t, z, cond):
        t = t.reshape(-1, 1, 1)
        return WEIGHTS[z] * torch.cat([t.square(), 1 - t, 1 + 0.5 * torch.sin(5 * t)], -1)

    final = solve(chain(moving, [0, 0], count=20_000), MarkovExponential(), ConstantSteps(16)).final
    problem = chain(moving, [[0, 0]])

    def slope(t, p):
        return p @ generator_matrices(problem, torch.tensor(t, dtype=F64), problem.z0)[0, 0].numpy()

    law = scipy.integrate.solve_ivp(slope, (0, 1), np.eye(3)[0], rtol=1e-9, atol=1e-12).y[:, -1]
    assert_law(final, law)


def test_positions_that_depend_on_one_another_are_refused():
    with pytest.raises(ValueError, match="depend on other positions"):
        solve(chain(interacting, [[0, 1]]), MarkovExponential(), ConstantSteps(1))


@pytest.mark.parametrize("stepper", [Gillespie(), ThinnedGillespie(20.0), MarkovExponential()])
def test_every_sample_may_have_its_own_span(stepper):
    ends = torch.tensor([0.0, 0.5, 1.5], dtype=F64).repeat_interleave(8000)
    solution = solve(chain(single, [0, 0], 0.0, ends, count=24_000), stepper, ConstantSteps(2))
    for index, length in enumerate([0.0, 0.5, 1.5]):
        part = solution.final[index * 8000 : (index + 1) * 8000]
        assert_law(part[:, 0], scipy.linalg.expm(length * single_generator(0))[0])


@pytest.mark.parametrize("bad", [float("nan"), -1.0])
@pytest.mark.parametrize("stepper", [Gillespie(), ThinnedGillespie(30.0), MarkovExponential(UniformClock())])
def test_rates_that_are_no_rates_stop_their_sample_only(stepper, bad):
    def rate(t, z, cond):
        rates = single(t, z, None).clone()
        rates[cond, 0] = bad
        return rates

    cond = torch.tensor([False, True, False])
    problem = chain(rate, [[0, 1]] * 3, cond=cond, is_separable=True)
    solution = solve(problem, stepper, ConstantSteps(2))
    assert solution.status.tolist() == [Status.SUCCESS, Status.STEP_FAILED, Status.SUCCESS]
    assert solution.final[1].tolist() == [0, 1]


def test_a_chain_that_jumps_without_end_is_a_status():
    solution = solve(chain(single, [[0, 0]], 0.0, 1e6), Gillespie(max_jumps=50), ConstantSteps(1))
    assert solution.status.tolist() == [Status.STEP_FAILED]
    assert solution.stats.nfe.tolist() == [50]


@pytest.mark.parametrize(
    "stepper", [Gillespie(), ThinnedGillespie(1.0), FirstHitting(2, LinearSurvival()), MarkovExponential()]
)
def test_other_problems_are_refused(stepper):
    with pytest.raises(TypeError, match="MarkovProblem"):
        solve(ODEProblem(lambda t, y, c: y, torch.ones(1, 1), 0.0, 1.0), stepper, ConstantSteps(2))
