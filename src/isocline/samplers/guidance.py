"""Guidance: denoisers that wrap a denoiser, so that every sampler takes them.

One convention: worse + s (better − worse). The weights sum to one, so that a rule commutes with every conversion of
predictions.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from isocline.processes.denoiser import AbstractDenoiser
from isocline.processes.prediction import AbstractPrediction, ScorePrediction, conversion
from isocline.samplers.wrapped_denoiser import AbstractWrappedDenoiser
from isocline.shapes import expand_like
from isocline.solvers.rows import select_rows

__all__ = ["AutoGuidance", "ClassifierFreeGuidance", "ClassifierGuidance", "IntervalGuidance"]

_SCORE = ScorePrediction()


class ClassifierFreeGuidance(AbstractWrappedDenoiser):
    """u + s (c − u), with c the conditional and u the unconditional prediction; s = 1 is conditional, s = 0 not.

    Others write (1 + w) c − w u: s = 1 + w.

    Source: *Classifier-Free Diffusion Guidance*, Ho & Salimans, 2022, Eq. 6.

    Args:
        denoiser: what is guided; its network takes ``cond=None`` as unconditional.
        scale: s.
    """

    def __init__(self, denoiser: AbstractDenoiser, scale: float) -> None:
        super().__init__(denoiser)
        self.scale = scale

    @property
    def evaluations(self) -> int:
        """Twice the wrapped denoiser's."""
        return 2 * self.denoiser.evaluations

    def forwards(self, t: Tensor) -> Tensor:
        """Twice the wrapped denoiser's."""
        return 2 * self.denoiser.forwards(t)

    def predict(self, t: Tensor, x: Tensor, cond: Any, to: AbstractPrediction) -> Tensor:
        """Return the guided prediction; two calls.

        Raises:
            ValueError: without a condition.
        """
        _demand(cond, "classifier-free guidance")
        unconditional = self.denoiser.predict(t, x, None, to)
        return unconditional + self.scale * (self.denoiser.predict(t, x, cond, to) - unconditional)


class ClassifierGuidance(AbstractWrappedDenoiser):
    """∇ ln p_t(x) + s ∇ ln p_t(y | x), with the unconditional score and a classifier of noisy states.

    With the exact classifier s = 1 is the conditional law, by Bayes' rule. A prediction of data magnifies the
    gradient by σ²/α, so that it cannot be had where α = 0: a process that ends there needs t_max < 1.

    Source: *Diffusion Models Beat GANs on Image Synthesis*, Dhariwal & Nichol, 2021, §4.

    Args:
        denoiser: what is guided; asked with ``cond=None``.
        classifier: ``classifier(t, x) -> logits (B, K)`` for states x at times t; differentiable in x.
        scale: s.
    """

    def __init__(
        self, denoiser: AbstractDenoiser, classifier: Callable[[Tensor, Tensor], Tensor], scale: float = 1.0
    ) -> None:
        super().__init__(denoiser)
        self.classifier = classifier
        self.scale = scale

    @property
    def evaluations(self) -> int:
        """One more than the wrapped denoiser's: the classifier's forward; its backward pass is not counted."""
        return self.denoiser.evaluations + 1

    def forwards(self, t: Tensor) -> Tensor:
        """One more than the wrapped denoiser's."""
        return self.denoiser.forwards(t) + 1

    def predict(self, t: Tensor, x: Tensor, cond: Any, to: AbstractPrediction) -> Tensor:
        """Return the guided prediction for labels ``cond (B,)``.

        Raises:
            ValueError: without labels, or where α = 0.
        """
        _demand(cond, "classifier guidance")
        values = self.process.schedule(t)
        if bool((values.alpha <= 0).any()):
            raise ValueError("classifier guidance needs α > 0; give the process a t_max below 1 (t_max=0.999)")
        _, gain = conversion(values, _SCORE, to)
        shift = expand_like((self.scale * gain).to(x.dtype), x) * self._gradient(t, x, cond)
        return self.denoiser.predict(t, x, None, to) + shift

    def _gradient(self, t: Tensor, x: Tensor, labels: Tensor) -> Tensor:
        """∇ ln p_t(y | x), shape of x; samplers run where nothing is recorded, so recording is switched on here."""
        with torch.inference_mode(False), torch.enable_grad():
            inner = x.detach().clone().requires_grad_()
            log_shares = self.classifier(t.clone(), inner).log_softmax(-1)
            (gradient,) = torch.autograd.grad(log_shares.gather(1, labels.clone()[:, None]).sum(), inner)
        return gradient.to(x.dtype)


