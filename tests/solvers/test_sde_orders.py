"""Strong and weak orders of every method for stochastic equations, along one path that the grids refine."""

import math

import numpy as np
import pytest
import torch

from isocline.solvers import ConstantSteps, Euler, EulerMaruyama, Heun, ODEProblem, SDEProblem, solve
from isocline.solvers.brownian import VirtualBrownianTree
from isocline.solvers.milstein import DerivativeFreeMilstein, Milstein
from isocline.solvers.problem import Calculus
from isocline.solvers.sde import to_ito, to_stratonovich
from isocline.solvers.srk import SRIW1, ShARK
from isocline.solvers.stratonovich import EulerHeun, StratonovichHeun

F64 = torch.float64
ITO, STRATONOVICH = Calculus.ITO, Calculus.STRATONOVICH
MULTIPLICATIVE = [
    (EulerMaruyama(), ITO, 0.5),
    (Milstein(), ITO, 1.0),
    (Milstein(), STRATONOVICH, 1.0),
    (DerivativeFreeMilstein(), ITO, 1.0),
    (EulerHeun(), STRATONOVICH, 1.0),
    (StratonovichHeun(), STRATONOVICH, 1.0),
    (SRIW1(), ITO, 1.5),
]
ADDITIVE = [
    (EulerMaruyama(), ITO, 1.0),
    (Milstein(), ITO, 1.0),
    (DerivativeFreeMilstein(), ITO, 1.0),
    (EulerHeun(), STRATONOVICH, 1.0),
    (StratonovichHeun(), STRATONOVICH, 1.0),
    (SRIW1(), ITO, 1.5),
    (ShARK(), ITO, 1.5),
    (ShARK(), STRATONOVICH, 1.5),
]
FORWARD, REVERSED = (0.0, 1.0), (1.0, 0.0)
SPANS = [pytest.param(FORWARD, id="forward"), pytest.param(REVERSED, id="reversed")]


def slope(errors, counts):
    x, y = -torch.tensor(counts, dtype=F64).log(), torch.tensor(errors, dtype=F64).log()
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / (x * x).sum())


def root_mean_square(error):
    return float(error.square().mean().sqrt())


def path_end(tree, span, y):
    return tree.step(*(torch.tensor(t, dtype=F64) for t in span), y, None, False)[0].w


def geometric(span, calculus, paths, seed):
    """``dy = 0.7 y dt + 0.7 y dw`` along the way from span[0] to span[1], and its closed form at the end."""
    mu, sigma = 0.7, 0.7
    tree = VirtualBrownianTree(seed, 0.0, 1.0, tol=2.0**-10)
    y0 = torch.ones(paths, 1, dtype=F64)
    sign = 1.0 if span[1] > span[0] else -1.0
    problem = SDEProblem(
        lambda t, y, c: sign * mu * y, lambda t, y, c: sigma * y, y0, *span, noise=tree, calculus=calculus
    )
    correction = sigma**2 / 2 if calculus is ITO else 0.0
    return problem, torch.exp(mu - correction + sigma * path_end(tree, span, y0))


def forced(span, calculus, paths):
    """``dy = sin(4y) dt + 0.7 (1 + t²) dw`` from many starts: nonlinear, additive noise, no closed form."""
    sign = 1.0 if span[1] > span[0] else -1.0
    return SDEProblem(
        lambda t, y, c: sign * torch.sin(4 * y),
        lambda t, y, c: 0.7 * (1 + t * t),
        torch.linspace(-1, 1, paths, dtype=F64)[:, None],
        *span,
        noise=VirtualBrownianTree(2, 0.0, 1.0, tol=2.0**-10),
        calculus=calculus,
    )


@pytest.fixture(scope="module")
def forced_ends():
    """Reference ends of `forced`, by steps as short as the tree's leaves."""
    return {span: solve(forced(span, ITO, 800), ShARK(), ConstantSteps(512)).final for span in ((0.0, 1.0), (1.0, 0.0))}


def strong_order(problem, stepper, exact, counts):
    errors = [float((solve(problem, stepper, ConstantSteps(n)).final - exact).abs().mean()) for n in counts]
    return slope(errors, counts)


@pytest.mark.parametrize(
    ("stepper", "calculus", "order", "span"),
    [(*case, FORWARD) for case in MULTIPLICATIVE] + [(*MULTIPLICATIVE[place], REVERSED) for place in (1, 3, 5, 6)],
)
def test_geometric_brownian_motion_converges_strongly_with_the_nominal_order(stepper, calculus, order, span):
    problem, exact = geometric(span, calculus, 3000, 1)
    assert strong_order(problem, stepper, exact, [16, 32, 64]) == pytest.approx(order, abs=0.2)
    assert stepper.order == order


@pytest.mark.parametrize(
    ("stepper", "calculus", "order", "span"),
    [(*case, FORWARD) for case in ADDITIVE] + [(*ADDITIVE[place], REVERSED) for place in (0, 4, 6)],
)
def test_additive_noise_converges_strongly_with_the_nominal_order(stepper, calculus, order, span, forced_ends):
    found = strong_order(forced(span, calculus, 800), stepper, forced_ends[span], [8, 16, 32])
    assert found == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize(("stepper", "calculus", "order"), MULTIPLICATIVE)
