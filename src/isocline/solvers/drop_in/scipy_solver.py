"""`scipy.integrate.solve_ivp` behind the same interface, without gradients of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from isocline.solvers.drop_in.errors import IntegrationError, InvalidArgumentError
from isocline.solvers.drop_in.options import ScipyOptions
from isocline.solvers.problem import AbstractProblem, ODEProblem
from isocline.solvers.solution import Solution, Statistics

__all__ = ["solve_by_scipy"]


def solve_by_scipy(
    problem: AbstractProblem, ts: Tensor, rtol: float | Tensor, atol: float | Tensor, options: ScipyOptions
) -> Solution:
    """Solve on the host in float64 and save at ``ts``; nothing is recorded for gradients.

    Args:
        problem: the equation, a batch of one.
        ts: save times, monotone, float64 on the CPU.
        rtol: relative tolerance.
        atol: absolute tolerance.
        options: method and step bounds.

    Raises:
        InvalidArgumentError: if SciPy has no such method, or it takes no complex states.
        IntegrationError: if the solve did not reach its end.
    """
    assert isinstance(problem, ODEProblem)
    y0 = problem.y0.detach()

    def slope(t: float, y: Any) -> Any:
        point = torch.as_tensor(y, dtype=y0.dtype, device=y0.device).reshape(y0.shape)
        with torch.no_grad():
            value = problem.evaluate(torch.tensor(t, dtype=torch.float64, device=y0.device), point)
        return value.cpu().reshape(-1).numpy()

    more = {"min_step": float(options.min_step)} if options.solver == "LSODA" and options.min_step else {}
    try:
        found = solve_ivp(
            slope,
            (float(problem.t0), float(problem.t1)),
            y0.cpu().reshape(-1).numpy(),
            t_eval=ts.numpy(),
            method=options.solver,
            rtol=_array(rtol),
            atol=_array(atol),
            max_step=float(options.max_step),
            **more,
        )
    except ValueError as error:
        raise InvalidArgumentError(
            f"scipy_solver with options['solver']={options.solver!r}: {error}; see scipy.integrate.solve_ivp"
        ) from error
    if not found.success:
        raise IntegrationError(f"scipy_solver ({options.solver}) stopped at t={found.t[-1:]}: {found.message}")
    ys = torch.as_tensor(np.ascontiguousarray(found.y.T), dtype=y0.dtype, device=y0.device)
    zero = torch.zeros(len(y0), dtype=torch.int64, device=y0.device)
    stats = Statistics(zero + int(found.nfev), zero, zero, zero, zero)
    stopped = torch.full(zero.shape, float(problem.t1), dtype=torch.float64, device=y0.device)
    return Solution(ts.to(y0.device), ys.reshape(len(ts), *y0.shape), stats, zero, stopped)


def _array(tolerance: float | Tensor) -> Any:
    return tolerance.detach().cpu().reshape(-1).numpy() if isinstance(tolerance, Tensor) else tolerance
