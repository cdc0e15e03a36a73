"""Checkpoints of the published code: read into our model, written from it (spec section 7)."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trm.config.model import ModelParams
from trm.utils.errors import DataError, ParamsError, UserError
from trm.config.dataset_meta import DatasetMeta
from trm.models.act import TRM, build_model
from trm.config.base import parse

UNKNOWN_KIND = "tokens"
"""The kind of data of a model whose sizes do not tell it; no data set has it."""
_MAZE = ("pad", *"# SGo")
_ARC = ("pad", "end", *"0123456789")
_FAMILIES = {
    "trm": "trm",
    "trm_singlez": "trm_singlez",
    "trm_hier6": "trm_hier6",
    "hrm": "hrm",
    "transformers_baseline": "transformers_baseline",
}
"""The word in the published `name` (between its last dot before `@` and `@`), and our arch."""
_CLASSES = {"hrm": "HierarchicalReasoningModel_ACTV1", "transformers_baseline": "Model_ACTV2"}
_TRM_CLASS = "TinyRecursiveReasoningModel_ACTV1"

_PREFIX = re.compile(r"^((_orig_mod|model|module)\.)+")

# Our tensor names and theirs; a block's name is put in front of its tensors'.
_NAMES = {
    "token_embedding": "embed_tokens.embedding_weight",
    "position_embedding": "embed_pos.embedding_weight",
    "puzzle_table": "puzzle_emb.weights",
    "output_head.weight": "lm_head.weight",
    "q_head.weight": "q_head.weight",
    "q_head.bias": "q_head.bias",
    "y_init": "H_init",
    "z_init": "L_init",
}
_BLOCK_NAMES = {"mlp.gate_up.weight": "mlp.gate_up_proj.weight", "mlp.down.weight": "mlp.down_proj.weight"}
_ATTENTION_NAMES = {"mix.qkv.weight": "self_attn.qkv_proj.weight", "mix.out.weight": "self_attn.o_proj.weight"}
_MLP_T_NAMES = {"mix.gate_up.weight": "mlp_t.gate_up_proj.weight", "mix.down.weight": "mlp_t.down_proj.weight"}


def import_published(
    state_dict: Mapping[str, Tensor],
    arch: Mapping[str, Any],
    meta: DatasetMeta | None = None,
    reset_puzzle_emb: bool = False,
) -> TRM:
    """A model in eval mode with the weights of a published state dict, of whichever member of the arch.

    `arch` is the flat dict of architecture settings under the published names. seq_len, vocab_size and
    num_puzzle_identifiers come from `meta` where `arch` lacks them. With `reset_puzzle_emb` every row of the puzzle
    table is the mean of the published rows, and there may be another number of them. Raises `ParamsError` for settings
    that make no model here, `DataError` for a missing, unknown or misshapen tensor.
    """
    config, meta = settings_from_arch(arch, meta, reset_puzzle_emb)
    theirs = {_PREFIX.sub("", key): value for key, value in state_dict.items()}
    model = build_model(config, meta, dtype=_dtype(arch))
    names, tensors = _published_names(model), _tensors(model)
    advice = "is the architecture in all_config.yaml the right one?"
    unknown = sorted(set(theirs) - set(names.values()))
    missing = [names[name] for name in tensors if names[name] not in theirs]
    member = f"a checkpoint of {config.arch} (arch.name)"
    if missing:
        raise DataError(f"checkpoint: {missing[0]} is missing, which {member} has; {advice}")
    if unknown:
        raise DataError(f"checkpoint: unknown tensor {unknown[0]}, which {member} has not; {advice}")
    with torch.no_grad():
        for name, tensor in tensors.items():
            value = theirs[names[name]]
            if name == "puzzle_table" and reset_puzzle_emb and value.shape[1:] == tensor.shape[1:]:
                value = value.float().mean(0, keepdim=True).expand_as(tensor)
            if value.shape != tensor.shape:
                remedy = "is the architecture in all_config.yaml, or the data set, the right one?"
                if name == "puzzle_table" and value.shape[1:] == tensor.shape[1:]:
                    remedy = "name its own data set, or start all puzzles at the mean row with --reset-puzzle-emb"
                raise DataError(
                    f"checkpoint: {names[name]} should have shape {tuple(tensor.shape)}. Got {tuple(value.shape)}; "
                    f"{remedy}"
                )
            tensor.copy_(value)
    return model.eval()


def export_published(model: TRM) -> dict[str, Tensor]:
    """The model's tensors under the published names, each starting with `inner.`; float32 copies on the CPU.

    Raises `UserError` for a model that the published code has not: with latent meta attention, or hrm and direct with
    another number of puzzle tokens than their embedding needs.
    """
    config = model.config
    if config.lma.enable:
        raise UserError("model.lma.enable must be false to export: the published code has no latent meta attention")
    tokens = math.ceil(config.puzzle_emb_ndim / config.hidden_size)
    if config.arch in ("hrm", "transformers_baseline") and config.puzzle_emb_len != tokens:
        raise UserError(
            f"model.puzzle_emb_len must be {tokens} to export {config.arch}, as the published code has it. "
            f"Got {config.puzzle_emb_len}"
        )
    names, tensors = _published_names(model), _tensors(model)
    return {names[name]: tensor.detach().to("cpu", torch.float32, copy=True) for name, tensor in tensors.items()}


def arch_of(model: TRM) -> dict[str, Any]:
    """The settings of `model` under the published names: what `import_published` needs beside the state dict."""
    config, meta = model.config, model.meta
    word = next(word for word, arch in _FAMILIES.items() if arch == config.arch)
    ours = config.model_dump(mode="json", include=set(_SAME_NAMES))
    return {
        "name": f"recursive_reasoning.{word}@{_CLASSES.get(word, _TRM_CLASS)}",
        **ours,
        "puzzle_emb_ndim": config.puzzle_emb_ndim,
        "no_ACT_continue": not config.learns_to_continue,
        "forward_dtype": str(model.compute_dtype).removeprefix("torch."),
        "seq_len": meta.seq_len,
        "vocab_size": meta.vocab_size,
        "num_puzzle_identifiers": meta.num_identifiers,
    }


def read_published(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A published checkpoint file and the architecture settings of the `all_config.yaml` beside it."""
    from ruamel.yaml import YAML, YAMLError

    config_path = path.parent / "all_config.yaml"
    for file in (path, config_path):
        if not file.is_file():
            raise DataError(f"{file}: no such file; a published checkpoint lies beside its all_config.yaml")
    try:
        # weights_only: a file from elsewhere may hold tensors and nothing that runs.
        state_dict = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0][:120]
        raise DataError(f"{path}: not a PyTorch state dict ({reason}); download it again") from None
    if not isinstance(state_dict, dict) or not all(isinstance(value, Tensor) for value in state_dict.values()):
        raise DataError(f"{path}: not a state dict of tensors; give the file that holds the weights alone")
    try:
        settings = YAML(typ="safe", pure=True).load(config_path.read_text(encoding="utf-8"))
    except (YAMLError, UnicodeDecodeError):
        raise DataError(f"{config_path}: not valid YAML; download it again") from None
    arch = settings.get("arch") if isinstance(settings, dict) else None
    if not isinstance(arch, dict):
        raise DataError(f"{config_path}: has no section `arch`; give the file that was published with the checkpoint")
    return state_dict, arch


