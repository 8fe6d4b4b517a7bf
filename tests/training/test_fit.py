"""Training: determinism, resumption after a kill, the curve, what happens on a non-finite loss."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from isocline.datasets.batch import Batch
from isocline.networks.ema import ExponentialMovingAverage
from isocline.networks.mlp import MLP
from isocline.objectives.base import Loss, Objective
from isocline.training.callbacks import AtomicCheckpoint, latest_checkpoint
from isocline.training.fit import fit
from isocline.training.module import GenerativeModule, NonFiniteLossError, warmup_cosine
from isocline.training.settings import FitSettings

STEPS = 60


class Regression(Objective):
    """Straight-line matching with an extra state that resuming must restore."""

    seen: Tensor

    def __init__(self, fail_at: int | None = None) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))
        self.fail_at = fail_at
        self.calls = 0

    def forward(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> Loss:
        noise = torch.randn(batch.x0.shape, generator=generator)
        t = torch.rand(len(batch.x0), generator=generator)
        x = (1 - t[:, None]) * batch.x0 + t[:, None] * noise
        loss = (network(t, x, None) - (noise - batch.x0)).square().mean() * (1 + 1e-3 * self.seen)
        self.calls += 1
        if self.fail_at is not None and self.calls > self.fail_at:
            loss = loss * float("nan")
        return Loss(loss, {"twice": 2 * loss.detach()})

    def after_step(self, network: nn.Module, step: int) -> None:
        self.seen.copy_(0.9 * self.seen + 0.1 * step)


def module(objective: Objective | None = None, steps: int = STEPS) -> GenerativeModule:
    torch.manual_seed(0)
    return GenerativeModule(
        MLP(2, 16, 2),
        objective or Regression(),
        partial(torch.optim.AdamW, lr=1e-2),
        partial(ExponentialMovingAverage, decay=0.9),
        seed=7,
        steps=steps,
        warmup=5,
    )


def data() -> dict[str, Tensor]:
    return {"x0": torch.randn(37, 2, generator=torch.Generator().manual_seed(1))}


def train(directory: Path, objective: Objective | None = None, **kwargs: object):  # type: ignore[no-untyped-def]
    settings = FitSettings(steps=STEPS, batch_size=8, log_every=7, checkpoint_seconds=1e9)
    return fit(module(objective), data(), settings, directory, label="test", **kwargs)  # type: ignore[arg-type]


def weights(network: nn.Module) -> Tensor:
    return torch.cat([p.flatten() for p in network.parameters()])


def test_two_runs_give_the_same_bits_and_learn(tmp_path: Path) -> None:
    a, b = train(tmp_path / "a"), train(tmp_path / "b")
    assert torch.equal(weights(a.network), weights(b.network))
    assert a.history == b.history
    assert [row["step"] for row in a.history] == [7, 14, 21, 28, 35, 42, 49, 56, 60]
    assert a.history[-1]["loss"] < a.history[0]["loss"]
    assert a.history[0]["twice"] == pytest.approx(2 * a.history[0]["loss"])


def test_a_run_interrupted_between_steps_ends_with_the_same_bits(tmp_path: Path) -> None:
    # Not above: another process imports this file alone.
    from tests.training.interruption import Stop, StopAt

    whole = train(tmp_path / "whole")
    with pytest.raises(Stop):
        train(tmp_path / "cut", extra=(StopAt(tmp_path / "cut", 23, 26),))
    resumed = train(tmp_path / "cut")
    assert resumed.resumed_from == 23
    assert torch.equal(weights(whole.network), weights(resumed.network))
    assert whole.history == resumed.history


def test_a_non_finite_loss_stops_with_a_cure_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    keep = AtomicCheckpoint(tmp_path, every_steps=10)
    with pytest.raises(NonFiniteLossError, match=r"nan at step 34; lower optimizer.lr"):
        train(tmp_path, Regression(fail_at=34), extra=(keep,))
    checkpoint = latest_checkpoint(tmp_path)
    assert checkpoint is not None
    state = torch.load(checkpoint, weights_only=True)
    assert state["global_step"] == 30
    assert all(torch.isfinite(v).all() for v in state["state_dict"].values())


class BadGradient(Regression):
    """A finite loss whose gradient is not a number, after some steps."""

    def __init__(self, after: int = 34) -> None:
        super().__init__()
        self.after = after

    def forward(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> Loss:
        loss = super().forward(network, batch, generator)
        if self.calls <= self.after:
            return loss
        weight = next(network.parameters())
        return Loss(loss.total + (weight - weight.detach()).abs().sqrt().sum(), {})


def test_weights_that_are_no_numbers_are_not_kept(tmp_path: Path) -> None:
    keep = AtomicCheckpoint(tmp_path, every_steps=5)
    with pytest.raises(NonFiniteLossError, match=r"not finite at step 35; lower optimizer.lr"):
        train(tmp_path, BadGradient(), extra=(keep,))
    for name in ("last.ckpt", "last.ckpt.previous"):
        state = torch.load(tmp_path / name, weights_only=True)["state_dict"]
        assert all(torch.isfinite(v).all() for v in state.values())


def test_a_run_does_not_end_with_weights_that_are_no_numbers(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteLossError, match=f"not finite at step {STEPS}"):
        train(tmp_path, BadGradient(after=STEPS - 1))


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_half_precision_trains_with_a_fused_optimiser_and_clipping(tmp_path: Path, precision: str) -> None:
    settings = FitSettings(steps=3, batch_size=8, precision=precision, gradient_clip=1e-6, warmup=0)
    made = module(steps=3)
    made.build_optimizer = partial(torch.optim.SGD, lr=1.0, fused=True)  # type: ignore[assignment]
    before = weights(made.network).detach().clone()
    fit(made, data(), settings, tmp_path, label="test")
    moved = (weights(made.network).detach().float() - before).norm()
    assert moved <= 3.1e-6 if precision == "bf16-mixed" else moved.isfinite()


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path: Path) -> None:
    keep = AtomicCheckpoint(tmp_path, every_steps=20)
    whole = train(tmp_path, extra=(keep,))
    (tmp_path / "last.ckpt").write_bytes(b"half a file")
    found = latest_checkpoint(tmp_path)
    assert found is not None
    assert found.name == "last.ckpt.previous"
    again = train(tmp_path)
    assert again.resumed_from == 20
    assert torch.equal(weights(whole.network), weights(again.network))


def test_a_full_disk_keeps_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pytorch_lightning as lightning

    train(tmp_path, extra=(AtomicCheckpoint(tmp_path, every_steps=50),))
    before = (tmp_path / "last.ckpt").read_bytes()

    def full(self: object, path: Path, *args: object, **kwargs: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(lightning.Trainer, "save_checkpoint", full)
    with pytest.raises(OSError, match="No space left"):
        AtomicCheckpoint(tmp_path).save(lightning.Trainer(logger=False, enable_checkpointing=False))
    assert (tmp_path / "last.ckpt").read_bytes() == before
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.slow
def test_kill_nine_and_resume_gives_the_same_bits(tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(
        "import sys, time; from pathlib import Path\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import torch, test_fit as t\n"
        "from isocline.training.callbacks import AtomicCheckpoint\n"
        "class Slow(t.Regression):\n"
        "    def after_step(self, network, step):\n"
        "        time.sleep(float(sys.argv[2])); super().after_step(network, step)\n"
        "where = Path(sys.argv[1])\n"
        "result = t.train(where, Slow(), extra=(AtomicCheckpoint(where, every_steps=5),))\n"
        "torch.save(t.weights(result.network), where / 'end.pt')\n"
        "print('resumed from', result.resumed_from)\n"
    )

    def start(name: str, sleep: float) -> subprocess.Popen[str]:
        command = [sys.executable, str(script), str(tmp_path / name), str(sleep)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ))

    victim = start("killed", 0.1)
    deadline = time.monotonic() + 120
    while not (tmp_path / "killed" / "last.ckpt.previous").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    assert not (tmp_path / "killed" / "end.pt").exists()
    out, _ = start("killed", 0.0).communicate(timeout=120)
    assert "resumed from 0" not in out
    start("whole", 0.0).communicate(timeout=120)
    assert torch.equal(torch.load(tmp_path / "killed" / "end.pt"), torch.load(tmp_path / "whole" / "end.pt"))


@pytest.mark.parametrize(("name", "value"), [("steps", 0), ("batch_size", -1), ("final_lr", 2.0), ("warmup", -1)])
def test_settings_out_of_range_are_named(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"trainer.{name} = {value}"):
        FitSettings(**{"steps": 1, "batch_size": 1, name: value})  # type: ignore[arg-type]


def test_the_learning_rate_warms_up_and_falls_to_its_floor() -> None:
    assert warmup_cosine(0, 10, 100, 0.1) == pytest.approx(0.1)
    assert warmup_cosine(9, 10, 100, 0.1) == pytest.approx(1.0)
    assert warmup_cosine(55, 10, 100, 0.1) == pytest.approx(0.55)
    assert warmup_cosine(100, 10, 100, 0.1) == pytest.approx(0.1)
