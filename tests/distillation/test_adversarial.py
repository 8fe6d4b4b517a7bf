"""An adversarial term: what the discriminator learns and what the student feels of it, which is all that it changes."""

from __future__ import annotations

import io
import math
from functools import partial

import pytest
import torch
from torch import nn

from isocline.datasets.batch import Batch
from isocline.distillation.adversarial import Adversarial, NonFiniteDiscriminatorError, adversarial
from isocline.distillation.adversarial_loss import HingeLoss, NonSaturatingLoss
from isocline.distillation.feature_discriminator import FeatureDiscriminator
from isocline.distillation.image_discriminator import ImageDiscriminator
from isocline.networks.mlp import MLP
from isocline.networks.unet import UNet
from isocline.objectives.base import Distiller, Loss
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.prediction import VelocityPrediction
from isocline.processes.schedule import LinearSchedule
from isocline.randomness import generator
from isocline.training.module import GenerativeModule

LINEAR = GaussianProcess(LinearSchedule(), VelocityPrediction())
LAYERS = ["layers.0", "layers.2"]


class Imitation(Distiller):
    """A distiller of the simplest kind, which draws numbers, keeps a state and asks its teacher."""

    def __init__(self, process, teacher):
        super().__init__(teacher)
        self.process = process
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, network, batch, generator):
        t = torch.rand(len(batch.x0), generator=generator, dtype=torch.float64)
        noise = torch.randn(batch.x0.shape, generator=generator)
        x = self.process.sample(batch.x0, noise, t).x
        total = (network(t, x) - self.teacher(t, x)).square().mean() + 0.01 * self.steps
        return Loss(total, {"mse": total.detach()})

    def after_step(self, network, step):
        self.steps += 1


class Noisy(nn.Module):
    """A student with dropout."""

    def __init__(self):
        super().__init__()
        self.field = mlp(1)
        self.dropout = nn.Dropout(0.5)

    def forward(self, t, x, cond=None):
        return self.dropout(self.field(t, x))


class Shift(nn.Module):
    """A map from noise to N(mean, 1) in one step: x − u with the velocity u = −mean."""

    def __init__(self, mean):
        super().__init__()
        self.mean = nn.Parameter(torch.tensor(mean))

    def forward(self, t, x, cond=None):
        return -self.mean.expand_as(x)


def mlp(seed, dim=2):
    torch.manual_seed(seed)
    return MLP(dim, width=16, depth=2)


def made(weight=0.5, layers=LAYERS, **settings):
    eyes = partial(FeatureDiscriminator, layers=layers, hidden=16)
    return Adversarial(Imitation(LINEAR, mlp(0)), LINEAR, eyes, weight, **settings)


def module(objective, network=None, lr=0.01):
    def optimizer(parameters):
        return torch.optim.Adam(parameters, lr)

    return GenerativeModule(mlp(1) if network is None else network, objective, optimizer, nn.Identity, seed=0, steps=9)


def run(trained, optimizer, steps, first=0):
    """The training loop's order of calls, with clipping, on data N(2, 1)."""
    for step in range(first, first + steps):
        batch = Batch(torch.randn(32, 2, generator=generator(1, "data", step)) + 2.0)
        loss = trained.objective(trained.network, batch, generator(2, "draws", step))
        optimizer.zero_grad()
        loss.total.backward()
        nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 1.0)
        optimizer.step()
        trained.objective.after_step(trained.network, step + 1)
    return loss


def started(objective, network=None):
    trained = module(objective, network)
    return trained, trained.configure_optimizers()["optimizer"]


def learn(objective, network, mean=0.0, steps=60, batch=128):
    """Let D alone learn; the student stays as it is. Returns the last loss."""
    for step in range(steps):
        drawn = Batch(torch.randn(batch, 2, generator=generator(3, "data", step)) + mean)
        loss = objective(network, drawn, generator(4, "draws", step))
        objective.after_step(network, step + 1)
    return loss


def pull(objective, student, mean, draws=8):
    """Mean derivative of the student's adversarial loss by its own mean."""
    total = torch.zeros(2)
    for step in range(draws):
        student.zero_grad()
        drawn = Batch(torch.randn(512, 2, generator=generator(5, "data", step)) + mean)
        inner = objective.distiller(student, drawn, generator(6, "draws", step)).total
        loss = objective(student, drawn, generator(6, "draws", step)).total - inner
        total += torch.autograd.grad(loss, student.mean)[0] / draws
    return total


