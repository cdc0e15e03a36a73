"""`trm checkpoint import`: a published checkpoint as a model folder like the training stage's."""

from pathlib import Path

import torch

from trm.artifacts import staged, write_manifest
from trm.data.store import read_meta
from trm.files import file_digest
from trm.model.published import import_published, read_published
from trm.training.checkpoint import FILE, save_checkpoint
from trm.training.ema import averaged_copy


def import_checkpoint(file: Path, dataset: Path | None, out: Path) -> None:
    """Read the published checkpoint `file` and write the model folder `out`. Raises `DataError`, `ParamsError`.

    The published file holds averaged weights alone: they stand for the raw ones too. `dataset` is a folder of the
    augment stage, for the sizes that all_config.yaml may lack and for a kind of data that they do not tell.
    """
    state_dict, arch = read_published(file)
    with torch.no_grad():
        model = import_published(state_dict, arch, read_meta(dataset) if dataset else None)
    digest = file_digest(file)
    with staged(out) as folder:
        save_checkpoint(folder / FILE, model, averaged_copy(model), {"imported": file.name, "sha256": digest})
        write_manifest(folder, {"stage": "train", "key": digest, "facts": {"imported": file.name}})
