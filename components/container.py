"""Shared code of the components: from a stage record to a container specification."""

from collections.abc import Mapping
from typing import Any

from kfp import dsl

from trm.stages.records import STAGES
from trm.storage.s3 import artifact_uri

IMAGE = "trm:latest"
"""Placeholder: the pipeline sets the image of its cluster on every task."""


def container_spec(
    name: str,
    params: Mapping[str, Any],
    artifacts: Mapping[str, Any],
    artifact_root: str,
    key: str,
    module: str = "components.run",
    module_args: tuple[Any, ...] = (),
) -> dsl.ContainerSpec:
    """Return the container of stage `name`, which runs `python -m <module>` around the stage's `trm` command.

    Values are placeholders that Kubeflow Pipelines resolves at run time.

    Args:
        name: Stage name.
        params: Section name -> JSON of the section.
        artifacts: Input or output name -> artifact, whose file holds a pointer to S3.
        artifact_root: Root of the artifacts in S3.
        key: Content key. The stage publishes its output at `<artifact_root>/<name>/<key>`.
        module: Program of the container.
        module_args: Arguments of `module` in front of the `trm` command.
    """
    stage = next(stage for stage in STAGES if stage.name == name)
    sections = ", ".join(f'"{section}": {params[section]}' for section in stage.sections)
    args: list[Any] = ["{{$}}", artifacts[stage.output].path, *module_args, name, "--params", f"{{{sections}}}"]
    for input_name in stage.inputs:
        args += [f"--{input_name}", artifacts[input_name].path]
    args += [f"--{stage.output}", artifact_uri(artifact_root, name, key)]
    return dsl.ContainerSpec(image=IMAGE, command=["python", "-m", module], args=args)
