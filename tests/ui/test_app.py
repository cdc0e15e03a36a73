"""The routes of the page: puzzles, traces, limits."""

import json
import threading
from typing import Any

import httpx
import numpy as np
import pytest

from tests.datasets.arc_helpers import EVALUATION
from tests.ui.conftest import Session
from trm.config.inference import DEFAULT_INFERENCE, InferenceConfig
from trm.inference.solve import solve
from trm.inference.trace import trace, trace_puzzle
from trm.reporting.terminal.demo import MODEL, new_puzzle
from trm.training.checkpoint import load_checkpoint
from trm.ui import traces

PUZZLE = ".6..2........5.......3.1...43.42...6"


def post(session: Session, path: str, status: int = 200, **body: object) -> Any:  # noqa: ANN401 - JSON
    response = session.client.post(f"/ui/{path}", json=body)
    assert response.status_code == status, response.text[:1000]
    if status == 200:
        return [json.loads(line) for line in response.text.splitlines()] if path == "trace" else response.json()
    assert list(response.json()) == ["error"]
    assert response.json()["error"].isprintable()
    return response.json()["error"]


def get(session: Session, path: str, **parameters: str) -> Any:  # noqa: ANN401 - JSON
    response = session.client.get(f"/ui/{path}", params=parameters)
    assert response.status_code == 200, response.text
    return response.json()


def model_of(session: Session, part: str) -> str:
    return str(session.folder / part)


def test_the_settings_are_those_of_inference(session: Session) -> None:
    listed = get(session, "models")
    fields = {field["name"]: field for field in listed["settings"]}
    assert list(fields) == list(InferenceConfig.model_fields)
    assert {name: field["default"] for name, field in fields.items()} == DEFAULT_INFERENCE.model_dump()
    assert (fields["max_steps"]["minimum"], fields["max_steps"]["type"]) == (1, "integer")
    assert fields["selection"]["enum"] == ["votes", "halt_logit", "halt_first", "settled"]
    assert all(field["description"] for field in fields.values())


def test_models_of_equal_puzzles(session: Session) -> None:
    models = {model["name"]: model for model in get(session, "models")["models"]}
    maze, other, demo = (
        models[name] for name in (*(model_of(session, f"maze/{n}") for n in ("model", "other")), "demo")
    )
    assert maze["puzzles"] == other["puzzles"] != demo["puzzles"]
    assert (demo["title"], demo["arch"]) == ("Sudoku 6 x 6", "trm")


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ("maze/model", {"is_editable": True, "fills_canvas": True, "can_generate": True, "editable": [0, 1, 2, 3]}),
        ("sums/model", {"is_editable": True, "fills_canvas": False, "can_generate": True, "height": 1}),
        (
            "custom/model",
            {"is_editable": True, "fills_canvas": False, "can_generate": False, "vocabulary": list("abcd")},
        ),
        ("arc/model", {"is_editable": False, "fills_canvas": False, "can_generate": False, "blank": None}),
    ],
)
def test_descriptions(session: Session, part: str, expected: dict[str, object]) -> None:
    facts = get(session, "model", name=model_of(session, part))
    assert {key: facts[key] for key in expected} == expected
    counts = {
        "arc/model": {model_of(session, "arc/dataset"): 2},
        "custom/model": {model_of(session, "custom/dataset"): 2},
    }
    assert facts["datasets"] == counts.get(part, {})
    assert len(facts["names"]) == len(facts["symbols"]) == len(facts["vocabulary"])


def test_typed_puzzles(session: Session) -> None:
    puzzle = post(session, "puzzle", model="demo", text=PUZZLE)
    assert puzzle["question"][0] == [0, 6, 0, 0, 2, 0]
    assert puzzle["solution"][0] == [5, 6, 4, 1, 2, 3]
    assert (puzzle["note"], puzzle["demonstrations"]) == (None, [])
    several = post(session, "puzzle", model="demo", text="." * 36)
    assert (several["solution"], "several solutions" in several["note"]) == (None, True)
    assert "must have 36 cells" in post(session, "puzzle", 422, model="demo", text="12")
    assert "twice in a row" in post(session, "puzzle", 422, model="demo", text="66" + "." * 34)
    assert "\x1b" not in post(session, "puzzle", 422, model="demo", text="\x1b[31m")
    assert "cannot be solved outside" in post(session, "puzzle", 422, model=model_of(session, "arc/model"), text="12")


def test_generated_puzzles(session: Session) -> None:
    one, same, other = (post(session, "puzzle", model="demo", seed=seed)["question"] for seed in (3, 3, 4))
    assert one == same == new_puzzle(3)[0].tolist() != other
    message = post(session, "puzzle", 422, model=model_of(session, "custom/model"), seed=0)
    assert message == "puzzles of dataset custom cannot be generated"


