"""Sections `evaluate`, `report` and `export`."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from trm.config.base import Device, Fraction, Natural, Noise, Positive, Precision, Section, Steps
from trm.config.inference import InferenceConfig, Selection


class EvaluateParams(InferenceConfig):
    """How the test puzzles are answered and scored."""

    pass_at_k: Annotated[tuple[Positive, ...], Field(min_length=1, strict=False)]
    """Values of k for the metrics pass@k: the right answer is among the k best candidates of the vote."""
    max_puzzles: Positive | None
    """Score a random sample of this many test puzzles (groups; tasks in ARC); null: all."""
    trajectory_puzzles: Natural = 0
    """Puzzles of each split (a random sample) whose answers after each step are stored. The sweep of the report does
    not compute them again if `report.test_time_compute` has this number as max_puzzles and at most as many steps, and
    seed, precision and device are equal. Not with early halting, noise, verification or halt_first."""
    batch_size: Literal["auto"] | Positive
    """Sequences computed at a time. auto: on CUDA a power of two up to 8,192 that fits into the free memory, on other
    devices 64. On CUDA a batch that exceeds the memory is halved. It changes the answers by rounding only."""
    compile: Literal["auto"] | bool = "auto"
    """Compile the network with torch.compile; auto: if the evaluation is long enough to repay it and there is a C++
    compiler. It changes the answers by rounding only."""
    precision: Precision
    """Compute dtype; see train.precision."""
    device: Device
    """Device; see train.device."""
    seed: Natural
    """Seed of the augmentations, the noise and the sample of puzzles."""


class SweepParams(Section):
    """The test-time-compute sweep: accuracy against forward passes for every combination of these settings.

    Each combination runs with and without early halting and, if the dataset has rules, with and without verification.
    """

    max_steps: Annotated[tuple[Steps, ...], Field(min_length=1, strict=False)]
    """Values of `max_steps`."""
    num_votes: Annotated[tuple[Positive, ...], Field(min_length=1, strict=False)]
    """Values of `num_votes`."""
    selection: Annotated[tuple[Selection, ...], Field(min_length=1, strict=False)]
    """Values of `selection`."""
    num_samples: Annotated[tuple[Positive, ...], Field(min_length=1, strict=False)]
    """Values of `num_samples`."""
    latent_noise_std: Annotated[tuple[Annotated[Noise, Field(gt=0)], ...], Field(strict=False)]
    """Values of `latent_noise_std` for num_samples above 1."""
    max_puzzles: Positive | None
    """Random sample of this many puzzles of each split; null: all. Validation puzzles select, test puzzles score."""

    @model_validator(mode="after")
    def _check_noise(self) -> Self:
        if (max(self.num_samples) > 1) != bool(self.latent_noise_std):
            raise ValueError(
                "num_samples above 1 requires a latent_noise_std, and vice versa. "
                f"Got num_samples={list(self.num_samples)}, latent_noise_std={list(self.latent_noise_std)}"
            )
        return self


class ReportParams(Section):
    """The HTML report of an experiment."""

    published: dict[str, Fraction]
    """Published scores of this experiment to compare with: metric -> fraction."""
    num_examples: Natural
    """Test puzzles shown step by step, half of them solved and half failed where possible."""
    test_time_compute: SweepParams | None
    """The test-time-compute sweep; null: none."""
    batch_size: Positive
    """Sequences computed at a time."""
    precision: Precision
    """Compute dtype; see train.precision."""
    device: Device
    """Device; see train.device."""
    seed: Natural
    """Seed of the augmentations, the noise and the samples of puzzles."""


class ExportParams(Section):
    """The optional stage `export`: the model for other runtimes."""

    weights: Annotated[tuple[Literal["ema"], ...], Field(max_length=1, strict=False)] = ()
    """[ema]: export the EMA weights; []: the experiment has no stage `export`. A list, because `dvc.yaml` repeats the
    stage for each item (DVC's foreach) and has no other condition."""
    max_puzzles: Positive = 500
    """Test puzzles that are answered to compare the files with the model."""
    max_steps: Steps = 16
    """Supervision steps of the comparison."""
