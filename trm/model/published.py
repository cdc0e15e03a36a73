"""Checkpoints of the published code: read into our model, written from it (spec section 7)."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trm.config import ModelParams, parse
from trm.errors import DataError, ParamsError
from trm.meta import DatasetMeta
from trm.model.supervision import TRM, build_model

UNKNOWN_KIND = "tokens"
"""The kind of data of a model whose sizes do not tell it; no data set has it."""
_MAZE = ("pad", *"# SGo")
_ARC = ("pad", "end", *"0123456789")
MEMBERS = {"trm": "trm"}
"""The word in the published `name` (between its last dot before `@` and `@`), and our family."""

_PREFIX = re.compile(r"^((_orig_mod|model|module)\.)+")

# Our tensor names and theirs; `N` stands for a block's number.
_NAMES = {
    "token_embedding": "embed_tokens.embedding_weight",
    "position_embedding": "embed_pos.embedding_weight",
    "puzzle_table": "puzzle_emb.weights",
    "output_head.weight": "lm_head.weight",
    "q_head.weight": "q_head.weight",
    "q_head.bias": "q_head.bias",
    "y_init": "H_init",
    "z_init": "L_init",
    "blocks.N.mlp.gate_up.weight": "L_level.layers.N.mlp.gate_up_proj.weight",
    "blocks.N.mlp.down.weight": "L_level.layers.N.mlp.down_proj.weight",
}
_ATTENTION_NAMES = {
    "blocks.N.mix.qkv.weight": "L_level.layers.N.self_attn.qkv_proj.weight",
    "blocks.N.mix.out.weight": "L_level.layers.N.self_attn.o_proj.weight",
}
_MLP_T_NAMES = {
    "blocks.N.mix.gate_up.weight": "L_level.layers.N.mlp_t.gate_up_proj.weight",
    "blocks.N.mix.down.weight": "L_level.layers.N.mlp_t.down_proj.weight",
}


def import_published(state_dict: Mapping[str, Tensor], arch: Mapping[str, Any], meta: DatasetMeta | None = None) -> TRM:
    """A model in eval mode with the weights of a published state dict.

    `arch` is the flat dict of architecture settings under the published names. seq_len, vocab_size and
    num_puzzle_identifiers come from `meta` where `arch` lacks them. Raises `ParamsError` for settings that make no
    model here, `DataError` for a missing, unknown or misshapen tensor.
    """
    config, meta = settings_from_arch(arch, meta)
    theirs = {_PREFIX.sub("", key): value for key, value in state_dict.items()}
    model = build_model(config, meta, dtype=_dtype(arch))
    ours = model.state_dict()
    names = _published_names(model)
    if not config.puzzle_emb_dim:
        del ours["puzzle_table"]
    unknown = sorted(set(theirs) - set(names.values()))
    if unknown:
        raise DataError(
            f"checkpoint: unknown tensor {unknown[0]}; is the architecture in all_config.yaml the right one?"
        )
    for name, tensor in ours.items():
        key = names[name]
        if key not in theirs:
            raise DataError(f"checkpoint: {key} is missing; is the architecture in all_config.yaml the right one?")
        if theirs[key].shape != tensor.shape:
            raise DataError(
                f"checkpoint: {key} should have shape {tuple(tensor.shape)}. Got {tuple(theirs[key].shape)}; "
                "is the architecture in all_config.yaml, or the data set, the right one?"
            )
        tensor.copy_(theirs[key])
    return model.eval()


def export_published(model: TRM) -> dict[str, Tensor]:
    """The model's tensors under the published names, each starting with `inner.`; float32 copies on the CPU."""
    tensors = model.state_dict()
    if not model.config.puzzle_emb_dim:
        del tensors["puzzle_table"]
    names = _published_names(model)
    return {names[name]: tensor.detach().to("cpu", torch.float32, copy=True) for name, tensor in tensors.items()}


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


def settings_from_arch(arch: Mapping[str, Any], meta: DatasetMeta | None) -> tuple[ModelParams, DatasetMeta]:
    """Our settings for the published ones; where `meta` is given, its sizes must agree with `arch`."""
    name = str(arch.get("name", "trm@"))
    word = name.partition("@")[0].rpartition(".")[2]
    if word not in MEMBERS:
        raise ParamsError(f"arch.name: {word!r} cannot be imported; only {', '.join(MEMBERS)} can. Got {name!r}")

    def want(key: str) -> Any:  # noqa: ANN401
        if key not in arch:
            raise ParamsError(f"arch.{key} is missing; it is needed to build the model")
        return arch[key]

    D, dim = want("hidden_size"), arch.get("puzzle_emb_ndim", 0)
    values = {
        "hidden_size": D,
        "num_heads": want("num_heads"),
        "L_layers": want("L_layers"),
        "expansion": want("expansion"),
        "H_cycles": want("H_cycles"),
        "L_cycles": want("L_cycles"),
        "mlp_t": arch.get("mlp_t", False),
        "pos_encodings": want("pos_encodings"),
        "rope_theta": arch.get("rope_theta", 10000.0),
        "rms_norm_eps": arch.get("rms_norm_eps", 1e-5),
        "puzzle_emb_dim": dim,
        "puzzle_emb_len": (arch.get("puzzle_emb_len", 0) or math.ceil(dim / D)) if dim else 0,
        "halt_max_steps": arch.get("halt_max_steps", 16),
        "halt_exploration_prob": arch.get("halt_exploration_prob", 0.1),
        "continue_loss": not arch.get("no_ACT_continue", True),
    }
    return parse(ModelParams, values, "arch"), _meta_from_arch(arch, meta)


def _meta_from_arch(arch: Mapping[str, Any], meta: DatasetMeta | None) -> DatasetMeta:
    sizes = {"seq_len": "seq_len", "vocab_size": "vocab_size", "num_puzzle_identifiers": "num_identifiers"}
    for key, ours in sizes.items():
        if meta is None and key not in arch:
            raise ParamsError(f"arch.{key} is missing; name the data set that the model was trained on (--dataset)")
        if meta is not None and arch.get(key, getattr(meta, ours)) != getattr(meta, ours):
            raise ParamsError(f"arch.{key} must be {getattr(meta, ours)}, as in the data set. Got {arch[key]}")
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


def _published_names(model: TRM) -> dict[str, str]:
    """Our tensor name -> the published key, for every tensor of `model`."""
    table = _NAMES | (_MLP_T_NAMES if model.config.mlp_t else _ATTENTION_NAMES)
    if model.position_embedding is None:
        table = {ours: theirs for ours, theirs in table.items() if ours != "position_embedding"}
    if not model.config.puzzle_emb_dim:
        table = {ours: theirs for ours, theirs in table.items() if ours != "puzzle_table"}
    names = {}
    for ours, theirs in table.items():
        for block in range(model.config.L_layers) if ".N." in ours else [0]:
            names[ours.replace(".N.", f".{block}.")] = "inner." + theirs.replace(".N.", f".{block}.")
    return names
