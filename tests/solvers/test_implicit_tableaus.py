"""Tableaus of implicit methods: nodes, collocation, quadrature conditions."""

import numpy as np
import pytest
from implicit_methods import GAUSS, KINDS

from isocline.solvers.implicit_runge_kutta import RadauIIA3, RadauIIA5


@pytest.mark.parametrize("kind", GAUSS)
def test_gauss_nodes_and_weights_are_those_of_gauss_legendre_quadrature(kind):
    x, w = np.polynomial.legendre.leggauss(len(kind.tableau.c))
    np.testing.assert_allclose(kind.tableau.c, (1 + x) / 2, rtol=0, atol=1e-15)
    np.testing.assert_allclose(kind.tableau.b, w / 2, rtol=0, atol=1e-15)
    assert len(set(kind.tableau.c)) == len(kind.tableau.c)


def collocation(nodes):
    """``a_ij = ∫_0^{c_i} ℓ_j`` by NumPy's polynomials."""
    rows = []
    for other, node in enumerate(nodes):
        basis = np.polynomial.Polynomial([1.0])
        for root in (c for k, c in enumerate(nodes) if k != other):
            basis = basis * np.polynomial.Polynomial([-root, 1.0]) / (node - root)
        basis = basis.integ()
        rows.append([basis(c) for c in nodes])
    return np.array(rows).T


@pytest.mark.parametrize("kind", [*GAUSS, RadauIIA3, RadauIIA5])
def test_gauss_and_radau_methods_are_collocation_at_their_nodes(kind):
    np.testing.assert_allclose(kind.tableau.a, collocation(kind.tableau.c), rtol=0, atol=1e-14)


@pytest.mark.parametrize("kind", [RadauIIA3, RadauIIA5])
def test_radau_nodes_are_the_zeros_of_a_difference_of_legendre_polynomials(kind):
    # P_s - P_(s-1) on [-1, 1] vanishes at Radau's nodes, the right end among them.
    count = len(kind.tableau.c)
    zeros = np.polynomial.legendre.legroots([0] * (count - 1) + [-1, 1])
    np.testing.assert_allclose(kind.tableau.c, (1 + np.sort(zeros.real)) / 2, rtol=0, atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_quadrature_conditions_hold_to_the_order_and_no_further(kind):
    table = kind.tableau
    for power in range(1, table.order + 1):
        total = sum(b * c ** (power - 1) for b, c in zip(table.b, table.c, strict=True))
        assert total == pytest.approx(1 / power, abs=1e-14)
    total = sum(b * c**table.order for b, c in zip(table.b, table.c, strict=True))
    assert abs(total - 1 / (table.order + 1)) > 1e-5
