"""How much computation a puzzle gets at inference: the settings behind evaluate, solve, visualize, demo and sweep."""

from typing import Literal, Self

from pydantic import model_validator

from trm.config.base import Fraction, Noise, Positive, Section, Steps

Selection = Literal["votes", "halt_logit", "halt_first", "settled"]


class InferenceConfig(Section):
    """Test-time compute. These settings can be changed without retraining."""

    max_steps: Steps
    """Maximum number of supervision steps of each sequence."""
    early_halting: bool
    """Stop a sequence at its first positive halting decision. Published scores do not use it."""
    num_samples: Positive
    """Samples of each sequence with different latent noise; the one with the highest halt logit wins."""
    latent_noise_std: Noise
    """Standard deviation of the Gaussian noise added to the latents before each step, in all samples but the first."""
    verify: bool
    """Check the rules after each step and stop at the first valid answer, which wins. Only for datasets with rules."""
    num_votes: Positive
    """Augmentations of each puzzle that vote on its answer, including the puzzle itself."""
    selection: Selection
    """Which answer wins. votes: most votes; halt_logit: the sequence with the highest halt logit; halt_first: the first
    sequence to halt; settled: least moved latents."""
    min_confidence: Fraction
    """Confidence from which a puzzle is answered, 0 to 1. Below it the answer is withheld; 0 answers every puzzle."""

    @property
    def stops_puzzles(self) -> bool:
        """Whether a sequence that answers stops the other sequences of its puzzle."""
        return self.verify or self.selection == "halt_first"

    @model_validator(mode="after")
    def _check_noise(self) -> Self:
        if (self.num_samples > 1) != (self.latent_noise_std > 0):
            raise ValueError(
                "num_samples above 1 requires latent_noise_std above 0, and vice versa. "
                f"Got num_samples={self.num_samples}, latent_noise_std={self.latent_noise_std}"
            )
        return self


DEFAULT_INFERENCE = InferenceConfig(
    max_steps=16,
    early_halting=False,
    num_samples=1,
    latent_noise_std=0.0,
    verify=False,
    num_votes=1,
    selection="votes",
    min_confidence=0.0,
)
"""The published settings: 16 supervision steps, one sample, no voting. The default outside `params.yaml`."""
