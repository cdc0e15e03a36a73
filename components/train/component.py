"""Stage `train` as a container component."""

from kfp import dsl

from components.kfp_stage import container


@dsl.container_component
def train(
    model_params: dict,
    train_params: dict,
    root: str,
    key: str,
    dataset: dsl.Input[dsl.Dataset],
    model: dsl.Output[dsl.Model],
) -> dsl.ContainerSpec:
    """Train a model; a run that was stopped goes on."""
    return container("train", {"model": model_params, "train": train_params}, {"dataset": dataset}, root, key)
