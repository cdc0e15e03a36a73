"""Logging to Weights & Biases, read back from its files; failures of W&B do not affect a training."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from wandb.proto import wandb_internal_pb2

from tests.conftest import ROOT
from tests.params import TINY, params_text
from tests.preload import python
from tests.studies.test_study import TINY as TINY_STUDY
from trm.stages.params import load_tracking
from trm.utils.errors import ParamsError

OFFLINE = {"mode": "offline", "project": "puzzles", "tags": ["a-tag"]}
BLOCK, HEADER = 32768, 7


def records(file: Path) -> Iterator[Any]:
    """The records of a .wandb file: the log format of LevelDB after a header of seven bytes."""
    data, place, content = file.read_bytes(), HEADER, b""
    while place + 7 <= len(data):
        left = BLOCK - place % BLOCK
        if left < 7:
            place += left
            continue
        size, record_type = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        content += data[place + 7 : place + 7 + size]
        place += 7 + size
        if record_type in (1, 4):  # a complete record, or its last part
            record = wandb_internal_pb2.Record()  # pyright: ignore[reportAttributeAccessIssue] - created at import
            record.ParseFromString(content)
            yield record
            content = b""


class OfflineRun:
    """The contents of an offline run."""

    def __init__(self, folder: Path) -> None:
        (file,) = folder.glob("*.wandb")
        found = list(records(file))
        self.run = next(record.run for record in found if record.WhichOneof("record_type") == "run")
        self.config = {item.key: json.loads(item.value_json) for item in self.run.config.update}
        self.history = [_items(each.history.item) for each in found if each.WhichOneof("record_type") == "history"]
        self.summary: dict[str, Any] = {}
        for record in found:
            if record.WhichOneof("record_type") == "summary":
                self.summary |= _items(record.summary.update)
        self.artifacts = [each.request.log_artifact.artifact for each in found if each.request.HasField("log_artifact")]
        self.artifacts += [each.artifact for each in found if each.WhichOneof("record_type") == "artifact"]

    def curve(self, log: str, name: str) -> list[tuple[int, float]]:
        rows = [row for row in self.history if f"{log}/step" in row]
        return [(int(row[f"{log}/step"]), row[f"{log}/{name}"]) for row in rows]


def _items(items: Any) -> dict[str, Any]:  # noqa: ANN401 - protobuf has no types
    return {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}


class Experiment:
    """A tiny experiment whose stages run as separate commands."""

    def __init__(self, folder: Path, **changes: object) -> None:
        self.folder = folder
        (folder / "params.yaml").write_text(params_text({**TINY, **changes}))
        kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
        self.environment = {**kept, "PYTHONPATH": str(ROOT), "TRM_STATE_DIR": str(folder / "states")}
        self.environment |= {"HOME": str(folder), "OMP_NUM_THREADS": "1"}
        for stage in ("fetch", "augment"):
            self.run(stage)

    def start(self, stage: str, program: str = sys.executable, **environment: str) -> subprocess.Popen[str]:
        command = [program, "-m", "trm", stage]
        environment = {**self.environment, **environment}
        return subprocess.Popen(command, cwd=self.folder, env=environment, stderr=subprocess.PIPE, text=True)

    def run(self, stage: str, code: int = 0, **environment: str) -> str:
        """Run a stage; returns its stderr."""
        with self.start(stage, python(), **environment) as process:
            _, err = process.communicate(timeout=300)
        assert process.returncode == code, err
        return err

    def runs(self) -> list[OfflineRun]:
        return [OfflineRun(folder) for folder in sorted((self.folder / "wandb").glob("offline-run-*"))]

    def log(self, name: str) -> list[tuple[int, float]]:
        with (self.folder / "outputs/model/train.tsv").open() as file:
            return [(int(row["step"]), float(row[name])) for row in csv.DictReader(file, delimiter="\t")]


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    return Experiment(tmp_path)


@pytest.mark.slow
def test_offline_run(experiment: Experiment) -> None:
    for stage in ("train", "evaluate"):
        experiment.run(stage, TRM_TRACKING=json.dumps(OFFLINE))
    trained, evaluated = experiment.runs()
    manifest = json.loads((experiment.folder / "outputs/model/manifest.json").read_text())
    assert trained.run.run_id == evaluated.run.run_id == manifest["key"][:16]
    timing = json.loads((experiment.folder / "outputs/model.timing.json").read_text())
    assert timing["wandb"] == f"puzzles/{trained.run.run_id}"
    assert (trained.run.project, list(trained.run.tags)) == ("puzzles", ["a-tag"])
    assert trained.config["train"] == manifest["params"]["train"]
    assert trained.config["data"]["name"] == "sudoku"
    assert trained.config["lineage"]["train"] == manifest["key"]
    assert trained.config["lineage"]["dataset"] == manifest["inputs"]["dataset"]
    assert trained.curve("train", "loss") == experiment.log("loss")
    assert trained.curve("validation", "exact_accuracy")
    assert trained.summary["parameters"] == manifest["facts"]["parameters"]
    (model,) = trained.artifacts
    assert (model.name, model.type) == (f"model-{manifest['key'][:16]}", "model")
    assert {entry.path for entry in model.manifest.contents} >= {"checkpoint.safetensors", "train.tsv"}
    metrics = json.loads((experiment.folder / "outputs/evaluation/metrics.json").read_text())
    assert evaluated.summary["test/exact_accuracy"] == metrics["exact_accuracy"]
    (table,) = [artifact for artifact in evaluated.artifacts if artifact.type == "run_table"]
    paths = [entry.path for entry in table.manifest.contents]
    assert sum(path.endswith(".png") for path in paths) >= 10
    assert "predictions.table.json" in paths


@pytest.mark.slow
def test_resumed_run_continues_its_curve(tmp_path: Path) -> None:
    long = {"train.epochs": 200, "train.checkpoint_interval": 20}
    experiment = Experiment(tmp_path, **{"train.log_interval": 5}, **long)
    offline = json.dumps(OFFLINE)
    with experiment.start("train", python(), TRM_TRACKING=offline) as process:
        (log,) = _wait_for(lambda: list(tmp_path.glob("states/*/train.tsv")))
        _wait_for(lambda: log.read_text().count("\n") > 20)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=120)
    assert process.returncode == 143
    experiment.run("train", TRM_TRACKING=offline)
    first, second = experiment.runs()
    assert first.run.run_id == second.run.run_id
    complete = experiment.log("loss")
    before = first.curve("train", "loss")
    assert len(before) >= 20
    assert before == complete[: len(before)]
    assert dict([*before, *second.curve("train", "loss")]) == dict(complete)


@pytest.mark.slow
@pytest.mark.parametrize(
    "environment",
    [
        {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_INIT_TIMEOUT": "3"},
        {"WANDB_BASE_URL": "http://127.0.0.1:9"},
        {"WANDB_DIR": "/dev/null"},
    ],
    ids=["unreachable", "no key", "no folder"],
)
def test_training_succeeds_without_wandb(experiment: Experiment, environment: dict[str, str]) -> None:
    messages = experiment.run("train", **{**environment, "TRM_TRACKING": '{"mode": "online"}'})  # pyright: ignore[reportArgumentType]
    assert (experiment.folder / "outputs/model/manifest.json").exists()
    assert "tracking: W&B is unavailable" in messages
    if "WANDB_DIR" not in environment:
        (run,) = experiment.runs()
        assert run.curve("train", "loss") == experiment.log("loss")


@pytest.mark.slow
def test_deleted_run_gets_another_id(experiment: Experiment) -> None:
    """W&B refuses the id of a deleted run, also when it is synchronized later."""
    deleted: set[str] = set()

    class Server(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            request = json.loads(body) if self.path == "/graphql" else {}
            if "UpsertBucket" not in request.get("query", ""):
                self._send(200, {"data": {}})
            elif not deleted or request["variables"]["name"] in deleted:
                deleted.add(request["variables"]["name"])
                self._send(409, _error("run trm/x was previously created and deleted; try a new run name"))
            else:
                self._send(401, _error("not logged in"))

        def _send(self, status: int, answer: object) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        address = {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": f"http://127.0.0.1:{server.server_address[1]}"}
        address |= {"TRM_TRACKING": '{"mode": "online"}', "WANDB_INIT_TIMEOUT": "3"}
        messages = experiment.run("train", 0, **address)
        server.shutdown()
    (old,) = deleted
    assert f"tracking: the run {old} was deleted in W&B; this one is {old}-2" in messages
    (run,) = experiment.runs()
    assert run.run.run_id == f"{old}-2"
    assert run.curve("train", "loss") == experiment.log("loss")


def _error(message: str) -> dict[str, object]:
    return {"data": {"upsertBucket": None}, "errors": [{"message": message, "path": ["upsertBucket"]}]}


@pytest.mark.slow
def test_training_succeeds_when_the_tracking_process_is_killed(tmp_path: Path) -> None:
    experiment = Experiment(tmp_path, **{"train.epochs": 200, "train.log_interval": 5})
    with experiment.start("train", TRM_TRACKING=json.dumps(OFFLINE)) as process:
        (log,) = _wait_for(lambda: list(tmp_path.glob("states/*/train.tsv")))
        _wait_for(lambda: log.read_text().count("\n") > 3)
        command = ["ps", "-o", "pid=,args=", "--ppid", str(process.pid)]
        found = subprocess.run(command, check=True, capture_output=True, text=True)
        (pid,) = [int(line.split()[0]) for line in found.stdout.splitlines() if "trm.tracking.process" in line]
        os.kill(pid, signal.SIGKILL)
        process.communicate(timeout=300)
    assert process.returncode == 0
    assert (tmp_path / "outputs/model/manifest.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("group", [None, "mine"])
def test_runs_of_a_study_form_a_group(tmp_path: Path, group: str | None) -> None:
    """The group is that of params.yaml or the name of the study; each run has its variation as a tag."""
    runs = {"baseline": {}, "less-recursion": {}}
    study = {"base": TINY_STUDY.base, "changes": TINY_STUDY.changes, "runs": runs}
    (tmp_path / "small.yaml").write_text(json.dumps(study))
    line = f"\n  group: {group}" if group else ""
    text, count = re.subn(
        "mode: disabled.*", f"mode: offline\n  tags: [custom]{line}", (ROOT / "params.yaml").read_text()
    )
    assert count == 1
    (tmp_path / "params.yaml").write_text(text)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment |= {"PYTHONPATH": str(ROOT), "TRM_STATE_DIR": str(tmp_path / "states"), "HOME": str(tmp_path)}
    command = [python(), "-m", "trm", "study", "small.yaml"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    logged = [OfflineRun(folder) for folder in sorted((tmp_path / "wandb").glob("offline-run-*"))]
    assert len(logged) == 4  # a training and an evaluation of two recipes
    assert {each.run.run_group for each in logged} == {group or "small"}
    keys = {
        recipe: json.loads((tmp_path / f"studies/small/{recipe}-0/model/manifest.json").read_text())["key"][:16]
        for recipe in runs
    }
    assert sorted((each.run.run_id, *each.run.tags) for each in logged) == sorted(
        (key, "custom", recipe) for recipe, key in keys.items() for _ in range(2)
    )
    curves = [each.curve("train", "loss") for each in logged if each.curve("train", "loss")]
    assert len(curves) == 2
    assert curves[0] != curves[1]


def _wait_for(condition: Any, seconds: float = 60) -> Any:  # noqa: ANN401 - any condition
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("project", "a/b"),
        ("project", "a#b"),
        ("project", ""),
        ("project", "x" * 129),
        ("entity", "a/b"),
        ("group", ""),
        ("tags", [""]),
        ("tags", ["x" * 65]),
    ],
)
def test_names_that_wandb_refuses(monkeypatch: pytest.MonkeyPatch, setting: str, value: object) -> None:
    monkeypatch.setenv("TRM_TRACKING", json.dumps({"mode": "online", setting: value}))
    with pytest.raises(ParamsError, match=rf"^\$TRM_TRACKING: {setting}\S* must be|should"):
        load_tracking("{}")


def test_load_tracking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = tmp_path / "params.yaml"
    text = (ROOT / "params.yaml").read_text()
    params.write_text(text)
    assert load_tracking(str(params)).mode == "disabled"
    params.write_text(text.replace("mode: disabled", "mode: offline\n  group: a"))
    assert load_tracking(str(params)).group == "a"
    assert load_tracking('{"data": {}}').mode == "disabled"
    monkeypatch.setenv("TRM_TRACKING", '{"mode": "online"}')
    assert load_tracking(str(params)).mode == "online"
    monkeypatch.setenv("TRM_TRACKING", '{"mode": "on"}')
    with pytest.raises(ParamsError, match=r"\$TRM_TRACKING: mode must be 'disabled', 'offline' or 'online'. Got 'on'"):
        load_tracking(str(params))
    monkeypatch.setenv("TRM_TRACKING", "{")
    with pytest.raises(ParamsError, match="not valid JSON"):
        load_tracking(str(params))
