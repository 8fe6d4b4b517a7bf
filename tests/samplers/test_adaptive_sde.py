"""The reverse SDE with error control on exact fields: law, convergence along a path, independence of the batch."""

from __future__ import annotations

import math

import pytest
import torch
from tests.samplers.exact_fields import MIXTURE, POINT, PROCESSES, D, exact, noise, stream

from isocline.processes.mixture import GaussianMixture
from isocline.processes.prediction import DifferencePrediction
from isocline.processes.reverse_sde import ReverseDriftPrediction, StraightDriftPrediction
from isocline.processes.schedule import LinearSchedule
from isocline.samplers.adaptive import AdaptiveSampler
from isocline.samplers.adaptive_sde import AdaptiveSDESampler
from isocline.samplers.variable import LinearPathVariable
from isocline.solvers import PIDController, SolverError, Tsit5
from isocline.solvers.srk import ShARK
from isocline.solvers.stratonovich import StratonovichHeun


def sampler(tol: float, stepper=None, **settings) -> AdaptiveSDESampler:
    return AdaptiveSDESampler(ShARK() if stepper is None else stepper, PIDController(tol, tol), **settings)


def test_the_drift_on_the_straight_path_is_that_in_time_divided_by_the_speed_of_the_log_ratio() -> None:
    t = torch.linspace(0.1, 0.9, 9, dtype=D)
    values = LinearSchedule()(t)
    speed = -1 / (t * (1 - t))  # of λ, on the linear path
    for eta in (0.0, 0.7, 1.0):
        ours, usual = (kind(eta).coefficients(values) for kind in (StraightDriftPrediction, ReverseDriftPrediction))
        for found, wanted in zip(ours, usual, strict=True):
            torch.testing.assert_close(found * speed, wanted)
    flow = StraightDriftPrediction(0.0).coefficients(values)
    torch.testing.assert_close(flow[1] * speed, DifferencePrediction().coefficients(values)[1])


@pytest.mark.parametrize(("name", "eta"), [("vp", 1.0), ("linear", 1.0), ("edm", 1.0), ("linear", 0.5)])
def test_the_law_of_samples_is_that_of_a_mixture(name: str, eta: float) -> None:
    n = 1000
    found = sampler(0.1, eta=eta).sample(exact(PROCESSES[name]), noise(n), 2000, generator=stream(1)).final
    truth = MIXTURE.sample(200_000, stream(2))
    # Mean, second moments and the masses on either side of lines, each to four standard errors and a share for bias.
    for statistic in (
        lambda x: x,
        lambda x: torch.stack([x[:, 0] ** 2, x[:, 1] ** 2, x[:, 0] * x[:, 1]], 1),
        lambda x: torch.cat([(x > 0.2), (x > -0.4)], 1).to(D),
    ):
        ours, theirs = statistic(found), statistic(truth)
        error = (ours.mean(0) - theirs.mean(0)).abs()
        assert (error < 4 * theirs.std(0) / math.sqrt(n) + 0.01).all(), error


@pytest.mark.parametrize("eta", [0.7, 1.0])
def test_the_variance_of_samples_is_that_of_gaussian_data(eta: float) -> None:
    n, variances = 2000, torch.tensor([[0.3, 0.1]])
    gaussian = GaussianMixture(torch.ones(1), torch.tensor([[0.5, -0.2]]), variances)
    denoiser = exact(PROCESSES["linear"], gaussian)
    found = sampler(0.1, eta=eta).sample(denoiser, noise(n), 2000, generator=stream(1)).final
    assert ((found.var(0) / variances[0] - 1).abs() < 4 * math.sqrt(2 / n) + 0.03).all(), found.var(0)
    assert ((found.mean(0) - gaussian.means[0]).abs() < 4 * (variances[0] / n).sqrt() + 0.01).all()


