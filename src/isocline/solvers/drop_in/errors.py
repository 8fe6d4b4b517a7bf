"""Exceptions of the drop-in interface.

torchdiffeq states what it expects by assertions, and its users catch `AssertionError` (around a solve whose step
underflows, say). What is raised here is of both kinds: the one a caller should expect and the one such code expects.
"""

from __future__ import annotations

from isocline.solvers.solution import Solution, SolverError, Status

__all__ = ["IntegrationError", "InvalidArgumentError", "check_solution"]

# The first words are those that torchdiffeq's assertions use for the same.
_REASONS = {
    Status.SUCCESS: "no event was found before the end; check the sign of event_fn, or raise max_num_steps",
    Status.MAX_STEPS: "max_num_steps exceeded: raise it, loosen rtol and atol, or take a stiff method (rodas5p)",
    Status.STEP_TOO_SMALL: "underflow in dt: loosen rtol and atol, or look for a singularity of the field there",
    Status.NON_FINITE: "non-finite values in state `y` or its slope: check the field there",
    Status.STEP_FAILED: "Newton's iteration did not converge: take smaller steps (first_step, max_step)",
}


class InvalidArgumentError(ValueError, AssertionError):
    """An argument that cannot be used; the message names it, its value and the cure."""


class IntegrationError(SolverError, AssertionError):
    """The solve did not reach its end; the message names method, time, number of steps and the cure."""


def check_solution(solution: Solution, method: str, per_sample: bool, wants_event: bool) -> None:
    """Look at how a solve ended.

    Args:
        solution: its result.
        method: its name.
        per_sample: whether samples are solved apart.
        wants_event: whether it should have ended at an event.

    Raises:
        IntegrationError: if it did not reach its end, or its event.
    """
    wanted = Status.EVENT if wants_event else Status.SUCCESS
    failed = (solution.status != int(wanted)).nonzero().flatten().tolist()
    if not failed:
        return
    lines = []
    for sample in failed[:3] if per_sample else failed[:1]:
        accepted, rejected = int(solution.stats.accepted[sample]), int(solution.stats.rejected[sample])
        who = f"sample {sample} " if per_sample else ""
        lines.append(
            f"{who}stopped at t={float(solution.stopped_at[sample]):.6g} after {accepted} steps "
            f"({accepted + rejected} tried): {_REASONS[Status(int(solution.status[sample]))]}"
        )
    more = f"; and {len(failed) - 3} more samples" if per_sample and len(failed) > 3 else ""
    raise IntegrationError(f"{method}: " + "; ".join(lines) + more)
