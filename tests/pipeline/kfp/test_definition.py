"""Consistency of stage records, components and compiled pipeline. test_stages.py compares dvc.yaml and the CLI."""

import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.parameters import key_parameter, parameter_text
from components.train.backends import job_template
from pipeline.kfp.compile import compile_pipeline, pipeline_spec
from pipeline.kfp.component_readme import readmes
from pipeline.kfp.definition import component, section_names
from tests.conftest import ROOT
from tests.preload import python
from trm.config.cluster import ClusterParams, TrainJobParams
from trm.config.params import Params
from trm.config.pods import Resources, Toleration
from trm.stages.records import REQUIRED_STAGES, STAGES, Stage, producer
from trm.utils.errors import ParamsError

Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
SPEC = next(yaml.load_all((ROOT / "pipeline/trm.yaml").read_text(), Loader))
CACHED_STATES = "/cache/states"
each_stage = pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)


@cache
def complete() -> Any:
    """The pipeline with the optional stages."""
    return pipeline_spec(ClusterParams(), stages=STAGES)["pipeline_spec"]


def compiled(cluster: ClusterParams, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    compile_pipeline(folder / "made.yaml", cluster)
    spec, *platform = yaml.load_all((folder / "made.yaml").read_text(), Loader)
    return spec, platform[0]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]


