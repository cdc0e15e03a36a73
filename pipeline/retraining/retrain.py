"""Retraining: plan, run, collect and promote."""

from pathlib import Path

from rich.console import Console

from pipeline.kfp.collect import collect
from pipeline.results import dataset_name, load_result, resolve_key
from pipeline.retraining.compare import Comparison
from pipeline.retraining.plan import make_plan
from pipeline.retraining.plan_text import show
from pipeline.retraining.registry import Champion, Registry
from pipeline.retraining.report import write_report
from pipeline.runs import OUTPUTS, Provenance
from trm.config.params import Params
from trm.stages.content_keys import content_keys
from trm.stages.records import STAGES
from trm.storage import s3
from trm.storage.artifacts import MANIFEST, read_manifest
from trm.utils.errors import InternalError, UserError
from trm.utils.output import output_may_close

REPORT = OUTPUTS / "comparison"
"""Path of the comparison report, without suffix."""


@output_may_close()
def run_experiment(params: Params, params_file: Path, image: str | None) -> None:
    """Plan, run and collect the experiment. Raises `InternalError` if the run does not succeed.

    Args:
        params: The experiment.
        params_file: File of `params`.
        image: Run in Docker on this machine with this image. None: run on the cluster.
    """
    show(make_plan(params, params_file), Console(stderr=True))
    if image is not None:
        from pipeline.local.docker_runner import image_id, run_local

        run_local(params, image)
        collect(params, None, Provenance(run="local", image=image_id(image)))
        return
    from pipeline.kfp.client import KfpClient
    from pipeline.kfp.submit import submit
    from pipeline.kfp.watch import failure_message, watch

    run, _ = submit(params, force=False)
    finished = watch(KfpClient(params.cluster), run.id)
    if finished.state != "SUCCEEDED":
        raise InternalError(
            f"{failure_message(finished)}; the champion is unchanged: run the command again, finished stages are reused"
        )
    collect(params, finished)


def promote(params: Params, name: str | None, force: bool) -> tuple[Champion, Comparison | None, bool]:
    """Promote the result `name` as `Registry.promote` does, and write the comparison report."""
    result = load_result(params.cluster.artifact_root, resolve_key(params, name))
    registry = Registry(params.cluster.artifact_root, result.dataset)
    return registry.promote(result, force, lambda comparison: write_report(comparison, REPORT))


def dataset_registry(params: Params, dataset: str | None) -> Registry:
    """Return the registry of `dataset`; None: the dataset of params.yaml.

    Raises `UserError` if the raw data of params.yaml exist neither locally nor in S3.
    """
    if dataset is None:
        stage, key = STAGES[0], content_keys(params)[STAGES[0].name]
        folder, uri = OUTPUTS / stage.output, s3.artifact_uri(params.cluster.artifact_root, stage.name, key)
        local = read_manifest(folder, stage.name) if (folder / MANIFEST).is_file() else None
        manifest = local if local and local["key"] == key else s3.read_manifest(uri)
        if manifest is None:
            raise UserError(f"{uri}: no raw data for params.yaml, so there is no champion; run `dvc repro` first")
        dataset = dataset_name(manifest)
    return Registry(params.cluster.artifact_root, dataset)
