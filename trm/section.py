"""What every section of settings is made of: the base class, and numbers that may come as doubles."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, model_validator


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
Fraction = Annotated[float, Field(ge=0, le=1), BeforeValidator(real)]
BelowOne = Annotated[float, Field(ge=0, lt=1), BeforeValidator(real)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Quantity = Annotated[str, Field(pattern=r"^\d+(\.\d+)?([KMGTPE]i?)?$")]
"""Bytes as Kubernetes writes them: 512Mi, 1.5G."""
Address = Annotated[str, Field(pattern=r"^https?://[^/@\s]+(/[^@\s]*)?$")]
"""Of a server; no password belongs in it."""
Precision = Literal["auto", "float32", "bfloat16"]
Device = Literal["auto", "cpu", "mps", "cuda"]


ABSENT_IS_NULL = {"absent": "null"}
"""Kubeflow's dicts hold no null, so params that come from there leave such keys out."""


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
