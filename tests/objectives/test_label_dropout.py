"""Hiding labels: the share that is hidden, and that all else is the wrapped objective's."""

import pytest
import torch
from torch import nn

from isocline.datasets.batch import Batch
from isocline.networks.transformer import TokenTransformer
from isocline.objectives.autoregressive import AutoregressiveObjective
from isocline.objectives.base import Loss, Objective
from isocline.objectives.label_dropout import LabelDropout
from isocline.objectives.masked import MaskedDiffusion
from isocline.processes.kernel import AbsorbingKernel
from isocline.processes.token_schedule import LinearSurvival


class Recorder(Objective):
    def __init__(self):
        super().__init__()
        self.seen, self.steps, self.prepared = [], [], []

    def forward(self, network, batch, generator):
        self.seen.append(batch.cond)
        return Loss(torch.zeros(()), {})

    def prepare(self, network):
        self.prepared.append(network)

    def after_step(self, network, step):
        self.steps.append(step)


def test_the_share_of_the_labels_is_hidden_and_the_others_are_kept():
    objective = LabelDropout(Recorder, share=0.3)
    cond = torch.randint(0, 5, (20000,), generator=torch.Generator().manual_seed(0))
    objective(nn.Identity(), Batch(torch.zeros(20000, 2), cond), torch.Generator().manual_seed(1))
    (seen,) = objective.inner.seen
    assert (seen == -1).float().mean().item() == pytest.approx(0.3, abs=0.015)
    assert torch.equal(seen[seen >= 0], cond[seen >= 0])


@pytest.mark.parametrize(("share", "cond"), [(0.5, None), (0.0, torch.tensor([1, 2]))])
def test_nothing_is_drawn_where_there_is_nothing_to_hide(share, cond):
    objective, stream = LabelDropout(Recorder, share=share), torch.Generator().manual_seed(0)
    before = stream.get_state()
    objective(nn.Identity(), Batch(torch.zeros(2, 2), cond), stream)
    assert torch.equal(stream.get_state(), before)
    assert objective.inner.seen[0] is cond


def test_likelihoods_steps_and_process_are_those_of_the_wrapped_objective():
    kernel = AbsorbingKernel(5, LinearSurvival())
    objective = LabelDropout(MaskedDiffusion, process=kernel)
    assert objective.process is kernel
    torch.manual_seed(0)
    network = TokenTransformer(5, 4, 8, 1, 2, classes=2)
    tokens = torch.randint(0, 4, (3, 4))
    mine = objective.negative_log_likelihood(network, tokens, torch.Generator().manual_seed(0), strata=4)
    plain = MaskedDiffusion(kernel).negative_log_likelihood(network, tokens, torch.Generator().manual_seed(0), strata=4)
    assert torch.equal(mine.nats, plain.nats)
    assert isinstance(LabelDropout(AutoregressiveObjective).inner, AutoregressiveObjective)
    told = LabelDropout(Recorder)
    told.prepare(network)
    told.after_step(network, 7)
    assert told.inner.prepared == [network]
    assert told.inner.steps == [7]


def test_an_objective_without_a_likelihood_stays_without():
    assert not hasattr(LabelDropout(Recorder), "negative_log_likelihood")
    with pytest.raises(ValueError, match="share = 2"):
        LabelDropout(Recorder, share=2)


def test_a_network_learns_the_law_of_each_class_and_of_all():
    """Class c holds texts of the token c alone."""
    kernel = AbsorbingKernel(4, LinearSurvival())
    objective = LabelDropout(MaskedDiffusion, process=kernel, share=0.3)
    torch.manual_seed(0)
    network = TokenTransformer(4, 3, 16, 1, 2, classes=3)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    stream = torch.Generator().manual_seed(0)
    for _ in range(120):
        cond = torch.randint(0, 3, (64,), generator=stream)
        loss = objective(network, Batch(cond.unsqueeze(1).expand(-1, 3), cond), stream)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
    masks, t = torch.full((3, 3), 3), torch.ones(())
    with torch.no_grad():
        known = kernel.clean_log_probs(network(t, masks, torch.arange(3)), masks).exp()
        free = kernel.clean_log_probs(network(t, masks[:1]), masks[:1]).exp()
    assert known[torch.arange(3), :, torch.arange(3)].min() > 0.9
    assert free[..., :3].max() < 0.7
