"""`trm checkpoint import` and `export`: conversion between published checkpoints and model folders."""

import io
from pathlib import Path

import torch

from trm.data.parquet import read_meta
from trm.models.conversion import arch_of, export_published, import_published
from trm.models.published_files import read_published
from trm.storage.artifacts import staged, write_manifest
from trm.training.checkpoint import FILE, checkpoint_file, load_checkpoint, read_settings, save_checkpoint
from trm.training.ema import ema_copy
from trm.utils.paths import file_digest


def import_checkpoint(file: Path, dataset: Path | None, out: Path, reset_puzzle_emb: bool = False) -> str:
    """Convert the published checkpoint `file` to the model folder `out`; returns the SHA-256 of the new checkpoint.

    Published files contain only EMA weights, which are used as raw weights too. dataset: output of stage augment, for
    sizes that all_config.yaml lacks. reset_puzzle_emb: set all rows of the puzzle embedding to the mean row. Raises
    `DataError` and `ParamsError` as `import_published`.
    """
    state_dict, arch = read_published(file)
    with torch.no_grad():
        model = import_published(state_dict, arch, read_meta(dataset) if dataset else None, reset_puzzle_emb)
    digest = file_digest(file)
    with staged(out) as folder:
        save_checkpoint(folder / FILE, model, ema_copy(model), {"imported": file.name, "sha256": digest})
        write_manifest(folder, {"stage": "train", "key": digest, "facts": {"imported": file.name}})
    return file_digest(out / FILE)


def export_checkpoint(model: Path, out: Path) -> Path:
    """Write the EMA weights of `model` to the folder `out` in the published format; returns the checkpoint file.

    The format is a PyTorch state dict with `all_config.yaml` in the same folder. Raises `DataError` for a damaged model
    and `UserError` for one that the published code does not support.
    """
    from ruamel.yaml import YAML

    net, _ = load_checkpoint(model)
    source = checkpoint_file(model)
    step = read_settings(model).facts.get("step")
    name = f"step_{step}" if step is not None else "checkpoint"
    with staged(out) as folder:
        contents = io.BytesIO()  # given a file, torch reports a full disk as a fault of its own
        torch.save(export_published(net), contents)
        (folder / name).write_bytes(contents.getbuffer())
        YAML(typ="safe", pure=True).dump({"arch": arch_of(net)}, folder / "all_config.yaml")
        write_manifest(folder, {"stage": "checkpoint export", "facts": {"sha256": file_digest(source)}})
    return out / name
