"""Coefficients of Rosenbrock methods in the form that needs no product with the Jacobian."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["RODAS3P", "RODAS4", "RODAS5P", "RosenbrockTableau"]

Rows = tuple[tuple[float, ...], ...]


@dataclass(frozen=True, eq=False)
class RosenbrockTableau:
    """Coefficients of ``(I/(hγ) - J) u_i = f(t + α_i h, Y_i) + Σ_j c_ij u_j / h + γ_i h f_t``.

    There ``Y_i = y + Σ_j a_ij u_j``. The step ends at ``y1 = y + Σ_i b_i u_i``; J and f_t are derivatives at the start
    of the step. The continuous extension is ``(1-θ) y + θ (y1 + (1-θ) (d_1 + θ (d_2 + θ d_3)))`` with
    ``d_k = Σ_i dense_ki u_i``.

    Attributes:
        order: order of ``y1``.
        error_order: order of the embedded method plus one.
        gamma: γ.
        a: strictly lower triangle by rows, the first row empty.
        c: likewise.
        nodes: α_i.
        rates: γ_i.
        b: weights.
        error: ``b - b̂`` for the embedded weights ``b̂``.
        dense: rows of the continuous extension, each of as many values as there are stages.

    Source: Hairer, Wanner, Solving Ordinary Differential Equations II, section IV.7, Eqs. 7.23 to 7.25.
    """

    order: int
    error_order: int
    gamma: float
    a: Rows
    c: Rows
    nodes: tuple[float, ...]
    rates: tuple[float, ...]
    b: tuple[float, ...]
    error: tuple[float, ...]
    dense: Rows

    def __post_init__(self) -> None:
        stages = len(self.b)
        assert [len(row) for row in self.a] == [len(row) for row in self.c] == list(range(stages))
        assert len(self.nodes) == len(self.rates) == len(self.error) == stages
        assert all(len(row) == stages for row in self.dense)

    def repeats_first_slope(self, stage: int) -> bool:
        """Whether a stage evaluates the field where the first one did."""
        return self.nodes[stage] == 0 and not any(self.a[stage])


# Steinebach (2024), Rosenbrock methods within OrdinaryDiffEq.jl, Rodas3P: 3(2), L-stable, stiffly accurate, of order 3
# for parabolic problems too. Its third stage needs no evaluation.
_RODAS3P_LAST = (2.90625, 3.375, 0.40625)
RODAS3P = RosenbrockTableau(
    order=3,
    error_order=3,
    gamma=1 / 3,
    a=((), (4 / 3,), (0.0, 0.0), _RODAS3P_LAST, (*_RODAS3P_LAST, 0.0)),
    c=((), (-4.0,), (8.25, 6.75), (1.21875, -5.0625, -1.96875), (4.03125, -15.1875, -4.03125, 6.0)),
    nodes=(0.0, 4 / 9, 0.0, 1.0, 1.0),
    rates=(1 / 3, -1 / 9, 1.0, 0.0, 0.0),
    b=(*_RODAS3P_LAST, 0.0, 1.0),
    error=(0.0, 0.0, 0.0, -1.0, 1.0),
    dense=(
        (1.78125, 6.75, 0.15625, -6.0, -1.0),
        (4.21875, -15.1875, -3.09375, 9.0, 0.0),
    ),
)

# Hairer, Wanner (1996), Solving Ordinary Differential Equations II, section IV.10, RODAS: 4(3), L-stable, stiffly
# accurate; continuous extension of order 3.
_RODAS4_LAST = (1.221224509226641, 6.019134481288629, 12.53708332932087, -0.6878860361058950)
RODAS4 = RosenbrockTableau(
    order=4,
    error_order=4,
    gamma=0.25,
    a=(
        (),
        (1.544,),
        (0.9466785280815826, 0.2557011698983284),
        (3.314825187068521, 2.896124015972201, 0.9986419139977817),
        _RODAS4_LAST,
        (*_RODAS4_LAST, 1.0),
    ),
    c=(
        (),
        (-5.6688,),
        (-2.430093356833875, -0.2063599157091915),
        (-0.1073529058151375, -9.594562251023355, -20.47028614809616),
        (7.496443313967647, -10.24680431464352, -33.99990352819905, 11.70890893206160),
        (8.083246795921522, -7.981132988064893, -31.52159432874371, 16.31930543123136, -6.058818238834054),
    ),
    nodes=(0.0, 0.386, 0.21, 0.63, 1.0, 1.0),
    rates=(0.25, -0.1043, 0.1035, -0.0362, 0.0, 0.0),
    b=(*_RODAS4_LAST, 1.0, 1.0),
    error=(0.0, 0.0, 0.0, 0.0, 0.0, 1.0),
    dense=(
        (10.12623508344586, -7.487995877610167, -34.80091861555747, -7.992771707568823, 1.025137723295662, 0.0),
        (-0.6762803392801253, 6.087714651680015, 16.43084320892478, 24.76722511418386, -6.594389125716872, 0.0),
    ),
)

# Steinebach (2023), Construction of Rosenbrock–Wanner method Rodas5P and numerical benchmarks within the Julia
# Differential Equations package: 5(4), L-stable, stiffly accurate, of order 5 for Prothero–Robinson problems nearly;
# continuous extension of order 4.
_RODAS5P_LAST = (
    -7.502846399306121,
    2.561846144803919,
    -11.627539656261098,
    -0.18268767659942256,
    0.030198172008377946,
)
RODAS5P = RosenbrockTableau(
    order=5,
    error_order=5,
    gamma=0.21193756319429014,
    a=(
        (),
        (3.0,),
        (2.849394379747939, 0.45842242204463923),
        (-6.954028509809101, 2.489845061869568, -10.358996098473584),
        (2.8029986275628964, 0.5072464736228206, -0.3988312541770524, -0.04721187230404641),
        _RODAS5P_LAST,
        (*_RODAS5P_LAST, 1.0),
        (*_RODAS5P_LAST, 1.0, 1.0),
    ),
    c=(
        (),
        (-14.155112264123755,),
        (-17.97296035885952, -2.859693295451294),
        (147.12150275711716, -1.41221402718213, 71.68940251302358),
        (165.43517024871676, -0.4592823456491126, 42.90938336958603, -5.961986721573306),
        (24.854864614690072, -3.0009227002832186, 47.4931110020768, 5.5814197821558125, -0.6610691825249471),
        (
            30.91273214028599,
            -3.1208243349937974,
            77.79954646070892,
            34.28646028294783,
            -19.097331116725623,
            -28.087943162872662,
        ),
        (
            37.80277123390563,
            -3.2571969029072276,
            112.26918849496327,
            66.9347231244047,
            -40.06618937091002,
            -54.66780262877968,
            -9.48861652309627,
        ),
    ),
    nodes=(
        0.0,
        0.6358126895828704,
        0.4095798393397535,
        0.9769306725060716,
        0.4288403609558664,
        1.0,
        1.0,
        1.0,
    ),
    rates=(
        0.21193756319429014,
        -0.42387512638858027,
        -0.3384627126235924,
        1.8046452872882734,
        2.325825639765069,
        0.0,
        0.0,
        0.0,
    ),
    b=(*_RODAS5P_LAST, 1.0, 1.0, 1.0),
    error=(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0),
    dense=(
        (
            25.948786856663858,
            -2.5579724845846235,
            10.433815404888879,
            -2.3679251022685204,
            0.524948541321073,
            1.1241088310450404,
            0.4272876194431874,
            -0.17202221070155493,
        ),
        (
            -9.91568850695171,
            -0.9689944594115154,
            3.0438037242978453,
            -24.495224566215796,
            20.176138334709044,
            15.98066361424651,
            -6.789040303419874,
            -6.710236069923372,
        ),
        (
            11.419903575922262,
            2.8879645146136994,
            72.92137995996029,
            80.12511834622643,
            -52.072871366152654,
            -59.78993625266729,
            -0.15582684282751913,
            4.883087185713722,
        ),
    ),
)
