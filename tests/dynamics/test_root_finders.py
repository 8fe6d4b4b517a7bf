"""Newton–Krylov, Anderson acceleration, and one after the other."""

from __future__ import annotations

import itertools

import pytest
import torch

from isocline.dynamics.anderson import Anderson
from isocline.dynamics.newton_krylov import NewtonKrylov
from isocline.dynamics.root_finder import Polished, RootStatus
from isocline.dynamics.system import Flow, IteratedMap

D = torch.float64
FINDERS = [NewtonKrylov(), Anderson(), Polished(Anderson(tolerance=1e-3), NewtonKrylov())]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=D)


def contraction(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    matrix = torch.linalg.qr(normal(size, size))[0] * torch.linspace(-0.9, 0.9, size, dtype=D)
    return matrix, normal(size, seed=1)


@pytest.mark.parametrize("finder", FINDERS)
def test_an_affine_map_is_solved_from_every_start(finder) -> None:
    matrix, shift = contraction(12)
    system = IteratedMap(lambda t, x, cond: (x.flatten(1) @ matrix.T + shift).reshape(x.shape), 0.0)
    roots = finder.find(system, normal(5, 3, 4))
    exact = torch.linalg.solve(torch.eye(12, dtype=D) - matrix, shift)
    assert roots.converged.all()
    torch.testing.assert_close(roots.points.flatten(1), exact.expand(5, -1), rtol=1e-7, atol=1e-7)


def test_anderson_with_a_full_memory_ends_like_gmres_in_n_plus_one_steps() -> None:
    """On an affine problem the accelerated iterates are GMRES's: Walker, Ni 2011, Theorem 2.2."""
    matrix, shift = contraction(6)
    system = IteratedMap(lambda t, x, cond: x @ matrix.T + shift, 0.0)
    roots = Anderson(memory=8, tolerance=1e-9).find(system, normal(3, 6))
    assert roots.converged.all()
    assert int(roots.iterations.max()) <= 8
    plain = Anderson(memory=0, tolerance=1e-9, iterations=1000).find(system, normal(3, 6))
    assert plain.converged.all()
    assert int(plain.iterations.min()) > 40


def test_newtons_residuals_fall_quadratically_near_a_root() -> None:
    system = Flow(lambda t, x, cond: x.exp() - 2, 0.0)
    starts = torch.full((1, 1), 1.2, dtype=D)
    norms = [float(NewtonKrylov(tolerance=1e-15, iterations=n).find(system, starts).residuals) for n in (1, 2, 3, 4)]
    for before, after in itertools.pairwise(norms):
        assert after < 2 * before**2 + 1e-15


def test_the_forcing_term_saves_products_far_away_and_keeps_the_convergence_fast() -> None:
    """Eisenstat and Walker's choice tightens with the residual; a linear system solved loosely once is not enough."""
    matrix, shift = contraction(40)
    system = IteratedMap(lambda t, x, cond: x @ matrix.T + shift + 0.1 * x.sin(), 0.0)
    loose = NewtonKrylov(tolerance=1e-10).find(system, 3 * normal(2, 40))
    tight = NewtonKrylov(tolerance=1e-10, forcing=1e-8).find(system, 3 * normal(2, 40))
    assert loose.converged.all()
    assert tight.converged.all()
    assert int(loose.products.sum()) < int(tight.products.sum())
    assert int(loose.iterations.max()) <= 9


def test_newton_finds_repelling_points_that_anderson_leaves() -> None:
    """The middle zero of x - x³ repels; a negative mixing reverses the flow."""
    cubic = Flow(lambda t, x, cond: x - x**3, 0.0)
    near = torch.full((1, 1), 0.05, dtype=D)
    assert abs(float(NewtonKrylov().find(cubic, near).points)) < 1e-8
    assert abs(abs(float(Anderson(memory=0, mixing=0.2).find(cubic, near).points)) - 1) < 1e-8
    assert abs(float(Anderson(memory=0, mixing=-0.2).find(cubic, near).points)) < 1e-8


@pytest.mark.parametrize("finder", FINDERS)
def test_a_start_does_not_see_the_others(finder) -> None:
    system = Flow(
        lambda t, x, cond: cond[:, None] - x - 0.3 * x.roll(1, 1) ** 3, 0.0, torch.linspace(-1, 1, 6, dtype=D)
    )
    starts = normal(6, 4)
    together = finder.find(system, starts)
    assert together.converged.all()
    for row in (0, 3):
        rows = torch.tensor([row])
        alone = finder.find(system.at_rows(rows), starts[rows])
        torch.testing.assert_close(alone.points[0], together.points[row])
        assert alone.evaluations[0] == together.evaluations[row]
        assert alone.products[0] == together.products[row]


def test_failures_carry_their_reason() -> None:
    no_zero = Flow(lambda t, x, cond: 1 + x**2, 0.0)
    starts = torch.tensor([[3.0]], dtype=D)
    assert NewtonKrylov().find(no_zero, starts).status.tolist() == [RootStatus.STALLED]
    assert NewtonKrylov(iterations=1).find(no_zero, starts).status.tolist() == [RootStatus.MAX_ITERATIONS]
    broken = Flow(lambda t, x, cond: torch.where(x > 1, torch.nan, x + 1), 0.0)
    mixed = NewtonKrylov().find(broken, torch.tensor([[3.0], [0.5]], dtype=D))
    assert mixed.status.tolist() == [RootStatus.NON_FINITE, RootStatus.CONVERGED]
    assert Anderson().find(broken, torch.tensor([[3.0], [0.5]], dtype=D)).status[0] == RootStatus.NON_FINITE
    assert Anderson().find(no_zero, starts).count(RootStatus.CONVERGED) == 0
    assert all(status.explanation for status in RootStatus)


def test_anderson_goes_back_from_where_the_law_is_not_finite() -> None:
    """A full step from 3 leaves the domain of the logarithm."""
    system = Flow(lambda t, x, cond: -4 * x.log(), 0.0)
    roots = Anderson().find(system, torch.tensor([[3.0]], dtype=D))
    assert roots.converged.all()
    assert float(roots.points) == pytest.approx(1.0)


def test_single_precision_converges_to_its_own_tolerance() -> None:
    matrix, shift = contraction(12)
    system = IteratedMap(lambda t, x, cond: x @ matrix.T.float() + shift.float(), 0.0)
    for finder in FINDERS:
        assert finder.find(system, normal(3, 12).float()).converged.all()


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: NewtonKrylov(krylov=0), "krylov=0"),
        (lambda: NewtonKrylov(tolerance=-1.0), "tolerance"),
        (lambda: Anderson(mixing=0.0), "mixing"),
        (lambda: Anderson(growth=1.0), "growth"),
        (lambda: NewtonKrylov().find(Flow(lambda t, x, c: x, 0.0), torch.ones(3)), "shape"),
        (lambda: NewtonKrylov().find(Flow(lambda t, x, c: x, 0.0), torch.full((2, 1), torch.nan)), r"starts\[0\]"),
    ],
)
def test_bad_input_is_named(make, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()


def test_integer_starts_are_a_type_error() -> None:
    with pytest.raises(TypeError, match="int64"):
        Anderson().find(Flow(lambda t, x, c: x, 0.0), torch.ones(2, 1, dtype=torch.int64))
