"""Networks of two times: neutral at first, sensitive after, differentiable in forward mode."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from isocline.networks.embedding import TimeEmbedding
from isocline.networks.preconditioning import preconditioned
from isocline.networks.transformer import PatchTransformer
from isocline.networks.unet import UNet
from isocline.processes.schedule import EDMSchedule

SIZES = {
    UNet: {"channels": 1, "size": 8, "width": 8, "multipliers": (1, 2)},
    PatchTransformer: {"channels": 1, "size": 8, "patch": 4, "width": 16, "depth": 1, "heads": 2},
}
T, S = torch.tensor([0.4, 0.9]), torch.tensor([0.1, 0.6])


def shaken(network: nn.Module, seed: int = 0) -> nn.Module:
    stream = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=stream))
    return network


def image() -> torch.Tensor:
    return torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", SIZES)
def test_a_student_with_its_teachers_weights_is_its_teacher_for_every_end(kind) -> None:
    teacher, student = shaken(kind(**SIZES[kind])), kind(**SIZES[kind], end_time=True)
    missing, unexpected = student.load_state_dict(teacher.state_dict(), strict=False)
    assert unexpected == []
    assert missing
    assert all(name.startswith("condition.end.") for name in missing)
    for s in (None, S, T):
        assert torch.equal(student(T, image(), None, s), teacher(T, image()))
    assert student.takes_end
    assert not teacher.takes_end


@pytest.mark.parametrize("kind", SIZES)
def test_the_end_matters_once_trained_and_is_t_by_default(kind) -> None:
    network = shaken(kind(**SIZES[kind], end_time=True))
    assert (network(T, image(), None, S) - network(T, image(), None, T)).abs().max() > 1e-3
    assert torch.equal(network(T, image()), network(T, image(), None, T))


def test_preconditioning_hands_the_end_on_as_a_noise_level() -> None:
    schedule = EDMSchedule()
    network = preconditioned(UNet, schedule, 0.6, **SIZES[UNet], end_time=True)
    shaken(network)
    assert network.takes_end
    inner = network.network(-0.25 * schedule.log_ratio(T), torch.zeros(2, 1, 8, 8), None, -0.25 * schedule.log_ratio(S))
    assert torch.equal(network(T, torch.zeros(2, 1, 8, 8), None, S), inner)
    assert not preconditioned(UNet, schedule, 0.6, **SIZES[UNet]).takes_end


@pytest.mark.parametrize("kind", SIZES)
def test_forward_mode_gives_the_derivative_along_the_flow(kind) -> None:
    network = shaken(kind(**SIZES[kind], end_time=True)).double()
    x, direction = image().double(), image().flip(0).double()
    t, s = T.double(), S.double()

    def field(t, x):
        return network(t, x, None, s)

    with torch.no_grad(), nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH):
        _, found = torch.func.jvp(field, (t, x), (torch.ones_like(t), direction))
    step = 1e-6
    with torch.no_grad():
        wanted = (field(t + step, x + step * direction) - field(t - step, x - step * direction)) / (2 * step)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))


def test_a_blurred_embedding_sees_its_features_averaged_over_neighbouring_times() -> None:
    plain, blurred = TimeEmbedding(8), TimeEmbedding(8, blur=0.02)
    plain.mlp, blurred.mlp = nn.Identity(), nn.Identity()
    t = torch.tensor([0.3, 0.8])
    nodes = torch.linspace(-6, 6, 4001)
    density = torch.exp(-0.5 * nodes.square())
    average = torch.stack([(density[:, None] * plain(u + 0.02 * nodes)).sum(0) / density.sum() for u in t])
    torch.testing.assert_close(blurred(t), average, rtol=0, atol=2e-4)
    assert torch.equal(TimeEmbedding(8).damping, torch.ones(32))
    with pytest.raises(ValueError, match="blur = -1"):
        TimeEmbedding(8, blur=-1)


@pytest.mark.parametrize("kind", SIZES)
def test_blur_takes_the_ripple_out_of_derivatives_in_time(kind) -> None:
    plain, blurred = kind(**SIZES[kind]), kind(**SIZES[kind], time_blur=0.02)
    shaken(plain)
    blurred.load_state_dict(plain.state_dict())
    with torch.no_grad(), nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH):
        rates = [
            torch.func.jvp(lambda t, network=network: network(t, image()), (T,), (torch.ones(2),))[1].square().mean()
            for network in (plain, blurred)
        ]
    assert rates[1] < rates[0] / 10
