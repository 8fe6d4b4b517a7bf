import pytest
import torch

from isocline.datasets.images import ImageArrays, LoadedImages
from isocline.datasets.splits import assign_sections, split_images, stratified_order


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def pool(labels, groups=None):
    labels = torch.tensor(labels)
    images = torch.arange(len(labels), dtype=torch.uint8).view(-1, 1, 1, 1)
    return ImageArrays(images, labels, None if groups is None else torch.tensor(groups))


def names(arrays):
    return set(arrays.images.flatten().tolist())


def test_every_prefix_holds_the_classes_in_their_shares():
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    order = stratified_order(labels, draws())
    assert sorted(order.tolist()) == list(range(100))
    for size in range(1, 101):
        counts = labels[order[:size]].bincount(minlength=3).double()
        assert (counts - size * torch.tensor([0.6, 0.3, 0.1])).abs().max() <= 2


def test_splits_are_disjoint_and_of_the_size_asked_for():
    data = LoadedImages(pool([0, 1] * 50))
    splits = split_images(data, {"train": None, "judge": 20, "test": 30}, draws())
    assert {name: len(part.images) for name, part in splits.items()} == {"train": 50, "judge": 20, "test": 30}
    assert set().union(*map(names, splits.values())) == set(range(100))
    assert splits["judge"].labels.bincount().tolist() == [10, 10]


def test_labels_stay_with_their_images():
    labels = torch.randint(0, 5, (60,), generator=draws(4)).tolist()
    for part in split_images(LoadedImages(pool(labels)), {"train": 40, "test": 20}, draws()).values():
        assert part.labels.tolist() == [labels[i] for i in part.images.flatten().tolist()]


def test_the_seed_decides_the_split():
    data = LoadedImages(pool([0, 1] * 50))
    first, again, other = (split_images(data, {"train": 50, "test": 50}, draws(seed)) for seed in (0, 0, 1))
    assert torch.equal(first["train"].images, again["train"].images)
    assert names(first["train"]) != names(other["train"])


def test_an_official_test_part_is_never_trained_on():
    data = LoadedImages(pool([0] * 20), ImageArrays(torch.full((5, 1, 1, 1), 200, dtype=torch.uint8), torch.zeros(5)))
    splits = split_images(data, {"train": None, "judge": 5, "test": None}, draws())
    assert names(splits["test"]) == {200}
    assert 200 not in names(splits["train"]) | names(splits["judge"])
    assert len(splits["train"].images) == 15


def test_groups_stay_whole():
    groups = [i // 3 for i in range(60)]
    splits = split_images(LoadedImages(pool([0] * 60, groups)), {"train": None, "judge": 12, "test": 9}, draws())
    found = [{groups[i] for i in names(part)} for part in splits.values()]
    assert len(found[0] | found[1] | found[2]) == sum(map(len, found))
    assert [len(part.images) for part in splits.values()] == [39, 12, 9]


def test_no_split_grows_beyond_its_size_when_groups_are_uneven():
    groups = [g for g in range(40) for _ in range(g % 7 + 1)]
    data = LoadedImages(pool([0] * len(groups), groups))
    splits = split_images(data, {"train": None, "judge": 11, "test": 10}, draws())
    assert len(splits["judge"].images) <= 11
    assert len(splits["test"].images) <= 10
    found = [{groups[i] for i in names(part)} for part in splits.values()]
    assert len(found[0] | found[1] | found[2]) == sum(map(len, found))


@pytest.mark.parametrize(
    ("sizes", "match"),
    [
        ({"train": 90, "test": 20}, "more than the 100"),
        ({"train": None, "test": None}, "only one"),
        ({"train": 0}, "at least 1"),
        ({"train": None, "test": 100}, "ask for less"),
    ],
)
def test_impossible_sizes_are_refused(sizes, match):
    with pytest.raises(ValueError, match=match):
        split_images(LoadedImages(pool([0] * 100)), sizes, draws())


def test_sections_are_dealt_out_whole_and_close_to_their_shares():
    lengths = torch.randint(500, 1500, (400,), generator=draws(1)).tolist()
    shares = {"train": 0.7, "judge": 0.2, "test": 0.1}
    chosen = assign_sections(lengths, shares, draws())
    assert sorted(i for indices in chosen.values() for i in indices) == list(range(400))
    for name, share in shares.items():
        assert sum(lengths[i] for i in chosen[name]) == pytest.approx(share * sum(lengths), abs=1500)
        assert chosen[name] == sorted(chosen[name])


def test_small_splits_are_spread_over_the_document():
    chosen = assign_sections([100] * 1000, {"train": 0.9, "test": 0.1}, draws())["test"]
    assert min(chosen) < 100
    assert max(chosen) > 900


@pytest.mark.parametrize("shares", [{"train": 0.5, "test": 0.4}, {"train": 1.0, "test": 0.0}])
def test_shares_that_do_not_make_one_are_refused(shares):
    with pytest.raises(ValueError, match="sum to 1"):
        assign_sections([10] * 10, shares, draws())


def test_too_few_sections_are_refused():
    with pytest.raises(ValueError, match="smaller unit"):
        assign_sections([10], {"train": 0.5, "test": 0.5}, draws())
