"""The Kubeflow pipeline, built from the stage records and section `cluster`."""

import importlib
import inspect
from collections.abc import Callable, Container, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from kfp import dsl, kubernetes
from kfp.dsl.graph_component import GraphComponent

from components.parameters import PIPELINE, key_parameter, parameter_text
from components.run_summary.component import run_summary
from components.run_summary.notification import HOST, TOKEN, TOKEN_KEY, WEBHOOK, WEBHOOK_KEY, WHEN
from components.train.backend import TRAIN
from components.train.backends import job_template
from components.train.pod_template import KUEUE_QUEUE, S3_KEYS, metrics_environment, metrics_labels, state_environment
from trm.config.cluster import ClusterParams
from trm.config.params import Params
from trm.config.pods import PodSettings, Resources, Volume
from trm.stages.records import REQUIRED_STAGES, STAGES, Stage, enabled_stages
from trm.utils.errors import ParamsError

CACHE = "/cache"
"""The only writable folder of the image (Dockerfile)."""
RETRY_PERIOD = 365 * 24 * 3600
"""Seconds from the start of the first attempt during which a task runs and is retried. At its end Argo fails the
running pod, too (github.com/kubeflow/pipelines/pull/13452): the default of one hour would end trainings."""
MAX_PARAMS_BYTES = 48 << 10
"""Maximum size of all sections as JSON. A container gets them twice in its arguments, once as a string within JSON.
Linux limits an argument to 128 KiB, and Argo a workflow to 1 MiB."""
LAUNCHER_RESOURCES = Resources(cpu="100m", memory="512Mi")
"""Resources of the pod that launches the job. The workers get `cluster.resources.train`."""
POD_FIELDS = {"POD_NAME": "metadata.name", "POD_UID": "metadata.uid"}
"""Environment variables of the launcher's pod, which owns the job."""


def build_pipeline(
    cluster: ClusterParams, uncached: Container[str] = (), stages: Sequence[Stage] = REQUIRED_STAGES
) -> GraphComponent:
    """Return the pipeline for a cluster.

    Its parameters are the sections of `params.yaml`, the content keys of the stages and the artifact root.

    Raises `ParamsError` for an unknown stage in `cluster.resources`, and for a setting that only workers can have.

    Args:
        cluster: Section `cluster`: image, resources and placement of the pods.
        uncached: Stages that start although Kubeflow knows a result of their parameters, which include the content key.
            Their containers look for the result in S3.
        stages: The stages of the experiment.
    """
    check_resources(cluster)
    types: dict[str, type] = dict.fromkeys((*section_names(stages), *map(key_parameter, stages), "artifact_root"), str)
    names = tuple(types)

    def pipeline(*channels: Any) -> None:
        arguments = dict(zip(names, channels, strict=True))
        keys = {key_parameter(stage): arguments.get(key_parameter(stage), "") for stage in STAGES}
        exit_task = run_summary(artifact_root=arguments["artifact_root"], run=dsl.PIPELINE_JOB_ID_PLACEHOLDER, **keys)
        configure_exit_task(exit_task, cluster)
        outputs: dict[str, Any] = {}
        with dsl.ExitHandler(exit_task):
            for stage in stages:
                outputs[stage.output] = stage_task(
                    stage,
                    cluster,
                    {section: arguments[section] for section in stage.sections},
                    {name: outputs[name] for name in stage.inputs},
                    arguments["artifact_root"],
                    arguments[key_parameter(stage)],
                    is_cached=stage.name not in uncached,
                ).outputs[stage.output]

    return with_parameters(pipeline, types, "Raw puzzles to evaluated model.")


def with_parameters(function: Callable[..., None], types: Mapping[str, type], description: str) -> GraphComponent:
    """Return the pipeline of a function whose arguments have these names and types."""
    # KFP reads the pipeline's parameters from the signature.
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(name, kind, annotation=annotation) for name, annotation in types.items()]
    function.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
    function.__annotations__ = dict(types)
    description += " Artifacts are stored in S3 under their content keys."
    return dsl.pipeline(name=PIPELINE, description=description)(function)  # pyright: ignore[reportReturnType]


