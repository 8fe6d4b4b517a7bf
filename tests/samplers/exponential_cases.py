"""The methods that the tests of exponential samplers share."""

from __future__ import annotations

from isocline.samplers.exponential import AbstractExponentialMethod
from isocline.samplers.log_ratio import B1, DataForm, NoiseForm
from isocline.samplers.multistep import ExponentialMultistep
from isocline.samplers.singlestep import ExponentialSinglestep, dpm_solver, dpm_solver_plus_plus

METHODS: dict[str, AbstractExponentialMethod] = {
    "dpm_solver_1": dpm_solver(1),
    "dpm_solver_2": dpm_solver(2),
    "dpm_solver_3": dpm_solver(3),
    "dpmpp_2s": dpm_solver_plus_plus(2),
    "dpmpp_3s": dpm_solver_plus_plus(3),
    "dpmpp_2m": ExponentialMultistep(2, DataForm()),
    "dpmpp_2m_exact": ExponentialMultistep(2, DataForm(None)),
    "dpmpp_3m": ExponentialMultistep(3, DataForm()),
    "unipc_2_b1": ExponentialMultistep(2, DataForm(B1()), corrector=True),
    "unipc_3_b2": ExponentialMultistep(3, DataForm(), corrector=True),
    "unipc_3_noise": ExponentialMultistep(3, NoiseForm(), corrector=True),
}


def budget(method: AbstractExponentialMethod, steps: int) -> int:
    """Evaluations for ``steps`` steps, of full order where a step's order is its cost; the last one costs one."""
    return (steps - 1) * method.order + 1 if isinstance(method, ExponentialSinglestep) else steps
