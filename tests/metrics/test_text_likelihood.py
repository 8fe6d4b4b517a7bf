"""Which likelihoods a model has, what they say of a law that is known, and which of them is the tightest."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from isocline.metrics.text_likelihood import (
    ANY_ORDER,
    LEFT_TO_RIGHT,
    OWN,
    TextLikelihood,
    likelihood_tensors,
    likelihood_values,
    spread_rows,
    text_likelihoods,
    tightest,
)
from isocline.objectives.masked import MaskedDiffusion
from isocline.objectives.sequence_likelihood import FLOW_BOUND, LikelihoodEstimate
from isocline.processes.enumerated import EnumeratedDenoiser, EnumeratedLaw
from isocline.processes.kernel import AbsorbingKernel, UniformKernel
from isocline.processes.token_schedule import LinearSurvival

LAW = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
ENTROPY = float(-(LAW * LAW.log()).sum())
LENGTH = 24


def source(rows, seed):
    stream = torch.Generator().manual_seed(seed)
    return torch.multinomial(LAW.expand(rows, -1), LENGTH, True, generator=stream)


class KnownLaw:
    def negative_log_likelihood(self, network, tokens, generator, strata):
        return LikelihoodEstimate(-LAW[tokens].log().sum(1), "exact")


def score(objective, tokens, network=None, **more):
    characters = torch.full((len(tokens),), tokens.shape[1])
    settings = {"seed": 0, "strata": 4, "chain_sequences": 8, "batch_size": 300, **more}
    return text_likelihoods(network or torch.nn.Identity(), objective, tokens, characters, **settings)


def test_bits_per_character_of_the_source_under_itself_is_its_entropy():
    found = score(KnownLaw(), source(2000, 5))
    assert list(found) == [OWN]
    assert found[OWN].kind == "exact"
    bits, perplexity = found[OWN].bits_per_char, found[OWN].perplexity
    assert abs(bits.mean - ENTROPY / math.log(2)) < 4 * bits.se
    assert abs(perplexity.mean - math.exp(ENTROPY)) < 4 * perplexity.se


def test_a_masked_model_is_scored_by_the_chain_rule_too_on_some_rows_of_the_whole_text():
    truth = EnumeratedLaw.random(3, 3, 2.0, torch.Generator().manual_seed(0))
    kernel = AbsorbingKernel(4, LinearSurvival())
    tokens = truth.sample(40, torch.Generator().manual_seed(1))
    network = EnumeratedDenoiser(truth, kernel)
    found = score(MaskedDiffusion(kernel), tokens, network, chain_sequences=10, batch_size=7)
    assert {name: (one.kind, int(one.scored.sum())) for name, one in found.items()} == {
        OWN: ("bound", 40),
        LEFT_TO_RIGHT: ("exact", 10),
        ANY_ORDER: ("bound", 10),
    }
    for name in (LEFT_TO_RIGHT, ANY_ORDER):
        assert found[name].scored.nonzero().flatten().tolist() == list(range(0, 40, 4))
        torch.testing.assert_close(found[name].nats[::4], truth.nats(tokens[::4]), rtol=0, atol=1e-10)
    assert list(score(MaskedDiffusion(kernel), tokens, network, chain_sequences=0)) == [OWN]


def test_an_objective_with_a_chain_of_its_own_is_asked_for_it():
    own = SimpleNamespace(
        process=AbsorbingKernel(4, LinearSurvival()),
        negative_log_likelihood=KnownLaw().negative_log_likelihood,
        left_to_right_likelihood=lambda network, tokens: LikelihoodEstimate(tokens.sum(1).double(), "exact"),
    )
    found = score(own, source(10, 0), chain_sequences=5)
    assert list(found) == [OWN, LEFT_TO_RIGHT]
    assert torch.equal(found[LEFT_TO_RIGHT].nats[::2], source(10, 0)[::2].sum(1).double())


def test_no_chain_rule_without_an_absorbing_process_and_nothing_without_a_likelihood():
    kernel = UniformKernel(4, LinearSurvival())
    uniform = SimpleNamespace(process=kernel, negative_log_likelihood=KnownLaw().negative_log_likelihood)
    assert list(score(uniform, source(10, 0))) == [OWN]
    nothing = score(SimpleNamespace(process=kernel), source(10, 0))
    assert nothing == {}
    assert likelihood_values(nothing) == {}
    assert likelihood_tensors(nothing)["characters"].shape == (0,)


def one(nats, kind="bound"):
    return TextLikelihood(torch.tensor(nats, dtype=torch.float64), torch.full((len(nats),), 2), 1, kind)


def test_the_tightest_is_judged_on_the_rows_that_all_of_them_scored():
    """The bound is the smaller number over all of its rows and the larger one where the other was measured."""
    nan = math.nan
    found = {
        OWN: one([0.0, 5.0, 0.0, 5.0]),
        LEFT_TO_RIGHT: one([nan, 4.0, nan, 4.5], "exact"),
        ANY_ORDER: one([nan, 6.0, nan, 4.0]),
    }
    assert tightest(found) == LEFT_TO_RIGHT
    assert tightest({}) is None
    assert tightest({OWN: one([1.0])}) == OWN


def test_metrics_name_every_likelihood_and_the_tightest():
    found = {OWN: one([5.0, 5.0, 1.0]), LEFT_TO_RIGHT: one([4.0, 4.5, math.nan], "exact")}
    values = likelihood_values(found)
    assert list(values) == ["bits_per_char", "perplexity", "bits_per_char_left_to_right", "bits_per_char_tightest"]
    assert values["bits_per_char"]["kind"] == "bound"
    best = values["bits_per_char_tightest"]
    assert (best["likelihood"], best["kind"], best["n"]) == (LEFT_TO_RIGHT, "exact", 2)
    assert best["mean"] == pytest.approx(8.5 / 4 / math.log(2))
    assert best["se"] > 0
    tensors = likelihood_tensors(found)
    assert {name: len(values) for name, values in tensors.items()} == {"characters": 3, OWN: 3, LEFT_TO_RIGHT: 3}


def test_a_flow_bound_has_names_of_its_own_and_is_never_the_tightest():
    values = likelihood_values({OWN: one([5.0, 5.0, 1.0], FLOW_BOUND)})
    assert list(values) == ["bits_per_char_flow", "perplexity_flow"]
    assert {value["kind"] for value in values.values()} == {"flow bound"}
    assert tightest({OWN: one([1.0], FLOW_BOUND)}) is None
    assert tightest({OWN: one([1.0], FLOW_BOUND), ANY_ORDER: one([2.0])}) == ANY_ORDER


class ByClass(torch.nn.Module):
    """Is certain of the token that the class names, and asks for one."""

    def forward(self, t, z, cond):
        sure = torch.nn.functional.one_hot(cond, 4).double()[:, None].expand(*z.shape, -1)
        return (0.97 * sure + 0.01).log()


def test_a_conditional_model_is_scored_given_the_class_in_every_way():
    labels = torch.arange(40) % 3
    tokens = labels[:, None].expand(-1, 5)
    found = score(
        MaskedDiffusion(AbsorbingKernel(4, LinearSurvival())), tokens, ByClass(), labels=labels, chain_sequences=10,
        batch_size=7,
    )  # fmt: skip
    surprise = -5 * math.log(0.98 / (0.98 + 2 * 0.01))
    assert list(found) == [OWN, LEFT_TO_RIGHT, ANY_ORDER]
    for one in found.values():
        torch.testing.assert_close(one.nats[one.scored], torch.full((int(one.scored.sum()),), surprise).double())


def test_rows_are_evenly_spaced_over_the_text():
    assert spread_rows(10, 5).tolist() == [0, 2, 4, 6, 8]
    assert spread_rows(7, 3).tolist() == [0, 2, 4]
    assert spread_rows(3, 9).tolist() == [0, 1, 2]
    assert spread_rows(3, 0).tolist() == []
