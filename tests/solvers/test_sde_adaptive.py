"""Adaptive steps along a Brownian path: convergence, one path whatever is rejected, independence of the batch."""

import math

import pytest
import torch
from torch import nn

from isocline.solvers import (
    ConstantSteps,
    EulerMaruyama,
    FixedGrid,
    PIDController,
    SaveAt,
    SDEProblem,
    Status,
    solve,
    solve_strict,
)
from isocline.solvers.brownian import VirtualBrownianTree
from isocline.solvers.gradient import Backpropagation, BacksolveAdjoint, CheckpointedAdjoint, DiscreteAdjoint
from isocline.solvers.milstein import Milstein
from isocline.solvers.problem import Calculus
from isocline.solvers.srk import SRIW1, ShARK
from isocline.solvers.stratonovich import StratonovichHeun

F64 = torch.float64
SENSES = [(StratonovichHeun(), Calculus.STRATONOVICH), (SRIW1(), Calculus.ITO)]


def geometric(calculus, batch, seed=1, spans=(0.0, 1.0), dtype=F64, **settings):
    """``dy = 0.5 y dt + c y dw``, the noise c from 0.2 to 1.2 along the batch; and the exact end."""
    volatility = torch.linspace(0.2, 1.2, batch, dtype=dtype)[:, None]
    noise = settings.pop("noise", VirtualBrownianTree(seed, 0.0, 1.0, tol=2.0**-18))
    y0 = torch.ones(batch, 1, dtype=dtype)
    problem = SDEProblem(
        lambda t, y, c: 0.5 * y,
        lambda t, y, c: c * y,
        y0,
        *spans,
        volatility,
        noise=noise,
        calculus=calculus,
        **settings,
    )
    w = noise.at(torch.as_tensor(spans[1], dtype=F64), y0).w
    correction = volatility**2 / 2 if calculus is Calculus.ITO else 0.0
    return problem, torch.exp((0.5 - correction) * torch.as_tensor(spans[1]).reshape(-1, 1) + volatility * w)


def control(tol, **settings):
    return PIDController(rtol=tol, atol=tol, **settings)


@pytest.mark.parametrize(("stepper", "calculus"), SENSES)
def test_errors_fall_in_proportion_to_the_tolerance(stepper, calculus):
    problem, exact = geometric(calculus, 100)
    steps = []
    for tol in (1e-2, 1e-3, 1e-4):
        solution = solve_strict(problem, stepper, control(tol))
        error = float(((solution.final - exact) / (1 + exact)).square().mean().sqrt())
        assert 0.01 < error / tol < 100
        steps.append(float(solution.stats.accepted.double().mean()))
    assert steps[0] < steps[1] < steps[2]


def test_additive_noise_converges_with_the_tolerance():
    tree = VirtualBrownianTree(2, 0.0, 1.0)
    y0 = torch.linspace(-1, 1, 100, dtype=F64)[:, None]

    def diffusion(t, y, c):
        return 0.7 * (1 + t * t).reshape(-1, 1)

    problem = SDEProblem(lambda t, y, c: torch.sin(4 * y), diffusion, y0, 0.0, 1.0, noise=tree)
    exact = solve(problem, ShARK(), ConstantSteps(512)).final
    for tol in (3e-2, 1e-2, 1e-3):
        solution = solve_strict(problem, ShARK(), control(tol))
        assert 0.01 < float((solution.final - exact).square().mean().sqrt()) / tol < 100


@pytest.mark.parametrize(("stepper", "calculus"), SENSES)
def test_rejected_steps_leave_no_trace_in_the_path(stepper, calculus):
    # The steps that were taken, taken again on a grid that rejects none, are the same steps.
    problem, _ = geometric(calculus, 6)
    adaptive = solve_strict(problem, stepper, control(1e-3, joint=True, dt0=0.5), SaveAt(steps=True))
    assert int(adaptive.stats.rejected[0]) > 0
    again = solve(problem, stepper, FixedGrid(adaptive.ts), SaveAt(steps=True))
    assert torch.equal(again.ys, adaptive.ys)


