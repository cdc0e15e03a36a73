"""Container component of stage `train`."""

from kfp import dsl

from components.container import container_spec


@dsl.container_component
def train(
    model_params: str,
    train_params: str,
    train_job: str,
    artifact_root: str,
    key: str,
    dataset: dsl.Input[dsl.Dataset],
    model: dsl.Output[dsl.Model],
) -> dsl.ContainerSpec:
    """Train the model. Interrupted runs resume.

    Args:
        train_job: Template of the training job, as JSON. `{}`: the container trains.
    """
    params = {"model": model_params, "train": train_params}
    artifacts = {"dataset": dataset, "model": model}
    return container_spec(
        "train",
        params,
        artifacts,
        artifact_root,
        key,
        module="components.train.launcher",
        module_args=(train_job,),
    )
