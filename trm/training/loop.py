"""The training stage: step, log, evaluate, save, and go on where a killed run stopped."""

import math
import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import torch

from trm.config import ModelParams, TrainParams
from trm.data.batches import START, Place, collate, total_steps, training_batches
from trm.data.store import Split, read_meta, read_split
from trm.device import resolve_device, resolve_precision
from trm.errors import Fault, Interrupted, UserError
from trm.meta import DatasetMeta
from trm.model.supervision import Batch, build_model, draw_min_steps
from trm.progress import Progress, progress
from trm.training.checkpoint import FILE, save_checkpoint
from trm.training.ema import averaged_copy, update_average
from trm.training.interrupt import Interrupts, interruptible
from trm.training.loss import LOSSES, METRICS, step_metrics, supervision_loss
from trm.training.optimizers import network_optimizer, sign_sgd_rows
from trm.training.schedule import learning_rate
from trm.training.state import TrainState, TsvLog, load_state, replace_durably, run_folder, save_state
from trm.training.validation import to_tensors, validate

SCORES = ("exact_accuracy", "cell_accuracy", "halt_accuracy")


def train(model: ModelParams, train: TrainParams, dataset: Path, out: Path, key: str) -> dict[str, object]:
    """Train on the data set in `dataset`; write the checkpoint and the training log to `out`.

    State lies in the folder of the run's content `key`. Raises `UserError` for settings that do not fit the data,
    `Fault` at the first loss that is not finite, `Interrupted` after SIGTERM or SIGINT, with the state saved.
    """
    run = _Run(model, train, dataset)
    with run_folder(key) as folder, interruptible() as interrupts:
        run.open(folder)
        try:
            with progress("train", run.total, done=run.state.step) as bar:
                run.to_the_end(bar, interrupts)
        except Interrupted:
            with interrupts.held():
                run.save()
            raise
        shutil.copyfile(folder / FILE, out / FILE)
        for log in run.logs:
            shutil.copyfile(log.path, out / log.path.name)
    state = run.state
    return {
        "device": run.device.type,
        "precision": str(run.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "processes": 1,
        "steps": state.step,
        "parameters": sum(weight.numel() for weight in state.model.parameters()),
        "chosen_step": state.best_step or state.step,
        "timing": {"train_seconds": round(state.seconds, 3), "steps_per_second": round(state.step / state.seconds, 3)},
    }


def new_state(
    config: ModelParams, meta: DatasetMeta, settings: TrainParams, batch: Batch, dtype: torch.dtype
) -> TrainState:
    """A run before its first step, on the device of `batch`."""
    device = batch["inputs"].device
    model = build_model(config, meta, seed=settings.seed, dtype=dtype).to(device).train()
    betas = (settings.beta1, settings.beta2)
    return TrainState(
        model=model,
        average=averaged_copy(model),
        optimizer=network_optimizer(model.parameters(), betas, settings.weight_decay, device),
        carry=model.initial_carry(batch),
        place=START,
        window=torch.zeros(len(LOSSES) + len(METRICS), dtype=torch.float64),
    )


def train_step(
    state: TrainState,
    batch: Batch,
    place: Place,
    settings: TrainParams,
    total: int,
    held: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> float:
    """One supervision step, one loss, one backward pass, one update; returns the loss.

    `place` is where the data goes on after `batch`; `total` the schedule's length in steps. The state changes inside
    one `held` block, so that an interruption finds it before the step or after it. Raises `Fault` for a loss that is
    not finite, before anything changed.
    """
    step = state.step + 1
    config, slots = state.model.config, settings.global_batch_size
    min_steps = draw_min_steps(config, slots, _step_generator(settings.seed, step)).to(state.model.device)
    carry, out = state.model.supervision_step(state.carry, batch, min_steps)
    losses = supervision_loss(carry, out, settings.loss, slots)
    loss = losses.total.item()
    if not math.isfinite(loss):
        raise Fault(f"step {step}: the loss is {loss}; try a lower train.lr or a longer train.lr_warmup_steps")
    state.optimizer.zero_grad()
    losses.total.backward()
    with held():
        for group in state.optimizer.param_groups:
            group["lr"] = _learning_rate(settings, settings.lr, step, total)
        state.optimizer.step()
        if out.puzzle_rows.grad is not None:
            sign_sgd_rows(
                state.model.puzzle_table,
                carry.puzzle_identifiers,
                out.puzzle_rows.grad,
                _learning_rate(settings, settings.puzzle_emb_lr, step, total),
                settings.puzzle_emb_weight_decay,
            )
        update_average(state.average, state.model, settings.ema_rate)
        state.window += torch.cat((losses.sums, step_metrics(carry, out))).cpu()
        state.window_steps += 1
        state.carry, state.place, state.step = carry, place, step
    return loss


def _learning_rate(settings: TrainParams, base: float, step: int, total: int) -> float:
    return learning_rate(step, base, settings.lr_warmup_steps, total, settings.lr_min_ratio)


def _step_generator(seed: int, step: int) -> torch.Generator:
    # A function of seed and step alone: nothing to save, and every process of a run draws the same.
    word = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(word >> 1))


class _Run:
    """The data, the state and the files of one call of `train`."""

    def __init__(self, config: ModelParams, settings: TrainParams, dataset: Path) -> None:
        self.settings = settings
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
        first = collate(self.split, np.zeros(settings.global_batch_size, dtype=np.int64))
        self.state = new_state(config, self.meta, settings, to_tensors(first, self.device), self.dtype)

    def open(self, folder: Path) -> None:
        """Take up the state that lies in `folder`, if one does."""
        self.folder = folder
        self.log = TsvLog(folder / "train.tsv", ("step", "epoch", "lr", *LOSSES, *METRICS[1:]))
        self.scores = TsvLog(folder / "validation.tsv", ("step", "epoch", *SCORES))
        self.logs = [self.log, self.scores] if self.validation is not None else [self.log]
        load_state(folder, self.state, self.logs)
        self.started = time.monotonic() - self.state.seconds

    def save(self) -> None:
        self.state.seconds = time.monotonic() - self.started
        save_state(self.folder, self.state, self.logs)

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
            batch = to_tensors(collate(self.split, rows), self.device)
            loss = train_step(state, batch, place, settings, self.total, interrupts.held)
            bar.advance(note=f"loss {loss:.4f}")
            self.log_when_due(interrupts)
            self.evaluate_when_due(interrupts)
            if state.step % settings.checkpoint_interval == 0:
                with interrupts.held():
                    self.save()
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
        scores = validate(state.average, validation, self.settings.global_batch_size, steps)
        with interrupts.held():
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
        beside = self.folder / f"{FILE}.new"
        save_checkpoint(beside, self.state.model, self.state.average, facts)
        replace_durably(beside, self.folder / FILE)