@pytest.mark.parametrize(("stepper", "calculus"), [*SENSES, (ShARK(), Calculus.ITO)])
def test_a_sample_is_solved_as_if_it_were_alone(stepper, calculus):
    problem, _ = geometric(calculus, 12)
    if isinstance(stepper, ShARK):
        problem = SDEProblem(
            lambda t, y, c: c * torch.sin(4 * y),
            lambda t, y, c: torch.ones((), dtype=F64),
            problem.y0,
            0.0,
            1.0,
            problem.cond,
            noise=problem.noise,
        )
    together = solve_strict(problem, stepper, control(1e-3))
    assert len(set(together.stats.accepted.tolist())) > 1
    for sample in (0, 5, 11):
        alone = solve_strict(problem.at_rows(torch.tensor([sample])), stepper, control(1e-3))
        assert torch.equal(alone.final[0], together.final[sample])
        assert int(alone.stats.nfe[0]) == int(together.stats.nfe[sample])


@pytest.mark.parametrize(("stepper", "calculus"), SENSES)
def test_samples_that_cannot_be_taken_apart_are_solved_the_same(stepper, calculus):
    problem, _ = geometric(calculus, 8)
    whole, _ = geometric(calculus, 8, is_separable=False)
    ts = SaveAt(ts=[0.21, 0.77, 1.0])
    apart, together = (solve_strict(each, stepper, control(1e-2), ts) for each in (problem, whole))
    assert torch.equal(apart.ys, together.ys)


@pytest.mark.parametrize(("stepper", "calculus"), SENSES)
@pytest.mark.parametrize("controller", [control(1e-4), control(1e-4, joint=True), ConstantSteps(40)])
def test_states_between_the_steps_lie_on_the_path(stepper, calculus, controller):
    problem, _ = geometric(calculus, 30)
    ts = [0.123, 0.5001, 0.9, 1.0]
    solution = solve(problem, stepper, controller, SaveAt(ts=ts))
    tolerance = 2e-3 if not isinstance(controller, ConstantSteps) else 8e-2
    for t, y in zip(ts, solution.ys, strict=True):
        _, exact = geometric(calculus, 30, spans=(0.0, t))
        assert float(((y - exact) / (1 + exact)).square().mean().sqrt()) < tolerance
    plain = solve(problem, stepper, controller)
    assert torch.equal(plain.final, solution.final)
    # Interpolation without the path would be off by the noise between the steps.
    assert int((solution.stats.nfe - plain.stats.nfe).min()) >= 2


@pytest.mark.parametrize("tol", [1e-3, 1e-4])
def test_the_way_back_along_the_path_leads_to_the_start(tol):
    problem, _ = geometric(Calculus.STRATONOVICH, 40)
    there = solve_strict(problem, StratonovichHeun(), control(tol)).final
    back, _ = geometric(Calculus.STRATONOVICH, 40, spans=(1.0, 0.0))
    home = SDEProblem(
        back.drift, back.diffusion, there, 1.0, 0.0, back.cond, noise=back.noise, calculus=Calculus.STRATONOVICH
    )
    found = solve_strict(home, StratonovichHeun(), control(tol)).final
    assert float((found - problem.y0).square().mean().sqrt()) < 30 * tol


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_the_reverse_equation_of_a_diffusion_leads_from_noise_to_data(eta):
    # VP with constant β = 5 from data N(2, 1/4): the marginal at t is N(2α, α²/4 + σ²), its score in closed form.
    beta, count = 5.0, 800

    def moments(t):
        alpha = torch.exp(-0.5 * beta * t)
        return 2 * alpha, alpha**2 / 4 + 1 - alpha**2

    def drift(t, x, c):
        t = t.reshape(-1, 1)
        mean, variance = moments(t)
        return -0.5 * beta * x + 0.5 * (1 + eta**2) * beta * (x - mean) / variance

    start_mean, start_variance = moments(torch.tensor(1.0, dtype=F64))
    y0 = start_mean + start_variance.sqrt() * torch.randn(
        count, 1, dtype=F64, generator=torch.Generator().manual_seed(0)
    )
    noise = VirtualBrownianTree(9, 0.0, 1.0)
    diffusion = torch.tensor(eta * math.sqrt(beta), dtype=F64)
    problem = SDEProblem(drift, lambda t, x, c: diffusion, y0, 1.0, 0.0, noise=noise)
    solution = solve_strict(problem, ShARK(), control(1e-3))
    assert float(solution.final.mean()) == pytest.approx(2.0, abs=5 * 0.5 / math.sqrt(count))
    assert float(solution.final.var()) == pytest.approx(0.25, abs=5 * 0.25 * math.sqrt(2 / count))
    assert scipy_normal(solution.final, 2.0, 0.5) > 1e-3


