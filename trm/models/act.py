"""Adaptive computation time: a carry per slot of the batch, refilled when the slot has halted (TRM, section 4.1)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from trm.config.dataset_meta import DatasetMeta
from trm.config.model import ModelParams
from trm.models.recursion import RecursiveNetwork, States

Batch = Mapping[str, Tensor]
"""`inputs` [B, L], `labels` [B, L] (-100: ignored) and `puzzle_identifiers` [B], int32 or int64."""


@dataclass(frozen=True)
class Carry:
    """The state of the B slots of a batch between two supervision steps."""

    states: States
    """The states of the recursion, detached."""
    steps: Tensor
    """Supervision steps taken, int32 [B]."""
    halted: Tensor
    """Slots that take a new example at the next step, bool [B]."""
    inputs: Tensor
    """Tokens of each slot's example, int [B, L]."""
    labels: Tensor
    """Labels of each slot's example, int [B, L]."""
    puzzle_identifiers: Tensor
    """Puzzle identifier of each slot's example, int [B]."""

    def tensors(self) -> dict[str, Tensor]:
        """Name -> tensor; the states are at the top level under their own names."""
        return self.states | {field.name: getattr(self, field.name) for field in fields(self) if field.name != "states"}

    @staticmethod
    def of(tensors: Mapping[str, Tensor]) -> "Carry":
        """The inverse of `tensors`."""
        rest = {field.name: tensors[field.name] for field in fields(Carry) if field.name != "states"}
        return Carry(states={name: tensor for name, tensor in tensors.items() if name not in rest}, **rest)

    def part(self, slots: slice) -> "Carry":
        """The carry of some of the slots."""
        return Carry.of({name: tensor[slots] for name, tensor in self.tensors().items()})

    def at(self, slots: Tensor) -> "Carry":
        """The carry of the slots with these numbers, int64 [b]."""
        return Carry.of({name: tensor[slots] for name, tensor in self.tensors().items()})

    def set_part(self, slots: slice, part: "Carry") -> None:
        """Overwrite the carry of some of the slots, in place."""
        for mine, new in zip(self.tensors().values(), part.tensors().values(), strict=True):
            mine[slots] = new

    @staticmethod
    def concatenate(parts: "Sequence[Carry]") -> "Carry":
        """The slots of all parts, in order."""
        if len(parts) == 1:
            return parts[0]
        all_tensors = [part.tensors() for part in parts]
        return Carry.of({name: torch.cat([tensors[name] for tensors in all_tensors]) for name in all_tensors[0]})


@dataclass(frozen=True)
class Output:
    """The outputs of a supervision step."""

    logits: Tensor
    """[B, L, V], compute dtype."""
    halt_logit: Tensor
    """float32 [B]."""
    continue_logit: Tensor
    """float32 [B]."""
    puzzle_rows: Tensor
    """Rows of the puzzle table, float32 [B, puzzle_emb_ndim]: a leaf tensor that receives their gradient."""
    continue_target: Tensor | None
    """float32 [B] in training with the continue loss (HRM, arXiv 2506.21734, section 2), else None."""

    def at(self, slots: Tensor) -> "Output":
        """The outputs of the slots with these numbers, int64 [b]."""
        target = None if self.continue_target is None else self.continue_target[slots]
        rows = self.puzzle_rows[slots]
        return Output(self.logits[slots], self.halt_logit[slots], self.continue_logit[slots], rows, target)


