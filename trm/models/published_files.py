"""Files of published checkpoints: a PyTorch or safetensors file of weights, wrapped or not, and its all_config.yaml."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from trm.config.yaml_files import load_yaml
from trm.utils.errors import DataError
from trm.utils.file_formats import PICKLE, SAFETENSORS, TORCH, ZIP, decode_text, detect_format, read_head
from trm.utils.safetensors_errors import os_errors

WRAPPERS = (
    *("ema", "ema_state_dict", "ema_model", "model_ema", "state_dict_ema", "params_ema", "shadow"),
    *("state_dict", "model_state_dict", "model", "module", "net"),
)
"""Keys under which training programs save the weights, the preferred ones first: published weights are EMA weights."""
_PREFIX = re.compile(r"^((_orig_mod|module|model|net|ema|ema_model|model_ema|_forward_module)\.)+")
"""Prefixes of torch.compile, DistributedDataParallel, Lightning and loss or EMA modules around the model."""


def without_prefixes(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without the prefixes of modules around the model. Raises `DataError` if two get the same name."""
    found: dict[str, str] = {}
    for key in state_dict:
        name = _PREFIX.sub("", key)
        if name in found:
            raise DataError(
                f"checkpoint: contains the weights twice, as {found[name]} and {key}; save only one of them, the EMA "
                "weights if there are any"
            )
        found[name] = key
    return {name: state_dict[key] for name, key in found.items()}


def read_published(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a published checkpoint file and the section `arch` of the `all_config.yaml` in its folder.

    The weights may be in a dict under one of `WRAPPERS`, as Lightning and other training programs save them. Raises
    `DataError` for a missing file or another format.
    """
    config_path = path.parent / "all_config.yaml"
    for file in (path, config_path):
        if not file.is_file():
            raise DataError(f"{file}: no such file; a published checkpoint and its all_config.yaml are in one folder")
    state_dict = _find_state_dict(_load(path))
    if state_dict is None:
        raise DataError(
            f"{path}: not a state dict of tensors, nor one under {', '.join(WRAPPERS)}; give a file that contains only "
            "the weights"
        )
    try:
        settings = load_yaml(decode_text(config_path.read_bytes(), config_path))
    except ValueError as error:
        raise DataError(f"{config_path}: not valid YAML ({error}); download it again") from None
    arch = settings.get("arch") if isinstance(settings, dict) else None
    if not isinstance(arch, dict):
        raise DataError(f"{config_path}: has no section `arch`; give the file that was published with the checkpoint")
    return state_dict, arch


def _load(path: Path) -> object:
    found = detect_format(read_head(path))
    if found and found[0] not in (TORCH, SAFETENSORS, PICKLE, ZIP, "binary data"):
        raise DataError(f"{path}: is {found[0]}, not a PyTorch or safetensors file; {found[1]}")
    if found and found[0] == SAFETENSORS:
        try:
            with os_errors(path):
                return load_file(path)
        except SafetensorError as error:
            raise DataError(f"{path}: damaged safetensors file ({error}); download it again") from None
    try:
        # weights_only: never unpickle code from a downloaded file.
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0][:120]
        remedy = "download it again"
        if "weights_only" in str(error).lower() or "Unsupported global" in str(error):
            remedy = "it contains Python objects, which are never loaded: save only its tensors with torch.save"
        raise DataError(f"{path}: not a PyTorch state dict ({reason}); {remedy}") from None


def _find_state_dict(value: object) -> dict[str, Tensor] | None:
    """The state dict in `value`: itself, or under one of `WRAPPERS`, at any depth."""
    if not isinstance(value, Mapping) or not value:
        return None
    if all(isinstance(tensor, Tensor) for tensor in value.values()):
        return {str(name): tensor for name, tensor in value.items()}
    found = (_find_state_dict(value[key]) for key in WRAPPERS if key in value)
    return next((state_dict for state_dict in found if state_dict is not None), None)
