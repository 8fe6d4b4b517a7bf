"""The report on fields whose spectrum is known: linear ones, in either direction of time, in t and in depth."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from isocline.dynamics.cost_curve import SolverCandidate
from isocline.dynamics.depth_field import layer_field
from isocline.dynamics.field_path import costs_of, path_of, precision_of, segments
from isocline.dynamics.solver_cost import SolverSweep
from isocline.dynamics.stability_report import StabilityReport, report_stability
from isocline.dynamics.stability_settings import StabilitySettings
from isocline.dynamics.trained_field import TrainedField
from isocline.randomness import derive_seed
from isocline.solvers.explicit import RK4, Dopri5, Euler, Heun
from isocline.solvers.rosenbrock import Rodas4

DECAYS = torch.tensor([-10.0, -1.0])
SWEEP = SolverSweep(
    [SolverCandidate("dopri5", Dopri5()), SolverCandidate("rodas4", Rodas4())],
    tolerances=(1e-1, 1e-2, 1e-3, 1e-4), levels=(1e-3,), largest_dense=8,
)  # fmt: skip


class Rates(nn.Module):
    """f(x) = rates · x."""

    def __init__(self, rates: Tensor) -> None:
        super().__init__()
        self.rates = nn.Parameter(rates)

    def forward(self, t: Tensor, x: Tensor, cond: None = None) -> Tensor:
        return x * self.rates


def starts(count: int, seed: int) -> Tensor:
    draws = [torch.randn(2, generator=torch.Generator().manual_seed(seed % 1000 + index)) for index in range(count)]
    return torch.stack(draws) + 3.0


def linear(start: float, end: float) -> TrainedField:
    """Decay at rates 10 and 1 in the direction of integration."""
    network = Rates(DECAYS if end > start else -DECAYS)
    return TrainedField("linear", "density", network, lambda other: other, start, end, starts)


def stack(layers: int) -> TrainedField:
    """The same decay as a network of equal layers."""

    def make(network: nn.Module) -> object:
        return layer_field([lambda x: network(torch.zeros(()), x)] * layers)

    network = Rates(DECAYS / 20)
    return TrainedField("stack", "depth", network, make, 0.0, float(layers), starts)  # type: ignore[arg-type]


def settings(**changes: object) -> StabilitySettings:
    given = {"methods": {"euler": Euler(), "rk4": RK4()}, "sweep": SWEEP, "local": ["euler"], "samples": 3}
    return StabilitySettings(**{**given, **changes})  # type: ignore[arg-type]


def report(field: TrainedField) -> StabilityReport:
    return report_stability(field, settings(), 0)


@pytest.mark.parametrize(("start", "end"), [(0.0, 1.0), (1.0, 0.0)])
def test_a_linear_field_has_its_own_rates_in_either_direction_of_time(start: float, end: float) -> None:
    found = report(linear(start, end))
    measured = {name: estimate.mean for name, estimate in found.summary().items()}
    assert measured == pytest.approx(
        {
            "spectral_radius": 10.0,
            "fastest_decay": 10.0,
            "fastest_growth": -1.0,
            "oscillation": 0.0,
            "horizon": 10.0,
            "stiffness_ratio": 10.0,
            "lipschitz": 10.0,
            "log_growth": -1.0,
        },
        abs=1e-4,
    )
    steps = {name: estimate.mean for name, estimate in found.demanded_steps().items()}
    assert steps == {"euler": math.ceil(10 / 2), "rk4": math.ceil(10 / 2.785293563405282)}


def test_the_local_error_of_euler_is_what_its_step_leaves_of_the_exponential() -> None:
    field = linear(0.0, 1.0)
    row = report_stability(field, settings(shares=(0.0, 0.9)), 0).local["euler"][1]
    state = path_of(field, starts(3, derive_seed(0, "stability", "starts")), (0.0, 0.9), 1e-6).states[1].double()
    h, rates = row.end - row.start, DECAYS.double()
    lost = state * ((rates * h).exp() - 1 - rates * h)
    assert h == pytest.approx(0.1)
    assert row.error.mean == pytest.approx(float(lost.square().mean(1).sqrt().mean()), rel=1e-3)


def test_in_depth_layers_are_told_apart_and_growth_adds_up_over_them() -> None:
    found = report(stack(4))
    assert found.spectrum.ts.tolist() == [0.0, 1.0, 2.0, 3.0]
    measured = {name: estimate.mean for name, estimate in found.summary().items()}
    assert measured["spectral_radius"] == pytest.approx(0.5, abs=1e-4)
    assert measured["horizon"] == pytest.approx(2.0, abs=1e-4)
    assert measured["log_growth"] == pytest.approx(-4 * 1 / 20, abs=1e-4)
    assert len(found.local["euler"]) == 4
    assert math.fsum(row.share for row in found.local["euler"]) == pytest.approx(1.0)


def test_costs_in_depth_are_those_of_a_layer_times_the_layers() -> None:
    shallow, deep = (
        costs_of(field, path_of(field, starts(2, 0), (0.0, 0.5), 1e-6), SWEEP, 1e-6).curve("dopri5").nfe
        for field in (stack(1), stack(3))
    )
    assert torch.equal(deep, 3 * shallow)


def test_a_layer_never_sees_the_next_one() -> None:
    field = layer_field([lambda x: -x, lambda x: 100.0 * x])
    network = Rates(DECAYS)
    parts = segments(TrainedField("two", "depth", network, lambda other: field, 0.0, 2.0, starts))
    x = torch.ones(1, 2)
    assert [float(part.field(torch.tensor(part.end), x, None)[0, 0]) for part in parts] == [-1.0, 100.0]


def test_implicit_solvers_are_run_where_states_are_small_and_counted_with_their_jacobians() -> None:
    rows = {row.solver: row for row in report(linear(0.0, 1.0)).costs.rows()}
    assert rows["rodas4"].cost is not None
    assert rows["dopri5"].cost is not None
    assert rows["rodas4"].cost.work.mean > rows["rodas4"].cost.nfe.mean
    assert rows["dopri5"].cost.work.mean == rows["dopri5"].cost.nfe.mean


@pytest.mark.parametrize("field", [linear(1.0, 0.0), stack(3)])
def test_lower_precision_parts_from_double_by_its_own_roundoff(field: TrainedField) -> None:
    single, half = precision_of(field, starts(2, 0), (0.0, 0.5), Heun(), 4)
    assert (single.name, half.name) == ("float32", "bfloat16")
    assert float(single.differences[-1].max()) < 1e-6
    assert 1e-4 < float(half.differences[-1].mean()) < 5e-2


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"samples": 1}, "samples=1"),
        ({"shares": (0.0, 1.0)}, "below 1"),
        ({"shares": (0.1, 0.5)}, "rising from 0"),
        ({"local": ["heun"]}, "no method 'heun'"),
        ({"accuracy": 0.0}, "accuracy"),
    ],
)
def test_settings_that_cannot_be_are_refused(change: dict[str, object], key: str) -> None:
    with pytest.raises(ValueError, match=key):
        settings(**change)
