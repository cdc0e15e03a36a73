"""The models of a server: checks of requests, and answers through a batcher for each model."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trm.config.base import Device, Precision, parse
from trm.config.inference import InferenceConfig
from trm.data.protocol import Grid
from trm.datasets.registry import check_question, get_dataset
from trm.inference.cost import check_inference
from trm.inference.engine import predict
from trm.inference.puzzle import EvalPuzzle, get_solvable_dataset, to_tokens
from trm.inference.puzzle_input import parse_puzzles
from trm.inference.solve import Answer, make_puzzles, solve_puzzles
from trm.models.act import TRM
from trm.serving.batcher import Batcher
from trm.storage.artifact_cache import local_copy
from trm.training.checkpoint import load_checkpoint
from trm.utils.device import resolve_device, resolve_precision
from trm.utils.errors import DataError, UserError

Puzzle = str | list[list[int]]
"""A puzzle of a request: rows of cell values, or text in the notation of `trm solve`."""
Observer = Callable[[str, int, float], None]
"""Called after each batch with the name of the model, the number of puzzles and the seconds."""


@dataclass(frozen=True)
class ServerLimits:
    """Bounds of the work that clients can cause."""

    batch_size: int = 64
    """Sequences computed at a time."""
    max_queue: int = 256
    """Puzzles that may wait for each model. A request beyond it is refused with status 429."""
    max_wait: float = 0.005
    """Seconds for which a batch that is not full waits for further puzzles."""
    max_work: int = 16_384
    """Supervision steps of a request: puzzles x votes x samples x max_steps."""
    max_bytes: int = 1_000_000
    """Size of a request's body."""
    timeout: float = 60.0
    """Seconds until a request is answered with status 504."""


@dataclass(frozen=True)
class Question:
    """A puzzle of a request."""

    grid: Grid
    """Cells, uint8 [h, w]."""
    note: str | None
    """A note for the client, for example that the puzzle has several solutions."""


class ServedModel:
    """A model that answers puzzles of many clients.

    Args:
        name: Name in the API.
        location: A model folder, its s3:// URI or a checkpoint file.
        config: Settings of requests that set none.
        device: `auto`, `cpu`, `mps` or `cuda`.
        precision: Compute dtype.
        any_puzzle: Whether it must solve puzzles from outside its dataset.

    Raises `DataError` for a model that cannot be loaded, `UserError` for one that cannot solve such puzzles.
    """

    def __init__(
        self,
        name: str,
        location: str | Path,
        config: InferenceConfig,
        limits: ServerLimits,
        device: Device = "auto",
        precision: Precision = "float32",
        observe: Observer = lambda *_: None,
        any_puzzle: bool = True,
    ) -> None:
        self.name, self.config = name, config
        self._limits, self._observe, self._any_puzzle = limits, observe, any_puzzle
        self._device = resolve_device(device)
        self._dtype = resolve_precision(precision, self._device)
        self._model = self._loaded(location)
        self.meta = self._model.meta
        self._dataset = get_dataset(self.meta.name)
        self.check_work(1, config)
        with suppress(UserError):  # loads the solver of the dataset now, because the first call is slow
            check_question(self.meta, np.zeros((self.meta.height, self.meta.width), np.uint8))
        self._batcher = Batcher(self._solve, limits.batch_size, limits.max_queue, limits.max_wait)

    def load(self, location: str | Path) -> None:
        """Answer with another model of the same puzzles from the next batch on.

        Raises `DataError` for a model that cannot be loaded or has other puzzles; then the present one stays.
        """
        model = self._loaded(location)
        if not model.meta.has_puzzles_of(self.meta):
            raise DataError(f"{location}: has other puzzles than the model {self.name}; start a server for it")
        self._model = model

    def _loaded(self, location: str | Path) -> TRM:
        """The model on the device, after a first pass, which is slower."""
        model, meta = load_checkpoint(local_copy(location), dtype=self._dtype)
        if self._any_puzzle:
            get_solvable_dataset(meta)
        model = model.to(self._device)
        check_inference(model, self.config)
        first = self.config.model_copy(update={"max_steps": 1})
        predict(model, np.ones((1, meta.seq_len), np.uint8), np.zeros(1, np.int64), first, 1)
        return model

    @property
    def network(self) -> TRM:
        """The model, for inference only."""
        return self._model

    @property
    def depth(self) -> int:
        """Puzzles that wait."""
        return self._batcher.depth

    def settings(self, changes: dict[str, object]) -> InferenceConfig:
        """The settings of a request: those of the server with `changes`. Raises `ParamsError`."""
        return parse(InferenceConfig, self.config.model_dump() | changes, "settings")

    def read(self, puzzles: Sequence[Puzzle]) -> list[Question]:
        """The puzzles of a request.

        Raises `DataError` for a puzzle that is not valid; the message starts with its number.
        """
        questions = []
        for number, puzzle in enumerate(puzzles, 1):
            try:
                questions.append(self._read(puzzle))
            except DataError as error:
                raise DataError(f"puzzle {number}: {error}") from None
        return questions

    def submit(self, questions: Sequence[Question], config: InferenceConfig, seed: int) -> list[Future[Answer]]:
        """Queue puzzles. With the same seed and settings, the answers are those of `trm.solve`.

        Raises `UserError` if the work exceeds the limit or the settings do not fit the dataset, `QueueFullError`.
        """
        self.check_work(len(questions), config)
        grids = [question.grid for question in questions]
        return self._batcher.submit(list(make_puzzles(self.meta, grids, config, seed)), config)

    def close(self) -> None:
        """Answer what is queued, and stop."""
        self._batcher.close()

    def _read(self, puzzle: Puzzle) -> Question:
        if isinstance(puzzle, str):
            grids = parse_puzzles(puzzle, self.meta)
            if len(grids) != 1:
                raise DataError(f"must be one puzzle. Got {len(grids)}")
            (grid,) = grids
        else:
            if len({len(row) for row in puzzle}) != 1:
                raise DataError("must have rows of one length")
            grid = np.array(puzzle, dtype=np.uint8)
        to_tokens(self.meta, self._dataset, grid)
        return Question(grid, check_question(self.meta, grid))

    def check_work(self, puzzles: int, config: InferenceConfig) -> None:
        """Raise `UserError` if the work of a request exceeds the limit."""
        steps = puzzles * config.num_votes * config.num_samples * config.max_steps
        if steps > self._limits.max_work:
            raise UserError(
                f"puzzles x num_votes x num_samples x max_steps must be at most {self._limits.max_work}. Got {steps}"
            )

    def _solve(self, puzzles: Sequence[EvalPuzzle], config: InferenceConfig) -> list[Answer]:
        started = time.monotonic()
        answers = solve_puzzles(self._model, self.meta, puzzles, config, self._limits.batch_size)
        self._observe(self.name, len(puzzles), time.monotonic() - started)
        return answers