class TRM(RecursiveNetwork):
    """A recursive network with halting: the model that is trained, saved and used for inference."""

    def initial_carry(self, batch: Batch) -> Carry:
        """A fresh carry for batches shaped like `batch`: every slot halted, 0 steps, no example."""
        B = batch["inputs"].shape[0]
        return Carry(
            states=self.initial_states(B),
            steps=torch.zeros(B, dtype=torch.int32, device=self.device),
            halted=torch.ones(B, dtype=torch.bool, device=self.device),
            inputs=torch.zeros_like(batch["inputs"]),
            labels=torch.full_like(batch["labels"], -100),
            puzzle_identifiers=torch.zeros_like(batch["puzzle_identifiers"]),
        )

    def supervision_step(
        self,
        carry: Carry,
        batch: Batch,
        min_steps: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Carry, Output]:
        """Run exactly one supervision step; slots that have halted take their example of `batch` first.

        min_steps: int [B], steps that each slot must reach before it may halt (exploration). If None in train mode, it
        is drawn from torch's default generator; the trainer passes its own draw. In eval mode slots halt only at
        `halt_max_steps`. generator: source of random start states and update noise, on the device of the model; None:
        all sequences start from the same noise. Returns the new carry and the outputs.
        """
        fresh = carry.halted[:, None, None]
        initial = self.initial_states(carry.halted.shape[0], generator)
        states = {name: torch.where(fresh, state, carry.states[name]) for name, state in initial.items()}
        steps = torch.where(carry.halted, 0, carry.steps) + 1
        inputs = torch.where(carry.halted[:, None], batch["inputs"], carry.inputs)
        labels = torch.where(carry.halted[:, None], batch["labels"], carry.labels)
        identifiers = torch.where(carry.halted, batch["puzzle_identifiers"], carry.puzzle_identifiers)

        puzzle_rows = self.gather_puzzle_rows(identifiers)
        x = self.embed(inputs, puzzle_rows)
        states = self.deep_recursion(x, states, generator=generator)
        logits, halt_logit, continue_logit = self.read_out(states)
        states = {name: state.detach() for name, state in states.items()}

        with torch.no_grad():
            last = steps >= self.config.halt_max_steps
            halted, continue_target = last, None
            if self.training:
                if min_steps is None:
                    min_steps = draw_min_steps(self.config, len(steps), None).to(steps.device)
                threshold = continue_logit if self.config.uses_q_continue else torch.zeros_like(halt_logit)
                halted = last | ((halt_logit > threshold) & (steps >= min_steps))
                if self.config.uses_q_continue:
                    _, next_halt, next_continue = self.read_out(
                        self.deep_recursion(x.detach(), states, generator=generator)
                    )
                    best = torch.where(last, next_halt, torch.maximum(next_halt, next_continue))
                    continue_target = torch.sigmoid(best)
        carry = Carry(states, steps, halted, inputs, labels, identifiers)
        return carry, Output(logits, halt_logit, continue_logit, puzzle_rows, continue_target)

    # DistributedDataParallel requires the step to be the forward of the module.
    forward = supervision_step

    def gather_puzzle_rows(self, identifiers: Tensor) -> Tensor:
        """Rows of the puzzle table, float32 [B, puzzle_emb_ndim]: a leaf, with gradient if gradients are enabled."""
        if not self.config.puzzle_emb_ndim:
            return self.puzzle_table.new_zeros(len(identifiers), 0)
        rows = self.puzzle_table[identifiers]
        return rows.requires_grad_(torch.is_grad_enabled())

    @torch.no_grad()
    def answer(self, batch: Batch, steps: int) -> tuple[Tensor, Tensor, Tensor]:
        """Run `steps` supervision steps without early halting.

        Returns the predicted tokens int64 [B, L], the last halt logit float32 [B], and int64 [B] the first step with
        a positive halting decision (`steps` if there is none).
        """
        x = self.embed(batch["inputs"], self.gather_puzzle_rows(batch["puzzle_identifiers"]))
        states = self.initial_states(len(x))
        halt_step = torch.full((len(x),), steps, device=x.device)
        logits, halt_logit = x, x  # `steps` is at least 1
        for step in range(1, steps + 1):
            states = self.deep_recursion(x, states)
            logits, halt_logit, continue_logit = self.read_out(states)
            halts = halt_logit > (continue_logit if self.config.uses_q_continue else 0)
            halt_step = torch.where(halts, halt_step.clamp(max=step), halt_step)
        return logits.argmax(-1), halt_logit, halt_step


def draw_min_steps(config: ModelParams, slots: int, generator: torch.Generator | None) -> Tensor:
    """Draw the exploration of a training step: int64 [slots], the minimum number of steps before halting.

    With probability `halt_exploration_prob` uniform in 2..halt_max_steps, else 1 (no minimum).
    """
    explores = torch.rand(slots, generator=generator) < config.halt_exploration_prob
    minimum = torch.randint(2, max(config.halt_max_steps, 2) + 1, (slots,), generator=generator)
    return torch.where(explores, minimum, 1)


def build_model(config: ModelParams, meta: DatasetMeta, seed: int = 0, dtype: torch.dtype = torch.float32) -> TRM:
    """Build a model with float32 weights initialized from `seed`, computing in `dtype`."""
    return TRM(config, meta, dtype, torch.Generator().manual_seed(seed))
