"""The evaluation of language models against a source whose entropy is known."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from isocline.metrics.settings import TextSettings
from isocline.metrics.text_evaluation import evaluate_text, generate, text_floor
from isocline.metrics.text_metrics import GenerativePerplexity, TextReference

LENGTH, LETTERS = 24, "ab _"
LAW = torch.tensor([0.5, 0.3, 0.2, 0.0], dtype=torch.float64)
ENTROPY = float(-(LAW[:3] * LAW[:3].log()).sum())


def source(rows, seed, law=LAW):
    return torch.multinomial(law.expand(rows, -1), LENGTH, True, generator=torch.Generator().manual_seed(seed))


def decode(tokens):
    return "".join(LETTERS[int(i)] for i in tokens)


class Independent:
    """Draws every token on its own; with few evaluations the law is flatter."""

    def sample(self, network, process, shape, nfe, generator, prompt=None, save_steps=False):
        spent = torch.full((shape[0],), nfe)
        spent[0] = 1
        law = LAW + (torch.tensor([0.0, 0.0, 2.0 / nfe, 0.0]) if process is not None else 0.0)
        clean = torch.multinomial(law.expand(shape[0], -1), shape[1], True, generator=generator)
        masked = torch.full_like(clean, 3)
        ys = torch.stack([masked, torch.where(torch.arange(shape[1]) < 12, clean, masked), clean])
        ys, ts = (ys, torch.tensor([1.0, 0.5, 0.0])) if save_steps else (ys[-1:], torch.zeros(1))
        stats = SimpleNamespace(nfe=spent)
        return SimpleNamespace(ts=ts.double(), ys=ys, final=ys[-1], stats=stats, raise_on_failure=lambda: None)


@pytest.fixture
def reference():
    return TextReference(
        judges=dict.fromkeys(("ar", "ngram"), lambda tokens: -LAW[tokens].log().sum(1)),
        decode=decode,
        held_out=[decode(row) for row in source(200, 1)],
        vocabulary=frozenset({"a", "b"}),
    )


@pytest.fixture
def settings():
    return TextSettings(sequences=96, seeds=3, nfe=(1, 4, 64), batch_size=50, texts=2, trajectory_states=3)


def test_generative_perplexity_falls_to_the_floor_as_evaluations_grow(reference, settings):
    result = evaluate_text(None, "kernel", Independent(), reference, settings, LENGTH, 0)
    curve = {nfe: e.mean for nfe, e in result.estimates()["generative_perplexity"].items()}
    floor = text_floor(reference, settings.metrics.values(), source(400, 2), settings.sequences, 3, 0)
    assert curve[1] > curve[4] > curve[64]
    assert abs(curve[64] - floor["generative_perplexity"].mean) < 0.1
    assert floor["generative_perplexity"].mean == pytest.approx(math.exp(ENTROPY), abs=0.05)


def test_entropy_and_divergence_stand_beside_the_perplexity(reference, settings):
    result = evaluate_text(None, "kernel", Independent(), reference, settings, LENGTH, 0)
    assert {"generative_perplexity", "entropy", "jensen_shannon", "dictionary_share", "distinct_2"} <= set(
        result.values
    )
    assert result.values["jensen_shannon"][1][0] > result.values["jensen_shannon"][64][0]


def test_an_autoregressive_model_is_measured_at_its_length_alone(reference, settings):
    result = evaluate_text(None, None, Independent(), reference, settings, LENGTH, 0)
    assert result.nfe == (LENGTH,)
    assert result.values["spent_nfe_most"][LENGTH] == [float(LENGTH)] * 3


def test_what_a_budget_cost_is_the_mean_over_sequences(reference, settings):
    result = evaluate_text(None, "kernel", Independent(), reference, settings, LENGTH, 0)
    # The first sequence of each of the two batches took one evaluation.
    assert result.values["spent_nfe"][64] == [(94 * 64 + 2) / 96] * 3
    assert result.values["spent_nfe_most"][64] == [64.0] * 3


class Labelled(Independent):
    """Writes the class all over; without one it has nothing to write."""

    def sample(self, network, process, shape, nfe, generator, save_steps=False, *, cond):
        solution = super().sample(network, process, shape, nfe, generator, None, save_steps)
        solution.ys[-1] = cond[:, None]
        return solution


def test_a_conditional_model_writes_classes_as_frequent_as_in_the_text(reference, settings):
    labels = torch.tensor([0] * 6 + [1] * 2 + [2] * 2)
    result = evaluate_text(None, "kernel", Labelled(), reference, settings, LENGTH, 0, labels=labels)
    made = [
        generate(None, "kernel", Labelled(), seed=0, index=index, count=600, length=LENGTH, nfe=4, batch_size=250,
                 labels=labels).tokens
        for index in (0, 0, 1)
    ]  # fmt: skip
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])
    assert (made[0] == made[0][:, :1]).all()
    shares = torch.bincount(made[0][:, 0], minlength=3) / 600
    torch.testing.assert_close(shares, torch.tensor([0.6, 0.2, 0.2]), rtol=0, atol=0.07)
    assert result.values["entropy"][4] == [0.0] * 3
    assert set(result.trajectory[-1].text) <= set("ab ")
    assert len(set(result.trajectory[-1].text)) == 1


def test_seeds_differ_and_repeat(reference, settings):
    first = evaluate_text(None, "kernel", Independent(), reference, settings, LENGTH, 0)
    again = evaluate_text(None, "kernel", Independent(), reference, settings, LENGTH, 0)
    assert first.values == again.values
    assert len(set(first.values["entropy"][4])) == 3


def test_the_trajectory_shows_undecided_tokens_becoming_text(reference, settings):
    result = evaluate_text(None, "kernel", Independent(), reference, settings, LENGTH, 0)
    assert [state.t for state in result.trajectory] == [1.0, 0.5, 0.0]
    assert [state.text.count("_") for state in result.trajectory] == [24, 12, 0]
    assert [len(result.texts[nfe]) for nfe in result.nfe] == [2, 2, 2]


def test_a_judge_that_is_not_there_is_named(reference):
    with pytest.raises(ValueError, match="judge = 'gpt'; the pipeline trains ar, ngram"):
        GenerativePerplexity("gpt")(reference.see(source(3, 0)), reference)
