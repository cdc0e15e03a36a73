"""What the routes share: models by name, answers within the time limit, documented errors."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from trm.config.inference import InferenceConfig
from trm.inference.solve import Answer
from trm.serving.service import Puzzle, Question, ServedModel, ServerLimits

Cell = Annotated[int, Field(ge=0, le=255, strict=True)]
"""A cell value of a request."""


class ErrorBody(BaseModel):
    """An error in one line."""

    error: str


ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": description}
    for status, description in {
        400: "The body is not JSON.",
        404: "No such model.",
        408: "The body did not arrive in time.",
        413: "The body is too large.",
        422: "A puzzle or a setting is not valid.",
        429: "The queue is full; try again later.",
        504: "The time limit is exceeded.",
    }.items()
}
"""Documented error responses of requests with a body."""


class Solver:
    """Finds models by name, and answers puzzles within the time limit.

    models: by name; the first one is the default. The mapping may change later.
    """

    def __init__(self, models: Mapping[str, ServedModel], limits: ServerLimits) -> None:
        self.models, self._default, self._limits = models, next(iter(models)), limits

    def find(self, name: str | None) -> ServedModel:
        """The model of that name; None: the first one. Raises `HTTPException` 404."""
        if name is not None and name not in self.models:
            raise HTTPException(404, f"no model {name!r}; GET /v1/models lists them")
        return self.models[name or self._default]

    async def solve(
        self, model: ServedModel, puzzles: Sequence[Puzzle], changes: dict[str, object], seed: int
    ) -> tuple[InferenceConfig, list[Question], list[Answer]]:
        """Answer puzzles. Raises `UserError` for puzzles or settings that are not valid, `QueueFullError`,
        `TimeoutError`.
        """
        config = model.settings(changes)
        async with asyncio.timeout(self._limits.timeout):
            questions = await run_in_threadpool(model.read, puzzles)
            futures = await run_in_threadpool(model.submit, questions, config, seed)
            answers = await asyncio.gather(*map(asyncio.wrap_future, futures))
        return config, questions, answers
