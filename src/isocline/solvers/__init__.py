"""One integration loop, many steppers: neural ODEs, probability flows, reverse SDEs and Markov chains on tokens."""

from isocline.solvers.controller import ConstantSteps, FixedGrid, PIDController
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
from isocline.solvers.loop import solve, solve_strict
from isocline.solvers.markov import AbstractMarkovStepper, MarkovEuler, TauLeaping
from isocline.solvers.problem import MarkovProblem, ODEProblem, SDEProblem, VectorField
from isocline.solvers.solution import SaveAt, Solution, SolverError, Statistics, Status
from isocline.solvers.stepper import AbstractStepper, StepResult

__all__ = [
    "AbstractMarkovStepper",
    "AbstractStepper",
    "Bosh3",
    "ConstantSteps",
    "Dopri5",
    "Dopri8",
    "Euler",
    "EulerMaruyama",
    "Event",
    "Fehlberg2",
    "FixedGrid",
    "Heun",
    "Heun3",
    "MarkovEuler",
    "MarkovProblem",
    "Midpoint",
    "ODEProblem",
    "PIDController",
    "RK4",
    "RK38",
    "Ralston",
    "SDEProblem",
    "SaveAt",
    "Solution",
    "SolverError",
    "Statistics",
    "Status",
    "StepResult",
    "TauLeaping",
    "Tsit5",
    "VectorField",
    "solve",
    "solve_strict",
]
