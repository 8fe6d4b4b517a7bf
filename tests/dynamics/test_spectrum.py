"""Spectra along paths: linear systems, Van der Pol, a mixture's flow in closed form, backward time, float32."""

import math

import pytest
import torch

from isocline.dynamics.path import FieldPath, follow
from isocline.dynamics.spectrum import spectrum_along
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.mixture import GaussianMixture
from isocline.processes.prediction import VelocityPrediction
from isocline.processes.schedule import LinearSchedule


def generator():
    return torch.Generator().manual_seed(0)


def field_of(matrix):
    return lambda t, x, cond: x @ matrix.T


MATRIX = torch.tensor([[-1.0, 2.0, 0.0], [-2.0, -1.0, 0.0], [0.0, 0.0, -80.0]], dtype=torch.float64)


def test_a_linear_field_has_its_own_spectrum_everywhere():
    path = follow(field_of(MATRIX), torch.ones(2, 3, dtype=torch.float64), [0.0, 0.1, 2.0])
    spectrum = spectrum_along(field_of(MATRIX), path, 3, generator())
    wanted = torch.tensor([-80.0, -1 + 2j, -1 - 2j], dtype=torch.complex128).expand(3, 2, 3)
    torch.testing.assert_close(spectrum.values, wanted, rtol=1e-9, atol=1e-9)
    assert spectrum.complete
    assert spectrum.converged.all()
    torch.testing.assert_close(spectrum.stiffness_ratio, torch.full((3, 2), 80.0, dtype=torch.float64))
    torch.testing.assert_close(spectrum.horizon, torch.full((3, 2), 160.0, dtype=torch.float64))
    row = spectrum.rows()[1]
    assert (row.t, row.radius.n) == (0.1, 2)
    means = [value.mean for value in (row.radius, row.abscissa, row.fastest_decay, row.oscillation)]
    assert means == pytest.approx([80, -1, -80, 2])
    assert row.stiffness_ratio is not None
    assert row.stiffness_ratio.mean == pytest.approx(80)
    assert row.residual < 1e-12


def test_backward_in_time_what_grew_decays():
    path = FieldPath(torch.tensor([1.0, 0.0], dtype=torch.float64), torch.ones(2, 1, 3, dtype=torch.float64))
    spectrum = spectrum_along(field_of(MATRIX), path, 3, generator())
    torch.testing.assert_close(spectrum.abscissa, torch.full((2, 1), 80.0, dtype=torch.float64))


def test_a_leading_part_gives_a_lower_bound_of_the_ratio():
    rates = -torch.logspace(0, 3, 40, dtype=torch.float64)
    path = FieldPath(torch.zeros(1, dtype=torch.float64), torch.ones(1, 1, 40, dtype=torch.float64))
    ratios = []
    for steps in (10, 16, 40):
        spectrum = spectrum_along(lambda t, x, cond: rates * x, path, steps, generator())
        assert spectrum.complete is (steps == 40)
        ratios.append(float(spectrum.stiffness_ratio))
        assert int(spectrum.trusted.isnan().sum()) == int((~spectrum.converged).sum())
        assert spectrum.converged[0, 0, 0] == (spectrum.rows()[0].residual <= 1e-2)
    assert ratios == sorted(ratios)
    assert torch.equal(spectrum.trusted, spectrum.values)
    assert ratios[0] < 2
    assert ratios[-1] == pytest.approx(1000, rel=1e-6)


def test_a_rotation_has_no_stiffness_ratio():
    turn = torch.tensor([[0.0, -3.0], [3.0, 0.0]], dtype=torch.float64)
    path = FieldPath(torch.zeros(1, dtype=torch.float64), torch.ones(1, 1, 2, dtype=torch.float64))
    spectrum = spectrum_along(field_of(turn), path, 2, generator())
    assert spectrum.stiffness_ratio.isnan().all()
    assert spectrum.rows()[0].stiffness_ratio is None
    assert spectrum.rows()[0].oscillation.mean == pytest.approx(3)


