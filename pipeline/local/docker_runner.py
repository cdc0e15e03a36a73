"""The pipeline on this machine: the compiled components as Docker containers, artifacts in S3, no Kubeflow."""

import os
import secrets
import sys
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit, urlunsplit

from kfp import local

from pipeline.kfp.definition import CACHE, arguments, build
from trm import s3
from trm.config import Params
from trm.errors import Fault, UserError
from trm.stages import STAGES, content_keys


def run_local(params: Params, image: str) -> dict[str, str]:
    """Run every stage in a container of `image`; returns stage -> URI of its output.

    S3 is the one that the AWS_* variables of this process name. Raises `UserError` where Docker or the image is not
    there, `Fault` where a container failed.
    """
    image_id(image)  # told before anything else
    cluster = params.cluster.model_copy(
        update={"image": image, "stages": {}, "s3_endpoint": None, "s3_region": None, "s3_secret": None}
    )
    keys = content_keys(params)
    uris = {stage.name: f"{cluster.root}/{stage.name}/{keys[stage.name]}" for stage in STAGES}
    s3.read_manifest(uris[STAGES[0].name])  # an S3 that cannot be asked is told before a container starts
    label, problem = f"trm.run={secrets.token_hex(8)}", ""
    with TemporaryDirectory() as pointers:
        local.init(_runner(label), pipeline_root=pointers, raise_on_error=True)
        try:
            build(cluster)(**arguments(params, keys, cluster.root))
        except Exception as error:
            problem = " ".join(str(error).split())[:300]
        finally:
            _stop(label)  # after Ctrl-C the container would go on by itself
    # Kubeflow's local runner takes a container that is quickly gone for a success: the manifests tell the truth.
    missing = [name for name, uri in uris.items() if s3.read_manifest(uri) is None]
    if missing or problem:
        where = f"stage {missing[0]} left no artifact" if missing else "the run failed after its stages"
        raise Fault(f"{where}; its log stands above" + (f" ({problem})" if problem else ""))
    return uris


def image_id(image: str) -> str:
    """The digest by which Docker knows the image, whatever its tag is moved to. Raises as `run_local`."""
    import docker
    from docker.errors import DockerException, ImageNotFound

    try:
        return str(docker.from_env().images.get(image).id)
    except ImageNotFound:
        raise UserError(f"Docker has no image {image}; run `make image`, or name another with --image") from None
    except DockerException as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"Docker does not answer ({reason}); start it, or set DOCKER_HOST") from None


def _stop(label: str) -> None:
    """Stop the containers that still run; they get SIGTERM, on which a training saves its state."""
    import docker

    for container in docker.from_env().containers.list(filters={"label": label}):
        container.stop(timeout=30)


def _runner(label: str) -> local.DockerRunner:
    """Containers with a read-only root and the user's own number, that reach the S3 of this machine."""
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
    """What leads the containers to S3: the keys that boto3 finds here, the endpoint, the region."""
    from boto3.session import Session

    session = Session()
    keys = session.get_credentials()
    if keys is None:
        raise UserError("there are no AWS keys here; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE")
    frozen = keys.get_frozen_credentials()
    chosen = {
        "AWS_ACCESS_KEY_ID": frozen.access_key,
        "AWS_SECRET_ACCESS_KEY": frozen.secret_key,
        "AWS_SESSION_TOKEN": frozen.token,
        "AWS_DEFAULT_REGION": session.region_name,
        "AWS_ENDPOINT_URL_S3": os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"),
    }
    url = urlsplit(chosen["AWS_ENDPOINT_URL_S3"] or "")
    if platform == "darwin" and url.hostname in ("127.0.0.1", "localhost"):
        # Docker Desktop's containers live in a machine of their own, which knows the Mac by this name.
        chosen["AWS_ENDPOINT_URL_S3"] = urlunsplit(url._replace(netloc=f"host.docker.internal:{url.port}"))
    return {name: value for name, value in chosen.items() if value}
