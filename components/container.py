"""What the container components of all stages share: how a stage's record becomes a container's command."""

from collections.abc import Mapping
from typing import Any

from kfp import dsl

from trm.stages import STAGES

IMAGE = "trm:latest"
"""Stands in a component until the pipeline names the image of its cluster."""


def container(
    name: str,
    params: Mapping[str, Any],
    artifacts: Mapping[str, Any],
    root: str,
    key: str,
    runner: tuple[Any, ...] = ("components.run",),
) -> dsl.ContainerSpec:
    """The container of stage `name`: its `trm` command line behind `runner`, a module and its own arguments.

    What is given are placeholders that Kubeflow fills in: `params` the sections as JSON, `artifacts` the pointers to
    the inputs and the output, `root` and `key` where the output itself goes: `<root>/<stage>/<key>`.
    """
    stage = next(stage for stage in STAGES if stage.name == name)
    sections = ", ".join(f'"{section}": {params[section]}' for section in stage.sections)
    module, *own = runner
    arguments: list[Any] = ["{{$}}", artifacts[stage.output].path, *own, name, "--params", f"{{{sections}}}"]
    for given in stage.inputs:
        arguments += [f"--{given}", artifacts[given].path]
    arguments += [f"--{stage.output}", f"{root}/{name}/{key}"]
    return dsl.ContainerSpec(image=IMAGE, command=["python", "-m", module], args=arguments)
