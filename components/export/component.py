"""Container component of stage `export`."""

from kfp import dsl

from components.container import container_spec


@dsl.container_component
def export(
    export_params: str,
    artifact_root: str,
    key: str,
    dataset: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    exported: dsl.Output[dsl.Model],
) -> dsl.ContainerSpec:
    """Write the model as ONNX files and as a program of torch.export."""
    artifacts = {"dataset": dataset, "model": model, "exported": exported}
    return container_spec("export", {"export": export_params}, artifacts, artifact_root, key)
