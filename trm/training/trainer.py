"""The training stage: step, log, evaluate, save, and go on where a killed run stopped."""

import math
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from trm.config.model import ModelParams
from trm.config.training import TrainParams
from trm.data.batches import START, StreamPosition, collate, total_steps, training_batches
from trm.data.parquet import Split, read_meta, read_split
from trm.utils.device import resolve_device, resolve_precision
from trm.training.distributed import ALONE, World, world
from trm.utils.errors import InternalError, Interrupted, UserError
from trm.config.dataset_meta import DatasetMeta
from trm.models.act import TRM, Batch, Carry, build_model, draw_min_steps
from trm.utils.progress import Progress, progress
from trm.training.checkpoint import FILE, save_checkpoint
from trm.training.remote_checkpoints import RemoteCheckpoints, copies_of
from trm.training.ema import averaged_copy, update_average
from trm.training.signals import Interrupts, interruptible
from trm.training.losses import LOSSES, METRICS, step_metrics, supervision_loss
from trm.training.optimizers import network_optimizer, sign_sgd_rows
from trm.training.schedule import learning_rate
from trm.training.init_from import init_from
from trm.training.train_state import TrainState, TsvLog, load_state, replace_durably, run_folder, save_state
from trm.training.validation import to_tensors, validate

SCORES = ("exact_accuracy", "cell_accuracy", "halt_accuracy")


