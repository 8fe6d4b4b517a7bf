"""A mixture whose flow is known, a teacher that is exact, a small student and how far its map is from the truth.

What every distillation method is tested on: the teacher's probability flow is that of a Gaussian mixture in the plane,
so the map X_{t→s} that a student should learn can be had to any accuracy.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from isocline.datasets.batch import Batch
from isocline.networks.ema import ExponentialMovingAverage
from isocline.objectives.base import Objective
from isocline.processes.denoiser import Denoiser
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.mixture import ExactNetwork, GaussianMixture
from isocline.processes.prediction import VelocityPrediction
from isocline.processes.schedule import LinearSchedule
from isocline.solvers.controller import PIDController
from isocline.solvers.explicit import Dopri8
from isocline.solvers.loop import solve
from isocline.solvers.problem import ODEProblem

D = torch.float64
LINEAR = GaussianProcess(LinearSchedule(), VelocityPrediction())
MIXTURE = GaussianMixture(
    torch.tensor([0.4, 0.6]), torch.tensor([[1.2, -0.4], [-0.8, 0.5]]), torch.tensor([[0.06, 0.1], [0.1, 0.04]])
)
GAUSSIAN = GaussianMixture(torch.ones(1), torch.tensor([[0.4, -0.3]]), torch.tensor([[0.25, 0.09]]))


def teacher(process: GaussianProcess = LINEAR, mixture: GaussianMixture = MIXTURE) -> ExactNetwork:
    """The field that no training can better."""
    return mixture.network(process)


def exact_map(t: Tensor, s: Tensor, x: Tensor, process: GaussianProcess = LINEAR) -> Tensor:
    """X_{t→s}(x) of `MIXTURE` to 1e-10; t and s ``(B,)`` float64, s ≤ t, x ``(B, 2)``."""
    moving = t > s
    result = x.to(D).clone()
    if bool(moving.any()):
        field = Denoiser(teacher(process), process).velocity
        problem = ODEProblem(field, x.to(D)[moving], t[moving], s[moving])
        solution = solve(problem, Dopri8(), PIDController(rtol=1e-10, atol=1e-10))
        result[moving] = solution.raise_on_failure().final
    return result


class GaussianMap(nn.Module):
    """The exact flow map of `GAUSSIAN` on the linear path as a two-time velocity network, smooth in all its inputs.

    ``forward(t, x, cond, s)`` is the average velocity (x − X_{t→s}(x))/(t − s), the velocity itself for s = t or None.
    With ``end`` given it is a network of one time: the average from t to ``end``, whose data prediction for ``end = 0``
    is the exact consistency function.

    Args:
        end: the one end of every map, or None.
        bias: error that is added to the prediction, a parameter.
    """

    def __init__(self, end: float | None = None, bias: float = 0.0) -> None:
        super().__init__()
        self.end = end
        self.takes_end = end is None
        self.bias = nn.Parameter(torch.tensor(bias, dtype=D))

    def forward(self, t: Tensor, x: Tensor, cond: object = None, s: Tensor | None = None) -> Tensor:
        t = torch.as_tensor(t, dtype=D).reshape(-1, 1)
        if self.end is not None:
            s = torch.full_like(t, self.end)
        s = t if s is None else torch.as_tensor(s, dtype=D).reshape(-1, 1)
        mean, variance = GAUSSIAN.means[0], GAUSSIAN.variances[0]
        above, below = (((1 - at) ** 2 * variance + at**2).sqrt() for at in (t, s))
        # (above − below)/(t − s) without the difference: finite, and smooth, where s = t.
        slope = ((t + s) * (1 + variance) - 2 * variance) / (above + below)
        centred = (x - (1 - t) * mean) / above
        return -mean + centred * slope - self.bias


class Student(nn.Module):
    """A small network of (t, x) or, with ``takes_end``, (t, x, s), smooth enough in time to be differentiated."""

    def __init__(self, takes_end: bool = False, width: int = 64, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.takes_end = takes_end
            self.layers = nn.Sequential(
                nn.Linear(2 + 5 * (1 + takes_end), width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(),
                nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 2),
            )  # fmt: skip

    def forward(self, t: Tensor, x: Tensor, cond: object = None, s: Tensor | None = None) -> Tensor:
        times = [t] if not self.takes_end else [t, t if s is None else s]
        features = [x]
        for time in times:
            column = torch.as_tensor(time, dtype=x.dtype).reshape(-1, 1).expand(len(x), 1)
            features += [column, (2 * column).sin(), (2 * column).cos(), (5 * column).sin(), (5 * column).cos()]
        return self.layers(torch.cat(features, -1))


def train(
    objective: Objective,
    student: nn.Module,
    steps: int = 600,
    batch: int = 256,
    lr: float = 3e-3,
    decay: float = 0.99,
    data: Callable[[int, torch.Generator], Batch] | None = None,
    seed: int = 0,
) -> nn.Module:
    """Train as the pipeline does (Adam, cosine, average of weights); returns the averaged student."""
    optimizer = torch.optim.Adam(student.parameters(), lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    average = ExponentialMovingAverage(student, decay)
    stream = torch.Generator().manual_seed(seed)
    objective.prepare(student)
    for step in range(steps):
        drawn = Batch(MIXTURE.sample(batch, stream).float()) if data is None else data(batch, stream)
        optimizer.zero_grad()
        objective(student, drawn, stream).total.backward()
        optimizer.step()
        schedule.step()
        average.update(student)
        objective.after_step(student, step + 1)
    return average.network


def map_error(jump: Callable[[Tensor], Tensor], points: int = 500, seed: int = 1) -> float:
    """Root mean square distance of ``jump(noise) (B, 2)`` from the exact end X_{1→0}, float32 noise."""
    noise = torch.randn(points, 2, generator=torch.Generator().manual_seed(seed))
    whole = torch.ones(points, dtype=D)
    difference = jump(noise).to(D) - exact_map(whole, 0 * whole, noise)
    return float(difference.square().sum(-1).mean().sqrt())
