"""Every key of section `cluster` in the objects that an API server stores, and in the compiled pipeline."""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from components.train.backends import fill, job_template
from components.train.train_job import runtime
from pipeline.kfp.compile import pipeline_spec
from tests.apiserver import ApiServer
from tests.components.train.fake_trainer import worker_template
from tests.conftest import ROOT
from tests.k8s.cluster_settings import FULL, ROWS, RUNTIME, Seen
from tests.k8s.lookup import contains, lookup
from tests.k8s.pod_security import violations
from trm.config.cluster import ClusterParams
from trm.utils.errors import ParamsError

DROPPED = "matchLabelKeys"
"""Field that pods of Kubernetes 1.20 do not have."""
OWN = {
    "pytorchjob": {"ttl_seconds": 99, "gang": {**FULL["train_job"]["gang"], "timeout_seconds": 77}},
    "trainjob": {},
}
"""Settings of one back end."""
Objects = dict[str, dict[str, Any]]


def cluster(backend: str | None) -> ClusterParams:
    """Return section `cluster` with all settings; without a job for None."""
    if backend is None:
        resources = {"evaluate": FULL["resources"]["evaluate"]}
        return ClusterParams.model_validate({**FULL, "train_job": None, "resources": resources})
    return ClusterParams.model_validate(
        {**FULL, "train_job": {**FULL["train_job"], "backend": backend, **OWN[backend]}}
    )


def manifest(settings: ClusterParams) -> dict[str, Any]:
    return fill(job_template(settings), ["train"], "a" * 64, settings.artifact_root)


def create(server: ApiServer, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """Create an object and return what the server has stored."""
    assert server.post(f"{path}?dryRun=All", body).status_code == 201  # a server-side dry run
    answer = server.post(path, body)
    assert answer.status_code == 201, answer.text
    return server.http("GET", f"{path}/{body['metadata']['name']}").json()


@pytest.fixture(scope="module")
def created(apiserver: ApiServer) -> dict[str, Objects]:
    """Back end -> the objects as the server returns them: job, runtime, template of a worker, pod of a worker."""
    apiserver.post("api/v1/namespaces", {"metadata": {"name": "settings"}})
    apiserver.post("apis/scheduling.k8s.io/v1/priorityclasses", {"metadata": {"name": "high"}, "value": 1})
    apiserver.post("apis/node.k8s.io/v1/runtimeclasses", {"metadata": {"name": "nvidia"}, "handler": "nvidia"})
    found: dict[str, Objects] = {}
    settings = cluster("pytorchjob")
    path = "apis/kubeflow.org/v1/namespaces/settings/pytorchjobs"
    job = create(apiserver, path, manifest(settings))
    found["pytorchjob"] = {"job": job, "template": job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]}
    settings = cluster("trainjob")
    assert settings.train_job is not None
    path = "apis/trainer.kubeflow.org/v1alpha1/namespaces/settings"
    stored = create(apiserver, f"{path}/trainingruntimes", runtime(settings, settings.train_job))
    job = create(apiserver, f"{path}/trainjobs", manifest(settings))
    template = worker_template(job, stored)["spec"]["template"]
    found["trainjob"] = {"job": job, "runtime": stored, "template": template}
    for backend, objects in found.items():
        template = objects["template"]
        pod = {"metadata": {**template["metadata"], "name": f"settings-{backend}"}, "spec": template["spec"]}
        objects["pod"] = create(apiserver, "api/v1/namespaces/settings/pods", pod)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("backend", OWN)
@pytest.mark.parametrize("row", [row for row in ROWS if row.pod], ids=lambda row: row.setting)
def test_setting_reaches_the_pods_of_workers(created: dict[str, Objects], row: Seen, backend: str) -> None:
    """In the job that the server has stored, and in a pod of it."""
    assert contains(lookup(created[backend]["template"], row.pod), row.value)
    expected = json.loads(re.sub(rf', "{DROPPED}": \[[^]]*\]', "", json.dumps(row.value)))
    assert contains(lookup(created[backend]["pod"], row.pod), expected)


@pytest.mark.slow
@pytest.mark.parametrize("backend", OWN)
def test_pods_with_all_settings_satisfy_restricted_pod_security(created: dict[str, Objects], backend: str) -> None:
    assert violations(created[backend]["pod"]) == []


@pytest.mark.slow
@pytest.mark.parametrize("backend", OWN)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.setting)
def test_setting_reaches_the_job(created: dict[str, Objects], row: Seen, backend: str) -> None:
    path = getattr(row, backend)
    if not path:
        return
    kind, _, below = path.rpartition(": ")
    found = lookup(created[backend]["runtime" if kind == RUNTIME else "job"], below)
    assert contains(type(row.value)(found) if isinstance(row.value, int) else found, row.value)


@pytest.fixture(scope="module")
def compiled() -> dict[str, Any]:
    """The pipeline with all settings."""
    return pipeline_spec(cluster(None))


