"""Rewrites compiled graphs so that a batch of short rows is computed column by column, each a vector over the batch.

The components of a small state lie next to each other in memory, and what takes rows apart and puts them together
again (``unbind``, ``stack``) makes the compiler write buffers between every two stages. Once each component is a tensor
of its own, all that is elementwise becomes one loop over the batch, vectorised, with everything in registers.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch._inductor.custom_graph_pass import CustomGraphPass

__all__ = ["SplitColumns"]

_aten = torch.ops.aten
_WIDEST = 4
"""Wider rows fill a vector register by themselves, and the code grows with the width."""
_PAIRWISE: dict[Any, Any] = {
    _aten.sum.dim_IntList: _aten.add.Tensor,
    _aten.amax.default: _aten.maximum.default,
    _aten.amin.default: _aten.minimum.default,
}
_RESHAPES = (_aten.reshape.default, _aten.view.default, _aten.unsqueeze.default, _aten.clone.default)


class SplitColumns(CustomGraphPass):
    """A pass over the graph of a trial step: tensors of shape (B, D) or (D, B), D at most 4, become D tensors (B,).

    B is the symbolic size. What has no rule below gets its tensors whole.
    """

    def __call__(self, graph: fx.Graph) -> None:
        """Rewrite the graph."""
        rewriter = _Rewriter(graph)
        for node in list(graph.nodes):
            if node.op in ("call_function", "output"):
                rewriter.rewrite(node)
        graph.eliminate_dead_code()

    def uuid(self) -> str:
        """Tells code made by another version of this pass from code made by this one."""
        return "isocline.solvers.columns 1"


class _Rewriter:
    """Holds the columns of what was split so far."""

    def __init__(self, graph: fx.Graph) -> None:
        self._graph = graph
        self._columns: dict[fx.Node, list[fx.Node]] = {}
        self._taken: dict[fx.Node, list[fx.Node]] = {}
        self._whole: dict[fx.Node, fx.Node] = {}
        rules: dict[Any, Callable[[fx.Node], Any]] = {
            operator.getitem: self._getitem,
            _aten.unbind.int: self._unbind,
            _aten.select.int: self._select,
            _aten.slice.Tensor: self._slice,
            _aten.cat.default: self._cat,
            _aten.expand.default: self._expand,
            _aten.permute.default: self._permute,
        }
        rules.update(dict.fromkeys(_RESHAPES, self._reshape))
        rules.update(dict.fromkeys(_PAIRWISE, self._reduce))
        self._rules = rules

    def rewrite(self, node: Any) -> None:
        """Split a node, replace it, or hand it whole tensors."""
        with self._graph.inserting_before(node):
            target: Any = node.target
            rule = self._rules.get(target, self._pointwise if _is_pointwise(target) else None)
            new = None if rule is None or node.op == "output" else rule(node)
            if isinstance(new, fx.Node):
                node.replace_all_uses_with(new)
            elif new is not None:
                self._columns[node] = new
            else:
                node.args = fx.node.map_arg(node.args, self._joined)
                node.kwargs = fx.node.map_arg(node.kwargs, self._joined)

    def _call(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        node = self._graph.call_function(target, args, kwargs)
        values, named = fx.node.map_arg((args, kwargs), lambda each: each.meta["val"])
        node.meta["val"] = target(*values, **named)
        return node

    def _joined(self, node: Any) -> fx.Node:
        if node not in self._columns or node.target is _aten.unbind.int:
            return node
        if node not in self._whole:
            axis = _axis(node)
            rows = [self._call(_aten.unsqueeze.default, each, axis) for each in self._columns[node]]
            self._whole[node] = self._call(_aten.cat.default, rows, axis)
        return self._whole[node]

    def _split(self, node: Any, axis: int) -> list[fx.Node]:
        """The columns of a tensor of rank two, taken out of it if it was not split."""
        known = self._columns.get(node) or self._taken.get(node)
        if known is None:
            known = [self._call(_aten.select.int, node, axis, index) for index in range(_shape(node)[axis])]
            self._taken[node] = known
        return known

    def _pointwise(self, node: Any) -> list[fx.Node] | None:
        axis = _axis(node)
        if axis is None or any(len(_shape(each)) > 2 for each in node.all_input_nodes):
            return None

        def column(index: int) -> fx.Node:
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda each: self._operand(each, axis, index))
            return self._call(node.target, *args, **kwargs)

        return [column(index) for index in range(_shape(node)[axis])]

    def _operand(self, node: Any, axis: int, index: int) -> fx.Node:
        """What broadcasts against one column; a vector stays one, lest the data type of the result changes."""
        shape, place = _shape(node), axis - 2
        if len(shape) < -place:
            return node
        if len(shape) == 1:
            return node if _is_one(shape[0]) else self._call(_aten.slice.Tensor, node, 0, index, index + 1)
        return self._split(node, axis)[0 if _is_one(shape[axis]) else index]

    def _getitem(self, node: Any) -> fx.Node | None:
        source, index = node.args
        return self._columns[source][index] if source in self._columns else None

    def _unbind(self, node: Any) -> list[fx.Node] | None:
        axis = _axis_worked_on(node)
        return None if axis is None else self._split(node.args[0], axis)

    def _select(self, node: Any) -> fx.Node | None:
        axis, index = _axis_worked_on(node), node.args[2]
        return None if axis is None or not isinstance(index, int) else self._split(node.args[0], axis)[index]

    def _slice(self, node: Any) -> list[fx.Node] | None:
        axis, bounds = _axis_worked_on(node), node.args[2:]
        if axis is None or _axis(node) is None or not all(isinstance(bound, int) for bound in bounds):
            return None
        return self._split(node.args[0], axis)[slice(*bounds)]

    def _cat(self, node: Any) -> list[fx.Node] | None:
        axis, place = _axis(node), node.args[1] if len(node.args) > 1 else 0
        if axis is None or place not in (axis, axis - 2):
            return None
        if any(len(_shape(each)) != 2 or each.meta["val"].dtype != node.meta["val"].dtype for each in node.args[0]):
            return None
        return [column for each in node.args[0] for column in self._split(each, axis)]

    def _expand(self, node: Any) -> list[fx.Node] | None:
        axis, source = _axis(node), node.args[0]
        if axis is None or _axis(source) != axis:
            return None
        columns = self._split(source, axis)
        return columns * (_shape(node)[axis] // len(columns))

    def _permute(self, node: Any) -> list[fx.Node] | None:
        axis = _axis(node.args[0])
        return None if axis is None else self._split(node.args[0], axis)

    def _reshape(self, node: Any) -> list[fx.Node] | None:
        axis, source = _axis(node), node.args[0]
        if axis is None:
            return None
        if len(_shape(source)) == 1 and _shape(node)[axis] == 1:
            return [source]
        return self._split(source, axis) if _axis(source) == axis else None

    def _reduce(self, node: Any) -> fx.Node | list[fx.Node] | None:
        source, axes, *keeps = node.args
        axis = _axis(source)
        if axis is None or list(axes) not in ([axis], [axis - 2]) or node.kwargs:
            return None
        if not source.meta["val"].dtype.is_floating_point:
            return None
        total, *others = self._split(source, axis)
        for column in others:
            total = self._call(_PAIRWISE[node.target], total, column)
        return [total] if keeps and keeps[0] else total


def _shape(node: Any) -> tuple[Any, ...]:
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def _axis(node: Any) -> int | None:
    """The short axis of a tensor of rank two whose other axis is the batch."""
    shape = _shape(node)
    if len(shape) != 2 or all(isinstance(size, int) for size in shape):
        return None
    return next((place for place, size in enumerate(shape) if isinstance(size, int) and 1 <= size <= _WIDEST), None)


def _axis_worked_on(node: Any) -> int | None:
    """The short axis of its source, if that is where an operator with a dimension works."""
    axis, given = _axis(node.args[0]), node.args[1] if len(node.args) > 1 else 0
    return axis if axis is not None and given in (axis, axis - 2) else None


def _is_one(size: Any) -> bool:
    return isinstance(size, int) and size == 1


def _is_pointwise(target: Any) -> bool:
    if target is torch.ops.prims.convert_element_type.default:
        return True
    if not isinstance(target, torch._ops.OpOverload) or target._schema.is_mutable:
        return False
    return torch.Tag.pointwise in target.tags and torch.Tag.nondeterministic_seeded not in target.tags
