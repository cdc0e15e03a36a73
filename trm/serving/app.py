"""The HTTP API of `trm serve`: puzzles as JSON, models, health, metrics, and the Open Inference Protocol."""

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel, ConfigDict, Field, create_model
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trm.config.inference import InferenceConfig
from trm.inference.solve import Answer
from trm.serving.batcher import QueueFullError
from trm.serving.kserve import create_router
from trm.serving.metrics import ServerMetrics
from trm.serving.service import ServedModel, ServerLimits
from trm.serving.solver import ERRORS, Cell, Solver
from trm.utils.errors import UserError
from trm.utils.file_formats import printable, shorten

LOG = logging.getLogger(__name__)
LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Addresses that only programs on this machine reach."""
FAULT = "a fault of the server; its log has the reason"
"""The message of status 500."""
SettingChanges: type[BaseModel] = create_model(
    "Settings",
    __config__=ConfigDict(extra="forbid", strict=True),
    **{
        name: (Annotated[field.annotation | None, Field(description=field.description)], None)
        for name, field in InferenceConfig.model_fields.items()
    },  # pyright: ignore[reportArgumentType, reportCallIssue]
)
"""The fields of `InferenceConfig`; null or absent: the server's value."""


class SolveRequest(BaseModel):
    """Puzzles to solve."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    puzzles: Annotated[list[str | list[list[Cell]]], Field(min_length=1, max_length=4096)]
    """Each a grid of cell values (in a Sudoku 0 is blank), or text in the notation of `trm solve`."""
    model: str | None = None
    """Name of a model; null: the first."""
    settings: SettingChanges | None = None  # pyright: ignore[reportInvalidTypeForm]
    """Test-time compute, where it differs from the server's settings."""
    seed: Annotated[int, Field(ge=0, lt=2**53, strict=True)] = 0
    """Seed of the augmentations and the noise."""