def test_compiled_file_is_current() -> None:
    checked = subprocess.run(
        [python(), "-m", "pipeline", "compile", "--check"], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert (checked.returncode, checked.stderr) == (0, "")


def test_check_reports_a_stale_file(tmp_path: Path) -> None:
    stale = tmp_path / "trm.yaml"
    stale.write_text((ROOT / "pipeline/trm.yaml").read_text().replace("augment", "agument"))
    command = [python(), "-m", "pipeline", "compile", "--check", "--output", str(stale)]
    checked = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert (checked.returncode, checked.stdout) == (2, "")
    assert checked.stderr == f"pipeline: {stale}: stale; run `python -m pipeline compile` and commit the file\n"


def test_component_readmes_are_current() -> None:
    texts = readmes()
    assert {path.parent.name for path in texts} == {path.parent.name for path in ROOT.glob("components/*/component.py")}
    stale = [path for path, text in texts.items() if not path.is_file() or path.read_text() != text]
    assert stale == [], "run `python -m pipeline.kfp.component_readme`"


def test_compilation_imports_no_heavy_packages() -> None:
    code = (
        "import sys; from pipeline.kfp.definition import build_pipeline as b\n"
        "from trm.config.cluster import ClusterParams as C; b(C())\n"
        "print(*{name.partition('.')[0] for name in sys.modules} & {'torch', 'numba', 'numpy', 'pyarrow', 'dvc'})"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert ran.stdout.split() == []


def tasks(spec: Any) -> dict[str, Any]:
    return spec["components"]["comp-exit-handler-1"]["dag"]["tasks"]


@pytest.mark.parametrize("stages", [REQUIRED_STAGES, STAGES], ids=["required", "all"])
def test_pipeline_has_its_stages_and_parameters(stages: tuple[Stage, ...]) -> None:
    spec = complete() if stages == STAGES else SPEC
    assert set(tasks(spec)) == {stage.name for stage in stages}
    parameters = {
        name: given["parameterType"] for name, given in spec["root"]["inputDefinitions"]["parameters"].items()
    }
    keys = {key_parameter(stage) for stage in stages}
    assert parameters == dict.fromkeys({*section_names(stages), *keys, "artifact_root"}, "STRING")
    exit_task = spec["root"]["dag"]["tasks"]["run-summary"]["inputs"]["parameters"]
    for stage in STAGES:
        given = {"componentInputParameter": key_parameter(stage)}
        absent = {"runtimeValue": {"constant": ""}}
        assert exit_task[key_parameter(stage)] == (given if stage in stages else absent)


def test_sections_of_the_stages() -> None:
    assert set(section_names(STAGES)) == set(Params.model_fields) - {"cluster", "tracking"}
    assert set(section_names(STAGES)) - set(section_names(REQUIRED_STAGES)) == {"export"}
    for stage in REQUIRED_STAGES:
        assert tasks(complete())[stage.name] == tasks(SPEC)[stage.name]


@each_stage
def test_compiled_task_matches_the_record(stage: Stage) -> None:
    task = tasks(complete())[stage.name]
    edges = {
        name: (edge["taskOutputArtifact"]["producerTask"], edge["taskOutputArtifact"]["outputArtifactKey"])
        for name, edge in task["inputs"].get("artifacts", {}).items()
    }
    assert edges == {name: (producer(name).name, name) for name in stage.inputs}
    given = {
        name: value["componentInputParameter"] if name != "train_job" else value["runtimeValue"]["constant"]
        for name, value in task["inputs"]["parameters"].items()
    }
    assert given.pop("train_job", None) == (None if stage.name != "train" else "{}")
    assert given == {f"{section}_params": f"pipelinechannel--{section}" for section in stage.sections} | {
        "artifact_root": "pipelinechannel--artifact_root",
        "key": f"pipelinechannel--{key_parameter(stage)}",
    }
    assert task["cachingOptions"] == {"enableCache": True}  # by the content key, which is a parameter
    outputs = complete()["components"][f"comp-{stage.name}"]["outputDefinitions"]
    assert list(outputs) == ["artifacts"]
    assert list(outputs["artifacts"]) == [stage.output]


@each_stage
def test_component_runs_the_command_of_the_record(stage: Stage) -> None:
    """tests/stages/test_stages.py compares the command line with the record."""
    container = complete()["deploymentSpec"]["executors"][f"exec-{stage.name}"]["container"]
    launcher = stage.name == "train"  # its container may launch a PyTorchJob
    assert container["command"] == ["python", "-m", "components.train.launcher" if launcher else "components.run"]
    own = ["{{$.inputs.parameters['train_job']}}"] if launcher else []
    sections = ", ".join(f"\"{name}\": {{{{$.inputs.parameters['{name}_params']}}}}" for name in stage.sections)
    pointer = f"{{{{$.outputs.artifacts['{stage.output}'].path}}}}"
    args = ["{{$}}", pointer, *own, stage.name, "--params", f"{{{sections}}}"]
    for name in stage.inputs:
        args += [f"--{name}", f"{{{{$.inputs.artifacts['{name}'].path}}}}"]
    args += [
        f"--{stage.output}",
        f"{{{{$.inputs.parameters['artifact_root']}}}}/{stage.name}/{{{{$.inputs.parameters['key']}}}}",
    ]
    assert container["args"] == args
    assert component(stage).description == stage.help


def test_exit_handler_runs_after_success_and_failure() -> None:
    last = SPEC["root"]["dag"]["tasks"]["run-summary"]
    assert last["triggerPolicy"] == {"strategy": "ALL_UPSTREAM_TASKS_COMPLETED"}
    assert last["dependentTasks"] == ["exit-handler-1"]
    given = set(last["inputs"]["parameters"])
    assert given == {"artifact_root", "run", "status", *(key_parameter(stage) for stage in STAGES)}
    args = SPEC["deploymentSpec"]["executors"]["exec-run-summary"]["container"]["args"]
    assert args[4:] == [f"{s.name}={{{{$.inputs.parameters['{key_parameter(s)}']}}}}" for s in STAGES]


def test_cluster_section_configures_the_pods(tmp_path: Path) -> None:
    train = Resources(
        cpu="8",
        memory="32Gi",
        gpus=4,
        node_selector={"pool": "gpu"},
        tolerations=(Toleration(key="gpu", effect="NoSchedule"), Toleration(key="team", value="a")),
    )
    cluster = ClusterParams(
        image="registry/trm@sha256:1",
        s3_endpoint="http://s3.trm:8333",
        s3_region="eu-1",
        s3_secret="trm-s3",
        image_pull_secret="pull",
        cache_pvc="caches",
        resources={"train": train},
    )
    spec, pods = compiled(cluster, tmp_path)
    executors = {name: executor["container"] for name, executor in spec["deploymentSpec"]["executors"].items()}
    assert {container["image"] for container in executors.values()} == {"registry/trm@sha256:1"}
    for name, container in executors.items():
        assert container["env"] == [
            {"name": "AWS_ENDPOINT_URL_S3", "value": "http://s3.trm:8333"},
            {"name": "AWS_DEFAULT_REGION", "value": "eu-1"},
        ]
        (secret,) = pods[name]["secretAsEnv"]
        assert secret["secretName"] == "trm-s3"
        assert {key["secretKey"] for key in secret["keyToEnv"]} == {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
        assert [claim["constant"] for claim in pods[name]["pvcMount"]] == ["caches"]
        assert [mount["mountPath"] for mount in pods[name]["pvcMount"]] == ["/cache"]
        assert pods[name]["imagePullSecret"][0]["secretName"] == "pull"
    resources = executors["exec-train"]["resources"]
    assert resources["accelerator"]["resourceCount"] == "4"
    assert resources["accelerator"]["resourceType"] == "nvidia.com/gpu"
    assert (resources["resourceCpuLimit"], resources["resourceMemoryLimit"]) == ("8", "32Gi")
    assert pods["exec-train"]["nodeSelector"] == {"labels": {"pool": "gpu"}}
    assert pods["exec-train"]["tolerations"] == [
        {"key": "gpu", "operator": "Exists", "effect": "NoSchedule"},
        {"key": "team", "operator": "Equal", "value": "a"},
    ]
    for name in ("exec-fetch", "exec-augment", "exec-evaluate", "exec-report", "exec-run-summary"):
        assert "resources" not in executors[name]
        assert not {"nodeSelector", "tolerations"} & set(pods[name])


def test_default_pods_have_an_empty_dir_cache_and_no_secret(tmp_path: Path) -> None:
    spec, pods = compiled(ClusterParams(), tmp_path)
    assert all([mount["mountPath"] for mount in pod["emptyDirMounts"]] == ["/cache"] for pod in pods.values())
    assert all(set(pod) == {"emptyDirMounts", "securityContext"} for pod in pods.values())
    assert all(pod["securityContext"] == {"runAsNonRoot": True} for pod in pods.values())
    assert all("env" not in executor["container"] for executor in spec["deploymentSpec"]["executors"].values())


def test_tasks_are_retried_with_a_growing_pause(tmp_path: Path) -> None:
    spec, _ = compiled(ClusterParams(max_retries=2, retry_backoff_seconds=30), tmp_path)
    policy = {"maxRetryCount": 2, "backoffDuration": "30s", "backoffFactor": 2.0}
    policy["backoffMaxDuration"] = "31536000s"  # Argo ends the running pod after it, too
    tasks = spec["components"]["comp-exit-handler-1"]["dag"]["tasks"]
    tasks["run-summary"] = spec["root"]["dag"]["tasks"]["run-summary"]
    assert {name: task.get("retryPolicy") for name, task in tasks.items()} == dict.fromkeys(tasks, policy)
    spec, _ = compiled(ClusterParams(max_retries=0), tmp_path)
    assert "retryPolicy" not in str(spec)
    assert ClusterParams().max_retries > 0


@pytest.mark.parametrize(("state_root", "folder"), [("s3://other/states", "s3://other/states"), ("off", CACHED_STATES)])
def test_state_root_of_a_single_pod(tmp_path: Path, state_root: str, folder: str) -> None:
    """By default the launcher derives it from the artifact root, a parameter of the pipeline."""
    spec, _ = compiled(ClusterParams(state_root=state_root), tmp_path)
    executors = spec["deploymentSpec"]["executors"]
    env = {name: executor["container"].get("env") for name, executor in executors.items()}
    assert env.pop("exec-train") == [{"name": "TRM_STATE_DIR", "value": folder}]
    assert set(map(str, env.values())) == {"None"}


def test_train_job_is_launched_by_the_container_of_the_stage(tmp_path: Path) -> None:
    gpus = Resources(cpu="8", memory="32Gi", gpus=4, node_selector={"pool": "gpu"})
    cluster = ClusterParams(resources={"train": gpus}, train_job=TrainJobParams(max_workers=3))
    spec, pods = compiled(cluster, tmp_path)
    task = spec["components"]["comp-exit-handler-1"]["dag"]["tasks"]["train"]
    assert task["inputs"]["parameters"]["train_job"]["runtimeValue"]["constant"] == parameter_text(
        job_template(cluster)
    )
    resources = spec["deploymentSpec"]["executors"]["exec-train"]["container"]["resources"]
    assert (resources["resourceCpuLimit"], resources["resourceMemoryLimit"]) == ("100m", "512Mi")
    assert "accelerator" not in resources
    assert "nodeSelector" not in pods["exec-train"]
    facts = {each["name"]: each["fieldPath"] for each in pods["exec-train"]["fieldPathAsEnv"]}
    assert facts == {"POD_NAME": "metadata.name", "POD_UID": "metadata.uid"}


def test_unknown_stage_in_cluster_resources_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"cluster\.resources\.trian is not a stage; the stages are fetch, augment"):
        compile_pipeline(tmp_path / "x.yaml", ClusterParams(resources={"trian": Resources()}))