_SAME_NAMES = (
    *("hidden_size", "num_heads", "L_layers", "H_layers", "expansion", "H_cycles", "L_cycles", "mlp_t"),
    *("pos_encodings", "rope_theta", "rms_norm_eps", "puzzle_emb_len", "halt_max_steps", "halt_exploration_prob"),
)
_IF_MISSING = {
    "mlp_t": False,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-5,
    "puzzle_emb_len": 0,
    "halt_max_steps": 16,
    "halt_exploration_prob": 0.1,
}
_NO_LMA = {"enable": False, "mode": "clean", "length": 1, "dim": None, "heads": 1}
_IGNORED = {
    **dict.fromkeys(("trm", "trm_singlez", "trm_hier6"), ("H_layers",)),
    "hrm": (),
    "transformers_baseline": ("L_layers", "H_cycles", "L_cycles"),
}
"""Settings that the member's published code leaves aside, as ours does."""


def settings_from_arch(
    arch: Mapping[str, Any], meta: DatasetMeta | None, reset_puzzle_emb: bool = False
) -> tuple[ModelParams, DatasetMeta]:
    """Our settings for the published ones; where `meta` is given, its sizes must agree with `arch`.

    With `reset_puzzle_emb` the number of identifiers may differ, and that of `meta` counts.
    """
    name = str(arch.get("name", "trm@"))
    word = name.partition("@")[0].rpartition(".")[2]
    if word not in _FAMILIES:
        raise ParamsError(f"arch.name: {word!r} cannot be imported; only {', '.join(_FAMILIES)} can. Got {name!r}")
    arch = _FAMILIES[word]
    values: dict[str, Any] = {"arch": arch, "lma": _NO_LMA}
    for key in _SAME_NAMES:
        if key in _IGNORED[arch]:
            values[key] = 1
        elif key not in arch and key not in _IF_MISSING:
            raise ParamsError(f"arch.{key} is missing; it is needed to build the model")
        else:
            values[key] = arch.get(key, _IF_MISSING.get(key))
    dim, D = arch.get("puzzle_emb_ndim", 0), values["hidden_size"]
    tokens = 0 if arch in ("hrm", "transformers_baseline") else values["puzzle_emb_len"]
    if isinstance(dim, int) and isinstance(D, int) and D > 0:  # else `parse` says what is wrong with them
        values["puzzle_emb_len"] = (tokens or math.ceil(dim / D)) if dim else 0
    values["puzzle_emb_ndim"] = dim
    no_continue = arch.get("no_ACT_continue", True)
    values["q_continue_loss"] = arch == "hrm" or (arch != "transformers_baseline" and not no_continue)
    return parse(ModelParams, values, "arch"), _meta_from_arch(arch, meta, reset_puzzle_emb)


