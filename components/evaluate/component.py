"""Stage `evaluate` as a container component."""

from kfp import dsl

from components.container import container


@dsl.container_component
def evaluate(
    evaluate_params: dict,
    root: str,
    key: str,
    dataset: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    evaluation: dsl.Output[dsl.Metrics],
) -> dsl.ContainerSpec:
    """Score the averaged weights on the test puzzles, with voting."""
    artifacts = {"dataset": dataset, "model": model, "evaluation": evaluation}
    return container("evaluate", {"evaluate": evaluate_params}, artifacts, root, key)
