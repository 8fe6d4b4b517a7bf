"""Laws of short sequences with their exact denoisers, for tests of samplers of tokens."""

import torch
from scipy import stats

from isocline.processes.enumerated import EnumeratedDenoiser, EnumeratedLaw


def law(symbols=3, length=3, spread=2.0, seed=0):
    return EnumeratedLaw.random(symbols, length, spread, torch.Generator().manual_seed(seed))


def generate(sampler, kernel, count, nfe, seed=0, truth=None, **kwargs):
    truth = law() if truth is None else truth
    network = EnumeratedDenoiser(truth, kernel)
    stream = torch.Generator().manual_seed(seed)
    return truth, sampler.sample(network, kernel, (count, truth.length), nfe, stream, **kwargs)


def chi_squared_p_value(probs, found, count):
    """Of frequencies under a law; cells that are expected fewer than five times are pooled."""
    expected, observed = probs * count, found * count
    rare = expected < 5
    pooled = [torch.cat([values[~rare], values[rare].sum().reshape(1)]) for values in (expected, observed)]
    if not rare.any():
        pooled = [values[:-1] for values in pooled]
    return float(
        stats.chisquare(pooled[1].numpy(), pooled[0].numpy() * float(pooled[1].sum() / pooled[0].sum())).pvalue
    )


def distance(truth, tokens):
    """Total variation between the law and the frequencies, and what Monte-Carlo error alone would give on average."""
    found = truth.frequencies(tokens)
    noise = (truth.probs * (1 - truth.probs) / len(tokens)).sqrt().sum() / (2 * torch.pi) ** 0.5
    return 0.5 * (found - truth.probs).abs().sum(), noise
