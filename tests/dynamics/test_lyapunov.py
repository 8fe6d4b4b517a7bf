"""Lyapunov spectra of flows and maps, finite-time exponents, dimension."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isocline.dynamics.finite_time import finite_time_exponents
from isocline.dynamics.lyapunov import kaplan_yorke_dimension, lyapunov_spectrum, map_lyapunov_spectrum
from isocline.dynamics.system import IteratedMap
from isocline.dynamics.variational import TangentMap
from isocline.solvers import ConstantSteps, Dopri5, Dopri8, ODEProblem, PIDController, Tsit5, solve

D = torch.float64
TIGHT = PIDController(rtol=1e-9, atol=1e-11)


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=draw(seed), dtype=D)


def linear(matrix: torch.Tensor):
    return lambda t, x, cond: (x.flatten(1) @ matrix.T).reshape(x.shape)


def lorenz(t: torch.Tensor, x: torch.Tensor, cond: object) -> torch.Tensor:
    """σ = 10, ρ = 28, β = 8/3."""
    a, b, c = x.unbind(1)
    return torch.stack([10 * (b - a), a * (28 - c) - b, a * b - 8 / 3 * c], 1)


def swirl(t: torch.Tensor, x: torch.Tensor, cond: object) -> torch.Tensor:
    """A field in three dimensions whose divergence is no constant."""
    a, b, c = x.unbind(1)
    return torch.stack([b - 0.3 * a**3, -a + 0.2 * b * c, t.cos() * a - c + 0.1 * b**2], 1)


def swirl_divergence(t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return -0.9 * x[:, 0] ** 2 + 0.2 * x[:, 2] - 1


def test_a_linear_flow_has_the_real_parts_of_its_eigenvalues() -> None:
    """A complex pair shares its real part; the growths alternate about it over a turn, and agree over whole ones."""
    rates = torch.tensor([[0.4, -2.0, 0, 0], [2.0, 0.4, 0, 0], [0, 0, -0.5, 0], [0, 0, 1.0, -1.2]], dtype=D)
    change = normal(4, 4) + 3 * torch.eye(4, dtype=D)
    matrix = change @ rates @ torch.linalg.inv(change)
    spectrum = lyapunov_spectrum(
        linear(matrix),
        normal(2, 2, 2),
        0.0,
        20 + 4 * math.pi,
        draw(),
        interval=math.pi / 4,
        transient=20.0,
        stepper=Dopri8(),
        controller=TIGHT,
    )
    expected = torch.tensor([0.4, 0.4, -0.5, -1.2], dtype=D).expand(2, 4)
    torch.testing.assert_close(spectrum.exponents, expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(spectrum.sums, torch.full((2,), -0.9, dtype=D), rtol=0, atol=1e-7)


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 3), backward=st.booleans())
def test_the_leading_exponents_are_those_of_the_whole_spectrum(seed: int, count: int, backward: bool) -> None:
    """The frame's first k vectors do not depend on the others, in either direction of time."""
    matrix, t1 = normal(3, 3, seed=seed), -2.0 if backward else 2.0
    whole, part = (
        lyapunov_spectrum(
            linear(matrix), normal(1, 3), 0.0, t1, draw(seed), interval=0.5, count=k, stepper=Dopri8(), controller=TIGHT
        )
        for k in (3, count)
    )
    torch.testing.assert_close(whole.sums, torch.sign(torch.tensor([t1])).double() * matrix.trace(), atol=1e-6, rtol=0)
    first = torch.linalg.qr(torch.randn(3, count, generator=draw(seed), dtype=D))[0]
    image = torch.linalg.matrix_exp(matrix * t1) @ first
    volume = 0.5 * torch.linalg.slogdet(image.T @ image)[1] / abs(t1)
    torch.testing.assert_close(part.sums, volume[None], atol=1e-6, rtol=0)


