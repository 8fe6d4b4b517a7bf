"""Bytes of living tensors, counted by hand."""

import torch

from isocline.metrics.tensor_memory import TensorMemory


def test_a_tensor_counts_until_its_last_view_is_gone():
    with TensorMemory() as memory:
        made = torch.zeros(10)
        part = made.view(2, 5)[0]
        assert memory.alive == 40
        del made
        assert memory.alive == 40
        del part
        assert memory.alive == 0
    assert memory.most == 40


def test_what_was_there_before_does_not_count():
    old = torch.zeros(100)
    with TensorMemory() as memory:
        old.add_(1)
        assert memory.alive == 0
        new = old + 1
        assert memory.alive == 400
    assert len(new) == 100


def test_what_the_backward_pass_needs_is_alive_between_the_passes():
    x = torch.zeros(1000, requires_grad=True)
    with TensorMemory() as memory:
        y = x.exp()  # the result is kept
        z = y.sin()  # its argument is kept: the same tensor
        total = z.sum()
        del y, z
        assert memory.alive == 4000 + 4
        total.backward()
        assert memory.alive == 4000 + 4  # the gradient, and the total
        assert memory.most >= 12000


def test_an_operation_in_place_makes_nothing():
    with TensorMemory() as memory:
        made = torch.zeros(10)
        made.mul_(2).add_(1)
        made[:5].copy_(made[5:])
        assert memory.alive == memory.most == 40
