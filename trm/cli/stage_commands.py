"""The commands of the stages, built from their records. The module imports nothing heavy."""

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated

import typer

from trm.cli.options import OUTPUTS, Overrides, model_location
from trm.cli.summary import next_command, print_summary
from trm.stages.records import Stage, producer
from trm.stages.runner import run_stage

_END = {"model": "; or `demo`, the included model."}
"""Input -> the end of its help text."""


def stage_command(stage: Stage) -> Callable[..., None]:
    """A command whose options are `--params`, `--set`, the stage's inputs and its output."""

    def command(params: str, overrides: list[str] | None, **folders: str) -> None:
        run_from_options(stage, params, overrides, folders)

    def parameter(name: str, default: object, annotation: object) -> inspect.Parameter:
        return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)

    def option(name: str, default: str, text: str) -> inspect.Parameter:
        callback = model_location if name == "model" and name in stage.inputs else None
        return parameter(name, default, Annotated[str, typer.Option(help=text, callback=callback)])

    parameters = [option("params", "params.yaml", "The params file, or the sections of this stage as JSON.")]
    parameters.append(parameter("overrides", None, Overrides))
    for name in stage.inputs:
        text = f"Output of `trm {producer(name).name}`: a folder or s3:// URI{_END.get(name, '.')}"
        parameters.append(option(name, f"{OUTPUTS / name}", text))
    parameters.append(option(stage.output, f"{OUTPUTS / stage.output}", "The folder to write, or s3://<root>."))
    command.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    return command


def run_from_options(stage: Stage, params: str, overrides: list[str] | None, folders: Mapping[str, str]) -> None:
    """Run a stage with the values of its options, and print its result. Raises as `run_stage`."""
    from trm.config.overrides import check_sections, parse_overrides
    from trm.config.params import Params
    from trm.stages.params import load_sections, load_source, load_tracking

    changes = parse_overrides(overrides or [])
    check_sections(changes, (*stage.sections, "tracking"))
    source = load_source(params, changes)
    sections, tracking = load_sections(source, stage.sections, changes), load_tracking(source, changes)
    data = source.data if isinstance(source, Params) else None
    inputs = {name: folders[name] for name in stage.inputs}
    out = folders[stage.output]
    result = run_stage(stage, sections, inputs, out, tracking, data)
    if result is not None:
        print_summary(stage, result, out, next_command(stage, params, folders))
