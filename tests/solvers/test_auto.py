"""Automatic choice of method: who changes over and when, work, independence, gradients."""

import itertools

import pytest
import torch
from stiff_problems import VAN_DER_POL, van_der_pol

from isocline.solvers import (
    Auto,
    Bosh3,
    ConstantSteps,
    Dopri5,
    Euler,
    Kvaerno5,
    ODEProblem,
    PIDController,
    Rodas5P,
    SaveAt,
    Tsit5,
    solve,
)
from isocline.solvers.auto import real_stability_boundary


def van_der_pols(mu, t1=20.0):
    mu = torch.as_tensor(mu, dtype=torch.float64)
    return ODEProblem(van_der_pol, torch.tensor([[2.0, 0.0]], dtype=torch.float64).repeat(len(mu), 1), 0.0, t1, mu)


def run(problem, stepper, rtol=1e-6, saveat=None):
    saveat = SaveAt() if saveat is None else saveat
    with torch.no_grad():
        return solve(problem, stepper, PIDController(rtol, 1e-2 * rtol, max_steps=100_000), saveat)


class Recorder(Auto):
    """Tells after each step which samples are stepped by the stiff method."""

    def __init__(self, *args):
        super().__init__(*args)
        self.modes = []

    def step(self, problem, t0, t1, y0, carry):
        result = super().step(problem, t0, t1, y0, carry)
        self.modes.append((t0.clone(), carry.mode >= 2))
        return result

    def for_tolerance(self, rtol, atol):
        return self


def test_the_boundaries_of_stability_are_those_of_the_literature():
    # Hairer, Wanner II, section IV.2: 3.3 for Dormand and Prince's pair; Euler's is 2.
    assert real_stability_boundary(Euler.tableau) == pytest.approx(2, abs=2e-3)
    assert real_stability_boundary(Dopri5.tableau) == pytest.approx(3.307, abs=2e-3)


def lotka_volterra(t, y, cond):
    a, b = y.unbind(-1)
    return torch.stack((1.5 * a - a * b, a * b - 3 * b), -1)


def kepler(t, y, cond):
    q, v = y[..., :2], y[..., 2:]
    return torch.cat((v, -q / (q * q).sum(-1, keepdim=True) ** 1.5), -1)


NONSTIFF = {
    "lotka-volterra": ODEProblem(
        lotka_volterra, torch.tensor([[1.0, 1.0], [5.0, 2.0]], dtype=torch.float64), 0.0, 20.0
    ),
    "kepler": ODEProblem(kepler, torch.tensor([[0.1, 0.0, 0.0, 4.358898943540674]], dtype=torch.float64), 0.0, 20.0),
    "van-der-pol": van_der_pols([0.1, 0.5, 1.0, 3.0]),
}


@pytest.mark.parametrize("rtol", [1e-3, 1e-6])
@pytest.mark.parametrize("name", NONSTIFF)
def test_problems_that_are_not_stiff_cost_what_they_cost_with_tsit5(name, rtol):
    auto, plain = run(NONSTIFF[name], Auto(), rtol), run(NONSTIFF[name], Tsit5(), rtol)
    assert (auto.stats.nfe <= 1.1 * plain.stats.nfe).all()
    assert (auto.stats.jacobians == 0).all()
    torch.testing.assert_close(auto.final, plain.final, rtol=0, atol=0)


def test_a_stiff_sample_costs_little_more_than_with_the_stiff_method():
    problem = VAN_DER_POL.problem()
    auto, stiff = run(problem, Auto()), run(problem, Rodas5P())
    assert auto.succeeded.all()
    assert auto.stats.nfe[0] < 1.2 * stiff.stats.nfe[0]
    assert auto.stats.jacobians[0] > 100
    assert VAN_DER_POL.error(auto.final[0]) < 1e-4


def test_a_relaxation_oscillation_is_stiff_on_its_slow_arcs_and_not_on_its_jumps():
    auto = Recorder()
    run(van_der_pols([1000.0], 2000.0), auto)
    modes = [bool(mode[0]) for _, mode in auto.modes]
    changes = [now for before, now in itertools.pairwise(modes) if before != now]
    assert changes[0]
    # To the stiff method, back at the first jump near t = 807, to it again, and so on.
    assert changes[:3] == [True, False, True]
    jump = [float(t[0]) for t, mode in auto.modes if not mode[0] and t[0] > 1]
    assert all(800 < t < 815 or 1610 < t < 1625 for t in jump)


def test_a_mixed_batch_takes_the_stiff_method_for_stiff_samples_only():
    mu = torch.logspace(-1, 3, 9, dtype=torch.float64)
    solution = run(van_der_pols(mu), Auto())
    assert solution.succeeded.all()
    assert (solution.stats.jacobians[mu < 5] == 0).all()
    assert (solution.stats.jacobians[mu > 50] > 0).all()