class AnswerBody(BaseModel):
    """The answer to a puzzle."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    answered: bool
    """Whether the confidence is at least `min_confidence`."""
    answer: list[list[int]] | None
    """Cell values; null if the puzzle is left unanswered."""
    valid: bool | None
    """Whether the answer obeys the rules; null if it has none or the puzzle is left unanswered."""
    confidence: float
    halt_probability: float
    votes: int
    """Augmentations that gave this answer."""
    num_votes: int
    note: str | None
    """For example that the puzzle has several solutions."""


class SolveResponse(BaseModel):
    """The answers, in the order of the puzzles."""

    model: str
    answers: list[AnswerBody]


class ModelBody(BaseModel):
    """A model of the server."""

    name: str
    dataset: str
    height: int
    width: int
    vocabulary: list[str]
    settings: dict[str, Any]


class ModelsResponse(BaseModel):
    """The models of the server, the default first."""

    models: list[ModelBody]


def create_app(
    models: Mapping[str, ServedModel], limits: ServerLimits, metrics: ServerMetrics, host: str = LOOPBACK[0]
) -> FastAPI:
    """The application. models: by name; the first one is the default. host: the address at which it listens."""
    solver = Solver(models, limits)
    app = FastAPIOffline(
        title="trm serve",
        description="Solve puzzles with Tiny Recursive Models.",
        version="1",
    )
    _handle_errors(app)
    for model in models.values():
        metrics.watch_queue(model.name, lambda model=model: model.depth)

    @app.post("/v1/solve", responses=ERRORS)
    async def solve(body: SolveRequest) -> SolveResponse:
        """Solve one or more puzzles."""
        model = solver.find(body.model)
        changes = body.settings.model_dump(exclude_none=True) if body.settings else {}
        config, questions, answers = await solver.solve(model, body.puzzles, changes, body.seed)
        pairs = zip(questions, answers, strict=True)
        bodies = [answer_body(answer, config, question.note) for question, answer in pairs]
        return SolveResponse(model=model.name, answers=bodies)

    @app.get("/v1/models")
    async def list_models() -> ModelsResponse:
        """The models, the default first."""
        return ModelsResponse(
            models=[
                ModelBody(
                    name=model.name,
                    dataset=model.meta.name,
                    height=model.meta.height,
                    width=model.meta.width,
                    vocabulary=list(model.meta.vocabulary[model.meta.first_cell_token :]),
                    settings=model.config.model_dump(),
                )
                for model in list(models.values())
            ]
        )

    @app.get("/healthz", response_class=PlainTextResponse)
    async def health() -> str:
        """The process responds."""
        return "ok"

    @app.get("/readyz", response_class=PlainTextResponse)
    async def ready() -> str:
        """The models are loaded: the server listens only then."""
        return "ok"

    @app.get("/metrics", response_class=PlainTextResponse)
    async def prometheus() -> PlainTextResponse:
        """Metrics in the text format of Prometheus."""
        return PlainTextResponse(metrics.text())

    app.include_router(create_router(solver))
    app.add_middleware(RequestGuard, limits=limits, metrics=metrics)
    if host in LOOPBACK:  # a page of another host must not reach it under a name of its own
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*LOOPBACK, "[::1]"])
    return app


def answer_body(answer: Answer, config: InferenceConfig, note: str | None) -> AnswerBody:
    """The answer as a client gets it."""
    shown = answer.answered
    return AnswerBody(
        answered=shown,
        answer=answer.grid.tolist() if shown else None,
        valid=answer.valid if shown else None,
        confidence=round(answer.confidence, 6),
        halt_probability=round(answer.halt_probability, 6),
        votes=answer.votes,
        num_votes=config.num_votes,
        note=note,
    )


def _handle_errors(app: FastAPI) -> None:
    """Return every error as one line of JSON."""

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first, *others = error.errors()
        where = ".".join(str(part) for part in first["loc"] if part != "body") or "body"
        more = f" (and {len(others)} more)" if others else ""
        return error_response(422, f"{where}: {first['msg']}{more}")

    @app.exception_handler(UserError)
    async def refused(_: Request, error: UserError) -> JSONResponse:
        return error_response(422, str(error))

    @app.exception_handler(HTTPException)
    async def failed(_: Request, error: HTTPException) -> JSONResponse:
        return error_response(error.status_code, str(error.detail), error.headers)

    @app.exception_handler(QueueFullError)
    async def busy(_: Request, error: QueueFullError) -> JSONResponse:
        del error
        return error_response(429, "the queue is full; try again later", {"retry-after": "1"})

    @app.exception_handler(TimeoutError)
    async def late(_: Request, error: TimeoutError) -> JSONResponse:
        del error
        return error_response(504, "the time limit of the server is exceeded; send fewer puzzles or lower the settings")


def error_response(status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """An error in one line."""
    return JSONResponse({"error": printable(shorten(" ".join(message.split())))}, status, headers)


class RequestGuard:
    """Limits the size and the arrival time of bodies, reports faults in one line, and counts requests."""

    def __init__(self, app: ASGIApp, limits: ServerLimits, metrics: ServerMetrics) -> None:
        self._app, self._limits, self._metrics = app, limits, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.monotonic(), 0

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self._metrics.running.inc()
        try:
            await self._app(scope, _limited(receive, self._limits), counted)
        except Exception as error:
            LOG.error("%s: %s", type(error).__name__, printable(shorten(str(error))))
            if not status:
                await error_response(500, FAULT)(scope, receive, counted)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.running.dec()
            self._metrics.count_request(route, status, time.monotonic() - started)


def _limited(receive: Receive, limits: ServerLimits) -> Receive:
    """`receive` that raises `HTTPException` 413 for a body that is too large, and 408 if it does not arrive in time."""
    until, total, complete = time.monotonic() + limits.timeout, 0, False

    async def limited() -> Message:
        nonlocal total, complete
        if complete:  # the wait for the end of the connection
            return await receive()
        try:
            async with asyncio.timeout(max(until - time.monotonic(), 0)):
                message = await receive()
        except TimeoutError:
            raise HTTPException(408, "the body did not arrive in time") from None
        total += len(message.get("body", b""))
        # FastAPI has a limit of its own, whose response is not JSON.
        if total > limits.max_bytes:
            raise HTTPException(413, f"the body must have at most {limits.max_bytes} bytes")
        complete = not message.get("more_body", False)
        return message

    return limited
