"""Few steps with learned intermediate times: a tiny network looks at the field and says where to evaluate it next."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from isocline.processes.denoiser import AbstractDenoiser
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.probability_flow import LinearPathVariable
from isocline.randomness import Streams
from isocline.samplers.base import AbstractSampler
from isocline.samplers.continuous import ContinuousSampler, integrate
from isocline.samplers.exponential import ExponentialSampler
from isocline.samplers.log_ratio import NoiseForm
from isocline.samplers.singlestep import ExponentialSinglestep
from isocline.shapes import expand_like
from isocline.solvers.multistep import AdamsBashforth
from isocline.solvers.problem import AbstractProblem
from isocline.solvers.solution import Solution
from isocline.solvers.stepper import AbstractStepper, StepResult

__all__ = [
    "AMEDPredictor",
    "AMEDSampler",
    "AMEDStepper",
    "AbstractTurningStep",
    "Slope",
    "Turn",
    "TurnPredictor",
    "TurningMidpoint",
    "TurningMultistep",
    "TurningPlan",
]

_SIDE = 4


class Turn(NamedTuple):
    """What is predicted for a step of each sample, each ``(B,)``.

    Attributes:
        fraction: where in the step the second evaluation lies, in (0, 1).
        first: factor of the increment up to there.
        second: factor of the increment from there.
    """

    fraction: Tensor
    first: Tensor
    second: Tensor


class Slope(NamedTuple):
    """One evaluation of the field.

    Attributes:
        position: of the `LinearPathVariable`, ``()`` or ``(B,)``, float64.
        value: ``(B, *event)``.
    """

    position: Tensor
    value: Tensor


class TurningPlan(NamedTuple):
    """The method that a predictor starts from.

    Attributes:
        positions: of the `LinearPathVariable`, one for each evaluation and the end, decreasing.
        midpoint: whether steps are a `TurningMidpoint`'s, and not a `TurningMultistep`'s.
    """

    positions: Sequence[float]
    midpoint: bool = False

    @classmethod
    def of(cls, sampler: AbstractSampler, process: GaussianProcess, nfe: int) -> TurningPlan | None:
        """Return that of ``adams_bashforth`` of order 2 or ``dpm_solver_2``, on whatever grid; None for others."""
        if isinstance(sampler, ContinuousSampler) and isinstance(sampler.variable, LinearPathVariable):
            stepper = sampler.stepper
            if isinstance(stepper, AdamsBashforth) and stepper.order == 2 and stepper.evaluations(nfe) == nfe:
                return cls(sampler.grid(process, sampler.variable, nfe).tolist())
        if isinstance(sampler, ExponentialSampler) and isinstance(sampler.method, ExponentialSinglestep):
            method = sampler.method
            if method.order == 2 and isinstance(method.form, NoiseForm):
                orders = method.orders(nfe)
                ends = sampler.grid(process, sampler.variable, len(orders)).tolist()
                return cls([*method.nodes(ends, orders), ends[-1]], midpoint=True)
        return None


class TurnPredictor(nn.Module):
    """The learned part for one budget: from the field's value, pooled, to the `Turn` of each step.

    At initialisation the turns are those of the grid that it was made for: fractions as given and factors 1.

    Args:
        plan: where it starts from.
        features: of the pooled field, see `pooled`.
        width: of the hidden layer.
    """

    positions: Tensor
    midpoint: Tensor

    def __init__(self, plan: TurningPlan, features: int, width: int = 32) -> None:
        super().__init__()
        self.register_buffer("positions", torch.tensor(list(plan.positions), dtype=torch.float64))
        self.register_buffer("midpoint", torch.tensor(plan.midpoint))
        count = len(plan.positions) // 2
        self.offsets = nn.Parameter(torch.zeros(count, 3))
        self.hidden = nn.Linear(features + count, width)
        self.last = nn.Linear(width, 3)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    @property
    def rule(self) -> AbstractTurningStep:
        """What a step does with its turn."""
        return TurningMidpoint() if bool(self.midpoint) else TurningMultistep()

    @property
    def ends(self) -> Tensor:
        """The ends of steps, ``(K + 1,)``: every second position, and the last."""
        return torch.cat([self.positions[:-1:2], self.positions[-1:]])

    def forward(self, step: int, slope: Tensor) -> Turn:
        """Predict the turn of a step from the field at its start, ``(B, *event)``."""
        index = functional.one_hot(torch.tensor(step, device=slope.device), len(self.offsets))
        seen = pooled(slope).to(self.hidden.weight.dtype)
        seen = torch.cat([seen, index.to(seen.dtype).expand(len(seen), -1)], dim=1)
        raw = self.offsets[step] + self.last(functional.silu(self.hidden(seen)))
        start, turn, end = self.positions[2 * step : 2 * step + 3]
        usual = torch.logit((start - turn) / (start - end))
        return Turn((usual + raw[:, 0].double()).sigmoid(), raw[:, 1].exp(), raw[:, 2].exp())


def pooled(slope: Tensor) -> Tensor:
    """Return what the predictor sees of ``(B, *event)``: images averaged over a 4 × 4 lattice, vectors as they are."""
    if slope.ndim == 4:
        return functional.adaptive_avg_pool2d(slope, _SIDE).flatten(1)
    return slope.flatten(1)


class AMEDPredictor(nn.Module):
    """A `TurnPredictor` for each budget.

    Args:
        plans: where it starts from, by budget (NFE).
        shape: event shape of the samples.
        width: of the hidden layers.
    """

    def __init__(self, plans: Mapping[int, TurningPlan], shape: Sequence[int], width: int = 32) -> None:
        super().__init__()
        features = pooled(torch.zeros(1, *shape)).shape[1]
        self.turns = nn.ModuleDict({str(nfe): TurnPredictor(plan, features, width) for nfe, plan in plans.items()})

    @property
    def budgets(self) -> list[int]:
        """The budgets that it was made for."""
        return [int(nfe) for nfe in self.turns]

    def for_budget(self, nfe: int) -> TurnPredictor:
        """Return the predictor of one budget.

        Raises:
            ValueError: if it was not made for it.
        """
        if str(nfe) not in self.turns:
            raise ValueError(f"nfe={nfe}: the predictor was trained for {self.budgets}; add it to plugins.amed.nfe")
        found = self.turns[str(nfe)]
        assert isinstance(found, TurnPredictor)
        return found

    @classmethod
    def load(cls, path: Path) -> AMEDPredictor:
        """Read what a training stage saved; the shapes of the weights tell the sizes.

        Raises:
            FileNotFoundError: if it is missing.
        """
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing; run `dvc repro` to make it, or `dvc pull`")
        state = load_file(path)
        budgets = sorted({int(name.split(".")[1]) for name in state})
        plans = {
            nfe: TurningPlan(state[f"turns.{nfe}.positions"].tolist(), bool(state[f"turns.{nfe}.midpoint"]))
            for nfe in budgets
        }
        width, inputs = state[f"turns.{budgets[0]}.hidden.weight"].shape
        made = cls(plans, (inputs - len(plans[budgets[0]].positions) // 2,), width)
        made.load_state_dict(state)
        return made.eval().requires_grad_(False)


class AbstractTurningStep(ABC):
    """How a step of two evaluations runs through its turn: at s_0, and at s_m between s_0 and s_1."""

    @abstractmethod
    def single(self, here: Slope, past: Slope | None, end: Tensor) -> Tensor:
        """The increment of a step of one evaluation, ``(B, *event)``.

        Args:
            here: where the step starts.
            past: the evaluation before, if there was one.
            end: where it ends, ``()`` or ``(B,)``.
        """

    @abstractmethod
    def second(self, start: Slope, y0: Tensor, turn: Slope, y_turn: Tensor, factor: Tensor, end: Tensor) -> Tensor:
        """The state at the end of a step.

        Args:
            start: the first evaluation.
            y0: the state there.
            turn: the second.
            y_turn: the state there.
            factor: the predictor's, ``(B,)``.
            end: where the step ends.
        """


class TurningMultistep(AbstractTurningStep):
    """Two Adams–Bashforth steps of order 2, each over the line through the last two slopes."""

    def single(self, here: Slope, past: Slope | None, end: Tensor) -> Tensor:
        """∫ of the line through the last two slopes; of the last slope alone in the beginning."""
        step = (end - here.position).to(here.value.dtype)
        moved = expand_like(step, here.value) * here.value
        if past is None:
            return moved
        bend = (step.square() / 2 / (here.position - past.position)).to(here.value.dtype)
        return moved + expand_like(bend, here.value) * (here.value - past.value)

    def second(self, start: Slope, y0: Tensor, turn: Slope, y_turn: Tensor, factor: Tensor, end: Tensor) -> Tensor:
        """On from the turn."""
        return y_turn + expand_like(factor, y0) * self.single(turn, start, end)


class TurningMidpoint(AbstractTurningStep):
    """A step in the direction of the turn: DPM-Solver-2 with learned middle, the paper's own solver.

    The noise ε_m predicted at the turn holds for the whole step: y_1 is DDIM's with it, from y_0. From α = 0 and to
    σ = 0 the slope itself does (the midpoint rule).
    """

    def single(self, here: Slope, past: Slope | None, end: Tensor) -> Tensor:
        """DDIM's."""
        return expand_like((end - here.position).to(here.value.dtype), here.value) * here.value

    def second(self, start: Slope, y0: Tensor, turn: Slope, y_turn: Tensor, factor: Tensor, end: Tensor) -> Tensor:
        """On from the start."""
        direction = turn.value
        if float(start.position) < 1 and float(end) > 0:
            noise = y_turn + expand_like((1 - turn.position).to(y0.dtype), y0) * turn.value
            direction = (noise - y0) / (1 - start.position).to(y0.dtype)
        return y0 + expand_like(factor * (end - start.position).to(y0.dtype), y0) * direction


