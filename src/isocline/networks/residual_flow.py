"""Invertible residual networks: x + g(x) with a contraction g, the discrete flow that a neural ODE is the limit of."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from isocline.networks.normalizing_flow import AbstractNormalizingFlow, Encoded, check_sizes, check_width

__all__ = ["LipschitzLinear", "ResidualFlow"]

_SLOPE = 1.1
"""Above the largest slope of x · sigmoid(x), which is 1.0998."""


class LipschitzLinear(nn.Module):
    """W x + b with W divided by its largest singular value where that exceeds ``bound``, so that it never does.

    In training the singular value is followed by one step of power iteration at each call, which approaches it from
    below; in evaluation it is computed exactly.

    Source: *Spectral Normalization for Generative Adversarial Networks*, Miyato et al., 2018, Algorithm 1; *Invertible
    Residual Networks*, Behrmann et al., 2019, §2.1.

    Args:
        inputs: columns of W.
        outputs: rows of W.
        bound: Lipschitz constant, in (0, 1).
    """

    left: Tensor

    def __init__(self, inputs: int, outputs: int, bound: float) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.bound = bound
        self.register_buffer("left", nn.functional.normalize(torch.randn(outputs), dim=0))

    def weight(self) -> Tensor:
        """The normalised W."""
        matrix = self.linear.weight
        if not self.training:
            return matrix * (self.bound / torch.linalg.matrix_norm(matrix, 2)).clamp(max=1.0)
        with torch.no_grad():
            right = nn.functional.normalize(matrix.mT @ self.left, dim=0)
            left = nn.functional.normalize(matrix @ right, dim=0)
            self.left.copy_(left)
        norm = left.clone() @ (matrix @ right)
        return matrix * (self.bound / norm).clamp(max=1.0)

    @property
    def bias(self) -> Tensor:
        """B."""
        return self.linear.bias


class _Block(nn.Module):
    """g: linear maps with x · sigmoid(x) / 1.1 between them, all of them 1-Lipschitz, and below 1 together."""

    def __init__(self, dim: int, width: int, depth: int, bound: float) -> None:
        super().__init__()
        sizes = [dim, *[width] * depth, dim]
        self.maps = nn.ModuleList(LipschitzLinear(a, b, bound) for a, b in pairwise(sizes))

    def weights(self) -> list[Tensor]:
        return [linear.weight() for linear in self.maps]  # type: ignore[operator]

    def value(self, x: Tensor, weights: list[Tensor]) -> Tensor:
        for index, (weight, linear) in enumerate(zip(weights, self.maps, strict=True)):
            x = nn.functional.silu(x) / _SLOPE if index else x
            x = nn.functional.linear(x, weight, linear.bias)  # type: ignore[arg-type]
        return x

    def value_and_jacobian(self, x: Tensor, weights: list[Tensor]) -> tuple[Tensor, Tensor]:
        """g(x) and ∂g/∂x ``(B, d, d)``, carried forward together: d tangents a sample."""
        tangent = torch.eye(x.shape[1], dtype=x.dtype, device=x.device).expand(len(x), -1, -1)
        for index, (weight, linear) in enumerate(zip(weights, self.maps, strict=True)):
            if index:
                gate = x.sigmoid()
                tangent = (gate * (1 + x * (1 - gate)) / _SLOPE)[:, :, None] * tangent
                x = x * gate / _SLOPE
            x = nn.functional.linear(x, weight, linear.bias)  # type: ignore[arg-type]
            tangent = weight @ tangent
        return x, tangent


class ResidualFlow(AbstractNormalizingFlow):
    """Blocks x + g(x) with ‖∂g/∂x‖ < 1, whose log-determinant is computed exactly: for low dimensions.

    Each block is inverted by the fixed-point iteration x ← y − g(x), which contracts.

    Source: *Invertible Residual Networks*, Behrmann, Grathwohl, Chen, Duvenaud and Jacobsen, 2019; *Residual Flows for
    Invertible Generative Modeling*, Chen et al., 2019 (whose series estimator the exact determinant replaces here).

    Args:
        dim: dimension d, at least 2.
        layers: blocks.
        width: hidden width.
        depth: hidden layers of each block.
        bound: Lipschitz constant of each linear map, in (0, 1).
        tolerance: largest change of the last iteration of the inverse, as a share of the largest coordinate.
        iterations: most iterations of the inverse.

    Raises:
        ValueError: if a size is out of range.
    """

    def __init__(
        self,
        dim: int,
        layers: int = 16,
        width: int = 32,
        depth: int = 1,
        bound: float = 0.98,
        tolerance: float = 1e-6,
        iterations: int = 2000,
    ) -> None:
        super().__init__()
        check_sizes(dim, layers, width, depth, iterations=iterations)
        if not 0 < bound < 1:
            raise ValueError(f"bound = {bound}: must be above 0 and below 1, or blocks are not invertible")
        self.dim = dim
        self.tolerance = tolerance
        self.iterations = iterations
        self.blocks = nn.ModuleList(_Block(dim, width, depth, bound) for _ in range(layers))

    def forward(self, x: Tensor) -> Encoded:
        """See the base class."""
        check_width(x, self)
        total = torch.zeros(len(x), dtype=x.dtype, device=x.device)
        identity = torch.eye(self.dim, dtype=x.dtype, device=x.device)
        for block in self.blocks:
            step, jacobian = block.value_and_jacobian(x, block.weights())  # type: ignore[operator]
            x = x + step
            total = total + torch.linalg.slogdet(identity + jacobian).logabsdet
        return Encoded(x, total)

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """See the base class.

        Raises:
            RuntimeError: if an inverse does not settle.
            ValueError: if the noise is not ``(B, d)``.
        """
        check_width(z, self)
        for block in reversed(self.blocks):
            weights = block.weights()  # type: ignore[operator]
            x = z
            for _ in range(self.iterations):
                following = z - block.value(x, weights)  # type: ignore[operator]
                change, x = (following - x).abs().max(), following
                if change <= self.tolerance * (1 + x.abs().max()):
                    break
            else:
                raise RuntimeError(
                    f"the inverse of a residual block moved by {float(change):.1g} in iteration {self.iterations}; "
                    "raise iterations or lower bound"
                )
            z = x
        return z
