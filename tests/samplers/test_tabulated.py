"""Tables of a grid's numbers change rounding alone, in inference mode and out of it; derivatives pass by."""

from __future__ import annotations

import pytest
import torch
from tests.samplers.exact_fields import PROCESSES, D, exact, noise

from isocline.processes.probability_flow import LinearPathVariable, TimeVariable
from isocline.samplers import continuous, tabulated
from isocline.samplers.clipping import ClippedDenoiser
from isocline.samplers.continuous import ContinuousSampler
from isocline.samplers.ddim import DDIMSampler
from isocline.samplers.edm_heun import EDMHeunSampler
from isocline.samplers.grid import QuadraticTimeGrid, UniformTimeGrid
from isocline.samplers.pndm import PNDMSampler
from isocline.samplers.tabulated import tabulated_variable
from isocline.solvers import RK4

SAMPLERS = [
    DDIMSampler(UniformTimeGrid()),
    EDMHeunSampler(QuadraticTimeGrid()),
    PNDMSampler(UniformTimeGrid()),
    ContinuousSampler(RK4(), UniformTimeGrid(), LinearPathVariable()),
]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: type(sampler).__name__)
@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("dtype", [torch.float32, D])
def test_samples_are_the_same_to_rounding(sampler, name: str, dtype: torch.dtype, monkeypatch) -> None:
    x1 = noise(4).to(dtype)

    def draw() -> list[torch.Tensor]:
        with torch.inference_mode():
            first = sampler.sample(exact(PROCESSES[name]), x1, 13).final
        return [first, sampler.sample(exact(PROCESSES[name]), x1, 13).final]

    found, again = draw(), draw()
    monkeypatch.setattr(continuous, "tabulated_variable", lambda plain: plain)
    for first, second, plain in zip(found, again, draw(), strict=True):
        assert torch.equal(first, second)
        torch.testing.assert_close(first, plain, rtol=0, atol=200 * torch.finfo(dtype).eps)


def test_a_table_is_filled_by_the_first_batch_and_read_by_the_next() -> None:
    process, sampler = PROCESSES["vp"], DDIMSampler(UniformTimeGrid())
    before = tabulated._gains.cache_info()
    sampler.sample(exact(process), noise(4), 11)
    filled = tabulated._gains.cache_info()
    sampler.sample(exact(process), noise(6), 11)
    read = tabulated._gains.cache_info()
    assert filled.misses <= before.misses + 11
    assert (read.misses, read.hits) == (filled.misses, filled.hits + 11)


def test_samples_are_differentiable_also_after_tables_were_filled_in_inference_mode() -> None:
    sampler, denoiser = DDIMSampler(UniformTimeGrid()), exact(PROCESSES["cosine"])
    with torch.inference_mode():
        sampler.sample(denoiser, noise(3), 9)
    x1 = noise(3).requires_grad_()
    (gradient,) = torch.autograd.grad(sampler.sample(denoiser, x1, 9).final.sum(), x1)
    assert gradient.isfinite().all()
    assert (gradient != 0).all()


def test_derivatives_by_a_position_and_times_of_each_sample_pass_by_the_table() -> None:
    process, y = PROCESSES["vp"], noise(3)
    denoiser, path = exact(process), tabulated_variable(LinearPathVariable())
    s = torch.tensor(0.4, dtype=D, requires_grad=True)
    found = torch.autograd.grad(path.field(denoiser)(s, y, None).sum(), s)
    wanted = torch.autograd.grad(LinearPathVariable().field(exact(process))(s, y, None).sum(), s)
    torch.testing.assert_close(found, wanted)
    several = torch.tensor([0.2, 0.4, 0.6], dtype=D)
    plain = LinearPathVariable().field(exact(process))(several, y, None)
    torch.testing.assert_close(path.field(denoiser)(several, y, None), plain, rtol=0, atol=0)


def test_what_is_more_than_a_network_under_a_process_converts_for_itself() -> None:
    clipped, s, y = ClippedDenoiser(exact(PROCESSES["vp"])), torch.tensor(0.4, dtype=D), noise(3)
    before = tabulated._gains.cache_info()
    found = tabulated_variable(LinearPathVariable()).field(clipped)(s, y, None)
    assert tabulated._gains.cache_info() == before
    torch.testing.assert_close(found, LinearPathVariable().field(clipped)(s, y, None), rtol=1e-12, atol=1e-12)


def test_other_variables_are_left_as_they_are() -> None:
    time = TimeVariable()
    assert tabulated_variable(time) is time
