"""Networks that are told what a token says of itself."""

import torch

from isocline.networks.leave_one_out import leave_one_out
from isocline.networks.transformer import TokenTransformer
from isocline.processes.kernel import UniformKernel
from isocline.processes.leave_one_out import leave_one_out_log_probs
from isocline.processes.token_schedule import LinearSurvival

KERNEL = UniformKernel(5, LinearSurvival())


def build():
    torch.manual_seed(0)
    return leave_one_out(TokenTransformer, KERNEL, vocab_size=5, length=6, width=16, depth=1, heads=2)


def test_raw_logits_are_the_leave_one_out_law():
    network = build()
    z, t = torch.randint(4, (3, 6)), torch.tensor([0.01, 0.5, 0.99], dtype=torch.float64)
    raw = KERNEL.clean_log_probs(network.network(t, z), z)
    torch.testing.assert_close(leave_one_out_log_probs(KERNEL, network(t, z), z, t), raw)


def test_a_token_is_believed_near_time_zero_and_ignored_at_time_one():
    network = build()
    z = torch.randint(4, (3, 6))
    early = KERNEL.clean_log_probs(network(torch.tensor(1e-6), z), z).exp()
    assert (early.gather(-1, z.unsqueeze(-1)) > 0.999).all()
    late = torch.tensor(1.0)
    torch.testing.assert_close(network(late, z), network.network(late, z))


def test_reduced_precision_does_not_round_the_evidence():
    network = build().bfloat16()
    z, t = torch.randint(4, (3, 6)), torch.full((3,), 1e-6, dtype=torch.float64)
    raw = network.network(t, z).float()
    assert network(t, z).dtype == torch.float32
    torch.testing.assert_close(leave_one_out_log_probs(KERNEL, network(t, z), z, t), KERNEL.clean_log_probs(raw, z))


def test_the_weights_are_those_of_the_network_inside():
    network = build()
    assert network.vocab_size == 5
    assert set(network.state_dict()) == {f"network.{name}" for name in network.network.state_dict()}
