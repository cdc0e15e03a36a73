"""The base class of all settings, number types, the YAML reader, and error messages for invalid values."""

import difflib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from trm.config.yaml_files import load_yaml
from trm.utils.errors import DataError, ParamsError
from trm.utils.file_formats import decode_text


def integral_to_int(value: object) -> object:
    """Convert 2.0 to 2; other values are returned unchanged for validation."""
    # Kubeflow passes every number as a double. Strings and booleans are not numbers.
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def int_to_float(value: object) -> object:
    """Convert 2 to 2.0, integers beyond the largest float to infinity; other values are returned unchanged."""
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


Positive = Annotated[int, Field(ge=1), BeforeValidator(integral_to_int)]
Natural = Annotated[int, Field(ge=0), BeforeValidator(integral_to_int)]
Size = Annotated[int, Field(ge=1, le=1_000_000), BeforeValidator(integral_to_int)]
"""A size of the network, which the memory limits further."""
SizeOrZero = Annotated[int, Field(ge=0, le=1_000_000), BeforeValidator(integral_to_int)]
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False), BeforeValidator(int_to_float)]
Scale = Annotated[float, Field(gt=0, allow_inf_nan=False), BeforeValidator(int_to_float)]
Fraction = Annotated[float, Field(ge=0, le=1), BeforeValidator(int_to_float)]
BelowOne = Annotated[float, Field(ge=0, lt=1), BeforeValidator(int_to_float)]
Steps = Annotated[int, Field(ge=1, le=4096), BeforeValidator(integral_to_int)]
"""Supervision steps at inference."""
TrainingSteps = Annotated[int, Field(ge=1, le=128), BeforeValidator(integral_to_int)]
"""Supervision steps of a sequence in training."""
Noise = Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False), BeforeValidator(int_to_float)]
"""Standard deviation of latent noise. Latents have about unit scale, and larger numbers overflow in float32."""
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Quantity = Annotated[str, Field(pattern=r"^\d+(\.\d+)?([KMGTPE]i?)?$")]
"""A number of bytes in Kubernetes notation: 512Mi, 1.5G."""
Address = Annotated[str, Field(pattern=r"^https?://[^/@\s]+(/[^@\s]*)?$")]
"""The URL of a server, without credentials."""
Precision = Literal["auto", "float32", "bfloat16"]
Device = Literal["auto", "cpu", "mps", "cuda"]


INPUT = "Input should be "
"""Start of pydantic's messages about values."""
ALIKE = 0.6
"""Similarity from which a typed key is a misspelt name."""
ABSENT_IS_NULL = {"absent": "null"}
"""Validation context for params from Kubeflow, whose dicts drop null values: missing nullable keys are null."""


SectionT = TypeVar("SectionT", bound=BaseModel)