def stage_task(
    stage: Stage,
    cluster: ClusterParams,
    sections: Mapping[str, Any],
    inputs: Mapping[str, Any],
    artifact_root: Any,
    key: Any,
    is_cached: bool,
) -> dsl.PipelineTask:
    """Return the task of a stage in the pipeline that is being defined.

    Args:
        stage: The stage.
        cluster: Section `cluster`: image, resources and placement of the pod.
        sections: Section name -> its JSON, or a parameter of the pipeline.
        inputs: Input name -> output of an earlier task.
        artifact_root: Root of the artifacts in S3.
        key: Content key.
        is_cached: Whether Kubeflow may take the result of an earlier run.
    """
    train_job = {"train_job": parameter_text(job_template(cluster))} if stage.name == TRAIN else {}
    task = component(stage)(
        **{f"{name}_params": text for name, text in sections.items()},
        **inputs,
        artifact_root=artifact_root,
        key=key,
        **train_job,
    )
    task.set_caching_options(is_cached)
    if train_job and cluster.train_job is not None:
        _configure_pod(task, cluster, cluster.pod(stage.name, LAUNCHER_RESOURCES))
        for name, field in POD_FIELDS.items():
            kubernetes.use_field_path_as_env(task, name, field)
    else:
        _configure_pod(task, cluster, cluster.pod(stage.name))
        for name, value in state_environment(cluster).items() if stage.name == TRAIN else ():
            task.set_env_variable(name, value)
    if stage.name == TRAIN:
        _export_metrics(task, cluster)
    return task


def configure_exit_task(task: dsl.PipelineTask, cluster: ClusterParams) -> None:
    """Set the pod of an exit handler."""
    task.set_caching_options(False)
    _configure_pod(task, cluster, cluster.pod("run-summary", Resources()))
    _add_webhook(task, cluster)


def component(stage: Stage) -> Any:
    """Return the container component of a stage, from `components/<stage>/component.py`."""
    return getattr(importlib.import_module(f"components.{stage.name}.component"), stage.name)


def run_arguments(params: Params, keys: dict[str, str], artifact_root: str) -> dict[str, str]:
    """Return the arguments of a run: the sections as JSON, the content keys and the artifact root.

    Raises `ParamsError` for sections that do not arrive in the containers.

    Args:
        params: The experiment.
        keys: Stage name -> content key.
        artifact_root: Root of the artifacts in S3.
    """
    stages = enabled_stages(params)
    key_arguments = {key_parameter(stage): keys[stage.name] for stage in stages}
    return {**section_texts(params, stages), **key_arguments, "artifact_root": artifact_root}


def section_names(stages: Sequence[Stage]) -> tuple[str, ...]:
    """Return the names of the sections that some stages read, in the order of `params.yaml`."""
    return tuple(name for name in Params.model_fields if any(name in stage.sections for stage in stages))


def section_texts(params: Params, stages: Sequence[Stage]) -> dict[str, str]:
    """Return section name -> its JSON, of the sections that `stages` read.

    Raises `ParamsError` for sections that do not arrive in the containers.
    """
    sections: dict[str, str] = {}
    for name in section_names(stages):
        try:
            sections[name] = parameter_text(getattr(params, name).model_dump(mode="json"))
        except ValueError:
            raise ParamsError(f"{name}: contains a number that is not finite; Kubeflow does not transport it") from None
    if sum(map(len, sections.values())) > MAX_PARAMS_BYTES:
        largest = max(sections, key=lambda name: len(sections[name]))
        raise ParamsError(
            f"{largest}: has {len(sections[largest])} bytes as JSON; Kubeflow transports all sections together in at "
            f"most {MAX_PARAMS_BYTES} bytes: shorten its lists and texts"
        )
    return sections


def check_resources(cluster: ClusterParams) -> None:
    """Raise `ParamsError` for an unknown stage in `cluster.resources`, and for a setting that only workers can have."""
    unknown = set(cluster.resources) - {stage.name for stage in STAGES}
    if unknown:
        known = ", ".join(stage.name for stage in STAGES)
        raise ParamsError(f"cluster.resources.{min(unknown)} is not a stage; the stages are {known}")
    for name, resources in cluster.resources.items():
        settings = resources.workers_only() if name != TRAIN or cluster.train_job is None else []
        if settings:
            remedy = "set cluster.train_job, whose workers have it" if name == TRAIN else "remove it"
            raise ParamsError(
                f"cluster.resources.{name}.{settings[0]}: kfp-kubernetes {version('kfp-kubernetes')} has no function "
                f"for it, so that a pod of Kubeflow Pipelines cannot have it; {remedy}"
            )


