"""The inference engine: supervision steps, early halting, noisy samples and verification of a batch of sequences."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trm.config.dataset_meta import DatasetMeta
from trm.config.inference import InferenceConfig
from trm.datasets.registry import get_dataset
from trm.inference.batch_size import BatchSize
from trm.inference.voting import best_samples, selection_score
from trm.models.act import TRM
from trm.models.recursion import States
from trm.utils.errors import UserError

Tokens = npt.NDArray[np.uint8]
Movement = npt.NDArray[np.float32]
"""float32 [B, L]: change of the latents of each cell since the start of the round, relative to their norm."""
Outputs = tuple[Tokens, npt.NDArray[np.float32], npt.NDArray[np.bool_]]
"""Tokens uint8 [B, L], halt logits float32 [B] and halting decisions bool [B]."""


@dataclass(frozen=True)
class Predictions:
    """The answers to N sequences."""

    tokens: Tokens
    """uint8 [N, L]."""
    halt_logit: npt.NDArray[np.float32]
    """[N], after the last step."""
    halt_step: npt.NDArray[np.int64]
    """[N]: the first supervision step with a positive halting decision, or the last step."""
    steps: npt.NDArray[np.int64]
    """[N]: supervision steps of all samples together."""
    score: npt.NDArray[np.float64]
    """[N]: `trm.inference.voting.selection_score` of the sample that answers, after its last step."""
    settled: npt.NDArray[np.float64]
    """[N]: fraction of the samples whose decoded answer did not change in their last step; a single step settles
    nothing."""


@dataclass(frozen=True)
class StepTrace:
    """The samples of some sequences after a forward pass: B = sequences x samples, those of a sequence adjacent."""

    step: int
    """Supervision step, from 1."""
    round: int
    """Round of the step, from 1."""
    number: int
    """Pass of the round, from 1; the last one updates the answer."""
    ends_step: bool
    """True for the last pass of a step: halting and verification are up to date."""
    rows: npt.NDArray[np.int64]
    """[B]: row of the sequence of each sample."""
    tokens: Tokens
    """uint8 [B, L]: the decoded answer of each sample."""
    halt_logit: npt.NDArray[np.float32]
    """[B]."""
    score: npt.NDArray[np.float64]
    """[B]: the score by which the selection prefers a sample."""
    moved: Movement | None
    """0 for samples that have stopped; None if latents do not correspond to cells or there are none."""
    active: npt.NDArray[np.bool_]
    """[B]: samples that are still computed."""
    halted: npt.NDArray[np.bool_]
    """[B]: samples stopped by early halting."""
    verified: npt.NDArray[np.bool_]
    """[B]: samples stopped because their answer obeys the rules."""

    def best(self) -> npt.NDArray[np.int64]:
        """Index of the sample that answers for each sequence, [sequences]."""
        return best_samples(self.score, self.verified, len(self.rows) // len(np.unique(self.rows)))


TraceCallback = Callable[[StepTrace], None]
StepCallback = Callable[[npt.NDArray[np.int64], int, Outputs], None]
"""Called with the row of each computed sample, int64 [B], the step from 1, and the outputs after it."""


class Verifier:
    """Checks answers to sequences against the rules of their dataset.

    An augmentation of a puzzle is a puzzle itself, so its answer is checked as it is.
    """

    def __init__(self, meta: DatasetMeta, tokens: Tokens) -> None:
        """tokens: the questions, uint8 [N, L]. Raises `UserError` if the dataset has no rules."""
        self._meta, self._dataset = meta, get_dataset(meta.name)
        rng = np.random.default_rng(0)  # not used: no augmentation is drawn
        no_rules = UserError(f"verify must be false for dataset {meta.name}, which has no rules to check. Got true")
        if hasattr(self._dataset, "recall"):  # its augmentations come from the dataset
            raise no_rules
        self._identities = [self._dataset.augmentations(meta, row, rng, 1) for row in tokens]
        self._questions = [
            identity.invert(row[None])[0] for identity, row in zip(self._identities, tokens, strict=True)
        ]
        if self._dataset.valid(meta, self._questions[:1], self._questions[:1]) is None:
            raise no_rules

    def check(self, rows: npt.NDArray[np.int64], answers: Tokens) -> npt.NDArray[np.bool_]:
        """Which `answers` (uint8 [k, L]) to the sequences `rows` (int64 [k]) obey the rules, bool [k]."""
        questions = [self._questions[row] for row in rows]
        grids = [self._identities[row].invert(answer[None])[0] for row, answer in zip(rows, answers, strict=True)]
        return np.asarray(self._dataset.valid(self._meta, questions, grids), dtype=bool)


class InferenceEngine:
    """A batch of sequences, advanced by one supervision step at a time; finished sequences leave the batch.

    seeds: [B], the seed of each sequence's noise; None: no noise. The noise of a sequence does not depend on the rest
    of the batch. on_pass: called after each forward pass of a step but the last, with the round and the pass number.
    """

    def __init__(
        self,
        model: TRM,
        tokens: Tokens,
        identifiers: npt.NDArray[np.integer],
        noise_std: float = 0.0,
        seeds: Sequence[Sequence[int] | None] = (),
        on_pass: Callable[[int, int], None] | None = None,
    ) -> None:
        self.model, self.noise_std, self._on_pass = model, noise_std, on_pass
        inputs = torch.from_numpy(tokens.astype(np.int32)).to(model.device)
        rows = torch.from_numpy(identifiers.astype(np.int32)).to(model.device)
        with torch.no_grad():
            self._x = model.embed(inputs, model.gather_puzzle_rows(rows))
            self._generators = [_generator(seed) for seed in (seeds if noise_std else [None] * len(tokens))]
            self.states = self._step_start = self._round_start = self._initial_states()

    @torch.no_grad()
    def step(self) -> Outputs:
        """Run one supervision step."""
        self._step_start = self.states
        self._add_noise()
        self._round_start = self.states
        self.states = self.model.deep_recursion(self._x, self.states, self._after_pass if self._on_pass else None)
        return self.read()

    def _initial_states(self) -> States:
        """The states before the first step. With `model.random_start` each noisy sequence has a start of its own."""
        states = self.model.initial_states(len(self._x))
        for name in self.model.random_states if any(self._generators) else ():
            starts = [
                state
                if generator is None
                else self.model.start_noise(name, 1, generator)[0].to(state.device, state.dtype)
                for state, generator in zip(states[name], self._generators, strict=True)
            ]
            states[name] = torch.stack(starts)
        return states

    def _after_pass(self, number_of_round: int, number: int, states: States) -> None:
        assert self._on_pass is not None
        self.states = states
        is_answer_pass = number == self.model.variant.passes(self.model.config) + 1
        if is_answer_pass and number_of_round == self.model.variant.rounds(self.model.config):
            return  # the end of the step
        self._on_pass(number_of_round, number)
        if is_answer_pass:
            self._round_start = states

    @torch.no_grad()
    def read(self) -> Outputs:
        """The outputs of the current states."""
        logits, halt_logit, continue_logit = self.model.read_out(self.states)
        halts = halt_logit > (continue_logit if self.model.config.uses_q_continue else 0)
        return logits.argmax(-1).to(torch.uint8).cpu().numpy(), halt_logit.cpu().numpy(), halts.cpu().numpy()

    @torch.no_grad()
    def moved(self) -> Movement | None:
        """Movement of the latents since the start of the round; None as in `StepTrace.moved`.

        Requires `on_pass`: otherwise only the start of the step is known.
        """
        if self.model.lma is not None or not self.model.variant.latents:
            return None
        return self._relative_change(self._round_start).cpu().numpy()

    @torch.no_grad()
    def movement(self) -> npt.NDArray[np.float32]:
        """float32 [B]: change of the latents of each cell since the start of the step, before its noise, relative to
        their norm; mean over the cells.

        The states of a variant without latents are those of the answer. With latent meta attention, cells are the
        positions of the latent sequence.
        """
        return self._relative_change(self._step_start).mean(dim=1).cpu().numpy()

    def _relative_change(self, before: States) -> Tensor:
        """|now - before| / |now| of the latents of each cell, float32 [B, cells]."""
        names = self.model.variant.latents or (self.model.variant.answer,)
        now, then = (torch.cat([states[name] for name in names], -1).float() for states in (self.states, before))
        relative = ((now - then).square().sum(-1) / now.square().sum(-1)).sqrt()
        return relative if self.model.lma is not None else relative[:, self.model.config.prefix_len :]

    def keep(self, which: npt.NDArray[np.bool_]) -> None:
        """Remove the sequences that are false in `which` [B]."""
        rows = torch.from_numpy(np.flatnonzero(which)).to(self.model.device)
        self._x = self._x[rows]
        self.states = {name: state[rows] for name, state in self.states.items()}
        self._generators = [generator for generator, kept in zip(self._generators, which, strict=True) if kept]

    def _add_noise(self) -> None:
        if not any(self._generators):
            return
        for name in self.model.variant.latents:
            state = self.states[name]
            # Drawn on the CPU, so that every device gets the same noise.
            noise = torch.stack([_normal(generator, state.shape[1:]) for generator in self._generators])
            self.states = self.states | {name: state + self.noise_std * noise.to(state.device, state.dtype)}


def _generator(seed: Sequence[int] | None) -> torch.Generator | None:
    if seed is None:
        return None
    word = int(np.random.SeedSequence(list(seed)).generate_state(1, np.uint64)[0] >> 1)
    return torch.Generator().manual_seed(word)


def _normal(generator: torch.Generator | None, shape: torch.Size) -> Tensor:
    return torch.zeros(shape) if generator is None else torch.randn(shape, generator=generator)


def predict(
    model: TRM,
    tokens: Tokens,
    identifiers: npt.NDArray[np.integer],
    config: InferenceConfig,
    batch_size: int | BatchSize,
    advance: Callable[[int], None] = lambda _: None,
    seeds: Sequence[Sequence[int]] | None = None,
    puzzles: npt.NDArray[np.int64] | None = None,
    verifier: Verifier | None = None,
    on_trace: TraceCallback | None = None,
    on_step: StepCallback | None = None,
) -> Predictions:
    """Answer the sequences `tokens` (uint8 [N, L]) with puzzle `identifiers` (int [N]), about `batch_size` at a time.

    Of `config`, the number of votes is not used: each row is answered for itself. The noise of a sample is drawn from
    the `seeds` of its sequence and the number of the sample. puzzles: int64 [N], the puzzle of which each row is an
    augmentation, rows of a puzzle adjacent; None: each row is a puzzle. With a `verifier`, a puzzle stops at the first
    answer that obeys the rules; with selection halt_first, when the first of its sequences halts. `advance` is called
    with the number of finished sequences; `on_trace` after each forward pass, `on_step` after each supervision step. A
    batch that exceeds the memory of the GPU is computed again in smaller batches, unless there is an `on_trace`.
    """
    # Where the sequences of a puzzle do not stop each other, they need not share a batch.
    stops_puzzles = verifier is not None or config.stops_puzzles
    puzzles = puzzles if puzzles is not None and stops_puzzles else np.arange(len(tokens))
    parts = []

    def compute(chosen: npt.NDArray[np.int64]) -> Predictions:
        return _Batch(model, tokens, identifiers, config, chosen, seeds, puzzles, verifier, on_trace, on_step).run()

    limit = batch_size if isinstance(batch_size, BatchSize) else BatchSize(batch_size)
    for chosen, part in limit.results(puzzles, config.num_samples, compute, can_repeat=on_trace is None):
        parts.append(part)
        advance(len(chosen))
    names = [field.name for field in fields(Predictions)]
    return Predictions(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


class _Batch:
    """All samples of the `chosen` sequences in one batch, which shrinks as samples finish: B = sequences x samples."""

    def __init__(
        self,
        model: TRM,
        tokens: Tokens,
        identifiers: npt.NDArray[np.integer],
        config: InferenceConfig,
        chosen: npt.NDArray[np.int64],
        seeds: Sequence[Sequence[int]] | None,
        puzzles: npt.NDArray[np.int64],
        verifier: Verifier | None,
        on_trace: TraceCallback | None,
        on_step: StepCallback | None,
    ) -> None:
        self._config, self._verifier, self._on_trace, self._on_step = config, verifier, on_trace, on_step
        self._last_pass = (model.variant.rounds(model.config), model.variant.passes(model.config) + 1)
        self._rows = rows = chosen.repeat(config.num_samples)
        self._puzzles = puzzles[rows]
        samples = np.tile(np.arange(config.num_samples), len(chosen))
        noise_seeds = [
            [*seeds[row], sample] if sample and seeds is not None else None
            for row, sample in zip(rows.tolist(), samples.tolist(), strict=True)
        ]
        B = len(rows)
        self._answer, self._logit = np.zeros((B, tokens.shape[1]), np.uint8), np.zeros(B, np.float32)
        self._score, self._taken, self._halt_step = np.zeros(B), np.zeros(B, np.int64), np.full(B, config.max_steps)
        self._halted, self._verified, self._settled = np.zeros((3, B), bool)
        self._step = 0
        self._computed = self._active = np.arange(B)
        """The samples computed in this step, and those that remain after it."""
        on_pass = self._after_pass if on_trace else None
        self._engine = InferenceEngine(
            model, tokens[rows], identifiers[rows], config.latent_noise_std, noise_seeds, on_pass
        )

    def run(self) -> Predictions:
        """Run all steps."""
        while len(self._active) and self._step < self._config.max_steps:
            self._step += 1
            self._run_step()
        num_samples = self._config.num_samples
        best = best_samples(self._score, self._verified, num_samples)
        return Predictions(
            tokens=self._answer[best],
            halt_logit=self._logit[best],
            halt_step=self._halt_step[best],
            steps=self._taken.reshape(-1, num_samples).sum(axis=1),
            score=self._score[best],
            settled=self._settled.reshape(-1, num_samples).mean(axis=1),
        )

    def _run_step(self) -> None:
        active = self._computed = self._active
        outputs = self._engine.step()
        predicted, logits, halts = outputs
        scores = self._scores(outputs)
        moved = self._engine.moved() if self._on_trace is not None else None
        changed = (predicted != self._answer[active]).any(axis=1) | (self._step == 1)
        self._answer[active], self._logit[active], self._taken[active] = predicted, logits, self._step
        self._score[active], self._settled[active] = scores, ~changed
        self._halt_step[active[halts]] = np.minimum(self._halt_step[active[halts]], self._step)
        if self._on_step is not None:
            self._on_step(self._rows[active], self._step, outputs)
        done = self._stop(halts, changed)
        if done.any():
            self._active = active[~done]
            if len(self._active):
                self._engine.keep(~done)
        if self._on_trace is not None:
            self._emit(self._last_pass, outputs, scores, moved)

    def _stop(self, halts: npt.NDArray[np.bool_], changed: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Which active samples stop after this step. halts: their halting decisions; changed: their answer is new."""
        active, halts_first = self._active, self._config.selection == "halt_first"
        done = halts & (self._config.early_halting or halts_first)
        self._halted[active[done]] = True
        if halts_first:
            done = np.isin(self._puzzles[active], self._puzzles[active[done]])
        if self._verifier is not None and changed.any():
            checked = active[changed]
            self._verified[checked] = self._verifier.check(self._rows[checked], self._answer[checked])
            done |= np.isin(self._puzzles[active], self._puzzles[self._verified])
        return done

    def _scores(self, outputs: Outputs) -> npt.NDArray[np.float64]:
        selection = self._config.selection
        return selection_score(selection, *outputs[1:], self._engine.movement() if selection == "settled" else None)

    def _after_pass(self, number_of_round: int, number: int) -> None:
        outputs = self._engine.read()
        self._emit((number_of_round, number), outputs, self._scores(outputs), self._engine.moved())

    def _emit(
        self, place: tuple[int, int], outputs: Outputs, scores: npt.NDArray[np.float64], moved: Movement | None
    ) -> None:
        """Pass the current outputs of all samples to `on_trace`."""
        assert self._on_trace is not None
        tokens, logit, score, movement = self._answer.copy(), self._logit.copy(), self._score.copy(), None
        tokens[self._computed], logit[self._computed], score[self._computed] = *outputs[:2], scores
        if moved is not None:
            movement = np.zeros(tokens.shape, np.float32)
            movement[self._computed] = moved
        self._on_trace(
            StepTrace(
                step=self._step,
                round=place[0],
                number=place[1],
                ends_step=place == self._last_pass,
                rows=self._rows,
                tokens=tokens,
                halt_logit=logit,
                score=score,
                moved=movement,
                active=np.isin(np.arange(len(tokens)), self._active),
                halted=self._halted.copy(),
                verified=self._verified.copy(),
            )
        )
