"""Checkpoints: a safetensors file with raw and EMA weights, and the settings in its header."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from trm.config.base import canonical_json, parse
from trm.config.dataset_meta import DatasetMeta
from trm.config.model import ModelParams
from trm.models.act import TRM, build_model
from trm.storage.artifact_cache import local_copy
from trm.storage.artifacts import MANIFEST, read_manifest
from trm.utils.errors import DataError, ParamsError
from trm.utils.file_formats import SAFETENSORS, TORCH, detect_format, read_head
from trm.utils.hints import run_all
from trm.utils.safetensors_errors import os_errors

FILE = "checkpoint.safetensors"


@dataclass(frozen=True)
class Header:
    """The header of a checkpoint."""

    model: ModelParams
    meta: DatasetMeta
    facts: Mapping[str, Any]
    """Its origin: the step, for example."""


def checkpoint_tensors(model: TRM, average: TRM) -> Mapping[str, Tensor]:
    """The tensors of a checkpoint: raw weights of `model`, EMA weights of `average`, and their shared buffers."""
    tensors = {f"raw.{name}": value for name, value in model.named_parameters()}
    tensors |= {f"ema.{name}": value for name, value in average.named_parameters()}
    return tensors | {name: value for name, value in model.state_dict().items() if f"raw.{name}" not in tensors}


def copy_to_host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies in the memory of the machine, which no training step changes."""
    return {name: value.detach().to("cpu", copy=True) for name, value in tensors.items()}


def save_checkpoint(path: Path, model: TRM, average: TRM, facts: Mapping[str, Any]) -> None:
    """Write the raw weights of `model`, the EMA weights of `average`, and their shared buffers."""
    checkpoint_writer(model, average, facts)(path)


def checkpoint_writer(model: TRM, average: TRM, facts: Mapping[str, Any]) -> Callable[[Path], None]:
    """A function that writes the weights as they are now to a path; the training may go on while it runs."""
    tensors = copy_to_host(checkpoint_tensors(model, average))
    header = {"model": model.config.model_dump(mode="json"), "meta": model.meta.model_dump(mode="json"), "facts": facts}
    return lambda path: write_tensors(path, tensors, header)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write a safetensors file with `header` as metadata. The same contents give the same bytes. Raises `OSError`."""
    plain = {name: value.contiguous() for name, value in tensors.items()}
    # A single metadata key: safetensors writes several in random order.
    with os_errors(path):
        save_file(plain, path, metadata={"trm": canonical_json(header)})


def read_header(path: Path) -> dict[str, Any]:
    """Read the metadata written by `write_tensors`. Raises `DataError` for another file."""
    try:
        with os_errors(path), safe_open(path, framework="pt") as file:
            return json.loads(file.metadata()["trm"])
    except FileNotFoundError:
        remedy = f"train a model first (`{run_all()}`), or give another; `demo` is the included model"
        if (path.parent / "all_config.yaml").is_file():
            remedy = f"{path.parent} holds a published checkpoint: convert it with `trm checkpoint import`"
        elif (path.parent / MANIFEST).is_file():
            stage = read_manifest(path.parent)["stage"]
            raise DataError(f"{path.parent}: is the output of `trm {stage}`, not a model; {remedy}") from None
        raise DataError(f"{path}: no such file; {remedy}") from None
    except (SafetensorError, IsADirectoryError, KeyError, TypeError, ValueError) as error:
        raise _not_a_checkpoint(path, error) from None


def _not_a_checkpoint(path: Path, error: Exception) -> DataError:
    name, remedy = (path.is_file() and detect_format(read_head(path))) or (None, "")
    if name == TORCH or (name == SAFETENSORS and isinstance(error, KeyError | TypeError)):  # no metadata of ours
        return DataError(
            f"{path}: is {name} of another program; convert it with `trm checkpoint import {path}`, and give "
            "the folder that this writes"
        )
    if name not in (None, SAFETENSORS, "binary data"):
        return DataError(f"{path}: is {name}, not a checkpoint; {remedy}")
    return DataError(f"{path}: not a checkpoint of this project, or damaged ({error}); create it again")


def checkpoint_file(path: Path) -> Path:
    """The checkpoint file at `path`, which is the file itself or a model folder."""
    return path / FILE if path.is_dir() else path


def read_settings(path: Path) -> Header:
    """Read the header of the checkpoint at `path`. Raises `DataError`."""
    header = read_header(checkpoint_file(path))
    try:
        model = parse(ModelParams, header["model"], f"{path}: model")
        meta = parse(DatasetMeta, header["meta"], f"{path}: meta")
    except (KeyError, ParamsError) as error:
        raise DataError(f"{path}: its settings do not match this version ({error}); train it again") from None
    return Header(model, meta, header.get("facts", {}))


def load_checkpoint(
    location: str | Path, weights: Literal["ema", "raw"] = "ema", dtype: torch.dtype = torch.float32
) -> tuple[TRM, DatasetMeta]:
    """Load a model, in eval mode on the CPU, computing in `dtype`, and the `DatasetMeta` of its training data.

    `location` is a checkpoint file, a model folder or its `s3://` URI. Raises `DataError` for a file that is missing,
    damaged, does not match its settings or has values that are not finite, and `UserError` if S3 denies access.
    """
    file = checkpoint_file(local_copy(location))
    header = read_settings(file)
    model = build_model(header.model, header.meta, dtype=dtype)
    parameters = {name for name, _ in model.named_parameters()}
    try:
        with os_errors(file), safe_open(file, framework="pt") as tensors:
            for name, tensor in model.state_dict().items():
                value = tensors.get_tensor(f"{weights}.{name}" if name in parameters else name)
                if value.shape != tensor.shape:
                    raise DataError(f"{file}: {name} should have shape {tuple(tensor.shape)}. Got {tuple(value.shape)}")
                if not value.isfinite().all():
                    raise DataError(
                        f"{file}: tensor {name} has values that are not finite (NaN or infinity); give another "
                        "checkpoint, or train it again with a lower train.lr"
                    )
                tensor.copy_(value)
    except SafetensorError as error:
        raise DataError(f"{file}: damaged checkpoint ({error}); create it again") from None
    return model.eval(), header.meta
