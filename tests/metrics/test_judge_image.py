import pytest
import torch
from safetensors.torch import save

from isocline.datasets.images import Digits
from isocline.datasets.quantisation import to_float
from isocline.datasets.splits import split_images
from isocline.metrics.judge_image import ImageJudge, jitter, train_image_judge


@pytest.fixture(scope="module")
def digits():
    splits = split_images(Digits().load(), {"judge": 600, "test": 600}, torch.Generator().manual_seed(0))
    return splits["judge"], splits["test"]


def fresh(**changes):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ImageJudge(**{"channels": 1, "size": 8, "classes": 10, "width": 16, "num_features": 32, **changes})


def train(judge, part, steps=5, **changes):
    settings = {"batch_size": 32, "lr": 3e-3, "shift": 0.5, **changes}
    return train_image_judge(judge, part.images, part.labels, 7, steps=steps, **settings)


def test_it_learns_digits(digits):
    judge = fresh()
    train(judge, digits[0], steps=90)
    accuracy = (judge.logits(digits[1].images).argmax(1) == digits[1].labels).float().mean()
    assert accuracy > 0.9


def test_training_again_gives_the_same_bytes(digits):
    written = []
    for _ in range(2):
        judge = fresh()
        train(judge, digits[0])
        written.append(save(judge.state_dict()))
        torch.rand(3)  # the global stream must not matter
    assert written[0] == written[1]


def test_training_leaves_the_global_stream_alone(digits):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    train(fresh(), digits[0], steps=1)
    assert torch.equal(torch.rand(1), expected)


def test_features_do_not_depend_on_the_batch_or_the_mode(digits):
    judge = fresh()
    train(judge, digits[0])
    images = digits[1].images
    whole = judge.features(images)
    assert whole.shape == (600, judge.num_features)
    assert torch.allclose(judge.features(images[300:310]), whole[300:310], atol=1e-5)
    judge.train()
    assert torch.equal(judge.features(images), whole)
    assert judge.training


def test_logits_are_a_linear_map_of_the_features(digits):
    judge = fresh()
    images = digits[1].images[:300]
    with torch.no_grad():
        judge.eval()
        whole = judge(to_float(images))
    assert torch.allclose(judge.classify(judge.features(images)), whole, atol=1e-6)
    assert torch.equal(judge.classify(judge.features(images)), judge.logits(images))


def test_floats_are_refused_as_images():
    with pytest.raises(TypeError, match="uint8"):
        fresh().features(torch.zeros(1, 1, 8, 8))


def test_no_jitter_changes_nothing(digits):
    x = to_float(digits[0].images[:5])
    assert torch.allclose(jitter(x, torch.Generator(), 0.0, 0.0, 0.0), x, atol=1e-5)


def test_jitter_moves_images_by_at_most_the_shift():
    x = torch.full((64, 1, 15, 15), -1.0)
    x[:, :, 7, 7] = 1.0
    moved = jitter(x, torch.Generator().manual_seed(0), 2.0, 0.0, 0.0) + 1.0
    axis = torch.arange(15.0)
    mass = moved.sum((1, 2, 3))
    rows = (moved.sum((1, 3)) * axis).sum(1) / mass - 7
    assert rows.abs().max() <= 2.01
    assert rows.std() > 0.8


def test_too_small_images_are_refused():
    with pytest.raises(ValueError, match="size = 7"):
        fresh(size=7)


def test_no_steps_are_refused(digits):
    with pytest.raises(ValueError, match="steps = 0"):
        train(fresh(), digits[0], steps=0)


def test_a_diverging_run_stops_with_the_cure(digits):
    with pytest.raises(FloatingPointError, match="lower"):
        train(fresh(), digits[0], steps=30, lr=float("inf"))
