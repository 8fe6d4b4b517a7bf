"""Trial steps by themselves: how soon a step can be as small as the smallest one."""

import pytest
import torch

from isocline.solvers.trial import Clocks, rounds_to_smallest


def clocks(t, t1, size, alive):
    values = [torch.tensor(each, dtype=torch.float64) for each in (t, t1, size)]
    return Clocks(*values, torch.zeros(len(t), 1), None, None, torch.tensor(alive))


@pytest.mark.parametrize("rounds", [0, 1, 2, 7, 20])
def test_no_step_is_below_the_smallest_after_so_many_rejections_and_it_may_be_after_one_more(rounds):
    dt_min, shrink = 1e-3, 0.2
    size = 1.0001 * dt_min * shrink**-rounds
    found = rounds_to_smallest(clocks([0.0, 0.0], [1e9, -1e9], [5 * size, -size], [True, True]), dt_min, shrink)
    assert found == rounds
    assert size * shrink**found >= dt_min > size * shrink ** (found + 1)


def test_rounding_of_the_latest_time_bounds_steps_too_and_samples_that_are_done_do_not():
    now = clocks([0.0, 1.0], [2.0**60, 1.0], [4096.0, 0.0], [True, False])
    # Four units of rounding of 2^60 are 1024, a quarter of the step.
    assert rounds_to_smallest(now, 0.0, 0.5) == 2
    assert rounds_to_smallest(now._replace(alive=torch.tensor([True, True])), 0.0, 0.5) == 0
