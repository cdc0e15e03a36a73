"""The settings of an experiment: `params.yaml` as typed, frozen sections.

Nothing that can change a result has a default: missing keys and unknown keys are errors. The names are those of the
published configurations. `trm.stages.params` reads the file.
"""

from typing import Self

from pydantic import model_validator

from trm.config.base import Section
from trm.config.cluster import ClusterParams
from trm.config.data import AugmentParams, DataSection
from trm.config.evaluation import EvaluateParams, ReportParams
from trm.config.model import ModelParams
from trm.config.tracking import TrackingParams
from trm.config.training import TrainParams


class Params(Section):
    """A whole experiment: one section for each stage's concern, and the cluster that may run it."""

    data: DataSection
    augment: AugmentParams
    model: ModelParams
    train: TrainParams
    evaluate: EvaluateParams
    report: ReportParams
    tracking: TrackingParams = TrackingParams()
    cluster: ClusterParams = ClusterParams()

    @model_validator(mode="after")
    def _versions_exist(self) -> Self:
        most = self.data.most_versions()
        if most is not None and self.augment.num_aug >= most:
            raise ValueError(
                f"augment.num_aug must be at most {most - 1}, the versions that such a puzzle has beside itself. "
                f"Got {self.augment.num_aug}"
            )
        curve = self.report.curve
        asked = {"evaluate.votes": self.evaluate.votes, "report.curve.votes": max(curve.votes) if curve else 1}
        for name, votes in asked.items():
            if most is not None and votes > most:
                raise ValueError(f"{name} must be at most {most}, the versions that such a puzzle has. Got {votes}")
        return self
