"""Graphs whose short rows were split compute the same numbers, in tensors of rank one."""

import pytest
import torch
from torch._dynamo.backends.common import aot_autograd

from isocline.solvers.columns import SplitColumns

F64 = torch.float64


def van_der_pol(y, mu):
    x, v = y.unbind(1)
    return torch.stack([v, mu * (1 - x * x) * v - x], 1)


def kepler(y, mu):
    place, speed = y[:, :2], y[:, 2:]
    square = (place * place).sum(1, keepdim=True)
    return torch.cat([speed, -place / (square * square.sqrt())], 1)


def transposed(y, mu):
    x, v = y.T
    return (torch.stack([v, -mu * x]) + torch.tensor([[1.0], [2.0]], dtype=F64)).T


def indexed(y, mu):
    return torch.stack([y[..., -1], -y[..., 0]], -1) * torch.tensor([2.0, 3.0], dtype=F64)


def merged(y, mu):
    keep = (mu > 0.5)[:, None]
    return torch.where(keep, y, y.flip(1)) + mu[:, None].expand(-1, y.shape[1]) + torch.ones(1, 1, dtype=F64)


def judged(y, mu):
    largest, smallest = y.abs().amax(1, keepdim=True), y.amin(-1, keepdim=True)
    return (
        y / (largest + 1) + smallest.to(y.dtype) + y.sum(1).reshape(-1, 1) * torch.linalg.vector_norm(y, dim=1)[:, None]
    )


def mixed_types(y, mu):
    return (y.float() * torch.tensor([0.1, 0.3], dtype=F64)).to(F64) + torch.cat([y.float()[:, :1], y[:, 1:]], 1)


def across(y, mu):
    return torch.tanh(torch.tanh(y @ torch.ones(2, 3, dtype=F64)) @ torch.eye(3, 2, dtype=F64)) - y


def split(field, width):
    """The field compiled for any batch, with the pass, to plain operations; and its graph."""
    graphs = []

    def compiler(module, examples):
        SplitColumns()(module.graph)
        module.graph.lint()
        module.recompile()
        graphs.append(module.graph)
        return module.forward

    torch._dynamo.reset()
    compiled = torch.compile(field, backend=aot_autograd(fw_compiler=compiler), fullgraph=True)
    example = torch.rand(7, width, dtype=F64), torch.rand(7, dtype=F64)
    for value in example:
        torch._dynamo.mark_dynamic(value, 0)
    compiled(*example)
    return compiled, graphs


def ranks(graph):
    """Of what elementwise operations make."""
    values = [node.meta["val"] for node in graph.nodes if torch.Tag.pointwise in getattr(node.target, "tags", ())]
    return {value.ndim for value in values}


FIELDS = {van_der_pol: 2, kepler: 4, transposed: 2, indexed: 2, merged: 3, judged: 3, mixed_types: 2, across: 2}


@pytest.mark.parametrize(("field", "width"), FIELDS.items(), ids=lambda each: getattr(each, "__name__", ""))
def test_split_graphs_compute_the_same_numbers_for_any_batch(field, width):
    compiled, graphs = split(field, width)
    for batch in (7, 12):
        y, mu = torch.randn(batch, width, dtype=F64), torch.rand(batch, dtype=F64)
        torch.testing.assert_close(compiled(y, mu), field(y, mu), rtol=1e-14, atol=1e-14)
    assert len(graphs) == 1


@pytest.mark.parametrize("field", [van_der_pol, kepler, transposed, indexed, judged], ids=lambda each: each.__name__)
def test_what_is_elementwise_works_on_columns(field):
    assert ranks(split(field, FIELDS[field])[1][0]) == {1}


def test_wide_rows_stay_whole():
    assert ranks(split(lambda y, mu: torch.sin(y) * mu[:, None], 5)[1][0]) == {2}
