"""Discrete samplers driven by exact denoisers reproduce the law that the denoiser belongs to."""

import pytest
import torch
from tests.samplers.enumerated_cases import distance, generate, law
from tests.samplers.moving_noise import MovingNoiseKernel

from isocline.processes.enumerated import EnumeratedDenoiser
from isocline.processes.kernel import AbsorbingKernel, UniformKernel
from isocline.processes.token_schedule import CosineSurvival, LinearSurvival
from isocline.samplers.corrected_tokens import CorrectedSampler
from isocline.samplers.discrete import AncestralSampler, ConfidenceSampler, TauLeapingSampler
from isocline.samplers.entropy_bounded import EntropyBoundedSampler
from isocline.samplers.first_hitting import FirstHittingSampler
from isocline.samplers.gillespie import GillespieSampler
from isocline.samplers.markov_euler import MarkovEulerSampler
from isocline.samplers.mask_predict import MaskPredictSampler
from isocline.samplers.order import LeastEntropy, Margin
from isocline.samplers.remask import RemaskSampler
from isocline.samplers.remasking import CapRemasking, ConfidenceRemasking, LoopRemasking, RescaledRemasking
from isocline.samplers.token_corrector import DetailedBalanceCorrector, ForwardBackwardCorrector
from isocline.samplers.twisted import TwistedSampler

ABSORBING, UNIFORM = AbsorbingKernel(4, LinearSurvival()), UniformKernel(4, LinearSurvival())
COSINE, MOVING = AbsorbingKernel(4, CosineSurvival()), MovingNoiseKernel(4)
MONOTONE = [
    (AncestralSampler(), ABSORBING),
    (TauLeapingSampler(), COSINE),
    (MarkovEulerSampler(), COSINE),
    (ConfidenceSampler(), ABSORBING),
    (ConfidenceSampler(Margin()), ABSORBING),
    (ConfidenceSampler(LeastEntropy(), pace=CosineSurvival()), ABSORBING),
    (EntropyBoundedSampler(0.5), COSINE),
    (FirstHittingSampler(), COSINE),
    (GillespieSampler(), COSINE),
]
SAMPLERS = [
    *MONOTONE,
    (AncestralSampler(), UNIFORM),
    (AncestralSampler(), MOVING),
    (TauLeapingSampler(), UNIFORM),
    (TauLeapingSampler(), MOVING),
    (MarkovEulerSampler(), UNIFORM),
    (MarkovEulerSampler(), MOVING),
    (GillespieSampler(), UNIFORM),
    (GillespieSampler(), MOVING),
    (MaskPredictSampler(), ABSORBING),
    (RemaskSampler(CapRemasking(0.2)), COSINE),
    (RemaskSampler(ConfidenceRemasking(RescaledRemasking(0.5))), ABSORBING),
    (RemaskSampler(LoopRemasking(RescaledRemasking(0.5))), ABSORBING),
    (CorrectedSampler(AncestralSampler(), ForwardBackwardCorrector()), ABSORBING),
    (CorrectedSampler(TauLeapingSampler(), DetailedBalanceCorrector()), UNIFORM),
    (CorrectedSampler(AncestralSampler(), ForwardBackwardCorrector()), MOVING),
]
samplers = pytest.mark.parametrize(
    ("sampler", "kernel"), SAMPLERS, ids=[f"{type(s).__name__}-{type(k).__name__}" for s, k in SAMPLERS]
)


