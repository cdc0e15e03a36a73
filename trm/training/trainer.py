"""The stage `train`: optimizer steps, logging, evaluation, checkpoints; interrupted runs resume."""

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from trm.config.dataset_meta import DatasetMeta
from trm.config.model import ModelParams
from trm.config.training import TrainParams
from trm.data.batches import StreamPosition, collate, total_steps, training_batches
from trm.data.online_augmentation import OnlineAugmentation
from trm.data.parquet import Split, read_meta, read_split
from trm.datasets.online import get_augmentation
from trm.models.act import Batch
from trm.models.compilation import should_compile
from trm.training.background import BackgroundWriter
from trm.training.checkpoint import checkpoint_tensors, checkpoint_writer
from trm.training.checks import learning_warnings
from trm.training.cost import announcement, check_disk, check_training, training_operations
from trm.training.determinism import deterministic
from trm.training.distributed import World, world
from trm.training.losses import LOSSES, METRICS
from trm.training.non_finite import FILE as NON_FINITE
from trm.training.non_finite import (
    MOST_CONSECUTIVE,
    REMEDY,
    NonFiniteLossError,
    consecutive,
    first_non_finite,
    save_batch,
)
from trm.training.remote_checkpoints import RemoteCheckpoints, remote_checkpoints
from trm.training.signals import Interrupts, interruptible
from trm.training.state_folder import StateFolder, run_folder, warn
from trm.training.step import check_losses, network_of, new_state, rate_at, reads_are_free, train_step
from trm.training.train_state import TsvLog, load_state, snapshot
from trm.training.validation import to_tensors, validate
from trm.training.watchdog import watchdog
from trm.utils.device import pinned, resolve_device, resolve_precision, to_device
from trm.utils.errors import InternalError, Interrupted, UserError
from trm.utils.paths import states_folder
from trm.utils.prefetch import prefetched
from trm.utils.progress import Progress, progress
from trm.utils.trainer_status import reported
from trm.utils.training_metrics import exported

INTERRUPT_INTERVAL = 10
"""Steps after which several GPUs agree on an interruption: a few seconds, of the 30 that Kubernetes grants."""
VALIDATION_METRICS = ("exact_accuracy", "cell_accuracy", "halt_accuracy")


def train(model: ModelParams, train: TrainParams, dataset: Path, out: Path, key: str) -> dict[str, object]:
    """Train on `dataset`; write checkpoint.safetensors and the logs to `out`; return the facts of the manifest.

    Under torchrun all processes train together and the main process writes. The state is saved in the state folder of
    the content `key`. Raises `UserError` for settings that do not match the dataset, `InternalError` at the first
    non-finite loss, unless its batch is skipped, or for non-finite weights, and `Interrupted` after SIGTERM or SIGINT,
    with the state saved.
    """
    with deterministic(train), world(resolve_device(train.device)) as processes, interruptible() as interrupts:
        run = _Run(model, train, dataset, processes, states_folder() / key)
        with run_folder(key) if processes.is_main else nullcontext(out) as folder, run.writer:
            if processes.size > 1:
                interrupts.defer()
            run.open(folder, remote_checkpoints(folder) if processes.is_main else None)
            try:
                is_main = processes.is_main
                shown = progress("train", run.total, run.state.step, silent=not is_main, announce=run.announcement)
                with (
                    shown as display,
                    watchdog(train.max_stall_seconds) as run.is_alive,
                    reported(display, run.total, run.state.step, lambda: run.metrics, is_main) as reporting,
                    exported(reporting, run.total, run.state.step, lambda: run.metrics, run.saved, is_main) as bar,
                ):
                    run.run(bar, interrupts)
            except Interrupted as error:
                with interrupts.held():
                    try:
                        run.save()
                    except NonFiniteLossError:
                        run.roll_back()
                    run.finish_writing()
                saved = f"the state of step {run.state.step} of {run.total} is saved, the same command resumes"
                raise Interrupted(error.signal, saved, error.reason) from None
            run.finish_writing()
            if processes.is_main:
                run.states.publish(out)
    state = run.state
    return {
        "device": run.device.type,
        "precision": str(run.dtype).removeprefix("torch."),
        "compiled": state.compiled,
        "threads": torch.get_num_threads(),
        "processes": processes.size,
        "steps": state.step,
        **({"skipped_batches": len(state.skipped_batches)} if train.rollback_on_nonfinite else {}),
        "parameters": sum(weight.numel() for weight in state.model.parameters()),
        "best_step": state.best_step or state.step,
        "timing": {"train_seconds": round(state.seconds, 3), "steps_per_second": round(state.step / state.seconds, 3)},
    }


