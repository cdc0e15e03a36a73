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
    project: Annotated[str, Field(pattern=r"^[^/\\#?%:\x00-\x1f]{1,128}$")] = "trm"
    """W&B project: at most 128 characters, none of them a slash, a backslash or one of `#?%:`."""
    entity: Annotated[str | None, Field(pattern=r"^[^/\\#?%:\s]{1,128}$")] = None
    """W&B team or user; null: the default of the API key."""
    group: Annotated[str | None, Field(pattern=r"^[^\x00-\x1f]{1,128}$")] = None
    """W&B group of the run; null: the seeds of an experiment form a group."""
    tags: Annotated[tuple[Annotated[str, Field(min_length=1, max_length=64)], ...], Field(strict=False)] = ()
    """W&B tags of the run."""
