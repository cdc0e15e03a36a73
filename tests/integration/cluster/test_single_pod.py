"""Training in the container of the stage, without a PyTorchJob: a lost pod resumes in the next one."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from pipeline.local.s3_server import SeaweedFS
from tests.components.train.fake_cluster import wait_for
from tests.conftest import ROOT
from tests.params import params_text
from tests.preload import python
from tests.seaweed import objects
from trm.stages.content_keys import content_keys
from trm.stages.params import load_params
from trm.storage import s3

pytestmark = pytest.mark.slow


def test_evicted_pod_resumes_in_another_pod(
    seaweed: SeaweedFS, root: str, base_params: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    """Kubeflow retries the task; the cache of the first pod is lost."""
    (tmp_path / "params.yaml").write_text(params_text({"train.epochs": 30}, base_params))
    params = load_params(tmp_path / "params.yaml")
    keys = content_keys(params)
    s3.publish(folders["dataset"], f"{root}/augment/{keys['augment']}")
    pointer, output = tmp_path / "dataset", tmp_path / "output.json"
    pointer.write_text(json.dumps({"uri": f"{root}/augment/{keys['augment']}"}))
    artifacts = {name: {"artifacts": [{"name": name}]} for name in ("executor-logs", "model")}
    executor_input = {"inputs": {}, "outputs": {"artifacts": artifacts, "outputFile": str(output)}}
    sections = {name: getattr(params, name).model_dump(mode="json") for name in ("model", "train")}
    command = [python(), "-m", "components.train.launcher", json.dumps(executor_input), str(tmp_path / "model")]
    command += ["{}", "train", "--params", json.dumps(sections), "--dataset", str(pointer)]
    command += ["--model", f"{root}/train/{keys['train']}"]

    def start(number: int) -> subprocess.Popen[str]:
        environment = {**os.environ, **seaweed.environment(), "TRM_CACHE_DIR": str(tmp_path / f"pod-{number}")}
        environment.pop("TRM_STATE_DIR", None)
        return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)

    states = f"{root}/states/{keys['train']}"
    with start(1) as first:
        wait_for(lambda: any(name.endswith("manifest.json") for name in objects(seaweed, states)))
        first.kill()
    with start(2) as second:
        _, err = second.communicate(timeout=300)
    assert second.returncode == 0, err
    assert "train: resuming from step" in err
    assert list(json.loads(output.read_text())["artifacts"]) == ["model"]
