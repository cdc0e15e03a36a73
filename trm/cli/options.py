"""Command-line options built from settings classes."""

import functools
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import annotated_types
import typer
import typer.core
from pydantic.fields import FieldInfo

from trm.config.base import Section, parse
from trm.config.inference import DEFAULT_INFERENCE
from trm.utils.paths import local_path

LOCAL: dict[str, Any] = {"parser": local_path, "metavar": "PATH"}
"""Arguments of `typer.Option` for a local path: addresses of servers are refused."""

SET_HELP = "Override a setting of the params for this run, such as `train.lr=3e-4`; can be repeated."
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help=SET_HELP)]
OUTPUTS = Path("outputs")
"""The default folder of all outputs."""
DEMO = "demo"
"""The name of the included model."""
_DEMO_FOLDER = str(Path(__file__).parents[1] / "inference/demo_model")


def model_location(value: str | None) -> str | None:
    """The location of a model; `demo` is the included one. A folder of that name is `./demo`."""
    return _DEMO_FOLDER if value == DEMO else value


def typed_location(value: str) -> str:
    """The inverse of `model_location`."""
    return DEMO if value == _DEMO_FOLDER else value


def typed_message(text: str) -> str:
    """A message as if the user's words were the locations: the folder of the included model is `demo`."""
    return text.replace(_DEMO_FOLDER, DEMO)


def local_model(value: str | Path) -> Path:
    """As `model_location`, for models that must be local files."""
    return local_path(model_location(str(value)) or value)


_LONG_OPTION = re.compile(r"--[a-z][a-z-]*(=.*)?")


class PuzzleCommand(typer.core.TyperCommand):
    """A command whose argument is a puzzle, which may start with a dash: `trm solve -6--2…`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - typer has its own copy of click
        """Move puzzles that start with a dash behind `--`, so that they are not options."""
        takes_value = {
            name: not getattr(option, "is_flag", False)
            for option in self.get_params(ctx)
            for name in (*option.opts, *option.secondary_opts)
            if name.startswith("-")
        }
        rest, puzzles, is_value = list[str](), list[str](), False
        for number, arg in enumerate(args):
            if arg == "--":
                rest += args[number:]
                break
            is_option = arg.partition("=")[0] in takes_value or _LONG_OPTION.fullmatch(arg) is not None
            is_puzzle = not is_value and not is_option and arg.startswith("-") and len(arg) > 2
            (puzzles if is_puzzle else rest).append(arg)
            is_value = not is_value and takes_value.get(arg, False)
        if puzzles:
            rest += puzzles if "--" in rest else ["--", *puzzles]
        return super().parse_args(ctx, rest)


def with_options(defaults: Section) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A decorator that replaces the keyword-only parameter `config` of a command by an option for each setting of
    `defaults`, which has their default values.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        settings_class, fields = type(defaults), type(defaults).model_fields
        name_of_command = command.__name__.removesuffix("_command").replace("_", "-")

        @functools.wraps(command)
        def wrapped(**values: Any) -> None:  # noqa: ANN401 - options of any type
            settings = {name: values.pop(name) for name in fields}
            command(**values, config=parse(settings_class, settings, f"trm {name_of_command}"))

        parameters: list[inspect.Parameter] = []
        options = [_option(name, field, getattr(defaults, name)) for name, field in fields.items()]
        for name, parameter in signature.parameters.items():
            parameters += options if name == "config" else [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)]
        wrapped.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportAttributeAccessIssue]
        wrapped.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return wrapped

    return decorate


with_inference_options = with_options(DEFAULT_INFERENCE)
"""Replaces the parameter `config: InferenceConfig` of a command by an option for each of its settings."""


def _option(name: str, field: FieldInfo, default: object) -> inspect.Parameter:
    """The option of a field: its docstring is the help text, its range that of the field."""
    limits: dict[str, Any] = {}
    for constraint in field.metadata:
        if isinstance(constraint, annotated_types.Ge):
            limits["min"] = constraint.ge
        elif isinstance(constraint, annotated_types.Le):
            limits["max"] = constraint.le
    names = [f"--{name.replace('_', '-')}"] if isinstance(default, bool) else []
    option = typer.Option(*names, help=field.description, **({} if isinstance(default, bool) else limits))
    annotation = Annotated[type(default), option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
