"""A training step: supervision step, loss, backward pass and optimizer step."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
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
from trm.training.compilation import compile_passes
from trm.training.distributed import SINGLE_PROCESS, World
from trm.training.ema import ema_copy, update_ema
from trm.training.init_from import init_from
from trm.training.losses import LOSSES, METRICS, step_metrics, step_weights, supervision_loss
from trm.training.optimizers import network_optimizers, sign_sgd_rows
from trm.training.schedule import learning_rate
from trm.training.train_state import TrainState
from trm.utils.errors import InternalError, UserError


def new_state(
    config: ModelParams, meta: DatasetMeta, settings: TrainParams, batch: Batch, dtype: torch.dtype
) -> TrainState:
    """A run before its first step, on the device of `batch`, which contains this process's slots."""
    device = batch["inputs"].device
    model = build_model(config, meta, seed=settings.seed, dtype=dtype)
    if settings.init_from is not None:
        init_from(model, settings.init_from)
    if settings.freeze_weights and not config.puzzle_emb_ndim:
        raise UserError("train.freeze_weights must be false if model.puzzle_emb_ndim is 0: nothing would be trained")
    model = model.to(device).train().requires_grad_(not settings.freeze_weights)
    return TrainState(
        model=model,
        average=ema_copy(model),
        optimizers=network_optimizers(model, settings),
        carry=model.initial_carry(batch),
        position=START,
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
        compile_passes(model, min(sequences, settings.micro_batch_size or sequences))
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
    or after the step. Raises `InternalError` for a non-finite loss, in every process and before any change; with a GPU,
    which such a check would stall, `check_losses` does it later.
    """
    step = state.step + 1
    slots = settings.global_batch_size
    generator = _step_generator(settings.seed, step)
    min_steps = draw_min_steps(state.model.config, slots, generator)[processes.shard(slots)]
    min_steps = min_steps.to(state.model.device, non_blocking=True)
    for optimizer in state.optimizers:
        optimizer.zero_grad()
    parts = _parts(len(min_steps), settings.micro_batch_size or slots)
    carries: list[Carry] = []
    rows: list[tuple[Tensor, Tensor]] = []
    sums = torch.zeros_like(state.metric_sums)
    for part in parts:
        synchronized = nullcontext() if part is parts[-1] else _without_sync(network)
        with synchronized, _at_depth(state.model, settings, step / total):
            part_batch = batch if len(parts) == 1 else {name: values[part] for name, values in batch.items()}
            carry = state.carry if len(parts) == 1 else state.carry.part(part)
            carry, out = network(carry, part_batch, min_steps[part])
            losses = supervision_loss(carry, out, settings.loss, slots, **_loss_options(carry, state, settings))
            # DDP averages the gradients of the processes; the loss is already divided by the global batch size.
            (losses.total * processes.size).backward()
        carries.append(carry)
        if out.puzzle_rows.grad is not None:
            rows.append((carry.puzzle_identifiers, out.puzzle_rows.grad))
        sums += torch.cat((losses.sums, step_metrics(carry, out))).to(sums.device)
    sums = processes.all_reduce(sums)
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
        update_ema(state.average, state.model, settings.ema_rate)
        state.metric_sums += sums
        state.metric_steps += 1
        state.carry, state.position, state.step = Carry.concatenate(carries), position, step
    return loss


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


def _loss_options(carry: Carry, state: TrainState, settings: TrainParams) -> dict[str, Any]:
    weights = None
    if settings.step_loss_decay != 1:
        weights = step_weights(carry.steps, state.model.config.halt_max_steps, settings.step_loss_decay)
    return {
        "label_smoothing": settings.label_smoothing,
        "halt_loss_weight": settings.halt_loss_weight,
        "slot_weights": weights,
    }


def check_losses(state: TrainState) -> None:
    """Raise `InternalError`, in every process, if a loss since the last line of the log was NaN or infinite."""
    _check_loss(state.metric_sums[0], f"step {state.step}: the sum of the last {state.metric_steps} losses")


def _check_loss(loss: Tensor, name: str) -> None:
    if not math.isfinite(loss):
        raise InternalError(f"{name} is {loss.item()}; lower train.lr or raise train.lr_warmup_steps")


def reads_are_free(device: torch.device) -> bool:
    """False for a GPU, which runs behind the program: reading a value waits until it has caught up."""
    return device.type == "cpu"


def _parts(slots: int, most: int) -> list[slice]:
    return [slice(start, min(start + most, slots)) for start in range(0, slots, most)]


def _without_sync(network: Any) -> AbstractContextManager[None]:  # noqa: ANN401 - a module, wrapped or not
    return network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext()


def rate_at(settings: TrainParams, base: float, step: int, total: int) -> float:
    """The learning rate of a step in a schedule of `total` steps, for the rate `base` after warm-up."""
    return learning_rate(step, base, settings.lr_warmup_steps, total, settings.lr_min_ratio)


def _step_generator(seed: int, step: int) -> torch.Generator:
    # A function of seed and step: nothing to save, and all processes draw the same numbers.
    word = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(word >> 1))
