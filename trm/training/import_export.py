"""`trm checkpoint import` and `export`: a published checkpoint as a model folder like the stage's, and back."""

from pathlib import Path

import torch

from trm.storage.artifacts import staged, write_manifest
from trm.data.parquet import read_meta
from trm.utils.paths import file_digest
from trm.models.conversion import arch_of, export_published, import_published, read_published
from trm.training.checkpoint import FILE, checkpoint_file, load_checkpoint, read_settings, save_checkpoint
from trm.training.ema import averaged_copy


def import_checkpoint(file: Path, dataset: Path | None, out: Path, reset_puzzle_emb: bool = False) -> str:
    """Read the published checkpoint `file` and write the model folder `out`. Raises `DataError`, `ParamsError`.

    The published file holds averaged weights alone: they stand for the raw ones too. `dataset` is a folder of the
    augment stage, for the sizes that all_config.yaml may lack and for a kind of data that they do not tell. With
    `reset_puzzle_emb` its puzzles all start at the mean row. Returns the sha256 of the model folder's checkpoint.
    """
    state_dict, arch = read_published(file)
    with torch.no_grad():
        model = import_published(state_dict, arch, read_meta(dataset) if dataset else None, reset_puzzle_emb)
    digest = file_digest(file)
    with staged(out) as folder:
        save_checkpoint(folder / FILE, model, averaged_copy(model), {"imported": file.name, "sha256": digest})
        write_manifest(folder, {"stage": "train", "key": digest, "facts": {"imported": file.name}})
    return file_digest(out / FILE)


def export_checkpoint(model: Path, out: Path) -> Path:
    """Write the averaged weights of the model at `model` to the folder `out` as the published code does; the file.

    It is a PyTorch state dict, `all_config.yaml` beside it. Raises `DataError` for a broken model, `UserError` for one
    that the published code has not.
    """
    from ruamel.yaml import YAML

    net, _ = load_checkpoint(model)
    source = checkpoint_file(model)
    step = read_settings(model).facts.get("step")
    name = f"step_{step}" if step is not None else "checkpoint"
    with staged(out) as folder:
        torch.save(export_published(net), folder / name)
        YAML(typ="safe", pure=True).dump({"arch": arch_of(net)}, folder / "all_config.yaml")
        write_manifest(folder, {"stage": "export", "facts": {"sha256": file_digest(source)}})
    return out / name
