"""The application of `trm ui`: that of `trm serve`, with the page and its routes, for the holder of a token."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI
from fastapi.responses import FileResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

import trm.exporting
from trm.config.inference import InferenceConfig
from trm.datasets.drawings import get_drawing
from trm.datasets.generators import get_generator
from trm.datasets.registry import get_dataset
from trm.exporting.puzzles import page_facts
from trm.inference.puzzle import get_solvable_dataset
from trm.inference.solve import Answer
from trm.inference.voting import same_grid
from trm.serving.app import SettingChanges, answer_body, create_app
from trm.serving.metrics import ServerMetrics
from trm.serving.service import ServedModel, ServerLimits
from trm.serving.solver import ERRORS, Cell
from trm.ui.access import AccessGuard
from trm.ui.library import Library, ModelEntry
from trm.ui.puzzles import Place, PuzzleInfo, dataset_puzzle, eval_puzzle, generate_puzzle, read_puzzle
from trm.ui.traces import Line, RunningTrace, TraceRunner, check_size
from trm.utils.errors import UserError
from trm.utils.file_formats import printable, shorten

SHARED, OWN = Path(trm.exporting.__file__).parent / "page", Path(__file__).parent / "page"
"""The page of `trm export --web`, whose style and grids are used here, and the page of `trm ui`."""
FILES = {
    "/": (OWN / "index.html", "text/html"),
    "/page.css": (SHARED / "page.css", "text/css"),
    "/ui.css": (OWN / "ui.css", "text/css"),
    "/grid.js": (SHARED / "grid.js", "text/javascript"),
    **{f"/{name}.js": (OWN / f"{name}.js", "text/javascript") for name in ("ui", "api", "panel", "puzzle", "settings")},
}
"""Path -> file and media type. They contain no data, so they need no token."""
ERRORS_403 = ERRORS | {403: ERRORS[404] | {"description": "Outside the folders that were named at start."}}
Seed = Annotated[int, Field(ge=0, lt=2**53, strict=True)]


class PuzzleRequest(BaseModel):
    """A puzzle to show: exactly one of `text`, `seed` and `place`."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    model: str
    """Name of a model."""
    text: str | None = None
    """Text in the notation of `trm solve`."""
    seed: Seed | None = None
    """Seed of a generated puzzle."""
    place: Place | None = None
    """A test puzzle."""

    @model_validator(mode="after")
    def _has_one(self) -> "PuzzleRequest":
        if sum(each is not None for each in (self.text, self.seed, self.place)) != 1:
            raise ValueError("give exactly one of text, seed and place")
        return self