def scipy_normal(values, mean, deviation):
    import scipy.stats

    return scipy.stats.kstest(values.flatten(), scipy.stats.norm(mean, deviation).cdf).pvalue


@pytest.mark.parametrize(("stepper", "calculus"), SENSES)
def test_single_precision_follows_the_path_to_its_rounding(stepper, calculus):
    wide, exact = geometric(calculus, 20)
    narrow, _ = geometric(calculus, 20, dtype=torch.float32)
    found = solve_strict(narrow, stepper, control(1e-3))
    assert found.final.dtype == torch.float32
    assert float(((found.final - exact) / (1 + exact)).abs().mean()) < 1e-2
    grid = ConstantSteps(50)
    assert torch.allclose(solve(narrow, stepper, grid).final.double(), solve(wide, stepper, grid).final, rtol=1e-4)


@pytest.mark.parametrize("stepper", [EulerMaruyama(), Milstein()])
def test_methods_without_an_error_estimate_are_refused(stepper):
    problem, _ = geometric(Calculus.ITO, 2)
    with pytest.raises(ValueError, match="no error estimate"):
        solve(problem, stepper, control(1e-3))


def test_a_diffusion_that_does_not_fit_the_state_is_refused():
    problem, _ = geometric(Calculus.ITO, 3)

    def solved(drift, diffusion, stepper=SRIW1()):  # noqa: B008 - steppers have no state
        wrong = SDEProblem(drift, diffusion, problem.y0, 0.0, 1.0, problem.cond, noise=problem.noise)
        return solve(wrong, stepper, control(1e-2) if stepper.error_order else ConstantSteps(2))

    for stepper in (SRIW1(), EulerMaruyama(), Milstein()):
        with pytest.raises(ValueError, match=r"diffusion returned shape \(3,\).*reshape"):
            solved(problem.drift, lambda t, y, c: t.expand(3), stepper)
    with pytest.raises(ValueError, match="drift returned shape"):
        solved(lambda t, y, c: t.expand(3), problem.diffusion)


def test_a_sample_that_is_no_number_leaves_the_others_as_they_are():
    problem, _ = geometric(Calculus.ITO, 4)

    def drift(t, y, c):
        return torch.where((c > 1) & (t.reshape(-1, 1) > 0.5), torch.nan, 0.5 * y)

    broken = SDEProblem(drift, problem.diffusion, problem.y0, 0.0, 1.0, problem.cond, noise=problem.noise)
    found, plain = solve(broken, SRIW1(), control(1e-3)), solve(problem, SRIW1(), control(1e-3))
    assert found.status.tolist() == [Status.SUCCESS] * 3 + [Status.NON_FINITE]
    assert torch.equal(found.final[:3], plain.final[:3])
    assert 0.49 < float(found.stopped_at[3]) < 0.51


class Learned(nn.Module):
    """Drift and diffusion with a parameter each."""

    def __init__(self):
        super().__init__()
        self.pull = nn.Parameter(torch.tensor(0.8, dtype=F64))
        self.noise = nn.Parameter(torch.tensor(0.6, dtype=F64))

    def drift(self, t, y, c):
        return -self.pull * torch.sin(y) + c

    def diffusion(self, t, y, c):
        return self.noise * (1 + 0.3 * torch.cos(y))


