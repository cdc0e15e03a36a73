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
    params = {"model": model_params, "train": train_params}
    return container("train", params, {"dataset": dataset, "model": model}, root, key)
