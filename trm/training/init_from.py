"""The weights that a training starts from, where they are not drawn: `train.init_from`."""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from trm.storage import s3
from trm.config.training import InitFromParams
from trm.utils.errors import DataError, ParamsError, UserError
from trm.utils.paths import file_digest
from trm.config.dataset_meta import DatasetMeta
from trm.models.act import TRM
from trm.training.checkpoint import checkpoint_file, load_checkpoint


def init_from(model: TRM, start: InitFromParams) -> None:
    """Give `model` the averaged weights, the start vectors and the puzzle table of the model that `start` names.

    Raises `UserError` or `DataError` where that model is not there, not the one meant, of another member or size, or
    knows other puzzles.
    """
    with TemporaryDirectory() as scratch:
        folder = Path(start.model)
        if s3.is_uri(start.model):
            folder = Path(scratch) / "model"
            s3.download(start.model.rstrip("/"), folder)
        file = checkpoint_file(folder)
        if file.is_file() and (digest := file_digest(file)) != start.sha256:
            raise UserError(f"train.init_from.sha256 must be {digest}, as of {start.model}. Got {start.sha256}")
        source, _ = load_checkpoint(file)
    _check_architecture(source, model, start)
    theirs = source.state_dict()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            value = theirs[name]
            if name == "puzzle_table" and start.reset_puzzle_emb:
                value = value.mean(0, keepdim=True).expand_as(tensor)
            tensor.copy_(value)


def _check_architecture(source: TRM, model: TRM, start: InitFromParams) -> None:
    if source.config.arch != model.config.arch:
        raise ParamsError(
            f"model.arch must be {source.config.arch}, as in train.init_from.model {start.model}. "
            f"Got {model.config.arch}"
        )
    _check_puzzles(source.meta, model.meta, start)
    theirs, ours = source.state_dict(), model.state_dict()
    for name in sorted(theirs.keys() | ours.keys()):
        expected, got = (tuple(part[name].shape) if name in part else None for part in (ours, theirs))
        if name == "puzzle_table" and start.reset_puzzle_emb:
            expected, got = ours[name].shape[1:], theirs[name].shape[1:]
        if expected != got:
            raise DataError(
                f"train.init_from.model {start.model}: {name} should have shape {expected}. Got {got}; "
                "give section model the settings that `trm inspect` shows of it"
            )


def _check_puzzles(trained_on: DatasetMeta, meta: DatasetMeta, start: InitFromParams) -> None:
    canvas, wanted = ((part.height * part.width, part.vocab_size) for part in (trained_on, meta))
    if canvas != wanted:
        raise UserError(
            f"train.init_from.model {start.model}: should be of {wanted[0]} cells and {wanted[1]} tokens, as the data set. "
            f"Got {canvas[0]} and {canvas[1]}; name a model of such data"
        )
    known, asked = ((part.num_identifiers, part.puzzles_digest) for part in (trained_on, meta))
    if start.reset_puzzle_emb or (known[0] == asked[0] and not (known[1] and asked[1] and known[1] != asked[1])):
        return
    raise UserError(
        f"train.init_from.model {start.model}: its puzzle table should be of the data set's {asked[0]} identifiers. "
        f"Got {known[0]}, or of other puzzles; set train.init_from.reset_puzzle_emb: true to start them at its mean row"
    )
