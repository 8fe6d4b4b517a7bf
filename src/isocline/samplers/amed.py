"""Few steps with learned intermediate times: a tiny network looks at the field and says where to evaluate it next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from isocline.processes.denoiser import AbstractDenoiser
from isocline.processes.probability_flow import LinearPathVariable
from isocline.randomness import Streams
from isocline.samplers.base import AbstractSampler
from isocline.samplers.continuous import integrate
from isocline.shapes import expand_like
from isocline.solvers.problem import AbstractProblem
from isocline.solvers.solution import Solution
from isocline.solvers.stepper import AbstractStepper, StepResult

__all__ = ["AMEDPredictor", "AMEDSampler", "AMEDStepper", "Turn", "TurnPredictor"]

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


class TurnPredictor(nn.Module):
    """The learned part for one budget: from the field's value, pooled, to the `Turn` of each step.

    At initialisation the turns are those of the grid that it was made for: fractions as given and factors 1.

    Args:
        positions: of the `LinearPathVariable`, one for each evaluation and the end, decreasing.
        features: of the pooled field, see `pooled`.
        width: of the hidden layer.
    """

    positions: Tensor

    def __init__(self, positions: Sequence[float], features: int, width: int = 32) -> None:
        super().__init__()
        self.register_buffer("positions", torch.tensor(list(positions), dtype=torch.float64))
        count = len(positions) // 2
        self.offsets = nn.Parameter(torch.zeros(count, 3))
        self.hidden = nn.Linear(features + count, width)
        self.last = nn.Linear(width, 3)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

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
        positions: by budget (NFE), one for each evaluation and the end, as `TurnPredictor` takes them.
        shape: event shape of the samples.
        width: of the hidden layers.
    """

    def __init__(self, positions: Mapping[int, Sequence[float]], shape: Sequence[int], width: int = 32) -> None:
        super().__init__()
        features = pooled(torch.zeros(1, *shape)).shape[1]
        self.turns = nn.ModuleDict({str(nfe): TurnPredictor(s, features, width) for nfe, s in positions.items()})

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
        positions = {nfe: state[f"turns.{nfe}.positions"].tolist() for nfe in budgets}
        width, inputs = state[f"turns.{budgets[0]}.hidden.weight"].shape
        made = cls(positions, (inputs - len(positions[budgets[0]]) // 2,), width)
        made.load_state_dict(state)
        return made.eval().requires_grad_(False)


class _Past(NamedTuple):
    """The evaluation before the current one: position ``()`` or ``(B,)``, and slope."""

    position: Tensor
    slope: Tensor


class AMEDStepper(AbstractStepper):
    """Two Adams–Bashforth steps of order 2 with learned meeting point and factors; the last one alone if it is odd.

    ``y_m = y_0 + a ∫_{s_0}^{s_m} P_0``, ``y_1 = y_m + b ∫_{s_m}^{s_1} P_m`` with P the line through the last two slopes
    and (s_m, a, b) the predictor's. Each sample has its own s_m.
    """

    order = 2.0
    nfe_per_step = 2

    def __init__(self, predictor: TurnPredictor) -> None:
        self.predictor = predictor

    def init(self, problem: AbstractProblem, t0: Tensor, y0: Tensor) -> tuple[int, _Past | None]:
        """The number of the step, and no past."""
        return 0, None

    def step(
        self, problem: AbstractProblem, t0: Tensor, t1: Tensor, y0: Tensor, carry: tuple[int, _Past | None]
    ) -> StepResult:
        """Advance by one step; see the base class."""
        index, past = carry
        here = _Past(t0, problem.evaluate(t0, y0))
        if 2 * index + 2 >= len(self.predictor.positions):
            return StepResult(y0 + _increment(here, past, t1), carry=(index + 1, here), nfe=1)
        turn = self.predictor(index, here.slope)
        middle = t0 + turn.fraction * (t1 - t0)
        y_middle = y0 + expand_like(turn.first.to(y0.dtype), y0) * _increment(here, past, middle)
        there = _Past(middle, problem.evaluate(middle, y_middle))
        y1 = y_middle + expand_like(turn.second.to(y0.dtype), y0) * _increment(there, here, t1)
        return StepResult(y1, carry=(index + 1, there), nfe=2)


def _increment(here: _Past, past: _Past | None, to: Tensor) -> Tensor:
    """∫ from here to there of the line through the last two slopes; of the last slope alone in the beginning."""
    step = (to - here.position).to(here.slope.dtype)
    moved = expand_like(step, here.slope) * here.slope
    if past is None:
        return moved
    bend = (step.square() / 2 / (here.position - past.position)).to(here.slope.dtype)
    return moved + expand_like(bend, here.slope) * (here.slope - past.slope)


class AMEDSampler(AbstractSampler):
    """Integrate the linear path with an `AMEDStepper`: all evaluations of a budget, at times of each sample's own.

    A learned plug-in: a predictor belongs to the network and the budgets that it was distilled for. The factors and
    the meeting point of two steps are those of the paper; the steps themselves are of order 2 by memory (its plug-in
    to a multistep method) and the predictor sees the pooled field instead of the network's bottleneck, so that any
    network will do.

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
