"""Warnings about settings with which a training cannot learn."""

from trm.config.model import ModelParams
from trm.config.training import TrainParams


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
