"""Stage `train` as a container component; `job` is the template of the PyTorchJob that trains in its place, or {}."""

from kfp import dsl

from components.container import container


@dsl.container_component
def train(
    model_params: dict,
    train_params: dict,
    job: dict,
    root: str,
    key: str,
    dataset: dsl.Input[dsl.Dataset],
    model: dsl.Output[dsl.Model],
) -> dsl.ContainerSpec:
    """Train a model; a run that was stopped goes on."""
    params = {"model": model_params, "train": train_params}
    artifacts = {"dataset": dataset, "model": model}
    return container("train", params, artifacts, root, key, runner=("components.train.launcher", job))
