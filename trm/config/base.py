"""What every section of settings is made of: a base class, numbers that may be doubles, mistakes in words."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo, model_validator
from pydantic_core import ErrorDetails

from trm.utils.errors import ParamsError


def whole(value: object) -> object:
    """2.0 as 2, for a validator of whole numbers; anything else as it is."""
    # Kubeflow carries every number as a double: 2.0 is 2. A string or a boolean is a mistake.
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def real(value: object) -> object:
    """2 as 2.0, for a validator of fractions; anything else as it is."""
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


Positive = Annotated[int, Field(ge=1), BeforeValidator(whole)]
Natural = Annotated[int, Field(ge=0), BeforeValidator(whole)]
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False), BeforeValidator(real)]
Scale = Annotated[float, Field(gt=0, allow_inf_nan=False), BeforeValidator(real)]
Fraction = Annotated[float, Field(ge=0, le=1), BeforeValidator(real)]
BelowOne = Annotated[float, Field(ge=0, lt=1), BeforeValidator(real)]
Steps = Annotated[int, Field(ge=1, le=128), BeforeValidator(whole)]
"""Supervision steps."""
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Quantity = Annotated[str, Field(pattern=r"^\d+(\.\d+)?([KMGTPE]i?)?$")]
"""Bytes as Kubernetes writes them: 512Mi, 1.5G."""
Address = Annotated[str, Field(pattern=r"^https?://[^/@\s]+(/[^@\s]*)?$")]
"""Of a server; no password belongs in it."""
Precision = Literal["auto", "float32", "bfloat16"]
Device = Literal["auto", "cpu", "mps", "cuda"]


ABSENT_IS_NULL = {"absent": "null"}
"""Kubeflow's dicts hold no null, so params that come from there leave such keys out."""


SectionT = TypeVar("SectionT", bound=BaseModel)


class Section(BaseModel):
    """One section of `params.yaml`: frozen, strictly typed, refusing unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    on_this_machine: ClassVar[bool] = False
    """True: the section names files by path, which no pod of a cluster sees."""

    @model_validator(mode="before")
    @classmethod
    def _absent_is_null(cls, values: object, info: ValidationInfo) -> object:
        if info.context != ABSENT_IS_NULL or not isinstance(values, Mapping):
            return values
        nullable = [name for name, field in cls.model_fields.items() if type(None) in get_args(field.annotation)]
        return {**dict.fromkeys(nullable), **values}


def read_yaml(path: str | Path, remedy: str) -> object:
    """What a YAML file holds. Raises `ParamsError`, with the `remedy` where there is no such file."""
    from ruamel.yaml import YAML, YAMLError  # YAML 1.2: 1e-4 is a number, `no` is a word

    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ParamsError(f"{path}: no such file; {remedy}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path}: cannot be read ({error})") from None
    try:
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise ParamsError(f"{path}{where}: not valid YAML ({problem})") from None


def parse(cls: type[SectionT], values: object, where: str, context: object = None) -> SectionT:
    """Check `values` against the settings class `cls`; `where` opens the message of the `ParamsError`."""
    if not isinstance(values, Mapping):
        raise ParamsError(f"{where}: expected sections with keys and values. Got {type(values).__name__}")
    try:
        return cls.model_validate(values, context=context)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ParamsError(f"{where}: {_explain(problems[0], values, cls)}{more}") from None


def _explain(problem: ErrorDetails, values: Mapping[str, Any], cls: type[BaseModel]) -> str:
    key = _typed_key(problem, values)
    lacks_item = problem["type"] == "missing" and isinstance(problem["loc"][-1], int)
    if lacks_item or problem["type"] == "too_short":
        return f"{key.rpartition('.')[0] if lacks_item else key} has too few items. Got {problem['input']!r}"
    if problem["type"] in ("missing", "union_tag_not_found"):
        key += ".type" if problem["type"] == "union_tag_not_found" else ""
        return f"{key} is missing; add it (`trm recipe list` names examples, which have every key)"
    if problem["type"] == "extra_forbidden":
        typed = str(problem["loc"][-1])
        close = difflib.get_close_matches(typed, [name for name in _all_keys(cls) if name != typed], n=1)
        return f"{key} is not a setting; " + (f"did you mean {close[0]}?" if close else "remove it")
    if problem["type"] == "value_error":
        said = problem["msg"].removeprefix("Value error, ")
        return f"{key}: {said}" if key else said
    if problem["type"] == "union_tag_invalid":
        tags = problem.get("ctx", {}).get("expected_tags", "").replace("'", "")
        return f"{key}.type must be one of {tags}. Got {problem['input'].get('type')!r}"
    wanted = problem["msg"].removeprefix("Input should be ")
    wanted = wanted.replace("String should match pattern", "a text of the form")
    return f"{key} must be {wanted}. Got {problem['input']!r}"


def _typed_key(problem: ErrorDetails, values: Mapping[str, Any]) -> str:
    """The key as a user typed it: pydantic names the variant of a union in between, which nobody typed."""
    typed: list[str] = []
    value: Any = values
    for part in problem["loc"]:
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list) and isinstance(part, int):
            value = value[part] if part < len(value) else None
        elif not (problem["type"] == "missing" and part == problem["loc"][-1]):
            continue
        typed.append(str(part))
    return ".".join(typed)


def _all_keys(cls: type[BaseModel]) -> list[str]:
    keys: list[str] = []
    for name, field in cls.model_fields.items():
        keys.append(name)
        for inner in [field.annotation, *getattr(field.annotation, "__args__", ())]:
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                keys += _all_keys(inner)
    return keys
