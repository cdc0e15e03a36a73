"""Names of the pipeline and of its parameters, and the text of their values. The module imports no SDK."""

from collections.abc import Mapping
from typing import Any

from trm.config.base import canonical_json
from trm.stages.records import Stage

PIPELINE = "trm"
"""Name of the pipeline and of its experiment."""


def parameter_text(value: Mapping[str, Any]) -> str:
    """Return `value` as JSON that arrives unchanged in a container.

    A parameter is a string and not a struct, whose numbers are doubles: whole numbers above 2^53 would be rounded. Argo
    replaces `{{...}}`, and Kubernetes `$(...)` and `$$`, in the arguments of a container. Outside of strings JSON has
    neither. Raises `ValueError` for numbers that are not finite.
    """
    return canonical_json(value).replace("{{", "{\\u007b").replace("$", "\\u0024")


def key_parameter(stage: Stage) -> str:
    """Return the name of the pipeline parameter that holds the content key of `stage`."""
    return f"{stage.name}_key"
