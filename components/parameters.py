"""Names of the pipeline and of its parameters. The module imports no SDK."""

from trm.stages.records import Stage

PIPELINE = "trm"
"""Name of the pipeline and of its experiment."""


def key_parameter(stage: Stage) -> str:
    """Return the name of the pipeline parameter that holds the content key of `stage`."""
    return f"{stage.name}_key"
