"""Names of methods, the steppers they stand for, and the kind of options that each takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from isocline.solvers import explicit, implicit_runge_kutta
from isocline.solvers.auto import Auto
from isocline.solvers.drop_in.errors import InvalidArgumentError
from isocline.solvers.drop_in.options import AdaptiveOptions, GridOptions, ScipyOptions
from isocline.solvers.esdirk import TRBDF2, KenCarp4, Kvaerno3, Kvaerno5
from isocline.solvers.multistep import AdamsBashforth, AdamsBashforthMoulton
from isocline.solvers.newton import NewtonSettings
from isocline.solvers.rosenbrock import Rodas3P, Rodas4, Rodas5P
from isocline.solvers.stage_newton import Newton
from isocline.solvers.stage_solvers import FixedPoint
from isocline.solvers.stepper import AbstractStepper
from isocline.solvers.stiff import AbstractStiffStepper

__all__ = ["DEFAULT", "Method", "find_method"]

DEFAULT = "dopri5"


@dataclass(frozen=True)
class Method:
    """What a name stands for.

    Attributes:
        kind: of its options.
        make: ``make(options, rtol, atol) -> stepper``.
        is_whole: whether it has to see the whole state as one sample, as methods with a Jacobian have.
        extra: options that not every method of its kind knows.
    """

    kind: type[AdaptiveOptions] | type[GridOptions] | type[ScipyOptions]
    make: Callable[[Any, float | Tensor, float | Tensor], AbstractStepper]
    is_whole: bool = False
    extra: frozenset[str] = frozenset()


def find_method(name: str | None) -> Method:
    """Look a name up; None is dopri5.

    Raises:
        InvalidArgumentError: if there is no such method.
    """
    method = _METHODS.get(DEFAULT if name is None else name)
    if method is None:
        raise InvalidArgumentError(f"Invalid method {name!r}; choose one of {', '.join(_METHODS)}")
    return method


def _adaptive(kind: type[explicit.AbstractRungeKutta]) -> Method:
    return Method(AdaptiveOptions, lambda options, rtol, atol: kind())


def _stiff(kind: type[AbstractStiffStepper] | type[Auto]) -> Method:
    def make(options: AdaptiveOptions, rtol: float | Tensor, atol: float | Tensor) -> AbstractStepper:
        # How exactly stages are solved follows from the tolerances; with several, from the smallest.
        smallest = float(rtol.min()) if isinstance(rtol, Tensor) else rtol
        return kind().for_tolerance(smallest, atol)

    return Method(AdaptiveOptions, make, is_whole=True)


def _grid(kind: type[explicit.AbstractRungeKutta]) -> Method:
    return Method(GridOptions, lambda options, rtol, atol: kind())


def _implicit(kind: type[implicit_runge_kutta.AbstractImplicitRungeKutta]) -> Method:
    def make(options: GridOptions, rtol: float | Tensor, atol: float | Tensor) -> AbstractStepper:
        return kind() if options.max_iters is None else kind(Newton(iterations=int(options.max_iters)))

    return Method(GridOptions, make, is_whole=True, extra=frozenset({"max_iters"}))


def _bashforth(options: GridOptions, rtol: float | Tensor, atol: float | Tensor) -> AbstractStepper:
    order = max(_adams_order(options) - 1, 1)
    return AdamsBashforth(order, _adams_starter(order))


def _moulton(options: GridOptions, rtol: float | Tensor, atol: float | Tensor) -> AbstractStepper:
    order = max(_adams_order(options), 2)
    corrector = FixedPoint(iterations=2 if options.max_iters is None else int(options.max_iters))
    return AdamsBashforthMoulton(order, corrector, _adams_starter(order))


def _adams_order(options: GridOptions) -> int:
    # Higher orders, up to torchdiffeq's 12, amplify rounding and are stable for tiny steps only.
    return 6 if options.max_order is None else int(options.max_order)


def _adams_starter(order: int) -> explicit.AbstractRungeKutta | None:
    # As torchdiffeq, wherever the order allows.
    return explicit.RK38() if order <= 4 else None


def _trbdf2(options: GridOptions, rtol: float | Tensor, atol: float | Tensor) -> AbstractStepper:
    if options.max_iters is None:
        return TRBDF2()
    # Of a single iteration nobody knows whether it has converged.
    return TRBDF2(NewtonSettings(iterations=max(int(options.max_iters), 2)))


def _never(options: ScipyOptions, rtol: float | Tensor, atol: float | Tensor) -> AbstractStepper:
    raise InvalidArgumentError("scipy_solver has no steps of its own here; name another method")


_ADAMS = frozenset({"max_iters", "max_order"})
_METHODS: dict[str, Method] = {
    "dopri5": _adaptive(explicit.Dopri5),
    "tsit5": _adaptive(explicit.Tsit5),
    "dopri8": _adaptive(explicit.Dopri8),
    "bosh3": _adaptive(explicit.Bosh3),
    "fehlberg2": _adaptive(explicit.Fehlberg2),
    "adaptive_heun": _adaptive(explicit.Heun),
    "kvaerno3": _stiff(Kvaerno3),
    "kvaerno5": _stiff(Kvaerno5),
    "kencarp4": _stiff(KenCarp4),
    "adaptive_trbdf2": _stiff(TRBDF2),
    "rodas3p": _stiff(Rodas3P),
    "rodas4": _stiff(Rodas4),
    "rodas5p": _stiff(Rodas5P),
    "auto": _stiff(Auto),
    "euler": _grid(explicit.Euler),
    "midpoint": _grid(explicit.Midpoint),
    "heun2": _grid(explicit.Heun),
    "heun3": _grid(explicit.Heun3),
    "ralston": _grid(explicit.Ralston),
    # By this name torchdiffeq means the 3/8 rule, whose error is a little smaller.
    "rk4": _grid(explicit.RK38),
    "rk38": _grid(explicit.RK38),
    "rk4_classic": _grid(explicit.RK4),
    "explicit_adams": Method(GridOptions, _bashforth, extra=_ADAMS),
    "implicit_adams": Method(GridOptions, _moulton, extra=_ADAMS),
    "fixed_adams": Method(GridOptions, _moulton, extra=_ADAMS),
    "adams_bashforth": Method(GridOptions, lambda options, rtol, atol: AdamsBashforth(4)),
    "adams_bashforth_moulton": Method(GridOptions, lambda options, rtol, atol: AdamsBashforthMoulton(4)),
    "implicit_euler": _implicit(implicit_runge_kutta.ImplicitEuler),
    "implicit_midpoint": _implicit(implicit_runge_kutta.ImplicitMidpoint),
    "trapezoid": _implicit(implicit_runge_kutta.Trapezoid),
    "radauIIA3": _implicit(implicit_runge_kutta.RadauIIA3),
    "radauIIA5": _implicit(implicit_runge_kutta.RadauIIA5),
    "gl2": _implicit(implicit_runge_kutta.GaussLegendre2),
    "gl4": _implicit(implicit_runge_kutta.GaussLegendre4),
    "gl6": _implicit(implicit_runge_kutta.GaussLegendre6),
    "sdirk2": _implicit(implicit_runge_kutta.SDIRK2),
    "trbdf2": Method(GridOptions, _trbdf2, is_whole=True, extra=frozenset({"max_iters"})),
    "scipy_solver": Method(ScipyOptions, _never),
}
