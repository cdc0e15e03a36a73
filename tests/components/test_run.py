"""Entry point of the stage containers: pointer and executor output, and their absence after a failure."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from components import run
from tests.conftest import ROOT
from trm.cli import main as cli
from trm.storage import s3
from trm.storage.artifacts import write_json
from trm.utils.errors import InternalError, Interrupted, UserError
from trm.utils.paths import file_digest

URI = "s3://bucket/artifacts/train/abc"
DATASET = "s3://bucket/artifacts/augment/def"
COMMAND = ("train", "--params", "{}", "--dataset", DATASET, "--model", URI)
FACTS = {"device": "cpu", "steps": 7, "metrics": {"exact": 0.5, "fair": True, "by_size": {"6": 1}}, "curve": [1, 2]}
MANIFEST = {"stage": "train", "key": "abc", "inputs": {"dataset": "def"}, "facts": FACTS, "files": {}}
MODEL = {"name": "model", "type": {"schemaTitle": "system.Model"}, "uri": "s3://bucket/run/model", "metadata": {}}
LOGS = {"name": "executor-logs", "type": {"schemaTitle": "system.Artifact"}, "uri": "s3://bucket/run/executor-logs"}
Container = Callable[..., tuple[int, Any]]


def output_artifacts(*own: dict[str, Any]) -> dict[str, Any]:
    """Return the outputs of an executor input of Kubeflow 2.17, whose driver adds `executor-logs` to every container.

    Its place among the others is not defined, as JSON objects have no order.
    """
    return {artifact["name"]: {"artifacts": [artifact]} for artifact in (LOGS, *own)}


@pytest.fixture
def container(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Container:
    """Runs a component whose command exits with `code` and leaves `manifest`; returns exit code and executor output."""

    def component(code: int = 0, manifest: dict[str, Any] | BaseException | None = None) -> tuple[int, Any]:
        output, pointer = tmp_path / "not/yet/there/executor_output.json", tmp_path / "nor/this/model"
        outputs = {"artifacts": output_artifacts(MODEL), "outputFile": str(output)}
        inputs = {"parameterValues": {"key": "abc"}, "artifacts": {"dataset": {"artifacts": [{"name": "dataset"}]}}}
        executor_input = {"inputs": inputs, "outputs": outputs}
        given = [str(tmp_path / "dataset") if word == DATASET else word for word in COMMAND]
        (tmp_path / "dataset").write_text(json.dumps({"uri": DATASET, "key": "def", "digest": "0"}))

        def command() -> NoReturn:
            assert sys.argv == ["trm", *COMMAND]
            sys.exit(code)

        def read(uri: str) -> dict[str, Any] | None:
            assert uri == URI
            if isinstance(manifest, BaseException):
                raise manifest
            return manifest

        monkeypatch.setattr(cli, "main", command)
        monkeypatch.setattr(s3, "read_manifest", read)
        monkeypatch.setattr(sys, "argv", ["run.py", json.dumps(executor_input), str(pointer), *given])
        with pytest.raises(SystemExit) as stop:
            run.main()
        assert isinstance(stop.value.code, int)
        assert output.exists() == pointer.exists() == (stop.value.code == 0)
        return stop.value.code, json.loads(output.read_text()) if output.exists() else None

    return component


def test_pointer_and_metadata_of_a_successful_command(container: Container, tmp_path: Path) -> None:
    write_json(tmp_path / "manifest.json", MANIFEST)
    pointer = {"uri": URI, "key": "abc", "digest": file_digest(tmp_path / "manifest.json")}
    metadata = {**pointer, "device": "cpu", "steps": 7, "metrics.exact": 0.5, "metrics.fair": True}
    # The artifact keeps Kubeflow's URI: the launcher uploads the pointer there, and rejects URIs outside of the run.
    artifact = MODEL | {"metadata": metadata}
    assert container(manifest=MANIFEST) == (0, {"artifacts": {"model": {"artifacts": [artifact]}}})
    assert json.loads((tmp_path / "nor/this/model").read_text()) == pointer


@pytest.mark.parametrize("extra", ["dataset", "executor-logs", "model-2"])
def test_output_is_that_of_the_stage_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extra: str) -> None:
    """Also if another output has the name of an option of the command."""
    monkeypatch.setattr(s3, "read_manifest", lambda uri: MANIFEST if uri == URI else None)
    outputs = {"artifacts": output_artifacts({"name": extra}, MODEL), "outputFile": tmp_path / "out"}
    run.register_output(outputs, tmp_path / "pointer", list(COMMAND))
    assert list(json.loads((tmp_path / "out").read_text())["artifacts"]) == ["model"]


@pytest.mark.parametrize("text", [None, "", "{}", "[]"])
def test_invalid_input_pointer_is_reported(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "dataset"
    if text is not None:
        file.write_text(text)
    with pytest.raises(InternalError, match="not a pointer to the artifact dataset; run the preceding stage again"):
        run.resolve_inputs(["train", "--dataset", str(file)])


@pytest.mark.parametrize("code", [1, 2, 137, 143])
def test_failed_command_fails_the_component(container: Container, code: int) -> None:
    """Also if an earlier run left a manifest."""
    assert container(code, MANIFEST) == (code, None)


@pytest.mark.parametrize(
    ("manifest", "code"),
    [(None, 1), (InternalError("the server is gone"), 1), (UserError("wrong keys"), 2), (Interrupted(15), 143)],
    ids=["no manifest", "fault", "user error", "signal"],
)
def test_missing_manifest_fails_the_component(
    container: Container, capsys: pytest.CaptureFixture[str], manifest: BaseException | None, code: int
) -> None:
    assert container(0, manifest) == (code, None)
    stderr = capsys.readouterr().err
    assert stderr.count("\n") == 1
    assert stderr.startswith("trm: ")
    assert manifest is not None or f"{URI}: no manifest.json although the command succeeded" in stderr


def test_user_error_of_a_real_command(tmp_path: Path) -> None:
    """One line and exit code 2, without importing kfp or torch."""
    output = tmp_path / "executor_output.json"
    outputs = {"artifacts": output_artifacts({"name": "raw"}), "outputFile": str(output)}
    program = "import sys; sys.modules.update(kfp=None, torch=None); from components import run; run.main()"
    argv = [
        json.dumps({"inputs": {}, "outputs": outputs}),
        str(tmp_path / "raw"),
        "fetch",
        "--params",
        str(tmp_path / "no.yaml"),
        "--raw",
        "s3://a/b",
    ]
    done = subprocess.run([sys.executable, "-c", program, *argv], check=False, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"trm: {tmp_path / 'no.yaml'}")
    assert done.stderr.count("\n") == 1
    assert not output.exists()
