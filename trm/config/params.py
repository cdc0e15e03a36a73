"""The settings of an experiment: `params.yaml` as typed, frozen sections.

Nothing that can change a result has a default: missing keys and unknown keys are errors. The names are those of the
published configurations. `trm.stages.params` reads the file.
"""

from typing import Self

from pydantic import model_validator

from trm.config.base import Section
from trm.config.cluster import ClusterParams
from trm.config.data import AugmentParams, DataSection
from trm.config.evaluation import EvaluateParams, ExportParams, ReportParams
from trm.config.model import ModelParams
from trm.config.tracking import TrackingParams
from trm.config.training import TrainParams


class Params(Section):
    """A complete experiment."""

    data: DataSection
    """The dataset."""
    augment: AugmentParams
    """Augmentation and validation split."""
    model: ModelParams
    """The network and its recursion."""
    train: TrainParams
    """Optimization, logging and checkpoints."""
    evaluate: EvaluateParams
    """Test-time compute and metrics."""
    report: ReportParams
    """The HTML report."""
    export: ExportParams = ExportParams()
    """The optional export for other runtimes."""
    tracking: TrackingParams = TrackingParams()
    """Weights & Biases. No result depends on it."""
    cluster: ClusterParams = ClusterParams()
    """Kubernetes, Kubeflow and S3. No result depends on it."""

    @model_validator(mode="after")
    def _check_augmentations(self) -> Self:
        limit = self.data.max_augmentations()
        if limit is None:
            return self
        if limit == 1 and self.augment.num_aug:
            why = "section data defines no augmentations of such a puzzle (symmetries, for example)"
            raise ValueError(f"augment.num_aug must be 0, because {why}. Got {self.augment.num_aug}")
        if self.augment.num_aug >= limit:
            raise ValueError(
                f"augment.num_aug must be at most {limit - 1}, the number of other augmentations of such a puzzle. "
                f"Got {self.augment.num_aug}"
            )
        sweep = self.report.test_time_compute
        num_votes = {"evaluate.num_votes": self.evaluate.num_votes}
        num_votes["report.test_time_compute.num_votes"] = max(sweep.num_votes) if sweep else 1
        for name, value in num_votes.items():
            if value > limit:
                raise ValueError(f"{name} must be at most {limit}, the augmentations of such a puzzle. Got {value}")
        return self