def learned(model, y0, cond, calculus):
    noise = VirtualBrownianTree(3, 0.0, 1.0)
    return SDEProblem(model.drift, model.diffusion, y0, 0.0, 1.0, cond, noise=noise, calculus=calculus)


def gradients(method, stepper, calculus, controller):
    model = Learned()
    y0 = torch.tensor([[0.3, -1.0], [1.1, 0.4]], dtype=F64, requires_grad=True)
    cond = torch.tensor([[0.1, 0.2], [-0.3, 0.5]], dtype=F64, requires_grad=True)
    final = solve(learned(model, y0, cond, calculus), stepper, controller, gradient=method).final
    loss = (final * torch.tensor([1.0, 2.0], dtype=F64)).square().sum()
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, [y0, cond, model.pull, model.noise])])


def differences(stepper, calculus, controller):
    """Central differences along the same path."""
    model = Learned()
    inputs = torch.tensor([0.3, -1.0, 1.1, 0.4, 0.1, 0.2, -0.3, 0.5, 0.8, 0.6], dtype=F64)

    def loss(values):
        with torch.no_grad():
            model.pull.copy_(values[8])
            model.noise.copy_(values[9])
            problem = learned(model, values[:4].reshape(2, 2), values[4:8].reshape(2, 2), calculus)
            final = solve(problem, stepper, controller).final
        return float((final * torch.tensor([1.0, 2.0], dtype=F64)).square().sum())

    unit = 1e-5 * torch.eye(10, dtype=F64)
    return torch.tensor([(loss(inputs + step) - loss(inputs - step)) / 2e-5 for step in unit], dtype=F64)


@pytest.mark.parametrize(
    ("stepper", "calculus"), [*SENSES, (EulerMaruyama(), Calculus.ITO), (Milstein(), Calculus.ITO)]
)
def test_gradients_are_those_along_the_path(stepper, calculus):
    grid = ConstantSteps(6)
    plain = gradients(None, stepper, calculus, grid)
    assert torch.allclose(plain, differences(stepper, calculus, grid), rtol=1e-6, atol=1e-8)
    for method in (Backpropagation(), DiscreteAdjoint(), CheckpointedAdjoint()):
        assert torch.allclose(gradients(method, stepper, calculus, grid), plain, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("stepper", "calculus"), SENSES)
def test_adjoints_of_adaptive_steps_are_those_of_backpropagation(stepper, calculus):
    plain = gradients(None, stepper, calculus, control(1e-2))
    for method in (DiscreteAdjoint(), CheckpointedAdjoint()):
        assert torch.allclose(gradients(method, stepper, calculus, control(1e-2)), plain, rtol=1e-10, atol=1e-12)


def test_noise_that_is_drawn_anew_has_backpropagation_only():
    model = Learned()
    y0 = torch.zeros(2, 2, dtype=F64, requires_grad=True)
    problem = SDEProblem(
        model.drift, model.diffusion, y0, 0.0, 1.0, torch.zeros(2, 1, dtype=F64), generator=torch.Generator()
    )
    solve(problem, EulerMaruyama(), ConstantSteps(3)).final.sum().backward()
    assert bool(y0.grad.isfinite().all())
    for method in (DiscreteAdjoint(), CheckpointedAdjoint()):
        with pytest.raises((ValueError, TypeError), match=r"noise|anew|repeat"):
            solve(problem, EulerMaruyama(), ConstantSteps(3), gradient=method)


def test_the_continuous_adjoint_is_refused():
    model = Learned()
    problem = learned(model, torch.zeros(1, 2, dtype=F64, requires_grad=True), torch.zeros(1, 1), Calculus.ITO)
    with pytest.raises((ValueError, TypeError), match=r"SDEProblem|ODE"):
        solve(problem, SRIW1(), ConstantSteps(3), gradient=BacksolveAdjoint())
