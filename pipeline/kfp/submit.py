"""Submission of the experiment of `params.yaml` as a run of the pipeline."""

import sys
import threading
from collections.abc import Iterable, Iterator

from pydantic import BaseModel

from components.parameters import PIPELINE
from pipeline.git import head_commit
from pipeline.kfp.client import KfpClient, Run
from pipeline.kfp.compile import pipeline_spec
from pipeline.kfp.definition import run_arguments
from pipeline.kfp.tracking import tracked_cluster
from pipeline.kfp.train_job import check_train_job
from trm.config.base import Section
from trm.config.cluster import ClusterParams
from trm.config.params import Params
from trm.config.training import TrainParams
from trm.stages.content_keys import content_keys
from trm.stages.records import enabled_stages, producer
from trm.storage import s3
from trm.utils.errors import InternalError, UserError
from trm.utils.paths import is_s3_uri

REPORT = producer("report")
S3_TIMEOUT = 20.0
"""Seconds to look for the artifacts in S3, which may be reachable from the cluster only."""


def submit(params: Params, force: bool) -> tuple[Run, bool]:
    """Return the run of this experiment, and whether it is new.

    A run that exists is returned unless it failed, was stopped, or its artifacts are gone. Raises `UserError` for an
    experiment that cannot run on a cluster.

    Args:
        params: The experiment.
        force: Start a new run although one exists.
    """
    cluster = tracked_cluster(params)
    check_image(cluster)
    check_data_reachable(params.data)
    check_start_model_reachable(params.train)
    check_train_job(params)
    keys, client, commit = content_keys(params), KfpClient(cluster), head_commit()
    arguments = run_arguments(params, keys, cluster.artifact_root)
    missing = missing_artifacts(cluster.artifact_root, keys.items())
    # Kubeflow's cache may refer to artifacts that were deleted from S3. Containers look there.
    uncached = set(keys) if force or missing is None else {stage for stage, _ in missing}

    def submit_once(force: bool) -> tuple[Run, bool]:
        return client.submit(
            experiment=PIPELINE,
            name=f"{PIPELINE}-{keys[REPORT.name][:12]}",
            spec=pipeline_spec(cluster, uncached, enabled_stages(params)),
            arguments=arguments,
            service_account=cluster.service_account,
            force=force,
            description=f"commit {commit}, image {cluster.image}" if commit else f"image {cluster.image}",
        )

    run, new = submit_once(force)
    if not new and run.state == "SUCCEEDED" and missing:
        return submit_once(force=True)
    return run, new


def check_image(cluster: ClusterParams) -> None:
    """Raise `UserError` unless the image is given by its digest."""
    if "@sha256:" not in cluster.image:
        raise UserError(
            f"cluster.image must be an image digest, as name@sha256:... Got {cluster.image}; push the image that "
            "`make image` built and copy the digest that the registry prints"
        )


def image_digest(image: str) -> str:
    """Return `image` by its digest, which Docker on this machine records when it pushes the image.

    Raises `UserError` if the image was not pushed from this machine.
    """
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
        raise UserError(f"cannot connect to Docker ({reason}); start it, or pass the image's digest") from None
    name = image.rpartition(":")[0] if ":" in image.rpartition("/")[2] else image
    for digest in digests:
        if digest.startswith(f"{name}@sha256:"):
            return digest
    raise UserError(
        f"{image}: not pushed from this machine; run `make image push IMAGE={name}`, or pass the image's digest"
    )


def missing_artifacts(artifact_root: str, names: Iterable[tuple[str, str]]) -> set[tuple[str, str]] | None:
    """Return which artifacts (stage, key) are not in S3; None, with a message, if S3 is not readable from here."""
    names, found = set(names), set[tuple[str, str]]()
    error = f"no response within {S3_TIMEOUT:.0f} s"

    def look() -> None:
        nonlocal error
        try:
            found.update(name for name in names if s3.read_manifest(s3.artifact_uri(artifact_root, *name)))
            error = ""
        except (UserError, InternalError) as problem:
            error = str(problem)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(S3_TIMEOUT)
    if error:
        print(f"{artifact_root} is not readable from here ({error}); every stage looks there itself", file=sys.stderr)
        return None
    return names - found


def check_data_reachable(data: BaseModel) -> None:
    """Raise `UserError` for a source that refers to local files, or to files without a sha256."""
    for key, section in _sections(data, "data"):
        if isinstance(section, Section) and section.on_this_machine:
            raise UserError(
                f"{key}: refers to local files, which pods cannot read; upload them to a web server and use type: url"
            )
        for name, value in section:
            if not name.endswith("sha256") or value is not None:
                continue
            file = name.removesuffix("sha256").rstrip("_")
            if not file or getattr(section, file) is not None:
                raise UserError(f"{key}.{name} is null; runs on a cluster require the sha256 of every source file")


def check_start_model_reachable(train: TrainParams) -> None:
    """Raise `UserError` if training starts from a local model."""
    if train.init_from is not None and not is_s3_uri(train.init_from.model):
        raise UserError(
            f"train.init_from.model must be an s3:// URI on a cluster. Got {train.init_from.model}; pods cannot read it"
        )


def _sections(section: BaseModel, key: str) -> Iterator[tuple[str, BaseModel]]:
    yield key, section
    for name, value in section:
        if isinstance(value, BaseModel):
            yield from _sections(value, f"{key}.{name}")
