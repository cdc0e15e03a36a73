"""Section `tracking`: logging to Weights & Biases."""

from typing import Annotated, Literal

from pydantic import Field

from trm.config.base import Section

VARIABLE = "TRM_TRACKING"
"""The section as JSON, where a stage gets its settings otherwise than from a file: in a pod."""


class TrackingParams(Section):
    """Section `tracking`: what is told to Weights & Biases. No result depends on it, so it has defaults and enters no
    key.
    """

    mode: Literal["disabled", "offline", "online"] = "disabled"
    """Offline: into a folder `wandb` here (or `$WANDB_DIR`), which `wandb sync` sends later."""
    project: str = "trm"
    entity: str | None = None
    """Team or user; null: the default of the key's owner."""
    group: str | None = None
    """Runs that belong together; null: the seeds of one experiment do."""
    tags: Annotated[tuple[str, ...], Field(strict=False)] = ()
