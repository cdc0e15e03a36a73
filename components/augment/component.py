"""Container component of stage `augment`."""

from kfp import dsl

from components.container import container_spec


@dsl.container_component
def augment(
    data_params: str,
    augment_params: str,
    artifact_root: str,
    key: str,
    raw: dsl.Input[dsl.Dataset],
    dataset: dsl.Output[dsl.Dataset],
) -> dsl.ContainerSpec:
    """Validate, split and augment the puzzles, and store them as Parquet."""
    params = {"data": data_params, "augment": augment_params}
    return container_spec("augment", params, {"raw": raw, "dataset": dataset}, artifact_root, key)
