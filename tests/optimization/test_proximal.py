"""The inner solve of a proximal step: the same bits whatever the memory held before, and fields that leave it idle."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from isocline.optimization.proximal import AndersonStages
from isocline.solvers import ImplicitEuler, ODEProblem, StepResult


def step(stiffness: Tensor, y0: Tensor, solver: AndersonStages) -> StepResult:
    """One step of unit length on ``dy/dt = -stiffness * sinh(y)``."""
    problem = ODEProblem(lambda t, y, cond: -stiffness * torch.sinh(y), y0, 0.0, 1.0)
    stepper = ImplicitEuler(solver)
    t0, t1 = torch.tensor([0.0, 1.0], dtype=torch.float64).unbind(0)
    return stepper.step(problem, t0, t1, y0, stepper.init(problem, t0, y0))


def test_equal_problems_end_with_equal_bits_whatever_the_memory_held() -> None:
    generator = torch.Generator().manual_seed(0)
    stiffness, y0 = torch.rand(1, 500, generator=generator) * 3, torch.randn(1, 500, generator=generator) / 2
    sizes, ends, held = random.Random(0), set(), []
    for trial in range(200):
        # Blocks of memory, set and let go in no order, of which a workspace may get a part.
        held.append(torch.full((sizes.randint(1, 3000),), trial % 2, dtype=torch.int32))
        if len(held) > 50:
            held.pop(sizes.randrange(50))
        ends.add(step(stiffness, y0, AndersonStages(iterations=12, memory=10, tol=1e-9)).y1.numpy().tobytes())
    assert len(ends) == 1


def test_samples_that_are_done_and_directions_that_repeat_do_no_harm() -> None:
    # The first sample rests, so that all its differences are zero; the second's field has one eigenvalue, so that its
    # differences are parallel from the second on.
    stiffness = torch.tensor([[5.0, 5.0, 5.0], [5.0, 5.0, 5.0], [1.0, 10.0, 100.0]], dtype=torch.float64)
    y0 = torch.tensor([[0.0, 0.0, 0.0], [1e-3, 2e-3, -1e-3], [1e-3, 2e-3, 3e-3]], dtype=torch.float64)
    found = step(stiffness, y0, AndersonStages(iterations=30, memory=5, tol=1e-11))
    assert found.failed is not None
    assert not bool(found.failed.any())
    torch.testing.assert_close(found.y1 + stiffness * torch.sinh(found.y1), y0, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.y1[0], torch.zeros(3, dtype=torch.float64), rtol=0, atol=0)
