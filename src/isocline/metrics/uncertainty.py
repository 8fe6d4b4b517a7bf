"""What a number must carry: its mean, spread, standard error and count; and intervals for differences.

No module-level torch import: the report and the command line read estimates without loading it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

__all__ = [
    "Difference",
    "Estimate",
    "bootstrap_interval",
    "independent_difference",
    "paired_difference",
    "student_quantile",
    "wilson_interval",
]

Values = Sequence[float] | npt.NDArray[np.float64]


def student_quantile(probability: float, degrees: float) -> float:
    """Return the quantile of Student's t law with ``degrees`` of freedom (``inf`` gives the normal law's)."""
    from scipy.special import ndtri, stdtrit

    if math.isinf(degrees):
        return float(ndtri(probability))
    return float(stdtrit(degrees, probability))


def _finite(values: Values, name: str) -> npt.NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name} has shape {array.shape}; expected a non-empty list of numbers")
    if not np.isfinite(array).all():
        where = int(np.flatnonzero(~np.isfinite(array))[0])
        raise ValueError(f"{name}[{where}] is {array[where]}; a metric must be finite, look at the stage's samples")
    return array


@dataclass(frozen=True)
class Estimate:
    """An estimated quantity.

    Attributes:
        mean: the estimate itself.
        sd: standard deviation between the n repetitions (n - 1 in the denominator); None when n = 1.
        se: standard error of ``mean``; None when n = 1.
        n: repetitions (sampling seeds, sequences or images) that the estimate averages over.
    """

    mean: float
    sd: float | None
    se: float | None
    n: int

    @classmethod
    def from_values(cls, values: Values) -> Estimate:
        """Average independent repetitions: ``se = sd / sqrt(n)``.

        Raises:
            ValueError: for an empty list or a value that is not finite.
        """
        array = _finite(values, "values")
        if array.size == 1:
            return cls(float(array[0]), None, None, 1)
        sd = float(array.std(ddof=1))
        return cls(float(array.mean()), sd, sd / math.sqrt(array.size), int(array.size))

    @classmethod
    def from_ratio(cls, numerators: Values, denominators: Values) -> Estimate:
        """Estimate ``E[a] / E[b]`` from independent pairs by the ratio of sums.

        The standard error is the delta method's: with ``r = sum(a) / sum(b)`` the linearised residuals
        ``(a_i - r b_i) / mean(b)`` have mean 0 and ``se = sd(residuals) / sqrt(n)`` (Cochran, *Sampling
        Techniques*, third edition, 1977, section 2.11). ``sd`` is the residuals' own.

        Raises:
            ValueError: for lists of unequal length or denominators whose sum is not positive.
        """
        a, b = _finite(numerators, "numerators"), _finite(denominators, "denominators")
        if a.size != b.size:
            raise ValueError(f"{a.size} numerators but {b.size} denominators; give one of each per repetition")
        if b.sum() <= 0:
            raise ValueError("the denominators sum to zero or less; a ratio needs a positive count")
        ratio = float(a.sum() / b.sum())
        if a.size == 1:
            return cls(ratio, None, None, 1)
        sd = float(((a - ratio * b) / b.mean()).std(ddof=1))
        return cls(ratio, sd, sd / math.sqrt(a.size), int(a.size))

    def map(self, function: Callable[[float], float], slope: float) -> Estimate:
        """Transform the mean by a smooth function whose derivative there is ``slope`` (delta method)."""
        scale = abs(slope)
        sd = None if self.sd is None else self.sd * scale
        se = None if self.se is None else self.se * scale
        return Estimate(function(self.mean), sd, se, self.n)

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Two-sided Student interval of the mean with n - 1 degrees of freedom; infinite when n = 1."""
        if self.se is None:
            return (-math.inf, math.inf)
        half = student_quantile(0.5 + confidence / 2, self.n - 1) * self.se
        return (self.mean - half, self.mean + half)

    def as_dict(self) -> dict[str, Any]:
        """Return ``{mean, sd, se, n}`` as the metrics files hold it."""
        return asdict(self)


@dataclass(frozen=True)
class Difference:
    """A difference ``a - b`` with its two-sided confidence interval.

    Attributes:
        mean: estimated difference.
        low: lower end of the interval.
        high: upper end of the interval.
        degrees: degrees of freedom of the t law used.
        confidence: coverage of the interval.
        paired: whether the same seeds (noise, sequences) stood behind both sides.
    """

    mean: float
    low: float
    high: float
    degrees: float
    confidence: float
    paired: bool

    @property
    def significant(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low > 0 or self.high < 0


def paired_difference(a: Values, b: Values, confidence: float = 0.95) -> Difference:
    """Student interval of the mean of ``a_i - b_i``, where i is the same seed or the same item on both sides.

    Raises:
        ValueError: if the lists differ in length or hold fewer than two pairs.
    """
    left, right = _finite(a, "a"), _finite(b, "b")
    if left.size != right.size or left.size < 2:
        raise ValueError(f"paired lists hold {left.size} and {right.size} values; need equal counts of at least 2")
    estimate = Estimate.from_values(left - right)
    low, high = estimate.interval(confidence)
    return Difference(estimate.mean, low, high, estimate.n - 1, confidence, paired=True)


def independent_difference(a: Estimate, b: Estimate, confidence: float = 0.95) -> Difference:
    """Welch interval of ``a - b`` for estimates that share no randomness (Welch, *Biometrika* 34, 1947).

    Variances add; the degrees of freedom are Welch and Satterthwaite's. Infinite when a side has no standard
    error.
    """
    mean = a.mean - b.mean
    if a.se is None or b.se is None:
        return Difference(mean, -math.inf, math.inf, 0.0, confidence, paired=False)
    variance = a.se**2 + b.se**2
    spread = a.se**4 / (a.n - 1) + b.se**4 / (b.n - 1)
    degrees = variance**2 / spread if spread > 0 else math.inf
    half = student_quantile(0.5 + confidence / 2, degrees) * math.sqrt(variance)
    return Difference(mean, mean - half, mean + half, degrees, confidence, paired=False)


def bootstrap_interval(
    values: Values,
    statistic: Callable[[npt.NDArray[np.float64]], float],
    generator: torch.Generator,
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Percentile bootstrap interval of ``statistic(values)`` (Efron, *Annals of Statistics* 7, 1979).

    Args:
        values: independent observations, shape ``(n,)``.
        statistic: maps a resampled ``(n,)`` array to a number.
        generator: CPU generator that draws the resamples.
        resamples: number of resamples.
        confidence: two-sided coverage.
    """
    import torch

    array = _finite(values, "values")
    picks = torch.randint(array.size, (resamples, array.size), generator=generator).numpy()
    draws = np.array([statistic(array[row]) for row in picks])
    low, high = np.quantile(draws, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return float(low), float(high)


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval of a proportion; unlike ± 2 se it stays within [0, 1] and has a width where all succeed.

    Wilson, Probable inference, the law of succession, and statistical inference (1927).

    Args:
        successes: how many of the trials succeeded.
        n: trials.
        confidence: two-sided coverage.

    Raises:
        ValueError: unless ``0 <= successes <= n`` and ``n >= 1``.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes in {n} trials; need 0 <= successes <= n and n >= 1")
    z = student_quantile(0.5 + confidence / 2, math.inf)
    share = successes / n
    centre = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return (max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale))
