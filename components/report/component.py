"""Container component of stage `report`."""

from kfp import dsl

from components.container import container_spec


@dsl.container_component
def report(
    report_params: str,
    artifact_root: str,
    key: str,
    dataset: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Metrics],
    report: dsl.Output[dsl.Artifact],
) -> dsl.ContainerSpec:
    """Write an HTML page with settings, training curves, metrics and example puzzles."""
    artifacts = {"dataset": dataset, "model": model, "evaluation": evaluation, "report": report}
    return container_spec("report", {"report": report_params}, artifacts, artifact_root, key)
