"""Samplers that know the noise: orders in their own variable, every schedule, budgets, ends."""

from __future__ import annotations

import functools
import itertools
import math

import pytest
import torch
from tests.samplers.exact_fields import POINT, PROCESSES, D, exact, noise, stream

from isocline.processes.denoiser import Denoiser
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.prediction import NoisePrediction
from isocline.processes.probability_flow import LinearPathVariable, NoiseRatioVariable
from isocline.processes.schedule import (
    VESchedule,
)
from isocline.samplers.continuous import ContinuousSampler
from isocline.samplers.ddim import DDIMSampler
from isocline.samplers.edm_heun import EDMHeunSampler
from isocline.samplers.extrapolation import EqualSteps, PolynomialInLogRatio, PolynomialInRatio, PolynomialInTime
from isocline.samplers.grid import GivenGrid, PowerGrid, QuadraticTimeGrid, UniformLogRatioGrid, UniformTimeGrid
from isocline.samplers.noise_multistep import NoiseHistory, NoiseMultistep, NoiseMultistepSampler
from isocline.samplers.noise_step import DDIMStep, HeunStep
from isocline.samplers.pndm import PNDMSampler
from isocline.samplers.predictor_corrector import PredictorCorrectorSampler
from isocline.solvers.controller import ConstantSteps
from isocline.solvers.explicit import RK4, Euler
from isocline.solvers.loop import solve
from isocline.solvers.problem import ODEProblem

RULES = {
    "time": PolynomialInTime(),
    "ratio": PolynomialInRatio(),
    "log_ratio": PolynomialInLogRatio(),
    "equal": EqualSteps(),
}
SAMPLERS = {
    "ddim": DDIMSampler(UniformTimeGrid()),
    "deis": NoiseMultistepSampler(3, PolynomialInTime(), UniformTimeGrid()),
    "deis_ratio": NoiseMultistepSampler(3, PolynomialInRatio(), UniformTimeGrid()),
    "ipndm": NoiseMultistepSampler(4, EqualSteps(), UniformTimeGrid()),
    "pndm": PNDMSampler(UniformTimeGrid()),
    "edm_heun": EDMHeunSampler(UniformTimeGrid()),
    "edm_heun_churned": EDMHeunSampler(UniformTimeGrid(), churn=10),
    "predictor_corrector": PredictorCorrectorSampler(UniformTimeGrid()),
}


def position(ratio: float) -> float:
    return ratio / (1 + ratio)


def flow(process: GaussianProcess, y: torch.Tensor, s0: float, s1: float, n: int) -> torch.Tensor:
    """The exact flow in y = (1 − s) x_0 + s ε, to rounding."""
    problem = ODEProblem(LinearPathVariable().field(exact(process)), y, s0, s1)
    return solve(problem, RK4(), ConstantSteps(n)).final


