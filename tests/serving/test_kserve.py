"""The Open Inference Protocol."""

from typing import Any

import pytest
from httpx import Client

from tests.serving.test_app import PUZZLE, SOLUTION, grid_of

INFER = "/v2/models/demo/infer"


def tensor(data: object, shape: list[int], datatype: str = "UINT8") -> dict[str, Any]:
    return {"name": "puzzle", "shape": shape, "datatype": datatype, "data": data}


def test_health_and_metadata(client: Client) -> None:
    assert client.get("/v2").json()["name"] == "trm"
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert client.get("/v2/models/demo/ready").json() == {"name": "demo", "ready": True}
    metadata = client.get("/v2/models/demo").json()
    assert metadata["inputs"] == [{"name": "puzzle", "datatype": "UINT8", "shape": [-1, 6, 6]}]
    assert {"name": "answer", "datatype": "UINT8", "shape": [-1, 6, 6]} in metadata["outputs"]
    for path in ("/v2/models/other", "/v2/models/other/ready"):
        assert client.get(path).status_code == 404


FLAT = [int(cell) for cell in PUZZLE.replace(".", "0")]


@pytest.mark.parametrize(
    ("data", "shape", "datatype"),
    [
        (FLAT * 2, [2, 6, 6], "INT64"),
        ([grid_of(PUZZLE)] * 2, [2, 6, 6], "UINT8"),
        ([PUZZLE] * 2, [2], "BYTES"),
    ],
)
def test_infer(client: Client, data: object, shape: list[int], datatype: str) -> None:
    body = {"id": "7", "inputs": [tensor(data, shape, datatype)], "parameters": {"num_votes": 2, "seed": 1}}
    response = client.post(INFER, json=body)
    assert response.status_code == 200, response.text
    result = response.json()
    assert (result["model_name"], result["id"]) == ("demo", "7")
    outputs = {output["name"]: output for output in result["outputs"]}
    assert outputs["answer"]["shape"] == [2, 6, 6]
    assert outputs["answer"]["data"] == [int(cell) for cell in SOLUTION] * 2
    assert outputs["valid"] == {"name": "valid", "shape": [2], "datatype": "BOOL", "data": [True, True]}
    assert outputs["votes"]["data"] == [2, 2]
    assert all(0 < value <= 1 for value in outputs["confidence"]["data"])


def test_an_answer_that_is_withheld_is_blank(client: Client) -> None:
    body = {"inputs": [tensor(FLAT, [1, 6, 6])], "parameters": {"min_confidence": 1.0}}
    outputs = {output["name"]: output["data"] for output in client.post(INFER, json=body).json()["outputs"]}
    assert (outputs["answered"], outputs["answer"]) == ([False], [0] * 36)


@pytest.mark.parametrize(
    ("inputs", "parameters", "message"),
    [
        (tensor(FLAT, [2, 6, 6]), {}, "inputs.0.data must have 72 cells. Got 36"),
        (tensor(FLAT, [36]), {}, "inputs.0.shape must be [puzzles, height, width]. Got [36]"),
        (tensor([grid_of(PUZZLE)], [2, 6, 6]), {}, "inputs.0.data must have the shape [2, 6, 6]"),
        (tensor([PUZZLE], [2], "BYTES"), {}, "inputs.0.data must have 2 texts. Got 1"),
        (tensor([PUZZLE], [1]), {}, "inputs.0.data must be texts of shape [puzzles] for datatype BYTES"),
        (tensor([], [1, 6, 6]), {}, "inputs.0.data must have 36 cells. Got 0"),
        (tensor(FLAT, [1, 6, 6]), {"seed": -1}, "parameters.seed must be a number from 0. Got -1"),
        (tensor(FLAT, [1, 6, 6]), {"steps": 1}, "steps is not a setting"),
        (tensor(FLAT, [1, 6, 6]) | {"name": "other"}, {}, "inputs.0.name: Input should be 'puzzle'"),
    ],
)
def test_mistakes(client: Client, inputs: dict[str, Any], parameters: dict[str, Any], message: str) -> None:
    response = client.post(INFER, json={"inputs": [inputs], "parameters": parameters})
    assert response.status_code == 422
    assert message in response.json()["error"]