class AMEDStepper(AbstractStepper):
    """Steps of two evaluations with learned meeting point and factors; the last one alone if it is odd.

    ``y_m = y_0 + a Δ(s_0, s_m)`` and on to y_1 with factor b, as the predictor's `AbstractTurningStep` has it;
    (s_m, a, b) are the predictor's. Each sample has its own s_m.
    """

    order = 2.0
    nfe_per_step = 2

    def __init__(self, predictor: TurnPredictor) -> None:
        self.predictor = predictor
        self.rule = predictor.rule

    def init(self, problem: AbstractProblem, t0: Tensor, y0: Tensor) -> tuple[int, Slope | None]:
        """The number of the step, and no past."""
        return 0, None

    def step(
        self, problem: AbstractProblem, t0: Tensor, t1: Tensor, y0: Tensor, carry: tuple[int, Slope | None]
    ) -> StepResult:
        """Advance by one step; see the base class."""
        index, past = carry
        here = Slope(t0, problem.evaluate(t0, y0))
        if 2 * index + 2 >= len(self.predictor.positions):
            return StepResult(y0 + self.rule.single(here, past, t1), carry=(index + 1, here), nfe=1)
        turn = self.predictor(index, here.value)
        middle = t0 + turn.fraction * (t1 - t0)
        y_middle = y0 + expand_like(turn.first.to(y0.dtype), y0) * self.rule.single(here, past, middle)
        there = Slope(middle, problem.evaluate(middle, y_middle))
        y1 = self.rule.second(here, y0, there, y_middle, turn.second.to(y0.dtype), t1)
        return StepResult(y1, carry=(index + 1, there), nfe=2)


