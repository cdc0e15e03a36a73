"""W&B in pods: the settings in variables, the key from a secret."""

import json
from pathlib import Path
from typing import Any

import pytest

from components.train.backends import job_template
from pipeline.kfp.compile import pipeline_spec
from pipeline.kfp.tracking import tracked_cluster
from tests.params import params_text
from trm.config.params import Params
from trm.config.tracking import TrackingParams
from trm.stages.content_keys import content_keys
from trm.stages.params import load_params, load_tracking

KEY = {"WANDB_API_KEY": {"secret": "wandb", "key": "api-key"}}
TRACKING = {"mode": "online", "project": "puzzles", "entity": "team", "group": None, "tags": ["a"], "tensorboard": "tb"}


def params(folder: Path, tracking: dict[str, Any], pods: dict[str, Any]) -> Params:
    cluster = {"artifact_root": "s3://bucket/trm", "train_job": {}, "pods": pods}
    (folder / "params.yaml").write_text(params_text({"tracking": tracking, "cluster": cluster}))
    return load_params(folder / "params.yaml")


def test_settings_reach_stages_and_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = params(tmp_path, TRACKING, {"secret_env": KEY, "env": {"WANDB_DIR": "/elsewhere"}})
    spec = pipeline_spec(tracked_cluster(settings))
    executors = spec["pipeline_spec"]["deploymentSpec"]["executors"]
    found = {each["name"]: each["value"] for each in executors["exec-evaluate"]["container"]["env"]}
    template = job_template(tracked_cluster(settings))["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]
    (worker,) = template["spec"]["containers"]
    of_worker = {each["name"]: each.get("value", each.get("valueFrom")) for each in worker["env"]}
    assert of_worker["WANDB_API_KEY"] == {"secretKeyRef": {"name": "wandb", "key": "api-key"}}
    for variables in (found, of_worker):
        assert variables["WANDB_DIR"] == "/elsewhere"  # an own setting wins
        monkeypatch.setenv("TRM_TRACKING", variables["TRM_TRACKING"])
        expected = TrackingParams.model_validate({**TRACKING, "tags": ("a",), "tensorboard": None})
        assert load_tracking(json.dumps({})) == expected  # as a stage in a pod reads it
    assert "api-key" not in json.dumps(executors)


@pytest.mark.parametrize("tracking", [{**TRACKING, "mode": "offline"}, {**TRACKING, "mode": "disabled"}])
def test_only_online_runs_are_logged(tmp_path: Path, tracking: dict[str, Any]) -> None:
    settings = params(tmp_path, tracking, {"secret_env": KEY})
    assert tracked_cluster(settings) == settings.cluster


def test_nothing_is_logged_without_a_key(tmp_path: Path) -> None:
    settings = params(tmp_path, TRACKING, {})
    assert tracked_cluster(settings) == settings.cluster


def test_no_result_depends_on_it(tmp_path: Path) -> None:
    without = params(tmp_path, {**TRACKING, "mode": "disabled"}, {})
    assert content_keys(params(tmp_path, TRACKING, {"secret_env": KEY})) == content_keys(without)