@pytest.mark.parametrize(
    ("sampler", "kernel", "nfe"),
    [
        (AncestralSampler(), ABSORBING, 50),
        (AncestralSampler(), UNIFORM, 50),
        (TauLeapingSampler(), COSINE, 50),
        (TauLeapingSampler(), UNIFORM, 50),
        (AncestralSampler(), MOVING, 50),
        (TauLeapingSampler(), MOVING, 50),
        (MarkovEulerSampler(), COSINE, 60),
        (MarkovEulerSampler(), UNIFORM, 60),
        (MarkovEulerSampler(), MOVING, 60),
    ],
    ids=[
        "ancestral-absorbing",
        "ancestral-uniform",
        "leap-absorbing",
        "leap-uniform",
        "ancestral-moving",
        "leap-moving",
        "euler-absorbing",
        "euler-uniform",
        "euler-moving",
    ],
)
def test_many_steps_reproduce_the_law(sampler, kernel, nfe):
    truth, solution = generate(sampler, kernel, 4000, nfe)
    found, noise = distance(truth, solution.final)
    assert found < 2 * noise + 0.015


@pytest.mark.parametrize("kernel", [ABSORBING, UNIFORM], ids=["absorbing", "uniform"])
@pytest.mark.parametrize("sampler", [AncestralSampler(), TauLeapingSampler()], ids=["ancestral", "leap"])
def test_the_error_of_parallel_decisions_falls_with_the_number_of_steps(sampler, kernel):
    errors = [float(distance(*_final(generate(sampler, kernel, 4000, nfe)))[0]) for nfe in (1, 4, 24)]
    assert errors[0] > 1.5 * errors[1]
    assert errors[1] > 1.5 * errors[2]


def _final(pair):
    return pair[0], pair[1].final


def test_one_step_draws_every_position_from_its_own_marginal():
    truth, solution = generate(AncestralSampler(), ABSORBING, 20_000, 1)
    marginals = torch.stack([truth.probs @ (truth.sequences == k).double() for k in range(3)])
    product = torch.stack([marginals[truth.sequences[:, i], i] for i in range(3)]).prod(0)
    assert 0.5 * (truth.frequencies(solution.final) - product).abs().sum() < 0.02


@samplers
@pytest.mark.parametrize("nfe", [1, 2, 5])
def test_the_last_step_decides_everything_within_the_budget(sampler, kernel, nfe):
    _, solution = generate(sampler, kernel, 200, nfe)
    assert solution.final.dtype == torch.int64
    assert solution.final.min() >= 0
    assert solution.final.max() <= 2
    assert solution.stats.nfe.max() <= nfe
    assert solution.status.eq(0).all()


@samplers
def test_prompted_positions_keep_their_tokens_at_every_step(sampler, kernel):
    tokens, fixed = torch.tensor([0, 2, 0]), torch.tensor([False, True, False])
    _, solution = generate(sampler, kernel, 100, 3, prompt=(tokens, fixed), save_steps=True)
    assert (solution.ys[:, :, 1] == 2).all()


@pytest.mark.parametrize(
    ("sampler", "kernel", "nfe"),
    [(FirstHittingSampler(), ABSORBING, 2), (AncestralSampler(), ABSORBING, 60)],
    ids=["first-hitting", "ancestral"],
)
def test_infilling_draws_from_the_conditional_law(sampler, kernel, nfe):
    tokens, fixed = torch.tensor([0, 2, 0]), torch.tensor([False, True, False])
    truth, solution = generate(sampler, kernel, 5000, nfe, prompt=(tokens, fixed))
    conditional = truth.probs * (truth.sequences[:, 1] == 2)
    conditional /= conditional.sum()
    assert 0.5 * (truth.frequencies(solution.final) - conditional).abs().sum() < 0.03