@pytest.mark.parametrize("loss", [HingeLoss(), NonSaturatingLoss()])
def test_the_discriminator_separates_two_laws_and_pulls_the_student_to_the_data(loss):
    student, objective = Shift([0.0, 0.0]), made(1.0, loss=loss)
    learnt = learn(objective, student, mean=torch.tensor([2.0, 0.0]))
    assert float(learnt.terms["lead"]) > 0.5
    gradient = pull(objective, student, torch.tensor([2.0, 0.0]))
    assert float(gradient[0]) < -0.1  # downhill is towards the data
    assert abs(float(gradient[1])) < 0.5 * abs(float(gradient[0]))


def test_where_both_laws_are_one_the_student_feels_next_to_nothing():
    apart, level = made(1.0), made(1.0)
    student, there = Shift([0.0, 0.0]), Shift([2.0, 0.0])
    mean = torch.tensor([2.0, 0.0])
    learn(apart, student, mean)
    settled = learn(level, there, mean)
    assert abs(float(settled.terms["lead"])) < 0.1
    assert float(pull(level, there, mean).norm()) < 0.1 * float(pull(apart, student, mean).norm())


def test_hinge_and_cross_entropy_have_their_closed_forms():
    real, fake = torch.tensor([[2.0], [0.5]]), torch.tensor([[-3.0], [0.0]])
    assert float(HingeLoss().discriminator(real, fake)) == 0.25 + 0.5
    assert float(HingeLoss().student(fake)) == 1.5
    p, q = real.sigmoid(), fake.sigmoid()
    torch.testing.assert_close(NonSaturatingLoss().discriminator(real, fake), -p.log().mean() - (1 - q).log().mean())
    torch.testing.assert_close(NonSaturatingLoss().student(fake), -q.log().mean())


