"""Held-out tokens asked of models by their process."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from isocline.dynamics.token_reading import token_reading
from isocline.networks.block_transformer import BlockTransformer
from isocline.networks.embedding_transformer import EmbeddingTransformer
from isocline.networks.soft_token_transformer import SoftTokenTransformer
from isocline.networks.transformer import TokenTransformer
from isocline.objectives.autoregressive import AutoregressiveObjective
from isocline.processes.dirichlet_path import DirichletPath
from isocline.processes.embedding import EmbeddingProcess
from isocline.processes.kernel import AbsorbingKernel, UniformKernel
from isocline.processes.schedule import VPCosineSchedule
from isocline.processes.token_schedule import LinearSurvival

V, L = 9, 6
TOKENS = torch.randint(V - 1, (5, L), generator=torch.Generator().manual_seed(0))


def network(kind: type[nn.Module], **more: object) -> nn.Module:
    torch.manual_seed(1)
    made = kind(vocab_size=V, length=L, width=8, depth=1, heads=2, **more)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3)
    return made.eval().requires_grad_(False)


@pytest.mark.parametrize(
    ("made", "process"),
    [
        (network(TokenTransformer, causal=True, time_conditioned=False), None),
        (network(TokenTransformer), AbsorbingKernel(V, LinearSurvival())),
        (network(TokenTransformer), UniformKernel(V, LinearSurvival())),
        (network(SoftTokenTransformer), DirichletPath(V)),
        (network(EmbeddingTransformer, dimension=4, self_conditioning=True), EmbeddingProcess(V, VPCosineSchedule())),
    ],
    ids=["ar", "absorbing", "uniform", "simplex", "embedding"],
)
def test_every_process_gives_a_law_of_clean_tokens_the_same_each_time(made: nn.Module, process: object) -> None:
    asked = token_reading(made, process, TOKENS, 3)
    law = asked.evaluate()
    assert torch.equal(law, asked.evaluate())
    torch.testing.assert_close(law.exp().sum(-1), torch.ones(5, L, dtype=law.dtype), rtol=1e-5, atol=1e-5)
    assert law.shape[-1] in (V, V - 1)
    assert asked.counted.any()


def test_an_autoregressive_model_is_asked_what_its_likelihood_is_made_of() -> None:
    made = network(TokenTransformer, causal=True, time_conditioned=False)
    asked = token_reading(made, None, TOKENS, 0)
    nats = -asked.evaluate().gather(-1, TOKENS.unsqueeze(-1)).double().sum((1, 2))
    torch.testing.assert_close(nats, AutoregressiveObjective().negative_log_likelihood(made, TOKENS).nats)


def test_only_masked_positions_count_more_of_them_for_later_sequences() -> None:
    many = TOKENS.repeat(200, 1)
    asked = token_reading(network(TokenTransformer), AbsorbingKernel(V, LinearSurvival()), many, 0)
    share = asked.counted.double().mean(1)
    assert float(share[:500].mean()) == pytest.approx(0.25, abs=0.03)
    assert float(share[500:].mean()) == pytest.approx(0.75, abs=0.03)


def test_what_cannot_be_asked_is_refused() -> None:
    with pytest.raises(ValueError, match="two streams"):
        token_reading(BlockTransformer(V, L, 8, 1, 2, block_length=3), None, TOKENS, 0)
    with pytest.raises(ValueError, match="process = int"):
        token_reading(network(TokenTransformer), 3, TOKENS, 0)
