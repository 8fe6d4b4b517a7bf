"""Where a method is stable: what one step of the very stepper does to a linear equation, on a plane of ``z = h λ``."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from isocline.solvers.explicit import AbstractRungeKutta
from isocline.solvers.exponential import AbstractExponential
from isocline.solvers.implicit_runge_kutta import AbstractImplicitRungeKutta
from isocline.solvers.multistep import AdamsBashforth, AdamsBashforthMoulton, History
from isocline.solvers.problem import ODEProblem
from isocline.solvers.semilinear import DiagonalLinear, SemilinearProblem
from isocline.solvers.separable import SecondOrderProblem
from isocline.solvers.stepper import AbstractStepper
from isocline.solvers.stiff import AbstractStiffStepper
from isocline.solvers.symplectic import AbstractSymplectic

__all__ = [
    "StabilityRegion",
    "amplification",
    "is_a_stable",
    "is_l_stable",
    "largest_stable_step",
    "stability_function",
    "stability_margin",
    "stability_region",
    "stable_extent",
    "steps_within_growth",
]

# Growth of a step that still counts as none: above the rounding errors of an implicit step, below any real instability.
_SLACK = 1e-9

# Lengths at which a ray is looked at before the first change is bisected.
_SHORTEST, _LONGEST, _FACTOR = 1e-4, 1e6, 1.05
_AT_ONCE = 48

# Numbers of steps that are tried one by one, and the largest.
_FEW, _MANY = 32, 20_000
_CHUNK = 200_000


@dataclass(frozen=True, eq=False)
class StabilityRegion:
    """A method's growth per step on a grid of the complex plane.

    Attributes:
        real: real parts of ``h λ``, float64, shape (W,).
        imag: imaginary parts, float64, shape (H,).
        growth: `amplification` there, float64, shape (H, W).
    """

    real: Tensor
    imag: Tensor
    growth: Tensor

    @property
    def mask(self) -> Tensor:
        """Where the method is stable, bool, shape (H, W)."""
        return self.growth <= 1 + _SLACK


def stability_region(
    stepper: AbstractStepper,
    real: tuple[float, float] = (-6.0, 2.0),
    imag: tuple[float, float] = (-4.0, 4.0),
    resolution: int = 161,
) -> StabilityRegion:
    """The growth of a method on a rectangle of the complex plane.

    Args:
        stepper: the method; see `amplification`.
        real: least and greatest real part.
        imag: likewise of the imaginary part.
        resolution: points along each side.

    Raises:
        TypeError: as `amplification`.
    """
    x = torch.linspace(*real, resolution, dtype=torch.float64)
    y = torch.linspace(*imag, resolution, dtype=torch.float64)
    return StabilityRegion(x, y, amplification(stepper, torch.complex(*torch.meshgrid(x, y, indexing="xy"))))


def amplification(stepper: AbstractStepper, z: Tensor) -> Tensor:
    """Growth per step on ``y' = λ y`` with ``z = h λ``: the modulus of the stability function, or of the largest root.

    Found by running the stepper: one step of a Runge–Kutta, Rosenbrock or ESDIRK method; for multistep methods the
    largest root of their characteristic polynomial (the spectral radius of the map on the last few states); exponential
    methods are given λ as their linear part; symplectic ones the damped oscillator whose eigenvalues are λ and its
    conjugate.

    Args:
        stepper: the method.
        z: complex, any shape.

    Returns:
        float64 of z's shape; infinite where the step has no solution.

    Raises:
        TypeError: for steppers of stochastic equations and Markov chains, and for `Auto`, which has two regions.

    Source: Hairer, Wanner, Solving Ordinary Differential Equations II, sections IV.2, IV.3 and V.1.
    """
    points = _host(z)
    if not len(points):
        return z.real.double()
    with torch.no_grad():
        parts = [points[start : start + _CHUNK] for start in range(0, len(points), _CHUNK)]
        found = [_spectral_radius(_propagate(stepper, part)) for part in parts]
    return torch.cat(found).reshape(z.shape).to(z.device)


def stability_function(stepper: AbstractStepper, z: Tensor) -> Tensor:
    """``R(z)`` with ``y1 = R(h λ) y0``, complex128 of z's shape, for one-step methods.

    Raises:
        TypeError: for methods that carry more than one number from step to step.
    """
    with torch.no_grad():
        found = _propagate(stepper, _host(z))
    if found.shape[-1] > 1:
        raise TypeError(f"{type(stepper).__name__} has no stability function but roots; ask amplification for them")
    return found[:, 0, 0].reshape(z.shape).to(z.device)


def stable_extent(stepper: AbstractStepper, directions: Tensor) -> Tensor:
    """How far the region of stability reaches from 0 without a gap, along rays of the complex plane.

    Args:
        stepper: the method; see `amplification`.
        directions: complex, any shape, not zero; only their angles matter.

    Returns:
        lengths, float64 of the same shape; infinite where a million is not enough. A growth of 1e-9 per step counts as
        stable, so that methods that grow ever so little on the imaginary axis have a small extent there, not zero.
    """
    rays = _host(directions)
    rays = rays / rays.abs()
    # Real eigenvalues, which are many, share their ray.
    rays, place = torch.unique(torch.view_as_real(rays), dim=0, return_inverse=True)  # type: ignore[no-untyped-call]
    rays = torch.view_as_complex(rays)
    low, high = _first_change(stepper, rays)
    bounded = high.isfinite()
    ends, rays = torch.stack([low, high])[:, bounded], rays[bounded]
    for _ in range(40):
        middle = ends.mean(0)
        inside = amplification(stepper, rays * middle) <= 1 + _SLACK
        ends = torch.stack([torch.where(inside, middle, ends[0]), torch.where(inside, ends[1], middle)])
    high[bounded] = ends[0]
    return high[place].reshape(directions.shape).to(directions.device)


def largest_stable_step(stepper: AbstractStepper, eigenvalues: Tensor) -> Tensor:
    """The longest step up to which all solutions that decay or oscillate stay bounded in the method, too.

    Eigenvalues with positive real parts are left out, what grows is to grow, and so are those that are NaN.

    Args:
        stepper: the method.
        eigenvalues: of the field in the direction of integration, per unit of time, shape (..., k).

    Returns:
        float64, shape (...); infinite where nothing limits it.
    """
    values = eigenvalues.to(torch.complex128)
    # The region is symmetric: one of a pair is enough.
    upper = torch.complex(values.real, values.imag.abs())
    size = upper.abs()
    counts = (values.real <= 0) & (size > 0)
    limits = torch.full(size.shape, math.inf, dtype=torch.float64, device=size.device)
    if bool(counts.any()):
        limits[counts] = stable_extent(stepper, upper[counts]) / size[counts]
    return limits.amin(-1)


def stability_margin(stepper: AbstractStepper, eigenvalues: Tensor, h: float | Tensor) -> Tensor:
    """The step in units of the longest stable one: above 1 the method is unstable, 0 where nothing limits it.

    Args:
        stepper: the method.
        eigenvalues: as for `largest_stable_step`, shape (..., k).
        h: length of the step, unsigned, broadcastable to (...).
    """
    return torch.as_tensor(h, dtype=torch.float64) / largest_stable_step(stepper, eigenvalues)


def steps_within_growth(stepper: AbstractStepper, eigenvalues: Tensor, span: float, growth: float = 2.0) -> Tensor:
    """The fewest equal steps over a span that amplify no mode by more than a factor beyond what the equation does.

    `largest_stable_step` asks for boundedness for ever, and so for tiny steps of Euler's method where a mode turns and
    hardly decays, though over a short span nothing comes of it. Here ``|R(h λ)|^N`` is compared with
    ``growth · max(1, exp(Re λ span))``, for growing modes as well.

    Args:
        stepper: the method.
        eigenvalues: of the field in the direction of integration, shape (..., k); NaN is left out.
        span: time covered, positive.
        growth: the factor, above 1.

    Returns:
        float64, shape (...), exact up to 32 and to five per cent beyond; infinite where twenty thousand are not enough.

    Raises:
        ValueError: if ``span`` is not positive, or ``growth`` not above 1.
    """
    if span <= 0 or growth <= 1:
        raise ValueError(f"span={span}, growth={growth}; expected a positive span and a growth above 1")
    values = eigenvalues.to(torch.complex128)
    known = torch.where(torch.view_as_real(values).isfinite().all(-1), values, 0.0)
    counts = [float(count) for count in range(1, _FEW + 1)]
    while counts[-1] < _MANY:
        counts.append(math.ceil(counts[-1] * 1.05))
    needed = torch.full(values.shape[:-1], math.inf, dtype=torch.float64, device=values.device)
    for count in counts:
        open_rows = needed.isinf()
        if not bool(open_rows.any()):
            break
        modes = known[open_rows]
        logs = count * amplification(stepper, modes * (span / count)).log()
        enough = (logs <= modes.real.clamp(min=0) * span + math.log(growth)).all(-1)
        needed[open_rows] = torch.where(enough, count, math.inf).double()
    return needed


def is_a_stable(stepper: AbstractStepper) -> bool:
    """Whether the left half-plane is stable, looked at along 33 rays out to a million, the imaginary axis included."""
    angles = torch.linspace(math.pi / 2, math.pi, 33, dtype=torch.float64)
    return bool(stable_extent(stepper, torch.polar(torch.ones_like(angles), angles)).isinf().all())


def is_l_stable(stepper: AbstractStepper) -> bool:
    """Whether the method is A-stable and infinitely stiff components vanish in one step (to 1e-2 at ``z = -1e6``)."""
    far = torch.tensor([-1e6], dtype=torch.complex128)
    return is_a_stable(stepper) and bool(amplification(stepper, far) < 1e-2)


def _first_change(stepper: AbstractStepper, rays: Tensor) -> tuple[Tensor, Tensor]:
    """Two lengths on each ray between which stability is first lost, shape (N,); the second infinite if it is not."""
    count = math.ceil(math.log(_LONGEST / _SHORTEST) / math.log(_FACTOR))
    lengths = _SHORTEST * _FACTOR ** torch.arange(count + 1, dtype=torch.float64)
    low = torch.zeros(len(rays), dtype=torch.float64)
    high = torch.full_like(low, math.inf)
    for start in range(0, len(lengths), _AT_ONCE):
        going = high.isinf().nonzero().flatten()
        if not len(going):
            break
        block = lengths[start : start + _AT_ONCE]
        stable = amplification(stepper, rays[going, None] * block) <= 1 + _SLACK
        lost, first = ~stable.all(1), (~stable).to(torch.int8).argmax(1)
        before = torch.where(first > 0, block[(first - 1).clamp(min=0)], low[going])
        low[going] = torch.where(lost, before, block[-1])
        high[going] = torch.where(lost, block[first], math.inf)
    return low, high


def _host(z: Tensor) -> Tensor:
    """All points in a row, in double precision, where the steppers' small batches belong."""
    return z.detach().to("cpu", torch.complex128).reshape(-1)