def test_a_nonlinear_diffusion_converges_strongly_with_the_nominal_order(stepper, calculus, order):
    # y = sinh(w + t³/3): by the chain rule, in the Stratonovich sense, dy = √(1 + y²) (t² dt + dw).
    tree = VirtualBrownianTree(3, 0.0, 1.0, tol=2.0**-10)
    correction = 0.5 if calculus is ITO else 0.0
    problem = SDEProblem(
        lambda t, y, c: t * t * (1 + y * y).sqrt() + correction * y,
        lambda t, y, c: (1 + y * y).sqrt(),
        torch.zeros(3000, 1, dtype=F64),
        0.0,
        1.0,
        noise=tree,
        calculus=calculus,
    )
    exact = torch.sinh(path_end(tree, (0.0, 1.0), problem.y0) + 1 / 3)
    assert strong_order(problem, stepper, exact, [16, 32, 64]) == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize(
    ("stepper", "calculus", "order"),
    [
        (EulerMaruyama(), ITO, 1),
        (Milstein(), ITO, 1),
        (DerivativeFreeMilstein(), ITO, 1),
        (EulerHeun(), STRATONOVICH, 1),
        (StratonovichHeun(), STRATONOVICH, 2),
        (SRIW1(), ITO, 2),
        (ShARK(), ITO, 2),
    ],
)
def test_moments_of_ornstein_uhlenbeck_converge_weakly(stepper, calculus, order):
    # On dy = -2y dt + dw a step is linear in y and in the normal numbers, so that mean and variance follow exactly
    # from one step: that from 1 without noise gives the factor, that from 0 over many paths the variance of the kick.
    mean_errors, variance_errors, counts = [], [], [4, 8, 16, 32]
    tree = VirtualBrownianTree(4, 0.0, 1.0, tol=2.0**-8)
    for n in counts:
        h = 1 / n
        one = SDEProblem(
            lambda t, y, c: -2 * y,
            lambda t, y, c: c,
            torch.tensor([[1.0], [0.0]], dtype=F64),
            0.0,
            h,
            torch.tensor([[0.0], [1.0]], dtype=F64),
            noise=tree,
            calculus=calculus,
        )
        factor = solve(one, stepper, ConstantSteps(1)).final[0, 0]
        loads = kick_loadings(stepper, calculus, tree, h)
        kick = loads[0] ** 2 * h + loads[1] ** 2 * h / 12
        mean, variance = factor**n, kick * (1 - factor ** (2 * n)) / (1 - factor**2)
        mean_errors.append(abs(float(mean) - math.exp(-2)))
        variance_errors.append(abs(float(variance) - (1 - math.exp(-4)) / 4))
    assert slope(mean_errors, counts) == pytest.approx(order, abs=0.35)
    assert slope(variance_errors, counts) > order - 0.35


def kick_loadings(stepper, calculus, tree, h):
    """Weights of the increment and of the area in one step from zero: two paths give two linear equations."""
    problem = SDEProblem(
        lambda t, y, c: -2 * y,
        lambda t, y, c: torch.ones((), dtype=F64),
        torch.zeros(2, 1, dtype=F64),
        0.0,
        h,
        noise=tree,
        calculus=calculus,
    )
    end = solve(problem, stepper, ConstantSteps(1)).final
    times = (torch.tensor(t, dtype=F64) for t in (0.0, h))
    part, _ = tree.step(*times, problem.y0, None, True)
    return torch.linalg.solve(torch.cat([part.w, part.h], 1), end[:, 0])


def test_moments_of_geometric_brownian_motion_converge_weakly_with_order_two():
    # E[y1/y0] of one step from the normal numbers' moments, by Gauss-Hermite quadrature over both of them.
    class Given(VirtualBrownianTree):
        def step(self, t0, t1, y, memory, area):
            part, memory = super().step(t0, t1, y, memory, area)
            dt = float(t1 - t0)
            return part._replace(w=math.sqrt(dt) * first, h=math.sqrt(dt / 12) * second), memory

    nodes, weights = (torch.tensor(x, dtype=F64) for x in hermite(12))
    first, second = (grid.reshape(-1, 1) for grid in torch.meshgrid(nodes, nodes, indexing="ij"))
    weight = (weights[:, None] * weights).reshape(-1, 1)
    errors, counts = {0: [], 1: []}, [4, 8, 16, 32]
    for n in counts:
        problem = SDEProblem(
            lambda t, y, c: 0.7 * y,
            lambda t, y, c: 0.9 * y,
            torch.ones(144, 1, dtype=F64),
            0.0,
            1 / n,
            noise=Given(0, 0.0, 1.0),
        )
        for index, stepper in enumerate((SRIW1(), Milstein())):
            end = solve(problem, stepper, ConstantSteps(1)).final
            mean = float((weight * end).sum()) ** n
            square = float((weight * end**2).sum()) ** n
            errors[index].append(abs(mean - math.exp(0.7)) + abs(square - math.exp(1.4 + 0.81)))
    assert slope(errors[0], counts) == pytest.approx(2, abs=0.2)
    assert slope(errors[1], counts) == pytest.approx(1, abs=0.25)


