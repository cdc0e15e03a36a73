"""Stage `report` as a container component."""

from kfp import dsl

from components.container import container


@dsl.container_component
def report(
    report_params: dict,
    root: str,
    key: str,
    dataset: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Metrics],
    report: dsl.Output[dsl.Artifact],
) -> dsl.ContainerSpec:
    """Make one page of settings, curves, scores, and puzzles solved and failed."""
    artifacts = {"dataset": dataset, "model": model, "evaluation": evaluation, "report": report}
    return container("report", {"report": report_params}, artifacts, root, key)
