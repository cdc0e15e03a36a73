"""Commands of `python -m pipeline` for local runs."""

from pipeline.options import PARAMS, ImageName, ParamsFile, print_next
from trm.stages.params import load_params


def local(params: ParamsFile = PARAMS, image: ImageName = "trm:latest") -> None:
    """Run the pipeline in Docker on this machine. The AWS_* environment variables select the S3 server."""
    from pipeline.local.docker_runner import run_local

    for stage, uri in run_local(load_params(params), image).items():
        print(f"{stage}: {uri}", flush=True)
    print_next("collect", params, "downloads the outputs")
