"""Sections `evaluate` and `report`."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from trm.config.base import Device, Fraction, Natural, Positive, Precision, Rate, Scale, Section, Steps


class EvaluateParams(Section):
    """How the test puzzles are answered and scored (spec section 6)."""

    steps: Steps
    """Supervision steps of each sequence, at most."""
    halt_early: bool
    """True: a sequence stops where training would have halted it. Published figures are without."""
    rollouts: Positive
    """Tries of each sequence with noise of their own, of which the answer with the highest halt logit wins."""
    noise: Rate
    """Standard deviation of the noise on the latent states of all rollouts but the first."""
    check_rules: bool
    """True: the work on a puzzle stops at the first answer that obeys the rules, which wins."""
    votes: Positive
    """Versions of each puzzle that vote on its answer: the puzzle as it is and `votes - 1` shuffles."""
    pass_at: Annotated[tuple[Positive, ...], Field(min_length=1, strict=False)]
    max_puzzles: Positive | None
    """Score a seeded sample of so many test puzzles (groups: in ARC tasks); null: all of them."""
    batch_size: Positive
    precision: Precision
    device: Device
    seed: Natural

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.rollouts > 1) != (self.noise > 0):
            raise ValueError(
                "rollouts above 1 need noise above 0, and the other way round. "
                f"Got rollouts={self.rollouts}, noise={self.noise}"
            )
        return self


class CurveParams(Section):
    """How far more thinking helps: accuracy against network passes for every combination of these dials (spec section
    6), each with and without early halting and, where rules are known, with and without their check.
    """

    steps: Annotated[tuple[Steps, ...], Field(min_length=1, strict=False)]
    votes: Annotated[tuple[Positive, ...], Field(min_length=1, strict=False)]
    rollouts: Annotated[tuple[Positive, ...], Field(min_length=1, strict=False)]
    noise: Annotated[tuple[Scale, ...], Field(strict=False)]
    """Standard deviations to try, for rollouts above 1."""
    max_puzzles: Positive | None
    """Puzzles of each split, a seeded sample of them; null: all. Validation puzzles choose, test puzzles score."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (max(self.rollouts) > 1) != bool(self.noise):
            raise ValueError(
                "rollouts above 1 need a noise, and the other way round. "
                f"Got rollouts={list(self.rollouts)}, noise={list(self.noise)}"
            )
        return self


class ReportParams(Section):
    """The page about an experiment (spec section 6)."""

    published: dict[str, Fraction]
    """Scores that others published of this experiment, to stand beside ours: a metric's name -> fraction."""
    gallery: Natural
    """Test puzzles that are shown step by step, half of them solved and half failed where there are such."""
    curve: CurveParams | None
    """null: more thinking is not measured."""
    batch_size: Positive
    precision: Precision
    device: Device
    seed: Natural