def test_van_der_pol_has_the_known_ratio_where_it_creeps():
    # At (2, 0) the Jacobian is [[0, 1], [-1, -3 μ]]: eigenvalues -3 μ/2 ± sqrt(9 μ²/4 - 1).
    mu = torch.tensor([10.0, 1000.0], dtype=torch.float64)

    def field(t, x, cond):
        return torch.stack([x[:, 1], cond * (1 - x[:, 0] ** 2) * x[:, 1] - x[:, 0]], 1)

    path = FieldPath(torch.zeros(1, dtype=torch.float64), torch.tensor([[[2.0, 0.0], [2.0, 0.0]]], dtype=torch.float64))
    spectrum = spectrum_along(field, path, 2, generator(), cond=mu)
    root = (9 * mu**2 / 4 - 1).sqrt()
    # The small one from the product, which is 1.
    large = 1.5 * mu + root
    torch.testing.assert_close(spectrum.stiffness_ratio[0], large**2, rtol=1e-6, atol=0)


def test_the_flow_of_one_gaussian_has_the_closed_form_rate():
    # For data N(0, v) the velocity is x d/dt ln sqrt(α² v + σ²) with α = 1 - t, σ = t.
    variances = torch.tensor([[0.01, 1.0, 4.0]], dtype=torch.float64)
    mixture = GaussianMixture(torch.ones(1), torch.zeros(1, 3), variances)
    network = mixture.network(GaussianProcess(LinearSchedule(), VelocityPrediction()))
    start = torch.randn(2, 3, dtype=torch.float64, generator=generator())
    path = follow(network, start, [1.0, 0.7, 0.3, 0.1], rtol=1e-8, atol=1e-10)
    spectrum = spectrum_along(network, path, 3, generator())
    t = path.ts[:, None]
    rate = (t - (1 - t) * variances) / ((1 - t) ** 2 * variances + t**2)
    wanted = -rate.gather(1, rate.abs().argsort(1, descending=True))
    torch.testing.assert_close(spectrum.values.real, wanted[:, None].expand(4, 2, 3), rtol=1e-8, atol=1e-8)
    # And the path is the closed form x1 sqrt(α² v + σ²).
    scale = ((1 - t) ** 2 * variances + t**2).sqrt()
    torch.testing.assert_close(path.states, scale[:, None] * start, rtol=1e-6, atol=1e-8)


def test_a_mixtures_flow_has_the_dense_spectrum_in_single_precision():
    gen = generator()
    means = 2 * torch.randn(5, 12, generator=gen, dtype=torch.float64)
    mixture = GaussianMixture(torch.ones(5), means, torch.full((5, 12), 0.05, dtype=torch.float64))
    network = mixture.network(GaussianProcess(LinearSchedule(), VelocityPrediction()))
    x = torch.randn(3, 12, generator=gen)
    path = FieldPath(torch.tensor([0.4], dtype=torch.float64), x[None])
    spectrum = spectrum_along(network, path, 12, generator())
    t = torch.tensor(0.4, dtype=torch.float64)
    for index, row in enumerate(x.double()):
        dense = torch.autograd.functional.jacobian(lambda y: network(t, y[None], None)[0], row)
        wanted = torch.linalg.eigvals(dense)
        gaps = (spectrum.values[0, index][:, None] - wanted).abs()
        assert gaps.amin(0).max() < 1e-5 * wanted.abs().max()
        assert gaps.amin(1).max() < 1e-5 * wanted.abs().max()


def test_paths_say_what_is_wrong_with_their_times():
    x = torch.ones(1, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match="monotone"):
        follow(field_of(MATRIX), x, [0.0, 1.0, 0.5])
    with pytest.raises(ValueError, match="two times"):
        follow(field_of(MATRIX), x, [0.0])
    with pytest.raises(ValueError, match="one time each"):
        FieldPath(torch.zeros(2), torch.zeros(3, 1, 1))


def test_a_path_is_the_exact_solution():
    rate = math.log(2.0)
    path = follow(
        lambda t, x, cond: -rate * x, torch.ones(2, 1, dtype=torch.float64), [0.0, 1.0, 3.0], rtol=1e-9, atol=1e-12
    )
    torch.testing.assert_close(
        path.states[:, 0, 0], torch.tensor([1.0, 0.5, 0.125], dtype=torch.float64), rtol=1e-7, atol=0
    )
    assert (path.span, path.direction, path.size) == (3.0, 1.0, 1)
