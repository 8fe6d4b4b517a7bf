"""One integration loop, many steppers: neural ODEs, probability flows, reverse SDEs and Markov chains on tokens."""

from isocline.solvers.auto import Auto
from isocline.solvers.brownian import AbstractBrownian, BrownianIncrements, VirtualBrownianTree
from isocline.solvers.brownian_grid import BrownianGrid
from isocline.solvers.compiled import CompiledStep
from isocline.solvers.controller import ConstantSteps, FixedGrid, PIDController
from isocline.solvers.drop_in import odeint, odeint_adjoint, odeint_event
from isocline.solvers.esdirk import TRBDF2, KenCarp4, Kvaerno3, Kvaerno5
from isocline.solvers.euler_maruyama import EulerMaruyama
from isocline.solvers.event import Event
from isocline.solvers.explicit import (
    RK4,
    RK38,
    Bosh3,
    Dopri5,
    Dopri8,
    Euler,
    Fehlberg2,
    Heun,
    Heun3,
    Midpoint,
    Ralston,
    Tsit5,
)
from isocline.solvers.exponential import ETD1, ETD2RK, ETDRK4
from isocline.solvers.first_hitting import FirstHitting
from isocline.solvers.gillespie import Gillespie, ThinnedGillespie
from isocline.solvers.gradient import (
    Backpropagation,
    BacksolveAdjoint,
    CheckpointedAdjoint,
    DiscreteAdjoint,
    InterpolatedAdjoint,
)
from isocline.solvers.implicit_runge_kutta import (
    SDIRK2,
    GaussLegendre2,
    GaussLegendre4,
    GaussLegendre6,
    ImplicitEuler,
    ImplicitMidpoint,
    RadauIIA3,
    RadauIIA5,
    Trapezoid,
)
from isocline.solvers.loop import solve, solve_strict
from isocline.solvers.markov import AbstractMarkovStepper, MarkovEuler, TauLeaping
from isocline.solvers.markov_clock import PiecewiseConstantClock, SurvivalClock, UniformClock
from isocline.solvers.markov_exponential import MarkovExponential
from isocline.solvers.milstein import DerivativeFreeMilstein, Milstein
from isocline.solvers.multistep import AdamsBashforth, AdamsBashforthMoulton
from isocline.solvers.problem import Calculus, MarkovProblem, ODEProblem, SDEProblem, VectorField
from isocline.solvers.rosenbrock import Rodas3P, Rodas4, Rodas5P
from isocline.solvers.sde import to_ito, to_stratonovich
from isocline.solvers.semilinear import DenseLinear, DiagonalLinear, SemilinearProblem
from isocline.solvers.separable import HamiltonianProblem, SecondOrderProblem
from isocline.solvers.solution import SaveAt, Solution, SolverError, Statistics, Status
from isocline.solvers.srk import SRIW1, ShARK
from isocline.solvers.stepper import AbstractStepper, StepResult
from isocline.solvers.stratonovich import EulerHeun, StratonovichHeun
from isocline.solvers.symplectic import Leapfrog, SymplecticEuler, Yoshida4

__all__ = [
    "CompiledStep",
    "MarkovExponential",
    "UniformClock",
    "SurvivalClock",
    "PiecewiseConstantClock",
    "ThinnedGillespie",
    "Gillespie",
    "FirstHitting",
    "AbstractBrownian",
    "AbstractMarkovStepper",
    "AbstractStepper",
    "AdamsBashforth",
    "AdamsBashforthMoulton",
    "Auto",
    "Backpropagation",
    "BacksolveAdjoint",
    "Bosh3",
    "BrownianGrid",
    "BrownianIncrements",
    "Calculus",
    "CheckpointedAdjoint",
    "ConstantSteps",
    "DenseLinear",
    "DerivativeFreeMilstein",
    "DiagonalLinear",
    "DiscreteAdjoint",
    "Dopri5",
    "Dopri8",
    "ETD1",
    "ETD2RK",
    "ETDRK4",
    "Euler",
    "EulerHeun",
    "EulerMaruyama",
    "Event",
    "Fehlberg2",
    "FixedGrid",
    "GaussLegendre2",
    "GaussLegendre4",
    "GaussLegendre6",
    "HamiltonianProblem",
    "Heun",
    "Heun3",
    "ImplicitEuler",
    "ImplicitMidpoint",
    "InterpolatedAdjoint",
    "KenCarp4",
    "Kvaerno3",
    "Kvaerno5",
    "Leapfrog",
    "MarkovEuler",
    "MarkovProblem",
    "Midpoint",
    "Milstein",
    "ODEProblem",
    "PIDController",
    "RK38",
    "RK4",
    "RadauIIA3",
    "RadauIIA5",
    "Ralston",
    "Rodas3P",
    "Rodas4",
    "Rodas5P",
    "SDEProblem",
    "SDIRK2",
    "SRIW1",
    "SaveAt",
    "SecondOrderProblem",
    "SemilinearProblem",
    "ShARK",
    "Solution",
    "SolverError",
    "Statistics",
    "Status",
    "StepResult",
    "StratonovichHeun",
    "SymplecticEuler",
    "TRBDF2",
    "TauLeaping",
    "Trapezoid",
    "Tsit5",
    "VectorField",
    "VirtualBrownianTree",
    "Yoshida4",
    "odeint",
    "odeint_adjoint",
    "odeint_event",
    "solve",
    "solve_strict",
    "to_ito",
    "to_stratonovich",
]
