"""A model at work on one puzzle: what it would answer after every network pass, and where its latents still move."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from trm.data.protocol import Grid, Augmentations
from trm.inference.solve import Answer, Asked, answer, ranked
from trm.inference.engine import Dials, StepTrace
from trm.config.dataset_meta import DatasetMeta
from trm.models.act import TRM

Heat = npt.NDArray[np.float32]
"""float32 [h, w], a value for each cell of an answer."""
State = Literal["waits", "thinks", "halted", "obeys", "stopped", "done"]
"""Of a try: not begun, at work, halted by the model, stopped at an answer that obeys the rules, stopped because another
try's did, or at the end of its steps."""


@dataclass(frozen=True)
class Try:
    """One of the sequences that work on the puzzle: a version of it, with or without noise."""

    name: str
    """`2.3` is the third rollout of the second version."""
    letter: str
    """Which answer it gives: A, B, … in the order of the tries; those that give the same have the same."""
    halt_logit: float
    state: State
    votes: bool
    """Whether it is the one that answers for its version."""
    shown: bool
    """Whether it is the one that the frame shows."""


@dataclass(frozen=True)
class Frame:
    """The model after one network pass."""

    step: int
    """Supervision step, from 1."""
    round: int
    """Of the step, from 1."""
    number: int
    """Of the pass in its round, from 1; the last renews the answer."""
    ends_step: bool
    answer: Grid
    """What it would answer now."""
    halt_logit: float
    """Of the try that gives this answer."""
    moved: Heat | None
    """How far the latents of each cell of that try have moved since the round began, relative to their length; None
    where they belong to no cells (latent meta attention), or where there are none."""
    tries: tuple[Try, ...]


def trace(
    model: TRM, meta: DatasetMeta, asked: Asked, dials: Dials, verify: bool, show: Callable[[Frame], None]
) -> Answer:
    """Answer a puzzle as `trm.solve` does, and show a frame after each network pass.

    Raises `UserError` where there are no rules to check.
    """
    return answer(model, meta, asked, dials, verify, _Tracer(meta, asked, dials, verify, show).look)


class _Tracer:
    """Makes a frame of each moment; keeps what the tries said that are in no batch at the moment."""

    def __init__(
        self, meta: DatasetMeta, asked: Asked, dials: Dials, verify: bool, show: Callable[[Frame], None]
    ) -> None:
        self._meta, self._asked, self._dials, self._check_rules, self._show = meta, asked, dials, verify, show
        k, rollouts = len(asked.identifiers), dials.rollouts
        self._tokens = np.zeros((k * rollouts, meta.seq_len), np.uint8)
        self._logits = np.zeros(k * rollouts, np.float32)
        self._states: list[State] = ["waits"] * (k * rollouts)
        self._best = np.full(k, -1)
        """The try that answers for each version; -1 where it has not begun."""
        self._origins: dict[tuple[int, int, int], npt.NDArray[np.int64]] = {}

    def look(self, moment: StepTrace) -> None:
        rollouts = self._dials.rollouts
        rows = moment.rows[::rollouts]
        places = (rows[:, None] * rollouts + np.arange(rollouts)).ravel()
        self._tokens[places], self._logits[places] = moment.tokens, moment.halt_logit
        self._best[rows] = places[moment.best()]
        for index, place in enumerate(places.tolist()):
            self._states[place] = self._state(moment, index)

        grids = self._undone()
        begun = np.flatnonzero(self._best >= 0)
        voters = self._best[begun]
        best = ranked(
            self._meta, self._asked, [grids[place] for place in voters], self._logits[voters], self._check_rules
        )[0]
        shown = next(int(place) for place in voters if _same(grids[place], best.grid))
        moved = None
        if moment.moved is not None:
            canvas = np.zeros(self._meta.seq_len, np.float32)
            if shown in places:
                canvas = moment.moved[places.tolist().index(shown)]
            moved = canvas[self._origin(shown, best.grid)]
        tries = self._tries(grids, voters.tolist(), shown)
        place = (moment.step, moment.round, moment.number, moment.ends_step)
        self._show(Frame(*place, best.grid, float(self._logits[shown]), moved, tries))

    def _state(self, moment: StepTrace, index: int) -> State:
        if moment.right[index]:
            return "obeys"
        if moment.halted[index]:
            return "halted"
        if not moment.alive[index]:
            return "stopped"
        return "done" if moment.ends_step and moment.step == self._dials.steps else "thinks"

    def _undone(self) -> list[Grid]:
        """The answer of each try to the puzzle itself."""
        by_rollout = self._tokens.reshape(-1, self._dials.rollouts, self._meta.seq_len).swapaxes(0, 1)
        undone = [self._asked.versions.undo(tokens) for tokens in by_rollout]
        return [grid for of_version in zip(*undone, strict=True) for grid in of_version]

    def _tries(self, grids: list[Grid], voters: list[int], shown: int) -> tuple[Try, ...]:
        seen: list[Grid] = []
        tries = []
        rollouts, versions = self._dials.rollouts, len(self._best)
        for place, (grid, state) in enumerate(zip(grids, self._states, strict=True)):
            letter = ""
            if state != "waits":
                number = next((n for n, other in enumerate(seen) if _same(grid, other)), len(seen))
                if number == len(seen):
                    seen.append(grid)
                letter = _letter(number)
            version, rollout = place // rollouts + 1, place % rollouts + 1
            name = f"{version}.{rollout}" if min(versions, rollouts) > 1 else str(max(version, rollout))
            tries.append(Try(name, letter, float(self._logits[place]), state, place in voters, place == shown))
        return tuple(tries)

    def _origin(self, place: int, grid: Grid) -> npt.NDArray[np.int64]:
        version = place // self._dials.rollouts
        key = (version, *grid.shape)
        if key not in self._origins:
            self._origins[key] = origin(self._meta, self._asked.versions, version, self._tokens[place])
        return self._origins[key]


def origin(meta: DatasetMeta, versions: Augmentations, version: int, answer: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """The cell of the canvas from which each cell of an answer (uint8 [L]) comes when it is undone, int64 [h, w].

    Undoing a version moves cells and renames what is in them. So the cells' numbers are sent through it bit by bit,
    written in two tokens, and read by what becomes of the one token.
    """
    # Of an ARC canvas the grid is cut out: what is no colour must stay none.
    replaced = answer > 1 if meta.name == "arc" else np.ones(len(answer), bool)
    cells, k = np.arange(len(answer)), len(versions.tokens)

    def sent(bits: npt.NDArray[np.int64]) -> Grid:
        coded = np.where(replaced, meta.vocab_size - 2 + bits, answer).astype(np.uint8)
        return versions.undo(np.tile(coded, (k, 1)))[version]

    zeros = sent(0 * cells)
    bits = [(sent(cells >> bit & 1) != zeros).astype(np.int64) << bit for bit in range(len(cells).bit_length())]
    return np.sum(bits, axis=0)


def _letter(number: int) -> str:
    """A to Z, then AA, AB, …"""
    return (_letter(number // 26 - 1) if number > 25 else "") + chr(ord("A") + number % 26)


def _same(one: Grid, other: Grid) -> bool:
    return one.shape == other.shape and bool((one == other).all())
