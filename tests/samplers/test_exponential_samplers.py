"""Exponential integrators on exact fields: orders, exact cases, both infinite ends, budgets, guidance, noise."""

from __future__ import annotations

import functools
import math
from pathlib import Path

import hydra.utils
import pytest
import torch
from omegaconf import OmegaConf
from tests.samplers.exact_fields import MIXTURE, POINT, PROCESSES, D, exact, noise
from tests.samplers.exponential_cases import METHODS, budget
from tests.samplers.labelled_mixture import Labelled

from isocline.processes.denoiser import Denoiser
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.mixture import GaussianMixture
from isocline.processes.prediction import DataPrediction, NoisePrediction
from isocline.processes.probability_flow import LinearPathVariable
from isocline.processes.schedule import LinearSchedule, VPLinearSchedule
from isocline.samplers.continuous import ContinuousSampler
from isocline.samplers.exponential import AbstractExponentialMethod, ExponentialSampler
from isocline.samplers.grid import PowerGrid, UniformLogRatioGrid, UniformTimeGrid
from isocline.samplers.guidance import ClassifierFreeGuidance
from isocline.samplers.log_ratio import DataForm, NoiseForm, log_ratio_at, position_at
from isocline.samplers.multistep import ExponentialMultistep
from isocline.samplers.singlestep import ExponentialSinglestep, dpm_solver, dpm_solver_plus_plus
from isocline.solvers.explicit import RK4, Euler
from isocline.solvers.exponential import ETD1, ETD2RK

CONF = Path(__file__).parents[2] / "conf" / "sampler"
NAMES = [
    "dpm_solver_1", "dpm_solver_2", "dpm_solver_3", "dpmpp_2s", "dpmpp_2m", "dpmpp_3m", "dpmpp_sde", "unipc",
]  # fmt: skip


def configured(name: str) -> ExponentialSampler:
    return hydra.utils.instantiate(OmegaConf.load(CONF / f"{name}.yaml"))


@functools.cache
def before_the_last_step(process: str) -> torch.Tensor:
    """The flow's state at λ = 5 (or σ_min), where the last step begins on every grid of the test below."""
    sampler = ContinuousSampler(RK4(), UniformLogRatioGrid(), LinearPathVariable())
    return sampler.sample(exact(PROCESSES[process]), noise(), 4 * 250, save_steps=True).ys[-2]


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("dpm_solver_1", 1),
        ("dpm_solver_2", 2),
        ("dpm_solver_3", 3),
        ("dpmpp_2s", 2),
        ("dpmpp_3s", 3),
        ("dpmpp_2m", 2),
        ("dpmpp_2m_exact", 2),
        ("dpmpp_3m", 3),
        ("unipc_2_b1", 3),
        # The first step, corrected once, has an error of h³: order 4 shows as long as that one is small, 3 in the end.
        ("unipc_3_b2", 3.5),
        ("unipc_3_noise", 3.5),
    ],
)
def test_each_method_has_its_order_in_the_log_ratio_and_a_corrector_raises_it(
    process: str, name: str, order: float
) -> None:
    method, truth = METHODS[name], before_the_last_step(process)
    sampler = ExponentialSampler(method, UniformLogRatioGrid())
    errors = []
    for steps in (40, 80):
        solution = sampler.sample(exact(PROCESSES[process]), noise(), budget(method, steps), save_steps=True)
        assert len(solution.ts) == steps + 1
        errors.append(float((solution.ys[-2] - truth).abs().mean()))
    assert math.log2(errors[0] / errors[1]) > order - 0.2, errors
    assert errors[1] < {1: 3e-2, 2: 2e-3, 3: 8e-4, 3.5: 3e-4}[order]


