"""The virtual Brownian tree: one path however it is asked, with exactly the law of Brownian motion and its integral."""

import itertools
import math

import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isocline.solvers import (
    ConstantSteps,
    EulerMaruyama,
    PIDController,
    SaveAt,
    SDEProblem,
    solve,
)
from isocline.solvers.brownian import BrownianIncrements, VirtualBrownianTree, tree_weights
from isocline.solvers.splitmix import GOLDEN, combine, mix64, normal_pair, seed_key, uniform
from isocline.solvers.srk import ShARK

F64 = torch.float64
SPAN = 1.7


def time(t):
    return torch.tensor(t, dtype=F64)


def path(tree, t, shape=(3, 2), dtype=F64):
    return tree.at(time(t), torch.zeros(shape, dtype=dtype))


def loadings(times, depth=12):
    """W and its integral at some times as rows of weights on a tree's independent normal numbers."""
    weights = tree_weights(torch.tensor(times, dtype=F64) / SPAN, depth, SPAN)
    addresses = {node: place for place, node in enumerate(weights.nodes.unique().tolist())}
    tables = []
    for form in (weights.w, weights.area):
        table = torch.zeros(len(times), len(addresses), 2, dtype=F64)
        for level, sample in itertools.product(range(form.shape[0]), range(len(times))):
            table[sample, addresses[int(weights.nodes[level, sample])]] += form[level, :, sample]
        tables.append(table.flatten(1))
    return tables


TIMES = st.lists(st.integers(0, 4095), min_size=2, max_size=6, unique=True)


