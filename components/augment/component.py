"""Stage `augment` as a container component."""

from kfp import dsl

from components.container import container


@dsl.container_component
def augment(
    data_params: dict,
    augment_params: dict,
    root: str,
    key: str,
    raw: dsl.Input[dsl.Dataset],
    dataset: dsl.Output[dsl.Dataset],
) -> dsl.ContainerSpec:
    """Check the puzzles, split, shuffle and store them as Parquet."""
    params = {"data": data_params, "augment": augment_params}
    return container("augment", params, {"raw": raw, "dataset": dataset}, root, key)