def test_volumes_grow_by_the_divergence_along_the_way() -> None:
    starts = normal(4, 3)
    spectrum = lyapunov_spectrum(swirl, starts, 0.0, 3.0, draw(), interval=0.3, controller=TIGHT)
    joint = ODEProblem(
        lambda t, y, cond: torch.cat([swirl(t, y[:, :3], None), swirl_divergence(t, y)[:, None]], 1),
        torch.cat([starts, torch.zeros(4, 1, dtype=D)], 1),
        0.0,
        3.0,
    )
    end = solve(joint, Tsit5(), TIGHT).final
    torch.testing.assert_close(3 * spectrum.sums, end[:, 3], rtol=0, atol=1e-6)
    torch.testing.assert_close(spectrum.states, end[:, :3], rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(spectrum.running()[-1], spectrum.exponents)


def test_the_henon_map_has_its_two_exponents() -> None:
    """a = 1.4, b = 0.3: 0.419 and -1.623 (Sprott, Chaos and Time-Series Analysis, 2003); their sum is ln 0.3."""
    henon = IteratedMap(lambda t, x, cond: torch.stack([1 - 1.4 * x[:, 0] ** 2 + x[:, 1], 0.3 * x[:, 0]], 1), 0.0)
    spectrum = map_lyapunov_spectrum(henon, 0.1 * normal(400, 2), 600, draw(), transient=50)
    first, second = spectrum.estimates()
    assert spectrum.succeeded.all()
    assert first.se is not None
    assert first.se < 0.001
    assert first.mean == pytest.approx(0.4192, abs=4 * first.se)
    assert second.mean == pytest.approx(-1.6232, abs=4 * first.se)
    torch.testing.assert_close(spectrum.sums, torch.full((400,), math.log(0.3), dtype=D))
    dimension = kaplan_yorke_dimension(torch.tensor([first.mean, second.mean]), 2)
    assert float(dimension) == pytest.approx(1.258, abs=0.003)


@pytest.mark.slow
def test_the_lorenz_system_has_its_three_exponents() -> None:
    """0.9056, 0, -14.5723 (Sprott 2003), within four standard errors of independent trajectories."""
    starts = normal(128, 3) + torch.tensor([0.0, 0.0, 25.0], dtype=D)
    spectrum = lyapunov_spectrum(
        lorenz, starts, 0.0, 30.0, draw(), interval=0.5, transient=10.0, stepper=Dopri5(), controller=ConstantSteps(25)
    )
    estimates = spectrum.estimates()
    assert max(e.se for e in estimates) < 0.01
    for estimate, value in zip(estimates, (0.9056, 0.0, -14.5723), strict=True):
        assert estimate.mean == pytest.approx(value, abs=4 * estimate.se)
    torch.testing.assert_close(spectrum.sums, torch.full((128,), -13.0 - 2 / 3, dtype=D), rtol=0, atol=1e-4)
    dimension = kaplan_yorke_dimension(torch.tensor([e.mean for e in estimates], dtype=D), 3)
    assert float(dimension) == pytest.approx(2.062, abs=0.003)


def test_a_law_without_a_rule_for_dual_numbers_is_differentiated_another_way() -> None:
    """`torch.special.i0` has none; its derivative is i1."""
    law = lambda t, x, cond: torch.special.i0(x) + x.roll(1, 1)  # noqa: E731
    x, tangents = normal(2, 3), normal(2, 2, 3, seed=1)
    pushed = TangentMap(law)(torch.zeros(2, dtype=D), x, tangents, None)
    torch.testing.assert_close(pushed.value, law(None, x, None))
    torch.testing.assert_close(pushed.tangents, torch.special.i1(x)[:, None] * tangents + tangents.roll(1, 2))


def test_a_trajectory_that_escapes_is_marked_and_leaves_the_others_alone() -> None:
    burst = lambda t, x, cond: torch.where(x > 0, x**2, -x)  # noqa: E731
    both = lyapunov_spectrum(
        burst,
        torch.tensor([[2.0], [-1.0]], dtype=D),
        0.0,
        2.0,
        draw(),
        interval=0.2,
        controller=PIDController(max_steps=200),
    )
    assert both.succeeded.tolist() == [False, True]
    assert float(both.exponents[1]) == pytest.approx(-1, abs=1e-5)
    assert both.estimates()[0].mean == pytest.approx(-1, abs=1e-5)


def test_the_condition_goes_with_its_trajectory() -> None:
    rates = torch.tensor([0.5, -1.5], dtype=D)
    spectrum = lyapunov_spectrum(
        lambda t, x, cond: cond[:, None] * x,
        normal(2, 3),
        1.0,
        0.0,
        draw(),
        interval=0.25,
        count=2,
        cond=rates,
        controller=TIGHT,
    )
    torch.testing.assert_close(spectrum.exponents, -rates[:, None].expand(2, 2), rtol=0, atol=1e-7)


@pytest.mark.parametrize(("size", "count"), [(3, None), (40, 3)])
def test_finite_time_exponents_of_a_linear_flow_are_log_singular_values(size: int, count: int | None) -> None:
    """n = 40 takes the block iteration, whose residual bounds what it leaves."""
    matrix = normal(size, size, seed=4) / size**0.5
    exact = torch.linalg.svdvals(torch.linalg.matrix_exp(2 * matrix)).log() / 2
    found = finite_time_exponents(
        linear(matrix), normal(2, size), 0.0, 2.0, draw(), count=count, rounds=6, stepper=Dopri8(), controller=TIGHT
    )
    errors = (found.exponents - exact[: found.exponents.shape[1]]).abs()
    assert (errors <= found.residuals + 1e-6).all()
    assert errors.max() < 0.01


def test_the_direction_found_is_the_one_stretched_most() -> None:
    """Beside finite differences of the nonlinear flow."""
    starts = normal(3, 3)
    found = finite_time_exponents(swirl, starts, 0.0, 2.0, draw(), count=1, controller=TIGHT)
    step = 1e-5 * found.directions[:, 0]
    ends = [solve(ODEProblem(swirl, starts + sign * step, 0.0, 2.0), Tsit5(), TIGHT).final for sign in (1, -1)]
    stretch = torch.linalg.vector_norm(ends[0] - ends[1], dim=1) / 2e-5
    torch.testing.assert_close(found.exponents[:, 0], stretch.log() / 2, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("exponents", "size", "expected"),
    [
        ([0.9056, 0.0, -14.5723], 3, 2 + 0.9056 / 14.5723),
        ([-1.0, -2.0], 2, 0.0),
        ([1.0, 0.5], 2, 2.0),
        ([1.0, -2.0], 5, 1.5),
    ],
)
def test_the_dimension_of_kaplan_and_yorke(exponents, size: int, expected: float) -> None:
    values = torch.tensor([exponents, exponents[::-1]], dtype=D)
    torch.testing.assert_close(kaplan_yorke_dimension(values, size), torch.full((2,), expected, dtype=D))


def test_one_long_trajectory_has_an_error_from_its_blocks() -> None:
    logistic = IteratedMap(lambda t, x, cond: 4 * x * (1 - x), 0.0)
    spectrum = map_lyapunov_spectrum(logistic, torch.tensor([[0.3141]], dtype=D), 1500, draw(), transient=10)
    (estimate,) = spectrum.estimates()
    assert estimate.n == 10
    assert estimate.mean == pytest.approx(math.log(2), abs=4 * estimate.se)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: lyapunov_spectrum(swirl, normal(1, 3), 0.0, 1.0, draw(), interval=0.1, count=4), "count=4"),
        (lambda: lyapunov_spectrum(swirl, normal(1, 3), 0.0, 1.0, draw(), interval=0.0), "interval"),
        (lambda: lyapunov_spectrum(swirl, normal(1, 3), 0.0, 1.0, draw(), interval=0.1, transient=1.0), "transient"),
        (lambda: lyapunov_spectrum(swirl, normal(3), 0.0, 1.0, draw(), interval=0.1), "shape"),
        (lambda: map_lyapunov_spectrum(IteratedMap(swirl, 0.0), normal(1, 3), 0, draw()), "iterations=0"),
        (lambda: finite_time_exponents(swirl, normal(1, 3), 1.0, 1.0, draw()), "two different times"),
        (lambda: finite_time_exponents(linear(torch.eye(40, dtype=D)), normal(1, 40), 0.0, 1.0, draw()), "count=3"),
        (lambda: kaplan_yorke_dimension(torch.tensor([1.0, -0.5]), 3), "compute more"),
        (lambda: kaplan_yorke_dimension(torch.zeros(4), 3), "size=3"),
    ],
)
def test_bad_input_is_named(call, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        call()
