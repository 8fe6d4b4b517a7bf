"""What is shown while a text is denoised: every state, in the terminal as it happens, elsewhere line by line."""

from __future__ import annotations

import io

import pytest
import torch
from rich.console import Console

from isocline.app.denoising_view import DenoisingView, Frame, Run, WatchedNetwork, framed
from isocline.processes.kernel import AbsorbingKernel
from isocline.processes.token_schedule import LinearSurvival
from isocline.samplers.autoregressive import AutoregressiveSampler
from isocline.samplers.discrete import AncestralSampler

MASK = 3


def decode(tokens):
    return "".join("ab_▒"[int(token)] for token in tokens)


class Flat(torch.nn.Module):
    """Every symbol is as likely; remembers what it was asked."""

    vocab_size = MASK + 1

    def __init__(self):
        super().__init__()
        self.extra = "seen through"

    def forward(self, t, z, cond=None):
        assert cond is None
        return torch.zeros(*z.shape[:2], MASK + 1)


def test_tokens_are_sorted_into_runs_by_what_became_of_them():
    before = torch.tensor([[0, 1, 3, 3, 3]])
    now = torch.tensor([[0, 1, 1, 0, 3]])
    fixed = torch.tensor([True, False, False, False, False])
    frame = framed(now, before, fixed, decode, MASK, 2)
    assert frame == Frame(2, [[Run("a", "given"), Run("b", "written"), Run("ba", "new"), Run("▒", "open")]])


def watched(sampler, process, count=3, length=6, nfe=6):
    seen = []
    begin = MASK if process is None else None
    network = WatchedNetwork(Flat(), lambda rows, tokens: seen.append((rows.tolist(), tokens)), begin)
    stream = torch.Generator().manual_seed(0)
    solution = sampler.sample(network, process, (count, length), nfe, stream, cond=torch.arange(count))
    return seen, solution


def test_watching_changes_no_token_and_every_evaluation_is_seen():
    kernel = AbsorbingKernel(MASK + 1, LinearSurvival())
    seen, solution = watched(AncestralSampler(), kernel)
    plain = AncestralSampler().sample(Flat(), kernel, (3, 6), 6, torch.Generator().manual_seed(0))
    assert torch.equal(solution.final, plain.final)
    state = torch.full((3, 6), MASK)
    for rows, tokens in seen:
        known = state[rows] != MASK
        assert torch.equal(tokens[known], state[rows][known])  # what is written stays
        state[rows] = tokens
    assert torch.equal(state[state != MASK], solution.final[state != MASK])
    assert sum(len(rows) for rows, _ in seen) == int(solution.stats.nfe.sum())


def test_an_autoregressive_model_is_seen_to_write_from_left_to_right():
    seen, solution = watched(AutoregressiveSampler(), None)
    for position, (rows, tokens) in enumerate(seen):
        assert rows == [0, 1, 2]
        assert torch.equal(tokens[:, :position], solution.final[:, :position])
        assert (tokens[:, position:] == MASK).all()


def test_states_that_are_no_tokens_are_shown_by_what_the_network_makes_of_them():
    seen = []
    network = WatchedNetwork(torch.nn.Module(), lambda rows, tokens: seen.append(tokens))
    network.network.forward = lambda t, x, cond, previous: torch.eye(4)[[1, 0]].expand(2, 2, 4)
    network(torch.zeros(()), torch.randn(2, 2, 5), torch.arange(2), None)
    assert seen[0].tolist() == [[1, 0], [1, 0]]


def test_a_watched_network_is_the_network_but_for_its_caches():
    inner = Flat()
    inner.empty_cache = lambda batch: None
    network = WatchedNetwork(inner, print)
    assert network.extra == "seen through"
    assert network.vocab_size == 4
    assert not hasattr(network, "empty_cache")
    assert not hasattr(network, "decode_block")


FRAMES = [
    Frame(1, [[Run("a", "given"), Run("▒▒", "open")]]),
    Frame(2, [[Run("a", "given"), Run("b", "new"), Run("▒", "open")]]),
    Frame(None, [[Run("a", "given"), Run("b", "written"), Run("b", "new")]]),
]


def drawn(terminal, frames=FRAMES, **more):
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=40, height=20, color_system="standard", _environ={})
    with DenoisingView(console, **more) as view:
        for frame in frames:
            view(frame)
    return file.getvalue()


def test_frames_follow_one_another_in_a_terminal_and_are_wiped_at_the_end():
    text = drawn(True)
    places = [text.index(head) for head in ("evaluation 1", "evaluation 2", "done")]
    assert places == sorted(places)
    assert "\x1b[1A" in text  # a frame is drawn over the one before
    assert text.rstrip().endswith("\x1b[2K")  # nothing of it stays
    assert "\x1b[1;32mb" in text  # what is new stands out


def test_elsewhere_every_state_is_a_line():
    assert drawn(False).splitlines() == ["   1  a▒▒", "   2  ab▒", " end  abb"]


def test_elsewhere_words_between_colons_stay_words_and_nothing_waits(monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("a pause where nobody looks"))
    frame = Frame(None, [[Run(f":heart: {index}", "written")] for index in range(3)])
    assert drawn(False, [frame], most=2, pause=5.0).splitlines() == [" end  :heart: 0", " end  :heart: 1", "and 1 more"]


def test_many_sequences_are_not_all_drawn():
    many = Frame(1, [[Run(f"text{index}", "written")] for index in range(6)])
    text = drawn(True, [many], most=2)
    assert "text1" in text
    assert "text2" not in text
    assert "and 4 more" in text
