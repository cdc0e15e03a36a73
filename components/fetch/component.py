"""Stage `fetch` as a container component."""

from kfp import dsl

from components.container import container


@dsl.container_component
def fetch(data_params: dict, root: str, key: str, raw: dsl.Output[dsl.Dataset]) -> dsl.ContainerSpec:
    """Make or bring the raw puzzles."""
    return container("fetch", {"data": data_params}, {"raw": raw}, root, key)