class _Run:
    """Data, state and files of a call of `train`."""

    def __init__(
        self, config: ModelParams, settings: TrainParams, dataset: Path, processes: World, batch_folder: Path
    ) -> None:
        """batch_folder: folder for batches with a non-finite loss, in every process."""
        self.settings, self.processes, self.batch_folder = settings, processes, batch_folder
        self.deadline = time.monotonic() + (settings.max_seconds or math.inf)
        self.slots = processes.shard(settings.global_batch_size)
        self.meta = read_meta(dataset)
        self.split: Split = read_split(dataset / "train")
        self.validation = read_split(dataset / "validation") if (dataset / "validation").is_dir() else None
        self.total = total_steps(self.split, settings.epochs, settings.global_batch_size)
        if self.total == 0:
            raise UserError(
                f"train.global_batch_size: {settings.epochs} epochs of {self.split.counts()['groups']} groups do not "
                f"fill a batch of {settings.global_batch_size} examples; lower it or raise train.epochs"
            )
        self.augmentation = _online_augmentation(settings, self.meta)
        self.device = resolve_device(settings.device)
        self.dtype = resolve_precision(settings.precision, self.device)
        if processes.is_main:
            for warning in learning_warnings(config, settings):
                print(f"train: warning: {warning}", file=sys.stderr, flush=True)
        check_training(config, self.meta, self.slots.stop - self.slots.start, settings, self.device, self.dtype)
        first = collate(self.split, np.zeros(self.slots.stop - self.slots.start, dtype=np.int64))
        self.state = new_state(config, self.meta, settings, to_tensors(first, self.device), self.dtype)
        operations = training_operations(config, settings, self.meta, self.total)
        compiled = should_compile(settings.compile, "train.compile", self.device.type, operations)
        self.state.compiled = processes.broadcast_object(compiled)
        self.writer = BackgroundWriter()
        self.is_alive: Callable[[], None] = lambda: None
        """To be called after each step."""
        self.loss_note = self.validation_note = ""
        """The last loss that was read and the last validation accuracy, for the progress display."""
        self.metrics: dict[str, float | None] = {}
        """The last line of each log, by `<log>/<column>`."""
        self.saved_at = time.monotonic()
        """When the last state on disk was taken; at first, when this process started."""

    def open(self, folder: Path, remote: RemoteCheckpoints | None) -> None:
        """Resume from the state in `folder` or its newest remote copy, if there is one."""
        self.states, self.remote = StateFolder(folder), remote
        if self.processes.is_main:
            check_disk(self.state, self.states, self.processes.size)
        if remote is not None:
            remote.download()
        self.log = TsvLog(folder / "train.tsv", ("step", "epoch", "lr", *LOSSES, *METRICS[1:], *self.skip_count()))
        self.validation_log = TsvLog(folder / "validation.tsv", ("step", "epoch", *VALIDATION_METRICS))
        self.logs = [self.log, self.validation_log] if self.validation is not None else [self.log]
        if self.restore() and self.processes.is_main:
            print(f"train: resuming from step {self.state.step} of {self.total}", file=sys.stderr, flush=True)
        if self.state.compiled and self.processes.is_main:
            print("train: with torch.compile; the first steps take longer", file=sys.stderr, flush=True)
        try:
            self.network = network_of(self.state.model, self.settings, self.processes, self.state.compiled)
        except UserError as error:
            if self.settings.compile != "auto" or self.state.step:
                raise
            print(f"train: not compiled: {error}", file=sys.stderr, flush=True)
            self.state.compiled = False
            self.network = network_of(self.state.model, self.settings, self.processes)
        self.started, self.opened_at = time.monotonic() - self.state.seconds, self.state.step

    def restore(self) -> bool:
        """Load the newest undamaged state; returns False if there is none."""
        self.states = StateFolder(self.states.path)
        found = load_state(self.states, self.state, self.logs, self.processes)
        self.checked = self.state.step, self.state.position
        return found

    def skip_count(self) -> dict[str, int]:
        """The column of the log with the number of batches skipped so far; {} if none is ever skipped."""
        if not self.settings.rollback_on_nonfinite:
            return {}
        return {"skipped_batches": sum(step <= self.state.step for step in self.state.skipped_batches)}

    def announcement(self, duration: str) -> str:
        """The line that announces a long training, given the expected duration of the steps that remain."""
        steps = self.total - self.opened_at
        return announcement(self.state.model, steps, self.settings.global_batch_size, self.processes.size, duration)

    def check_losses(self) -> None:
        """Raise `NonFiniteLossError`, in every process, if a loss since the last check was NaN or infinite."""
        check_losses(self.state)
        self.checked = self.state.step, self.state.position

    def roll_back(self) -> None:
        """Load the last state and skip the batch with the first non-finite loss since then.

        The process with this loss saves its batch. Raises `InternalError` if no batch, or no further one, is skipped.
        """
        state = self.state
        step, rank, loss = first_non_finite(state.own_losses, self.processes)
        file = self.batch_folder / NON_FINITE.format(step=step)
        if rank == self.processes.rank:
            batch, _ = next(islice(self.batches(*self.checked), step - 1 - self.checked[0], None))
            save_batch(file, batch, step, rank, loss)
        what = f"the gradient of the loss {loss:.4f} is not finite" if math.isfinite(loss) else f"the loss is {loss}"
        what = f"step {step}, process {rank} of {self.processes.size}: {what}, its batch is in {file}"
        skipped = state.skipped_batches
        if not self.settings.rollback_on_nonfinite or consecutive(step, skipped) > MOST_CONSECUTIVE:
            raise InternalError(f"{what}; {REMEDY}") from None
        self.writer.finish()
        self.restore()
        state.skipped_batches = tuple(sorted({*skipped, step}))
        if self.processes.is_main:
            warn(f"{what}; the batch is skipped, the training continues from the state of step {state.step}")

    def saved(self) -> dict[str, float]:
        """Return where states are saved, and when the last one was taken."""
        return {"disk": self.saved_at} | ({} if self.remote is None else {"s3": self.remote.saved_at})

    def save(self) -> None:
        self.check_losses()
        now = time.monotonic()
        self.state.seconds = now - self.started
        save_state = snapshot(self.state, self.logs, self.processes)
        if save_state is None:
            return

        def write() -> None:
            save_state(self.states)
            self.saved_at = now
            if self.remote is not None:
                self.remote.save()

        self.writer.submit(write)

    def finish_writing(self) -> None:
        """Wait until the last state is saved, and for a limited time until it is uploaded."""
        self.writer.finish()
        if self.remote is not None:
            self.remote.finish()

    def run(self, bar: Progress, interrupts: Interrupts) -> None:
        """Train until the schedule or the data ends; then the result is in the folder."""
        if self.settings.rollback_on_nonfinite and not self.state.step:
            with interrupts.held():
                self.save()
        while True:
            try:
                return self.run_steps(bar, interrupts)
            except NonFiniteLossError:
                before = self.state.step
                with interrupts.held():
                    self.roll_back()
                bar.advance(self.state.step - before)
                self.is_alive()

    def run_steps(self, bar: Progress, interrupts: Interrupts) -> None:
        """Train from the current state on. Raises `NonFiniteLossError`."""
        state, settings = self.state, self.settings
        # First, what an interruption right after a step may have skipped.
        self.log_if_due(interrupts)
        self.evaluate_if_due(interrupts)
        for on_host, position in prefetched(self.batches(state.step, state.position)):
            if state.step >= self.total:
                break
            if state.step + 1 in state.skipped_batches:
                with interrupts.held():
                    state.position, state.step = position, state.step + 1
            else:
                batch = {name: to_device(tensor, self.device) for name, tensor in on_host.items()}
                loss = train_step(
                    state, self.network, batch, position, settings, self.total, self.processes, interrupts.held
                )
                if reads_are_free(loss.device):
                    self.loss_note = f"loss {loss:.4f}"
            self.is_alive()
            bar.advance(note=self.loss_note + self.validation_note)
            self.log_if_due(interrupts)
            self.evaluate_if_due(interrupts)
            if state.step % settings.checkpoint_interval == 0:
                with interrupts.held():
                    self.save()
            late = self.processes.is_main and time.monotonic() > self.deadline
            if self.asks_for_interrupts() and self.processes.any(interrupts.pending or late):
                interrupts.stop("train.max_seconds has passed" if late else "")
        if self.validation is not None and state.eval_step < state.step:
            self.evaluate(self.validation, interrupts)
        with interrupts.held():
            self.finish()

    def asks_for_interrupts(self) -> bool:
        """Whether the processes tell each other after this step if one is to stop. GPUs have to wait for the answer."""
        is_free = self.processes.size == 1 or reads_are_free(self.device)
        return is_free or self.state.step % INTERRUPT_INTERVAL == 0

    def batches(self, start: int, position: StreamPosition) -> Iterator[tuple[Batch, StreamPosition]]:
        """This process's slots of the batches after the step `start` and its position, and the positions after them."""
        settings = self.settings
        stream = training_batches(self.split, settings.epochs, settings.global_batch_size, settings.seed, position)
        for step, (rows, epochs, after) in enumerate(stream, start):
            arrays = collate(self.split, rows[self.slots])
            if self.augmentation is not None:
                arrays = self.augmentation(arrays, rows[self.slots], epochs[self.slots], min(step / self.total, 1))
            batch = to_tensors(arrays, torch.device("cpu"))
            yield {name: pinned(tensor, self.device) for name, tensor in batch.items()}, after

    def log_if_due(self, interrupts: Interrupts) -> None:
        """Write a line every `log_interval` steps."""
        if self.state.metric_steps >= self.settings.log_interval:
            with interrupts.held():
                self.write_log()

    def write_log(self) -> None:
        """Write a line: losses averaged over the steps, metrics over the sequences that halted, since the last line."""
        state, settings = self.state, self.settings
        self.check_losses()
        sums = state.metric_sums.tolist()
        losses, count = sums[: len(LOSSES)], sums[len(LOSSES)]
        row: dict[str, float | int | None] = {"step": state.step, "epoch": state.position.epoch}
        row["lr"] = rate_at(settings, settings.lr, state.step, self.total)
        row |= {
            name: value / (settings.global_batch_size * state.metric_steps)
            for name, value in zip(LOSSES, losses, strict=True)
        }
        metrics = zip(METRICS[1:], sums[len(LOSSES) + 1 :], strict=True)
        row |= {name: value / count if count else None for name, value in metrics}
        row |= self.skip_count()
        if self.processes.is_main:
            self.log.add(row)
        self.metrics |= {f"train/{name}": value for name, value in row.items()}
        self.loss_note = f"loss {row[LOSSES[0]]:.4f}"
        state.metric_sums.zero_()
        state.metric_steps = 0

    def evaluate_if_due(self, interrupts: Interrupts) -> None:
        """Every `eval_interval` epochs: evaluate the EMA weights on the validation groups, keep the best."""
        state, interval = self.state, self.settings.eval_interval
        if self.validation is not None and state.position.epoch // interval > state.eval_epoch // interval:
            self.evaluate(self.validation, interrupts)

    def evaluate(self, validation: Split, interrupts: Interrupts) -> None:
        state, steps = self.state, self.state.model.config.halt_max_steps
        self.check_losses()
        scores = validate(state.average, validation, self.slots.stop - self.slots.start, steps, self.processes)
        with interrupts.held():
            if self.processes.is_main:
                self.validation_log.add({"step": state.step, "epoch": state.position.epoch, **scores})
            self.metrics |= {f"validation/{name}": value for name, value in scores.items()}
            score = (scores["exact_accuracy"], scores["cell_accuracy"])
            self.validation_note = f", validation {100 * scores['exact_accuracy']:.1f} % exact"
            if score > state.best_score:
                state.best_score, state.best_step = score, state.step
                self.keep({"step": state.step, "validation": scores})
            state.eval_step, state.eval_epoch = state.step, state.position.epoch

    def finish(self) -> None:
        """Write the last line of the log; without validation groups the last weights are the result."""
        if self.state.metric_steps:
            self.write_log()
        self.check_finite()
        if self.validation is None:
            self.keep({"step": self.state.step})
        self.save()

    def check_finite(self) -> None:
        """Raise `InternalError`, in every process, if a weight is NaN or infinite.

        A finite loss shows only that the weights before the last step are finite.
        """
        for name, tensor in checkpoint_tensors(self.state.model, self.state.average).items():
            if not tensor.isfinite().all():
                raise InternalError(
                    f"step {self.state.step}: tensor {name} has values that are not finite (NaN or infinity), nothing "
                    "was published; lower train.lr or raise train.lr_warmup_steps"
                )

    def keep(self, facts: dict[str, object]) -> None:
        self.check_finite()
        if not self.processes.is_main:
            return
        write = checkpoint_writer(self.state.model, self.state.average, facts)
        self.writer.submit(lambda: self.states.put_checkpoint(write))


def _online_augmentation(settings: TrainParams, meta: DatasetMeta) -> OnlineAugmentation | None:
    """The changes of examples in training; None if there are none. Raises `UserError` if the dataset has none."""
    if not (settings.online_augmentation or settings.max_hints or settings.final_max_hints):
        return None
    augment = get_augmentation(meta) if settings.online_augmentation else None
    if settings.online_augmentation and augment is None:
        raise UserError(f"train.online_augmentation must be false for dataset {meta.name}. Got true")
    return OnlineAugmentation(meta, settings.seed, augment, (settings.max_hints, settings.final_max_hints))