@settings(max_examples=60, deadline=None)
@given(TIMES, st.data())
def test_covariances_of_the_path_and_its_integral_are_those_of_brownian_motion(leaves, data):
    # One time in each of different leaves: the sums over the shared normal numbers must be the closed forms.
    shares = [data.draw(st.floats(0, 1)) for _ in leaves]
    times = [(leaf + share) / 4096 * SPAN for leaf, share in zip(leaves, shares, strict=True)]
    if len({min(math.floor(t / SPAN * 4096), 4095) for t in times}) < len(times):
        return
    w, area = loadings(times)
    t = torch.tensor(times, dtype=F64)
    low, high = torch.minimum(t[:, None], t), torch.maximum(t[:, None], t)
    assert torch.allclose(w @ w.T, low, atol=1e-12)
    assert torch.allclose(area @ area.T, low**2 * (3 * high - low) / 6, atol=1e-12)
    # ∫_0^t min(s, u) du for W(s) and the integral up to t.
    cross = torch.where(t[:, None] <= t, t[:, None] ** 2 / 2 + t[:, None] * (t - t[:, None]), t**2 / 2)
    assert torch.allclose(w @ area.T, cross, atol=1e-12)


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_each_value_within_a_wide_leaf_has_its_exact_law(depth):
    for t in (0.05 * SPAN, 0.3 * SPAN, 0.8 * SPAN):
        w, area = loadings([t], depth)
        assert float((w * w).sum()) == pytest.approx(t, abs=1e-12)
        assert float((w * area).sum()) == pytest.approx(t * t / 2, abs=1e-12)
        assert float((area * area).sum()) == pytest.approx(t**3 / 3, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(TIMES)
def test_the_inside_of_an_interval_is_a_bridge(leaves):
    start, inside, end = (leaf / 4096 * SPAN for leaf in sorted([*leaves, 4096])[:3])
    w, _ = loadings([start, inside, end])
    share = (inside - start) / (end - start)
    bridge = w[1] - (1 - share) * w[0] - share * w[2]
    assert float(bridge @ bridge) == pytest.approx((inside - start) * (end - inside) / (end - start), abs=1e-12)
    for known in (w[0], w[2], w[2] - w[0]):
        assert float(bridge @ known) == pytest.approx(0.0, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(-(2**70), 2**70),
    st.lists(st.floats(0, SPAN), min_size=1, max_size=8),
    st.randoms(use_true_random=False),
)
def test_the_value_at_a_time_is_the_same_in_any_order_of_asking(seed, times, shuffle):
    tree = VirtualBrownianTree(seed, 0.0, SPAN)
    first = [path(tree, t) for t in times]
    order = list(range(len(times)))
    shuffle.shuffle(order)
    again = VirtualBrownianTree(seed, 0.0, SPAN)
    for place in order:
        point = path(again, times[place])
        assert torch.equal(point.w, first[place].w)
        assert torch.equal(point.area, first[place].area)
    # Samples with times of their own see the same paths as samples that share one.
    own = again.at(torch.tensor(times, dtype=F64), torch.zeros(len(times), 2, dtype=F64))
    for place, t in enumerate(times):
        assert torch.equal(own.w[place], path(tree, t, (len(times), 2)).w[place])


def test_a_sample_has_its_path_in_any_batch():
    tree = VirtualBrownianTree(4, 0.0, 1.0)
    whole = path(tree, 0.37, (40, 5))
    assert torch.equal(path(tree, 0.37, (7, 5)).w, whole.w[:7])
    rows = torch.tensor([31, 2, 2, 17])
    some = path(tree.at_rows(rows), 0.37, (4, 5))
    assert torch.equal(some.w, whole.w[rows])
    assert torch.equal(some.area, whole.area[rows])
    assert torch.equal(path(tree.at_rows(rows).at_rows(torch.tensor([3, 0])), 0.37, (2, 5)).w, whole.w[[17, 31]])


def test_a_large_state_is_made_in_parts_of_the_same_numbers():
    tree = VirtualBrownianTree(4, 0.0, 1.0)
    shape = (5, 40_000)
    whole = path(tree, 0.37, shape)
    assert torch.equal(path(tree.at_rows(torch.tensor([3])), 0.37, (1, 40_000)).w, whole.w[3:4])


@pytest.mark.parametrize("times", [(0.2, 0.5, 0.9), (0.9, 0.5, 0.2)], ids=["forward", "reversed"])
def test_increments_and_areas_add_up_under_refinement(times):
    tree = VirtualBrownianTree(11, 0.0, 1.0)
    y = torch.zeros(6, 3, dtype=F64)
    t0, t1, t2 = (time(t) for t in times)
    whole, _ = tree.step(t0, t2, y, None, True)
    first, memory = tree.step(t0, t1, y, tree.start(t0, y), True)
    second, _ = tree.step(t1, t2, y, memory, True)
    assert torch.allclose(first.w + second.w, whole.w, atol=1e-14)
    # Mean of path less chord: the mean of both parts', and the triangle of the chords.
    share = float((t1 - t0) / (t2 - t0))
    means = share * (first.h + first.w / 2) + (1 - share) * (second.h + first.w + second.w / 2)
    assert torch.allclose(means - whole.w / 2, whole.h, atol=1e-13)
    # The path is one whatever the direction: the way back has the increment with the other sign, and the same area.
    back, _ = tree.step(t2, t0, y, None, True)
    assert torch.allclose(back.w, -whole.w, atol=1e-14)
    assert torch.allclose(back.h, whole.h, atol=1e-14)


def test_a_deeper_tree_has_the_same_path_at_the_ends_of_the_old_leaves():
    coarse, fine = VirtualBrownianTree(1, 0.0, 1.0, tol=2.0**-4), VirtualBrownianTree(1, 0.0, 1.0, tol=2.0**-20)
    assert (coarse.depth, fine.depth) == (4, 20)
    for t in (0.0, 1 / 16, 0.5, 13 / 16, 1.0):
        assert torch.allclose(path(coarse, t).w, path(fine, t).w, atol=1e-14)
        assert torch.allclose(path(coarse, t).area, path(fine, t).area, atol=1e-14)
    assert not torch.allclose(path(coarse, 0.3).w, path(fine, 0.3).w, atol=1e-3)


@pytest.mark.parametrize("source", ["tree", "generator"])
def test_increments_and_areas_are_normal_independent_and_of_the_right_size(source):
    y = torch.zeros(8000, 2, dtype=F64)
    noise = VirtualBrownianTree(5, 0.0, 2.0) if source == "tree" else BrownianIncrements(torch.Generator())
    edges = [0.13, 0.5, 1.1, 1.9]
    numbers, memory = [], None
    for t0, t1 in itertools.pairwise(edges):
        part, memory = noise.step(time(t0), time(t1), y, memory, True)
        numbers += [part.w / math.sqrt(t1 - t0), part.h / math.sqrt((t1 - t0) / 12)]
    columns = torch.cat(numbers, 1)
    for column in columns.unbind(1):
        assert scipy.stats.kstest(column, "norm").pvalue > 1e-3
        assert float(column.pow(4).mean()) == pytest.approx(3, abs=5 * math.sqrt(96 / 8000))
    # Of increments, areas, elements and steps no two are correlated, nor any with the next sample's.
    for other in (columns, columns.roll(1, 0)):
        correlation = columns.T @ other / len(columns)
        wanted = torch.eye(len(correlation), dtype=F64) if other is columns else torch.zeros_like(correlation)
        assert float((correlation - wanted).abs().max()) < 5 * math.sqrt(2 / 8000)


def test_neighbouring_seeds_have_unrelated_paths():
    ends = torch.stack([path(VirtualBrownianTree(seed, 0.0, 1.0), 1.0, (4000, 1)).w for seed in (-1, 0, 1, 2)]).flatten(
        1
    )
    correlation = torch.corrcoef(ends) - torch.eye(4, dtype=F64)
    assert float(correlation.abs().max()) < 5 / math.sqrt(4000)


def test_a_state_in_single_precision_sees_the_path_rounded():
    tree = VirtualBrownianTree(2, 0.0, 1.0)
    wide, _ = tree.step(time(0.2), time(0.3), torch.zeros(4, 3, dtype=F64), None, True)
    narrow, _ = tree.step(time(0.2), time(0.3), torch.zeros(4, 3), None, True)
    assert narrow.w.dtype == torch.float32
    assert torch.equal(narrow.w, wide.w.float())
    assert torch.equal(narrow.h, wide.h.float())


def test_an_empty_step_has_no_increment_and_no_area():
    part, _ = VirtualBrownianTree(2, 0.0, 1.0).step(time(0.4), time(0.4), torch.zeros(2, 2, dtype=F64), None, True)
    assert not part.w.any()
    assert not part.h.any()


def test_splitmix_gives_the_published_numbers():
    # First outputs of the reference implementation from states 0 and 1234567.
    for state, wanted in (
        (0, [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]),
        (1234567, [6457827717110365317, 3203168211198807973, 9817491932198370423]),
    ):
        found = combine(torch.tensor(state), torch.arange(3))
        assert [value % 2**64 for value in found.tolist()] == wanted
    assert int(mix64(torch.tensor(GOLDEN))) % 2**64 == 0xE220A8397B1DCDAF
    assert int(seed_key(3, torch.device("cpu"))) == int(seed_key(3 + 2**64, torch.device("cpu")))


def test_hashed_numbers_are_uniform_and_normal():
    bits = mix64(torch.arange(20_000))
    share = uniform(bits)
    assert bool(((share > 0) & (share <= 1)).all())
    assert scipy.stats.kstest(share, "uniform").pvalue > 1e-3
    for numbers in normal_pair(bits):
        assert scipy.stats.kstest(numbers, "norm").pvalue > 1e-3
    extremes = torch.stack(normal_pair(torch.tensor([0, -1, 2**63 - 1, -(2**63)])))
    assert bool(extremes.isfinite().all())


def test_paths_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="t0 < t1"):
        VirtualBrownianTree(0, 1.0, 0.0)
    with pytest.raises(ValueError, match="tol="):
        VirtualBrownianTree(0, 0.0, 1.0, tol=1e-20)
    with pytest.raises(ValueError, match="samples"):
        VirtualBrownianTree(0, 0.0, 1.0, samples=torch.zeros(3))
    tree = VirtualBrownianTree(0, 0.0, 1.0, samples=torch.arange(3))
    with pytest.raises(ValueError, match="3 samples, the state a batch of 2"):
        path(tree, 0.5, (2, 2))
    with pytest.raises(TypeError, match="complex"):
        path(tree, 0.5, dtype=torch.complex64)
    assert bool(path(tree, 1.5).w.isnan().all())


def problem(**noise):
    return SDEProblem(
        lambda t, y, c: -y, lambda t, y, c: torch.ones((), dtype=F64), torch.ones(2, 1), 0.0, 1.0, **noise
    )


def test_problems_ask_for_one_source_of_noise_that_covers_the_span():
    with pytest.raises(ValueError, match="not both"):
        problem()
    with pytest.raises(ValueError, match="not both"):
        problem(generator=torch.Generator(), noise=VirtualBrownianTree(0, 0.0, 1.0))
    with pytest.raises(ValueError, match="does not cover"):
        problem(noise=VirtualBrownianTree(0, 0.0, 0.5))


def test_noise_that_cannot_be_asked_again_is_for_fixed_grids_only():
    fresh = problem(generator=torch.Generator())
    with pytest.raises(ValueError, match="VirtualBrownianTree"):
        solve(fresh, ShARK(), PIDController())
    with pytest.raises(ValueError, match="dense output"):
        solve(fresh, EulerMaruyama(), ConstantSteps(2), SaveAt(ts=[0.3]))
    with pytest.raises(ValueError, match="cannot follow samples"):
        fresh.at_rows(torch.tensor([0]))