def hermite(count):
    """Nodes and weights for the standard normal law."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(count)
    return nodes, weights / weights.sum()


@pytest.mark.parametrize(
    ("stepper", "calculus", "deterministic"),
    [
        (EulerMaruyama(), ITO, Euler()),
        (Milstein(), ITO, Euler()),
        (DerivativeFreeMilstein(), ITO, Euler()),
        (EulerHeun(), STRATONOVICH, Euler()),
        (StratonovichHeun(), STRATONOVICH, Heun()),
    ],
)
def test_without_noise_the_step_is_that_of_an_ode(stepper, calculus, deterministic):
    y0 = torch.rand(5, 3, dtype=F64)
    tree = VirtualBrownianTree(0, 0.0, 1.0)
    sde = SDEProblem(
        lambda t, y, c: -y * (1 + t), lambda t, y, c: torch.zeros(()), y0, 1.0, 0.0, noise=tree, calculus=calculus
    )
    found = solve(sde, stepper, ConstantSteps(9))
    ode = solve(ODEProblem(lambda t, y, c: -y * (1 + t), y0, 1.0, 0.0), deterministic, ConstantSteps(9))
    assert torch.allclose(found.final, ode.final, atol=1e-15)
    assert found.stats.nfe.tolist() == [9 * stepper.nfe_per_step] * 5


@pytest.mark.parametrize("stepper", [SRIW1(), ShARK()])
def test_without_noise_runge_kutta_methods_have_order_two(stepper):
    problem = SDEProblem(
        lambda t, y, c: y * torch.cos(t),
        lambda t, y, c: torch.zeros((), dtype=F64),
        torch.ones(1, 1, dtype=F64),
        0.0,
        1.0,
        noise=VirtualBrownianTree(0, 0.0, 1.0),
    )
    exact, counts = math.exp(math.sin(1.0)), [8, 16, 32, 64]
    errors = [abs(float(solve(problem, stepper, ConstantSteps(n)).final) - exact) for n in counts]
    assert slope(errors, counts) == pytest.approx(2.0, abs=0.2)


@pytest.mark.parametrize("span", SPANS)
def test_both_calculi_describe_the_same_process(span):
    problem, _ = geometric(span, ITO, 200, 6)
    converted = to_stratonovich(problem)
    assert converted.calculus is STRATONOVICH
    assert to_stratonovich(converted) is converted
    ito = solve(problem, SRIW1(), ConstantSteps(64)).final
    other = solve(converted, StratonovichHeun(), ConstantSteps(128)).final
    assert root_mean_square((ito - other) / ito) < 1e-2
    unconverted, _ = geometric(span, STRATONOVICH, 200, 6)
    assert root_mean_square((solve(unconverted, StratonovichHeun(), ConstantSteps(32)).final - ito) / ito) > 0.2
    back = to_ito(converted)
    t, y = torch.tensor(0.3, dtype=F64), torch.rand(200, 1, dtype=F64)
    assert torch.allclose(back.drift(t, y, None), problem.drift(t, y, None), atol=1e-14)


def test_samples_that_run_in_different_directions_are_converted_apart():
    problem = SDEProblem(
        lambda t, y, c: -y,
        lambda t, y, c: y,
        torch.ones(2, 1),
        torch.tensor([0.0, 1.0]),
        torch.tensor([1.0, 0.0]),
        noise=VirtualBrownianTree(0, 0.0, 1.0),
    )
    with pytest.raises(ValueError, match="apart"):
        to_stratonovich(problem)


@pytest.mark.parametrize(
    ("stepper", "calculus", "cure"),
    [
        (EulerMaruyama(), STRATONOVICH, "to_ito"),
        (DerivativeFreeMilstein(), STRATONOVICH, "to_ito"),
        (SRIW1(), STRATONOVICH, "to_ito"),
        (EulerHeun(), ITO, "to_stratonovich"),
        (StratonovichHeun(), ITO, "to_stratonovich"),
    ],
)
def test_the_wrong_calculus_is_refused_with_its_cure(stepper, calculus, cure):
    problem, _ = geometric((0.0, 1.0), calculus, 2, 0)
    with pytest.raises(ValueError, match=cure):
        solve(problem, stepper, ConstantSteps(2))


@pytest.mark.parametrize(
    "stepper", [Milstein(), DerivativeFreeMilstein(), EulerHeun(), StratonovichHeun(), SRIW1(), ShARK()]
)
def test_other_problems_are_refused(stepper):
    with pytest.raises(TypeError, match="SDEProblem"):
        solve(ODEProblem(lambda t, y, c: y, torch.ones(1, 1), 0.0, 1.0), stepper, ConstantSteps(2))
