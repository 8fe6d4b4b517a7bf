"""Decision times and probes on problems whose answers are known."""

from __future__ import annotations

import pytest
import torch

from isocline.dynamics.decision_time import (
    LinearProbe,
    decided_share,
    decision_times,
    probe_predictions,
    settled_since,
)

D = torch.float64


def test_a_class_is_settled_where_it_last_changed() -> None:
    symbols = torch.tensor([[1, 5, 2, 2], [1, 5, 3, 2], [1, 4, 2, 0], [1, 5, 2, 2]])
    assert settled_since(symbols).tolist() == [0, 3, 2, 3]
    ts = torch.tensor([1.0, 0.6, 0.3, 0.0], dtype=D)
    assert decision_times(ts, symbols).tolist() == [1.0, 0.0, 0.3, 0.0]


def test_the_share_decided_rises_to_one_and_agrees_with_the_times() -> None:
    symbols = torch.randint(3, (12, 50), generator=torch.Generator().manual_seed(0))
    share = decided_share(symbols).double().mean(-1)
    assert bool((share.diff() >= 0).all())
    assert float(share[-1]) == 1.0
    ts = torch.linspace(1, 0, 12, dtype=D)
    assert float((decision_times(ts, symbols) >= 0.5).double().mean()) == float(share[ts >= 0.5][-1])


def test_more_than_one_axis_of_symbols_is_read_element_by_element() -> None:
    symbols = torch.tensor([[[0, 1], [2, 2]], [[3, 1], [2, 4]]])
    assert settled_since(symbols).tolist() == [[1, 0], [0, 1]]


def test_no_state_is_refused() -> None:
    with pytest.raises(ValueError, match="save_steps"):
        settled_since(torch.zeros(0, 3))


def test_a_probe_is_the_ridge_solution_in_both_forms() -> None:
    stream = torch.Generator().manual_seed(1)
    labels = torch.arange(40) % 3
    for size in (5, 90):
        x = torch.randn(40, size, generator=stream, dtype=D)
        probe = LinearProbe.fit(x, labels, 3, penalty=0.3)
        centred, target = x - x.mean(0), torch.nn.functional.one_hot(labels, 3).double()
        ridge = 0.3 * centred.square().sum() / min(40, size)
        # The normal equations hold: Xᵀ(Y − offset − X W) = λ W.
        left = centred.T @ (target - target.mean(0) - centred @ probe.weight)
        torch.testing.assert_close(left, ridge * probe.weight)


def test_a_probe_does_not_mind_scale_and_offset_of_the_states() -> None:
    stream = torch.Generator().manual_seed(2)
    x, labels = torch.randn(60, 4, generator=stream, dtype=D), torch.arange(60) % 4
    new = torch.randn(200, 4, generator=stream, dtype=D)
    plain, moved = LinearProbe.fit(x, labels, 4), LinearProbe.fit(1e-3 * x + 50, labels, 4)
    assert torch.equal(plain(new), moved(1e-3 * new + 50))


def test_a_probe_reads_the_class_from_the_time_on_at_which_it_is_in_the_state() -> None:
    """The class enters the states at index 6 and is a matter of luck before."""
    stream = torch.Generator().manual_seed(3)
    labels = torch.randint(4, (400,), generator=stream)
    noise = 0.1 * torch.randn(12, 400, 2, 4, generator=stream, dtype=D)
    signal = torch.nn.functional.one_hot(labels, 4).double()
    noise[6:, :, 1] += signal
    found = probe_predictions(noise, labels, 4)
    accuracy = (found == labels).double().mean(-1)
    assert float(accuracy[:6].max()) < 0.35
    assert float(accuracy[6:].min()) > 0.99
    truth = torch.cat([found, labels[None]])
    assert decision_times(torch.arange(13).double(), truth).median() == 6


def test_no_trajectory_is_judged_by_a_probe_that_has_seen_it() -> None:
    """With as many coordinates as trajectories a probe can learn labels by heart; held out, it is at chance."""
    stream = torch.Generator().manual_seed(4)
    labels = torch.randint(2, (60,), generator=stream)
    states = torch.randn(3, 60, 200, generator=stream, dtype=D)
    inside = LinearProbe.fit(states[0], labels, 2)(states[0])
    assert float((inside == labels).double().mean()) == 1.0
    assert abs(float((probe_predictions(states, labels, 2) == labels).double().mean()) - 0.5) < 0.15


def test_folds_and_penalties_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="folds = 5"):
        probe_predictions(torch.zeros(2, 3, 1), torch.zeros(3, dtype=torch.int64), 2)
    with pytest.raises(ValueError, match="penalty"):
        LinearProbe.fit(torch.zeros(3, 1), torch.zeros(3, dtype=torch.int64), 2, penalty=0.0)
