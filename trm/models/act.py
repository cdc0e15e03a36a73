"""Adaptive computation: a carry per slot of the batch, refilled where it halted (spec section 3; TRM section 4.1)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from trm.config.model import ModelParams
from trm.config.dataset_meta import DatasetMeta
from trm.models.recursion import RecursiveNetwork, States

Batch = Mapping[str, Tensor]
"""`inputs` [B, L], `labels` [B, L] (ignored: -100) and `puzzle_identifiers` [B], int32 or int64."""


@dataclass(frozen=True)
class Carry:
    """What each of the B slots holds between two supervision steps."""

    states: States
    """The states of the recursion, detached."""
    steps: Tensor
    """Supervision steps taken, int32 [B]."""
    halted: Tensor
    """Whether the slot takes a new example at the next step, bool [B]."""
    inputs: Tensor
    labels: Tensor
    puzzle_identifiers: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by its name, the states under their own names."""
        return self.states | {field.name: getattr(self, field.name) for field in fields(self) if field.name != "states"}

    @staticmethod
    def of(tensors: Mapping[str, Tensor]) -> "Carry":
        """The carry of such `tensors`."""
        rest = {field.name: tensors[field.name] for field in fields(Carry) if field.name != "states"}
        return Carry(states={name: tensor for name, tensor in tensors.items() if name not in rest}, **rest)

    def part(self, slots: slice) -> "Carry":
        """Some of the slots."""
        return Carry.of({name: tensor[slots] for name, tensor in self.tensors().items()})

    @staticmethod
    def joined(parts: "Sequence[Carry]") -> "Carry":
        """The slots of all parts in order."""
        if len(parts) == 1:
            return parts[0]
        all_tensors = [part.tensors() for part in parts]
        return Carry.of({name: torch.cat([tensors[name] for tensors in all_tensors]) for name in all_tensors[0]})


@dataclass(frozen=True)
class Output:
    """What one supervision step answers."""

    logits: Tensor
    """[B, L, V], compute dtype."""
    halt_logit: Tensor
    """float32 [B]."""
    continue_logit: Tensor
    """float32 [B]."""
    puzzle_rows: Tensor
    """The rows of the puzzle table that were used, float32 [B, puzzle_emb_ndim]: a leaf that receives their gradient."""
    continue_target: Tensor | None
    """float32 [B] while training with the continue loss (HRM, arXiv 2506.21734, section 2), else None."""


class TRM(RecursiveNetwork):
    """A recursive network with halting: the model that is trained, saved and asked."""

    def initial_carry(self, batch: Batch) -> Carry:
        """A fresh carry for batches shaped like `batch`: every slot halted, 0 steps, no example."""
        B = batch["inputs"].shape[0]
        return Carry(
            states=self.start(B),
            steps=torch.zeros(B, dtype=torch.int32, device=self.device),
            halted=torch.ones(B, dtype=torch.bool, device=self.device),
            inputs=torch.zeros_like(batch["inputs"]),
            labels=torch.full_like(batch["labels"], -100),
            puzzle_identifiers=torch.zeros_like(batch["puzzle_identifiers"]),
        )

    def supervision_step(self, carry: Carry, batch: Batch, min_steps: Tensor | None = None) -> tuple[Carry, Output]:
        """Exactly one supervision step; slots that had halted take their example of `batch` first.

        `min_steps` (int [B]) is the number of steps that each slot must reach before it may halt: the exploration of a
        training step. Left out in train mode, it is drawn from torch's default generator; the training loop passes its
        own draw. In eval mode a slot halts at `halt_max_steps` alone.
        """
        fresh = carry.halted[:, None, None]
        starts = self.start(carry.halted.shape[0])
        states = {name: torch.where(fresh, start, carry.states[name]) for name, start in starts.items()}
        steps = torch.where(carry.halted, 0, carry.steps) + 1
        inputs = torch.where(carry.halted[:, None], batch["inputs"], carry.inputs)
        labels = torch.where(carry.halted[:, None], batch["labels"], carry.labels)
        identifiers = torch.where(carry.halted, batch["puzzle_identifiers"], carry.puzzle_identifiers)

        puzzle_rows = self.gather_puzzle_rows(identifiers)
        x = self.embed(inputs, puzzle_rows)
        states = self.deep_recursion(x, states)
        logits, halt_logit, continue_logit = self.read_out(states)
        states = {name: state.detach() for name, state in states.items()}

        with torch.no_grad():
            last = steps >= self.config.halt_max_steps
            halted, continue_target = last, None
            if self.training:
                if min_steps is None:
                    min_steps = draw_min_steps(self.config, len(steps), None).to(steps.device)
                bar = continue_logit if self.config.learns_to_continue else torch.zeros_like(halt_logit)
                halted = last | ((halt_logit > bar) & (steps >= min_steps))
                if self.config.learns_to_continue:
                    _, next_halt, next_continue = self.read_out(self.deep_recursion(x.detach(), states))
                    best = torch.where(last, next_halt, torch.maximum(next_halt, next_continue))
                    continue_target = torch.sigmoid(best)
        carry = Carry(states, steps, halted, inputs, labels, identifiers)
        return carry, Output(logits, halt_logit, continue_logit, puzzle_rows, continue_target)

    # Called as a module the model does one supervision step: what wraps modules (DistributedDataParallel) needs that.
    forward = supervision_step

    def gather_puzzle_rows(self, identifiers: Tensor) -> Tensor:
        """Rows of the puzzle table, float32 [B, puzzle_emb_ndim]; a leaf that asks for a gradient where one is taken."""
        if not self.config.puzzle_emb_ndim:
            return self.puzzle_table.new_zeros(len(identifiers), 0)
        rows = self.puzzle_table[identifiers]
        return rows.requires_grad_(torch.is_grad_enabled())

    @torch.no_grad()
    def answer(self, batch: Batch, steps: int) -> tuple[Tensor, Tensor, Tensor]:
        """Think for `steps` supervision steps, whatever the halt logit says.

        Returns the predicted tokens int64 [B, L], the last halt logit float32 [B], and the first step at which
        training would have halted int64 [B] (`steps` where it never would).
        """
        x = self.embed(batch["inputs"], self.gather_puzzle_rows(batch["puzzle_identifiers"]))
        states = self.start(len(x))
        first_halt = torch.full((len(x),), steps, device=x.device)
        logits, halt_logit = x, x  # `steps` is at least 1
        for step in range(1, steps + 1):
            states = self.deep_recursion(x, states)
            logits, halt_logit, continue_logit = self.read_out(states)
            halts = halt_logit > (continue_logit if self.config.learns_to_continue else 0)
            first_halt = torch.where(halts, first_halt.clamp(max=step), first_halt)
        return logits.argmax(-1), halt_logit, first_halt


def draw_min_steps(config: ModelParams, slots: int, generator: torch.Generator | None) -> Tensor:
    """Exploration for one training step, int64 [slots]: with `halt_exploration_prob` a minimum from 2..halt_max_steps.

    1 where nothing was drawn, which holds nobody back.
    """
    explores = torch.rand(slots, generator=generator) < config.halt_exploration_prob
    minimum = torch.randint(2, max(config.halt_max_steps, 2) + 1, (slots,), generator=generator)
    return torch.where(explores, minimum, 1)


def build_model(config: ModelParams, meta: DatasetMeta, seed: int = 0, dtype: torch.dtype = torch.float32) -> TRM:
    """A new model with float32 weights drawn from `seed`, computing in `dtype`."""
    return TRM(config, meta, dtype, torch.Generator().manual_seed(seed))
