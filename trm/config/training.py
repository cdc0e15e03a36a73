"""Section `train`: optimization, logging and checkpoints."""

from typing import Literal, Self

from pydantic import model_validator

from trm.config.base import BelowOne, Device, Fraction, Natural, Positive, Precision, Rate, Section, Sha256


class StartParams(Section):
    """The model whose averaged weights a training starts from."""

    model: str
    """A model folder, a checkpoint file, or an s3:// address."""
    sha256: Sha256
    """Of its checkpoint.safetensors, so that another one is another request."""
    reset_puzzle_table: bool
    """True: each row of the puzzle table starts at the mean of its rows, for puzzles that it was not trained on."""


class TrainParams(Section):
    """Optimisation and its rhythm (spec sections 3 and 4)."""

    start: StartParams | None
    """null: new weights, drawn from the seed."""
    freeze_network: bool
    """True: the puzzle table alone is trained, and the network has no gradient."""

    epochs: Positive
    """Passes over the groups; one puzzle of each group a pass."""
    global_batch_size: Positive
    """Sequences of an update, over all processes."""
    micro_batch_size: Positive | None
    """Sequences that a process computes at a time, adding up gradients, where memory is short; null: all it has."""
    compile: bool
    """True: torch.compile makes the network faster, after a while; checkpoints are the same."""
    lr: Rate
    lr_min_ratio: Fraction
    lr_warmup_steps: Natural
    beta1: BelowOne
    beta2: BelowOne
    weight_decay: Rate
    puzzle_emb_lr: Rate
    puzzle_emb_weight_decay: Rate
    ema_rate: BelowOne
    """Share of the old average kept at each step; 0: the average is the last weights (no EMA)."""
    loss: Literal["stablemax", "softmax"]
    eval_interval: Positive
    """Epochs between evaluations on the validation groups."""
    log_interval: Positive
    """Steps averaged into one line of the training log."""
    checkpoint_interval: Positive
    """Steps between two saved states, from which a killed run goes on."""
    precision: Precision
    device: Device
    seed: Natural

    @model_validator(mode="after")
    def _has_a_network_to_freeze(self) -> Self:
        if self.freeze_network and self.start is None:
            raise ValueError("start must name a trained model where freeze_network is true. Got null")
        return self
