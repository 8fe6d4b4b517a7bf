"""Jacobians of fields: dual numbers against PyTorch's own derivatives, other ways, complex states, batched systems."""

import math

import pytest
import torch

from isocline.solvers.dual import Dual, UnsupportedError
from isocline.solvers.jacobian import Derivative, Linearizer, RealRows
from isocline.solvers.linear import factorize, shifted
from isocline.solvers.problem import ODEProblem

NOW = torch.tensor(0.3, dtype=torch.float64)
WEIGHT = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def states(batch=4, width=3, seed=0):
    return torch.rand(batch, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + 0.5


def by_autograd(field, t, y):
    """(B, D, D), one sample at a time."""
    rows = [torch.autograd.functional.jacobian(lambda z, t=t: field(t, z[None], None)[0], row) for row in y]
    return torch.stack(rows)


def linearize(field, y, derivative, h=None, t=NOW, **options):
    problem = ODEProblem(field, y, 0.0, 1.0, **options)
    linearizer, slope = Linearizer.probe(problem, t, y, derivative)
    return linearizer, slope, linearizer.evaluate(problem, t, y, RealRows(y), h)


def split_fields(t, y, cond):
    a, b, c = y.unbind(-1)
    return torch.stack((a * b - 2 * c, (1 - a) / (b + c), 3.0 - a**3 + b**-0.5 + 2.0**c), -1)


FIELDS = {
    "arithmetic": split_fields,
    "linear": lambda t, y, cond: torch.nn.functional.linear(y, WEIGHT, WEIGHT[0]),
    "matmul": lambda t, y, cond: y @ WEIGHT.T + (y[:, None] @ WEIGHT)[:, 0],
    "einsum": lambda t, y, cond: torch.einsum("bi,ij,bj->bj", y, WEIGHT, y),
    "mlp": lambda t, y, cond: torch.nn.functional.silu(torch.tanh(y @ WEIGHT) @ WEIGHT),
    "smooth": lambda t, y, cond: y.exp().log1p() + y.sqrt() * y.sin() - y.cos().sigmoid() + torch.expm1(-y),
    "more smooth": lambda t, y, cond: y.tan() + y.sinh() - y.cosh() + y.atan() + torch.erf(y) + y.rsqrt() + y.log(),
    "pieces": lambda t, y, cond: torch.where(y > 0.9, y**2, -y) + y.clamp(0.6, 1.2) + (y - 1).abs() + (y - 1).relu(),
    "extremes": lambda t, y, cond: torch.maximum(y * y, 1.5 - y),
    "shapes": lambda t, y, cond: torch.cat((y[:, 1:], y[:, :1]), 1).reshape(-1, 3, 1).squeeze(-1) * y.roll(1, -1),
    "sums": lambda t, y, cond: y * y.sum(-1, keepdim=True) - y.mean(1)[:, None].expand(-1, 3) * y[..., [2, 0, 1]],
    "chunks": lambda t, y, cond: torch.cat([part.square() for part in y.split([1, 2], -1)[::-1]], -1),
    "transposed": lambda t, y, cond: (y.T * torch.arange(3)[:, None]).transpose(0, 1).permute(0, 1) / (1 + y),
    "softplus": lambda t, y, cond: torch.nn.functional.softplus(y) * torch.ones_like(y) + 1 / (1 + y.square()),
}


@pytest.mark.parametrize("name", FIELDS)
def test_dual_numbers_give_the_jacobian_of_autograd(name):
    field, y = FIELDS[name], states()
    linearizer, slope, found = linearize(field, y, None)
    assert linearizer.derivative is Derivative.DUAL
    assert torch.equal(slope, field(NOW, y, None))
    torch.testing.assert_close(found.jacobian, by_autograd(field, NOW, y), rtol=1e-12, atol=1e-13)
    assert found.nfe == 1


@pytest.mark.parametrize("derivative", [Derivative.REVERSE, Derivative.DIFFERENCES])
@pytest.mark.parametrize("name", ["arithmetic", "mlp", "sums"])
def test_the_other_ways_agree(name, derivative):
    field, y = FIELDS[name], states()
    _, _, found = linearize(field, y, derivative)
    tolerance = 1e-7 if derivative is Derivative.DIFFERENCES else 1e-12
    torch.testing.assert_close(found.jacobian, by_autograd(field, NOW, y), rtol=tolerance, atol=tolerance)


def timed(t, y, cond):
    time = t if t.ndim == 0 else t[:, None]
    return y * torch.sin(3 * time) + time**2


@pytest.mark.parametrize("t", [NOW, torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)], ids=["shared", "own"])
@pytest.mark.parametrize("derivative", [Derivative.DUAL, Derivative.REVERSE, Derivative.DIFFERENCES])
def test_the_derivative_in_time_is_found(derivative, t):
    y = states()
    linearizer, _, found = linearize(timed, y, derivative, h=torch.full_like(t, 1e-2), t=t)
    time = t.expand(4)[:, None]
    assert not linearizer.autonomous
    tolerance = 1e-4 if derivative is Derivative.DIFFERENCES else 1e-12
    torch.testing.assert_close(found.rate, 3 * y * torch.cos(3 * time) + 2 * time, rtol=tolerance, atol=tolerance)


