"""The training as a PyTorchJob: its manifest, the launcher on this machine, and what a job could not run."""

from components.train.launcher import launch
from components.train.pytorch_job import fill, processes, template
from trm import s3
from trm.cluster import Resources
from trm.config import Params, canonical_json
from trm.errors import UserError
from trm.stages import STAGES, content_keys, producer

TRAIN = next(stage for stage in STAGES if stage.name == "train")


def manifest(params: Params) -> dict[str, object]:
    """The PyTorchJob of this experiment. Raises `UserError` where `cluster.job` is null or cannot be."""
    job, command, keys = _request(params)
    return fill(job, command, keys[TRAIN.name], params.cluster.root)


def run_job(params: Params) -> str:
    """Have the job train and stay with it until its model is in S3; returns the model's URI.

    S3 is the one that the AWS_* variables of this process name, the cluster that of the kubeconfig.
    """
    job, command, keys = _request(params)
    root = params.cluster.root
    for name in TRAIN.inputs:
        stage = producer(name).name
        uri = f"{root}/{stage}/{keys[stage]}"
        if s3.read_manifest(uri) is None:
            raise UserError(
                f"{uri}: holds no {name} yet; run `trm {stage} --{name} {root}`, or `python -m pipeline local`"
            )
    launch(job, command)
    return f"{root}/{TRAIN.name}/{keys[TRAIN.name]}"


def refuse_impossible_jobs(params: Params) -> None:
    """Raise `UserError` where the processes of the job could not share the batch or the GPUs."""
    job, resources = params.cluster.job, params.cluster.stages.get(TRAIN.name, Resources())
    if job is None:
        return
    each, batch = processes(job, resources), params.train.global_batch_size
    if resources.gpus and each > resources.gpus:
        raise UserError(
            f"cluster.job.processes_per_worker must be at most cluster.stages.train.gpus = {resources.gpus}. Got {each}"
        )
    for workers in range(job.min_workers, job.max_workers + 1):
        if batch % (workers * each):
            raise UserError(
                f"train.global_batch_size must be a multiple of workers times processes_per_worker, for any number of "
                f"workers from cluster.job.min_workers to max_workers. Got {batch} for {workers} x {each}"
            )


def _request(params: Params) -> tuple[dict[str, object], list[str], dict[str, str]]:
    """The job's template, the command that it runs, and the content keys."""
    if params.cluster.job is None:
        raise UserError("cluster.job is null; write `job: {}` under cluster in params.yaml, and how many workers")
    refuse_impossible_jobs(params)
    keys, root = content_keys(params), params.cluster.root
    sections = {name: getattr(params, name).model_dump(mode="json") for name in TRAIN.sections}
    command = [TRAIN.name, "--params", canonical_json(sections)]
    for name in TRAIN.inputs:
        stage = producer(name).name
        command += [f"--{name}", f"{root}/{stage}/{keys[stage]}"]
    command += [f"--{TRAIN.output}", f"{root}/{TRAIN.name}/{keys[TRAIN.name]}"]
    return template(params.cluster), command, keys
