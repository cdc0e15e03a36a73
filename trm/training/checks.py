"""Warnings about settings with which a training cannot learn, and the memory of a training step."""

import torch

from trm.config.dataset_meta import DatasetMeta
from trm.config.model import ModelParams
from trm.config.training import TrainParams
from trm.models.variants import VARIANTS
from trm.utils.memory import check_memory

VALUES_PER_POSITION = 8
"""Activations of a block that a training step keeps for the backward pass, relative to its width; at least."""


def learning_warnings(model: ModelParams, train: TrainParams) -> list[str]:
    """A line for each setting with which a training cannot learn."""
    warnings = []
    if not model.mlp_t and model.pos_encodings == "none" and not model.lma.enable:
        warnings.append(
            "model.mlp_t is false and model.pos_encodings is none: attention without positions cannot tell the cells "
            "apart; set one of the two"
        )
    table_learns = model.puzzle_emb_ndim > 0 and train.optimizer.puzzle_emb.lr > 0
    if train.lr == 0 and not train.freeze_weights:
        warnings.append("train.lr is 0: the network stays as it is" + (", only embeddings learn" * table_learns))
    return warnings


def check_training(
    config: ModelParams, meta: DatasetMeta, slots: int, train: TrainParams, device: torch.device
) -> None:
    """Raise `UserError` if the batch of a process certainly exceeds the memory of this machine; only for the CPU.

    slots: sequences of the process.
    """
    if device.type != "cpu":
        return
    variant, sequence = VARIANTS[config.arch], config.puzzle_emb_len + meta.seq_len
    values = (config.lma.length if config.lma.enable else sequence) * config.block_width
    blocks = (variant.passes(config) + 1) * min(variant.blocks(config).values())
    computed = min(slots, train.micro_batch_size or slots)
    states = slots * values * len(variant.states)
    kept = computed * (values * VALUES_PER_POSITION * blocks + meta.seq_len * meta.vocab_size)
    check_memory(4 * (states + kept), f"train.global_batch_size={train.global_batch_size}")
