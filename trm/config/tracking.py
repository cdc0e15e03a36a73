"""Section `tracking`: logging to Weights & Biases."""

from typing import Annotated, Literal

from pydantic import Field

from trm.config.base import Section

VARIABLE = "TRM_TRACKING"
"""Environment variable with the section as JSON, for a stage whose settings do not come from a file: in a pod."""


class TrackingParams(Section):
    """Logging to Weights & Biases. No result depends on it: it has defaults and is not part of content keys."""

    mode: Literal["disabled", "offline", "online"] = "disabled"
    """offline: write to the folder `wandb` (or `$WANDB_DIR`) for a later `wandb sync`."""
    project: str = "trm"
    """W&B project."""
    entity: str | None = None
    """W&B team or user; null: the default of the API key."""
    group: str | None = None
    """W&B group of the run; null: the seeds of an experiment form a group."""
    tags: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """W&B tags of the run."""
