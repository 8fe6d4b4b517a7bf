"""Regions of stability: known stability functions, intervals and properties of every method of the core."""

import math

import pytest
import torch

from isocline import solvers
from isocline.dynamics.stability_region import (
    amplification,
    is_a_stable,
    is_l_stable,
    largest_stable_step,
    stability_function,
    stability_margin,
    stability_region,
    stable_extent,
    steps_within_growth,
)
from isocline.solvers import ODEProblem
from isocline.solvers.auto import real_stability_boundary

EXPLICIT = [
    solvers.Euler, solvers.Midpoint, solvers.Heun, solvers.Ralston, solvers.Heun3, solvers.RK4, solvers.RK38,
    solvers.Bosh3, solvers.Dopri5, solvers.Tsit5, solvers.Dopri8,
]  # fmt: skip
A_STABLE = [
    solvers.ImplicitEuler, solvers.RadauIIA3, solvers.RadauIIA5, solvers.SDIRK2, solvers.Rodas3P, solvers.Rodas4,
    solvers.Rodas5P, solvers.Kvaerno3, solvers.Kvaerno5, solvers.KenCarp4, solvers.TRBDF2,
]  # fmt: skip
ONLY_A_STABLE = [solvers.Trapezoid, solvers.ImplicitMidpoint, solvers.GaussLegendre4, solvers.GaussLegendre6]


def points(count=200, size=3.0):
    generator = torch.Generator().manual_seed(0)
    return size * torch.randn(count, dtype=torch.complex128, generator=generator)


def ray(value):
    return torch.tensor([value], dtype=torch.complex128)