def problem_of(process: GaussianProcess) -> ODEProblem:
    return ODEProblem(LinearPathVariable().field(exact(process)), noise(), 0.9, 0.1)


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_a_step_from_an_exact_history_has_an_error_of_one_order_more(name: str, rule: str, order: int) -> None:
    process, problem = PROCESSES[name], problem_of(PROCESSES[name])
    sizes = (0.02, 0.01)
    errors = []
    for h in sizes:
        # Equidistant in the ratio, where the weights of equal steps are those of the polynomial.
        past = [position(0.6 + h * i) for i in reversed(range(order))]
        end = position(0.6 - h)
        y, states = flow(process, noise(), position(0.8), past[0], 40), []
        for s0, s1 in itertools.pairwise((*past, end)):
            states.append(y)
            y = flow(process, y, s0, s1, 4)
        field = problem.evaluate
        noises = [x + (1 - s) * field(torch.tensor(s, dtype=D), x) for s, x in zip(past, states, strict=True)]
        shares = RULES[rule].shares(process, past[::-1], end)
        stepper = NoiseMultistep((*past, end), [shares] * order)
        history = NoiseHistory(order - 1, tuple(noises[-2::-1]) if order > 1 else ())
        result = stepper.step(problem, torch.tensor(past[-1], dtype=D), torch.tensor(end, dtype=D), states[-1], history)
        errors.append(float((result.y1 - y).abs().mean()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order + 1, abs=0.35), errors


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize(("step", "order"), [(DDIMStep(), 1), (HeunStep(), 2)], ids=["ddim", "heun"])
def test_one_step_methods_have_an_error_of_one_order_more(name: str, step, order: int) -> None:
    process, problem = PROCESSES[name], problem_of(PROCESSES[name])
    y = flow(process, noise(), 0.7, 0.5, 20)
    errors = []
    for h in (0.02, 0.01):
        error = step.advance(problem, y, 0.5, 0.5 - h).y1 - flow(process, y, 0.5, 0.5 - h, 4)
        errors.append(float(error.abs().mean()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order + 1, abs=0.3), errors


@pytest.mark.parametrize("rule", ["time", "ratio", "equal"])
def test_shares_of_a_step_sum_to_one(rule: str) -> None:
    known = [0.5, 0.6, 0.9, 0.99]
    for process in PROCESSES.values():
        for end in (0.3, 0.0):
            assert sum(RULES[rule].shares(process, known, end)) == pytest.approx(1, abs=1e-9)


def test_polynomials_in_the_ratio_have_adams_weights_on_equal_steps() -> None:
    known = [position(r) for r in (0.6, 0.7, 0.8, 0.9)]
    found = PolynomialInRatio().shares(PROCESSES["vp"], known, position(0.5))
    assert found == pytest.approx((55 / 24, -59 / 24, 37 / 24, -9 / 24), rel=1e-9)
    assert EqualSteps().shares(PROCESSES["vp"], known, 0.1) == pytest.approx(found, rel=1e-9)


def test_noise_of_pure_noise_has_no_share_where_its_coordinate_is_infinite() -> None:
    known, end = [0.6, 0.8, 1.0], 0.5
    process = PROCESSES["linear"]
    shorter = PolynomialInRatio().shares(process, known[:2], end)
    assert PolynomialInRatio().shares(process, known, end) == (*shorter, 0.0)
    assert all(share != 0 for share in PolynomialInTime().shares(process, known, end))
    assert PolynomialInLogRatio().shares(process, known[:2], 0.0) == (1.0,)


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_point_mass_is_reached_exactly_from_any_process(name: str, sampler: str) -> None:
    for nfe in (1, 2, 3, 7, 20):
        solution = SAMPLERS[sampler].sample(exact(PROCESSES[name], POINT), noise(), nfe, generator=stream())
        torch.testing.assert_close(solution.final, POINT.means.expand_as(solution.final), rtol=0, atol=1e-8)
        assert bool(solution.succeeded.all())


@functools.lru_cache
def end_of_flow(name: str) -> torch.Tensor:
    process = PROCESSES[name]
    sampler = ContinuousSampler(RK4(), PowerGrid(min_ratio=2e-3), LinearPathVariable())
    return sampler.sample(exact(process), noise(), 4 * 150).final


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("sampler", ["deis", "deis_ratio", "ipndm", "pndm", "edm_heun"])
def test_many_steps_converge_to_the_flow_faster_than_ddim(name: str, sampler: str) -> None:
    def error(method, nfe: int) -> float:
        found = method.on(PowerGrid(min_ratio=2e-3)).sample(exact(PROCESSES[name]), noise(), nfe).final
        return float((found - end_of_flow(name)).abs().mean())

    chosen = SAMPLERS[sampler]
    assert error(chosen, 80) < error(SAMPLERS["ddim"], 80) / 3
    assert error(chosen, 80) < error(chosen, 20) / 8


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("name", ["vp", "linear"])
def test_budgets_are_kept_and_counted_to_the_last_forward(sampler: str, name: str) -> None:
    calls = 0

    class Counted(torch.nn.Module):
        def forward(self, t, x, cond=None):
            nonlocal calls
            calls += 1
            return torch.zeros_like(x)

    for nfe in (*range(1, 18), 40):
        calls = 0
        solution = SAMPLERS[sampler].sample(Denoiser(Counted(), PROCESSES[name]), noise(3), nfe, generator=stream())
        assert solution.stats.nfe.tolist() == [calls] * 3
        assert nfe - 1 <= calls <= nfe
    with pytest.raises(ValueError, match="nfe=0"):
        SAMPLERS[sampler].sample(Denoiser(Counted(), PROCESSES[name]), noise(3), 0)


def test_budgets_of_pndm_buy_the_warm_up_or_a_lower_order() -> None:
    sampler = PNDMSampler(UniformTimeGrid())
    assert [sampler.steps(PROCESSES["vp"], calls) for calls in (1, 2, 3, 4, 23, 24)] == [1, 2, 3, 3, 22, 15]
    assert [sampler.steps(PROCESSES["linear"], calls) for calls in (1, 3, 4, 5, 24, 25)] == [1, 3, 4, 4, 23, 16]


def test_ipndm_on_equal_steps_of_the_ratio_is_deis_there() -> None:
    process = GaussianProcess(VESchedule(0.01, 2.0), NoisePrediction())
    times = NoiseRatioVariable().time(process, torch.linspace(2.0, 0, 9, dtype=D))[:-1]
    grid = GivenGrid({8: times.tolist()})
    found = [
        NoiseMultistepSampler(4, rule, grid).sample(exact(process), noise(), 8).final
        for rule in (EqualSteps(), PolynomialInRatio())
    ]
    torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-12)


def test_ddim_without_noise_is_eulers_method() -> None:
    for process in PROCESSES.values():
        euler = ContinuousSampler(Euler(), UniformTimeGrid(), LinearPathVariable())
        results = [s.sample(exact(process), noise(), 7).final for s in (euler, DDIMSampler(UniformTimeGrid()))]
        torch.testing.assert_close(*results, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("grid", [QuadraticTimeGrid(), PowerGrid(), UniformLogRatioGrid()])
def test_every_grid_takes_every_sampler(grid) -> None:
    for process, sampler in itertools.product(PROCESSES.values(), SAMPLERS.values()):
        solution = sampler.on(grid).sample(exact(process), noise(4), 14, generator=stream(), save_steps=True)
        assert bool(solution.ys.isfinite().all())
        assert float(solution.ts[0]) == pytest.approx(process.t_max, abs=1e-9)
        assert float(solution.ts[-1]) == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DDIMSampler(UniformTimeGrid(), eta=1.5), "eta=1.5"),
        (lambda: EDMHeunSampler(UniformTimeGrid(), churn=-1), "churn=-1"),
        (lambda: EDMHeunSampler(UniformTimeGrid(), churn=math.nan), "churn=nan"),
        (lambda: EDMHeunSampler(UniformTimeGrid(), churn=10, churn_min=2, churn_max=1), "churn_min at most churn_max"),
        (lambda: NoiseMultistepSampler(5, EqualSteps(), UniformTimeGrid()), "order=5"),
        (lambda: PredictorCorrectorSampler(UniformTimeGrid(), ratio=2), "ratio=2"),
    ],
)
def test_settings_out_of_range_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("sampler", ["edm_heun_churned", "predictor_corrector"])
def test_noise_without_a_generator_is_refused(sampler: str) -> None:
    with pytest.raises(ValueError, match="generator"):
        SAMPLERS[sampler].sample(exact(PROCESSES["vp"]), noise(), 8)
