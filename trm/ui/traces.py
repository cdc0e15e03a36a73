"""Traces for the page: every forward pass of a solution as a line of JSON, computed in a thread."""

import asyncio
import json
import logging
import math
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from trm.config.inference import InferenceConfig
from trm.inference.cost import check_inference
from trm.inference.puzzle import EvalPuzzle
from trm.inference.solve import BATCH, Answer
from trm.inference.trace import Frame, trace_puzzle
from trm.models.act import TRM
from trm.serving.app import FAULT
from trm.serving.batcher import QueueFullError
from trm.utils.errors import UserError
from trm.utils.file_formats import printable, shorten

LOG = logging.getLogger(__name__)
MAX_WAITING = 8
"""Traces that may wait or run; a further one is refused with status 429."""
MAX_VALUES = 2_000_000
"""Cells, movements and samples in all frames of a trace."""
Line = dict[str, Any]


@dataclass(frozen=True)
class RunningTrace:
    """A trace that is computed."""

    lines: AsyncIterator[bytes]
    """Lines of JSON."""
    stop: Callable[[], None]
    """Ends the work after the next forward pass."""


class _Stopped(Exception):
    """The client has gone."""


def check_size(model: TRM, puzzle: EvalPuzzle, config: InferenceConfig, every_pass: bool) -> None:
    """Raise `UserError` if the frames of a trace would have more than `MAX_VALUES` values."""
    sequences = puzzle.num_votes * config.num_samples
    passes = model.variant.rounds(model.config) * (model.variant.passes(model.config) + 1) if every_pass else 1
    frames = config.max_steps * passes * math.ceil(sequences / BATCH)
    values = frames * (2 * model.meta.seq_len + 4 * sequences)
    if values > MAX_VALUES:
        remedy = "lower max_steps or num_votes" + (", or show only the end of each step" if every_pass else "")
        raise UserError(f"the frames must have at most {MAX_VALUES:,} values together. Got {values:,}; {remedy}")


class TraceRunner:
    """Computes traces one after another in a thread, so that the server stays responsive."""

    def __init__(self) -> None:
        self._pool, self._waiting = ThreadPoolExecutor(1, thread_name_prefix="traces"), 0

    async def run(
        self,
        model: TRM,
        puzzle: EvalPuzzle,
        config: InferenceConfig,
        every_pass: bool,
        head: Line,
        end: Callable[[Answer, int], Line],
    ) -> RunningTrace:
        """Start a trace. Its lines are `head`, the frames, and `end` of the answer and the number of forward passes.

        It returns after the first pass. Raises `QueueFullError`, and `UserError` for settings that the dataset does not
        allow. A later failure is a line with the key `error`.
        """
        if self._waiting >= MAX_WAITING:
            raise QueueFullError
        loop, lines, stopped = asyncio.get_running_loop(), asyncio.Queue[Line | Exception | None](), threading.Event()

        def put(line: Line | Exception | None) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(lines.put_nowait, line)

        def compute() -> None:
            passes = 0

            def on_frame(frame: Frame) -> None:
                nonlocal passes
                if stopped.is_set():
                    raise _Stopped
                passes += 1
                if every_pass or frame.ends_step:
                    put(_frame_line(frame))

            try:
                if not stopped.is_set():
                    check_inference(model, config)
                    put(end(trace_puzzle(model, model.meta, puzzle, config, on_frame), passes))
            except _Stopped:
                pass
            except Exception as error:
                put(error)
            put(None)

        self._waiting += 1
        work = loop.run_in_executor(self._pool, compute)
        work.add_done_callback(self._done)
        first = await lines.get()
        if isinstance(first, Exception):
            raise first
        return RunningTrace(_encoded([head, first], lines), stopped.set)

    def _done(self, _: object) -> None:
        self._waiting -= 1


async def _encoded(start: list[Line | None], more: "asyncio.Queue[Line | Exception | None]") -> AsyncIterator[bytes]:
    """The lines of `start` and `more` as JSON, up to None."""
    for line in start:
        if line is None:
            return
        yield _json(line)
    while (line := await more.get()) is not None:
        yield _json(_error_line(line) if isinstance(line, Exception) else line)


def _json(line: Line) -> bytes:
    return json.dumps(line, separators=(",", ":")).encode() + b"\n"


def _error_line(error: Exception) -> Line:
    if isinstance(error, UserError):
        return {"error": printable(shorten(str(error)))}
    LOG.error("%s: %s", type(error).__name__, printable(shorten(str(error))))
    return {"error": FAULT}


def _frame_line(frame: Frame) -> Line:
    """A frame: probabilities and movements have three decimals, which the page does not exceed."""
    samples = [
        [each.name, each.letter, _probability(each.halt_logit), each.status, each.votes, each.shown]
        for each in frame.samples
    ]
    return {
        "step": frame.step,
        "round": frame.round,
        "pass": frame.number,
        "ends_step": frame.ends_step,
        "answer": frame.answer.tolist(),
        "halt_probability": _probability(frame.halt_logit),
        "moved": None if frame.moved is None else np.round(frame.moved.astype(np.float64), 4).tolist(),
        "samples": samples if len(samples) > 1 else [],
    }


def _probability(logit: float) -> float:
    return round(1 / (1 + math.exp(-min(max(logit, -700.0), 700.0))), 4)
