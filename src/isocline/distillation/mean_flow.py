"""MeanFlow: the average velocity over a jump, learnt from the identity that ties it to the velocity itself."""

from __future__ import annotations

from torch import Tensor, nn

from isocline.distillation.direction import AbstractDirection
from isocline.distillation.distance import AbstractDistance
from isocline.distillation.flow_map_distiller import DIFFERENCE, AbstractFlowMapDistiller, AverageSlope, MovingJumps
from isocline.distillation.jump_law import AbstractJumpLaw, SortedJumps
from isocline.distillation.tangent import tangent_along
from isocline.processes.denoiser import Denoiser
from isocline.processes.flow_map import on_linear_path
from isocline.processes.gaussian import GaussianProcess
from isocline.shapes import expand_like

__all__ = ["MeanFlow"]


class MeanFlow(AbstractFlowMapDistiller):
    """‖u_θ(y_t, t, s) − sg(v − (π_t − π_s) du_θ/dπ_t)‖² under an adaptive weight.

    u is the average of v = dy/dπ over [s, t]: (π_t − π_s) u = y_t − y_s. Its derivative in π_t along the flow, at a
    fixed s, is the identity u = v − (π_t − π_s) du/dπ_t, and du/dπ_t = ∂u/∂y v + ∂u/∂π_t is one forward-mode
    product. For s = t it is flow matching. On the linear path y = x and π = t, the article's case.

    With the teacher's v the exact flow map has loss 0; with the data's v the floor is the variance of
    v − (π_t − π_s) du/dπ_t, which is linear in v, given the state: the article's training without a teacher. Here the
    jumps of a batch that move pay for a derivative (twice a forward), the others for a forward only.

    Source: *Mean Flows for One-step Generative Modeling*, Geng et al., 2025, Eqs. 6 and 9–11.

    Args:
        process: the teacher's.
        teacher: the frozen network; asked only under a `TeacherDirection`.
        direction: whose v: the teacher's by default, or the data's.
        jumps: law of (t, s).
        distance: of found and wanted slopes; the adaptive one with p = 1 by default.
    """

    def __init__(
        self,
        process: GaussianProcess,
        teacher: nn.Module,
        direction: AbstractDirection | None = None,
        jumps: AbstractJumpLaw | None = None,
        distance: AbstractDistance | None = None,
    ) -> None:
        super().__init__(process, teacher, SortedJumps() if jumps is None else jumps, direction, distance)

    def average(self, network: nn.Module, jumps: MovingJumps) -> AverageSlope:
        """See the base class."""
        process, denoiser = self.process, Denoiser(network, self.process).towards(jumps.end)

        def slope(t: Tensor, y: Tensor) -> Tensor:
            scale = on_linear_path(process, t).scale
            return denoiser.predict(t, y * expand_like(scale.to(y.dtype), y), jumps.cond, DIFFERENCE)

        values, here, there = process.schedule(jumps.start), *(on_linear_path(process, t) for t in jumps[:2])
        # dt/dπ; 0 where σ̇ is infinite.
        pace = here.scale.square() / (values.dsigma * values.alpha - values.sigma * values.dalpha)
        y = jumps.x / expand_like(here.scale.to(jumps.x.dtype), jumps.x)
        found, change = tangent_along(slope, jumps.start, y, pace, jumps.slope)
        return AverageSlope(found, jumps.slope - expand_like((here.position - there.position).to(y.dtype), y) * change)
