"""The weights that a training starts from, where they are not drawn: `train.start`."""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from trm.config.dataset_meta import DatasetMeta
from trm.config.training import StartParams
from trm.models.act import TRM
from trm.storage import s3
from trm.training.checkpoint import checkpoint_file, load_checkpoint
from trm.utils.errors import DataError, ParamsError, UserError
from trm.utils.paths import file_digest


def take_start(model: TRM, start: StartParams) -> None:
    """Give `model` the averaged weights, the start vectors and the puzzle table of the model that `start` names.

    Raises `UserError` or `DataError` where that model is not there, not the one meant, of another member or size, or
    knows other puzzles.
    """
    with TemporaryDirectory() as scratch:
        folder = Path(start.model)
        if s3.is_uri(start.model):
            folder = Path(scratch) / "model"
            s3.bring(start.model.rstrip("/"), folder)
        file = checkpoint_file(folder)
        if file.is_file() and (digest := file_digest(file)) != start.sha256:
            raise UserError(f"train.start.sha256 must be {digest}, as of {start.model}. Got {start.sha256}")
        source, _ = load_checkpoint(file)
    _refuse_another_model(source, model, start)
    theirs = source.state_dict()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            value = theirs[name]
            if name == "puzzle_table" and start.reset_puzzle_table:
                value = value.mean(0, keepdim=True).expand_as(tensor)
            tensor.copy_(value)


def _refuse_another_model(source: TRM, model: TRM, start: StartParams) -> None:
    if source.config.family != model.config.family:
        raise ParamsError(
            f"model.family must be {source.config.family}, as in train.start.model {start.model}. "
            f"Got {model.config.family}"
        )
    _refuse_other_puzzles(source.meta, model.meta, start)
    theirs, ours = source.state_dict(), model.state_dict()
    for name in sorted(theirs.keys() | ours.keys()):
        expected, got = (tuple(part[name].shape) if name in part else None for part in (ours, theirs))
        if name == "puzzle_table" and start.reset_puzzle_table:
            expected, got = ours[name].shape[1:], theirs[name].shape[1:]
        if expected != got:
            raise DataError(
                f"train.start.model {start.model}: {name} should have shape {expected}. Got {got}; "
                "give section model the settings that `trm inspect` shows of it"
            )


def _refuse_other_puzzles(trained_on: DatasetMeta, meta: DatasetMeta, start: StartParams) -> None:
    canvas, wanted = ((part.height * part.width, part.vocab_size) for part in (trained_on, meta))
    if canvas != wanted:
        raise UserError(
            f"train.start.model {start.model}: should be of {wanted[0]} cells and {wanted[1]} tokens, as the data set. "
            f"Got {canvas[0]} and {canvas[1]}; name a model of such data"
        )
    known, asked = ((part.num_identifiers, part.puzzles_digest) for part in (trained_on, meta))
    if start.reset_puzzle_table or (known[0] == asked[0] and not (known[1] and asked[1] and known[1] != asked[1])):
        return
    raise UserError(
        f"train.start.model {start.model}: its puzzle table should be of the data set's {asked[0]} identifiers. "
        f"Got {known[0]}, or of other puzzles; set train.start.reset_puzzle_table: true to start them at its mean row"
    )