def _configure_pod(task: dsl.PipelineTask, cluster: ClusterParams, resources: Resources) -> None:
    """Set image, resources, placement, S3 access and cache volume of a task's pod."""
    task.set_container_image(cluster.image)
    kubernetes.set_security_context(task, run_as_non_root=True)  # required by restricted pod security
    if resources.cpu:
        task.set_cpu_request(resources.cpu)
        task.set_cpu_limit(resources.cpu)
    if resources.memory:
        task.set_memory_request(resources.memory)
        task.set_memory_limit(resources.memory)
    if resources.gpus:
        task.set_accelerator_type(resources.gpu_resource)
        task.set_accelerator_limit(resources.gpus)
    _add_pod_settings(task, resources)
    if resources.queue:
        kubernetes.add_pod_label(task, KUEUE_QUEUE, resources.queue)
    if cluster.s3_endpoint:
        task.set_env_variable("AWS_ENDPOINT_URL_S3", cluster.s3_endpoint)
    if cluster.s3_region:
        task.set_env_variable("AWS_DEFAULT_REGION", cluster.s3_region)
    if cluster.s3_secret:
        kubernetes.use_secret_as_env(task, cluster.s3_secret, {name: name for name in S3_KEYS})
    if cluster.max_retries:
        pause = f"{cluster.retry_backoff_seconds}s"
        task.set_retry(cluster.max_retries, pause, backoff_factor=2, backoff_max_duration=f"{RETRY_PERIOD}s")
    if cluster.image_pull_secret:
        kubernetes.set_image_pull_secrets(task, [cluster.image_pull_secret])
    if cluster.cache_pvc:
        kubernetes.mount_pvc(task, cluster.cache_pvc, CACHE)
    else:
        kubernetes.empty_dir_mount(task, "cache", CACHE)


def _export_metrics(task: dsl.PipelineTask, cluster: ClusterParams) -> None:
    """Let a task's pod serve metrics, if section `cluster` has a port for them."""
    for name, value in metrics_environment(cluster).items():
        task.set_env_variable(name, value)
    for name, value in metrics_labels(cluster).items():
        kubernetes.add_pod_label(task, name, value)


def _add_webhook(task: dsl.PipelineTask, cluster: ClusterParams) -> None:
    """Give the exit handler the webhook of section `cluster`. A missing secret does not keep it from starting."""
    if cluster.notify is None:
        return
    kubernetes.use_secret_as_env(task, cluster.notify.secret, {WEBHOOK_KEY: WEBHOOK, TOKEN_KEY: TOKEN}, optional=True)
    task.set_env_variable(WHEN, cluster.notify.when)
    if cluster.kfp_host:
        task.set_env_variable(HOST, cluster.kfp_host)


def _add_pod_settings(task: dsl.PipelineTask, settings: PodSettings) -> None:
    """Set placement, variables, labels, annotations and volumes of a task's pod."""
    for key, value in settings.node_selector.items():
        kubernetes.add_node_selector(task, key, value)
    for toleration in settings.tolerations:
        operator = "Exists" if toleration.value is None else "Equal"
        kubernetes.add_toleration(task, toleration.key, operator, toleration.value, toleration.effect)
    for name, value in settings.env.items():
        task.set_env_variable(name, value)
    for name, each in settings.secret_env.items():
        kubernetes.use_secret_as_env(task, each.secret, {each.key: name})
    for name, value in settings.labels.items():
        kubernetes.add_pod_label(task, name, value)
    for name, value in settings.annotations.items():
        kubernetes.add_pod_annotation(task, name, value)
    for index, volume in enumerate(settings.volumes):
        _mount(task, index, volume)
    _add_node_affinity(task, settings)


def _add_node_affinity(task: dsl.PipelineTask, settings: PodSettings) -> None:
    expressions: list[tuple[int | None, dict[str, Any]]] = [
        (each.weight, {"key": each.key, "operator": each.operator, "values": list(each.values)})
        for each in settings.node_affinity
    ]
    # One call for all requirements: Kubernetes accepts a node that fulfils one of several terms.
    required = [expression for weight, expression in expressions if weight is None]
    if required:
        kubernetes.add_node_affinity(task, match_expressions=required)
    for weight, expression in expressions:
        if weight is not None:
            kubernetes.add_node_affinity(task, match_expressions=[expression], weight=weight)


def _mount(task: dsl.PipelineTask, index: int, volume: Volume) -> None:
    if volume.secret:
        kubernetes.use_secret_as_volume(task, volume.secret, volume.mount_path)
    elif volume.config_map:
        kubernetes.use_config_map_as_volume(task, volume.config_map, volume.mount_path)
    elif volume.pvc:
        kubernetes.mount_pvc(task, volume.pvc, volume.mount_path)
    else:
        kubernetes.empty_dir_mount(task, f"volume-{index}", volume.mount_path, size_limit=volume.empty_dir)
