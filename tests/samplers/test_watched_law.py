"""A network that returns logits that are not finite fails the sequences that it does so for, and no others."""

import pytest
import torch
from tests.samplers.moving_noise import MovingNoiseKernel

from isocline.processes.embedding import EmbeddingProcess
from isocline.processes.kernel import AbsorbingKernel, UniformKernel
from isocline.processes.onehot_path import OneHotGaussianPath
from isocline.processes.schedule import VPCosineSchedule
from isocline.processes.simplex_path import LinearSimplexPath
from isocline.processes.span_kernel import SpanKernel
from isocline.processes.token_schedule import LinearSurvival
from isocline.samplers.autoregressive import AutoregressiveSampler
from isocline.samplers.block import BlockSampler
from isocline.samplers.corrected_tokens import CorrectedSampler
from isocline.samplers.ddim import DDIMSampler
from isocline.samplers.discrete import AncestralSampler, ConfidenceSampler, TauLeapingSampler
from isocline.samplers.embedding import EmbeddingSampler
from isocline.samplers.embedding_denoiser import ClampedEmbeddings
from isocline.samplers.entropy_bounded import EntropyBoundedSampler
from isocline.samplers.first_hitting import FirstHittingSampler
from isocline.samplers.gillespie import GillespieSampler
from isocline.samplers.grid import UniformTimeGrid
from isocline.samplers.markov_euler import MarkovEulerSampler, ReverseEuler
from isocline.samplers.mask_predict import MaskPredictSampler
from isocline.samplers.onehot_flow_map import OneHotFlowMapSampler
from isocline.samplers.order import Margin
from isocline.samplers.remask import RemaskSampler
from isocline.samplers.simplex import SimplexSampler
from isocline.samplers.span import SpanSampler
from isocline.samplers.token_corrector import DetailedBalanceCorrector
from isocline.samplers.token_law import GreedyTail, Sharpening
from isocline.samplers.twisted import TwistedSampler
from isocline.solvers.explicit import Heun
from isocline.solvers.problem import MarkovProblem
from isocline.solvers.solution import SolverError, Status

LENGTH, VOCABULARY = 6, 5
ABSORBING, UNIFORM = (kind(VOCABULARY, LinearSurvival()) for kind in (AbsorbingKernel, UniformKernel))
MOVING, SPANS = MovingNoiseKernel(VOCABULARY), SpanKernel(VOCABULARY, LinearSurvival())
SIMPLEX, ONEHOT = LinearSimplexPath(VOCABULARY), OneHotGaussianPath(VOCABULARY)
EMBEDDINGS = EmbeddingProcess(VOCABULARY, VPCosineSchedule(max_log_ratio=4.0))
DDIM = DDIMSampler(UniformTimeGrid())
CASES = [
    (AncestralSampler(), ABSORBING),
    (AncestralSampler(), UNIFORM),
    (AncestralSampler(temperature=0.0), UNIFORM),
    (AncestralSampler(greedy_tail=1.0), UNIFORM),
    (TauLeapingSampler(top_p=0.9, min_p=0.1), UNIFORM),
    (TauLeapingSampler(), MOVING),
    (MarkovEulerSampler(), UNIFORM),
    (ConfidenceSampler(), ABSORBING),
    (ConfidenceSampler(Margin(), temperature=0.0), ABSORBING),
    (EntropyBoundedSampler(0.5), ABSORBING),
    (FirstHittingSampler(), ABSORBING),
    (GillespieSampler(), UNIFORM),
    (MaskPredictSampler(), ABSORBING),
    (RemaskSampler(), ABSORBING),
    (SpanSampler(), SPANS),
    (CorrectedSampler(TauLeapingSampler(), DetailedBalanceCorrector()), UNIFORM),
    (TwistedSampler(particles=2), UNIFORM),
    (BlockSampler(), ABSORBING),
    (AutoregressiveSampler(), None),
    (AutoregressiveSampler(temperature=0.0), None),
    (SimplexSampler(), SIMPLEX),
    (SimplexSampler(Heun(), temperature=0.0, greedy_last=True), ONEHOT),
    (OneHotFlowMapSampler(greedy_last=True), ONEHOT),
    (EmbeddingSampler(DDIM), EMBEDDINGS),
    (EmbeddingSampler(DDIM, wrap=ClampedEmbeddings, temperature=0.0), EMBEDDINGS),
]
cases = pytest.mark.parametrize(
    ("sampler", "process"), CASES, ids=[f"{type(s).__name__}-{type(p).__name__}-{i}" for i, (s, p) in enumerate(CASES)]
)


