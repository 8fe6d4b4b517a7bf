"""Exceptions of the drop-in interface.

torchdiffeq states what it expects by assertions, and its users catch `AssertionError` (around a solve whose step
underflows, say). What is raised here is of both kinds: the one a caller should expect and the one such code expects.
"""

from __future__ import annotations

from isocline.solvers.solution import SolverError

__all__ = ["IntegrationError", "InvalidArgumentError"]


class InvalidArgumentError(ValueError, AssertionError):
    """An argument that cannot be used; the message names it, its value and the cure."""


class IntegrationError(SolverError, AssertionError):
    """The solve did not reach its end; the message names method, time, number of steps and the cure."""
