"""Structured noise: stationary laws, reversibility, and what falls with distance."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isocline.processes.distance_kernel import DistanceKernel
from isocline.processes.frequency_kernel import FrequencyKernel
from isocline.processes.kernel import UniformKernel
from isocline.processes.token_schedule import LinearSurvival

LINE = torch.tensor([[0.0], [1.0], [2.0], [4.0]]).double()
positive = st.lists(st.floats(0.05, 20.0), min_size=4, max_size=4)


@settings(max_examples=80, deadline=None)
@given(frequencies=positive, bandwidth=st.floats(0.3, 5.0), t=st.floats(0.05, 0.95))
def test_distance_noise_is_reversible_for_the_stated_stationary_law(frequencies, bandwidth, t):
    kernel, time = DistanceKernel(5, LinearSurvival(), LINE, bandwidth, frequencies), torch.tensor(t).double()
    pi = kernel.stationary()
    torch.testing.assert_close(pi[:4], torch.tensor(frequencies).double() / sum(frequencies))
    flow = pi[:4, None] * kernel.forward_rate(time)[:4, :4]
    torch.testing.assert_close(flow, flow.T, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(pi @ kernel.transition(torch.tensor(0.0).double(), time), pi, rtol=1e-9, atol=1e-10)


def test_rates_fall_with_distance_and_with_equal_frequencies_the_generator_is_symmetric():
    kernel = DistanceKernel(5, LinearSurvival(), LINE)
    rate = kernel.forward_rate(torch.tensor(0.3).double())[:4, :4]
    torch.testing.assert_close(rate, rate.T)
    assert rate[0, 1] > rate[0, 2] > rate[0, 3] > 0


def test_the_clock_is_the_survival_of_the_average_token():
    """−Σ π_i Q_ii = −a'/a: at first tokens leave as they do under a·δ + n with the same schedule."""
    kernel = DistanceKernel(5, LinearSurvival(), LINE, 0.5, [1, 2, 3, 4])
    time = torch.tensor(0.3).double()
    leaving = -(kernel.stationary() * kernel.forward_rate(time).diagonal()).sum()
    torch.testing.assert_close(leaving, torch.tensor(1 / 0.7).double())


def test_jumps_over_any_distance_at_one_rate_are_uniform_noise_but_for_the_clock():
    kernel, plain = DistanceKernel(5, LinearSurvival(), LINE, 1e6), UniformKernel(5, LinearSurvival())
    t = torch.tensor(0.4).double()
    found, uniform = kernel.forward_rate(t)[:4, :4], plain.forward_rate(t)[:4, :4]
    torch.testing.assert_close(found / found[0, 0], uniform / uniform[0, 0], rtol=1e-9, atol=1e-9)


def test_near_symbols_are_confused_before_far_ones_and_the_gap_says_how_long():
    narrow, wide = (DistanceKernel(5, LinearSurvival(), LINE, width) for width in (0.3, 3.0))
    t = torch.tensor(0.3).double()
    near_first = narrow.marginal(torch.tensor([[0]]), t)[0, 0]
    assert near_first[1] > 5 * near_first[3]
    assert 0 < narrow.gap < wide.gap


def test_frequency_noise_keeps_the_unigram_law_of_the_data_at_every_time():
    law = torch.tensor([1.0, 2.0, 3.0, 10.0]).double()
    kernel = FrequencyKernel(5, LinearSurvival(), law)
    data = kernel.stationary()
    for t in (0.1, 0.5, 1.0):
        after = data @ kernel.transition(torch.tensor(0.0).double(), torch.tensor(t).double())
        torch.testing.assert_close(after, data)


@pytest.mark.parametrize(
    ("frequencies", "message"),
    [([1, 2, 3], r"expected \(4,\)"), ([1, 0, 2, 3], "pseudo-count"), ([1, -1, 2, 3], "pos")],
)
def test_frequencies_that_do_not_fit_are_refused(frequencies, message):
    with pytest.raises(ValueError, match=message):
        FrequencyKernel(5, LinearSurvival(), frequencies)


@pytest.mark.parametrize(
    ("points", "bandwidth", "message"),
    [
        (LINE[:3], 1.0, r"expected \(4, D\)"),
        (LINE * torch.nan, 1.0, "finite"),
        (torch.zeros(4, 2), 1.0, "coincide"),
        (LINE, 0.0, "bandwidth = 0"),
    ],
)
def test_embeddings_that_do_not_fit_are_refused(points, bandwidth, message):
    with pytest.raises(ValueError, match=message):
        DistanceKernel(5, LinearSurvival(), points, bandwidth)