class TraceRequest(BaseModel):
    """A puzzle to solve pass by pass."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    model: str
    """Name of a model."""
    puzzle: list[list[Cell]] | Place
    """Cell values, or a test puzzle."""
    settings: SettingChanges | None = None  # pyright: ignore[reportInvalidTypeForm]
    """Test-time compute, where it differs from the settings of the server."""
    seed: Seed = 0
    """Seed of the augmentations and the noise."""
    every_pass: bool = True
    """Whether every forward pass is a frame, or only the last one of each step."""


def create_ui(library: Library, limits: ServerLimits, metrics: ServerMetrics, token: str) -> FastAPI:
    """The application. Only the files of the page are served without the token."""
    app = create_app(library.opened, limits, metrics)
    for path, (file, kind) in FILES.items():
        app.add_api_route(path, _file_response(file, kind), include_in_schema=False)
    app.include_router(create_router(library))
    app.add_middleware(AccessGuard, token=token, public=FILES)
    return app


def _file_response(file: Path, kind: str) -> Callable[[], FileResponse]:
    return lambda: FileResponse(file, media_type=kind)


def create_router(library: Library) -> APIRouter:
    """The routes below /ui."""
    router, runner = APIRouter(prefix="/ui"), TraceRunner()

    @router.get("/models")
    def list_models() -> dict[str, Any]:
        """The models below the named folders, the default last, and the settings with their ranges and defaults."""
        defaults = next(iter(library.opened.values())).config.model_dump()
        schema = InferenceConfig.model_json_schema()["properties"]
        fields = [{"name": name, "default": defaults[name], **field} for name, field in schema.items()]
        return {"models": [_model_line(entry) for entry in library.models()], "settings": fields}

    @router.get("/model", responses=ERRORS_403)
    def describe_model(name: str) -> dict[str, Any]:
        """How the puzzles of a model are drawn and where they come from. The model is loaded."""
        return _description(library, library.model(name))

    @router.get("/tests", responses=ERRORS_403)
    def list_tests(model: str, dataset: str) -> dict[str, Any]:
        """The number of test puzzles of a dataset, and the names and test pairs of its tasks if it has any."""
        meta = library.model(model).meta
        tests = library.dataset(dataset, meta)
        numbers = tests.sample().tolist()
        tasks = [[tests.name(task), tests.num_pairs(task)] for task in numbers] if get_drawing(meta).has_tasks else []
        return {"count": len(numbers), "tasks": tasks}

    @router.post("/puzzle", responses=ERRORS_403)
    def show_puzzle(body: PuzzleRequest) -> dict[str, Any]:
        """Read, generate or look up a puzzle."""
        model = library.model(body.model)
        if body.text is not None:
            info = read_puzzle(model, body.text)
        elif body.seed is not None:
            info = generate_puzzle(model, body.seed)
        else:
            assert body.place is not None
            info = dataset_puzzle(library, model, body.place)
        return _puzzle_line(info) | {
            "demonstrations": [[given.tolist(), wanted.tolist()] for given, wanted in info.demonstrations or []]
        }

    @router.post("/trace", responses=ERRORS_403, response_class=StreamingResponse)
    async def trace_puzzle(body: TraceRequest) -> StreamingResponse:
        """Solve a puzzle; the frames, and last the answer, are lines of JSON.

        With the same seed and settings, the answer is that of `trm solve`.
        """
        model = await run_in_threadpool(library.model, body.model)
        changes = body.settings.model_dump(exclude_none=True) if body.settings else {}
        config = model.settings(changes)
        model.check_work(1, config)
        puzzle, info = await run_in_threadpool(eval_puzzle, library, model, body.puzzle, config, body.seed)
        network = model.network
        check_size(network, puzzle, config, body.every_pass)

        def end(answer: Answer, passes: int) -> Line:
            shown = answer_body(answer, config, info.note).model_dump()
            solved = None if info.solution is None else same_grid(answer.grid, info.solution)
            return {"end": shown | {"num_votes": puzzle.num_votes, "solved": solved, "passes": passes}}

        head = _puzzle_line(info) | {"max_steps": config.max_steps}
        return TraceResponse(await runner.run(network, puzzle, config, body.every_pass, head, end))

    return router


class TraceResponse(StreamingResponse):
    """The lines of a trace, which stops when the client has gone."""

    def __init__(self, trace: RunningTrace) -> None:
        super().__init__(trace.lines, media_type="application/x-ndjson")
        self._trace = trace

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the lines."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._trace.stop()


def _model_line(entry: ModelEntry) -> dict[str, Any]:
    """A model of the list. Models with equal `puzzles` solve the same puzzles."""
    if entry.meta is None or entry.params is None:
        return {"name": entry.name, "problem": printable(shorten(entry.problem))}
    meta = entry.meta
    parts = [meta.name, meta.height, meta.width, *meta.vocabulary, meta.puzzles_digest]
    title = f"{get_drawing(meta).title} {meta.height} x {meta.width}"
    return {"name": entry.name, "title": title, "arch": entry.params.arch, "puzzles": json.dumps(parts)}


def _description(library: Library, model: ServedModel) -> dict[str, Any]:
    network, meta = model.network, model.meta
    try:
        is_editable = bool(get_solvable_dataset(meta))
    except UserError:  # its puzzles have trained identifiers
        is_editable = False
    return page_facts(meta) | {
        "arch": network.config.arch,
        "is_editable": is_editable,
        "fills_canvas": get_dataset(meta.name).FILLS_CANVAS,
        "can_generate": get_generator(meta) is not None,
        "datasets": library.datasets(meta),
    }


def _puzzle_line(info: PuzzleInfo) -> dict[str, Any]:
    solution = None if info.solution is None else info.solution.tolist()
    return {"question": info.question.tolist(), "solution": solution, "note": info.note}
