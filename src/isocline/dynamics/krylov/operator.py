"""Matrices known by what they do to vectors: the Jacobian of each sample of a field, the Hessian of a loss."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from isocline.solvers.problem import VectorField

__all__ = ["LinearOperator", "Product", "hessian_operator", "jacobian_operator"]

Product = Callable[[Tensor], Tensor]
"""(B, n) to (B, n): one matrix of each sample times one vector of each."""


@dataclass(frozen=True, eq=False)
class LinearOperator:
    """B real square matrices of size n, by their products with vectors.

    Attributes:
        batch: number of matrices, B.
        size: number of rows, n.
        matvec: ``A v``, shape (B, n) to (B, n); takes and returns ``dtype``.
        rmatvec: ``Aᵀ v`` likewise, or None where it is not known.
        dtype: in which the products are computed; Krylov methods accumulate in float64 whatever it is.
        device: where the vectors live.
    """

    batch: int
    size: int
    matvec: Product
    rmatvec: Product | None = None
    dtype: torch.dtype = torch.float64
    device: torch.device | str = "cpu"

    def __post_init__(self) -> None:
        if self.batch < 1 or self.size < 1:
            raise ValueError(f"batch={self.batch} and size={self.size}; expected at least one matrix and one row")

    def apply(self, vectors: Tensor) -> Tensor:
        """``A v`` for float64 vectors, shape (B, n), the result in float64."""
        return self.matvec(vectors.to(self.dtype)).double()

    @property
    def transposed(self) -> Product:
        """``rmatvec``.

        Raises:
            ValueError: if it is not known.
        """
        if self.rmatvec is None:
            raise ValueError("this LinearOperator has rmatvec=None; give it the product with the transposed matrix")
        return self.rmatvec

    def gram(self) -> LinearOperator:
        """``AᵀA``, whose eigenvalues are the squared singular values."""
        back = self.transposed

        def product(v: Tensor) -> Tensor:
            return back(self.matvec(v))

        return LinearOperator(self.batch, self.size, product, product, self.dtype, self.device)

    def symmetric_part(self) -> LinearOperator:
        """``(A + Aᵀ)/2``, whose eigenvalues bound the real part of the numerical range."""
        back = self.transposed

        def product(v: Tensor) -> Tensor:
            return (self.matvec(v) + back(v)) / 2

        return LinearOperator(self.batch, self.size, product, product, self.dtype, self.device)

    @classmethod
    def from_matrices(cls, matrices: Tensor) -> LinearOperator:
        """Matrices that are known, shape (B, n, n)."""
        count, size = matrices.shape[:2]
        return cls(
            count,
            size,
            lambda v: torch.einsum("bij,bj->bi", matrices, v),
            lambda v: torch.einsum("bji,bj->bi", matrices, v),
            matrices.dtype,
            matrices.device,
        )


def jacobian_operator(field: VectorField, t: Tensor | float, x: Tensor, cond: Any = None) -> LinearOperator:
    """The Jacobians ``∂f/∂x`` of a field at one state of each sample, flattened to n components.

    The field is evaluated once, with its graph, and a product backpropagates twice through it (the derivative of
    ``u ↦ Jᵀu``, applied to v): on this project's networks that takes one to two evaluations' time, dual numbers three
    to seven. They are used where an operation cannot be differentiated twice, or the field is cut off from the graph.
    A product with the transposed matrix is one backward pass. Attention is computed by its plain formula, since its
    fused kernels have no second derivative. Samples must not influence one another.

    Args:
        field: ``f(t, x, cond) -> dx``.
        t: shape () or (B,).
        x: states, shape (B, *event), floating.
        cond: handed to the field.

    Raises:
        TypeError: if x is not real and floating.

    Source: Pearlmutter, Fast exact multiplication by the Hessian (1994); double backward: Townsend (2017).
    """
    if not x.is_floating_point():
        raise TypeError(f"x has dtype {x.dtype}; expected real floating states: stack real and imaginary parts")
    count, point = len(x), x.detach()
    size = x[0].numel()
    time = torch.as_tensor(t, dtype=torch.float64, device=x.device)

    def slope(rows: Tensor) -> Tensor:
        return field(time, rows.reshape(point.shape), cond).reshape(count, size).to(point.dtype)

    products = _Products(slope, point.reshape(count, size))
    return LinearOperator(count, size, products.push, products.pull, x.dtype, x.device)


class _Products:
    """Products with a Jacobian; graphs are built when first needed and kept."""

    def __init__(self, function: Product, point: Tensor) -> None:
        self._function, self._point = function, point
        self._twice: tuple[Tensor, Tensor] | None = None
        self._by_duals = False

    def push(self, v: Tensor) -> Tensor:
        """``J v``."""
        if not self._by_duals:
            try:
                found = self._push_backwards(v)
            # PyTorch has no type of its own for a missing derivative; any other mistake is met again below.
            except (RuntimeError, NotImplementedError):
                found = None
            if found is not None:
                return found
            self._by_duals = True
        return self._push_duals(v)

    def pull(self, v: Tensor) -> Tensor:
        """``Jᵀ v``.

        Raises:
            RuntimeError: if the field is not constant, but is cut off from the graph.
        """
        leaf, value = self._recorded
        if value.requires_grad:
            (found,) = torch.autograd.grad(value, leaf, v, retain_graph=True, materialize_grads=True)
            return found
        if bool(self._push_duals(v).any()):
            raise RuntimeError("the field returns a slope without its graph; let it compute outside torch.no_grad()")
        return torch.zeros_like(v)

    def _push_backwards(self, v: Tensor) -> Tensor | None:
        """``J v``, or None where u leaves no trace in ``Jᵀ u``: of a constant, or of what cannot be seen this way."""
        if self._twice is None:
            self._twice = self._record_twice()
        u, pulled = self._twice
        tangent: Tensor | None = torch.autograd.grad(pulled, u, v, retain_graph=True, allow_unused=True)[0]
        return tangent

    def _push_duals(self, v: Tensor) -> Tensor:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            pair = torch.func.jvp(self._function, (self._point,), (v,))
        return pair[1]

    @functools.cached_property
    def _recorded(self) -> tuple[Tensor, Tensor]:
        """The point as a leaf, and the field there with its graph."""
        with torch.inference_mode(False), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            leaf = self._point.clone().requires_grad_()
            return leaf, self._function(leaf)

    def _record_twice(self) -> tuple[Tensor, Tensor]:
        """A vector u and ``Jᵀ u`` with its graph."""
        leaf, value = self._recorded
        with torch.inference_mode(False), torch.enable_grad():
            u = torch.zeros_like(value, requires_grad=True)
            # Raises where the slope is cut off from the graph: dual numbers see through that.
            (pulled,) = torch.autograd.grad(value, leaf, u, create_graph=True, materialize_grads=True)
        return u, pulled


def hessian_operator(loss: Callable[[], Tensor], parameters: Iterable[Tensor]) -> LinearOperator:
    """The Hessian of a loss in its parameters, all of them as one vector; a batch of one.

    The loss is computed once, with its gradient's graph, which each product backpropagates through.

    Args:
        loss: returns a scalar; must give the same value every time (no dropout, one fixed batch).
        parameters: leaves that require gradients.

    Returns:
        an operator with B = 1 and n the number of parameters; symmetric.

    Raises:
        ValueError: if there is no parameter that requires gradients.

    Source: Pearlmutter, Fast exact multiplication by the Hessian (1994).
    """
    leaves = [parameter for parameter in parameters if parameter.requires_grad]
    if not leaves:
        raise ValueError("parameters holds no tensor that requires gradients; call requires_grad_()")
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        found = torch.autograd.grad(loss(), leaves, create_graph=True, materialize_grads=True)
        gradient = torch.cat([part.reshape(-1) for part in found])

    def product(v: Tensor) -> Tensor:
        if not gradient.requires_grad:
            return torch.zeros_like(v)
        parts = torch.autograd.grad(gradient, leaves, v[0], retain_graph=True, materialize_grads=True)
        return torch.cat([part.reshape(-1) for part in parts])[None]

    return LinearOperator(1, gradient.numel(), product, product, gradient.dtype, gradient.device)