def test_tasks(session: Session) -> None:
    model, dataset = model_of(session, "arc/model"), model_of(session, "arc/dataset")
    tests = get(session, "tests", model=model, dataset=dataset)
    assert sorted(tests["tasks"]) == [["c", 2], ["d", 1]]
    for task in EVALUATION:
        index = [name for name, _ in tests["tasks"]].index(task.name)
        puzzle = post(session, "puzzle", model=model, place={"dataset": dataset, "index": index})
        given, wanted = task.tests[0]
        assert puzzle["question"] == given.tolist()
        assert puzzle["solution"] == (None if wanted is None else wanted.tolist())
        pairs = [[one.tolist(), two.tolist()] for one, two in task.pairs]
        assert sorted(puzzle["demonstrations"]) == sorted(pairs)
        # The network copies its question, which no augmentation changes.
        lines = post(
            session, "trace", model=model, puzzle={"dataset": dataset, "index": index}, settings={"num_votes": 2}
        )
        assert lines[-1]["end"]["answer"] == given.tolist()
        assert (lines[-1]["end"]["votes"], lines[-1]["end"]["num_votes"]) == (2, 2)
        assert lines[-1]["end"]["solved"] == (None if wanted is None else False)


def test_test_puzzles(session: Session) -> None:
    model, dataset = model_of(session, "custom/model"), model_of(session, "custom/dataset")
    assert get(session, "tests", model=model, dataset=dataset) == {"count": 2, "tasks": []}
    place = {"dataset": dataset, "index": 1}
    puzzle = post(session, "puzzle", model=model, place=place)
    assert puzzle["solution"] == puzzle["question"]
    *_, last = post(session, "trace", model=model, puzzle=place)
    assert (last["end"]["answer"], last["end"]["solved"]) == (puzzle["question"], True)
    for key, value in (("index", 2), ("pair", 1)):
        message = post(session, "puzzle", 422, model=model, place=place | {key: value})
        assert message == f"{dataset}: {key} must be below {value}. Got {value}"
    assert (
        post(session, "puzzle", 422, model="demo", place=place)
        == f"{dataset}: has other puzzles than those of the model"
    )
    elsewhere = {"dataset": "/etc"}
    assert "is not inside the folders" in post(session, "puzzle", 403, model=model, place=elsewhere)
    assert "is not inside the folders" in post(session, "trace", 403, model=model, puzzle=elsewhere)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"max_steps": 2, "early_halting": True},
        {"num_votes": 3, "num_samples": 2, "latent_noise_std": 0.3, "max_steps": 4},
        {"num_votes": 4, "verify": True, "selection": "halt_logit"},
        {"min_confidence": 1.0, "max_steps": 1},
    ],
)
def test_traces_end_with_the_answer_of_solve(session: Session, changes: dict[str, Any]) -> None:
    question = new_puzzle(7)[0]
    model, meta = load_checkpoint(MODEL)
    (expected,) = solve(model, meta, [question], seed=5, **changes)
    head, *lines, last = post(session, "trace", model="demo", puzzle=question.tolist(), settings=changes, seed=5)
    end = last["end"]
    assert end["answer"] == (expected.grid.tolist() if expected.answered else None)
    assert (end["answered"], end["votes"]) == (expected.answered, expected.votes)
    assert end["confidence"] == pytest.approx(expected.confidence, abs=1e-5)
    assert (head["question"], head["max_steps"]) == (question.tolist(), changes.get("max_steps", 16))
    assert head["solution"] == new_puzzle(7)[1].tolist()

    _, frames = trace(model, meta, question, seed=5, **changes)
    assert [(line["step"], line["round"], line["pass"]) for line in lines] == [
        (f.step, f.round, f.number) for f in frames
    ]
    assert end["passes"] == len(frames)
    for line, frame in zip(lines, frames, strict=True):
        assert line["answer"] == frame.answer.tolist()
        assert line["halt_probability"] == pytest.approx(1 / (1 + np.exp(-frame.halt_logit)), abs=1e-3)
        assert frame.moved is not None
        np.testing.assert_allclose(np.array(line["moved"]), frame.moved, atol=1e-3)
        assert len(line["samples"]) in (0, len(frame.samples))
    assert (lines[-1]["samples"] != []) == (changes.get("num_votes", 1) > 1)


def test_only_the_ends_of_steps(session: Session) -> None:
    body = {"model": "demo", "puzzle": new_puzzle(7)[0].tolist(), "settings": {"max_steps": 3}}
    every, ends = (post(session, "trace", **body, every_pass=each) for each in (True, False))
    assert ends[1:-1] == [line for line in every if line.get("ends_step")]
    assert len(ends) == 5
    assert ends[-1] == every[-1]


def test_models_of_the_page_answer_requests_of_the_server(session: Session) -> None:
    name = model_of(session, "custom/model")
    get(session, "model", name=name)
    response = session.client.post("/v1/solve", json={"model": name, "puzzles": [[[0, 1, 2], [3, 0, 1]]]})
    assert response.json()["answers"][0]["answer"] == [[0, 1, 2], [3, 0, 1]]


