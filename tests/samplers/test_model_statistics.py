"""Statistics of exact models against closed forms."""

from __future__ import annotations

import pytest
import torch
from tests.samplers.exact_fields import MIXTURE, PROCESSES, D, exact

from isocline.processes.denoiser import Denoiser
from isocline.processes.mixture import GaussianMixture
from isocline.samplers.model_statistics import ModelStatistics, estimate_statistics, shrunk_slopes

GAUSSIAN = GaussianMixture(torch.ones(1), torch.tensor([[0.5, -0.2]]), torch.tensor([[0.3, 0.1]]))
LAM = torch.linspace(-3, 3, 41, dtype=D)


def estimated(process: str, mixture: GaussianMixture, n: int = 32, lam: torch.Tensor = LAM) -> ModelStatistics:
    generator = torch.Generator().manual_seed(3)
    return estimate_statistics(exact(PROCESSES[process], mixture), mixture.sample(n, generator), lam, generator)


@pytest.mark.parametrize("process", ["vp", "linear", "trigflow", "ve"])
def test_for_gaussian_data_they_are_known_in_closed_form(process: str) -> None:
    """ε = σ (x − α m)/(α² v + σ²), hence l = 1/(1 + e^{2λ} v), N = −l m and dN/dλ = −l' m."""
    found = estimated(process, GAUSSIAN)
    linear = 1 / (1 + torch.exp(2 * LAM)[:, None] * GAUSSIAN.variances)
    torch.testing.assert_close(found.linear, linear, rtol=1e-9, atol=1e-12)
    # N does not vary: all of its growth is drift. l' is known to the accuracy of central differences.
    torch.testing.assert_close(found.growth, torch.zeros_like(linear), rtol=0, atol=1e-6)
    slope = -2 * linear * (1 - linear)
    torch.testing.assert_close(found.drift[1:-1], -slope[1:-1] * GAUSSIAN.means, rtol=0, atol=2e-3)


def test_they_do_not_depend_on_the_process_since_the_flow_in_x_over_alpha_does_not() -> None:
    first, second = estimated("vp", MIXTURE), estimated("ve", MIXTURE)
    for name in ("linear", "growth", "drift"):
        torch.testing.assert_close(getattr(first, name), getattr(second, name), rtol=1e-6, atol=1e-8)


def test_the_derivative_along_the_flow_is_that_of_differences() -> None:
    """dN/dλ ≈ s N + b is a regression: its residuals are uncorrelated with N, N followed along the flow."""
    lam = torch.tensor([-0.4, 0.0, 0.4], dtype=D)
    found = estimated("linear", MIXTURE, 256, lam)
    generator = torch.Generator().manual_seed(3)
    data = MIXTURE.sample(256, generator)
    x1 = torch.randn(256, 2, generator=generator, dtype=D)
    process, denoiser = PROCESSES["linear"], exact(PROCESSES["linear"])
    t = process.schedule.inverse_log_ratio(lam[1])
    u = process.mix(data, x1, process.schedule(t)) / process.schedule(t).alpha
    pieces = [_remainder(denoiser, lam[1] + h, _follow(denoiser, u, lam[1], h), found) for h in (-1e-4, 0.0, 1e-4)]
    change, value = (pieces[2] - pieces[0]) / 2e-4, pieces[1]
    expected = shrunk_slopes(value, change)
    torch.testing.assert_close(found.growth[1], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.drift[1], (change - expected * value).mean(0), rtol=1e-4, atol=1e-5)


def test_bounds_hold_the_growth_and_leave_the_mean_of_the_change() -> None:
    def estimate(growths):
        generator = torch.Generator().manual_seed(3)
        data = MIXTURE.sample(64, generator)
        return estimate_statistics(exact(PROCESSES["vp"], MIXTURE), data, LAM, generator, growths=growths)

    free, bound, tight = estimate(None), estimate((-0.2, 0.1)), estimate((-0.1, 0.05))
    assert bool((free.growth < -0.2).any())
    assert bool((free.growth > 0.1).any())
    assert torch.equal(bound.growth, free.growth.clamp(-0.2, 0.1))
    # s N̄ + b, the mean of the change, is the same for all, so that b moves by N̄ times what s was moved by.
    held = free.growth != bound.growth
    assert torch.equal(bound.drift[~held], free.drift[~held])
    means = [((each.drift - free.drift) / (free.growth - each.growth))[held] for each in (bound, tight)]
    torch.testing.assert_close(*means, rtol=1e-9, atol=1e-9)
    data = MIXTURE.sample(64, torch.Generator().manual_seed(3))
    assert bool((means[0].abs() < 3 * data.abs().max()).all())
    with pytest.raises(ValueError, match=r"growths=\[1.0, 0.0\]"):
        estimate_statistics(exact(PROCESSES["vp"], MIXTURE), data, LAM, torch.Generator(), growths=[1.0, 0.0])


