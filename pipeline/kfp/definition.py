"""The Kubeflow pipeline, built from the stage records: the stages' components, their edges and the cluster's wishes."""

import importlib
import inspect
from pathlib import Path
from typing import Any

from kfp import compiler, dsl, kubernetes
from kfp.dsl.graph_component import GraphComponent

from components.run_summary.component import summary
from components.train.pytorch_job import template
from trm.cluster import ClusterParams, Resources
from trm.config import Params
from trm.errors import ParamsError
from trm.stages import STAGES, Stage

NAME = "trm"
SECTIONS = tuple(name for name in Params.model_fields if any(name in stage.sections for stage in STAGES))
CACHE = "/cache"
"""The one folder of the image that its processes write to (Dockerfile)."""

TRAIN = "train"
"""The stage that a PyTorchJob can run."""
LAUNCHER = Resources(cpu="100m", memory="512Mi")
"""What the pod that launches the job asks for; the job's workers ask for what `cluster.stages` says."""
POD_FACTS = {"POD_NAME": "metadata.name", "POD_UID": "metadata.uid"}
"""What it is told of itself: it owns the job."""


def key_parameter(stage: Stage) -> str:
    """The pipeline's parameter that holds the content key of a stage."""
    return f"{stage.name}_key"


def build(cluster: ClusterParams, caching: bool = True) -> GraphComponent:
    """The pipeline for a cluster. Its parameters: the sections of `params.yaml`, the content keys, the root.

    With `caching` Kubeflow does not even start a container for a stage whose parameters, its key among them, it has
    seen; without, each container starts and looks for its result in S3.

    Raises `ParamsError` where `cluster.stages` names a stage that there is not.
    """
    unknown = set(cluster.stages) - {stage.name for stage in STAGES}
    if unknown:
        known = ", ".join(stage.name for stage in STAGES)
        raise ParamsError(f"cluster.stages.{min(unknown)} is not a stage; there are {known}")
    types: dict[str, type] = dict.fromkeys(SECTIONS, dict)
    types |= dict.fromkeys((*map(key_parameter, STAGES), "root"), str)
    names = tuple(types)

    def pipeline(*channels: Any) -> None:
        given = dict(zip(names, channels, strict=True))
        keys = {key_parameter(stage): given[key_parameter(stage)] for stage in STAGES}
        last = summary(root=given["root"], **keys)  # pyright: ignore[reportCallIssue]
        last.set_caching_options(False)
        _place(last, cluster, Resources())
        outputs: dict[str, Any] = {}
        with dsl.ExitHandler(last):
            for stage in STAGES:
                job = {"job": template(cluster)} if stage.name == TRAIN else {}
                task = component(stage)(
                    **{f"{section}_params": given[section] for section in stage.sections},
                    **{name: outputs[name] for name in stage.inputs},
                    root=given["root"],
                    key=given[key_parameter(stage)],
                    **job,
                )
                task.set_caching_options(caching)
                if job.get("job"):
                    _place(task, cluster, LAUNCHER)
                    for name, field in POD_FACTS.items():
                        kubernetes.use_field_path_as_env(task, name, field)
                else:
                    _place(task, cluster, cluster.stages.get(stage.name, Resources()))
                outputs[stage.output] = task.outputs[stage.output]

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(name, kind, annotation=annotation) for name, annotation in types.items()]
    pipeline.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
    pipeline.__annotations__ = types
    description = "From raw puzzles to a scored model; artifacts lie in S3 under their content keys."
    return dsl.pipeline(name=NAME, description=description)(pipeline)  # pyright: ignore[reportReturnType]


def component(stage: Stage) -> Any:
    """The container component of a stage."""
    return getattr(importlib.import_module(f"components.{stage.name}.component"), stage.name)


def arguments(params: Params, keys: dict[str, str], root: str) -> dict[str, Any]:
    """The arguments of a run; keys that are null are left out, as Kubeflow's dicts hold no null."""
    sections = {name: getattr(params, name).model_dump(mode="json", exclude_none=True) for name in SECTIONS}
    return {**sections, **{key_parameter(stage): keys[stage.name] for stage in STAGES}, "root": root}


def compile_to(path: Path, cluster: ClusterParams, caching: bool = True) -> None:
    """Write the compiled pipeline."""
    compiler.Compiler().compile(build(cluster, caching), str(path))


def _place(task: dsl.PipelineTask, cluster: ClusterParams, resources: Resources) -> None:
    """Say where and with what a task's pod runs."""
    task.set_container_image(cluster.image)
    kubernetes.set_security_context(task, run_as_non_root=True)  # restricted pod security asks for it
    if resources.cpu:
        task.set_cpu_request(resources.cpu)
        task.set_cpu_limit(resources.cpu)
    if resources.memory:
        task.set_memory_request(resources.memory)
        task.set_memory_limit(resources.memory)
    if resources.gpus:
        task.set_accelerator_type(resources.gpu_resource)
        task.set_accelerator_limit(resources.gpus)
    for key, value in resources.node_selector.items():
        kubernetes.add_node_selector(task, key, value)
    for toleration in resources.tolerations:
        operator = "Exists" if toleration.value is None else "Equal"
        kubernetes.add_toleration(task, toleration.key, operator, toleration.value, toleration.effect)
    if cluster.s3_endpoint:
        task.set_env_variable("AWS_ENDPOINT_URL_S3", cluster.s3_endpoint)
    if cluster.s3_region:
        task.set_env_variable("AWS_DEFAULT_REGION", cluster.s3_region)
    if cluster.s3_secret:
        names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        kubernetes.use_secret_as_env(task, cluster.s3_secret, {name: name for name in names})
    if cluster.image_pull_secret:
        kubernetes.set_image_pull_secrets(task, [cluster.image_pull_secret])
    if cluster.cache_claim:
        kubernetes.mount_pvc(task, cluster.cache_claim, CACHE)
    else:
        kubernetes.empty_dir_mount(task, "cache", CACHE)