def _spectral_radius(matrices: Tensor) -> Tensor:
    if matrices.shape[-1] == 1:
        return matrices[:, 0, 0].abs().nan_to_num(nan=math.inf)
    finite = torch.view_as_real(matrices).isfinite().flatten(1).all(1)
    safe = torch.where(finite[:, None, None], matrices, 0.0)
    return torch.where(finite, torch.linalg.eigvals(safe).abs().amax(-1), math.inf)


@functools.singledispatch
def _propagate(stepper: AbstractStepper, z: Tensor) -> Tensor:
    """What a step does to the numbers that a method carries, complex128 matrices (N, k, k) for z of shape (N,)."""
    raise TypeError(
        f"{type(stepper).__name__} has no region of stability here; expected one method for ordinary differential "
        "equations (of Auto, ask about each of its two)"
    )


@_propagate.register(AbstractRungeKutta)
@_propagate.register(AbstractImplicitRungeKutta)
@_propagate.register(AbstractStiffStepper)
def _propagate_one_step(stepper: AbstractStepper, z: Tensor) -> Tensor:
    start = torch.ones_like(z)[:, None]
    problem, t0, t1 = _equation(z, start)
    result = stepper.step(problem, t0, t1, start, stepper.init(problem, t0, start))
    return result.y1[:, :, None]


