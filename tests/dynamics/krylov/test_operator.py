"""Products with Jacobians and Hessians: both modes, transposed products, attention, fields without a derivative."""

import pytest
import torch
from torch import nn
from torch.autograd.function import once_differentiable

from isocline.dynamics.krylov import LinearOperator, hessian_operator, jacobian_operator


def generator():
    return torch.Generator().manual_seed(3)


def normal(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=generator())


def network(t, x, cond):
    time = t if t.ndim == 0 else t.reshape(-1, 1, 1)
    return torch.tanh(x @ normal(4, 4)) * time + x.flip(1) ** 2 + cond[:, None, None]


def dense_jacobian(field, t, x, cond):
    """(B, n, n) sample by sample through PyTorch's own loop."""
    rows = []
    for index in range(len(x)):
        time = t if t.ndim == 0 else t[index : index + 1]
        own = None if cond is None else cond[index : index + 1]

        def function(z, time=time, own=own):
            return field(time, z[None], own)[0]

        found = torch.autograd.functional.jacobian(function, x[index])
        rows.append(found.reshape(x[index].numel(), -1))
    return torch.stack(rows)


class NoForward(torch.autograd.Function):
    """A sine that knows its backward pass only."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * x.cos()


class Once(torch.autograd.Function):
    """A sine that can be differentiated backwards once, and on dual numbers."""

    @staticmethod
    def forward(x):
        return x.sin()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * x.cos()

    @staticmethod
    def jvp(ctx, tangent):
        (x,) = ctx.saved_tensors
        return tangent * x.cos()


@torch.no_grad()
def without_graph(x):
    return x.sin()


@pytest.mark.parametrize("sine", [NoForward.apply, Once.apply, without_graph], ids=["no dual", "once", "no graph"])
def test_a_field_without_one_kind_of_derivative_has_products_by_the_other(sine):
    mix = normal(5, 5)

    def field(t, x, cond):
        return sine(x @ mix)

    x, v = normal(3, 5), normal(3, 5)
    operator = jacobian_operator(field, 0.0, x)
    dense = dense_jacobian(lambda t, x, cond: (x @ mix).sin(), torch.tensor(0.0), x, None)
    for _ in range(2):  # The second product uses the graph of the first.
        torch.testing.assert_close(operator.matvec(v), torch.einsum("bij,bj->bi", dense, v), rtol=1e-12, atol=1e-12)


def test_a_field_cut_off_from_its_graph_is_not_taken_for_a_constant():
    operator = jacobian_operator(lambda t, x, cond: without_graph(x), 0.0, normal(2, 3))
    with pytest.raises(RuntimeError, match="no_grad"):
        operator.rmatvec(normal(2, 3))


def test_attention_has_products_of_both_kinds():
    def attend(t, x, cond):
        return nn.functional.scaled_dot_product_attention(x, 2 * x, x)

    def written_out(t, x, cond):
        return torch.softmax(x @ (2 * x).mT / 2, -1) @ x

    x, v = normal(2, 1, 3, 4, dtype=torch.float32), normal(2, 12, dtype=torch.float32)
    operator = jacobian_operator(attend, 0.0, x)
    dense = dense_jacobian(written_out, torch.tensor(0.0), x, None)
    torch.testing.assert_close(operator.matvec(v), torch.einsum("bij,bj->bi", dense, v), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(operator.rmatvec(v), torch.einsum("bji,bj->bi", dense, v), rtol=1e-5, atol=1e-5)


def test_a_constant_field_has_the_zero_jacobian():
    operator = jacobian_operator(lambda t, x, cond: torch.ones_like(x), 0.0, normal(2, 3))
    assert not operator.matvec(normal(2, 3)).any()
    assert not operator.rmatvec(normal(2, 3)).any()


def test_products_work_where_gradients_are_off():
    with torch.inference_mode():
        x = normal(2, 3)
        operator = jacobian_operator(lambda t, x, cond: x**2, 0.0, x)
        torch.testing.assert_close(operator.matvec(torch.ones(2, 3, dtype=torch.float64)), 2 * x)
    with torch.no_grad():
        torch.testing.assert_close(operator.rmatvec(torch.ones(2, 3, dtype=torch.float64)), 2 * x.clone())


def test_a_mistake_of_the_field_is_not_hidden():
    with pytest.raises(RuntimeError, match="shape"):
        jacobian_operator(lambda t, x, cond: x @ normal(7, 7), 0.0, normal(2, 3)).matvec(normal(2, 3))


def test_gram_and_symmetric_part_are_what_they_say():
    a, v = normal(3, 4, 4), normal(3, 4)
    operator = LinearOperator.from_matrices(a)
    torch.testing.assert_close(operator.gram().matvec(v), torch.einsum("bji,bjk,bk->bi", a, a, v))
    torch.testing.assert_close(operator.symmetric_part().matvec(v), torch.einsum("bij,bj->bi", (a + a.mT) / 2, v))


def test_the_hessian_is_that_of_autograd():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    x, y = normal(16, 3), normal(16, 1)
    parameters = list(model.parameters())
    operator = hessian_operator(lambda: (model(x) - y).square().mean(), parameters)
    shapes = [parameter.shape for parameter in parameters]

    def loss(flat):
        parts = flat.split([shape.numel() for shape in shapes])
        w1, b1, w2, b2 = (part.reshape(shape) for part, shape in zip(parts, shapes, strict=True))
        return ((torch.tanh(x @ w1.T + b1) @ w2.T + b2) - y).square().mean()

    flat = torch.cat([parameter.detach().reshape(-1) for parameter in parameters])
    dense = torch.autograd.functional.hessian(loss, flat)
    found = torch.cat([operator.matvec(row[None]) for row in torch.eye(len(flat), dtype=torch.float64)])
    torch.testing.assert_close(found, dense, rtol=1e-10, atol=1e-12)


def test_a_linear_loss_has_the_zero_hessian():
    weight = normal(3).requires_grad_()
    assert not hessian_operator(weight.sum, [weight]).matvec(normal(1, 3)).any()


def test_complex_states_and_constant_parameters_are_refused():
    with pytest.raises(TypeError, match="stack real and imaginary"):
        jacobian_operator(lambda t, x, cond: x, 0.0, normal(2, 3).to(torch.complex128))
    with pytest.raises(ValueError, match="requires_grad_"):
        hessian_operator(lambda: torch.zeros(()), [normal(3)])
    with pytest.raises(ValueError, match="rmatvec"):
        LinearOperator(1, 3, lambda v: v).gram()