class AutoGuidance(AbstractWrappedDenoiser):
    """w + s (d − w), with d the denoiser and w a worse one of the same process: smaller, or trained for less long.

    Source: *Guiding a Diffusion Model with a Bad Version of Itself*, Karras et al., 2024, Eq. 3.

    Args:
        denoiser: what is guided.
        worse: given the same condition.
        scale: s; 1 leaves the denoiser as it is.

    Raises:
        ValueError: if the two schedules differ.
    """

    def __init__(self, denoiser: AbstractDenoiser, worse: AbstractDenoiser, scale: float) -> None:
        times = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
        ours, theirs = denoiser.process.schedule(times), worse.process.schedule(times)
        if not (torch.allclose(ours.alpha, theirs.alpha) and torch.allclose(ours.sigma, theirs.sigma)):
            raise ValueError("worse: its process has another schedule than the denoiser's; use one trained under it")
        super().__init__(denoiser)
        self.worse = worse
        self.scale = scale

    @property
    def evaluations(self) -> int:
        """Those of both."""
        return self.denoiser.evaluations + self.worse.evaluations

    def forwards(self, t: Tensor) -> Tensor:
        """Those of both."""
        return self.denoiser.forwards(t) + self.worse.forwards(t)

    def towards(self, s: Tensor | float) -> Self:
        """Both towards s; see the base class."""
        other = copy.copy(self)
        other.denoiser, other.worse = self.denoiser.towards(s), self.worse.towards(s)
        return other

    def predict(self, t: Tensor, x: Tensor, cond: Any, to: AbstractPrediction) -> Tensor:
        """Return the guided prediction; two calls."""
        worse = self.worse.predict(t, x, cond, to)
        return worse + self.scale * (self.denoiser.predict(t, x, cond, to) - worse)


class IntervalGuidance(AbstractWrappedDenoiser):
    """Guide at some noise levels only; elsewhere the denoiser alone answers, and only its forwards are spent.

    Guidance does harm where there is little but noise and is of no use where there is little noise.

    Source: *Applying Guidance in a Limited Interval Improves Sample and Distribution Quality in Diffusion Models*,
    Kynkäänniemi et al., 2024, Eq. 6 (its σ is σ/α here).

    Args:
        denoiser: what is guided.
        guide: puts the guidance around the denoiser.
        ratios: guide where low < σ/α <= high.
        times: guide where low < t <= high, instead.

    Raises:
        ValueError: unless one interval is given, with low < high.
    """

    def __init__(
        self,
        denoiser: AbstractDenoiser,
        guide: Callable[[AbstractDenoiser], AbstractDenoiser],
        ratios: Sequence[float] | None = None,
        times: Sequence[float] | None = None,
    ) -> None:
        interval = ratios if times is None else times
        if (ratios is None) == (times is None) or interval is None:
            raise ValueError(f"ratios = {ratios}, times = {times}: give one of them")
        if len(interval) != 2 or not interval[0] < interval[1]:
            raise ValueError(f"interval {list(interval)}: give [low, high] with low < high")
        super().__init__(denoiser)
        self.guided = guide(denoiser)
        self.low, self.high = interval
        self.by_time = times is not None
        self._end: Tensor | None = None

    @property
    def evaluations(self) -> int:
        """Those of a guided prediction, the dearer one."""
        return self.guided.evaluations

    def forwards(self, t: Tensor) -> Tensor:
        """Those of the guided denoiser inside the interval, of the plain one outside."""
        return torch.where(self.inside(t), self.guided.forwards(t), self.denoiser.forwards(t))

    def towards(self, s: Tensor | float) -> Self:
        """The same towards s, bound sample by sample when it is known which of them are inside; see the base class."""
        other = copy.copy(self)
        other._end = torch.as_tensor(s, dtype=torch.float64)
        return other

    def inside(self, t: Tensor) -> Tensor:
        """Tell where guidance acts, bool, shape of t."""
        values = self.process.schedule(t)
        # Compared as products: σ/α is infinite where α = 0.
        level, unit = (t, torch.ones_like(t)) if self.by_time else (values.sigma, values.alpha)
        return (level > self.low * unit) & (level <= self.high * unit)

    def predict(self, t: Tensor, x: Tensor, cond: Any, to: AbstractPrediction) -> Tensor:
        """Return the guided prediction for the samples inside, the plain one for the others."""
        inside = self.inside(t)
        if bool(inside.all()):
            return self._bound(self.guided, self._end).predict(t, x, cond, to)
        if not bool(inside.any()):
            return self._bound(self.denoiser, self._end).predict(t, x, cond, to)
        result = torch.empty_like(x)
        end = None if self._end is None else self._end.to(x.device)
        for denoiser, mask in ((self.guided, inside), (self.denoiser, ~inside)):
            rows = mask.nonzero()[:, 0].to(x.device)
            part = select_rows((t.to(x.device), x, cond, end), rows)
            result[rows] = self._bound(denoiser, part[3]).predict(part[0].to(t.device), part[1], part[2], to)
        return result

    @staticmethod
    def _bound(denoiser: AbstractDenoiser, end: Tensor | None) -> AbstractDenoiser:
        return denoiser if end is None else denoiser.towards(end)


def _demand(cond: Any, what: str) -> None:
    if cond is None:
        raise ValueError(f"cond=None under {what}; pass the labels to guide towards")
