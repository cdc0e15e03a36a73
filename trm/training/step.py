"""A training step: supervision step, loss, backward pass and optimizer step."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from trm.config.dataset_meta import DatasetMeta
from trm.config.model import ModelParams
from trm.config.training import TrainParams
from trm.data.batches import START, StreamPosition
from trm.models.act import TRM, Batch, Carry, build_model, draw_min_steps
from trm.models.compilation import compile_passes
from trm.training.distributed import SINGLE_PROCESS, World
from trm.training.ema import ema_copy, update_ema
from trm.training.init_from import copy_weights, init_from
from trm.training.losses import LOSSES, METRICS, step_metrics, supervision_loss, winners
from trm.training.non_finite import REMEDY, NonFiniteLossError, gradient_check
from trm.training.optimizers import network_optimizers, sign_sgd_rows
from trm.training.schedule import learning_rate
from trm.training.train_state import TrainState
from trm.utils.device import to_device
from trm.utils.errors import UserError


def new_state(
    config: ModelParams,
    meta: DatasetMeta,
    settings: TrainParams,
    batch: Batch,
    dtype: torch.dtype,
    source: TRM | None = None,
) -> TrainState:
    """A run before its first step, on the device of `batch`, which contains this process's slots.

    source: a model whose weights and mean row of the puzzle embedding initialize the run, instead of that of
    `settings.init_from`.
    """
    device = batch["inputs"].device
    model = build_model(config, meta, seed=settings.seed, dtype=dtype)
    if source is not None:
        copy_weights(source, model, reset_puzzle_emb=True)
    elif settings.init_from is not None:
        init_from(model, settings.init_from)
    if settings.freeze_weights and not config.puzzle_emb_ndim:
        raise UserError("train.freeze_weights must be false if model.puzzle_emb_ndim is 0: nothing would be trained")
    if settings.winner_takes_all > 1 and not model.random_states:
        raise UserError(
            f"train.winner_takes_all must be 1 if no state starts from noise. Got {settings.winner_takes_all}; or set "
            "model.random_start to latents"
        )
    model = model.to(device).train().requires_grad_(not settings.freeze_weights)
    carry = model.initial_carry(_repeated(batch, settings.winner_takes_all * settings.carry_pool))
    if settings.carry_pool > 1:  # changed in place, so no memory may be shared
        carry = Carry.of({name: tensor.contiguous().clone() for name, tensor in carry.tensors().items()})
    return TrainState(
        model=model,
        average=ema_copy(model),
        optimizers=network_optimizers(model, settings),
        carry=carry,
        position=START,
        changed_rows=torch.ones(len(model.puzzle_table), dtype=torch.bool, device=device),
        # MPS has no float64.
        metric_sums=torch.zeros(
            len(LOSSES) + len(METRICS), dtype=torch.float64, device=device if device.type == "cuda" else "cpu"
        ),
    )


def network_of(model: TRM, settings: TrainParams, processes: World, compiled: bool = False) -> torch.nn.Module:
    """The module that computes supervision steps: the model, compiled and wrapped for several processes if needed.

    With several processes DistributedDataParallel sums gradients in buckets during the backward pass.
    """
    if compiled:
        sequences = settings.global_batch_size // processes.size
        sequences = min(sequences, settings.micro_batch_size or sequences) * settings.winner_takes_all
        compile_passes(model, "train.compile", sequences, backward=True)
    if processes.size == 1 or settings.freeze_weights:  # a frozen network has no gradients
        return model
    return DistributedDataParallel(model, forward_sync_buffers=False, gradient_as_bucket_view=True)


def train_step(
    state: TrainState,
    network: torch.nn.Module,
    batch: Batch,
    position: StreamPosition,
    settings: TrainParams,
    total: int,
    processes: World = SINGLE_PROCESS,
    held: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Tensor:
    """One supervision step, loss, backward pass and optimizer step; returns the loss of the global batch, float64 [].

    network: `network_of` the model of `state`. batch: this process's slots. position: position after the batch. total:
    length of the schedule in steps. The state changes inside one `held` block, so that an interruption leaves it before
    or after the step. Raises `NonFiniteLossError`, in every process and before any change; with a GPU, which such a
    check would stall, `check_losses` does it later.
    """
    step = state.step + 1
    slots, starts = settings.global_batch_size, settings.winner_takes_all
    own = processes.shard(slots)
    min_steps = draw_min_steps(state.model.config, slots, _step_generator(settings.seed, step))[own]
    min_steps = to_device(min_steps, state.model.device)
    for optimizer in state.optimizers:
        optimizer.zero_grad()
    turn = _slots_of(slice(0, len(min_steps)), starts, (step - 1) % settings.carry_pool * len(min_steps))
    carry = state.carry if settings.carry_pool == 1 else state.carry.part(turn)
    parts = _parts(len(min_steps), settings.micro_batch_size or slots)
    results: list[_PartResult] = []
    for part in parts:
        synchronized = nullcontext() if part is parts[-1] else _without_sync(network)
        with synchronized, _at_depth(state.model, settings, step / total):
            part_batch = batch if len(parts) == 1 else {name: values[part] for name, values in batch.items()}
            part_carry = carry if len(parts) == 1 else carry.part(_slots_of(part, starts))
            noise = noise_generator(state.model, settings.seed, step, own.start + part.start)
            results.append(
                _backward(state, network, part_carry, part_batch, min_steps[part], settings, processes.size, noise)
            )
    own_sums = torch.stack([result.sums for result in results]).sum(0)
    rows = [result.rows for result in results if result.rows is not None]
    check = torch.zeros_like(own_sums[0])
    if settings.rollback_on_nonfinite:
        check = _check_gradients(state.model, rows).to(own_sums)
    state.own_losses[step] = torch.stack((own_sums[0], check))
    own_sums[0] += check  # so that all processes learn of it with the loss
    sums = processes.all_reduce(own_sums)
    loss = sums[0] / slots
    if reads_are_free(sums.device):
        _check_loss(loss, f"step {step}: the loss")
    if settings.max_grad_norm is not None:
        torch.nn.utils.clip_grad_norm_(state.model.parameters(), settings.max_grad_norm)
    with held():
        for optimizer in state.optimizers:
            for group in optimizer.param_groups:
                rate = rate_at(settings, group["base_lr"], step, total)
                # torch cannot convert larger numbers; infinite weights are reported by the next loss or `check_finite`.
                group["lr"] = rate if rate <= torch.finfo(torch.float32).max else math.inf
            optimizer.step()
        if rows:
            identifiers, gradients = (processes.all_gather(torch.cat(values)) for values in zip(*rows, strict=True))
            puzzle_emb = settings.optimizer.puzzle_emb
            rate = rate_at(settings, puzzle_emb.lr, step, total)
            sign_sgd_rows(state.model.puzzle_table, identifiers, gradients, rate, puzzle_emb.weight_decay)
            state.changed_rows[identifiers] = True
        update_ema(state.average, state.model, settings.ema_rate)
        state.metric_sums += sums
        state.metric_steps += 1
        carry = Carry.concatenate([result.carry for result in results])
        if settings.carry_pool == 1:
            state.carry = carry
        else:
            state.carry.set_part(turn, carry)
        state.position, state.step = position, step
    return loss


def _check_gradients(model: TRM, rows: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """`gradient_check` of all gradients of a step; rows: those of the puzzle embedding with their identifiers."""
    weights = [weight.grad for weight in model.parameters() if weight.grad is not None]
    return gradient_check([*weights, *(gradients for _, gradients in rows)])


@dataclass(frozen=True)
class _PartResult:
    """A part of the batch after its backward pass."""

    carry: Carry
    rows: tuple[Tensor, Tensor] | None
    """Identifiers int [b] and gradients float32 [b, puzzle_emb_ndim] of the rows of the puzzle table."""
    sums: Tensor
    """Sums of losses and metrics, on the device of `TrainState.metric_sums`."""


def _backward(
    state: TrainState,
    network: torch.nn.Module,
    carry: Carry,
    batch: Batch,
    min_steps: Tensor,
    settings: TrainParams,
    processes: int,
    noise: torch.Generator | None,
) -> _PartResult:
    """Supervision step, loss and backward pass of a part of the batch."""
    starts = settings.winner_takes_all
    carry, out = network(carry, _repeated(batch, starts), min_steps.repeat_interleave(starts), noise)
    trained = carry, out
    if starts > 1:
        best = winners(carry, out, settings.loss, starts)
        trained = carry.at(best), out.at(best)
        # The slots of a sequence take their next example together.
        carry = replace(carry, halted=carry.halted[best].repeat_interleave(starts))
    losses = supervision_loss(
        *trained,
        settings.loss,
        settings.global_batch_size,
        label_smoothing=settings.label_smoothing,
        halt_loss_weight=settings.halt_loss_weight,
    )
    # DDP averages the gradients of the processes; the loss is already divided by the global batch size.
    (losses.total * processes).backward()
    gradients = out.puzzle_rows.grad
    rows = None if gradients is None else (carry.puzzle_identifiers, gradients)
    sums = torch.cat((losses.sums, step_metrics(*trained)))
    return _PartResult(carry, rows, sums.to(state.metric_sums.device, state.metric_sums.dtype))


def _slots_of(sequences: slice, starts: int, first: int = 0) -> slice:
    """The slots of these sequences, counted from the sequence `first`, if each one has `starts` slots."""
    return slice((first + sequences.start) * starts, (first + sequences.stop) * starts)


@contextmanager
def _at_depth(model: TRM, settings: TrainParams, progress: float) -> Iterator[None]:
    """Give the model the depth of `train.depth_schedule` during the block.

    progress: completed fraction of the training.
    """
    config = model.config
    part = next((part for part in settings.depth_schedule if progress <= part.until), None)
    if part is not None:
        model.config = config.model_copy(update={"H_cycles": part.H_cycles, "L_cycles": part.L_cycles})
    try:
        yield
    finally:
        model.config = config


def check_losses(state: TrainState) -> None:
    """Raise `NonFiniteLossError`, in every process, if a loss since the last line of the log was NaN or infinite."""
    _check_loss(state.metric_sums[0], f"step {state.step}: the sum of the last {state.metric_steps} losses")
    state.own_losses.clear()


def _check_loss(loss: Tensor, name: str) -> None:
    if not math.isfinite(loss):
        raise NonFiniteLossError(f"{name} is {loss.item()}; {REMEDY}")


def reads_are_free(device: torch.device) -> bool:
    """False for a GPU, which runs behind the program: reading a value waits until it has caught up."""
    return device.type == "cpu"


def _parts(slots: int, most: int) -> list[slice]:
    return [slice(start, min(start + most, slots)) for start in range(0, slots, most)]


def _repeated(batch: Batch, times: int) -> Batch:
    """Each sequence `times` times, adjacent."""
    return batch if times == 1 else {name: values.repeat_interleave(times, 0) for name, values in batch.items()}


def noise_generator(model: TRM, seed: int, step: int, first_slot: int) -> torch.Generator | None:
    """The generator of start states and update noise of a part of the batch; None if there is no noise."""
    if not model.random_states and not model.config.update_noise:
        return None
    # Computed on the device, because it is needed in each pass.
    return torch.Generator(model.device).manual_seed(_seed_word(seed, step, 1 + first_slot))


def _without_sync(network: Any) -> AbstractContextManager[None]:  # noqa: ANN401 - a module, wrapped or not
    return network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext()


def rate_at(settings: TrainParams, base: float, step: int, total: int) -> float:
    """The learning rate of a step in a schedule of `total` steps, for the rate `base` after warm-up."""
    return learning_rate(step, base, settings.lr_warmup_steps, total, settings.lr_min_ratio)


def _step_generator(seed: int, step: int) -> torch.Generator:
    # A function of seed and step: nothing to save, and all processes draw the same numbers.
    return torch.Generator().manual_seed(_seed_word(seed, step))


def _seed_word(*seeds: int) -> int:
    return int(np.random.SeedSequence(seeds).generate_state(1, np.uint64)[0] >> 1)