def test_a_field_without_time_is_recognized_and_not_differentiated_in_time():
    linearizer, _, found = linearize(FIELDS["mlp"], states(), None, h=torch.tensor(0.1, dtype=torch.float64))
    assert linearizer.autonomous
    assert found.rate is None


def test_a_field_without_state_has_a_jacobian_of_zeros():
    _, _, found = linearize(lambda t, y, cond: torch.ones(4, 3, dtype=torch.float64) * t, states(), Derivative.DUAL)
    assert torch.equal(found.jacobian, torch.zeros(4, 3, 3, dtype=torch.float64))


def test_an_operation_without_a_rule_falls_back_to_backpropagation():
    def field(t, y, cond):
        return torch.cumsum(y * y, -1)

    with pytest.raises(UnsupportedError, match="no rule for"):
        torch.cumsum(Dual(states(), torch.zeros(1, 4, 3)), -1)
    linearizer, _, found = linearize(field, states(), None)
    assert linearizer.derivative is Derivative.REVERSE
    torch.testing.assert_close(found.jacobian, by_autograd(field, NOW, states()), rtol=1e-12, atol=1e-12)


def test_a_field_outside_of_pytorch_falls_back_to_differences():
    def field(t, y, cond):
        return torch.from_numpy(y.numpy(force=True) ** 2)

    linearizer, _, found = linearize(field, states(), None)
    assert linearizer.derivative is Derivative.DIFFERENCES
    torch.testing.assert_close(found.jacobian, torch.diag_embed(2 * states()), rtol=1e-8, atol=1e-8)


def test_a_field_cut_from_the_graph_is_differentiated_all_the_same():
    def field(t, y, cond):
        with torch.no_grad():
            return y.detach() ** 3

    linearizer, _, found = linearize(field, states(), None)
    assert linearizer.derivative is Derivative.DUAL
    torch.testing.assert_close(found.jacobian, torch.diag_embed(3 * states() ** 2))


def test_the_problems_own_jacobian_comes_first():
    own = torch.full((4, 3, 3), 7.0, dtype=torch.float64)
    linearizer, _, found = linearize(FIELDS["mlp"], states(), None, jac=lambda t, y, cond: own)
    assert linearizer.derivative is Derivative.GIVEN
    assert torch.equal(found.jacobian, own)


def test_a_mistake_of_the_field_is_raised_as_it_is():
    def field(t, y, cond):
        raise KeyError("a mistake of its author")

    with pytest.raises(KeyError, match="a mistake of its author"):
        linearize(field, states(), None)


