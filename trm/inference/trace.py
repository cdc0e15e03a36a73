"""Traces the solution of a puzzle: the answer after every forward pass, and where the latents still change."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from trm.config.base import parse
from trm.config.dataset_meta import DatasetMeta
from trm.config.inference import DEFAULT_INFERENCE, InferenceConfig
from trm.data.protocol import Augmentations, Grid
from trm.inference.engine import StepTrace
from trm.inference.puzzle import EvalPuzzle
from trm.inference.solve import Answer, make_puzzles, rank_answers, solve_puzzle
from trm.inference.voting import same_grid
from trm.models.act import TRM

Heat = npt.NDArray[np.float32]
"""float32 [h, w], a value for each cell of an answer."""
Status = Literal["pending", "running", "halted", "valid", "stopped", "done"]
"""Of a sample: not started, running, stopped by early halting, stopped at an answer that obeys the rules, stopped
because another sample did, or at the end of its steps."""


@dataclass(frozen=True)
class Sample:
    """A sample of an augmentation of the puzzle."""

    name: str
    """`2.3` is the third sample of the second augmentation."""
    letter: str
    """Its answer: A, B, … in the order of the samples; equal answers have equal letters."""
    halt_logit: float
    status: Status
    votes: bool
    """Whether it is the best sample of its augmentation."""
    shown: bool
    """Whether its answer is the answer of the frame."""


@dataclass(frozen=True)
class Frame:
    """The state after a forward pass."""

    step: int
    """Supervision step, from 1."""
    round: int
    """Round of the step, from 1."""
    number: int
    """Pass of the round, from 1; the last one updates the answer."""
    ends_step: bool
    answer: Grid
    """The winning answer so far."""
    halt_logit: float
    """Halt logit of the sample that gives this answer."""
    moved: Heat | None
    """Change of the latents of each cell since the start of the round, relative to their norm; None if latents do not
    correspond to cells (latent meta attention) or there are none."""
    samples: tuple[Sample, ...]
    """All samples of all augmentations."""


def trace(
    model: TRM,
    meta: DatasetMeta,
    grid: np.ndarray | Sequence,
    config: InferenceConfig = DEFAULT_INFERENCE,
    *,
    seed: int = 0,
    **settings: Any,  # noqa: ANN401 - fields of InferenceConfig
) -> tuple[Answer, list[Frame]]:
    """Solve one puzzle as `trm.solve` does; return its answer and a frame for each forward pass.

    The arguments are those of `trm.solve`, but `grid` is a single puzzle. Raises as `trm.solve`.
    """
    if settings:
        config = parse(InferenceConfig, config.model_dump() | settings, "trace")
    (puzzle,) = make_puzzles(meta, [grid], config, seed)
    frames: list[Frame] = []
    return trace_puzzle(model, meta, puzzle, config, frames.append), frames


def trace_puzzle(
    model: TRM, meta: DatasetMeta, puzzle: EvalPuzzle, config: InferenceConfig, on_frame: Callable[[Frame], None]
) -> Answer:
    """Solve a puzzle as `trm.solve` does, and call `on_frame` after each forward pass.

    Raises `UserError` if `config.verify` is set and the dataset has no rules.
    """
    return solve_puzzle(model, meta, puzzle, config, _Tracer(meta, puzzle, config, on_frame).add)


class _Tracer:
    """Converts step traces to frames; keeps the last outputs of samples that are not in the current batch."""

    def __init__(
        self, meta: DatasetMeta, puzzle: EvalPuzzle, config: InferenceConfig, on_frame: Callable[[Frame], None]
    ) -> None:
        self._meta, self._puzzle, self._config, self._on_frame = meta, puzzle, config, on_frame
        k, count = puzzle.num_votes, puzzle.num_votes * config.num_samples
        self._tokens = np.zeros((count, meta.seq_len), np.uint8)
        self._logits = np.zeros(count, np.float32)
        self._scores = np.zeros(count)
        self._status: list[Status] = ["pending"] * count
        self._best = np.full(k, -1)
        """The best sample of each augmentation; -1 before its first pass."""
        self._origins: dict[tuple[int, int, int], npt.NDArray[np.int64]] = {}

    def add(self, trace: StepTrace) -> None:
        num_samples = self._config.num_samples
        rows = trace.rows[::num_samples]
        places = (rows[:, None] * num_samples + np.arange(num_samples)).ravel()
        self._tokens[places], self._logits[places] = trace.tokens, trace.halt_logit
        self._scores[places] = trace.score
        self._best[rows] = places[trace.best()]
        for index, place in enumerate(places.tolist()):
            self._status[place] = self._status_of(trace, index)

        grids = self._inverted()
        voters = self._best[self._best >= 0]
        outputs = (self._logits[voters], self._scores[voters], np.zeros(len(voters)))  # the confidence is not shown
        candidates = rank_answers(self._meta, self._puzzle, self._config, [grids[place] for place in voters], *outputs)
        answer = candidates[0].grid
        same = [int(place) for place in voters if same_grid(grids[place], answer)]
        shown = same[0] if self._config.selection == "votes" else max(same, key=lambda place: self._scores[place])
        moved = None
        if trace.moved is not None:
            canvas = np.zeros(self._meta.seq_len, np.float32)
            if shown in places:
                canvas = trace.moved[places.tolist().index(shown)]
            moved = canvas[self._origin(shown, answer)]
        samples = self._samples(grids, voters.tolist(), shown)
        place = (trace.step, trace.round, trace.number, trace.ends_step)
        self._on_frame(Frame(*place, answer, float(self._logits[shown]), moved, samples))

    def _status_of(self, trace: StepTrace, index: int) -> Status:
        if trace.verified[index]:
            return "valid"
        if trace.halted[index]:
            return "halted"
        if not trace.active[index]:
            return "stopped"
        return "done" if trace.ends_step and trace.step == self._config.max_steps else "running"

    def _inverted(self) -> list[Grid]:
        """The answer of each sample, with its augmentation inverted."""
        by_sample = self._tokens.reshape(-1, self._config.num_samples, self._meta.seq_len).swapaxes(0, 1)
        inverted = [self._puzzle.augmentations.invert(tokens) for tokens in by_sample]
        return [grid for of_augmentation in zip(*inverted, strict=True) for grid in of_augmentation]

    def _samples(self, grids: list[Grid], voters: list[int], shown: int) -> tuple[Sample, ...]:
        distinct: list[Grid] = []
        samples = []
        num_samples, k = self._config.num_samples, len(self._best)
        for place, (grid, status) in enumerate(zip(grids, self._status, strict=True)):
            letter = ""
            if status != "pending":
                number = next((n for n, other in enumerate(distinct) if same_grid(grid, other)), len(distinct))
                if number == len(distinct):
                    distinct.append(grid)
                letter = _letter(number)
            augmentation, sample = place // num_samples + 1, place % num_samples + 1
            name = f"{augmentation}.{sample}" if min(k, num_samples) > 1 else str(max(augmentation, sample))
            logit = float(self._logits[place])
            samples.append(Sample(name, letter, logit, status, place in voters, place == shown))
        return tuple(samples)

    def _origin(self, place: int, grid: Grid) -> npt.NDArray[np.int64]:
        index = place // self._config.num_samples
        key = (index, *grid.shape)
        if key not in self._origins:
            self._origins[key] = origin(self._meta, self._puzzle.augmentations, index, self._tokens[place])
        return self._origins[key]


def origin(
    meta: DatasetMeta, augmentations: Augmentations, index: int, answer: npt.NDArray[np.uint8]
) -> npt.NDArray[np.int64]:
    """The cell of the canvas that each cell of the inverted answer comes from, int64 [h, w].

    answer: uint8 [L], an answer to augmentation `index`. Inverting an augmentation moves cells and renames values. So
    the numbers of the cells are sent through it bit by bit, coded in two tokens, and read from the result.
    """
    # Tokens that delimit the grid on the canvas must stay, or the grid would have another shape.
    first = meta.first_cell_token
    coded_cells = answer >= first if first > 1 else np.ones(len(answer), bool)
    cells, k = np.arange(len(answer)), len(augmentations.tokens)

    def send(bits: npt.NDArray[np.int64]) -> Grid:
        coded = np.where(coded_cells, meta.vocab_size - 2 + bits, answer).astype(np.uint8)
        return augmentations.invert(np.tile(coded, (k, 1)))[index]

    zeros = send(0 * cells)
    bits = [(send(cells >> bit & 1) != zeros).astype(np.int64) << bit for bit in range(len(cells).bit_length())]
    return np.sum(bits, axis=0)


def _letter(number: int) -> str:
    """A to Z, then AA, AB, …"""
    return (_letter(number // 26 - 1) if number > 25 else "") + chr(ord("A") + number % 26)
