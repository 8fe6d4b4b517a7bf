"""torchdiffeq's interface to the solver core: the same functions, names, options and results."""

from isocline.solvers.drop_in.errors import IntegrationError, InvalidArgumentError
from isocline.solvers.drop_in.odeint import odeint
from isocline.solvers.drop_in.odeint_adjoint import odeint_adjoint
from isocline.solvers.drop_in.odeint_event import odeint_event

__all__ = ["IntegrationError", "InvalidArgumentError", "odeint", "odeint_adjoint", "odeint_event"]
