"""The Open Inference Protocol, version 2, of KServe (https://kserve.github.io/website/docs/concepts/architecture).

A request has one input tensor `puzzle`: cells [puzzles, height, width], or texts [puzzles] of type BYTES in the
notation of `trm solve`. Its parameters are settings and the seed.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from trm.inference.solve import Answer
from trm.serving.service import Puzzle, ServedModel
from trm.serving.solver import ERRORS, Cell, Solver
from trm.utils.errors import DataError

INPUT = "puzzle"
Size = Annotated[int, Field(ge=1, le=4096, strict=True)]


class InputTensor(BaseModel):
    """The puzzles of a request."""

    name: Literal["puzzle"]
    shape: Annotated[list[Size], Field(min_length=1, max_length=3)]
    datatype: Literal["UINT8", "INT8", "INT16", "UINT16", "INT32", "UINT32", "INT64", "UINT64", "BYTES"]
    data: list[Cell] | list[list[list[Cell]]] | list[str]
    """Row by row, flat or nested; or texts."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class OutputTensor(BaseModel):
    """A tensor of a response."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any]


class InferRequest(BaseModel):
    """A request of the Open Inference Protocol."""

    id: Annotated[str, Field(max_length=256)] | None = None
    inputs: Annotated[list[InputTensor], Field(min_length=1, max_length=1)]
    parameters: dict[str, bool | int | float | str] = Field(default_factory=dict)
    outputs: list[dict[str, Any]] | None = None


class InferResponse(BaseModel):
    """A response of the Open Inference Protocol."""

    model_name: str
    id: str | None
    outputs: list[OutputTensor]


def create_router(solver: Solver) -> APIRouter:
    """The routes below /v2."""
    router = APIRouter(prefix="/v2")
    not_found: dict[int | str, dict[str, Any]] = {404: ERRORS[404]}

    @router.get("")
    async def server() -> dict[str, Any]:
        """Name of the server and its extensions."""
        return {"name": "trm", "version": "1", "extensions": []}

    @router.get("/health/live")
    async def live() -> dict[str, bool]:
        """The process responds."""
        return {"live": True}

    @router.get("/health/ready")
    async def ready() -> dict[str, bool]:
        """The models are loaded."""
        return {"ready": True}

    @router.get("/models/{name}/ready", responses=not_found)
    async def model_ready(name: str) -> dict[str, bool | str]:
        """The model is loaded."""
        return {"name": solver.find(name).name, "ready": True}

    @router.get("/models/{name}", responses=not_found)
    async def metadata(name: str) -> dict[str, Any]:
        """Input and output tensors of a model; -1 is any size."""
        model = solver.find(name)
        shape = [-1, model.meta.height, model.meta.width]
        outputs = {"answer": ("UINT8", shape), "answered": ("BOOL", [-1]), "valid": ("BOOL", [-1])}
        outputs |= {"confidence": ("FP64", [-1]), "halt_probability": ("FP64", [-1]), "votes": ("INT64", [-1])}
        return {
            "name": model.name,
            "versions": [],
            "platform": "pytorch",
            "inputs": [{"name": INPUT, "datatype": "UINT8", "shape": shape}],
            "outputs": [{"name": key, "datatype": kind, "shape": size} for key, (kind, size) in outputs.items()],
        }

    @router.post("/models/{name}/infer", responses=ERRORS)
    async def infer(name: str, body: InferRequest) -> InferResponse:
        """Solve puzzles."""
        model, changes = solver.find(name), dict[str, object](body.parameters)
        seed = changes.pop("seed", 0)
        if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**53:
            raise DataError(f"parameters.seed must be a number from 0. Got {seed!r}")
        puzzles = _puzzles(body.inputs[0])
        _, _, answers = await solver.solve(model, puzzles, changes, seed)
        return InferResponse(model_name=model.name, id=body.id, outputs=_outputs(model, answers))

    return router


def _puzzles(tensor: InputTensor) -> list[Puzzle]:
    """The puzzles of a tensor. Raises `DataError` if the data do not have its shape."""
    data: Any = tensor.data
    is_text = tensor.datatype == "BYTES"
    if is_text != isinstance(data[0] if data else None, str) or (is_text and len(tensor.shape) != 1):
        raise DataError("inputs.0.data must be texts of shape [puzzles] for datatype BYTES, and cells for the others")
    if is_text:
        if len(data) != tensor.shape[0]:
            raise DataError(f"inputs.0.data must have {tensor.shape[0]} texts. Got {len(data)}")
        return list(data)
    if len(tensor.shape) != 3:
        raise DataError(f"inputs.0.shape must be [puzzles, height, width]. Got {tensor.shape}")
    count, height, width = tensor.shape
    if data and isinstance(data[0], list):
        rows = [row for grid in data for row in grid]
        if len(data) != count or any(len(grid) != height for grid in data) or any(len(row) != width for row in rows):
            raise DataError(f"inputs.0.data must have the shape {tensor.shape}")
    else:
        if len(data) != math.prod(tensor.shape):
            raise DataError(f"inputs.0.data must have {math.prod(tensor.shape)} cells. Got {len(data)}")
        rows = [list(data[start : start + width]) for start in range(0, len(data), width)]
    return [rows[start : start + height] for start in range(0, len(rows), height)]


def _outputs(model: ServedModel, answers: Sequence[Answer]) -> list[OutputTensor]:
    """The output tensors. Raises `DataError` if the answers have different shapes."""
    shapes = {answer.grid.shape for answer in answers}
    if len(shapes) > 1:
        raise DataError(f"the answers of {model.name} have different shapes; send one puzzle, or use /v1/solve")
    size = [len(answers)]
    columns: dict[str, tuple[str, list[Any]]] = {
        "answered": ("BOOL", [answer.answered for answer in answers]),
        "confidence": ("FP64", [answer.confidence for answer in answers]),
        "halt_probability": ("FP64", [answer.halt_probability for answer in answers]),
        "votes": ("INT64", [answer.votes for answer in answers]),
    }
    if answers[0].valid is not None:
        columns["valid"] = ("BOOL", [bool(answer.valid) for answer in answers])
    # An answer that is withheld is blank.
    cells = [cell for answer in answers for cell in (answer.grid * answer.answered).ravel().tolist()]
    grids = OutputTensor(name="answer", shape=[*size, *shapes.pop()], datatype="UINT8", data=cells)
    return [grids, *(OutputTensor(name=n, shape=size, datatype=kind, data=d) for n, (kind, d) in columns.items())]
