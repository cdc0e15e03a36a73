"""The records, the components and the compiled pipeline say the same; test_stages.py adds dvc.yaml and the CLI."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from components.train.pytorch_job import template
from pipeline.kfp.definition import SECTIONS, arguments, compile_to, component, key_parameter
from tests.conftest import ROOT
from trm.cluster import ClusterParams, JobParams, Resources, Toleration
from trm.config import Params, load_params, load_sections
from trm.errors import ParamsError
from trm.recipes import recipes
from trm.stages import STAGES, Stage, producer

SPEC, *PLATFORM = YAML(typ="safe", pure=True).load_all((ROOT / "pipeline/trm.yaml").read_text())
STAGES_DAG = SPEC["components"]["comp-exit-handler-1"]["dag"]["tasks"]
each_stage = pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)


def compiled(cluster: ClusterParams, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    compile_to(folder / "made.yaml", cluster)
    spec, *platform = YAML(typ="safe", pure=True).load_all((folder / "made.yaml").read_text())
    return spec, platform[0]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]


def test_the_compiled_file_is_not_stale() -> None:
    checked = subprocess.run(
        [sys.executable, "-m", "pipeline", "compile", "--check"], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert (checked.returncode, checked.stderr) == (0, "")


def test_a_stale_file_is_said(tmp_path: Path) -> None:
    stale = tmp_path / "trm.yaml"
    stale.write_text((ROOT / "pipeline/trm.yaml").read_text().replace("augment", "agument"))
    command = [sys.executable, "-m", "pipeline", "compile", "--check", "--output", str(stale)]
    checked = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert (checked.returncode, checked.stdout) == (2, "")
    assert checked.stderr == f"pipeline: {stale}: is stale; run `python -m pipeline compile` and commit it\n"


def test_compiling_imports_nothing_heavy() -> None:
    code = (
        "import sys; from pipeline.kfp.definition import build; from trm.config import ClusterParams as C; build(C())\n"
        "print(*{name.partition('.')[0] for name in sys.modules} & {'torch', 'numba', 'numpy', 'pyarrow', 'dvc'})"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert ran.stdout.split() == []


def test_the_pipeline_has_the_stages_and_their_parameters() -> None:
    assert set(STAGES_DAG) == {stage.name for stage in STAGES}
    parameters = {
        name: given["parameterType"] for name, given in SPEC["root"]["inputDefinitions"]["parameters"].items()
    }
    keys = {key_parameter(stage) for stage in STAGES}
    assert parameters == dict.fromkeys(SECTIONS, "STRUCT") | dict.fromkeys({*keys, "root"}, "STRING")
    assert set(SECTIONS) == set(Params.model_fields) - {"cluster", "tracking"}


@each_stage
def test_the_compiled_task_is_the_record(stage: Stage) -> None:
    task = STAGES_DAG[stage.name]
    edges = {
        name: (edge["taskOutputArtifact"]["producerTask"], edge["taskOutputArtifact"]["outputArtifactKey"])
        for name, edge in task["inputs"].get("artifacts", {}).items()
    }
    assert edges == {name: (producer(name).name, name) for name in stage.inputs}
    given = {
        name: value["componentInputParameter"] if name != "job" else value["runtimeValue"]["constant"]
        for name, value in task["inputs"]["parameters"].items()
    }
    assert given.pop("job", None) == (None if stage.name != "train" else {})
    assert given == {f"{section}_params": f"pipelinechannel--{section}" for section in stage.sections} | {
        "root": "pipelinechannel--root",
        "key": f"pipelinechannel--{key_parameter(stage)}",
    }
    assert task["cachingOptions"] == {"enableCache": True}  # by the key among its parameters
    outputs = SPEC["components"][f"comp-{stage.name}"]["outputDefinitions"]
    assert list(outputs) == ["artifacts"]
    assert list(outputs["artifacts"]) == [stage.output]


@each_stage
def test_the_component_runs_the_command_of_the_record(stage: Stage) -> None:
    """The container's words are those of the command line, as tests/test_stages.py holds it to the record."""
    container = SPEC["deploymentSpec"]["executors"][f"exec-{stage.name}"]["container"]
    launcher = stage.name == "train"  # its container may have others do the work
    assert container["command"] == ["python", "-m", "components.train.launcher" if launcher else "components.run"]
    own = ["{{$.inputs.parameters['job']}}"] if launcher else []
    sections = ", ".join(f"\"{name}\": {{{{$.inputs.parameters['{name}_params']}}}}" for name in stage.sections)
    pointer = f"{{{{$.outputs.artifacts['{stage.output}'].path}}}}"
    words = ["{{$}}", pointer, *own, stage.name, "--params", f"{{{sections}}}"]
    for name in stage.inputs:
        words += [f"--{name}", f"{{{{$.inputs.artifacts['{name}'].path}}}}"]
    words += [
        f"--{stage.output}",
        f"{{{{$.inputs.parameters['root']}}}}/{stage.name}/{{{{$.inputs.parameters['key']}}}}",
    ]
    assert container["args"] == words
    assert component(stage).description == stage.help


