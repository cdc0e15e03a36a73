"""The pipeline on this machine: the compiled components as Docker containers, artifacts in S3, no Kubeflow."""

import os
import sys
from collections.abc import Mapping
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit, urlunsplit

from kfp import local

from pipeline.definition import CACHE, arguments, build
from trm import s3
from trm.config import Params
from trm.errors import Fault, UserError
from trm.stages import STAGES, content_keys


def run_local(params: Params, image: str) -> dict[str, str]:
    """Run every stage in a container of `image`; returns stage -> URI of its output.

    S3 is the one that the AWS_* variables of this process name. Raises `UserError` where Docker or the image is not
    there, `Fault` where a container failed.
    """
    _check_docker(image)
    cluster = params.cluster.model_copy(
        update={"image": image, "stages": {}, "s3_endpoint": None, "s3_region": None, "s3_secret": None}
    )
    keys = content_keys(params)
    uris = {stage.name: f"{cluster.root}/{stage.name}/{keys[stage.name]}" for stage in STAGES}
    with TemporaryDirectory() as pointers:
        local.init(_runner(), pipeline_root=pointers, raise_on_error=True)
        problem = ""
        try:
            build(cluster)(**arguments(params, keys, cluster.root))
        except Exception as error:
            problem = " ".join(str(error).split())[:300]
    # Kubeflow's local runner takes a container that is quickly gone for a success: the manifests tell the truth.
    missing = [name for name, uri in uris.items() if s3.read_manifest(uri) is None]
    if missing or problem:
        where = f"stage {missing[0]} left no artifact" if missing else "the run failed after its stages"
        raise Fault(f"{where}; its log stands above" + (f" ({problem})" if problem else ""))
    return uris


def _check_docker(image: str) -> None:
    import docker
    from docker.errors import DockerException, ImageNotFound

    try:
        docker.from_env().images.get(image)
    except ImageNotFound:
        raise UserError(f"Docker has no image {image}; run `make image`, or name another with --image") from None
    except DockerException as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"Docker does not answer ({reason}); start it, or set DOCKER_HOST") from None


def _runner() -> local.DockerRunner:
    """Containers with a read-only root and the user's own number, that reach the S3 of this machine."""
    return local.DockerRunner(
        environment=_environment(os.environ, sys.platform),
        network_mode="host",
        user=f"{os.getuid()}:{os.getgid()}",
        read_only=True,
        tmpfs={CACHE: "mode=1777,exec", "/tmp": "mode=1777"},
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
    )


def _environment(variables: Mapping[str, str], platform: str) -> dict[str, str]:
    """What of this machine's environment leads the containers to S3."""
    chosen = {name: value for name, value in variables.items() if name.startswith("AWS_") and "BUNDLE" not in name}
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        url = urlsplit(chosen.get(name, ""))
        if platform == "darwin" and url.hostname in ("127.0.0.1", "localhost"):
            # Docker Desktop's containers live in a machine of their own, which knows the Mac by this name.
            chosen[name] = urlunsplit(url._replace(netloc=f"host.docker.internal:{url.port}"))
    return chosen
