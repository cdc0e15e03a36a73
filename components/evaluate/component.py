"""Container component of stage `evaluate`."""

from kfp import dsl

from components.container import container_spec


@dsl.container_component
def evaluate(
    evaluate_params: str,
    artifact_root: str,
    key: str,
    dataset: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    evaluation: dsl.Output[dsl.Metrics],
) -> dsl.ContainerSpec:
    """Evaluate the EMA weights on the test puzzles, with voting."""
    artifacts = {"dataset": dataset, "model": model, "evaluation": evaluation}
    return container_spec("evaluate", {"evaluate": evaluate_params}, artifacts, artifact_root, key)