def test_the_exit_handler_runs_in_any_case() -> None:
    last = SPEC["root"]["dag"]["tasks"]["summary"]
    assert last["triggerPolicy"] == {"strategy": "ALL_UPSTREAM_TASKS_COMPLETED"}
    assert last["dependentTasks"] == ["exit-handler-1"]
    given = set(last["inputs"]["parameters"])
    assert given == {"root", "status", *(key_parameter(stage) for stage in STAGES)}
    words = SPEC["deploymentSpec"]["executors"]["exec-summary"]["container"]["args"]
    assert words[3:] == [f"{s.name}={{{{$.inputs.parameters['{key_parameter(s)}']}}}}" for s in STAGES]


def test_the_cluster_section_places_the_pods(tmp_path: Path) -> None:
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
        cache_claim="caches",
        stages={"train": train},
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
    for name in ("exec-fetch", "exec-augment", "exec-evaluate", "exec-report", "exec-summary"):
        assert "resources" not in executors[name]
        assert not {"nodeSelector", "tolerations"} & set(pods[name])


def test_by_default_pods_have_a_cache_of_their_own_and_no_secret(tmp_path: Path) -> None:
    spec, pods = compiled(ClusterParams(), tmp_path)
    assert all([mount["mountPath"] for mount in pod["emptyDirMounts"]] == ["/cache"] for pod in pods.values())
    assert all(set(pod) == {"emptyDirMounts", "securityContext"} for pod in pods.values())
    assert all(pod["securityContext"] == {"runAsNonRoot": True} for pod in pods.values())
    assert all("env" not in executor["container"] for executor in spec["deploymentSpec"]["executors"].values())


def test_a_job_trains_and_the_container_of_the_stage_launches_it(tmp_path: Path) -> None:
    gpus = Resources(cpu="8", memory="32Gi", gpus=4, node_selector={"pool": "gpu"})
    cluster = ClusterParams(stages={"train": gpus}, job=JobParams(max_workers=3))
    spec, pods = compiled(cluster, tmp_path)
    task = spec["components"]["comp-exit-handler-1"]["dag"]["tasks"]["train"]
    assert task["inputs"]["parameters"]["job"]["runtimeValue"]["constant"] == template(cluster)
    resources = spec["deploymentSpec"]["executors"]["exec-train"]["container"]["resources"]
    assert (resources["resourceCpuLimit"], resources["resourceMemoryLimit"]) == ("100m", "512Mi")
    assert "accelerator" not in resources
    assert "nodeSelector" not in pods["exec-train"]
    facts = {each["name"]: each["fieldPath"] for each in pods["exec-train"]["fieldPathAsEnv"]}
    assert facts == {"POD_NAME": "metadata.name", "POD_UID": "metadata.uid"}


def test_an_unknown_stage_of_the_cluster(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"cluster\.stages\.trian is not a stage; there are fetch, augment"):
        compile_to(tmp_path / "x.yaml", ClusterParams(stages={"trian": Resources()}))


@each_stage
@pytest.mark.parametrize("recipe", recipes())
def test_what_kubeflow_makes_of_the_params_is_read_back_alike(recipe: str, stage: Stage) -> None:
    """Kubeflow carries numbers as doubles and no null; a container must read the sections of the file."""
    params = load_params(recipes()[recipe])
    given = arguments(params, dict.fromkeys((stage.name for stage in STAGES), ""), "s3://trm/artifacts")
    assert "null" not in json.dumps(given)
    text = json.dumps({name: json.loads(json.dumps(given[name]), parse_int=float) for name in stage.sections})
    assert load_sections(text, stage.sections) == {name: getattr(params, name) for name in stage.sections}