def train(model: ModelParams, train: TrainParams, dataset: Path, out: Path, key: str) -> dict[str, object]:
    """Train on the data set in `dataset`; write the checkpoint and the training log to `out`.

    Started by torchrun, all processes train together and the leader writes. State lies in the folder of the run's
    content `key`. Raises `UserError` for settings that do not fit the data,
    `InternalError` at the first loss that is not finite, `Interrupted` after SIGTERM or SIGINT, with the state saved.
    """
    with world(resolve_device(train.device)) as processes, interruptible() as interrupts:
        run = _Run(model, train, dataset, processes)
        with run_folder(key) if processes.leads else nullcontext(out) as folder:
            if processes.size > 1:
                interrupts.wait_for_agreement()
            run.open(folder, copies_of(folder) if processes.leads else None)
            try:
                with progress("train", run.total, run.state.step, silent=not processes.leads) as bar:
                    run.to_the_end(bar, interrupts)
            except Interrupted:
                with interrupts.held():
                    run.save()
                    run.finish_copies()
                raise
            run.finish_copies()
            if processes.leads:
                for file in (folder / FILE, *(log.path for log in run.logs)):
                    shutil.copyfile(file, out / file.name)
    state = run.state
    return {
        "device": run.device.type,
        "precision": str(run.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "processes": processes.size,
        "steps": state.step,
        "parameters": sum(weight.numel() for weight in state.model.parameters()),
        "chosen_step": state.best_step or state.step,
        "timing": {"train_seconds": round(state.seconds, 3), "steps_per_second": round(state.step / state.seconds, 3)},
    }


def new_state(
    config: ModelParams, meta: DatasetMeta, settings: TrainParams, batch: Batch, dtype: torch.dtype
) -> TrainState:
    """A run before its first step, on the device of `batch`, which holds this process's share of the slots."""
    device = batch["inputs"].device
    model = build_model(config, meta, seed=settings.seed, dtype=dtype)
    if settings.start is not None:
        init_from(model, settings.start)
    if settings.freeze_weights and not config.puzzle_emb_ndim:
        raise UserError("train.freeze_weights must be false where model.puzzle_emb_ndim is 0: there is nothing to train")
    model = model.to(device).train().requires_grad_(not settings.freeze_weights)
    betas = (settings.beta1, settings.beta2)
    return TrainState(
        model=model,
        average=averaged_copy(model),
        optimizer=network_optimizer(model.parameters(), betas, settings.weight_decay, device),
        carry=model.initial_carry(batch),
        place=START,
        window=torch.zeros(len(LOSSES) + len(METRICS), dtype=torch.float64),
    )


def network_of(model: TRM, settings: TrainParams, processes: World) -> torch.nn.Module:
    """What does the supervision steps of training: the model, compiled if asked for, its gradients summed if shared.

    With several processes DistributedDataParallel sums the gradients in buckets while the backward pass goes on.
    """
    if settings.compile:
        # As a whole, but seven states pass by pass: torch 2.13 gets the gradients of their sums wrong on the CPU.
        name = "deep_recursion" if len(model.variant.latents) < 2 else "net"
        setattr(model, name, torch.compile(getattr(model, name)))  # an attribute: the names of the weights stay
    if processes.size == 1 or settings.freeze_weights:  # a frozen network has no gradients to sum
        return model
    return DistributedDataParallel(model, forward_sync_buffers=False, gradient_as_bucket_view=True)


def train_step(
    state: TrainState,
    network: torch.nn.Module,
    batch: Batch,
    place: StreamPosition,
    settings: TrainParams,
    total: int,
    processes: World = ALONE,
    held: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> float:
    """One supervision step, one loss, one backward pass, one update; returns the loss of the global batch.

    `network` is `network_of` the state's model, `batch` this process's share; `place` is where the data goes on after
    the batch; `total` the schedule's length in steps. The state changes inside one `held` block, so that an
    interruption finds it before the step or after it. Raises `InternalError` for a loss that is not finite, in every process
    and before anything changed.
    """
    step = state.step + 1
    slots = settings.global_batch_size
    generator = _step_generator(settings.seed, step)
    min_steps = draw_min_steps(state.model.config, slots, generator)[processes.share(slots)].to(state.model.device)
    state.optimizer.zero_grad()
    parts = _parts(len(min_steps), settings.micro_batch_size or slots)
    carries: list[Carry] = []
    rows: list[tuple[Tensor, Tensor]] = []
    sums = torch.zeros(len(LOSSES) + len(METRICS) + 1, dtype=torch.float64)
    for part in parts:
        with nullcontext() if part is parts[-1] else _summing_later(network):
            given = batch if len(parts) == 1 else {name: values[part] for name, values in batch.items()}
            carry = state.carry if len(parts) == 1 else state.carry.part(part)
            carry, out = network(carry, given, min_steps[part])
            losses = supervision_loss(carry, out, settings.loss, slots)
            # Gradients of the processes are averaged; the loss is already a part of the global batch's mean.
            (losses.total * processes.size).backward()
        carries.append(carry)
        if out.puzzle_rows.grad is not None:
            rows.append((carry.puzzle_identifiers, out.puzzle_rows.grad))
        sums += torch.cat((losses.sums, step_metrics(carry, out), losses.total.detach()[None])).cpu()
    *totals, loss = processes.sum(sums)
    if not math.isfinite(loss):
        raise InternalError(f"step {step}: the loss is {loss.item()}; try a lower train.lr or a longer train.lr_warmup_steps")
    with held():
        for group in state.optimizer.param_groups:
            group["lr"] = _learning_rate(settings, settings.lr, step, total)
        state.optimizer.step()
        if rows:
            identifiers, gradients = (processes.join(torch.cat(values)) for values in zip(*rows, strict=True))
            rate = _learning_rate(settings, settings.puzzle_emb_lr, step, total)
            sign_sgd_rows(state.model.puzzle_table, identifiers, gradients, rate, settings.puzzle_emb_weight_decay)
        update_average(state.average, state.model, settings.ema_rate)
        state.window += torch.stack(totals)
        state.window_steps += 1
        state.carry, state.place, state.step = Carry.joined(carries), place, step
    return loss.item()


def _parts(slots: int, most: int) -> list[slice]:
    return [slice(start, min(start + most, slots)) for start in range(0, slots, most)]


def _summing_later(network: Any) -> AbstractContextManager[None]:  # noqa: ANN401 - a module, wrapped or not
    return network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext()


def _learning_rate(settings: TrainParams, base: float, step: int, total: int) -> float:
    return learning_rate(step, base, settings.lr_warmup_steps, total, settings.lr_min_ratio)


def _step_generator(seed: int, step: int) -> torch.Generator:
    # A function of seed and step alone: nothing to save, and every process of a run draws the same.
    word = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(word >> 1))


class _Run:
    """The data, the state and the files of one call of `train`."""

    def __init__(self, config: ModelParams, settings: TrainParams, dataset: Path, processes: World) -> None:
        self.settings, self.processes = settings, processes
        self.slots = processes.share(settings.global_batch_size)
        self.meta = read_meta(dataset)
        self.split: Split = read_split(dataset / "train")
        self.validation = read_split(dataset / "validation") if (dataset / "validation").is_dir() else None
        self.total = total_steps(self.split, settings.epochs, settings.global_batch_size)
        if self.total == 0:
            raise UserError(
                f"train.global_batch_size: {settings.epochs} epochs of {self.split.counts()['groups']} groups hold no "
                f"whole batch of {settings.global_batch_size} examples; set it lower or train.epochs higher"
            )
        self.device = resolve_device(settings.device)
        self.dtype = resolve_precision(settings.precision, self.device)
        first = collate(self.split, np.zeros(self.slots.stop - self.slots.start, dtype=np.int64))
        self.state = new_state(config, self.meta, settings, to_tensors(first, self.device), self.dtype)
        self.network = network_of(self.state.model, settings, processes)

    def open(self, folder: Path, copies: RemoteCheckpoints | None) -> None:
        """Take up the state that lies in `folder`, or its newest copy, if there is one."""
        self.folder, self.copies = folder, copies
        if copies is not None:
            copies.bring()
        self.log = TsvLog(folder / "train.tsv", ("step", "epoch", "lr", *LOSSES, *METRICS[1:]))
        self.scores = TsvLog(folder / "validation.tsv", ("step", "epoch", *SCORES))
        self.logs = [self.log, self.scores] if self.validation is not None else [self.log]
        if load_state(folder, self.state, self.logs, self.processes) and self.processes.leads:
            print(f"train: goes on from step {self.state.step} of {self.total}", file=sys.stderr, flush=True)
        self.started = time.monotonic() - self.state.seconds

    def save(self) -> None:
        self.state.seconds = time.monotonic() - self.started
        save_state(self.folder, self.state, self.logs, self.processes)
        if self.copies is not None:
            self.copies.save()

    def finish_copies(self) -> None:
        """Wait a moment for the last state's copy."""
        if self.copies is not None:
            self.copies.finish()

    def to_the_end(self, bar: Progress, interrupts: Interrupts) -> None:
        """Step, log, evaluate, save until the schedule or the data ends; the result lies in the folder then."""
        state, settings = self.state, self.settings
        batches = training_batches(self.split, settings.epochs, settings.global_batch_size, settings.seed, state.place)
        # First what an interruption right after a step may have left undone.
        self.log_when_due(interrupts)
        self.evaluate_when_due(interrupts)
        for rows, place in batches:
            if state.step >= self.total:
                break
            batch = to_tensors(collate(self.split, rows[self.slots]), self.device)
            loss = train_step(state, self.network, batch, place, settings, self.total, self.processes, interrupts.held)
            bar.advance(note=f"loss {loss:.4f}")
            self.log_when_due(interrupts)
            self.evaluate_when_due(interrupts)
            if state.step % settings.checkpoint_interval == 0:
                with interrupts.held():
                    self.save()
            if self.processes.any(interrupts.pending):
                interrupts.stop()
        if self.validation is not None and state.scored_step < state.step:
            self.evaluate(self.validation, interrupts)
        with interrupts.held():
            self.finish()

    def log_when_due(self, interrupts: Interrupts) -> None:
        """A line every `log_interval` steps."""
        if self.state.window_steps >= self.settings.log_interval:
            with interrupts.held():
                self.write_log()

    def write_log(self) -> None:
        """One line: means over the steps, and over the sequences that halted, since the last line."""
        state, settings = self.state, self.settings
        sums = state.window.tolist()
        losses, count = sums[: len(LOSSES)], sums[len(LOSSES)]
        row: dict[str, float | int | None] = {"step": state.step, "epoch": state.place.epoch}
        row["lr"] = _learning_rate(settings, settings.lr, state.step, self.total)
        row |= {
            name: value / (settings.global_batch_size * state.window_steps)
            for name, value in zip(LOSSES, losses, strict=True)
        }
        metrics = zip(METRICS[1:], sums[len(LOSSES) + 1 :], strict=True)
        row |= {name: value / count if count else None for name, value in metrics}
        if self.processes.leads:
            self.log.add(row)
        state.window.zero_()
        state.window_steps = 0

    def evaluate_when_due(self, interrupts: Interrupts) -> None:
        """Every `eval_interval` epochs: score the average on the validation groups, keep the best."""
        state, interval = self.state, self.settings.eval_interval
        if self.validation is not None and state.place.epoch // interval > state.scored_epoch // interval:
            self.evaluate(self.validation, interrupts)

    def evaluate(self, validation: Split, interrupts: Interrupts) -> None:
        state, steps = self.state, self.state.model.config.halt_max_steps
        scores = validate(state.average, validation, self.slots.stop - self.slots.start, steps, self.processes)
        with interrupts.held():
            if self.processes.leads:
                self.scores.add({"step": state.step, "epoch": state.place.epoch, **scores})
            score = (scores["exact_accuracy"], scores["cell_accuracy"])
            if score > state.best_score:
                state.best_score, state.best_step = score, state.step
                self.keep({"step": state.step, "validation": scores})
            state.scored_step, state.scored_epoch = state.step, state.place.epoch

    def finish(self) -> None:
        """The last line of the log; without validation groups the last weights are the result."""
        if self.state.window_steps:
            self.write_log()
        if self.validation is None:
            self.keep({"step": self.state.step})
        self.save()

    def keep(self, facts: dict[str, object]) -> None:
        if not self.processes.leads:
            return
        beside = self.folder / f"{FILE}.new"
        save_checkpoint(beside, self.state.model, self.state.average, facts)
        replace_durably(beside, self.folder / FILE)