def _meta_from_arch(arch: Mapping[str, Any], meta: DatasetMeta | None, reset_puzzle_emb: bool) -> DatasetMeta:
    sizes = {"seq_len": "seq_len", "vocab_size": "vocab_size", "num_puzzle_identifiers": "num_identifiers"}
    for key, ours in sizes.items():
        if meta is None and key not in arch:
            raise ParamsError(f"arch.{key} is missing; name the data set that the model was trained on (--dataset)")
        may_differ = reset_puzzle_emb and ours == "num_identifiers"
        if meta is not None and not may_differ and arch.get(key, getattr(meta, ours)) != getattr(meta, ours):
            remedy = (
                "; or start all puzzles at the mean row with --reset-puzzle-emb" if ours == "num_identifiers" else ""
            )
            raise ParamsError(f"arch.{key} must be {getattr(meta, ours)}, as in the data set. Got {arch[key]}{remedy}")
    if meta is not None:
        return meta
    L, V, identifiers = arch["seq_len"], arch["vocab_size"], arch["num_puzzle_identifiers"]
    kind, height, width, vocabulary = UNKNOWN_KIND, 1, L, tuple(str(token) for token in range(V))
    side = math.isqrt(L)
    if side * side == L:
        if side == V - 2 and side in (4, 6, 9):  # before the maze: nobody published one of 4 x 4
            kind, vocabulary = "sudoku", ("pad", ".", *(str(digit) for digit in range(1, side + 1)))
        elif len(_MAZE) == V:
            kind, vocabulary = "maze", _MAZE
        elif (len(_ARC), 30) == (V, side):
            kind, vocabulary = "arc", _ARC
        if kind != UNKNOWN_KIND:
            height = width = side
    return DatasetMeta(kind=kind, height=height, width=width, vocabulary=vocabulary, num_identifiers=identifiers)


def _dtype(arch: Mapping[str, Any]) -> torch.dtype:
    name = arch.get("forward_dtype", "bfloat16")
    if name not in ("float32", "bfloat16"):
        raise ParamsError(f"arch.forward_dtype must be float32 or bfloat16. Got {name!r}")
    return torch.float32 if name == "float32" else torch.bfloat16


def _tensors(model: TRM) -> dict[str, Tensor]:
    """Every tensor that is saved, but for a puzzle table that has no columns."""
    tensors = model.state_dict()
    return tensors if model.config.puzzle_emb_ndim else {k: v for k, v in tensors.items() if k != "puzzle_table"}


def _published_names(model: TRM) -> dict[str, str]:
    """Our tensor name -> the published key, for every tensor that may be in `model`."""
    names = dict(_NAMES)
    if not {"y", "z"}.issuperset(model.variant.states):
        names |= {f"{state}_init": f"L{i}_init" for i, state in enumerate(model.variant.latents, start=1)}
    block_names = _BLOCK_NAMES | (_MLP_T_NAMES if model.config.mlp_t else _ATTENTION_NAMES)
    for network, blocks in model.variant.blocks(model.config).items():
        for number in range(blocks):
            ours, theirs = f"networks.{network}.{number}", f"{network}_level.layers.{number}"
            names |= {f"{ours}.{name}": f"{theirs}.{key}" for name, key in block_names.items()}
    return {name: f"inner.{names[name]}" for name in _tensors(model)}
