"""A checkpoint: one safetensors file with raw and averaged weights, its settings travelling inside."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from trm.config.model import ModelParams
from trm.config.base import canonical_json
from trm.utils.errors import DataError, ParamsError
from trm.config.dataset_meta import DatasetMeta
from trm.models.act import TRM, build_model
from trm.config.base import parse

FILE = "checkpoint.safetensors"


@dataclass(frozen=True)
class Header:
    """The settings inside a checkpoint."""

    model: ModelParams
    meta: DatasetMeta
    facts: Mapping[str, Any]
    """Where it comes from: the step, for example."""


def save_checkpoint(path: Path, model: TRM, average: TRM, facts: Mapping[str, Any]) -> None:
    """Write the raw weights of `model`, the averaged ones of `average`, and their common buffers once each."""
    tensors = {f"raw.{name}": value for name, value in model.named_parameters()}
    tensors |= {f"ema.{name}": value for name, value in average.named_parameters()}
    tensors |= {name: value for name, value in model.state_dict().items() if f"raw.{name}" not in tensors}
    header = {"model": model.config.model_dump(mode="json"), "meta": model.meta.model_dump(mode="json"), "facts": facts}
    write_tensors(path, tensors, header)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """A safetensors file with `header` as its metadata; the same contents give the same bytes."""
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    # One metadata key: safetensors writes several in an order that changes from run to run.
    save_file(plain, path, metadata={"trm": canonical_json(header)})


def read_header(path: Path) -> dict[str, Any]:
    """The metadata of a file that `write_tensors` wrote. Raises `DataError` where it is none."""
    try:
        with safe_open(path, framework="pt") as file:
            return json.loads(file.metadata()["trm"])
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; train a model first (`dvc repro`) or name another") from None
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: not a checkpoint of this project, or a broken one ({error}); make it again") from None


def checkpoint_file(path: Path) -> Path:
    """The checkpoint that `path` names: a file, or a model folder that holds one."""
    return path / FILE if path.is_dir() else path


def read_settings(path: Path) -> Header:
    """The settings inside the checkpoint at `path`. Raises `DataError`."""
    header = read_header(checkpoint_file(path))
    try:
        model = parse(ModelParams, header["model"], f"{path}: model")
        meta = parse(DatasetMeta, header["meta"], f"{path}: meta")
    except (KeyError, ParamsError) as error:
        raise DataError(f"{path}: its settings are not of this version ({error}); train it again") from None
    return Header(model, meta, header.get("facts", {}))


def load_checkpoint(
    path: str | Path, weights: Literal["ema", "raw"] = "ema", dtype: torch.dtype = torch.float32
) -> tuple[TRM, DatasetMeta]:
    """The model at `path` (a file or a model folder) in eval mode on the CPU, computing in `dtype`; and its meta.

    Raises `DataError` for a missing or broken file or one whose tensors do not fit its settings.
    """
    file = checkpoint_file(Path(path))
    header = read_settings(file)
    model = build_model(header.model, header.meta, dtype=dtype)
    parameters = {name for name, _ in model.named_parameters()}
    try:
        with safe_open(file, framework="pt") as tensors:
            for name, tensor in model.state_dict().items():
                value = tensors.get_tensor(f"{weights}.{name}" if name in parameters else name)
                if value.shape != tensor.shape:
                    raise DataError(f"{file}: {name} should have shape {tuple(tensor.shape)}. Got {tuple(value.shape)}")
                tensor.copy_(value)
    except (SafetensorError, OSError) as error:
        raise DataError(f"{file}: a broken checkpoint ({error}); make it again") from None
    return model.eval(), header.meta
