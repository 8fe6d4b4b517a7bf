"""Mask-predict masks the least certain tokens again, ever fewer."""

import torch

from isocline.processes.kernel import AbsorbingKernel
from isocline.processes.token_schedule import LinearSurvival
from isocline.samplers.mask_predict import MaskPredictSampler

KERNEL = AbsorbingKernel(4, LinearSurvival())
LAWS = torch.tensor([[0.9, 0.1, 0, 0], [0.2, 0.6, 0.2, 0], [0.3, 0.3, 0.4, 0], [0.1, 0.1, 0.8, 0]])


def sample(network, nfe, **kwargs):
    sampler = MaskPredictSampler(temperature=0.0)
    return sampler.sample(network, KERNEL, (1, 4), nfe, torch.Generator(), save_steps=True, **kwargs)


def test_everything_is_predicted_then_the_least_certain_masked():
    network = lambda t, z, cond=None: LAWS.log().expand(len(z), -1, -1)  # noqa: E731
    solution = sample(network, 4)
    assert solution.ys[:, 0].tolist() == [[3] * 4, [0, 3, 3, 3], [0, 3, 3, 2], [0, 1, 3, 2], [0, 1, 2, 2]]


def test_a_token_keeps_the_certainty_of_its_last_prediction():
    def network(t, z, cond=None):
        laws = LAWS.clone()
        if (z[0] != 3).any():  # the second round is sure of all that the first was not
            laws[1:] = torch.tensor([[0, 0.01, 0.99, 0], [0.99, 0.01, 0, 0], [0, 0.05, 0.95, 0]])
        return laws.log().expand(len(z), -1, -1)

    assert sample(network, 4).ys[:, 0].tolist()[2] == [3, 2, 0, 3]


def test_a_prompt_is_never_masked_and_costs_no_round():
    tokens, fixed = torch.tensor([0, 2, 0, 0]), torch.tensor([False, True, False, True])
    network = lambda t, z, cond=None: LAWS.log().expand(len(z), -1, -1)  # noqa: E731
    solution = sample(network, 2, prompt=(tokens, fixed))
    assert (solution.ys[:, 0, 1] == 2).all()
    assert (solution.ys[:, 0, 3] == 0).all()
    assert solution.ys[1, 0].tolist() == [0, 2, 3, 0]
    assert sample(network, 5, prompt=(tokens, fixed.logical_not().logical_or(fixed))).stats.nfe.tolist() == [0]
