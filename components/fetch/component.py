"""Container component of stage `fetch`."""

from kfp import dsl

from components.container import container_spec


@dsl.container_component
def fetch(data_params: str, artifact_root: str, key: str, raw: dsl.Output[dsl.Dataset]) -> dsl.ContainerSpec:
    """Generate, copy or download the raw puzzles."""
    return container_spec("fetch", {"data": data_params}, {"raw": raw}, artifact_root, key)