CLOSED_FORMS = {
    "Euler": (solvers.Euler(), lambda z: 1 + z),
    "Heun": (solvers.Heun(), lambda z: 1 + z + z**2 / 2),
    "RK4": (solvers.RK4(), lambda z: 1 + z + z**2 / 2 + z**3 / 6 + z**4 / 24),
    "Bosh3": (solvers.Bosh3(), lambda z: 1 + z + z**2 / 2 + z**3 / 6),
    # Hairer, Wanner II, section IV.2, Eq. 2.9.
    "Dopri5": (solvers.Dopri5(), lambda z: sum(z**k / math.factorial(k) for k in range(6)) + z**6 / 600),
    "implicit Euler": (solvers.ImplicitEuler(), lambda z: 1 / (1 - z)),
    "trapezoid": (solvers.Trapezoid(), lambda z: (1 + z / 2) / (1 - z / 2)),
    "implicit midpoint": (solvers.ImplicitMidpoint(), lambda z: (1 + z / 2) / (1 - z / 2)),
    # Padé approximants: Hairer, Wanner II, Table 3.1.
    "Gauss 4": (solvers.GaussLegendre4(), lambda z: (1 + z / 2 + z**2 / 12) / (1 - z / 2 + z**2 / 12)),
    "Radau 3": (solvers.RadauIIA3(), lambda z: (1 + z / 3) / (1 - 2 * z / 3 + z**2 / 6)),
    "Radau 5": (
        solvers.RadauIIA5(),
        lambda z: (1 + 2 * z / 5 + z**2 / 20) / (1 - 3 * z / 5 + 3 * z**2 / 20 - z**3 / 60),
    ),
    "ETD": (solvers.ETDRK4(), lambda z: z.exp()),
}


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_stability_functions_are_the_closed_forms(name):
    stepper, formula = CLOSED_FORMS[name]
    z = points()
    torch.testing.assert_close(stability_function(stepper, z), formula(z), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(amplification(stepper, z), formula(z).abs(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", EXPLICIT + A_STABLE + ONLY_A_STABLE)
def test_stability_functions_agree_with_the_exponential_to_their_order(kind):
    stepper = kind()
    z = 0.5 * torch.polar(torch.ones(8, dtype=torch.float64), torch.linspace(0, 6, 8, dtype=torch.float64))
    errors = [(stability_function(stepper, z * h) - (z * h).exp()).abs().max() for h in (1.0, 0.5)]
    slope = torch.log2(errors[0] / errors[1]) - 1
    assert slope > stepper.order - 0.35


@pytest.mark.parametrize("kind", EXPLICIT)
def test_real_intervals_agree_with_the_tableau_of_the_switching_method(kind):
    extent = float(stable_extent(kind(), ray(-1.0)))
    assert extent == pytest.approx(real_stability_boundary(kind.tableau), abs=2e-3)


@pytest.mark.parametrize(
    ("stepper", "direction", "extent"),
    [
        (solvers.Euler(), -1.0, 2.0),
        (solvers.Heun(), -1.0, 2.0),
        (solvers.Heun3(), -1.0, 2.512745),
        (solvers.RK4(), -1.0, 2.785294),
        (solvers.Dopri5(), -1.0, 3.306568),
        (solvers.RK4(), 1j, 2 * math.sqrt(2)),
        (solvers.Heun3(), 1j, math.sqrt(3)),
        # Hairer, Wanner II, section V.1.
        (solvers.AdamsBashforth(1), -1.0, 2.0),
        (solvers.AdamsBashforth(2), -1.0, 1.0),
        (solvers.AdamsBashforth(3), -1.0, 6 / 11),
        (solvers.AdamsBashforth(4), -1.0, 3 / 10),
        (solvers.AdamsBashforth(5), -1.0, 90 / 551),
        (solvers.AdamsBashforthMoulton(2), -1.0, 2.0),
        (solvers.Leapfrog(), 1j, 2.0),
        (solvers.SymplecticEuler(), 1j, 2.0),
    ],
)
def test_intervals_of_stability_are_the_known_ones(stepper, direction, extent):
    assert float(stable_extent(stepper, ray(direction))) == pytest.approx(extent, abs=3e-5)


def test_eulers_region_is_the_disc_around_minus_one():
    angles = torch.linspace(1.6, 3.1, 7, dtype=torch.float64)
    found = stable_extent(solvers.Euler(), torch.polar(torch.ones_like(angles), angles))
    torch.testing.assert_close(found, -2 * angles.cos(), rtol=1e-6, atol=1e-6)
    region = stability_region(solvers.Euler(), (-3, 1), (-2, 2), 41)
    x, y = torch.meshgrid(region.real, region.imag, indexing="xy")
    distance = (x + 1) ** 2 + y**2
    clear = (distance - 1).abs() > 1e-9
    assert torch.equal(region.mask[clear], (distance < 1)[clear])


def test_the_trapezoids_region_is_the_left_half_plane():
    region = stability_region(solvers.Trapezoid(), (-4, 4), (-4, 4), 20)
    assert torch.equal(region.mask, (region.real < 0).expand(20, 20))


@pytest.mark.parametrize("kind", A_STABLE)
def test_stiff_methods_are_l_stable(kind):
    assert is_l_stable(kind())


@pytest.mark.parametrize("kind", ONLY_A_STABLE)
def test_symmetric_methods_are_a_stable_and_do_not_damp_infinite_stiffness(kind):
    assert is_a_stable(kind())
    assert not is_l_stable(kind())
    assert amplification(kind(), ray(-1e6)) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("stepper", [solvers.RK4(), solvers.AdamsBashforth(2), solvers.AdamsBashforthMoulton(3)])
def test_explicit_methods_are_not_a_stable(stepper):
    assert not is_a_stable(stepper)


@pytest.mark.parametrize(
    "stepper",
    [solvers.RK4(), solvers.AdamsBashforth(3), solvers.AdamsBashforthMoulton(4), solvers.Rodas4(), solvers.Kvaerno3()],
)
def test_many_steps_grow_by_the_amplification(stepper):
    z = torch.tensor([-0.5 + 1.1j, 0.2 + 1j, -0.9 + 0j], dtype=torch.complex128)
    field = lambda t, y, cond: y * cond[:, None]  # noqa: E731
    problem = ODEProblem(field, torch.ones(3, 1, dtype=torch.complex128), 0.0, 400.0, cond=z)
    states = solvers.solve(problem, stepper, solvers.ConstantSteps(400), solvers.SaveAt([300.0, 400.0])).ys[..., 0]
    rates = (states[1].abs() / states[0].abs()) ** 0.01
    torch.testing.assert_close(rates, amplification(stepper, z), rtol=5e-3, atol=0)


def test_the_longest_stable_step_separates_decay_from_growth():
    eigenvalues = torch.tensor([[-1.0, -40.0], [-0.5, 3.0]], dtype=torch.complex128)
    step = largest_stable_step(solvers.RK4(), eigenvalues)
    torch.testing.assert_close(
        step, torch.tensor([2.785294 / 40, 2.785294 / 0.5], dtype=torch.float64), rtol=1e-5, atol=0
    )
    field = lambda t, y, cond: y * torch.tensor([-1.0, -40.0], dtype=torch.float64)  # noqa: E731
    for factor, decays in ((0.98, True), (1.02, False)):
        span = 400 * factor * float(step[0])
        problem = ODEProblem(field, torch.ones(1, 2, dtype=torch.float64), 0.0, span)
        end = solvers.solve(problem, solvers.RK4(), solvers.ConstantSteps(400)).final
        assert bool(end.abs().max() < 1) is decays
        assert bool(stability_margin(solvers.RK4(), eigenvalues[:1], factor * step[0]) < 1) is decays


def test_stiff_methods_have_no_longest_step_and_no_margin():
    eigenvalues = torch.tensor([-1e5, -1 + 3j, -1 - 3j], dtype=torch.complex128)
    assert math.isinf(largest_stable_step(solvers.RadauIIA5(), eigenvalues))
    assert stability_margin(solvers.RadauIIA5(), eigenvalues, 10.0) == 0
    assert math.isinf(largest_stable_step(solvers.Euler(), torch.tensor([2.0, 0.0], dtype=torch.complex128)))


def test_values_that_are_not_known_limit_nothing():
    known = torch.tensor([-4.0, 1j], dtype=torch.complex128)
    unknown = torch.cat([known, torch.full((2,), math.nan, dtype=torch.complex128)])
    assert largest_stable_step(solvers.RK4(), unknown) == largest_stable_step(solvers.RK4(), known)
    assert math.isinf(largest_stable_step(solvers.RK4(), unknown[2:]))


def test_over_a_short_span_a_mode_that_turns_asks_for_few_steps():
    # (1 + 9 / N²)^(N / 2) is 2.16 for five steps of Euler's method and 1.95 for six.
    turning = torch.tensor([3j, -3j], dtype=torch.complex128)
    assert float(steps_within_growth(solvers.Euler(), turning, 1.0)) == 6
    assert largest_stable_step(solvers.Euler(), turning) < 1e-3
    assert float(steps_within_growth(solvers.RK4(), turning, 1.0)) == 1
    # Strong decay is limited by the region: 10 / N of at most 2.
    decaying = torch.tensor([[-10.0, -1.0], [-1.0, math.nan]], dtype=torch.complex128)
    assert steps_within_growth(solvers.Euler(), decaying, 1.0).tolist() == [5, 1]
    assert float(steps_within_growth(solvers.RadauIIA5(), 1e4 * decaying[0], 1.0)) == 1
    assert math.isinf(steps_within_growth(solvers.Euler(), 1e6 * decaying[0], 1.0))


def test_what_grows_may_grow_as_fast_as_the_solution():
    growing = torch.tensor([4.0], dtype=torch.complex128)
    assert float(steps_within_growth(solvers.Euler(), growing, 1.0)) == 1
    # Implicit Euler is unstable where h λ is near one: 1 / (1 - 4/N) to the N against 2 exp(4).
    needed = int(steps_within_growth(solvers.ImplicitEuler(), growing, 1.0))
    exact = [abs(1 - 4 / n) ** -n <= 2 * math.exp(4) if n != 4 else False for n in range(1, 40)]
    assert needed == exact.index(True) + 1


def test_spans_and_factors_out_of_range_are_refused():
    with pytest.raises(ValueError, match="growth=1"):
        steps_within_growth(solvers.Euler(), torch.ones(1), 1.0, 1.0)


def test_friction_keeps_leapfrog_stable_over_the_same_step():
    # The damped oscillator of eigenvalues z and its conjugate: the kick is exact in the friction.
    z = torch.tensor([-0.3 + 1.8j, -0.3 + 2.3j, -1.0 + 0.5j], dtype=torch.complex128)
    growth = amplification(solvers.Leapfrog(), z)
    # The product of the two eigenvalues of the map is exactly exp(-γ h): in a pair, the root of it.
    torch.testing.assert_close(growth[[0, 2]], z.real.exp()[[0, 2]], rtol=1e-12, atol=0)
    assert growth[1] > 1


def test_what_has_no_region_is_refused():
    with pytest.raises(TypeError, match="Auto"):
        amplification(solvers.Auto(), points(2))
    with pytest.raises(TypeError, match="EulerMaruyama"):
        amplification(solvers.EulerMaruyama(), points(2))
    with pytest.raises(TypeError, match="roots"):
        stability_function(solvers.AdamsBashforth(3), points(2))