@_propagate.register
def _propagate_exponential(stepper: AbstractExponential, z: Tensor) -> Tensor:
    start = torch.ones_like(z)[None]
    problem = SemilinearProblem(DiagonalLinear(z), lambda t, y, cond: torch.zeros_like(y), start, 0.0, 1.0)
    t0, t1 = _span()
    return stepper.step(problem, t0, t1, start, stepper.init(problem, t0, start)).y1[0, :, None, None]


@_propagate.register
def _propagate_bashforth(stepper: AdamsBashforth, z: Tensor) -> Tensor:
    # The state and the slopes before it; the present slope is evaluated in the step.
    return _companion(stepper, z, int(stepper.order), known=1)


@_propagate.register
def _propagate_moulton(stepper: AdamsBashforthMoulton, z: Tensor) -> Tensor:
    # The present slope has been evaluated at the end of the step before.
    return _companion(stepper, z, int(stepper.order) - 1, known=0)


def _companion(stepper: AbstractStepper, z: Tensor, size: int, known: int) -> Tensor:
    """The map of the last ``size`` states, newest first, column by column: what the step makes of each alone."""
    units = torch.eye(size, dtype=z.dtype).repeat(len(z), 1)
    rates = z.repeat_interleave(size)
    start = units[:, :1]
    problem, t0, t1 = _equation(rates, start)
    past = range(known, size)
    history = History(
        tuple(torch.tensor(-float(index), dtype=torch.float64) for index in past),
        tuple((rates * units[:, index])[:, None] for index in past),
    )
    result = stepper.step(problem, t0, t1, start, history)
    matrices = torch.diag(torch.ones(size - 1, dtype=z.dtype), -1).repeat(len(z), 1, 1)
    matrices[:, 0] = result.y1.reshape(len(z), size)
    return matrices


@_propagate.register
def _propagate_symplectic(stepper: AbstractSymplectic, z: Tensor) -> Tensor:
    stiffness, friction = z.abs().square(), -2 * z.real
    unit = torch.eye(2, dtype=torch.float64)[:, :, None].expand(2, 2, len(z))
    problem = SecondOrderProblem(lambda t, x, cond: -stiffness * x, unit[:, 0], unit[:, 1], 0.0, 1.0, friction=friction)
    t0, t1 = _span()
    start = problem.start
    result = stepper.step(problem, t0, t1, start, stepper.init(problem, t0, start))
    return result.y1.permute(2, 1, 0).to(z.dtype)


def _equation(z: Tensor, start: Tensor) -> tuple[ODEProblem, Tensor, Tensor]:
    """``y' = z y`` over a step of length one, every sample with its own z."""
    rates = z[:, None]
    problem = ODEProblem(lambda t, y, cond: y * rates, start, 0.0, 1.0, is_separable=False)
    return problem, *_span()


def _span() -> tuple[Tensor, Tensor]:
    return torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