def _noise(denoiser: Denoiser, lam: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    t = denoiser.process.schedule.inverse_log_ratio(lam)
    return denoiser.noise(t, denoiser.process.schedule(t).alpha * u)


def _follow(denoiser: Denoiser, u: torch.Tensor, lam: torch.Tensor, h: float) -> torch.Tensor:
    """The midpoint rule for du/dλ = −e^{−λ} ε."""
    middle = u - h / 2 * (-lam).exp() * _noise(denoiser, lam, u)
    return u - h * (-lam - h / 2).exp() * _noise(denoiser, lam + h / 2, middle)


def _remainder(denoiser: Denoiser, lam: torch.Tensor, u: torch.Tensor, statistics: ModelStatistics) -> torch.Tensor:
    # l between the λ of the table is interpolated by its central difference, as the estimate takes it.
    slope = (statistics.linear[2] - statistics.linear[0]) / 0.8
    return (-lam).exp() * _noise(denoiser, lam, u) - (statistics.linear[1] + lam * slope) * u


def test_a_component_that_never_varies_has_no_growth() -> None:
    border = GaussianMixture(
        torch.tensor([0.5, 0.5]), torch.tensor([[1.0, -1.0], [-1.0, -1.0]]), torch.tensor([[0.05, 0.0], [0.05, 0.0]])
    )
    found = estimated("vp", border, lam=torch.linspace(-3, 3, 13, dtype=D))
    torch.testing.assert_close(found.linear[:, 1], torch.ones(13, dtype=D), rtol=0, atol=1e-9)
    torch.testing.assert_close(found.growth[:, 1], torch.zeros(13, dtype=D), rtol=0, atol=1e-4)
    assert float(found.growth[:, 0].abs().max()) > 0.1


def test_values_are_linear_between_log_ratios_constant_beyond_and_survive_a_file() -> None:
    table = torch.tensor([[0.0], [1.0], [0.5]], dtype=D)
    statistics = ModelStatistics(torch.tensor([0.0, 1.0, 3.0], dtype=D), table, 2 * table, 3 * table)
    again = ModelStatistics.from_tensors({k: v.float() for k, v in statistics.tensors().items()})
    for found in (statistics, again):
        linear, growth, drift = found.at(torch.tensor([-9.0, 0.25, 1.0, 2.0, 9.0], dtype=D))
        assert linear.flatten().tolist() == [0.0, 0.25, 1.0, 0.75, 0.5]
        torch.testing.assert_close(growth, 2 * linear)
        torch.testing.assert_close(drift, 3 * linear)


def test_bad_tables_are_refused() -> None:
    two, flat = torch.zeros(2, 1, dtype=D), torch.zeros(2, dtype=D)
    with pytest.raises(ValueError, match="increasing"):
        ModelStatistics(flat, two, two, two)
    with pytest.raises(ValueError, match="growth has shape"):
        ModelStatistics(flat + torch.arange(2), two, torch.zeros(3, 1, dtype=D), two)
    with pytest.raises(ValueError, match="not finite"):
        ModelStatistics(flat + torch.arange(2), two, two, two / 0)
    with pytest.raises(ValueError, match="at least two"):
        estimated("vp", MIXTURE, 1)


def test_slopes_of_few_data_are_drawn_together_by_their_noise_and_not_by_more() -> None:
    generator = torch.Generator().manual_seed(5)
    value = torch.randn(6, 400, generator=generator, dtype=D)
    noise = 3 * torch.randn(6, 400, generator=generator, dtype=D)
    plain = torch.einsum("nd,nd->d", value - value.mean(0), noise) / (value - value.mean(0)).square().sum(0)
    shrunk = shrunk_slopes(value, 0.5 * value + noise)
    assert (shrunk - 0.5).square().mean() < 0.1 * plain.square().mean()  # All components have the slope ½.
    steep = torch.linspace(-300, 300, 400, dtype=D)
    kept = shrunk_slopes(value, steep * value + noise)  # Now they differ by far more than the noise: nothing to gain.
    torch.testing.assert_close(kept, steep + plain, rtol=0.02, atol=2.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nothing_is_read_into_rounding_errors(dtype: torch.dtype) -> None:
    # N is zero for Gaussian data around zero: what is left of it is rounding, which has no growth.
    around_zero = GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.tensor([[0.3, 0.1]]))
    generator, process = torch.Generator().manual_seed(3), PROCESSES["linear"]
    data = around_zero.sample(32, generator).to(dtype)
    found = estimate_statistics(exact(process, around_zero), data, LAM, generator)
    assert not bool(found.growth.any())
    linear = 1 / (1 + torch.exp(2 * LAM)[:, None] * around_zero.variances)
    torch.testing.assert_close(found.linear, linear, rtol=1e-4, atol=1e-5)
