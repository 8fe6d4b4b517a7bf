"""Guidance on labelled mixtures: exact scores combined by the rule, the right law at scale 1, forwards counted."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from tests.samplers.labelled_mixture import ALL, CLASSES, Classifier, D, Labelled

from isocline.processes.denoiser import Denoiser
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.prediction import DataPrediction, NoisePrediction, ScorePrediction, VelocityPrediction
from isocline.processes.schedule import LinearSchedule, VPLinearSchedule
from isocline.samplers.adaptive import AdaptiveSampler
from isocline.samplers.clipping import ThresholdedDenoiser
from isocline.samplers.continuous import ContinuousSampler
from isocline.samplers.grid import UniformTimeGrid
from isocline.samplers.guidance import AutoGuidance, ClassifierFreeGuidance, ClassifierGuidance, IntervalGuidance
from isocline.samplers.guided import GuidedSampler, Meter
from isocline.samplers.variable import LinearPathVariable, TimeVariable
from isocline.solvers import PIDController
from isocline.solvers.explicit import Dopri5, Euler, Heun

LINEAR = GaussianProcess(LinearSchedule(), VelocityPrediction())
VP = GaussianProcess(VPLinearSchedule(), NoisePrediction(), t_min=1e-3)
BOTH = pytest.mark.parametrize("process", [LINEAR, VP], ids=["linear", "vp"])
LABELS = torch.tensor([0, 1] * 4)


def plain(process: GaussianProcess) -> Denoiser:
    return Denoiser(Labelled(process), process)


def states(n: int = 8, seed: int = 0) -> torch.Tensor:
    return 1.5 * torch.randn(n, 2, generator=torch.Generator().manual_seed(seed), dtype=D)


def scores(process, t, x):  # type: ignore[no-untyped-def]
    values = process.schedule(t)
    both = torch.stack([part.score(values, x) for part in CLASSES])
    return ALL.score(values, x), both[LABELS, torch.arange(len(x))]


@BOTH
@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_classifier_free_guidance_weighs_the_two_exact_scores(process: GaussianProcess, scale: float) -> None:
    t, x = torch.linspace(0.05, 0.95, 8, dtype=D), states()
    free, bound = scores(process, t, x)
    found = ClassifierFreeGuidance(plain(process), scale).predict(t, x, LABELS, ScorePrediction())
    torch.testing.assert_close(found, free + scale * (bound - free))


@BOTH
@pytest.mark.parametrize("to", [DataPrediction(), NoisePrediction(), VelocityPrediction(), ScorePrediction()], ids=str)
def test_the_exact_classifier_makes_the_conditional_prediction_of_any_kind(process, to) -> None:  # type: ignore[no-untyped-def]
    t, x = torch.linspace(0.05, 0.95, 8, dtype=D), states()
    guided = ClassifierGuidance(plain(process), Classifier(process))
    with torch.inference_mode():
        found = guided.predict(t, x, LABELS, to)
    torch.testing.assert_close(found, plain(process).predict(t, x, LABELS, to))
    assert guided.evaluations == 2


def test_classifier_guidance_is_refused_where_data_leave_no_trace() -> None:
    guided = ClassifierGuidance(plain(LINEAR), Classifier(LINEAR))
    with pytest.raises(ValueError, match="t_max"):
        guided.data(torch.tensor(1.0, dtype=D), states(), LABELS)
    with pytest.raises(ValueError, match="labels"):
        guided.data(torch.tensor(0.5, dtype=D), states())


@BOTH
def test_classifier_guidance_and_the_classifier_free_rule_agree_at_every_scale(process: GaussianProcess) -> None:
    t, x = torch.full((8,), 0.4, dtype=D), states()
    one = ClassifierGuidance(plain(process), Classifier(process), 3.0).velocity(t, x, LABELS)
    torch.testing.assert_close(one, ClassifierFreeGuidance(plain(process), 3.0).velocity(t, x, LABELS))


def test_samples_of_scale_one_have_the_conditional_law() -> None:
    x1, labels = torch.randn(4000, 2, generator=torch.Generator().manual_seed(1), dtype=D), torch.zeros(4000).long()
    sampler = ContinuousSampler(Heun(), UniformTimeGrid(), LinearPathVariable())
    final = sampler.sample(ClassifierFreeGuidance(plain(LINEAR), 1.0), x1, 160, labels).final
    error = 4 * CLASSES[0].covariance.diagonal().sqrt() / 4000**0.5
    assert ((final.mean(0) - CLASSES[0].mean).abs() < error).all()
    torch.testing.assert_close(final.T.cov(), CLASSES[0].covariance, rtol=0.1, atol=0.02)
    share = (final[:, 1] > 0).double().mean()  # of the class's two components
    assert abs(share - 0.5) < 4 * (0.25 / 4000) ** 0.5


def test_stronger_guidance_leads_further_from_the_other_class() -> None:
    x1, labels = torch.randn(500, 2, generator=torch.Generator().manual_seed(1), dtype=D), torch.ones(500).long()
    sampler = ContinuousSampler(Heun(), UniformTimeGrid(), LinearPathVariable())
    means = [
        float(sampler.sample(ClassifierFreeGuidance(plain(LINEAR), s), x1, 80, labels).final[:, 0].mean())
        for s in (0.0, 1.0, 3.0)
    ]
    assert means[0] > means[1] > means[2]


def test_autoguidance_extrapolates_from_the_worse_denoiser() -> None:
    good, t, x = plain(LINEAR), torch.full((8,), 0.6, dtype=D), states()
    worse = Denoiser(ALL.network(VP_SCHEDULED), VP_SCHEDULED)  # the same path, another prediction, no labels
    found = AutoGuidance(good, worse, 2.0)
    wanted = 2 * good.data(t, x, LABELS) - worse.data(t, x)
    torch.testing.assert_close(found.data(t, x, LABELS), wanted)
    torch.testing.assert_close(AutoGuidance(good, worse, 1.0).data(t, x, LABELS), good.data(t, x, LABELS))
    assert found.evaluations == 2
    with pytest.raises(ValueError, match="schedule"):
        AutoGuidance(good, plain(VP), 2.0)


VP_SCHEDULED = GaussianProcess(LinearSchedule(), DataPrediction())


@pytest.mark.parametrize("interval", [{"ratios": (0.5, 2.0)}, {"times": (1 / 3, 2 / 3)}], ids=["ratios", "times"])
def test_interval_guidance_acts_inside_alone_and_row_by_row(interval) -> None:  # type: ignore[no-untyped-def]
    x, guide = states(), partial(ClassifierFreeGuidance, scale=3.0)
    limited, guided = IntervalGuidance(plain(LINEAR), guide, **interval), guide(plain(LINEAR))
    t = torch.tensor([0.1, 0.3, 0.34, 0.5, 0.6, 0.65, 0.7, 1.0], dtype=D)
    inside = [False, False, True, True, True, True, False, False]
    assert limited.inside(t).tolist() == inside
    assert limited.forwards(t).tolist() == [2 if i else 1 for i in inside]
    wanted = torch.where(torch.tensor(inside)[:, None], guided.data(t, x, LABELS), plain(LINEAR).data(t, x, LABELS))
    torch.testing.assert_close(limited.data(t, x, LABELS), wanted, rtol=0, atol=0)
    for time in t:  # one time for all
        row = torch.full_like(t, float(time))
        torch.testing.assert_close(limited.data(time, x, LABELS), limited.data(row, x, LABELS), rtol=0, atol=0)


def test_an_interval_is_given_once_and_in_order() -> None:
    guide = partial(ClassifierFreeGuidance, scale=3.0)
    for wrong in ({}, {"ratios": (0.1, 1.0), "times": (0.1, 1.0)}, {"times": (0.5, 0.5)}):
        with pytest.raises(ValueError, match=r"interval|give one"):
            IntervalGuidance(plain(LINEAR), guide, **wrong)  # type: ignore[arg-type]


def test_the_forwards_of_an_interval_are_counted_call_by_call() -> None:
    guidance = partial(IntervalGuidance, guide=partial(ClassifierFreeGuidance, scale=2.0), times=(0.25, 0.65))
    for stepper, called in ((Euler(), 10), (Heun(), 10)):
        network = Labelled(LINEAR)
        sampler = GuidedSampler(ContinuousSampler(stepper, UniformTimeGrid(), TimeVariable()), guidance)
        solution = sampler.sample(Denoiser(network, LINEAR), states(), 20, LABELS)
        assert solution.stats.nfe.tolist() == [network.calls] * 8
        assert called < network.calls < 20


def test_a_guided_sampler_is_the_sampler_on_the_guided_denoiser() -> None:
    inner, guidance = (
        ContinuousSampler(Euler(), UniformTimeGrid(), TimeVariable()),
        partial(ClassifierFreeGuidance, scale=2),
    )
    sampler = GuidedSampler(inner, guidance)
    found = sampler.sample(plain(LINEAR), states(), 9, LABELS, save_steps=True)
    wanted = inner.sample(guidance(plain(LINEAR)), states(), 9, LABELS, save_steps=True)
    assert torch.equal(found.ys, wanted.ys)
    assert found.stats.nfe.tolist() == wanted.stats.nfe.tolist() == [8] * 8
    assert sampler.on(UniformTimeGrid()).guidance is guidance


def test_a_sampler_that_finds_its_steps_keeps_its_counts_per_sample() -> None:
    inner = AdaptiveSampler(Dopri5(), PIDController(rtol=1e-4, atol=1e-4), TimeVariable())
    guidance = partial(ClassifierFreeGuidance, scale=2.0)
    found = GuidedSampler(inner, guidance).sample(plain(LINEAR), states(), 4000, LABELS)
    wanted = inner.sample(guidance(plain(LINEAR)), states(), 4000, LABELS)
    assert found.stats.nfe.tolist() == wanted.stats.nfe.tolist()


def test_a_meter_changes_nothing() -> None:
    meter, x, t = Meter(ClassifierFreeGuidance(plain(VP), 2.0)), states(), torch.tensor(0.5, dtype=D)
    torch.testing.assert_close(meter.noise(t, x, LABELS), meter.denoiser.noise(t, x, LABELS))
    assert meter.spent == 2


def test_thresholding_bounds_guided_data_and_keeps_their_order() -> None:
    strong, t = ClassifierFreeGuidance(plain(LINEAR), 8.0), torch.full((8,), 0.9, dtype=D)
    data = strong.data(t, states(), LABELS)
    found = ThresholdedDenoiser(strong, 1.0).data(t, states(), LABELS)
    limit = data.abs().amax(1, keepdim=True).clamp(min=1.0)
    assert (limit > 1).any()
    torch.testing.assert_close(found, data / limit)
    values, noise = LINEAR.schedule(t), ThresholdedDenoiser(strong, 1.0).noise(t, states(), LABELS)
    torch.testing.assert_close(values.alpha[:, None] * found + values.sigma[:, None] * noise, states())
    inside = 0.1 * states()
    small = ThresholdedDenoiser(Denoiser(lambda t, x, cond: x * 0, VP_SCHEDULED), 0.9)  # type: ignore[arg-type]
    torch.testing.assert_close(small.data(t, inside), inside * 0)
    with pytest.raises(ValueError, match="quantile"):
        ThresholdedDenoiser(strong, 0.0)