class AMEDSampler(AbstractSampler):
    """Integrate the linear path with an `AMEDStepper`: all evaluations of a budget, at times of each sample's own.

    A learned plug-in: a predictor belongs to the network and the budgets that it was distilled for. The factors and
    the meeting point of two steps are those of the paper, whose own solver `TurningMidpoint` is and whose plug-in to a
    multistep method `TurningMultistep`; the predictor sees the pooled field instead of the network's bottleneck, so
    that any network will do.

    Source: *Fast ODE-based Sampling for Diffusion Models in Around 5 Steps*, Zhou et al., 2024, §3.

    Args:
        predictor: what was learned, or the path of the file that holds it.
    """

    def __init__(self, predictor: AMEDPredictor | str) -> None:
        self._given = predictor

    @property
    def predictor(self) -> AMEDPredictor:
        """What was learned, read at the first use."""
        if not isinstance(self._given, AMEDPredictor):
            self._given = AMEDPredictor.load(Path(self._given))
        return self._given

    def sample(
        self,
        denoiser: AbstractDenoiser,
        x1: Tensor,
        nfe: int,
        cond: Any = None,
        generator: Streams | None = None,
        save_steps: bool = False,
    ) -> Solution:
        """Generate; see the base class.

        Raises:
            ValueError: if the predictor was not trained for the budget.
            FileNotFoundError: if its file is missing.
        """
        predictor = self.predictor.to(x1.device).for_budget(nfe // denoiser.evaluations)
        stepper = AMEDStepper(predictor)
        return integrate(denoiser, x1, stepper, LinearPathVariable(), predictor.ends, cond, save_steps)
