"""Jobs in a thread: order, copies, errors."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from trm.config.dataset_meta import DatasetMeta
from trm.config.model import ModelParams
from trm.models.act import build_model
from trm.training.background import BackgroundWriter
from trm.training.checkpoint import FILE, checkpoint_writer, load_checkpoint
from trm.training.ema import ema_copy


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """An event for which jobs wait; set at the end, so that no failing test hangs."""
    event = threading.Event()
    yield event
    event.set()


def test_jobs_run_in_order_while_the_caller_goes_on(gate: threading.Event) -> None:
    done: list[int] = []

    def first() -> None:
        gate.wait()
        done.append(1)

    with BackgroundWriter() as writer:
        writer.submit(first)
        writer.submit(lambda: done.append(2))
        assert done == []
        gate.set()
        writer.finish()
        assert done == [1, 2]
        writer.submit(lambda: done.append(3))
    assert done == [1, 2, 3]


def test_the_third_job_waits_for_the_first(gate: threading.Event) -> None:
    """At most two copies of the weights are in memory: the one that is written, and the next one."""
    submitted: list[int] = []
    writer = BackgroundWriter()

    def submit_all() -> None:
        with writer:
            for number in range(3):
                writer.submit(gate.wait)
                submitted.append(number)

    caller = threading.Thread(target=submit_all)
    caller.start()
    caller.join(0.5)
    assert submitted in ([0], [0, 1])
    gate.set()
    caller.join()
    assert submitted == [0, 1, 2]


@pytest.mark.parametrize("end", ["submit", "finish", "leave"])
def test_an_error_is_raised_in_the_thread_that_trains(end: str) -> None:
    """As itself, so that a full disk is reported as one. No later job runs, since its state would lack the first."""
    later: list[str] = []

    def full() -> None:
        raise OSError(28, "No space left on device", "state-7")

    with pytest.raises(OSError, match="state-7") as raised, BackgroundWriter() as writer:
        writer.submit(full)
        if end == "submit":
            with pytest.raises(OSError, match="state-7"):
                writer.finish()
            writer.submit(lambda: later.append("submitted"))
        elif end == "finish":
            writer.finish()
    assert raised.value.errno == 28
    assert later == []


def test_jobs_end_before_an_error_of_the_caller_passes(gate: threading.Event) -> None:
    """The lock of the state folder is released after that."""
    done: list[int] = []

    def slow() -> None:
        gate.wait(0.2)
        done.append(1)

    with pytest.raises(ValueError, match="of the caller"), BackgroundWriter() as writer:
        writer.submit(slow)
        raise ValueError("of the caller")
    assert done == [1]


def test_a_checkpoint_has_the_weights_of_its_step(meta: DatasetMeta, model_params: ModelParams, tmp_path: Path) -> None:
    model = build_model(model_params, meta)
    average, before = ema_copy(model), {name: weight.clone() for name, weight in model.named_parameters()}
    write = checkpoint_writer(model, average, {"step": 3})
    with torch.no_grad():
        for weight in (*model.parameters(), *average.parameters()):
            weight.add_(1)
    write(tmp_path / FILE)
    for kind in ("raw", "ema"):
        loaded, _ = load_checkpoint(tmp_path, "raw" if kind == "raw" else "ema")
        assert all(torch.equal(weight, before[name]) for name, weight in loaded.named_parameters())