@pytest.mark.parametrize("row", [row for row in ROWS if row.stage], ids=lambda row: row.setting)
def test_setting_reaches_the_pods_of_stages(compiled: dict[str, Any], row: Seen) -> None:
    pipeline, platform = compiled["pipeline_spec"], compiled["platform_spec"]["platforms"]["kubernetes"]
    places = {
        "executor": pipeline["deploymentSpec"]["executors"]["exec-evaluate"]["container"],
        "platform": platform["deploymentSpec"]["executors"]["exec-evaluate"],
        "task": pipeline["components"]["comp-exit-handler-1"]["dag"]["tasks"]["evaluate"],
    }
    place, _, path = row.stage.partition(".")
    assert contains(lookup(places[place], path), row.stage_value)


WORKERS_ONLY = {
    row.setting.removeprefix("resources.STAGE.").partition("[")[0]
    for row in ROWS
    if row.setting.startswith("resources.STAGE.") and not row.stage
}


@pytest.mark.parametrize("stage", ["train", "evaluate"])
@pytest.mark.parametrize("name", sorted(WORKERS_ONLY))
def test_settings_without_a_function_in_kfp_are_refused(name: str, stage: str) -> None:
    resources = {stage: {name: FULL["resources"]["train"][name]}}
    settings = ClusterParams.model_validate({"resources": resources})
    remedy = "set cluster.train_job, whose workers have it" if stage == "train" else "remove it"
    problem = rf"^cluster\.resources\.{stage}\.{name}: kfp-kubernetes [\d.]+ has no function for it, .*; {remedy}$"
    with pytest.raises(ParamsError, match=problem):
        pipeline_spec(settings)
    if stage == "train":
        pipeline_spec(ClusterParams.model_validate({"resources": resources, "train_job": {}}))


def test_rows_are_all_keys_of_the_section() -> None:
    def keys(section: type[BaseModel], prefix: str = "") -> list[str]:
        found = []
        for name, field in section.model_fields.items():
            inner = re.findall(r"trm\.config\.\w+\.(\w+)", str(field.annotation))
            many = "[]" if "tuple" in str(field.annotation) else ""
            if "dict" in str(field.annotation):
                many = ".STAGE" if name == "resources" else ".NAME"
            if inner:
                model = next(each for each in _models() if each.__name__ == inner[0])
                found += keys(model, f"{prefix}{name}{many}.")
            else:
                found.append(prefix + name)
        return found

    common = set(ClusterParams.model_fields["pods"].annotation.model_fields)  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
    # `resources.STAGE` has the keys of `pods`, too.
    every = [
        key
        for key in keys(ClusterParams)
        if not key.startswith("resources.STAGE.") or re.split(r"[.\[]", key)[2] not in common
    ]
    assert sorted(row.setting for row in ROWS) == sorted(every)


def _models() -> list[type[BaseModel]]:
    from trm.config import cluster, pods

    members = [*vars(cluster).values(), *vars(pods).values()]
    return [each for each in members if isinstance(each, type) and issubclass(each, BaseModel)]


def place_in_trainjob(path: str) -> str:
    """Return the part of a TrainJob and its runtime that has a field of the worker's pod."""
    settings = cluster("trainjob")
    assert settings.train_job is not None
    job = manifest(settings)
    patch = job["spec"]["runtimePatches"][0]["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"][0]
    trainer = {**job["spec"]["trainer"], "resources": job["spec"]["trainer"]["resourcesPerNode"]}
    node = runtime(settings, settings.train_job)["spec"]["template"]["spec"]["replicatedJobs"][0]
    places = {
        "`trainer`": {"spec": {"containers": [trainer]}},
        "`runtimePatches`": patch["template"]["spec"]["template"],
        "`TrainingRuntime`": node["template"]["spec"]["template"],
    }
    for name, template in places.items():
        with suppress(KeyError, IndexError):
            lookup(template, path)
            return name
    raise AssertionError(path)


def table() -> list[str]:
    """Return the table of the documentation."""
    lines = ["| Setting | Pod of a worker | PyTorchJob | TrainJob | Pod of a stage |", "|---|---|---|---|---|"]
    for row in ROWS:
        pod, *cells = (f"`{path}`" if path else "" for path in (row.pod, row.pytorchjob, row.trainjob, row.stage))
        if row.pod:
            cells[:2] = "`template`", place_in_trainjob(row.pod)
        if DROPPED in json.dumps(row.value):
            pod += f" (`{DROPPED}`: not verifiable on 1.20)"
        if row.setting.startswith("resources.") and not row.stage:
            cells[2] = "refused"
        lines.append("| " + " | ".join(cell or "-" for cell in (f"`{row.setting}`", pod, *cells)) + " |")
    return lines


def test_documentation_has_the_table() -> None:
    assert "\n".join(table()) in (ROOT / "docs/kubeflow.md").read_text()


@pytest.mark.parametrize("page", ["kubeflow.md", "operations.md"])
def test_examples_of_the_documentation_are_valid(page: str) -> None:
    text = (ROOT / "docs" / page).read_text()
    blocks = re.findall(r"```yaml\n(cluster:\n.*?)```", text, re.S)
    assert blocks
    for block in blocks:
        ClusterParams.model_validate(yaml.safe_load(block)["cluster"])
