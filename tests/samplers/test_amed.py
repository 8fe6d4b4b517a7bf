"""AMED: untrained it is the multistep method of its grid, trained it ends closer to a mixture's flow."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from isocline.datasets.batch import Batch
from isocline.metrics.energy_distance import energy_distance
from isocline.processes.denoiser import Denoiser
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.mixture import GaussianMixture
from isocline.processes.prediction import NoisePrediction
from isocline.processes.schedule import VPLinearSchedule
from isocline.samplers.amed import AMEDPredictor, AMEDSampler, TurningPlan
from isocline.samplers.amed_distillation import AMEDDistillation, AMEDLawMatching
from isocline.samplers.base import AbstractSampler
from isocline.samplers.continuous import ContinuousSampler
from isocline.samplers.exponential import ExponentialSampler
from isocline.samplers.grid import UniformTimeGrid
from isocline.samplers.singlestep import dpm_solver, dpm_solver_plus_plus
from isocline.samplers.variable import LinearPathVariable
from isocline.solvers.explicit import RK4, Euler
from isocline.solvers.multistep import AdamsBashforth

D = torch.float64
MIXTURE = GaussianMixture(
    torch.tensor([0.4, 0.6]), torch.tensor([[1.0, -0.5], [-0.6, 0.4]]), torch.tensor([[0.04, 0.1], [0.1, 0.05]])
)
VP = GaussianProcess(VPLinearSchedule(), NoisePrediction())
PATH, GRID = LinearPathVariable(), UniformTimeGrid()
ADAMS = ContinuousSampler(AdamsBashforth(2, Euler()), GRID, PATH)
DPM_2 = ExponentialSampler(dpm_solver(2), GRID)


def denoiser() -> Denoiser:
    return Denoiser(MIXTURE.network(VP), VP)


def noise(n: int, seed: int) -> torch.Tensor:
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(seed), dtype=D)


def untrained(*budgets: int, start: AbstractSampler = ADAMS) -> AMEDPredictor:
    torch.manual_seed(0)
    plans = {nfe: TurningPlan.of(start, VP, nfe) for nfe in budgets}
    return AMEDPredictor({nfe: plan for nfe, plan in plans.items() if plan is not None}, (2,), width=16)


def pairs(n: int, seed: int) -> Batch:
    x1 = noise(n, seed)
    return Batch(ContinuousSampler(RK4(), GRID, PATH).sample(denoiser(), x1, 400).final, x1=x1)


@pytest.mark.parametrize(
    ("start", "nfe"), [(ADAMS, 1), (ADAMS, 2), (ADAMS, 5), (ADAMS, 6), (DPM_2, 1), (DPM_2, 3), (DPM_2, 5), (DPM_2, 9)]
)
def test_untrained_it_is_the_sampler_that_it_starts_from(start: AbstractSampler, nfe: int) -> None:
    x1 = noise(16, 0)
    with torch.no_grad():
        found = AMEDSampler(untrained(nfe, start=start)).sample(denoiser(), x1, nfe)
    assert found.final == pytest.approx(start.sample(denoiser(), x1, nfe).final, abs=1e-9)
    assert found.stats.nfe.tolist() == [nfe] * 16


@pytest.mark.parametrize("nfe", [2, 5, 8, 9])
def test_a_plan_has_the_positions_at_which_the_sampler_asks_the_network(nfe: int) -> None:
    asked = []
    own, network = denoiser(), MIXTURE.network(VP)

    class Watched(torch.nn.Module):
        def forward(self, t, x, cond=None):
            asked.append(float(torch.as_tensor(t).flatten()[0]))
            return network(t, x, cond)

    DPM_2.sample(Denoiser(Watched(), VP), noise(1, 0), nfe)
    plan = TurningPlan.of(DPM_2, VP, nfe)
    assert plan is not None
    assert PATH.time(own.process, torch.tensor(plan.positions[:-1])) == pytest.approx(torch.tensor(asked), rel=1e-6)


@pytest.mark.parametrize(
    "other",
    [
        ContinuousSampler(AdamsBashforth(3), GRID, PATH),
        ContinuousSampler(Euler(), GRID, PATH),
        ExponentialSampler(dpm_solver(3), GRID),
        ExponentialSampler(dpm_solver_plus_plus(2), GRID),
    ],
)
def test_other_samplers_are_no_start(other: AbstractSampler) -> None:
    assert TurningPlan.of(other, VP, 5) is None


@pytest.mark.parametrize("start", [ADAMS, DPM_2], ids=["multistep", "midpoint"])
def test_training_brings_the_ends_closer_than_every_usual_sampler_for_new_noise(start: AbstractSampler) -> None:
    predictor = untrained(5, start=start)
    objective = AMEDDistillation(VP, MIXTURE.network(VP))
    optimizer = torch.optim.Adam(predictor.parameters(), lr=0.02)
    batch = pairs(256, 1)
    for _ in range(60):
        optimizer.zero_grad()
        objective(predictor, batch, torch.Generator()).total.backward()
        optimizer.step()
    held_out = pairs(512, 2)

    def error(sampler) -> float:
        with torch.no_grad():
            ends = sampler.sample(denoiser(), held_out.x1, 5).final
        return float((ends - held_out.x0).square().mean(1).sqrt().mean())

    euler = ContinuousSampler(Euler(), GRID, PATH)
    assert error(AMEDSampler(predictor)) < 0.75 * min(error(ADAMS), error(DPM_2), error(euler))


def test_the_gradient_reaches_the_intermediate_time_through_the_network() -> None:
    predictor = untrained(4)
    AMEDDistillation(VP, MIXTURE.network(VP))(predictor, pairs(8, 3), torch.Generator()).total.backward()
    slopes = predictor.for_budget(4).offsets.grad
    assert bool((slopes.abs() > 1e-6).all())


def test_each_image_has_its_own_turns_whatever_the_batch() -> None:
    predictor, x1 = untrained(5), noise(6, 4)
    torch.nn.init.normal_(predictor.for_budget(5).last.weight, std=0.3)
    sampler = AMEDSampler(predictor)
    with torch.no_grad():
        whole = sampler.sample(denoiser(), x1, 5).final
        alone = torch.cat([sampler.sample(denoiser(), x1[i : i + 1], 5).final for i in range(6)])
    assert whole == pytest.approx(alone, abs=1e-6)


@pytest.mark.parametrize("start", [ADAMS, DPM_2], ids=["multistep", "midpoint"])
def test_a_saved_predictor_samples_alike(tmp_path: Path, start: AbstractSampler) -> None:
    predictor, x1 = untrained(3, 10, start=start), noise(4, 5)
    save_file(predictor.state_dict(), tmp_path / "weights.safetensors")
    with torch.no_grad():
        again = AMEDSampler(str(tmp_path / "weights.safetensors")).sample(denoiser(), x1, 10).final
        assert torch.equal(again, AMEDSampler(predictor).sample(denoiser(), x1, 10).final)


def test_a_budget_without_predictor_and_a_missing_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nfe=4.*trained for \[5\]"):
        AMEDSampler(untrained(5)).sample(denoiser(), noise(1, 0), 4)
    with pytest.raises(FileNotFoundError, match="dvc repro"):
        AMEDSampler(str(tmp_path / "none.safetensors")).sample(denoiser(), noise(1, 0), 4)


def test_training_without_noise_is_refused() -> None:
    with pytest.raises(ValueError, match="no x1"):
        AMEDDistillation(VP, MIXTURE.network(VP))(untrained(2), Batch(noise(1, 0)), torch.Generator())


def test_matching_the_law_mends_what_the_flow_itself_gets_wrong() -> None:
    wide = GaussianMixture(MIXTURE.weights, 1.2 * MIXTURE.means, 1.44 * MIXTURE.variances)
    network, predictor, generator = wide.network(VP), untrained(5), torch.Generator().manual_seed(6)
    objective = AMEDLawMatching(VP, network)
    optimizer = torch.optim.Adam(predictor.parameters(), lr=0.02)
    draws = torch.Generator().manual_seed(7)
    for _ in range(150):
        optimizer.zero_grad()
        objective(predictor, Batch(MIXTURE.sample(256, draws)), generator).total.backward()
        optimizer.step()
    x1, data = noise(1024, 8), MIXTURE.sample(1024, draws)

    def apart(sampler, nfe: int) -> float:
        with torch.no_grad():
            return energy_distance(sampler.sample(Denoiser(network, VP), x1, nfe).final, data)

    flow = ContinuousSampler(RK4(), GRID, PATH)
    assert apart(AMEDSampler(predictor), 5) < 0.5 * min(apart(ADAMS, 5), apart(flow, 400))


def test_the_law_of_equal_sets_costs_nothing_and_a_shift_its_energy() -> None:
    objective, x = AMEDLawMatching(VP, MIXTURE.network(VP)), noise(64, 9)
    shifted = x + torch.tensor([3.0, 0.0])
    expected = energy_distance(shifted, x) / 2**0.5
    assert objective.loss(shifted, Batch(x)) == pytest.approx(expected, rel=1e-12)
    assert abs(float(objective.loss(noise(512, 10), Batch(noise(512, 11))))) < 0.02


def test_a_law_of_one_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size"):
        AMEDLawMatching(VP, MIXTURE.network(VP))(untrained(2), Batch(noise(1, 0)), torch.Generator())


def test_under_guidance_budgets_are_questions_to_the_guided_denoiser() -> None:
    class Twice(Denoiser):
        evaluations = 2

    objective = AMEDDistillation(VP, MIXTURE.network(VP), lambda own: Twice(MIXTURE.network(VP), VP))
    predictor, batch = untrained(4), pairs(8, 3)
    guided = objective(predictor, batch, torch.Generator()).total
    plain = AMEDDistillation(VP, MIXTURE.network(VP))(predictor, batch, torch.Generator()).total
    torch.testing.assert_close(guided, plain)
