"""How an unseen ARC task is answered: training on its demonstrations, then a vote over its augmentations."""

from trm.config.base import Device, Natural, Positive, Precision, Rate, Section, Steps


class ArcTaskConfig(Section):
    """Training and voting for one unseen ARC task. The other settings are those of the recipe `arc-agi-1`."""

    train_steps: Natural
    """Optimizer steps on the demonstrations of each task. 0: the mean row of the puzzle embedding answers."""
    num_aug: Natural
    """Augmentations of each task, in addition to the task itself. Each has a row of the puzzle embedding and votes."""
    batch_size: Positive
    """Sequences of an optimizer step, and sequences computed at a time when the augmentations vote."""
    lr: Rate
    """Learning rate of the puzzle embedding."""
    train_network: bool
    """Train the network too; without it only the puzzle embedding changes."""
    network_lr: Rate
    """Learning rate of the network, if it is trained."""
    max_steps: Steps
    """Number of supervision steps of each sequence in the vote."""


DEFAULT_ARC_TASK = ArcTaskConfig(
    train_steps=200,
    num_aug=50,
    batch_size=32,
    lr=0.01,
    train_network=False,
    network_lr=1e-4,
    max_steps=16,
)
"""The defaults of `trm solve-arc` and `trm.solve_arc`."""


class ComputeConfig(Section):
    """Where and how a model is computed."""

    device: Device
    """Device; auto: CUDA, then MPS, then CPU."""
    precision: Precision
    """Compute dtype; auto: bfloat16 where the hardware multiplies it fast, else float32."""
