"""Sampling of relaxed tokens: the law is reproduced, prompts stay, budgets hold."""

import pytest
import torch

from isocline.processes.dirichlet_path import DirichletPath
from isocline.processes.enumerated import EnumeratedLaw
from isocline.processes.enumerated_path import EnumeratedPathDenoiser
from isocline.processes.fisher_path import FisherPath
from isocline.processes.kernel import UniformKernel
from isocline.processes.onehot_path import LogitPath, OneHotGaussianPath
from isocline.processes.simplex_path import LinearSimplexPath
from isocline.processes.token_schedule import LinearSurvival
from isocline.samplers.simplex import SimplexSampler
from isocline.solvers.controller import ConstantSteps
from isocline.solvers.explicit import RK4, Euler, Heun
from isocline.solvers.loop import solve
from isocline.solvers.multistep import AdamsBashforth
from isocline.solvers.problem import ODEProblem

PATHS = [LinearSimplexPath, DirichletPath, FisherPath, OneHotGaussianPath, LogitPath]
paths = pytest.mark.parametrize("kind", PATHS, ids=lambda kind: kind.__name__)


def setup(kind, symbols=3, length=2):
    path = kind(symbols + 1)
    law = EnumeratedLaw.random(symbols, length, 1.5, torch.Generator().manual_seed(1))
    return path, law, EnumeratedPathDenoiser(law, path)


def statistic(law, tokens):
    return float(len(tokens) * ((law.frequencies(tokens) - law.probs).square() / law.probs).sum())


@paths
def test_the_flow_of_the_exact_denoiser_reproduces_the_law(kind):
    path, law, network = setup(kind)
    solution = SimplexSampler(Heun()).sample(network, path, (4000, 2), 65, torch.Generator().manual_seed(0))
    assert statistic(law, solution.final) < 26.1  # 99.9 % of chi-squared with 8 degrees of freedom
    assert solution.final.dtype == torch.int64
    assert bool((solution.stats.nfe == 65).all())


@paths
def test_few_steps_do_not_and_more_of_them_are_better(kind):
    path, law, network = setup(kind)
    found = [
        statistic(law, SimplexSampler().sample(network, path, (4000, 2), nfe, torch.Generator().manual_seed(0)).final)
        for nfe in (1, 5, 33)
    ]
    assert found[0] > 4 * found[1] > 16 * found[2]


# The other paths' exact denoisers jump where a symbol is no longer possible, and the Dirichlet path's table is not
# smooth enough for a method of order 4.
@pytest.mark.parametrize(
    ("kind", "stepper", "order"),
    [
        (OneHotGaussianPath, Euler(), 1),
        (OneHotGaussianPath, Heun(), 2),
        (OneHotGaussianPath, RK4(), 4),
        (DirichletPath, Euler(), 1),
        (DirichletPath, Heun(), 2),
    ],
    ids=["gaussian-euler", "gaussian-heun", "gaussian-rk4", "dirichlet-euler", "dirichlet-heun"],
)
def test_steppers_keep_their_order_along_the_flow(kind, stepper, order):
    path, _, network = setup(kind)
    ends = path.position(torch.tensor([0.7, 0.5], dtype=torch.float64))
    start = path.sample(
        torch.tensor([[0, 1]]).expand(20, 2), torch.full((20,), 0.7, dtype=torch.float64),
        torch.Generator().manual_seed(0), torch.float64,
    )  # fmt: skip

    def field(position, x, cond):
        return path.velocity(position, x, path.log_probs(network, path.time(position), x).exp())

    def end(stepper, n):
        return solve(ODEProblem(field, start, *ends.tolist()), stepper, ConstantSteps(n)).final

    exact = end(RK4(), 64)
    errors = [float((end(stepper, n) - exact).abs().max()) for n in (8, 16)]
    assert errors[0] / errors[1] > 0.75 * 2**order


@paths
def test_prompted_positions_keep_their_tokens_and_inform_the_others(kind):
    # The two tokens are always equal: the second one has to follow the first.
    path = kind(4)
    law = EnumeratedLaw(torch.eye(3))
    network = EnumeratedPathDenoiser(law, path)
    prompt = (torch.tensor([2, 0]), torch.tensor([True, False]))
    solution = SimplexSampler().sample(
        network, path, (300, 2), 33, torch.Generator().manual_seed(0), prompt, save_steps=True
    )
    assert bool((solution.ys[..., 0] == 2).all())
    assert bool((solution.final[:, 1] == 2).all())
    assert solution.ys.shape == (34, 300, 2)
    assert solution.ts[0] == 1
    assert solution.ts[-1] == 0


