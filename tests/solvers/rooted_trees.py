"""Rooted trees and order conditions of Runge–Kutta and Rosenbrock methods.

Source: Hairer, Nørsett, Wanner, Solving Ordinary Differential Equations I, section II.2; Hairer, Wanner II, IV.7.
"""

import functools
import itertools
import math

import numpy as np

Tree = tuple


@functools.lru_cache
def trees(order: int) -> tuple[Tree, ...]:
    """All rooted trees with ``order`` nodes; a tree is the sorted tuple of the subtrees at its root."""
    if order == 1:
        return ((),)
    found = set()
    for sizes in _partitions(order - 1):
        for children in itertools.product(*(trees(size) for size in sizes)):
            found.add(tuple(sorted(children)))
    return tuple(sorted(found))


def _partitions(total: int, largest: int | None = None):
    largest = total if largest is None else largest
    if total == 0:
        yield ()
    for first in range(min(total, largest), 0, -1):
        for rest in _partitions(total - first, first):
            yield (first, *rest)


def nodes(tree: Tree) -> int:
    return 1 + sum(map(nodes, tree))


def density(tree: Tree) -> int:
    """γ(τ), whose reciprocal the elementary weight has to be."""
    return nodes(tree) * math.prod(map(density, tree))


def stage_weights(tree: Tree, branching: np.ndarray, single: np.ndarray) -> np.ndarray:
    """Per stage, the product over the root's subtrees; ``single`` is the matrix below a node with one child."""
    matrix = single if len(tree) == 1 else branching
    result = np.ones(len(branching))
    for child in tree:
        result = result * (matrix @ stage_weights(child, branching, single))
    return result


def worst_residual(b: np.ndarray, branching: np.ndarray, single: np.ndarray, order: int) -> float:
    """The largest violation among the conditions of exactly this order."""
    return max(abs(b @ stage_weights(tree, branching, single) - 1 / density(tree)) for tree in trees(order))
