"""The inference engine: supervision steps, early halting, noisy samples and verification of a batch of sequences."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trm.config.dataset_meta import DatasetMeta
from trm.config.inference import InferenceConfig
from trm.datasets.registry import get_dataset
from trm.inference.voting import best_samples
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
        return best_samples(self.halt_logit, self.verified, len(self.rows) // len(np.unique(self.rows)))


TraceCallback = Callable[[StepTrace], None]


class Verifier:
    """Checks answers to sequences against the rules of their dataset.

    An augmentation of a puzzle is a puzzle itself, so its answer is checked as it is.
    """

    def __init__(self, meta: DatasetMeta, tokens: Tokens, puzzles: npt.NDArray[np.int64]) -> None:
        """tokens: the questions, uint8 [N, L]. puzzles: int64 [N], the puzzle of which each row is an augmentation;
        rows of a puzzle are adjacent. Raises `UserError` if the dataset has no rules.
        """
        self.puzzles, self._meta, self._dataset = puzzles, meta, get_dataset(meta.name)
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
            self.states = self._round_start = model.initial_states(len(inputs))
        self._generators = [_generator(seed) for seed in (seeds if noise_std else [None] * len(tokens))]

    @torch.no_grad()
    def step(self) -> Outputs:
        """Run one supervision step."""
        self._add_noise()
        self._round_start = self.states
        self.states = self.model.deep_recursion(self._x, self.states, self._after_pass if self._on_pass else None)
        return self.read()

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
        latents = self.model.variant.latents
        if self.model.lma is not None or not latents:
            return None
        both = (self.states, self._round_start)
        now, before = (torch.cat([states[name] for name in latents], -1).float() for states in both)
        relative = ((now - before).square().sum(-1) / now.square().sum(-1)).sqrt()
        return relative[:, self.model.config.prefix_len :].cpu().numpy()

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
    batch_size: int,
    advance: Callable[[int], None] = lambda _: None,
    seeds: Sequence[Sequence[int]] | None = None,
    verifier: Verifier | None = None,
    on_trace: TraceCallback | None = None,
) -> Predictions:
    """Answer the sequences `tokens` (uint8 [N, L]) with puzzle `identifiers` (int [N]), about `batch_size` at a time.

    Of `config`, the number of votes is not used: each row is answered for itself. The noise of a sample is drawn from
    the `seeds` of its sequence and the number of the sample. With a `verifier`, a puzzle stops at the first answer that
    obeys the rules. `advance` is called with the number of finished sequences; `on_trace` after each forward pass.
    """
    puzzles = np.arange(len(tokens)) if verifier is None else verifier.puzzles
    parts = []
    for chosen in _batches(puzzles, max(batch_size // config.num_samples, 1)):
        parts.append(_predict_batch(model, tokens, identifiers, config, chosen, seeds, verifier, on_trace))
        advance(len(chosen))
    names = ("tokens", "halt_logit", "halt_step", "steps")
    return Predictions(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def _batches(puzzles: npt.NDArray[np.int64], size: int) -> Iterator[npt.NDArray[np.int64]]:
    """Rows in order, about `size` at a time, those of a puzzle in one batch."""
    start = 0
    for end in [*(np.flatnonzero(np.diff(puzzles)) + 1).tolist(), len(puzzles)]:
        if end - start >= size or end == len(puzzles):
            yield np.arange(start, end)
            start = end


def _predict_batch(
    model: TRM,
    tokens: Tokens,
    identifiers: npt.NDArray[np.integer],
    config: InferenceConfig,
    chosen: npt.NDArray[np.int64],
    seeds: Sequence[Sequence[int]] | None,
    verifier: Verifier | None,
    on_trace: TraceCallback | None,
) -> Predictions:
    """All samples of the `chosen` sequences in one batch, which shrinks as samples finish."""
    rows = chosen.repeat(config.num_samples)
    samples = np.tile(np.arange(config.num_samples), len(chosen))
    noise_seeds = [
        [*seeds[row], sample] if sample and seeds is not None else None
        for row, sample in zip(rows.tolist(), samples.tolist(), strict=True)
    ]
    B, last_pass = len(rows), (model.variant.rounds(model.config), model.variant.passes(model.config) + 1)
    answer, logit = np.zeros((B, tokens.shape[1]), np.uint8), np.zeros(B, np.float32)
    halt_step, taken = np.full(B, config.max_steps), np.zeros(B, np.int64)
    halted, verified = np.zeros((2, B), bool)
    computed = active = np.arange(B)
    """The samples computed in this step, and those that remain after it."""
    step = 1

    def emit(place: tuple[int, int], outputs: Outputs, moved: Movement | None) -> None:
        """Pass the current outputs of all samples to `on_trace`."""
        assert on_trace is not None
        tokens_now, logit_now, movement = answer.copy(), logit.copy(), None
        tokens_now[computed], logit_now[computed] = outputs[:2]
        if moved is not None:
            movement = np.zeros(answer.shape, np.float32)
            movement[computed] = moved
        flags = (np.isin(np.arange(B), active), halted.copy(), verified.copy())
        on_trace(StepTrace(step, *place, place == last_pass, rows, tokens_now, logit_now, movement, *flags))

    def on_pass(number_of_round: int, number: int) -> None:
        emit((number_of_round, number), engine.read(), engine.moved())

    engine = InferenceEngine(
        model, tokens[rows], identifiers[rows], config.latent_noise_std, noise_seeds, on_pass if on_trace else None
    )
    for step in range(1, config.max_steps + 1):
        computed = active
        outputs = engine.step()
        predicted, logits, halts = outputs
        moved = engine.moved() if on_trace is not None else None
        changed = (predicted != answer[active]).any(axis=1) | (step == 1)
        answer[active], logit[active], taken[active] = predicted, logits, step
        halt_step[active[halts]] = np.minimum(halt_step[active[halts]], step)
        done = halts & config.early_halting
        halted[active[done]] = True
        if verifier is not None and changed.any():
            checked = active[changed]
            verified[checked] = verifier.check(rows[checked], answer[checked])
            done |= np.isin(verifier.puzzles[rows[active]], verifier.puzzles[rows[verified]])
        if done.any():
            active = active[~done]
            if len(active):
                engine.keep(~done)
        if on_trace is not None:
            emit(last_pass, outputs, moved)
        if not len(active):
            break
    best = best_samples(logit, verified, config.num_samples)
    return Predictions(answer[best], logit[best], halt_step[best], taken.reshape(len(chosen), -1).sum(axis=1))