@pytest.mark.parametrize("method", [dpm_solver(1), ExponentialMultistep(1, DataForm()), dpm_solver_plus_plus(1)])
@pytest.mark.parametrize("process", PROCESSES)
def test_the_methods_of_order_one_are_ddim(method: AbstractExponentialMethod, process: str) -> None:
    denoiser, grid = exact(PROCESSES[process]), UniformTimeGrid()
    ours = ExponentialSampler(method, grid).sample(denoiser, noise(), 7, save_steps=True)
    ddim = ContinuousSampler(Euler(), grid, LinearPathVariable()).sample(denoiser, noise(), 7, save_steps=True)
    torch.testing.assert_close(ours.ys, ddim.ys, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(ours.ts, ddim.ts)


@pytest.mark.parametrize("nfe", [1, 2, 3, 6, 11])
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("process", PROCESSES)
def test_a_point_mass_is_reached_exactly_from_and_to_infinite_log_ratios(process: str, name: str, nfe: int) -> None:
    # The predicted noise and the predicted data are constant along the flow: nothing is left for any order to do.
    sampler = ExponentialSampler(METHODS[name], UniformLogRatioGrid())
    solution = sampler.sample(exact(PROCESSES[process], POINT), noise(), nfe, save_steps=True)
    torch.testing.assert_close(solution.final, POINT.means.double().expand(16, 2), rtol=0, atol=1e-9)
    assert bool(solution.ys.isfinite().all())
    assert solution.stats.nfe.tolist() == [nfe] * 16
    assert float(solution.ts[0]) == pytest.approx(1, abs=1e-9)
    assert solution.ts[-1] == 0


class Quadratic(torch.nn.Module):
    """Data predictions that are a polynomial of degree 2 in λ, whatever the state."""

    coefficients = torch.tensor([[0.3, -0.2], [0.5, 0.1], [-0.07, 0.2]], dtype=D)

    def forward(self, t, x, cond=None):
        lam = LinearSchedule().log_ratio(t)
        return sum(lam**k * self.coefficients[k] for k in range(3)).expand_as(x)

    def particular(self, lam: float) -> torch.Tensor:
        """P − P' + P'', which solves du/dλ = P − u."""
        c0, c1, c2 = self.coefficients
        return c0 + c1 * lam + c2 * lam**2 - c1 - 2 * c2 * lam + 2 * c2


@pytest.mark.parametrize(
    ("method", "exact_from"),
    [
        (ExponentialMultistep(3, DataForm()), 2),
        (ExponentialMultistep(3, DataForm(), corrector=True), 3),
        (ExponentialMultistep(4, DataForm()), 2),
    ],
    ids=["dpmpp_3m", "unipc_3", "order_4"],
)
def test_three_steps_integrate_data_that_are_quadratic_in_the_log_ratio(method, exact_from: int) -> None:
    network = Quadratic()
    denoiser = Denoiser(network, GaussianProcess(LinearSchedule(), DataPrediction(), t_min=1e-6, t_max=1 - 1e-6))
    solution = ExponentialSampler(method, PowerGrid()).sample(denoiser, noise(3), 16, save_steps=True)
    lam = [log_ratio_at(float(s)) for s in solution.ts[:-1]]
    u = [y / (1 - s) for y, s in zip(solution.ys[:-1], solution.ts[:-1], strict=True)]
    for i in range(exact_from, len(lam) - 1):
        rest = u[i] - network.particular(lam[i])
        expected = network.particular(lam[i + 1]) + math.exp(lam[i] - lam[i + 1]) * rest
        torch.testing.assert_close(u[i + 1], expected, rtol=1e-9, atol=1e-10)


def test_singlestep_methods_take_their_stages_as_the_papers_algorithms_do() -> None:
    """Algorithms 1 and 2 of DPM-Solver and 1 of DPM-Solver++, written out in α and σ for one step."""
    process = GaussianProcess(VPLinearSchedule(), NoisePrediction())
    denoiser, x1 = exact(process), noise()
    grid = UniformTimeGrid()
    for method, step in ((dpm_solver(2), _paper_2), (dpm_solver(3), _paper_3), (dpm_solver_plus_plus(2), _paper_2s)):
        solution = ExponentialSampler(method, grid).sample(denoiser, x1, 3 * method.order + 1, save_steps=True)
        for i in range(3):
            expected = step(denoiser, solution.ys[i], solution.ts[i], solution.ts[i + 1])
            torch.testing.assert_close(solution.ys[i + 1], expected, rtol=1e-9, atol=1e-11)


def _between(denoiser, t0, t1, share):
    schedule = denoiser.process.schedule
    lam0, lam1 = schedule.log_ratio(t0), schedule.log_ratio(t1)
    t = schedule.inverse_log_ratio(lam0 + share * (lam1 - lam0))
    return t, schedule(t), lam1 - lam0


def _paper_2(denoiser, x, t0, t1):
    now, then = denoiser.process.schedule(t0), denoiser.process.schedule(t1)
    t, mid, h = _between(denoiser, t0, t1, 0.5)
    u = mid.alpha / now.alpha * x - mid.sigma * torch.expm1(h / 2) * denoiser.noise(t0, x)
    return then.alpha / now.alpha * x - then.sigma * torch.expm1(h) * denoiser.noise(t, u)


def _paper_3(denoiser, x, t0, t1):
    r1, r2 = 1 / 3, 2 / 3
    now, then = denoiser.process.schedule(t0), denoiser.process.schedule(t1)
    first, early, h = _between(denoiser, t0, t1, r1)
    second, late, _ = _between(denoiser, t0, t1, r2)
    eps = denoiser.noise(t0, x)
    u1 = early.alpha / now.alpha * x - early.sigma * torch.expm1(r1 * h) * eps
    d1 = denoiser.noise(first, u1) - eps
    u2 = late.alpha / now.alpha * x - late.sigma * torch.expm1(r2 * h) * eps
    u2 = u2 - late.sigma * r2 / r1 * (torch.expm1(r2 * h) / (r2 * h) - 1) * d1
    d2 = denoiser.noise(second, u2) - eps
    end = then.alpha / now.alpha * x - then.sigma * torch.expm1(h) * eps
    return end - then.sigma / r2 * (torch.expm1(h) / h - 1) * d2


def _paper_2s(denoiser, x, t0, t1):
    now, then = denoiser.process.schedule(t0), denoiser.process.schedule(t1)
    t, mid, h = _between(denoiser, t0, t1, 0.5)
    u = mid.sigma / now.sigma * x - mid.alpha * torch.expm1(-h / 2) * denoiser.data(t0, x)
    return then.sigma / now.sigma * x - then.alpha * torch.expm1(-h) * denoiser.data(t, u)


@pytest.mark.parametrize(
    ("method", "calls", "orders"),
    [
        (dpm_solver(3), 1, (1,)),
        (dpm_solver(3), 3, (2, 1)),
        (dpm_solver(3), 10, (3, 3, 3, 1)),
        (dpm_solver(3), 12, (3, 3, 3, 2, 1)),
        (dpm_solver(2), 10, (2, 2, 2, 2, 1, 1)),
        (dpm_solver_plus_plus(2), 5, (2, 2, 1)),
        (ExponentialMultistep(3, DataForm()), 5, (3, 3, 3, 2, 1)),
        (ExponentialMultistep(2, DataForm()), 1, (1,)),
        (ExponentialMultistep(3, DataForm()), 16, (3,) * 15 + (1,)),
    ],
)
def test_budgets_buy_the_papers_orders(method: AbstractExponentialMethod, calls: int, orders: tuple[int, ...]) -> None:
    assert method.orders(calls) == orders


@pytest.mark.parametrize("nfe", [1, 2, 3, 4, 5, 8, 10, 15])
@pytest.mark.parametrize("name", NAMES)
def test_every_budget_is_spent_to_the_last_evaluation(name: str, nfe: int) -> None:
    calls = 0

    class Counted(torch.nn.Module):
        def forward(self, t, x, cond=None):
            nonlocal calls
            calls += 1
            return -x

    denoiser = Denoiser(Counted(), PROCESSES["linear"])
    solution = configured(name).sample(denoiser, noise(3), nfe, generator=torch.Generator())
    assert solution.stats.nfe.tolist() == [nfe] * 3
    assert calls == nfe
    assert bool(solution.final.isfinite().all())


@pytest.mark.parametrize("name", NAMES)
def test_the_configured_samplers_carry_noise_to_the_mixture(name: str) -> None:
    for process in ("vp", "linear", "edm"):
        x = configured(name).sample(
            exact(PROCESSES[process]), noise(8000), 61, generator=torch.Generator().manual_seed(5)
        ).final  # fmt: skip
        torch.testing.assert_close(x.mean(0), MIXTURE.mean, rtol=0, atol=0.03)
        torch.testing.assert_close(x.T.cov(), MIXTURE.covariance, rtol=0, atol=0.03)


@pytest.mark.parametrize("name", NAMES)
def test_guidance_wraps_every_sampler_and_counts_both_forwards(name: str) -> None:
    process = PROCESSES["vp"]
    network, labels = Labelled(process), torch.tensor([0, 1, 1])
    guided = ClassifierFreeGuidance(Denoiser(network, process), 1.0)
    sampler = configured(name)
    solution = sampler.sample(guided, noise(3), 12, cond=labels, generator=torch.Generator().manual_seed(1))
    assert solution.stats.nfe.tolist() == [12] * 3
    assert network.calls == 12
    # s = 1 is the conditional flow, at half the evaluations.
    plain = sampler.sample(
        Denoiser(Labelled(process), process), noise(3), 6, cond=labels, generator=torch.Generator().manual_seed(1)
    )
    torch.testing.assert_close(solution.final, plain.final, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_does_not_depend_on_its_batch_and_keeps_its_dtype(name: str) -> None:
    def streams(n: int) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(10 + i) for i in range(n)]

    x1, denoiser = noise(6).float(), exact(PROCESSES["cosine"])
    together = configured(name).sample(denoiser, x1, 8, generator=streams(6)).final
    alone = configured(name).sample(denoiser, x1[:1], 8, generator=streams(1)).final
    assert together.dtype == torch.float32
    assert torch.equal(alone[0], together[0])


@pytest.mark.parametrize("eta", [0.4, 1.0])
def test_the_sde_keeps_the_law_of_a_point_mass_at_every_step(eta: float) -> None:
    process = PROCESSES["vp"]
    sampler = ExponentialSampler(ExponentialMultistep(2, DataForm(eta=eta)), UniformLogRatioGrid())
    start = noise(40_000)
    solution = sampler.sample(
        exact(process, POINT), start, 6, generator=torch.Generator().manual_seed(2), save_steps=True
    )
    # The start lacks α(1) m of the process; its memory fades.
    for t, x in list(zip(solution.ts, solution.ys, strict=True))[1:]:
        values = process.schedule(t)
        torch.testing.assert_close(x.mean(0), values.alpha * POINT.means[0].double(), rtol=0, atol=0.02)
        torch.testing.assert_close(x.std(0), values.sigma.expand(2), rtol=0.015, atol=1e-9)


def test_the_sde_has_a_fresh_law_given_the_start_and_the_flow_has_none() -> None:
    """With η = 1 the end is independent of the start's share; with η = 0 it is a function of it."""
    gaussian = GaussianMixture(torch.ones(1), torch.tensor([[0.5, -0.2]]), torch.tensor([[0.3, 0.1]]))
    x1 = noise(1).expand(20_000, 2).contiguous()
    sampler = ExponentialSampler(ExponentialMultistep(2, DataForm(eta=1.0)), UniformLogRatioGrid())
    for process in ("vp", "linear"):
        final = sampler.sample(
            exact(PROCESSES[process], gaussian), x1, 40, generator=torch.Generator().manual_seed(4)
        ).final
        torch.testing.assert_close(final.mean(0), gaussian.mean, rtol=0, atol=0.02)
        torch.testing.assert_close(final.var(0), gaussian.variances[0].double(), rtol=0.04, atol=0)


def test_without_noise_the_sde_is_the_flow() -> None:
    denoiser = exact(PROCESSES["vp"])
    still = ExponentialSampler(ExponentialMultistep(2, DataForm(eta=1e-9)), UniformLogRatioGrid())
    flow = ExponentialSampler(ExponentialMultistep(2, DataForm()), UniformLogRatioGrid())
    noisy = still.sample(denoiser, noise(), 9, generator=torch.Generator().manual_seed(0)).final
    torch.testing.assert_close(noisy, flow.sample(denoiser, noise(), 9).final, rtol=1e-6, atol=1e-7)


def test_bad_choices_are_named_with_a_cure() -> None:
    with pytest.raises(ValueError, match="generator"):
        configured("dpmpp_sde").sample(exact(PROCESSES["vp"]), noise(), 5)
    with pytest.raises(ValueError, match="nfe=0"):
        configured("dpmpp_2m").sample(exact(PROCESSES["vp"]), noise(), 0)
    with pytest.raises(ValueError, match="eta=-1"):
        DataForm(eta=-1)
    with pytest.raises(ValueError, match="corrector=True"):
        ExponentialMultistep(2, DataForm(eta=1.0), corrector=True)
    with pytest.raises(ValueError, match="order=0"):
        ExponentialMultistep(0, DataForm())
    with pytest.raises(ValueError, match="order=4"):
        dpm_solver(4)
    with pytest.raises(ValueError, match="tableaus"):
        ExponentialSinglestep(NoiseForm(), (ETD2RK.tableau, ETD1.tableau))
    with pytest.raises(ValueError, match="no noise"):
        ExponentialSinglestep(DataForm(eta=1.0), (ETD1.tableau,))


def test_the_log_ratio_of_a_position_is_inverted_at_any_size() -> None:
    assert [log_ratio_at(s) for s in (0.0, 0.5, 1.0)] == [math.inf, 0.0, -math.inf]
    for s in (1e-300, 1e-9, 0.3, 0.999):
        assert position_at(log_ratio_at(s)) == pytest.approx(s, rel=1e-12)
