"""Initialization from a trained model: `train.init_from`."""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from trm.config.dataset_meta import DatasetMeta
from trm.config.training import InitFromParams
from trm.models.act import TRM
from trm.storage import s3
from trm.training.checkpoint import checkpoint_file, load_checkpoint
from trm.utils.errors import DataError, ParamsError, UserError
from trm.utils.paths import file_digest, is_s3_uri


def init_from(model: TRM, settings: InitFromParams) -> None:
    """Copy the EMA weights, the initial states and the puzzle embedding of the model in `settings` to `model`.

    Raises `UserError` or `DataError` if that model is missing, has another digest, architecture or size, or was trained
    on other puzzles.
    """
    with TemporaryDirectory() as scratch:
        folder = Path(settings.model)
        if is_s3_uri(settings.model):
            folder = Path(scratch) / "model"
            s3.download(settings.model.rstrip("/"), folder)
        file = checkpoint_file(folder)
        if file.is_file() and (digest := file_digest(file)) != settings.sha256:
            raise UserError(
                f"train.init_from.sha256 must be {digest}, the digest of {settings.model}. Got {settings.sha256}"
            )
        source, _ = load_checkpoint(file)
    _check_architecture(source, model, settings)
    copy_weights(source, model, settings.reset_puzzle_emb)


@torch.no_grad()
def copy_weights(source: TRM, model: TRM, reset_puzzle_emb: bool) -> None:
    """Copy weights, initial states and puzzle embedding of `source` to `model`, of the same shapes.

    With `reset_puzzle_emb` the puzzle embedding may have another number of rows: each becomes the mean row of `source`.
    """
    trained = source.state_dict()
    for name, tensor in model.state_dict().items():
        value = trained[name]
        if name == "puzzle_table" and reset_puzzle_emb:
            value = value.mean(0, keepdim=True).expand_as(tensor)
        tensor.copy_(value)


def _check_architecture(source: TRM, model: TRM, settings: InitFromParams) -> None:
    if source.config.arch != model.config.arch:
        raise ParamsError(
            f"model.arch must be {source.config.arch}, as in train.init_from.model {settings.model}. "
            f"Got {model.config.arch}"
        )
    _check_puzzles(source.meta, model.meta, settings)
    trained, new = source.state_dict(), model.state_dict()
    for name in sorted(trained.keys() | new.keys()):
        expected, got = (tuple(part[name].shape) if name in part else None for part in (new, trained))
        if name == "puzzle_table" and settings.reset_puzzle_emb:
            expected, got = new[name].shape[1:], trained[name].shape[1:]
        if expected != got:
            raise DataError(
                f"train.init_from.model {settings.model}: {name} should have shape {expected}. Got {got}; "
                "use the settings that `trm inspect` shows of it in section model"
            )


def _check_puzzles(trained_on: DatasetMeta, meta: DatasetMeta, settings: InitFromParams) -> None:
    got, expected = ((part.height * part.width, part.vocab_size) for part in (trained_on, meta))
    if got != expected:
        raise UserError(
            f"train.init_from.model {settings.model}: should have {expected[0]} cells and {expected[1]} tokens, "
            f"like the dataset. Got {got[0]} and {got[1]}; give a model of such a dataset"
        )
    known, wanted = ((part.num_identifiers, part.puzzles_digest) for part in (trained_on, meta))
    same_puzzles = known[0] == wanted[0] and not (known[1] and wanted[1] and known[1] != wanted[1])
    if settings.reset_puzzle_emb or same_puzzles:
        return
    raise UserError(
        f"train.init_from.model {settings.model}: its puzzle embedding should have the dataset's {wanted[0]} "
        f"identifiers. Got {known[0]}, or other puzzles; set train.init_from.reset_puzzle_emb: true to start from its "
        "mean row"
    )