@pytest.mark.parametrize("stepper", [ShARK(), StratonovichHeun()])
def test_errors_along_a_path_fall_with_the_tolerance(stepper) -> None:
    denoiser, x1 = exact(PROCESSES["linear"]), noise(12)
    truth = sampler(3e-3).sample(denoiser, x1, 10**5, generator=stream(3)).final
    spent = []
    for tol in (3e-1, 3e-2):
        solution = sampler(tol, stepper).sample(denoiser, x1, 10**5, generator=stream(3))
        # The median: a path near the watershed may end in the other component.
        assert 0.05 < float((solution.final - truth).norm(dim=1).median()) / tol < 3
        spent.append(float(solution.stats.nfe.double().mean()))
    assert spent[0] < spent[1]


def test_without_noise_it_is_the_flow() -> None:
    denoiser, x1 = exact(PROCESSES["linear"]), noise()
    flow = AdaptiveSampler(Tsit5(), PIDController(1e-6, 1e-6), LinearPathVariable()).sample(denoiser, x1, 10**4).final
    found = sampler(1e-3, StratonovichHeun(), eta=0.0).sample(denoiser, x1, 10**5, generator=stream()).final
    assert float((found - flow).abs().max()) < 5e-3


@pytest.mark.parametrize("name", ["vp", "cosine", "edm"])
def test_no_noise_is_left_at_the_end(name: str) -> None:
    found = sampler(0.1).sample(exact(PROCESSES[name], POINT), noise(), 1000, generator=stream())
    torch.testing.assert_close(found.final, POINT.means.expand_as(found.final), rtol=0, atol=1e-7)


def test_streams_of_their_own_make_samples_and_their_steps_independent_of_the_batch() -> None:
    denoiser, x1 = exact(PROCESSES["vp"]), noise(6)

    def draw(rows: list[int]):
        return sampler(0.05).sample(denoiser, x1[rows], 1000, generator=[stream(100 + row) for row in rows])

    together, some = draw(list(range(6))), draw([4, 1])
    torch.testing.assert_close(some.final, together.final[[4, 1]], rtol=1e-12, atol=1e-12)
    assert some.stats.nfe.tolist() == together.stats.nfe[[4, 1]].tolist()
    assert together.stats.nfe.unique().numel() > 1


def test_every_sample_s_evaluations_are_counted() -> None:
    calls = 0

    class Counted(torch.nn.Module):
        def forward(self, t, x, cond=None):
            nonlocal calls
            calls += 1
            return MIXTURE.predict(PROCESSES["linear"].schedule(t), x, PROCESSES["linear"].prediction)

    denoiser = exact(PROCESSES["linear"])
    denoiser.network = Counted()
    solution = sampler(0.05).sample(denoiser, noise(1), 1000, generator=stream())
    assert solution.stats.nfe.tolist() == [calls]
    assert 2 * (int(solution.stats.accepted) + int(solution.stats.rejected)) + 4 == calls


def test_pictures_of_the_way_begin_near_noise_and_end_at_the_sample() -> None:
    denoiser = exact(PROCESSES["vp"])
    kept, plain = (
        sampler(0.02).sample(denoiser, noise(), 5000, generator=stream(), save_steps=save) for save in (True, False)
    )
    assert kept.ys.shape == (18, 16, 2)
    assert (kept.ts.diff() < 0).all()
    torch.testing.assert_close(kept.ys[0], PROCESSES["vp"].prior(noise()))
    torch.testing.assert_close(kept.final, plain.final)


def test_what_cannot_be_done_is_refused_with_the_cure() -> None:
    denoiser = exact(PROCESSES["linear"])
    with pytest.raises(ValueError, match=r"pass generator=torch.Generator\(\)"):
        sampler(0.1).sample(denoiser, noise(), 1000)
    with pytest.raises(ValueError, match="nfe=5 does not pay for one step of ShARK"):
        sampler(0.1).sample(denoiser, noise(), 5, generator=stream())
    with pytest.raises(SolverError, match="nfe=20 does not suffice"):
        sampler(0.1).sample(denoiser, noise(), 20, generator=stream())
    with pytest.raises(ValueError, match="2 generators for 16 samples"):
        sampler(0.1).sample(denoiser, noise(), 1000, generator=[stream(), stream()])
    for settings in ({"eta": -1}, {"margin": 0.0}, {"margin": 0.5}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            sampler(0.1, **settings)
