"""The API of `trm serve`: answers, limits, and bodies of hostile clients."""

import json
import socket
import threading
from collections.abc import Callable
from contextlib import closing
from typing import Any

import numpy as np
import pytest
from httpx import Client
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.serving.conftest import serving
from trm.inference.puzzle import EvalPuzzle
from trm.inference.solve import solve
from trm.reporting.terminal.demo import MODEL, new_puzzle
from trm.serving import service
from trm.serving.service import ServerLimits
from trm.training.checkpoint import load_checkpoint

PUZZLE = ".6..2........5.......3.1...43.42...6"
SOLUTION = "564123132645351264246351615432423516"


def grid_of(text: str) -> list[list[int]]:
    return np.array([int(cell) for cell in text.replace(".", "0")]).reshape(6, 6).tolist()


def error_of(client: Client, status: int, **body: object) -> str:
    """The error of a request to /v1/solve, which must have this status and one line."""
    response = client.post("/v1/solve", json=body)
    assert response.status_code == status, response.text
    assert list(response.json()) == ["error"]
    assert response.json()["error"].isprintable()
    return response.json()["error"]


def test_text_and_cells(client: Client) -> None:
    body = {"puzzles": [PUZZLE, grid_of(PUZZLE), "." * 36]}
    response = client.post("/v1/solve", json=body)
    assert response.status_code == 200
    assert response.json()["model"] == "demo"
    first, second, blank = response.json()["answers"]
    assert first["answer"] == grid_of(SOLUTION)
    assert (first["answered"], first["valid"], first["votes"], first["num_votes"]) == (True, True, 1, 1)
    assert second == first
    assert first["note"] is None
    assert "several solutions" in blank["note"]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"max_steps": 2, "early_halting": True},
        {"num_votes": 3, "num_samples": 2, "latent_noise_std": 0.3, "max_steps": 4},
        {"num_votes": 4, "verify": True, "selection": "halt_logit"},
    ],
)
def test_answers_are_those_of_solve(client: Client, changes: dict[str, Any]) -> None:
    questions = [new_puzzle(seed)[0] for seed in range(6)]
    model, meta = load_checkpoint(MODEL)
    expected = solve(model, meta, questions, seed=5, **changes)
    body = {"puzzles": [question.tolist() for question in questions], "settings": changes, "seed": 5}
    answers = client.post("/v1/solve", json=body).json()["answers"]
    assert [answer["answer"] for answer in answers] == [answer.grid.tolist() for answer in expected]
    assert [answer["votes"] for answer in answers] == [answer.votes for answer in expected]
    confidences = [answer["confidence"] for answer in answers]
    assert confidences == pytest.approx([answer.confidence for answer in expected], abs=1e-5)


def test_answers_below_the_confidence_are_withheld(client: Client) -> None:
    body = {"puzzles": [PUZZLE], "settings": {"min_confidence": 1.0}}
    (answer,) = client.post("/v1/solve", json=body).json()["answers"]
    assert (answer["answered"], answer["answer"], answer["valid"]) == (False, None, None)
    assert 0 < answer["confidence"] < 1


def test_mistakes(client: Client) -> None:
    assert error_of(client, 422, puzzles=[]).startswith("puzzles: ")
    assert "must have 36 cells (6 x 6)" in error_of(client, 422, puzzles=[PUZZLE, "12"])
    assert error_of(client, 422, puzzles=[PUZZLE, "12"]).startswith("puzzle 2: ")
    assert "must be one puzzle. Got 2" in error_of(client, 422, puzzles=[f"{PUZZLE}\n{PUZZLE}"])
    assert "has 6 twice in a row" in error_of(client, 422, puzzles=["66" + "." * 34])
    assert "must be 0..6. Got 0..7" in error_of(client, 422, puzzles=[[[0] * 5 + [7]] * 6])
    assert "rows of one length" in error_of(client, 422, puzzles=[[[0] * 6] * 5 + [[0]]])
    assert "must be 6 x 6. Got shape (1, 1)" in error_of(client, 422, puzzles=[[[0]]])
    assert error_of(client, 422, puzzles=[[[256]]]).startswith("puzzles.0.")
    assert error_of(client, 404, puzzles=[PUZZLE], model="other") == "no model 'other'; GET /v1/models lists them"
    assert "settings.max_step" in error_of(client, 422, puzzles=[PUZZLE], settings={"max_step": 4})
    assert "max_steps must be greater than or equal to 1" in error_of(
        client, 422, puzzles=[PUZZLE], settings={"max_steps": 0}
    )
    assert "num_samples above 1 requires" in error_of(client, 422, puzzles=[PUZZLE], settings={"num_samples": 2})
    work = "puzzles x num_votes x num_samples x max_steps must be at most 16384. Got 20000"
    assert work in error_of(client, 422, puzzles=[PUZZLE] * 2, settings={"num_votes": 10, "max_steps": 1000})


def test_control_characters_are_not_returned(client: Client) -> None:
    assert "\x1b" not in error_of(client, 422, puzzles=["\x1b[31m"])
    assert "\x1b" not in error_of(client, 404, puzzles=[PUZZLE], model="\x1b[31m")


def test_other_routes(client: Client) -> None:
    (model,) = client.get("/v1/models").json()["models"]
    assert (model["name"], model["dataset"], model["height"], model["width"]) == ("demo", "sudoku", 6, 6)
    assert model["vocabulary"] == [".", *"123456"]
    assert (client.get("/healthz").text, client.get("/readyz").text) == ("ok", "ok")
    assert client.get("/nothing").status_code == 404
    assert client.get("/v1/solve").status_code == 405
    docs = client.get("/docs").text
    assert "/openapi.json" in docs
    assert "https://" not in docs  # no request to another server