@pytest.mark.parametrize("stiff", [Rodas5P(), Kvaerno5()], ids=["rodas5p", "kvaerno5"])
def test_each_sample_of_a_mixed_batch_is_bit_for_bit_what_it_is_alone(stiff):
    mu = torch.logspace(-1, 3, 9, dtype=torch.float64)
    saveat = SaveAt([0.3, 7.0, 20.0])
    together = run(van_der_pols(mu), Auto(stiff=stiff), 1e-5, saveat)
    assert together.succeeded.all()
    for sample in range(9):
        alone = run(van_der_pols(mu[sample : sample + 1]), Auto(stiff=stiff), 1e-5, saveat)
        assert torch.equal(alone.ys[:, 0], together.ys[:, sample])
        assert alone.stats.nfe[0] == together.stats.nfe[sample]
        assert alone.stats.accepted[0] == together.stats.accepted[sample]
        assert alone.stats.jacobians[0] == together.stats.jacobians[sample]


def test_states_between_steps_are_right_whichever_method_took_them():
    mu, times = torch.tensor([0.5, 200.0], dtype=torch.float64), torch.linspace(0.1, 19.9, 40).tolist()
    dense = run(van_der_pols(mu), Auto(), 1e-6, SaveAt(times))
    exact = run(van_der_pols(mu), Rodas5P(), 1e-10, SaveAt(times))
    torch.testing.assert_close(dense.ys, exact.ys, rtol=1e-4, atol=1e-4)


def test_samples_that_cannot_be_stepped_apart_are_stiff_when_one_is():
    mu = torch.tensor([1.0, 500.0], dtype=torch.float64)
    problem = ODEProblem(
        lambda t, y, cond: van_der_pol(t, y, mu),
        torch.tensor([[2.0, 0.0]], dtype=torch.float64).repeat(2, 1),
        0.0,
        5.0,
        is_separable=False,
    )
    auto = Recorder()
    solution = run(problem, auto)
    assert solution.succeeded.all()
    assert all(bool(mode.all()) == bool(mode.any()) for _, mode in auto.modes)
    assert (solution.stats.jacobians > 0).all()
    torch.testing.assert_close(solution.final, run(problem, Rodas5P(), 1e-9).final, rtol=1e-4, atol=1e-5)


def test_patience_is_how_many_steps_of_evidence_it_takes():
    def decay(t, y, cond):
        return -1e4 * (y - 1)

    problem = ODEProblem(decay, torch.full((1, 1), 1.5, dtype=torch.float64), 0.0, 10.0)
    explicit = {}
    for patience in (1, 5, 20):
        auto = Recorder(None, None, patience)
        run(problem, auto, 1e-4)
        explicit[patience] = [bool(mode[0]) for _, mode in auto.modes].index(True)
    assert explicit[1] < explicit[5] < explicit[20]


def test_gradients_pass_through_both_methods():
    def field(t, y, rate):
        # Stiff towards the cosine, with an integral that is not.
        fast = -rate[:, :1] * (y[:, :1] - torch.cos(t)[:, None])
        return torch.cat((fast, y[:, :1] * rate[:, 1:]), 1)

    rate = torch.tensor([[2.0, 0.5], [3000.0, 0.5]], dtype=torch.float64, requires_grad=True)
    y0 = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    solution = solve(ODEProblem(field, y0, 0.0, 2.0, rate), Auto(), PIDController(1e-6, 1e-8))
    assert solution.stats.jacobians.gt(0).tolist() == [False, True]
    found = torch.autograd.grad(solution.final[:, 1].sum(), rate)[0]
    # d/dρ of ρ ∫ y = ∫ y, which is the second component over its rate.
    torch.testing.assert_close(found[:, 1], solution.final[:, 1].detach() / 0.5, rtol=1e-9, atol=1e-11)

    def integral(k):
        t = torch.linspace(0, 2, 200001, dtype=torch.float64)
        smooth = (k * k * torch.cos(t) + k * torch.sin(t)) / (k * k + 1) + torch.exp(-k * t) / (k * k + 1)
        return 0.5 * torch.trapezoid(smooth, t)

    wanted = [float((integral(k * 1.001) - integral(k / 1.001)) / (k * 1.001 - k / 1.001)) for k in (2.0, 3000.0)]
    assert found[:, 0].tolist() == pytest.approx(wanted, rel=2e-2, abs=1e-10)


def test_a_method_that_cannot_tell_stiffness_is_refused():
    with pytest.raises(ValueError, match="nonstiff=Bosh3 has no two stages at the end of its step"):
        Auto(Bosh3())


@pytest.mark.parametrize("patience", [0, 101])
def test_a_patience_out_of_range_is_refused(patience):
    with pytest.raises(ValueError, match=f"patience={patience}; expected 1 to 100 steps"):
        Auto(patience=patience)


def test_it_needs_steps_that_it_may_compare():
    # On a grid it works too: an explicit step that is unstable is followed by stiff ones.
    problem = van_der_pols([1.0, 10.0], 2.0)
    with torch.no_grad():
        grid = solve(problem, Auto(), ConstantSteps(400)).final
    torch.testing.assert_close(grid, run(problem, Tsit5(), 1e-9).final, rtol=1e-4, atol=1e-5)
