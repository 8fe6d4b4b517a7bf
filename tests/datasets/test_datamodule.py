import pytest
import torch
from torch.utils.data import DataLoader

from isocline.datasets.datamodule import StepBatches
from isocline.datasets.quantisation import to_float


def numbers(count=10):
    return {"x0": torch.arange(count)}


def test_each_epoch_shows_every_sample_once_even_when_batches_straddle_epochs():
    stream = torch.cat([batch.x0 for batch in StepBatches(numbers(10), 4, seed=1, steps=15)])
    for epoch in stream.view(6, 10):
        assert sorted(epoch.tolist()) == list(range(10))


def test_epochs_differ():
    stream = torch.cat([batch.x0 for batch in StepBatches(numbers(10), 10, seed=1, steps=2)])
    assert not torch.equal(stream[:10], stream[10:])


def test_resuming_at_any_step_gives_the_same_batches():
    whole = [batch.x0 for batch in StepBatches(numbers(10), 4, seed=1, steps=12)]
    for start in range(13):
        rest = [batch.x0 for batch in StepBatches(numbers(10), 4, seed=1, steps=12, start_step=start)]
        assert len(rest) == 12 - start
        assert all(torch.equal(a, b) for a, b in zip(whole[start:], rest, strict=True))


def test_a_batch_larger_than_the_set_repeats_it():
    batch = next(iter(StepBatches(numbers(3), 7, seed=0, steps=1)))
    assert torch.bincount(batch.x0, minlength=3).tolist() in ([2, 2, 3], [2, 3, 2], [3, 2, 2])


def test_seeds_order_the_samples_differently():
    first, second = (StepBatches(numbers(50), 50, seed=s, steps=1).indices(0) for s in (0, 1))
    assert not torch.equal(first, second)


def test_ranks_share_the_global_batch():
    whole = StepBatches(numbers(10), 4, seed=1, steps=5)
    parts = [StepBatches(numbers(10), 4, seed=1, steps=5, rank=r, world_size=2) for r in range(2)]
    for step in range(5):
        assert torch.equal(whole.indices(step), torch.cat([part.indices(step) for part in parts]))


def test_a_batch_that_ranks_cannot_share_is_refused():
    with pytest.raises(ValueError, match="not a multiple"):
        StepBatches(numbers(10), 4, seed=1, steps=5, rank=0, world_size=3).indices(0)


def test_roles_stay_paired_and_images_become_floats():
    images = torch.arange(8, dtype=torch.uint8).view(8, 1, 1, 1)
    tensors = {"x0": images, "cond": torch.arange(8), "x1": torch.arange(8.0).view(8, 1, 1, 1)}
    batch = StepBatches(tensors, 5, seed=3, steps=1).batch(0)
    assert torch.equal(batch.x0, to_float(images)[batch.cond])
    assert torch.equal(batch.x1.flatten(), batch.cond.float())


def test_tokens_stay_integers_and_absent_roles_are_none():
    batch = StepBatches({"x0": torch.ones(4, 6, dtype=torch.int64)}, 2, seed=0, steps=1).batch(0)
    assert batch.x0.dtype == torch.int64
    assert batch.cond is None
    assert batch.x1 is None


def test_it_feeds_a_data_loader():
    loader = DataLoader(StepBatches(numbers(10), 4, seed=1, steps=3), batch_size=None)
    assert [tuple(batch.x0.shape) for batch in loader] == [(4,)] * 3


@pytest.mark.parametrize(
    ("tensors", "match"),
    [
        ({"images": torch.zeros(3)}, "roles"),
        ({"x0": torch.zeros(3), "cond": torch.zeros(4)}, "lengths"),
        ({"x0": torch.zeros(0)}, "lengths"),
    ],
)
def test_wrong_tensors_are_refused(tensors, match):
    with pytest.raises(ValueError, match=match):
        StepBatches(tensors, 2, seed=0, steps=1)


def test_a_start_after_the_end_is_refused():
    with pytest.raises(ValueError, match="start_step"):
        StepBatches(numbers(), 2, seed=0, steps=3, start_step=4)
