"""Solvers at equal error: stiff ones win on Robertson, explicit ones where nothing is stiff; counts and limits."""

import math

import pytest
import torch
from scipy.integrate import solve_ivp

from isocline import solvers
from isocline.dynamics.solver_cost import CANDIDATES, SolverCandidate, SolverSweep, measure_solver_costs
from isocline.solvers import ODEProblem


def robertson(t, y, cond):
    a, b, c = y.unbind(-1)
    slow, back, fast = 0.04 * a, 1e4 * b * c, 3e7 * b * b
    return torch.stack((back - slow, slow - back - fast, fast), -1)


def predator_and_prey(t, y, cond):
    a, b = y.unbind(-1)
    return torch.stack((1.5 * a - a * b, a * b - 3 * b), -1)


def chosen(*names):
    return tuple(candidate for candidate in CANDIDATES if candidate.name in names)


def test_stiff_solvers_win_on_robertson():
    start, t1 = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64), 0.5
    scale = torch.tensor([1.0, 1e-5, 1.0], dtype=torch.float64)
    sweep = SolverSweep(
        chosen("tsit5", "rodas4", "kvaerno3", "auto"), (1e-2, 1e-3), levels=(3e-3,), absolute=1e-2 * scale, scale=scale
    )

    def plain(t, y):
        return robertson(t, torch.from_numpy(y)[None], None)[0].numpy()

    peer = solve_ivp(plain, (0, t1), start[0].numpy(), "Radau", rtol=1e-8, atol=1e-8 * scale.numpy())
    exact = torch.from_numpy(peer.y[:, -1])[None]
    costs = measure_solver_costs(ODEProblem(robertson, start, 0.0, t1), sweep, exact=exact)
    advantage = costs.advantage(3e-3)
    assert advantage is not None
    assert advantage.winner in ("rodas4", "kvaerno3")
    assert advantage.ratio < 0.1
    assert (advantage.low, advantage.high) == (None, None)
    # Switching costs little more than knowing it.
    switching, knowing = costs.curve("auto").at(3e-3), costs.curve(advantage.implicit).at(3e-3)
    assert switching is not None
    assert knowing is not None
    assert switching.work.mean < 4 * knowing.work.mean


@pytest.fixture(scope="module")
def easy():
    start = torch.tensor([[1.0, 1.0], [2.0, 1.5], [3.0, 0.5]], dtype=torch.float64)
    problem = ODEProblem(predator_and_prey, start, 0.0, 3.0)
    sweep = SolverSweep(
        chosen("tsit5", "dopri8", "rodas5p", "rk4", "radau5"), (1e-1, 1e-2, 1e-3, 1e-4, 1e-5), (4, 8, 16, 32, 64, 128),
        levels=(1e-2, 1e-4, 1e-14),
    )  # fmt: skip
    return measure_solver_costs(problem, sweep)


def test_explicit_solvers_win_where_nothing_is_stiff(easy):
    for level in (1e-2, 1e-4):
        advantage = easy.advantage(level)
        assert advantage.ratio > 1
        assert advantage.winner == advantage.explicit
        assert advantage.low < advantage.ratio < advantage.high


def test_an_error_that_nobody_reaches_has_no_winner(easy):
    assert easy.best(1e-14) is None
    assert easy.advantage(1e-14) is None
    assert {row.note for row in easy.rows() if row.level == 1e-14} == {"not reached by all samples"}
    assert len(easy.rows()) == 15


def test_fixed_steps_cost_what_their_order_says(easy):
    rk4 = easy.curve("rk4")
    assert torch.equal(rk4.nfe[:, 0], 4.0 * torch.tensor([4.0, 8, 16, 32, 64, 128], dtype=torch.float64))
    slopes = torch.log2(rk4.errors[-2] / rk4.errors[-1])
    torch.testing.assert_close(slopes, torch.full((3,), 4.0, dtype=torch.float64), rtol=0, atol=0.3)


def test_directions_of_a_jacobian_count_as_work(easy):
    curve = easy.curve("rodas5p")
    assert (curve.jacobians > 0).all()
    torch.testing.assert_close(curve.work, curve.nfe + 2 * curve.jacobians)
    assert torch.equal(easy.curve("tsit5").work, easy.curve("tsit5").nfe)


def test_directions_that_the_solver_has_counted_are_not_counted_again():
    # A product that accumulates has no rule for dual numbers, so that each direction is an evaluation.
    problem = ODEProblem(lambda t, y, cond: -torch.cumprod(y, 1), torch.ones(1, 3, dtype=torch.float64), 0.0, 1.0)
    costs = measure_solver_costs(problem, SolverSweep(chosen("rodas5p"), (1e-2,), levels=(1e-1,)))
    assert torch.equal(costs.curves[0].work, costs.curves[0].nfe)


def test_large_states_leave_out_solvers_that_need_jacobians():
    start = torch.ones(2, 300, dtype=torch.float64)
    problem = ODEProblem(lambda t, y, cond: -y, start, 0.0, 1.0)
    costs = measure_solver_costs(problem, SolverSweep(chosen("tsit5", "rodas4", "auto"), (1e-2, 1e-4), levels=(1e-3,)))
    assert [curve.candidate.name for curve in costs.curves] == ["tsit5"]
    notes = {row.solver: row.note for row in costs.rows()}
    assert notes["rodas4"] == notes["auto"] == "not run: 300 components, dense Jacobians up to 256"
    assert costs.advantage(1e-3) is None
    with pytest.raises(ValueError, match="rodas4"):
        costs.curve("rodas4")


def test_a_solver_that_gives_up_reaches_nothing():
    rate = torch.tensor([-1.0, -1e5], dtype=torch.float64)
    problem = ODEProblem(lambda t, y, cond: rate * (y - 1), torch.zeros(1, 2, dtype=torch.float64), 0.0, 1.0)
    costs = measure_solver_costs(
        problem, SolverSweep(chosen("dopri5", "euler", "rodas4"), (1e-2, 1e-3), (4, 8), (1e-2,), max_steps=200)
    )
    assert costs.curve("dopri5").errors.isinf().all()
    assert costs.curve("dopri5").at(1e-2) is None
    assert costs.curve("euler").at(1e-2) is None
    assert costs.best(1e-2) == "rodas4"


def test_errors_are_distances_from_the_exact_end():
    start = torch.ones(2, 1, dtype=torch.float64)
    problem = ODEProblem(lambda t, y, cond: -y, start, 0.0, 1.0)
    euler = (SolverCandidate("euler", solvers.Euler(), adaptive=False),)
    given = torch.full((2, 1), math.exp(-1), dtype=torch.float64)
    costs = measure_solver_costs(problem, SolverSweep(euler, steps=(10,), levels=(1.0,)), exact=given)
    found = measure_solver_costs(problem, SolverSweep(euler, steps=(10,), levels=(1.0,)))
    wanted = torch.full((1, 2), abs(0.9**10 - math.exp(-1)) / math.exp(-1), dtype=torch.float64)
    torch.testing.assert_close(costs.curves[0].errors, wanted)
    torch.testing.assert_close(found.curves[0].errors, wanted, rtol=1e-7, atol=0)


def test_senseless_sweeps_are_refused():
    with pytest.raises(ValueError, match="tolerances is empty"):
        SolverSweep(tolerances=())
    with pytest.raises(ValueError, match="steps="):
        SolverSweep(steps=(0, 1))
