"""Variables and grids of the probability flow."""

from __future__ import annotations

import itertools

import pytest
import torch

from isocline.processes.denoiser import Denoiser
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.grid import PowerGrid, UniformLogRatioGrid, UniformTimeGrid
from isocline.processes.mixture import GaussianMixture
from isocline.processes.prediction import NoisePrediction, VelocityPrediction
from isocline.processes.probability_flow import AngleVariable, LinearPathVariable, NoiseRatioVariable, TimeVariable
from isocline.processes.schedule import (
    EDMSchedule,
    LinearSchedule,
    TrigFlowSchedule,
    VESchedule,
    VPCosineSchedule,
    VPLinearSchedule,
)

D = torch.float64
PROCESSES = [
    GaussianProcess(VPLinearSchedule(), NoisePrediction(), t_min=1e-3),
    GaussianProcess(LinearSchedule(), VelocityPrediction(), t_max=0.99),
    GaussianProcess(EDMSchedule(), NoisePrediction()),
    GaussianProcess(TrigFlowSchedule(0.5), VelocityPrediction(), t_max=0.98),
]
VARIABLES = [TimeVariable(), NoiseRatioVariable(), LinearPathVariable(), AngleVariable()]
GRIDS = [UniformTimeGrid(), UniformLogRatioGrid(), PowerGrid()]


def name(value: object) -> str:
    return type(getattr(value, "schedule", value)).__name__


@pytest.mark.parametrize(("process", "variable"), itertools.product(PROCESSES, VARIABLES), ids=name)
def test_every_variable_describes_the_same_flow(process: GaussianProcess, variable) -> None:
    """d(c y)/dt by the chain rule is the velocity."""
    mixture = GaussianMixture(torch.ones(1), torch.tensor([[0.5, -0.2]]), torch.tensor([[0.3, 0.1]]))
    denoiser = Denoiser(mixture.network(process), process)
    t = torch.tensor(0.6, dtype=D)
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=D)
    s, ds = torch.func.jvp(lambda t: variable.position(process, t).clone(), (t,), (torch.ones_like(t),))
    scale, dscale = torch.func.jvp(lambda s: variable.scale(process, s), (s,), (ds,))
    y = variable.from_state(process, s, x)
    torch.testing.assert_close(variable.time(process, s), t)
    torch.testing.assert_close(variable.to_state(process, s, y), x)
    rate = dscale * y + scale * variable.field(denoiser)(s, y, None) * ds
    torch.testing.assert_close(rate, denoiser.velocity(t, x), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("process", "variable", "grid"), itertools.product(PROCESSES, VARIABLES, GRIDS), ids=name)
@pytest.mark.parametrize("n", [1, 2, 3, 17])
def test_grids_fall_strictly_from_the_start_to_the_end(process, variable, grid, n: int) -> None:
    positions = grid(process, variable, n)
    assert positions.shape == (n + 1,)
    assert positions.dtype == D
    assert (positions.diff() < 0).all()
    assert float(positions[0]) == variable.start(process)
    assert float(positions[-1]) == variable.end(process)


def test_the_noise_ratio_ends_at_exactly_zero_and_zero_is_time_zero() -> None:
    for process in PROCESSES:
        assert NoiseRatioVariable().end(process) == 0
        assert float(NoiseRatioVariable().time(process, torch.tensor(0.0, dtype=D))) == 0


@pytest.mark.parametrize("schedule", [VESchedule(), EDMSchedule(), VPCosineSchedule(max_log_ratio=5.0)])
@pytest.mark.parametrize("variable", [NoiseRatioVariable(), LinearPathVariable(), AngleVariable()])
def test_what_is_left_at_position_zero_is_data_where_the_schedule_ends_in_noise(schedule, variable) -> None:
    process = GaussianProcess(schedule, NoisePrediction())
    x0, noise = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0), dtype=D)
    first = process.schedule(torch.zeros((), dtype=D))
    start = variable.position(process, 0.0)
    for s in (start, 0.5 * start, 0.0 * start):
        scaled = first.alpha * (x0 + variable_ratio(variable, s) * noise)
        y = variable.from_state(process, s, scaled)
        torch.testing.assert_close(variable.to_state(process, s, y), scaled)
        if isinstance(variable, LinearPathVariable):
            torch.testing.assert_close(y, (1 - s) * x0 + s * noise)
        if isinstance(variable, AngleVariable):
            torch.testing.assert_close(y, s.cos() * x0 + s.sin() * noise)


def variable_ratio(variable, s: torch.Tensor) -> torch.Tensor:
    """σ/α at a position."""
    if isinstance(variable, LinearPathVariable):
        return s / (1 - s)
    return s.tan() if isinstance(variable, AngleVariable) else s


def test_the_noise_ratio_refuses_a_start_without_signal() -> None:
    process = GaussianProcess(VPCosineSchedule(), VelocityPrediction())
    with pytest.raises(ValueError, match="LinearPathVariable"):
        NoiseRatioVariable().start(process)
    assert LinearPathVariable().start(process) == 1
    assert AngleVariable().start(process) == pytest.approx(torch.pi / 2)


def test_the_network_is_never_asked_below_t_min() -> None:
    asked = []

    class Spy(torch.nn.Module):
        def forward(self, t, x, cond=None):
            asked.append(float(t))
            return x

    process = PROCESSES[0]
    for variable in VARIABLES[1:]:
        variable.field(Denoiser(Spy(), process))(torch.tensor(0.0, dtype=D), torch.ones(1, 1), None)
    assert asked == [process.t_min] * 3


def test_the_power_grid_is_edms() -> None:
    process = PROCESSES[2]
    i = torch.arange(18, dtype=D)
    published = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    positions = PowerGrid()(process, NoiseRatioVariable(), 18)
    torch.testing.assert_close(positions, torch.cat([published, torch.zeros(1, dtype=D)]), rtol=1e-9, atol=0)


def test_the_log_ratio_grid_is_equidistant_in_lambda() -> None:
    process = PROCESSES[0]
    times = UniformLogRatioGrid(50.0)(process, TimeVariable(), 10)
    steps = process.schedule.log_ratio(times).diff()
    torch.testing.assert_close(steps, steps.mean().expand(10))


def test_a_grid_without_steps_is_an_error() -> None:
    with pytest.raises(ValueError, match="n=0"):
        UniformTimeGrid()(PROCESSES[0], TimeVariable(), 0)


@pytest.mark.parametrize("grid", GRIDS, ids=name)
@pytest.mark.parametrize("variable", VARIABLES, ids=name)
def test_a_grid_may_end_at_t_min_without_repeating_it(grid, variable) -> None:
    process = PROCESSES[0]
    end = float(variable.position(process, process.t_min))
    positions = grid(process, variable, 8, end=end)
    assert float(positions[-1]) == end
    # Every step is a step: none is rounding.
    assert (positions.diff() < -1e-3 * end).all()