@pytest.mark.parametrize("derivative", [Derivative.DUAL, Derivative.REVERSE, Derivative.DIFFERENCES])
def test_complex_states_count_as_pairs_of_real_ones(derivative):
    # |z|² z is not holomorphic; its derivative in (x, y) is [[3x² + y², 2xy], [2xy, x² + 3y²]].
    def field(t, z, cond):
        return z * (z * z.conj()).real

    z = torch.tensor([[0.3 + 0.4j], [1.0 - 2.0j]], dtype=torch.complex128)
    _, _, found = linearize(field, z, derivative)
    x, y = z.real[:, 0], z.imag[:, 0]
    rows = (torch.stack((3 * x * x + y * y, 2 * x * y), -1), torch.stack((2 * x * y, x * x + 3 * y * y), -1))
    torch.testing.assert_close(found.jacobian, torch.stack(rows, 1), rtol=1e-7, atol=1e-7)


def test_a_given_complex_jacobian_becomes_the_real_one():
    rate = torch.tensor([[[2.0 + 3.0j]]], dtype=torch.complex128)
    z = torch.tensor([[1.0 + 1.0j]], dtype=torch.complex128)
    _, _, found = linearize(lambda t, z, cond: rate[0] * z, z, None, jac=lambda t, z, cond: rate)
    torch.testing.assert_close(found.jacobian, torch.tensor([[[2.0, -3.0], [3.0, 2.0]]], dtype=torch.float64))


def test_states_of_several_axes_are_flattened():
    y = states(2, 6).reshape(2, 2, 3)

    def field(t, y, cond):
        return y * y.sum((1, 2), keepdim=True)

    def flat(t, rows, cond):
        return field(t, rows.reshape(-1, 2, 3), cond).reshape(-1, 6)

    _, _, found = linearize(field, y, None)
    torch.testing.assert_close(found.jacobian, by_autograd(flat, NOW, y.reshape(2, 6)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("derivative", [Derivative.DUAL, Derivative.REVERSE])
def test_jacobians_can_themselves_be_differentiated(derivative):
    y = states().requires_grad_()
    _, _, found = linearize(FIELDS["arithmetic"], y, derivative)
    (second,) = torch.autograd.grad(found.jacobian.square().sum(), y)

    def squares(z):
        return torch.func.vmap(torch.func.jacrev(lambda row: split_fields(NOW, row[None], None)[0]))(z).square().sum()

    torch.testing.assert_close(second, torch.func.grad(squares)(y.detach()), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("width", [1, 2, 3, 4, 12])
def test_systems_are_solved_and_each_by_itself(width):
    generator = torch.Generator().manual_seed(0)
    jacobian = torch.randn(6, width, width, dtype=torch.float64, generator=generator)
    right = torch.randn(6, width, dtype=torch.float64, generator=generator)
    scaled = torch.linspace(0.1, 20.0, 6, dtype=torch.float64)[:, None]
    matrices = torch.eye(width, dtype=torch.float64) - scaled[..., None] * jacobian
    torch.testing.assert_close(shifted(jacobian, scaled), matrices)
    found = factorize(matrices).solve(right)
    torch.testing.assert_close((matrices @ found[..., None])[..., 0], right, rtol=1e-9, atol=1e-9)
    for row in range(6):
        assert torch.equal(factorize(matrices[row : row + 1]).solve(right[row : row + 1])[0], found[row])


@pytest.mark.parametrize("width", [1, 2, 3, 5])
def test_a_singular_matrix_gives_numbers_that_are_not_finite_in_its_row_only(width):
    matrices = torch.eye(width, dtype=torch.float64).repeat(3, 1, 1)
    matrices[1] = 0
    found = factorize(matrices).solve(torch.ones(3, width, dtype=torch.float64))
    assert found[[0, 2]].eq(1).all()
    assert not found[1].isfinite().any()


@pytest.mark.parametrize("width", [2, 3, 4])
def test_stiff_systems_of_every_size_lose_no_more_than_conditioning_allows(width):
    # Stiffness 1e12: rows of very different size.
    matrices = torch.randn(50, width, width, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    matrices[:, 0] *= 1e12
    wanted = torch.randn(50, width, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    found = factorize(matrices).solve((matrices @ wanted[..., None])[..., 0])
    scaled = matrices / matrices.abs().amax(2, keepdim=True)
    bound = 1e-14 * torch.linalg.cond(scaled) * math.sqrt(width)
    assert ((found - wanted).abs().amax(1) <= bound * wanted.abs().amax(1)).all()
