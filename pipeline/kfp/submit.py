"""Submitting the experiment of `params.yaml` as a run of the pipeline."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import BaseModel
from ruamel.yaml import YAML

from pipeline.git import head
from pipeline.kfp.client import Kubeflow, Run
from pipeline.kfp.definition import NAME, arguments, compile_to
from pipeline.kfp.train_job import refuse_impossible_jobs
from trm import s3
from trm.cluster import ClusterParams
from trm.config import Params, TrainParams
from trm.errors import UserError
from trm.section import Section
from trm.stages import STAGES, content_keys


def submit(params: Params, again: bool) -> tuple[Run, bool]:
    """The run of this experiment, and whether it is new. Raises `UserError` for what a cluster could not run."""
    cluster = params.cluster
    if "@sha256:" not in cluster.image:
        raise UserError(
            f"cluster.image must name an image by its digest, as name@sha256:... Got {cluster.image}; push what "
            "`make image` built and take the digest that the registry prints"
        )
    refuse_what_pods_cannot_reach(params.data)
    refuse_a_start_that_pods_cannot_reach(params.train)
    refuse_impossible_jobs(params)
    keys, kubeflow, commit = content_keys(params), Kubeflow(cluster), head()

    def submit_(again: bool) -> tuple[Run, bool]:
        return kubeflow.submit(
            experiment=NAME,
            name=f"{NAME}-{keys[STAGES[-1].name][:12]}",
            # Kubeflow's cache knows nothing of what was deleted in S3: a run that is asked for again looks there.
            spec=pipeline_spec(cluster, caching=not again),
            arguments=arguments(params, keys, cluster.root),
            service_account=cluster.service_account,
            again=again,
            description=f"commit {commit}, image {cluster.image}" if commit else f"image {cluster.image}",
        )

    run, new = submit_(again)
    if not new and run.state == "SUCCEEDED" and not _results_are_there(cluster.root, keys):
        return submit_(again=True)
    return run, new


def pushed(image: str) -> str:
    """An image by its digest: as it is, or as Docker here knows it since it was pushed. Raises `UserError`."""
    if "@sha256:" in image:
        return image
    import docker
    from docker.errors import DockerException, ImageNotFound

    try:
        digests = docker.from_env().images.get(image).attrs.get("RepoDigests") or []
    except ImageNotFound:
        digests = []
    except DockerException as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"Docker does not answer ({reason}); start it, or name the image by its digest") from None
    name = image.rpartition(":")[0] if ":" in image.rpartition("/")[2] else image
    for digest in digests:
        if digest.startswith(f"{name}@sha256:"):
            return digest
    raise UserError(f"{image}: was not pushed from here; `make image push IMAGE={name}`, or name it by its digest")


def _results_are_there(root: str, keys: dict[str, str]) -> bool:
    return all(s3.read_manifest(f"{root}/{stage}/{key}") is not None for stage, key in keys.items())


def pipeline_spec(cluster: ClusterParams, caching: bool) -> dict[str, Any]:
    """The compiled pipeline as the run API takes it: the pipeline, and beside it what is Kubernetes' alone."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "pipeline.yaml"
        compile_to(file, cluster, caching)
        pipeline, *platform = YAML(typ="safe", pure=True).load_all(file)
    return {"pipeline_spec": pipeline, "platform_spec": platform[0]} if platform else pipeline


def refuse_what_pods_cannot_reach(data: BaseModel) -> None:
    """Raise `UserError` for a source that names files of this machine, or files without their sha256."""
    for where, section in _sections(data, "data"):
        if isinstance(section, Section) and section.on_this_machine:
            raise UserError(
                f"{where}: names files of this machine, which pods do not see; put them behind an address and use "
                "type: url"
            )
        for name, value in section:
            if not name.endswith("sha256") or value is not None:
                continue
            file = name.removesuffix("sha256").rstrip("_")
            if not file or getattr(section, file) is not None:
                raise UserError(f"{where}.{name} is null; on a cluster the files of a source need their sha256")


def refuse_a_start_that_pods_cannot_reach(train: TrainParams) -> None:
    """Raise `UserError` for a model of this machine to start from."""
    if train.start is not None and not s3.is_uri(train.start.model):
        raise UserError(
            f"train.start.model must be an s3:// address on a cluster. Got {train.start.model}, which pods do not see"
        )


def _sections(section: BaseModel, where: str) -> Iterator[tuple[str, BaseModel]]:
    yield where, section
    for name, value in section:
        if isinstance(value, BaseModel):
            yield from _sections(value, f"{where}.{name}")