@samplers
def test_the_generator_alone_decides_the_sample(sampler, kernel):
    first, second, other = (generate(sampler, kernel, 50, 3, seed=seed)[1].final for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


@samplers
def test_steps_are_saved_from_the_prior_to_the_sample(sampler, kernel):
    _, solution = generate(sampler, kernel, 10, 3, save_steps=True)
    assert solution.ys.shape[1:] == (10, 3)
    assert solution.ts[0] == 1
    assert solution.ts[-1] == 0
    if kernel is not UNIFORM:
        assert (solution.ys[0] == 3).all()
    if (sampler, kernel) in MONOTONE:
        visible = solution.ys[:-1] != 3
        assert torch.equal(solution.ys[1:][visible], solution.ys[:-1][visible])


def test_confidence_decides_equal_numbers_per_step():
    _, solution = generate(ConfidenceSampler(), ABSORBING, 20, 3, save_steps=True)
    assert (solution.ys == 3).sum(-1).float().mean(1).tolist() == [3, 2, 1, 0]


def test_confidence_takes_the_surest_position_first():
    certain = torch.tensor([[0.4, 0.6, 0.0, 0.0], [0.0, 0.01, 0.99, 0.0], [0.3, 0.3, 0.4, 0.0]])
    network = lambda t, z, cond=None: certain.log().expand(len(z), -1, -1)  # noqa: E731
    for order in (None, Margin(), LeastEntropy()):
        sampler = ConfidenceSampler(order, temperature=0.0)
        solution = sampler.sample(network, ABSORBING, (1, 3), 3, torch.Generator(), save_steps=True)
        assert solution.ys[:, 0].tolist() == [[3, 3, 3], [3, 2, 3], [1, 2, 3], [1, 2, 2]]


def test_evaluations_stop_counting_once_a_sequence_is_decided():
    tokens, fixed = torch.tensor([[0, 1, 2], [0, 1, 2]]), torch.tensor([[True] * 3, [False] * 3])
    _, solution = generate(FirstHittingSampler(), ABSORBING, 2, 3, prompt=(tokens, fixed))
    assert solution.stats.nfe.tolist() == [0, 3]


def test_the_network_is_called_no_more_often_than_the_budget():
    truth = law()
    for sampler in (AncestralSampler(), FirstHittingSampler()):
        network = EnumeratedDenoiser(truth, ABSORBING)
        calls = []
        network.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        sampler.sample(network, ABSORBING, (4, 3), 2, torch.Generator())
        assert len(calls) == 2


def test_zero_temperature_is_greedy():
    truth, solution = generate(AncestralSampler(temperature=0.0), ABSORBING, 50, 1)
    marginals = torch.stack([truth.probs @ (truth.sequences == k).double() for k in range(3)])
    assert (solution.final == marginals.argmax(0)).all()


def test_unsuitable_requests_are_refused_by_name():
    with pytest.raises(ValueError, match="nfe = 0"):
        generate(AncestralSampler(), ABSORBING, 1, 0)
    with pytest.raises(TypeError, match="UniformKernel"):
        generate(ConfidenceSampler(), UNIFORM, 1, 2)
    with pytest.raises(ValueError, match="token 3"):
        generate(AncestralSampler(), ABSORBING, 1, 2, prompt=(torch.full((3,), 3), torch.ones(3).bool()))
    with pytest.raises(ValueError, match="prompt has shapes"):
        generate(AncestralSampler(), ABSORBING, 1, 2, prompt=(torch.zeros(5).long(), torch.ones(5).bool()))


def test_steps_that_reveal_nothing_are_not_evaluated():
    rows = []

    def network(t, z, cond=None):
        rows.append(len(z))
        return torch.zeros(len(z), 3, 4)

    solution = AncestralSampler().sample(network, ABSORBING, (20, 3), 100, torch.Generator().manual_seed(0))
    assert solution.stats.nfe.max() <= 3
    assert solution.stats.nfe.sum() == sum(rows)


def test_a_schedule_with_noise_at_the_start_is_refused_where_sampling_would_end_in_noise():
    class Late(LinearSurvival):
        def a(self, t):
            return 0.9 * super().a(t)

    for sampler in (AncestralSampler(), TwistedSampler(particles=1)):
        with pytest.raises(ValueError, match=r"a\(0\) = 0.9"):
            generate(sampler, UniformKernel(4, Late()), 1, 2, prompt=(torch.zeros(3).long(), torch.ones(3).bool()))
