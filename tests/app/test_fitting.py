"""Samplers, processes and objectives that do not go together are told apart by their classes and annotations."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import yaml

from isocline.app.crosschecks import disagreements
from isocline.app.fitting import family, locate, misfit, objective_misfit, trial
from isocline.objectives.masked import MaskedDiffusion
from isocline.objectives.matching import DenoisingMatching
from isocline.processes.embedding import EmbeddingProcess
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.kernel import AbsorbingKernel, UniformKernel
from isocline.processes.stochastic_interpolant import StochasticInterpolant
from isocline.samplers.autoregressive import AutoregressiveSampler
from isocline.samplers.continuous import ContinuousSampler
from isocline.samplers.discrete import AncestralSampler
from isocline.samplers.embedding import EmbeddingSampler

CONF = Path(__file__).parents[2] / "conf"
FITS = {
    (AutoregressiveSampler, None),
    (AncestralSampler, AbsorbingKernel),
    (AncestralSampler, UniformKernel),
    (EmbeddingSampler, EmbeddingProcess),
    (ContinuousSampler, GaussianProcess),
}


class PlugIn:
    """A sampler from elsewhere that says by its annotation what it reverses."""

    def sample(self, network, process: UniformKernel, shape, nfe, generator): ...


class Silent:
    def sample(self, network, process, shape, nfe, generator): ...


@pytest.mark.parametrize("process", [None, AbsorbingKernel, UniformKernel, EmbeddingProcess, GaussianProcess])
@pytest.mark.parametrize(
    "sampler", [AutoregressiveSampler, AncestralSampler, EmbeddingSampler, ContinuousSampler], ids=lambda c: c.__name__
)
def test_every_sampler_suits_its_own_processes_and_no_others(sampler, process):
    reason = misfit(sampler, process)
    assert (reason is None) == ((sampler, process) in FITS)
    if reason:
        assert reason.startswith(f"{sampler.__name__} needs ")
        assert reason.endswith("and there is none" if process is None else f"and this is {process.__name__}")


def test_a_sampler_from_elsewhere_is_judged_by_its_annotation():
    assert misfit(PlugIn, UniformKernel) is None
    assert misfit(PlugIn, AbsorbingKernel) == "PlugIn needs UniformKernel, and this is AbsorbingKernel"
    assert misfit(Silent, AbsorbingKernel) is None
    assert misfit(int, AbsorbingKernel) == "int has no method sample"
    assert misfit(ContinuousSampler, StochasticInterpolant) is None  # cannot be told


def test_families_are_told_by_base_class_and_by_vocabulary():
    kinds = (None, GaussianProcess, UniformKernel, EmbeddingProcess, StochasticInterpolant)
    assert [family(kind) for kind in kinds] == ["none", "gaussian", "kernel", "relaxed", None]


def test_objectives_are_judged_likewise():
    assert objective_misfit(MaskedDiffusion, AbsorbingKernel) is None
    assert "this is EmbeddingProcess" in objective_misfit(MaskedDiffusion, EmbeddingProcess)
    assert "this is UniformKernel" in objective_misfit(DenoisingMatching, UniformKernel)
    assert "there is none" in objective_misfit(MaskedDiffusion, None)


def model(process, objective, sampler, network):
    names = {"process": process, "objective": objective, "sampler": sampler, "network": network}
    sections = {part: {"_target_": f"isocline.{name}"} if name else None for part, name in names.items()}
    return {"models": {"m": {"modality": "text", **sections}}}


@pytest.mark.parametrize(
    ("config", "key", "parts"),
    [
        (
            model("processes.embedding.EmbeddingProcess", "objectives.embedding_diffusion.EmbeddingDiffusion",
                  "samplers.discrete.AncestralSampler", "networks.embedding_transformer.EmbeddingTransformer"),
            "models.m.sampler", ["AncestralSampler", "EmbeddingProcess"],
        ),
        (
            model("processes.kernel.UniformKernel", "objectives.udlm.UniformDiffusion",
                  "samplers.embedding.EmbeddingSampler", "networks.transformer.TokenTransformer"),
            "models.m.sampler", ["EmbeddingSampler needs EmbeddingProcess", "sampler@models.m.sampler=ancestral"],
        ),
        (
            model("processes.kernel.AbsorbingKernel", "objectives.block_diffusion.BlockDiffusion",
                  "samplers.block.BlockSampler", "networks.transformer.TokenTransformer"),
            "models.m.network.block_length", ["BlockDiffusion works by blocks", "network@models.m.network=block"],
        ),
        (
            model("processes.gaussian.GaussianProcess", "objectives.masked.MaskedDiffusion",
                  "samplers.continuous.ContinuousSampler", "networks.transformer.TokenTransformer"),
            "models.m.modality", ["'text'", "a Gaussian process of images", "process@models.m.process=absorbing"],
        ),
    ],
    ids=["sampler of kernels", "sampler of embeddings", "no blocks", "process of images"],
)  # fmt: skip
def test_a_composition_that_does_not_fit_names_key_and_cure(config, key, parts):
    found = {problem.key: problem.message for problem in disagreements(config)}
    assert key in found, found
    assert all(part in found[key] for part in parts), found[key]


NOISE = {"_target_": "isocline.processes.prediction.NoisePrediction"}


def section(group, name, **changes):
    return {**yaml.safe_load((CONF / group / f"{name}.yaml").read_text()), **changes}


@pytest.mark.parametrize("sampler", ["euler", "heun", "ddim", "dpmpp_2m", "edm_heun"])
def test_a_prediction_that_cannot_be_inverted_at_an_end_is_refused_before_training(sampler):
    # α(1) = 0: noise alone does not tell where the data are.
    reason = trial(section("sampler", sampler), section("process", "linear", prediction=NOISE), [2, 4], False)
    assert "values that are not finite with NoisePrediction from t=0.0 to 1.0" in reason
    assert "set t_min or t_max" in reason
    inside = section("process", "linear", prediction=NOISE, t_max=0.999)
    assert trial(section("sampler", sampler), inside, [2, 4], False) is None


def test_a_slope_that_is_infinite_at_an_end_is_refused_though_the_least_budget_does_not_meet_it():
    interpolant = section("process", "interpolant")
    assert "not finite with VPrediction" in trial(section("sampler", "heun"), interpolant, [1, 4], False)
    assert trial(section("sampler", "edm_heun"), interpolant, [1, 4], False) is None


def _has_parts_of_its_own(path):
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    return content.get("modality") == "text" and not isinstance(content.get("sampler"), str)


# A model that borrows another's parts (`sampler: ${models.ar.sampler}`) fits as that one does.
TEXT = sorted(path.stem for path in (CONF / "model").glob("*.yaml") if _has_parts_of_its_own(path))


def parts(name):
    groups = [
        entry
        for entry in yaml.safe_load((CONF / "model" / f"{name}.yaml").read_text())["defaults"]
        if entry != "_self_"
    ]
    chosen = {key.split("@")[-1]: value for entry in groups for key, value in entry.items()}

    def kind(group):
        if chosen.get(group) is None:
            return None
        return locate(yaml.safe_load((CONF / group / f"{chosen[group]}.yaml").read_text())["_target_"])

    return kind("process"), kind("objective"), kind("sampler")


@pytest.mark.parametrize("name", TEXT)
def test_the_parts_of_every_text_model_suit_each_other_and_not_those_of_images(name):
    process, objective, sampler = parts(name)
    assert misfit(sampler, process) is None
    assert objective_misfit(objective, process) is None
    assert misfit(ContinuousSampler, process) is not None
    assert misfit(sampler, GaussianProcess) is not None
    # What is told by annotation needs one: a sampler of text that has none would be trained for hours, then fail.
    assert inspect.signature(sampler.sample).parameters["process"].annotation is not inspect.Parameter.empty
