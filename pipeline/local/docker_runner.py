"""The pipeline in Docker on this machine: the compiled components as containers, artifacts in S3, no Kubeflow."""

import os
import secrets
import sys
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit, urlunsplit

from kfp import local

from pipeline.kfp.definition import CACHE, build_pipeline, run_arguments
from trm.config.params import Params
from trm.stages.content_keys import content_keys
from trm.stages.records import enabled_stages
from trm.storage import s3
from trm.utils.errors import InternalError, UserError


def run_local(params: Params, image: str) -> dict[str, str]:
    """Run every stage in a container of `image`; return stage name -> URI of its output.

    The AWS_* environment variables select the S3 server. Raises `UserError` if Docker or the image is not available,
    `InternalError` if a container failed.
    """
    image_id(image)  # raises before anything else happens
    overrides = {"image": image, "resources": {}, "s3_endpoint": None, "s3_region": None, "s3_secret": None}
    overrides |= {"state_root": "off", "max_retries": 0}
    overrides["pods"] = params.cluster.pods.model_copy(update={"secret_env": {}})  # there are no secrets
    cluster = params.cluster.model_copy(update=overrides)
    keys, stages = content_keys(params), enabled_stages(params)
    uris = {stage.name: s3.artifact_uri(cluster.artifact_root, stage.name, keys[stage.name]) for stage in stages}
    s3.read_manifest(uris[stages[0].name])  # raises for an unavailable S3 before a container starts
    label, error_message = f"trm.run={secrets.token_hex(8)}", ""
    with TemporaryDirectory() as pointers:
        local.init(_runner(label), pipeline_root=pointers, raise_on_error=True)
        try:
            build_pipeline(cluster, stages=stages)(**run_arguments(params, keys, cluster.artifact_root))
        except Exception as error:
            error_message = " ".join(str(error).split())[:300]
        finally:
            _stop_containers(label)  # Ctrl-C does not stop them
    # Kubeflow's local runner reports success for a container that exits at once: only manifests prove success.
    missing = [name for name, uri in uris.items() if s3.read_manifest(uri) is None]
    if missing or error_message:
        subject = f"stage {missing[0]} has no artifact" if missing else "the run failed after its stages"
        raise InternalError(f"{subject}; see its log above" + (f" ({error_message})" if error_message else ""))
    return uris


def image_id(image: str) -> str:
    """Return Docker's id of the image, a digest that does not change when the tag moves. Raises as `run_local`."""
    import docker
    from docker.errors import DockerException, ImageNotFound

    try:
        return str(docker.from_env().images.get(image).id)
    except ImageNotFound:
        raise UserError(f"Docker has no image {image}; run `make image`, or pass another one with --image") from None
    except DockerException as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"cannot connect to Docker ({reason}); start it, or set DOCKER_HOST") from None


def _stop_containers(label: str) -> None:
    """Stop the containers with this label. SIGTERM lets a training save its state."""
    import docker

    for container in docker.from_env().containers.list(filters={"label": label}):
        container.stop(timeout=30)


def _runner(label: str) -> local.DockerRunner:
    """Return a runner whose containers have the user's uid, a read-only root file system and the host's network."""
    return local.DockerRunner(
        environment=_environment(sys.platform),
        labels=dict([label.split("=")]),
        network_mode="host",
        user=f"{os.getuid()}:{os.getgid()}",
        read_only=True,
        tmpfs={CACHE: "mode=1777,exec", "/tmp": "mode=1777"},
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
    )


def _environment(platform: str) -> dict[str, str]:
    """Return the AWS_* variables of the containers: the credentials that boto3 finds here, endpoint and region."""
    from boto3.session import Session

    session = Session()
    credentials = session.get_credentials()
    if credentials is None:
        raise UserError("no AWS credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE")
    frozen = credentials.get_frozen_credentials()
    variables = {
        "AWS_ACCESS_KEY_ID": frozen.access_key,
        "AWS_SECRET_ACCESS_KEY": frozen.secret_key,
        "AWS_SESSION_TOKEN": frozen.token,
        "AWS_DEFAULT_REGION": session.region_name,
        "AWS_ENDPOINT_URL_S3": os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"),
    }
    url = urlsplit(variables["AWS_ENDPOINT_URL_S3"] or "")
    if platform == "darwin" and url.hostname in ("127.0.0.1", "localhost"):
        # Containers of Docker Desktop run in a virtual machine, where this name resolves to the Mac.
        variables["AWS_ENDPOINT_URL_S3"] = urlunsplit(url._replace(netloc=f"host.docker.internal:{url.port}"))
    return {name: value for name, value in variables.items() if value}
