"""Agreement with `diffusers` on the same exact model and the same grid of σ/α, handed over; and where it cannot be had.

The peer computes steps in float32 (DPM++) and looks its noise levels up by int64 time steps; both are handed to it.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, DPMSolverSinglestepScheduler, UniPCMultistepScheduler
from tests.samplers.exact_fields import PROCESSES, D, exact, noise

from isocline.processes.denoiser import Denoiser
from isocline.processes.grid import GivenGrid
from isocline.processes.probability_flow import LinearPathVariable
from isocline.samplers.exponential import AbstractExponentialMethod, ExponentialSampler
from isocline.samplers.grid import PowerGrid, UniformLogRatioGrid
from isocline.samplers.log_ratio import B1, DataForm, NoiseForm, log_ratio_at
from isocline.samplers.multistep import ExponentialMultistep
from isocline.samplers.singlestep import DPM_SOLVER_2, ExponentialSinglestep, dpm_solver, dpm_solver_plus_plus
from isocline.solvers.exponential import ETD1, ExponentialTableau

VP = PROCESSES["vp"]
PATH = LinearPathVariable()
N = 12


def irregular() -> GivenGrid:
    """Times that are uniform in nothing."""
    return GivenGrid({N: [1.0, 0.9, 0.82, 0.7, 0.61, 0.5, 0.41, 0.3, 0.22, 0.13, 0.06, 0.015]})


def ratios(grid, steps: int) -> torch.Tensor:
    """σ/α at the ends of the steps, the last one 0."""
    s = grid(VP, PATH, steps)
    return s / (1 - s)


def peer_states(scheduler, ratio: torch.Tensor, x: torch.Tensor, denoiser: Denoiser, **step) -> list[torch.Tensor]:
    """What the peer makes of the same model on the grid that it is given, state by state."""
    steps = len(ratio) - 1
    scheduler.set_timesteps(steps)
    scheduler.sigmas, scheduler.timesteps = ratio.clone(), torch.arange(steps, 0, -1)
    states, predicts_data = [x], scheduler.config.prediction_type == "sample"
    noises = step.get("noises")
    for i, label in enumerate(scheduler.timesteps):
        t = VP.schedule.inverse_log_ratio(-ratio[i].log())
        output = (denoiser.data if predicts_data else denoiser.noise)(t, x)
        extra = {} if noises is None else {"variance_noise": noises[i]}
        x = scheduler.step(output, label, x, **extra).prev_sample.double()
        states.append(x)
    return states


def our_states(method: AbstractExponentialMethod, grid, nfe: int, **arguments) -> torch.Tensor:
    return ExponentialSampler(method, grid).sample(exact(VP), noise(), nfe, save_steps=True, **arguments).ys


def multistep(**config) -> DPMSolverMultistepScheduler:
    return DPMSolverMultistepScheduler(prediction_type="sample", **config)


@pytest.mark.parametrize("grid", [irregular(), UniformLogRatioGrid(), PowerGrid()])
@pytest.mark.parametrize(
    ("scheduler", "method"),
    [
        (lambda: multistep(solver_order=1), ExponentialMultistep(1, DataForm())),
        (lambda: multistep(solver_order=2), ExponentialMultistep(2, DataForm())),
        (lambda: multistep(solver_order=2, solver_type="heun"), ExponentialMultistep(2, DataForm(None))),
        (
            lambda: UniPCMultistepScheduler(prediction_type="sample", solver_order=2, solver_type="bh1"),
            ExponentialMultistep(2, DataForm(B1()), corrector=True),
        ),
        (
            lambda: UniPCMultistepScheduler(prediction_type="sample", solver_order=2, solver_type="bh2"),
            ExponentialMultistep(2, DataForm(), corrector=True),
        ),
        (
            lambda: UniPCMultistepScheduler(prediction_type="sample", solver_order=3, solver_type="bh2"),
            ExponentialMultistep(3, DataForm(), corrector=True),
        ),
        (
            lambda: UniPCMultistepScheduler(
                prediction_type="sample", solver_order=3, solver_type="bh2", disable_corrector=list(range(N))
            ),
            ExponentialMultistep(3, DataForm()),
        ),
    ],
    ids=["dpmpp_1", "dpmpp_2m", "dpmpp_2m_exact", "unipc_2_b1", "unipc_2_b2", "unipc_3_b2", "unip_3"],
)
def test_multistep_methods_agree_with_diffusers_at_every_step(
    grid, scheduler: Callable[[], object], method: AbstractExponentialMethod
) -> None:
    theirs = peer_states(scheduler(), ratios(grid, N), VP.prior(noise()), exact(VP))
    ours = our_states(method, grid, N)
    # With B1 the peer's last step, of infinite h, is ∞ · 0.
    last = N if getattr(scheduler().config, "solver_type", None) == "bh1" else N + 1
    for i in range(last):
        torch.testing.assert_close(ours[i], theirs[i], rtol=0, atol=1e-5)
    assert bool(ours.isfinite().all())


def test_the_noise_form_agrees_with_diffusers_unipc_on_noise_up_to_its_last_step_which_divides_by_zero() -> None:
    scheduler = UniPCMultistepScheduler(
        prediction_type="epsilon", predict_x0=False, solver_order=3, solver_type="bh1", final_sigmas_type="sigma_min"
    )
    theirs = peer_states(scheduler, ratios(irregular(), N), VP.prior(noise()), exact(VP))
    ours = our_states(ExponentialMultistep(3, NoiseForm(B1()), corrector=True), irregular(), N)
    for i in range(N):
        torch.testing.assert_close(ours[i], theirs[i], rtol=0, atol=1e-5)
    assert bool(theirs[N].isnan().any())
    assert bool(ours.isfinite().all())


@pytest.mark.parametrize(("solver_type", "form"), [("midpoint", DataForm(eta=1.0)), ("heun", DataForm(None, eta=1.0))])
def test_the_sde_agrees_with_diffusers_on_the_same_noise(solver_type: str, form: DataForm) -> None:
    generator = torch.Generator().manual_seed(8)
    noises = [torch.randn(16, 2, generator=generator, dtype=D) for _ in range(N)]
    scheduler = multistep(algorithm_type="sde-dpmsolver++", solver_order=2, solver_type=solver_type)
    theirs = peer_states(scheduler, ratios(irregular(), N), VP.prior(noise()), exact(VP), noises=noises)
    ours = our_states(ExponentialMultistep(2, form), irregular(), N, generator=torch.Generator().manual_seed(8))
    for i in range(N + 1):
        torch.testing.assert_close(ours[i], theirs[i], rtol=0, atol=1e-5)


# The peer's single steps reuse its order-2 formula for the stages of order 3: not those of the paper's algorithm.
PEER_3_MIDPOINT = ExponentialTableau(
    order=3,
    a=((), ((1 / 3,),), ((0.0, 2 / 3),)),
    b=((1.0, 0.0, 0.0), (-3 / 2, 0.0, 3 / 2)),
    c=(0.0, 1 / 3, 2 / 3),
)
PEER_3_HEUN = ExponentialTableau(
    order=3,
    a=((), ((1 / 3,),), ((2 / 3, 0.0), (-4 / 3, 4 / 3))),
    b=((1.0, 0.0, 0.0), (-9 / 2, 6.0, -3 / 2), (9.0, -18.0, 9.0)),
    c=(0.0, 1 / 3, 2 / 3),
)


def three(form, table: ExponentialTableau) -> ExponentialSinglestep:
    return ExponentialSinglestep(form, (ETD1.tableau, DPM_SOLVER_2, table))


@pytest.mark.parametrize("data", [True, False], ids=["data", "noise"])
@pytest.mark.parametrize(
    ("order", "solver_type", "method"),
    [
        (2, "midpoint", lambda data: dpm_solver_plus_plus(2) if data else dpm_solver(2)),
        (3, "midpoint", lambda data: three(DataForm() if data else NoiseForm(), PEER_3_MIDPOINT)),
        (3, "heun", lambda data: three(DataForm() if data else NoiseForm(), PEER_3_HEUN)),
    ],
    ids=["2", "3_with_its_stages", "3_heun"],
)
def test_single_steps_agree_with_diffusers_up_to_the_last_step(
    data: bool, order: int, solver_type: str, method
) -> None:
    """Its last step divides by zero with noise predictions, so only the states before it are compared."""
    ends = UniformLogRatioGrid()(VP, PATH, 5)
    lam = torch.tensor([log_ratio_at(float(s)) for s in ends[:-1]], dtype=D)
    # The peer evaluates at grid points only: every step's stages are points of its grid.
    inner = [lam[i] + (lam[i + 1] - lam[i]) * j / order for i in range(4) for j in range(order)]
    ratio = torch.cat([torch.exp(-torch.stack([*inner, lam[-1]])), torch.zeros(1, dtype=D)])
    scheduler = DPMSolverSinglestepScheduler(
        prediction_type="sample" if data else "epsilon",
        algorithm_type="dpmsolver++" if data else "dpmsolver",
        solver_order=order,
        solver_type=solver_type,
        final_sigmas_type="sigma_min",
    )
    scheduler.get_order_list = lambda steps: [*range(1, order + 1)] * 4 + [1]
    theirs = peer_states(scheduler, ratio, VP.prior(noise()), exact(VP))
    ours = our_states(method(data), UniformLogRatioGrid(), 4 * order + 1)
    for i in range(5):
        torch.testing.assert_close(ours[i], theirs[order * i], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("algorithm", "eta", "wrong"),
    [("dpmsolver++", 0.0, "half of the quadratic term"), ("sde-dpmsolver++", 1.0, "sign of a half in it")],
)
def test_diffusers_third_order_update_is_not_exact_for_quadratic_data_and_ours_is(
    algorithm: str, eta: float, wrong: str
) -> None:
    """The peer weights D2 by φ_3, where D2 is half of the second derivative (and in the SDE with the wrong sign of ½).

    Its 3M is of order 2 for that; ours is compared with the closed form.
    """
    ratio = torch.tensor([3.0, 2.0, 1.2, 0.8, 0.0], dtype=D)
    lam, rate = -ratio[:4].log(), 1 + eta**2
    polynomial = lambda at: 0.3 + 0.5 * at - 0.2 * at**2  # noqa: E731
    # du/dλ = A' (P − u), A' = 1 + η²: the particular solution P − P'/A' + P''/A'².
    particular = lambda at: polynomial(at) - (0.5 - 0.4 * at) / rate - 0.4 / rate**2  # noqa: E731
    scheduler = multistep(algorithm_type=algorithm, solver_order=3)
    scheduler.set_timesteps(4)
    scheduler.sigmas, scheduler._step_index = ratio, 2
    values = [torch.full((1, 1), float(polynomial(at)), dtype=D) for at in lam[:3]]
    alpha = 1 / (1 + ratio.square()).sqrt()
    u = torch.full((1, 1), 0.4, dtype=D)
    expected = particular(lam[3]) + torch.exp(-rate * (lam[3] - lam[2])) * (u - particular(lam[2]))
    zero = torch.zeros(1, 1, dtype=D)
    theirs = scheduler.multistep_dpm_solver_third_order_update(values, sample=alpha[2] * u, noise=zero) / alpha[3]
    s = (ratio / (1 + ratio)).tolist()
    ours = DataForm(eta=eta).advance((1 - s[2]) * u, s[2], s[3], [s[2], s[1], s[0]], values[::-1]) / (1 - s[3])
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    assert float((theirs - expected).abs()) > 1e-4, wrong