def test_metrics() -> None:
    with serving(ServerLimits(max_wait=0)) as client:
        client.post("/v1/solve", json={"puzzles": [PUZZLE] * 3})
        client.post("/v1/solve", json={"puzzles": []})
        client.get("/a/path/of/the/client")
        text = client.get("/metrics").text
        for line in (
            'trm_requests_total{route="/v1/solve",status="200"} 1.0',
            'trm_requests_total{route="/v1/solve",status="422"} 1.0',
            'trm_requests_total{route="other",status="404"} 1.0',
            'trm_puzzles_total{model="demo"} 3.0',
            'trm_batch_puzzles_count{model="demo"} 1.0',
            'trm_queue_puzzles{model="demo"} 0.0',
        ):
            assert line in text.splitlines()


def test_pages_of_other_hosts_are_refused(client: Client) -> None:
    """A name of another host that resolves to this machine, and a form, which browsers send without asking."""
    assert client.get("/v1/models", headers={"host": "attacker.example"}).status_code == 400
    assert client.get("/v1/models", headers={"host": "localhost:8000"}).status_code == 200
    form = client.post("/v1/solve", content=json.dumps({"puzzles": [PUZZLE]}), headers={"content-type": "text/plain"})
    assert form.status_code == 422


def test_time_limit_of_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client gets an answer while the batch is computed; what has not started is not computed."""
    released, computed = threading.Event(), list[int]()

    def solve_late(_model: object, _meta: object, puzzles: list[EvalPuzzle], *_: object) -> list[object]:
        assert released.wait(60)
        computed.append(len(puzzles))
        return [None] * len(puzzles)

    with serving(ServerLimits(timeout=0.5, max_wait=0, batch_size=1)) as client:
        monkeypatch.setattr(service, "solve_puzzles", solve_late)
        assert "time limit" in error_of(client, 504, puzzles=[PUZZLE] * 3)
        released.set()
    assert computed == [1]


def test_a_request_larger_than_the_queue() -> None:
    with serving(ServerLimits(max_queue=2, max_wait=0)) as client:
        response = client.post("/v1/solve", json={"puzzles": [PUZZLE] * 3})
        assert (response.status_code, response.headers["retry-after"]) == (429, "1")
        assert client.post("/v1/solve", json={"puzzles": [PUZZLE] * 2}).status_code == 200


def test_size_of_a_body() -> None:
    with serving(ServerLimits(max_bytes=100, max_wait=0)) as client:
        assert client.post("/v1/solve", json={"puzzles": [PUZZLE]}).status_code == 200
        assert error_of(client, 413, puzzles=[PUZZLE] * 3) == "the body must have at most 100 bytes"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)
VALID: dict[str, Any] = {"puzzles": [PUZZLE], "model": "demo", "settings": {"max_steps": 1}, "seed": 0}


@st.composite
def hostile_bodies(draw: Callable[..., Any]) -> bytes:
    """A valid body with another value at a random place, or cut, or with other bytes, or no JSON at all."""
    body: Any = json.loads(json.dumps(VALID))
    place: Any = body
    while isinstance(place, dict | list) and place and draw(st.booleans()):
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = draw(st.sampled_from(keys))
        if draw(st.booleans()):
            place[key] = draw(JSON)
        place = place[key]
    data = json.dumps(body).encode()
    kind = draw(st.sampled_from(["as it is", "cut", "bytes", "deep", "number"]))
    if kind == "cut":
        return data[: draw(st.integers(0, len(data) - 1))]
    if kind == "bytes":
        return draw(st.binary(max_size=100))
    if kind == "deep":
        return draw(st.sampled_from([b"[", b'{"puzzles":'])) * 50_000
    if kind == "number":
        return data.replace(b'"seed": 0', b'"seed": ' + draw(st.sampled_from([b"1e999", b"-1", b"9" * 5000, b"NaN"])))
    return data


def check_hostile_body(client: Client, body: bytes) -> None:
    """A status of 200 or 4xx, and one line."""
    for path in ("/v1/solve", "/v2/models/demo/infer"):
        response = client.post(path, content=body, headers={"content-type": "application/json"})
        assert response.status_code == 200 or 400 <= response.status_code < 500, response.text
        if response.status_code != 200:
            assert response.json()["error"].isprintable()
            assert len(response.json()["error"]) <= 2000


@given(body=hostile_bodies())
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_hostile_bodies(client: Client, body: bytes) -> None:
    check_hostile_body(client, body)


@pytest.mark.slow
@given(body=hostile_bodies())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_many_hostile_bodies(client: Client, body: bytes) -> None:
    check_hostile_body(client, body)


def test_a_slow_body() -> None:
    """A client that sends a part of its body does not occupy the server."""
    with serving(ServerLimits(timeout=0.2, max_wait=0)) as client, closing(socket.socket()) as slow:
        slow.connect((client.base_url.host, client.base_url.port or 80))
        head = "POST /v1/solve HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        slow.sendall(f"{head}content-length: 100\r\n\r\n{{".encode())
        slow.settimeout(60)
        assert slow.recv(1000).startswith(b"HTTP/1.1 408")


def test_a_fault_of_the_server(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """One line for the client, one in the log, and the server goes on."""
    with serving(ServerLimits(max_wait=0)) as client:
        with monkeypatch.context() as patch:
            patch.setattr(service, "solve_puzzles", lambda *_: 1 / 0)
            assert error_of(client, 500, puzzles=[PUZZLE]) == "a fault of the server; its log has the reason"
        assert [record.getMessage() for record in caplog.records] == ["ZeroDivisionError: division by zero"]
        assert client.post("/v1/solve", json={"puzzles": [PUZZLE]}).status_code == 200