@pytest.mark.parametrize("kind", [DirichletPath, OneHotGaussianPath], ids=lambda kind: kind.__name__)
def test_with_a_prompt_the_exact_denoiser_gives_the_conditional_law(kind):
    path, law, network = setup(kind)
    prompt = (torch.tensor([1, 0]), torch.tensor([True, False]))
    solution = SimplexSampler().sample(network, path, (4000, 2), 65, torch.Generator().manual_seed(0), prompt)
    conditional = torch.where(law.sequences[:, 0] == 1, law.probs, 0.0)
    conditional = (conditional / conditional.sum())[3:6]
    found = torch.bincount(solution.final[:, 1], minlength=3) / 4000
    assert 4000 * ((found - conditional).square() / conditional).sum() < 13.8  # 99.9 %, two degrees of freedom


@paths
def test_a_fully_prompted_sequence_comes_back(kind):
    path, _, network = setup(kind)
    tokens = torch.tensor([[0, 2], [1, 1]])
    found = SimplexSampler().sample(
        network, path, (2, 2), 4, torch.Generator().manual_seed(0), (tokens, torch.ones(2, 2, dtype=torch.bool))
    )
    assert bool((found.final == tokens).all())


@pytest.mark.parametrize(
    "stepper", [Euler(), Heun(), RK4(), AdamsBashforth(2, Euler())], ids=lambda s: type(s).__name__
)
@pytest.mark.parametrize("nfe", [1, 2, 3, 9])
def test_no_budget_is_exceeded(stepper, nfe):
    path, _, network = setup(OneHotGaussianPath)
    calls = []

    class Counted(torch.nn.Module):
        def forward(self, t, x, cond=None):
            calls.append(1)
            return network(t, x, cond)

    solution = SimplexSampler(stepper).sample(Counted(), path, (3, 2), nfe, torch.Generator().manual_seed(0))
    assert len(calls) == int(solution.stats.nfe[0])
    assert len(calls) <= nfe
    assert len(calls) > 0.5 * nfe


def test_temperature_0_gives_the_most_probable_tokens_and_lower_ones_favour_them():
    path, law, network = setup(OneHotGaussianPath)
    first = torch.zeros(3, dtype=torch.float64).index_add(0, law.sequences[:, 0], law.probs)
    cold = SimplexSampler(temperature=0.0).sample(network, path, (50, 2), 1, torch.Generator().manual_seed(0)).final
    assert bool((cold[:, 0] == first.argmax()).all())  # pure noise tells nothing
    cool = SimplexSampler(temperature=0.3).sample(network, path, (4000, 2), 33, torch.Generator().manual_seed(0)).final
    assert (cool[:, 0] == first.argmax()).double().mean() > first.max() + 0.03


def test_a_greedy_last_step_takes_the_most_probable_tokens():
    path, _, network = setup(OneHotGaussianPath)
    shape, start = (500, 2), torch.Generator().manual_seed(0)
    x = path.prior(shape, start)
    t = torch.tensor(1.0, dtype=torch.float64)
    greedy = SimplexSampler(greedy_last=True).sample(network, path, shape, 1, torch.Generator().manual_seed(0)).final
    assert bool((greedy == path.log_probs(network, t, x).argmax(-1)).all())


def test_an_earlier_prediction_is_handed_to_a_network_that_takes_it():
    path, _, network = setup(OneHotGaussianPath)

    seen = []

    class Remembering(torch.nn.Module):
        takes_previous = True

        def forward(self, t, x, cond=None, previous=None):
            seen.append(previous)
            return network(t, x, cond)

    SimplexSampler().sample(Remembering(), path, (3, 2), 3, torch.Generator().manual_seed(0))
    first, second, third = seen
    assert first is None
    torch.testing.assert_close(second.sum(-1), torch.ones(3, 2), check_dtype=False)
    assert not torch.equal(second, third)


def test_what_does_not_fit_is_refused():
    path, _, network = setup(OneHotGaussianPath)
    with pytest.raises(ValueError, match="nfe = 0"):
        SimplexSampler().sample(network, path, (1, 2), 0, torch.Generator())
    with pytest.raises(TypeError, match="UniformKernel"):
        SimplexSampler().sample(network, UniformKernel(4, LinearSurvival()), (1, 2), 4, torch.Generator())
    with pytest.raises(ValueError, match="prompt holds token 3"):
        SimplexSampler().sample(
            network, path, (1, 2), 4, torch.Generator(), (torch.tensor([3, 0]), torch.tensor([True, False]))
        )
