"""An objective with regularisers: their terms beside its own, each logged by its name."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping

import torch
from torch import nn

from isocline.datasets.batch import Batch
from isocline.objectives.base import Loss, Objective
from isocline.randomness import derive_seed
from isocline.training.regularisation.base import AbstractRegulariser

__all__ = ["Regularised", "RegulariserError", "apart"]

_TAKEN = ("loss", "step", "lr", "objective")


class RegulariserError(ValueError):
    """A regulariser that cannot be used.

    Attributes:
        name: under which it stands in ``regularisers``.
        reason: what is wrong, with the cure.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"regularisers.{name}: {reason}")
        self.name = name
        self.reason = reason


def apart(generator: torch.Generator, name: str) -> torch.Generator:
    """Return a stream that is determined by where another one stands, and does not move it.

    So the noise and the times of a regularised run are those of the plain one, and a resumed run draws the same.
    """
    state = hashlib.blake2b(generator.get_state().numpy().tobytes(), digest_size=8).digest()
    seed = derive_seed(int.from_bytes(state, "big") >> 1, "regulariser", name)
    return torch.Generator(device=generator.device).manual_seed(seed)


class Regularised(Objective):
    """L + Σ_k λ_k R_k, evaluated in one pass with the objective.

    It is for training alone: the objective that a model keeps, for its likelihoods, is the one within.

    Args:
        objective: L.
        regularisers: R_k by the names under which their values, without λ_k, are logged; L is logged as ``objective``.
            They change the network in this order.

    Raises:
        RegulariserError: if a name is taken.
    """

    def __init__(self, objective: Objective, regularisers: Mapping[str, AbstractRegulariser]) -> None:
        super().__init__()
        for name in _TAKEN:
            if name in regularisers:
                raise RegulariserError(name, f"the training curve has a column {name}; choose another name")
        self.objective = objective
        self.names = tuple(regularisers)  # a ModuleDict takes no name that it has a method of, such as parameters
        self.regularisers = nn.ModuleList(regularisers.values())

    def items(self) -> Iterator[tuple[str, AbstractRegulariser]]:
        """Yield the regularisers by name."""
        for name, regulariser in zip(self.names, self.regularisers, strict=True):
            assert isinstance(regulariser, AbstractRegulariser)
            yield name, regulariser

    @property
    def hooked(self) -> list[str]:
        """Names of the regularisers with which the network is not compiled."""
        return [name for name, regulariser in self.items() if regulariser.hooked]

    def fit_network(self, network: nn.Module) -> None:
        """Change the network by all regularisers, then let each refuse what has become of it.

        Raises:
            RegulariserError: if one does.
        """
        for name, regulariser in self.items():
            with _named(name):
                regulariser.prepare(network)
        for name, regulariser in self.items():
            with _named(name):
                regulariser.check(network, self.objective)

    def prepare(self, network: nn.Module) -> None:
        """Fit the network, then prepare the objective, which may copy it."""
        self.fit_network(network)
        self.objective.prepare(network)

    def forward(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> Loss:
        """Evaluate the objective under the eyes of the regularisers, and their values.

        Raises:
            RegulariserError: if nothing could be watched, or the objective has a term of a regulariser's name.
        """
        with contextlib.ExitStack() as stack:
            for name, regulariser in self.items():
                stack.enter_context(regulariser.watch(network, apart(generator, name)))
            loss: Loss = self.objective(network, batch, generator)
        total, terms = loss.total, {**loss.terms, "objective": loss.total.detach()}
        for name, regulariser in self.items():
            if name in loss.terms:
                raise RegulariserError(name, "the objective has a term of that name; choose another one")
            with _named(name):
                value = regulariser.value(network)
            if value is not None:
                terms[name] = value.detach()
                total = total + regulariser.weight * value if regulariser.weight else total
        return Loss(total, terms)

    def after_step(self, network: nn.Module, step: int) -> None:
        """Hand on; the objective sees the network as the regularisers leave it."""
        for _, regulariser in self.items():
            regulariser.after_step(network)
        self.objective.after_step(network, step)

    def release(self, network: nn.Module) -> None:
        """Give a trained network the parameters with which it is built, in the reverse order."""
        for _, regulariser in reversed(list(self.items())):
            regulariser.release(network)


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    try:
        yield
    except RegulariserError:
        raise
    except ValueError as error:
        raise RegulariserError(name, str(error)) from error