@pytest.mark.parametrize("network", [lambda: mlp(1), Noisy], ids=["plain", "dropout"])
def test_without_weight_the_student_is_the_wrapped_distillers_to_the_bit(network):
    results = []
    for objective in (Imitation(LINEAR, mlp(0)), made(0.0)):
        trained, optimizer = started(objective, network())
        torch.manual_seed(7)
        loss = run(trained, optimizer, 6)
        results.append((loss.total, loss.terms["mse"], *trained.network.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_the_weight_rises_from_zero_and_then_stays():
    objective, student = made(0.5, warmup=4), mlp(1)
    weights = []
    for step in range(6):
        weights.append(objective.present_weight)
        batch = Batch(torch.zeros(4, 2))
        loss = objective(student, batch, generator(0, "draws"))
        inner = objective.distiller(student, batch, generator(0, "draws")).total
        torch.testing.assert_close(loss.total, inner + weights[-1] * loss.terms["adversarial"])
        objective.after_step(student, step + 1)
    assert weights == [0.0, 0.125, 0.25, 0.375, 0.5, 0.5]


def test_an_interrupted_run_goes_on_to_the_bit():
    whole, optimizer = started(made(0.5, warmup=3, r1=0.1))
    run(whole, optimizer, 8)
    first, optimizer = started(made(0.5, warmup=3, r1=0.1))
    run(first, optimizer, 4)
    file = io.BytesIO()
    torch.save({"module": first.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    kept = torch.load(file, weights_only=True)
    second, optimizer = started(made(0.5, warmup=3, r1=0.1), mlp(5))
    second.load_state_dict(kept["module"])
    optimizer.load_state_dict(kept["optimizer"])
    run(second, optimizer, 4, first=4)
    one, other = whole.state_dict(), second.state_dict()
    extra = "objective._extra_state"
    assert all(torch.equal(one[name], other[name]) for name in one if name != extra)
    assert one[extra]["step"] == other[extra]["step"] == 8
    moments = [list(state[extra]["optimizer"]["state"].values()) for state in (one, other)]
    assert all(torch.equal(a["exp_avg_sq"], b["exp_avg_sq"]) for a, b in zip(*moments, strict=True))


def test_each_optimiser_has_its_own_parameters_and_the_teacher_has_none():
    objective = made(0.5)
    before = [parameter.clone() for parameter in objective.teacher.parameters()]
    judge = [parameter.clone() for parameter in objective.discriminator.parameters()]
    trained, optimizer = started(objective)
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert held == {id(parameter) for parameter in trained.network.parameters()}
    run(trained, optimizer, 2)
    assert all(torch.equal(a, b) for a, b in zip(before, objective.teacher.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(judge, objective.discriminator.parameters(), strict=True))
    assert not any(name.startswith("distiller._frozen") for name in objective.state_dict())


def test_a_discriminator_that_diverges_is_named_before_the_student_feels_it():
    objective, student = made(0.5, warmup=1000, optimizer=partial(torch.optim.SGD, lr=math.inf)), mlp(1)
    with pytest.raises(NonFiniteDiscriminatorError, match=r"loss is nan at step 1; lower adversary.optimizer.lr"):
        learn(objective, student, steps=2)
    loss = objective.distiller(student, Batch(torch.zeros(4, 2)), generator(0, "draws"))
    assert bool(loss.total.isfinite())


def test_a_student_that_diverges_is_not_blamed_on_the_discriminator():
    objective, student = made(0.5), Shift([math.nan, 0.0])
    assert bool(objective(student, Batch(torch.zeros(4, 2)), generator(0, "draws")).total.isnan())


def test_the_judges_calls_of_the_teacher_are_counted():
    objective = made(0.5)
    objective(mlp(1), Batch(torch.zeros(8, 2)), generator(0, "draws"))
    assert objective.evaluations() == 24  # the distiller's, data and samples, eight each
    assert int(objective.state_dict()["teacher_evaluations"]) == 24


def test_the_penalty_is_the_squared_slope_of_the_logits_in_the_features():
    objective, plain = made(0.5, layers=["layers.2"], r1=3.0), made(0.5, layers=["layers.2"])
    plain.discriminator.load_state_dict(objective.discriminator.state_dict())
    batch, student = Batch(torch.randn(8, 2)), mlp(1)
    cost, without = (o(student, batch, generator(0, "draws")).terms["discriminator"] for o in (objective, plain))
    draws = generator(0, "draws")
    objective.distiller(student, batch, draws)
    tau = objective.times(8, LINEAR, draws)
    torch.randn(16, 2, generator=draws)  # the sample's noise, before and after its step
    noise = torch.randn(8, 2, generator=draws)
    x = LINEAR.mix(batch.x0, noise, LINEAR.schedule(tau))
    features = objective.discriminator.features(tau, x)[0].detach()
    slope = torch.autograd.functional.jacobian(lambda f: objective.discriminator([f], tau).sum(), features)
    torch.testing.assert_close(cost - without, 1.5 * slope.square().sum((1, 2)).mean())


def test_features_are_what_the_layers_put_out_as_tokens():
    torch.manual_seed(0)
    network = UNet(1, 8, 8, (1, 2))
    judge = FeatureDiscriminator(network, ["down.0.conv1", "condition.time.mlp.0"], hidden=8)
    t, x = torch.rand(3), torch.randn(3, 1, 8, 8)
    first, second = judge.features(t, x)
    assert (first.shape, second.shape) == ((3, 64, 8), (3, 1, 32))
    block = network.down[0]
    wanted = block.conv1(block.activation(block.norm1(network.first(x))))
    torch.testing.assert_close(first[:, 9], wanted[:, :, 1, 1])
    assert judge([first, second], t).shape == (3, 2)
    assert not any(name.startswith("_watched") for name in judge.state_dict())
    assert not network.down[0].conv1._forward_hooks


def test_eyes_of_its_own_learn_to_tell_images_and_their_slope_leads_to_the_real_ones():
    torch.manual_seed(0)
    judge = ImageDiscriminator(nn.Identity(), channels=1, size=10, width=8)
    optimizer = torch.optim.Adam(judge.parameters(), 3e-3)
    real, fake, t = torch.full((16, 1, 10, 10), 0.5), torch.full((16, 1, 10, 10), -0.5), torch.full((16,), 0.1)
    for step in range(40):
        noise = 0.1 * torch.randn(2, 16, 1, 10, 10, generator=generator(0, "noise", step))
        logits = [judge(judge.features(t, x + e), t) for x, e in zip((real, fake), noise, strict=True)]
        optimizer.zero_grad()
        HingeLoss().discriminator(*logits).backward()
        optimizer.step()
    assert float((logits[0] - logits[1]).detach().amin()) > 1.0
    between = torch.zeros(4, 1, 10, 10, requires_grad=True)
    (slope,) = torch.autograd.grad(HingeLoss().student(judge([between], t[:4])), between)
    assert float(slope.sum()) < 0  # downhill is brighter
    assert logits[0].shape == (16, 2)


def test_any_distiller_is_wrapped_with_its_parts_where_they_were():
    made = adversarial(Imitation, lambda distiller, process: (distiller, process), LINEAR, mlp(0))
    assert isinstance(made[0], Imitation)
    assert made[1] is LINEAR


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight": -1.0}, "weight=-1.0"),
        ({"layers": ["layers.1"]}, "'layers.1' is no linear or convolutional layer of MLP; did you mean 'layers"),
        ({"layers": []}, "name one at least of time"),
    ],
)
def test_what_cannot_be_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        made(**settings)


def test_a_width_that_cannot_be_normalised_in_groups_is_named():
    with pytest.raises(ValueError, match="width=12 must be a positive multiple of 8"):
        ImageDiscriminator(nn.Identity(), width=12)
