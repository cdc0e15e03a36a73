"""How long and how often a model thinks about a sequence: steps, early halting, noisy rollouts, a check of the rules.

Spec section 6. Nothing here needs training: the same network answers with more or less computation.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trm.datasets.registry import get_dataset
from trm.utils.errors import UserError
from trm.config.dataset_meta import DatasetMeta
from trm.models.act import TRM

Tokens = npt.NDArray[np.uint8]
Movement = npt.NDArray[np.float32]
"""float32 [B, L]: how far the latents of each cell have moved since the round began, relative to their length."""


@dataclass(frozen=True)
class Dials:
    """How much computation a sequence gets."""

    steps: int
    """Supervision steps, at most."""
    early_halting: bool = False
    """A sequence leaves the batch as soon as training would have halted it."""
    rollouts: int = 1
    """Tries with noise of their own, of which the answer with the highest halt logit wins; the first has no noise."""
    noise: float = 0.0
    """Standard deviation of the Gaussian noise that is added to the latent states before each supervision step."""


@dataclass(frozen=True)
class Predictions:
    """What a model answers to N sequences."""

    tokens: Tokens
    """uint8 [N, L]."""
    halt_logit: npt.NDArray[np.float32]
    """[N], after the last step that was taken."""
    first_halt: npt.NDArray[np.int64]
    """[N]: the first supervision step at which training would have halted, or the last."""
    steps: npt.NDArray[np.int64]
    """[N]: supervision steps taken, over all rollouts."""


@dataclass(frozen=True)
class StepTrace:
    """The tries of some sequences after a network pass: B = sequences x rollouts, those of a sequence together."""

    step: int
    """Supervision step, from 1."""
    round: int
    """Of the step, from 1."""
    number: int
    """Of the pass in its round, from 1; the last renews the answer."""
    ends_step: bool
    """Whether it is the last pass of its step: what halts or obeys the rules is known by now."""
    rows: npt.NDArray[np.int64]
    """[B]: which sequence each try is of."""
    tokens: Tokens
    """uint8 [B, L]: what each would answer now."""
    halt_logit: npt.NDArray[np.float32]
    """[B]."""
    moved: Movement | None
    """0 for a try that no longer thinks; None where latents belong to no cells (latent meta attention), or where there
    are none."""
    alive: npt.NDArray[np.bool_]
    """[B]: whether it thinks on."""
    halted: npt.NDArray[np.bool_]
    """[B]: whether it stopped because the model wanted to."""
    right: npt.NDArray[np.bool_]
    """[B]: whether its answer was seen to obey the rules."""

    def best(self) -> npt.NDArray[np.int64]:
        """The places of the tries that would answer now, one of each sequence."""
        return _best(self.halt_logit, self.right, len(np.unique(self.rows)))


Look = Callable[[StepTrace], None]
"""What `predict` shows each moment to."""


class Rules:
    """The rules of sequences that are versions of some puzzles: a version is a puzzle of the same kind itself."""

    def __init__(self, meta: DatasetMeta, tokens: Tokens, puzzles: npt.NDArray[np.int64]) -> None:
        """`tokens` uint8 [N, L] is what is asked, `puzzles` int64 [N] of which puzzle each is a version; those of one
        puzzle stand together. Raises `UserError` where the kind of data has no rules.
        """
        self.puzzles, self._meta, self._kind = puzzles, meta, get_dataset(meta.name)
        nothing, none = (
            np.random.default_rng(0),
            UserError(f"no rules are known of {meta.name}; leave verify false"),
        )
        if hasattr(self._kind, "recall"):  # its versions are those of the data set
            raise none
        self._selves = [self._kind.versions(meta, row, nothing, 1) for row in tokens]
        self._asked = [itself.undo(row[None])[0] for itself, row in zip(self._selves, tokens, strict=True)]
        if self._kind.valid(meta, self._asked[:1], self._asked[:1]) is None:
            raise none

    def obeyed(self, rows: npt.NDArray[np.int64], answers: Tokens) -> npt.NDArray[np.bool_]:
        """Which `answers` (uint8 [k, L]) to the sequences `rows` (int64 [k]) obey the rules, bool [k]."""
        asked = [self._asked[row] for row in rows]
        grids = [self._selves[row].undo(answer[None])[0] for row, answer in zip(rows, answers, strict=True)]
        return np.asarray(self._kind.valid(self._meta, asked, grids), dtype=bool)


class InferenceEngine:
    """Some sequences on their way, step by step; those that are done leave the batch.

    `seeds` [B] gives each sequence's noise, whatever else is in the batch; where None, or `noise` 0, there is none.
    `between` is called after each network pass of a step but the last, with the numbers of the round and of the pass.
    """

    def __init__(
        self,
        model: TRM,
        tokens: Tokens,
        identifiers: npt.NDArray[np.integer],
        noise: float = 0.0,
        seeds: Sequence[Sequence[int] | None] = (),
        between: Callable[[int, int], None] = lambda *_: None,
    ) -> None:
        self.model, self.noise, self._between = model, noise, between
        inputs = torch.from_numpy(tokens.astype(np.int32)).to(model.device)
        rows = torch.from_numpy(identifiers.astype(np.int32)).to(model.device)
        with torch.no_grad():
            self._x = model.embed(inputs, model.gather_puzzle_rows(rows))
            self._states = self._before = model.start(len(inputs))
        self._dice = [_dice(seed) for seed in (seeds if noise else [None] * len(tokens))]

    @torch.no_grad()
    def step(self) -> tuple[Tokens, npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """One supervision step: the answers uint8 [B, L], halt logits [B], and who would halt in training [B]."""
        self._add_noise()
        rounds, passes = self.model.variant.rounds(self.model.config), self.model.variant.passes(self.model.config)
        for turn in range(1, rounds + 1):
            self._before = self._states
            for number in range(1, passes + 2):
                if number <= passes:
                    self._states = self.model.latent_passes(self._x, self._states, range(number - 1, number))
                else:
                    self._states = self.model.answer_pass(self._x, self._states)
                if (turn, number) != (rounds, passes + 1):
                    self._between(turn, number)
        return self.read()

    @torch.no_grad()
    def read(self) -> tuple[Tokens, npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """What `step` returns, of the states as they are."""
        logits, halt_logit, continue_logit = self.model.read_out(self._states)
        halts = halt_logit > (continue_logit if self.model.config.learns_to_continue else 0)
        return logits.argmax(-1).to(torch.uint8).cpu().numpy(), halt_logit.cpu().numpy(), halts.cpu().numpy()

    @torch.no_grad()
    def moved(self) -> Movement | None:
        """Since the round began; None as in `StepTrace`."""
        latents = self.model.variant.latents
        if self.model.lma is not None or not latents:
            return None
        both = (self._states, self._before)
        now, before = (torch.cat([states[name] for name in latents], -1).float() for states in both)
        share = ((now - before).square().sum(-1) / now.square().sum(-1)).sqrt()
        return share[:, self.model.config.puzzle_emb_len :].cpu().numpy()

    def keep(self, which: npt.NDArray[np.bool_]) -> None:
        """Go on with these alone."""
        rows = torch.from_numpy(np.flatnonzero(which)).to(self.model.device)
        self._x = self._x[rows]
        self._states = {name: state[rows] for name, state in self._states.items()}
        self._dice = [dice for dice, stays in zip(self._dice, which, strict=True) if stays]

    def _add_noise(self) -> None:
        if not any(self._dice):
            return
        for name in self.model.variant.latents:
            state = self._states[name]
            # Drawn where every machine draws the same.
            drawn = [_drawn(dice, state.shape[1:]) for dice in self._dice]
            noise = torch.stack(drawn).to(state.device, state.dtype)
            self._states = self._states | {name: state + self.noise * noise}


def _dice(seed: Sequence[int] | None) -> torch.Generator | None:
    if seed is None:
        return None
    word = int(np.random.SeedSequence(list(seed)).generate_state(1, np.uint64)[0] >> 1)
    return torch.Generator().manual_seed(word)


def _drawn(dice: torch.Generator | None, shape: torch.Size) -> Tensor:
    return torch.zeros(shape) if dice is None else torch.randn(shape, generator=dice)


def predict(
    model: TRM,
    tokens: Tokens,
    identifiers: npt.NDArray[np.integer],
    dials: Dials,
    batch_size: int,
    advance: Callable[[int], None] = lambda _: None,
    seeds: Sequence[Sequence[int]] | None = None,
    rules: Rules | None = None,
    look: Look | None = None,
) -> Predictions:
    """Answer the sequences `tokens` (uint8 [N, L]) with puzzle `identifiers` (int [N]), about `batch_size` at a time.

    The noise of a sequence is drawn from its `seeds` and the number of the rollout. With `rules` the work on a puzzle
    stops at the first answer that obeys them. `look` is shown the tries of a batch after every network pass.
    """
    puzzles = np.arange(len(tokens)) if rules is None else rules.puzzles
    parts = []
    for chosen in _batches(puzzles, max(batch_size // dials.rollouts, 1)):
        parts.append(_predict(model, tokens, identifiers, dials, chosen, seeds, rules, look))
        advance(len(chosen))
    names = ("tokens", "halt_logit", "first_halt", "steps")
    return Predictions(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def _batches(puzzles: npt.NDArray[np.int64], size: int) -> Iterator[npt.NDArray[np.int64]]:
    """Rows in order, about `size` at a time, those of one puzzle together."""
    start = 0
    for end in [*(np.flatnonzero(np.diff(puzzles)) + 1).tolist(), len(puzzles)]:
        if end - start >= size or end == len(puzzles):
            yield np.arange(start, end)
            start = end


def _predict(
    model: TRM,
    tokens: Tokens,
    identifiers: npt.NDArray[np.integer],
    dials: Dials,
    chosen: npt.NDArray[np.int64],
    seeds: Sequence[Sequence[int]] | None,
    rules: Rules | None,
    look: Look | None,
) -> Predictions:
    """All rollouts of the `chosen` sequences, in one batch that shrinks."""
    rows = chosen.repeat(dials.rollouts)
    rolls = np.tile(np.arange(dials.rollouts), len(chosen))
    numbered = zip(rows.tolist(), rolls.tolist(), strict=True)
    noise_of = [[*seeds[row], roll] if roll and seeds is not None else None for row, roll in numbered]
    B, rounds, passes = len(rows), model.variant.rounds(model.config), model.variant.passes(model.config)
    answer, logit = np.zeros((B, tokens.shape[1]), np.uint8), np.zeros(B, np.float32)
    first_halt, taken = np.full(B, dials.steps), np.zeros(B, np.int64)
    halted, right = np.zeros((2, B), bool)
    took = alive = np.arange(B)
    step = 1

    def show(turn: int, number: int, said: Tokens, logits: npt.NDArray[np.float32], moved: Movement | None) -> None:
        """All tries, of which those that `took` this pass say this."""
        assert look is not None
        now, sure, movement = answer.copy(), logit.copy(), None
        now[took], sure[took] = said, logits
        if moved is not None:
            movement = np.zeros(answer.shape, np.float32)
            movement[took] = moved
        known = (np.isin(np.arange(B), alive), halted.copy(), right.copy())
        look(StepTrace(step, turn, number, (turn, number) == (rounds, passes + 1), rows, now, sure, movement, *known))

    def between(turn: int, number: int) -> None:
        if look is not None:
            said, logits, _ = engine.read()
            show(turn, number, said, logits, engine.moved())

    engine = InferenceEngine(model, tokens[rows], identifiers[rows], dials.noise, noise_of, between)
    for step in range(1, dials.steps + 1):
        took = alive
        said, logits, halts = engine.step()
        moved = engine.moved() if look is not None else None
        news = (said != answer[alive]).any(axis=1) | (step == 1)
        answer[alive], logit[alive], taken[alive] = said, logits, step
        first_halt[alive[halts]] = np.minimum(first_halt[alive[halts]], step)
        done = halts & dials.early_halting
        halted[alive[done]] = True
        if rules is not None and news.any():
            asked = alive[news]
            right[asked] = rules.obeyed(rows[asked], answer[asked])
            done |= np.isin(rules.puzzles[rows[alive]], rules.puzzles[rows[right]])
        if done.any():
            alive = alive[~done]
            if len(alive):
                engine.keep(~done)
        if look is not None:
            show(rounds, passes + 1, said, logits, moved)
        if not len(alive):
            break
    best = _best(logit, right, len(chosen))
    return Predictions(answer[best], logit[best], first_halt[best], taken.reshape(len(chosen), -1).sum(axis=1))


def _best(logit: npt.NDArray[np.float32], right: npt.NDArray[np.bool_], sequences: int) -> npt.NDArray[np.int64]:
    """The tries [sequences] that answer: the highest halt logit wins, the first of equals; an answer that obeys the
    rules before all others.
    """
    shape = (sequences, len(logit) // sequences)
    order = np.lexsort((-logit.reshape(shape), ~right.reshape(shape)), axis=1)
    return order[:, 0] + np.arange(sequences) * shape[1]