def test_mistakes(session: Session) -> None:
    question = new_puzzle(7)[0].tolist()
    body: dict[str, Any] = {"model": "demo", "puzzle": question}
    assert "settings.max_step" in post(session, "trace", 422, **body, settings={"max_step": 1})
    assert "num_samples above 1 requires" in post(session, "trace", 422, **body, settings={"num_samples": 2})
    assert "must be at most 16384" in post(session, "trace", 422, **body, settings={"max_steps": 4096, "num_votes": 5})
    assert "must be 6 x 6" in post(session, "trace", 422, model="demo", puzzle=[[0]])
    assert "must be 0..6" in post(session, "trace", 422, model="demo", puzzle=[[9] * 6] * 6)
    wrong: dict[str, Any]
    for wrong in (
        {},
        {"text": PUZZLE, "seed": 1},
        {"seed": -1},
        {"place": {"dataset": "x", "index": -1}},
        {"other": 1},
    ):
        post(session, "puzzle", 422, model="demo", **wrong)
    no_rules = {"model": model_of(session, "custom/model"), "puzzle": [[0, 1, 2], [3, 0, 1]]}
    assert "has no rules" in post(session, "trace", 422, **no_rules, settings={"verify": True})
    assert "num_votes must be at most 8" in post(
        session,
        "trace",
        422,
        model=model_of(session, "maze/model"),
        puzzle=post(session, "puzzle", model=model_of(session, "maze/model"), seed=0)["question"],
        settings={"num_votes": 9},
    )


def test_size_of_a_trace(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten passes of 36 cells, 36 movements and four values of each of two samples."""
    body = {"model": "demo", "puzzle": new_puzzle(7)[0].tolist(), "settings": {"max_steps": 3, "num_votes": 2}}
    monkeypatch.setattr(traces, "MAX_VALUES", 3 * 10 * 80 - 1)
    remedy = "lower max_steps or num_votes, or show only the end of each step"
    message = f"the frames must have at most 2,399 values together. Got 2,400; {remedy}"
    assert post(session, "trace", 422, **body) == message
    assert len(post(session, "trace", **body, every_pass=False)) == 5
    monkeypatch.setattr(traces, "MAX_VALUES", 3 * 10 * 80)
    assert len(post(session, "trace", **body)) == 32


def test_a_trace_stops_when_the_client_goes(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next trace does not wait for one that would not end."""
    released = threading.Event()

    def repeat(*arguments: Any) -> None:  # noqa: ANN401 - those of `trace_puzzle`
        while not released.is_set():
            trace_puzzle(*arguments)

    body = {"model": "demo", "puzzle": new_puzzle(7)[0].tolist(), "settings": {"max_steps": 1}}
    try:
        with monkeypatch.context() as patch:
            patch.setattr(traces, "trace_puzzle", repeat)
            with session.client.stream("POST", "/ui/trace", json=body) as response:
                assert json.loads(next(response.iter_lines()))["max_steps"] == 1
        assert "end" in post(session, "trace", **body)[-1]
    finally:
        released.set()


def test_traces_wait_for_each_other(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those beyond the limit are refused; a fault is reported in one line, and the next trace is computed."""
    released, started = threading.Event(), threading.Semaphore(0)

    def fail_late(*_: object) -> None:
        started.release()
        assert released.wait(60)
        raise ZeroDivisionError

    body = {"model": "demo", "puzzle": new_puzzle(7)[0].tolist()}
    monkeypatch.setattr(traces, "trace_puzzle", fail_late)
    monkeypatch.setattr(traces, "MAX_WAITING", 1)
    statuses = list[int]()
    headers = session.client.headers
    request = threading.Thread(
        target=lambda: statuses.append(httpx.post(f"{session.url}/ui/trace", json=body, headers=headers).status_code)
    )
    request.start()
    assert started.acquire(timeout=60)
    response = session.client.post("/ui/trace", json=body)
    assert (response.status_code, response.headers["retry-after"]) == (429, "1")
    assert session.client.get("/healthz").text == "ok"
    released.set()
    request.join()
    assert statuses == [500]
    monkeypatch.undo()
    assert "end" in post(session, "trace", **body)[-1]


def test_a_fault_after_the_first_frame(
    session: Session, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*arguments: Any) -> None:  # noqa: ANN401 - those of `trace_puzzle`
        trace_puzzle(*arguments)
        raise ZeroDivisionError("no\nanswer")

    monkeypatch.setattr(traces, "trace_puzzle", fail)
    lines = post(session, "trace", model="demo", puzzle=new_puzzle(7)[0].tolist(), settings={"max_steps": 1})
    assert lines[-1] == {"error": "a fault of the server; its log has the reason"}
    assert [record.getMessage() for record in caplog.records] == ["ZeroDivisionError: no\\nanswer"]
