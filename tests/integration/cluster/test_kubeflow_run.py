"""Runs of the pipeline with Kubeflow's cache and retries, training in one pod and by both kinds of job."""

import os
from pathlib import Path
from typing import Any

import pytest

from pipeline.kfp.compile import pipeline_spec
from pipeline.kfp.definition import run_arguments
from tests.components.train.fake_cluster import FakeCluster
from tests.components.train.launcher_fixtures import Stage
from tests.params import TINY, params_text
from tests.pipeline.kfp.driver import Driver
from trm.stages.content_keys import content_keys
from trm.stages.params import load_params
from trm.storage import s3

pytestmark = pytest.mark.slow
STAGES = ["fetch", "augment", "train", "evaluate", "report"]


class Runs:
    """Runs of one experiment with one cache."""

    def __init__(self, folder: Path, cluster: dict[str, Any], changes: dict[str, Any] | None = None) -> None:
        (folder / "params.yaml").write_text(params_text({**TINY, **(changes or {}), "cluster": cluster}))
        params = load_params(folder / "params.yaml")
        self.folder, self.cluster, self.keys = folder, params.cluster, content_keys(params)
        self.arguments = run_arguments(params, self.keys, self.cluster.artifact_root)
        self.cache: dict[str, dict[str, str]] = {}
        self.environment = dict(os.environ)
        self.number = 0

    def run(self, kills: dict[str, int] | None = None, uncached: tuple[str, ...] = ()) -> Driver:
        self.number += 1
        spec = pipeline_spec(self.cluster, uncached)["pipeline_spec"]
        driver = Driver(spec, self.folder / str(self.number), self.environment, kills or {}, self.cache)
        driver.run(self.arguments)
        return driver

    def uri(self, stage: str) -> str:
        return s3.artifact_uri(self.cluster.artifact_root, stage, self.keys[stage])


def test_cache_and_retries(root: str, tmp_path: Path) -> None:
    runs = Runs(tmp_path, {"artifact_root": root, "max_retries": 2, "retry_backoff_seconds": 0})
    first = runs.run(kills={"evaluate": 2})
    assert set(first.ended.values()) == {0}, first.output
    assert first.attempts == {**dict.fromkeys(STAGES, 1), "evaluate": 3, "run-summary": 1}
    assert "# Run succeeded" in first.output["run-summary"]
    published = {stage: s3.read_manifest(runs.uri(stage)) for stage in STAGES}

    second = runs.run()
    assert second.cached == STAGES
    assert list(second.ended) == ["run-summary"]

    # Kubeflow's cache does not know that an artifact was deleted; `submit` does, and names the stage.
    s3.remove(runs.uri("train"))
    third = runs.run(uncached=("train",))
    assert third.cached == ["fetch", "augment"]
    assert set(third.ended.values()) == {0}, third.output
    found = {stage: s3.read_manifest(runs.uri(stage)) for stage in STAGES}
    assert found == published  # the same bytes
    for later in ("evaluate", "report"):  # the pointer is another artifact of Kubeflow, its content the same
        assert f"{runs.uri(later)} exists" in third.output[later]


def test_a_task_without_further_retries_fails_the_run(root: str, tmp_path: Path) -> None:
    runs = Runs(tmp_path, {"artifact_root": root, "max_retries": 1, "retry_backoff_seconds": 0})
    failed = runs.run(kills={"train": 2})
    assert failed.attempts == {"fetch": 1, "augment": 1, "train": 2, "run-summary": 1}
    assert failed.ended["train"] == 137
    assert "# Run failed: stage train has no artifact" in failed.output["run-summary"]
    again = runs.run()
    assert again.cached == ["fetch", "augment"]
    assert set(again.ended.values()) == {0}, again.output


def test_all_stages_with_a_training_job(stage: Stage, operator: FakeCluster, tmp_path: Path) -> None:
    """The launcher runs in the container of the stage, two workers in their pods."""
    cluster = stage.cluster.model_copy(update={"max_retries": 1, "retry_backoff_seconds": 0})
    (tmp_path / "run").mkdir()
    runs = Runs(tmp_path / "run", cluster.model_dump(mode="json"))
    runs.environment |= {**stage.seaweed.environment(), "KUBECONFIG": str(stage.server.kubeconfig())}
    done = runs.run(kills={"train": 1})
    assert set(done.ended.values()) == {0}, done.output
    assert done.attempts["train"] == 2
    assert "launcher: created job" in done.output["train"]
    manifest = s3.read_manifest(runs.uri("train"))
    assert manifest is not None
    assert manifest["facts"]["processes"] == 2
    assert sorted(operator.created) == [0, 1]
    assert runs.run().cached == STAGES
