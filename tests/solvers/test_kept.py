"""Tensors that are kept: made once, and usable under gradients though inference mode made them."""

import pytest
import torch

from isocline.solvers.kept import kept, ones


@kept(maxsize=2)
def square(value: float) -> torch.Tensor:
    return torch.tensor(value) ** 2


def test_the_same_tensor_comes_back_until_others_take_its_place():
    first = square(3.0)
    assert square(3.0) is first
    assert float(first) == 9.0
    square(1.0), square(2.0)
    assert square(3.0) is not first


def test_what_inference_mode_made_serves_a_gradient_later():
    with torch.inference_mode():
        made = ones(7, torch.float64, torch.device("cpu"))
        plain = torch.ones(7, dtype=torch.float64)
    leaf = torch.full((7,), 2.0, dtype=torch.float64, requires_grad=True)
    (leaf * made).sum().backward()
    assert torch.equal(leaf.grad, made)
    with pytest.raises(RuntimeError, match=r"[Ii]nference"):
        (leaf * plain).sum().backward()