class Failing(torch.nn.Module):
    """Logits of nothing in particular, ``value`` at one place of the sequences whose condition is 1."""

    vocab_size, block_length = VOCABULARY, 3

    def __init__(self, process, value):
        super().__init__()
        self.value = value
        relaxed = isinstance(process, LinearSimplexPath | OneHotGaussianPath)
        self.weight = torch.linspace(-1, 1, VOCABULARY - 1 if relaxed else VOCABULARY).double()

    def table(self):
        return torch.linspace(-1, 1, 2 * (VOCABULARY - 1)).reshape(-1, 2).double()

    def embed(self, tokens):
        return self.table()[tokens.clamp(max=VOCABULARY - 2)]

    def forward(self, t, z, cond=None, **more):
        logits = self.weight.expand(len(z), LENGTH, -1).clone()
        logits[cond == 1] = logits[cond == 1].index_fill(-1, torch.tensor([0]), self.value)
        return logits


def generate(sampler, process, value, cond, **more):
    stream = torch.Generator().manual_seed(0)
    return sampler.sample(Failing(process, value), process, (4, LENGTH), 12, stream, cond=torch.tensor(cond), **more)


@pytest.mark.parametrize("value", [torch.nan, torch.inf], ids=["nan", "inf"])
@cases
def test_a_sequence_without_a_law_fails_and_the_others_do_not_notice(sampler, process, value):
    more = {"prompt": (torch.zeros(LENGTH).long(), torch.arange(LENGTH) < 1)}
    if not isinstance(sampler, TwistedSampler):
        more = {}
    solution = generate(sampler, process, value, [0, 1, 0, 0], **more)
    assert solution.status.tolist() == [0, int(Status.NON_FINITE), 0, 0]
    assert solution.succeeded.tolist() == [True, False, True, True]
    assert bool((solution.final[[0, 2, 3]] < VOCABULARY - 1).all())
    with pytest.raises(SolverError, match=r"sample 1 .*not finite"):
        solution.raise_on_failure()


@cases
def test_a_law_is_no_failure(sampler, process):
    assert generate(sampler, process, 0.5, [0, 1, 0, 0]).succeeded.all()


def test_the_time_of_the_failure_is_that_of_the_first_step_that_met_it():
    class Late(Failing):
        def forward(self, t, z, cond=None, **more):
            logits = super().forward(t, z, cond)
            return logits if float(t.max()) < 0.6 else self.weight.expand(logits.shape)

    stream, label = torch.Generator().manual_seed(0), torch.tensor([1, 0])
    network = Late(UNIFORM, torch.nan)
    solution = AncestralSampler().sample(network, UNIFORM, (2, LENGTH), 4, stream, cond=label)
    assert solution.stopped_at.tolist() == [0.25, 0.0]
    assert solution.stats.accepted.tolist() == [2, 4]


def test_sharpened_laws_that_are_none_stay_none():
    values = torch.tensor([[0.0, torch.nan, -1.0], [0.0, 1.0, -1.0]]).log_softmax(-1)
    for sharpening in (Sharpening(), Sharpening(0.0), Sharpening(0.7), Sharpening(top_p=0.5), Sharpening(min_p=0.5)):
        law = sharpening(values)
        assert law[0].isnan().all()
        assert law[1].isfinite().all()
    greedy = GreedyTail(lambda t, z, cond: values.exp(), 1.0)(torch.tensor(0.5), torch.zeros(2, 1).long())
    assert greedy[0].isnan().all()


def test_eulers_step_says_which_rates_are_none():
    class Negative(UniformKernel):
        def reverse_rate(self, t, z, probs):
            rates = super().reverse_rate(t, z, probs)
            return torch.where(torch.arange(len(z))[:, None, None] == 1, -1.0, rates)

    kernel, z = Negative(VOCABULARY, LinearSurvival()), torch.zeros(3, LENGTH).long()
    law = torch.tensor([0.25, 0.25, 0.25, 0.25, 0.0]).double().expand(3, LENGTH, -1)
    problem = MarkovProblem(lambda t, z, cond: law, z, 1.0, 0.0, generator=torch.Generator().manual_seed(0))
    t0, t1 = torch.tensor([0.5, 0.4]).double()
    result = ReverseEuler(kernel).step(problem, t0, t1, z, None)
    assert result.failed.tolist() == [False, True, False]