class Section(BaseModel):
    """A section of `params.yaml`: frozen, strictly typed, without unknown keys. Docstrings of fields describe them."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    on_this_machine: ClassVar[bool] = False
    """True: the section contains local paths, which do not exist in the pods of a cluster."""

    @model_validator(mode="before")
    @classmethod
    def _absent_is_null(cls, values: object, info: ValidationInfo) -> object:
        if info.context != ABSENT_IS_NULL or not isinstance(values, Mapping):
            return values
        nullable = [name for name, field in cls.model_fields.items() if type(None) in get_args(field.annotation)]
        return {**dict.fromkeys(nullable), **values}


def read_yaml(path: str | Path, remedy: str) -> object:
    """Load a YAML file. Raises `ParamsError`; the message for a missing file ends with `remedy`."""
    try:
        text = decode_text(Path(path).read_bytes(), path)
    except FileNotFoundError:
        raise ParamsError(f"{path}: no such file; {remedy}") from None
    except DataError as error:
        raise ParamsError(str(error)) from None
    except OSError as error:
        raise ParamsError(f"{path}: cannot be read ({error})") from None
    try:
        return load_yaml(text)
    except ValueError as error:
        raise ParamsError(f"{path}: not valid YAML ({error})") from None


def parse(cls: type[SectionT], values: object, where: str, context: object = None) -> SectionT:
    """Validate `values` as settings class `cls`. Raises `ParamsError`, whose message starts with `where`."""
    if not isinstance(values, Mapping):
        raise ParamsError(f"{where}: expected sections with keys and values. Got {type(values).__name__}")
    try:
        return cls.model_validate(values, context=context)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        reported, explained = _misspelt(problems, values, cls) or _first(problems, values, cls)
        more = f" (and {len(problems) - len(reported)} more)" if len(problems) > len(reported) else ""
        raise ParamsError(f"{where}: {explained}{more}") from None


def _first(
    problems: list[ErrorDetails], values: Mapping[str, Any], cls: type[BaseModel]
) -> tuple[list[ErrorDetails], str]:
    """The problems of the first key, and their explanation. A value of several types has a problem for each type."""
    first = problems[0]
    same = [each for each in problems if _typed_key(each, values) == _typed_key(first, values)]
    expected = [each["msg"].removeprefix(INPUT) for each in same if each["msg"].startswith(INPUT)]
    if 1 < len(same) == len(expected):
        return same, _explain({**first, "msg": INPUT + " or ".join(expected)}, values, cls)
    return [first], _explain(first, values, cls)


def _explain(problem: ErrorDetails, values: Mapping[str, Any], cls: type[BaseModel]) -> str:
    key = _typed_key(problem, values)
    lacks_item = problem["type"] == "missing" and isinstance(problem["loc"][-1], int)
    if lacks_item or problem["type"] == "too_short":
        return f"{key.rpartition('.')[0] if lacks_item else key} has too few items. Got {problem['input']!r}"
    if problem["type"] in ("missing", "union_tag_not_found"):
        key += f".{_discriminator(problem)}" if problem["type"] == "union_tag_not_found" else ""
        return f"{key} is missing; add it (`trm recipe list` names examples, which have every key)"
    if problem["type"] == "extra_forbidden":
        return _explain_unknown(key, problem, cls)
    if problem["type"] == "value_error":
        message = problem["msg"].removeprefix("Value error, ")
        return f"{key}: {message}" if key else message
    if problem["type"] == "union_tag_invalid":
        tags, name = problem.get("ctx", {}).get("expected_tags", "").replace("'", ""), _discriminator(problem)
        return f"{key}.{name} must be one of {tags}. Got {problem['input'].get(name)!r}"
    expected = problem["msg"].removeprefix(INPUT).replace("a valid tuple", "a list")
    expected = expected.replace("String should match pattern", "a string of the form")
    return f"{key} must be {expected}. Got {problem['input']!r}"


def _discriminator(problem: ErrorDetails) -> str:
    """The key that selects one of several forms of a section."""
    return problem.get("ctx", {}).get("discriminator", "").strip("'")


def _explain_unknown(key: str, problem: ErrorDetails, cls: type[BaseModel]) -> str:
    typed = str(problem["loc"][-1])
    for names in (_section_keys(cls, problem["loc"][:-1]), _all_keys(cls)):
        close = max((name for name in names if name != typed), key=lambda name: _likeness(typed, name), default="")
        if _likeness(typed, close) >= ALIKE:
            return f"{key} is not a setting; did you mean {close}?"
    return f"{key} is not a setting; remove it"


def _misspelt(
    problems: list[ErrorDetails], values: Mapping[str, Any], cls: type[BaseModel]
) -> tuple[list[ErrorDetails], str] | None:
    """The problems of the first misspelt key, and their explanation; None if no unknown key resembles another.

    A misspelt key is two problems, an unknown key and a missing one of the same section.
    """
    missing = [problem for problem in problems if problem["type"] == "missing" and isinstance(problem["loc"][-1], str)]
    unknown = [problem for problem in problems if problem["type"] == "extra_forbidden"]
    pairs = []
    for one in unknown:
        others = [other for other in missing if other["loc"][:-1] == one["loc"][:-1]]
        siblings = [each for each in unknown if each["loc"][:-1] == one["loc"][:-1]]
        for other in others:
            likeness = _likeness(str(one["loc"][-1]), str(other["loc"][-1]))
            if likeness >= ALIKE or len(others) == len(siblings) == 1:
                pairs.append((likeness, one, other))
    if pairs:
        _, one, other = max(pairs, key=lambda pair: pair[0])
        return [one, other], f"{_typed_key(one, values)} is not a setting; did you mean {other['loc'][-1]}?"
    # A key that merely repeats another one is less of a problem than one that is missing.
    return (unknown[:1], _explain(unknown[0], values, cls)) if unknown and not missing else None


def _likeness(typed: str, name: str) -> float:
    """Similarity of a typed key to a name, 0 to 1; the initials of the typed words (lr) or one of the name's count."""
    words = typed.split("_")
    if "".join(word[:1] for word in words) == name:
        return 1.0
    if typed in name.split("_"):
        return ALIKE
    return difflib.SequenceMatcher(None, typed, name).ratio()


def _typed_key(problem: ErrorDetails, values: Mapping[str, Any]) -> str:
    """The key as the user typed it, without the names of union members that pydantic inserts."""
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
        keys += [name, *(key for inner in _sections_of(field) for key in _all_keys(inner))]
    return keys


def differences(one: Any, other: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:  # noqa: ANN401 - JSON values
    """Yield the differences between two JSON values: dotted name, value in `one`, value in `other`."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in dict.fromkeys((*one, *other)):
            yield from differences(one.get(key), other.get(key), f"{name}.{key}" if name else key)
    elif one != other:
        yield name, one, other


def _section_keys(cls: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """The keys of the section at `loc`, of all its kinds."""
    sections = [cls]
    for part in loc:
        # Other parts are the names of union members that pydantic inserts.
        inner = [each for one in sections if (field := one.model_fields.get(str(part))) for each in _sections_of(field)]
        sections = inner or sections
    return [name for each in sections for name in each.model_fields]


def _sections_of(field: FieldInfo) -> list[type[BaseModel]]:
    members = [field.annotation, *getattr(field.annotation, "__args__", ())]
    return [each for each in members if isinstance(each, type) and issubclass(each, BaseModel)]


def canonical_json(value: BaseModel | Mapping[str, Any]) -> str:
    """Canonical JSON of some settings: sorted keys, no spaces."""
    data = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
