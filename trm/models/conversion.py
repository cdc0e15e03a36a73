"""Conversion of published checkpoints: their state dicts and architecture settings, in and out."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trm.config.base import parse
from trm.config.dataset_meta import DatasetMeta
from trm.config.model import ModelParams
from trm.models.act import TRM, build_model
from trm.models.published_files import without_prefixes
from trm.models.variants import VARIANTS
from trm.utils.errors import DataError, ParamsError, UserError

UNKNOWN_DATASET = "tokens"
"""Name in `DatasetMeta` for a model whose dataset cannot be inferred from its sizes."""
_MAZE = ("pad", *"# SGo")
_ARC = ("pad", "end", *"0123456789")
_CLASSES = {"hrm": "HierarchicalReasoningModel_ACTV1", "transformers_baseline": "Model_ACTV2"}
_TRM_CLASS = "TinyRecursiveReasoningModel_ACTV1"

# Our tensor name -> the published one. Names of block tensors are prefixed with the block.
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
    """Build a model in eval mode from a published state dict of any variant.

    `arch` is the flat dict of architecture settings under the published names. seq_len, vocab_size and
    num_puzzle_identifiers are taken from `meta` if `arch` lacks them. With `reset_puzzle_emb`, every row of the puzzle
    table is the mean of the published rows, whose number may differ. Raises `ParamsError` for unsupported settings and
    `DataError` for a missing or unknown tensor or one of another shape.
    """
    config, meta = settings_from_arch(arch, meta, reset_puzzle_emb)
    theirs = without_prefixes(state_dict)
    model = build_model(config, meta, dtype=_dtype(arch))
    names, tensors = published_keys(model), _tensors(model)
    advice = "is the architecture in all_config.yaml the right one?"
    unknown = sorted(set(theirs) - set(names.values()))
    missing = [names[name] for name in tensors if names[name] not in theirs]
    kind = f"a checkpoint of {config.arch} (arch.name)"
    if missing:
        raise DataError(f"checkpoint: {missing[0]} is missing, which {kind} contains; {advice}")
    if unknown:
        raise DataError(f"checkpoint: unknown tensor {unknown[0]}, which {kind} does not contain; {advice}")
    with torch.no_grad():
        for name, tensor in tensors.items():
            value = theirs[names[name]]
            if name == "puzzle_table" and reset_puzzle_emb and value.shape[1:] == tensor.shape[1:]:
                value = value.float().mean(0, keepdim=True).expand_as(tensor)
            if value.shape != tensor.shape:
                remedy = "is the architecture in all_config.yaml, or the dataset, the right one?"
                if name == "puzzle_table" and value.shape[1:] == tensor.shape[1:]:
                    remedy = "give its own dataset, or set all rows to the mean row with --reset-puzzle-emb"
                raise DataError(
                    f"checkpoint: {names[name]} should have shape {tuple(tensor.shape)}. Got {tuple(value.shape)}; "
                    f"{remedy}"
                )
            tensor.copy_(value)
            if not tensor.isfinite().all():
                problem = "has values that are not finite (NaN or infinity)"
                raise DataError(f"checkpoint: tensor {names[name]} {problem}; download it again, or give another one")
    return model.eval()


def export_published(model: TRM) -> dict[str, Tensor]:
    """The model's tensors under the published names (`inner.…`), as float32 copies on the CPU.

    Raises `UserError` for models that the published code does not support: with one of the settings in `NEEDED`, or an
    hrm or transformers_baseline with another number of puzzle tokens than its embedding needs.
    """
    config = model.config
    for key, needed in NEEDED.items():
        value = config.lma.enable if key == "lma.enable" else getattr(config, key)
        if value not in needed:
            choices = " or ".join(str(each).lower() for each in needed)
            raise UserError(
                f"model.{key} must be {choices} to export: the published code has no other. Got {str(value).lower()}"
            )
    tokens = math.ceil(config.puzzle_emb_ndim / config.hidden_size)
    if config.arch in ("hrm", "transformers_baseline") and config.puzzle_emb_len != tokens:
        raise UserError(
            f"model.puzzle_emb_len must be {tokens} to export {config.arch}, as in the published code. "
            f"Got {config.puzzle_emb_len}"
        )
    names, tensors = published_keys(model), _tensors(model)
    return {names[name]: tensor.detach().to("cpu", torch.float32, copy=True) for name, tensor in tensors.items()}


def arch_of(model: TRM) -> dict[str, Any]:
    """The architecture settings of `model` under the published names, as `import_published` reads them."""
    config, meta = model.config, model.meta
    ours = config.model_dump(mode="json", include=set(_SAME_NAMES))
    return {
        "name": f"recursive_reasoning.{config.arch}@{_CLASSES.get(config.arch, _TRM_CLASS)}",
        **ours,
        "puzzle_emb_ndim": config.puzzle_emb_ndim,
        "no_ACT_continue": not config.uses_q_continue,
        "forward_dtype": str(model.compute_dtype).removeprefix("torch."),
        "seq_len": meta.seq_len,
        "vocab_size": meta.vocab_size,
        "num_puzzle_identifiers": meta.num_identifiers,
    }


NEEDED: dict[str, tuple[object, ...]] = {
    "lma.enable": (False,),
    "swiglu": ("swiglu",),
    "pos_encodings": ("rope", "learned", "none"),
    "register_tokens": (0,),
    "random_start": ("none",),
    "update_damping": (0.0,),
}
"""Keys of `model` -> the values with which a model computes what the published code does."""
MAX_SIZE = 10_000_000
"""Of the sizes that only the published configuration contains. ARC-AGI has about a million identifiers."""
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
"""Architecture -> settings that it does not use."""


def settings_from_arch(
    arch: Mapping[str, Any], meta: DatasetMeta | None, reset_puzzle_emb: bool = False
) -> tuple[ModelParams, DatasetMeta]:
    """Convert published architecture settings; the sizes of `meta`, if given, must agree with `arch`.

    With `reset_puzzle_emb` the number of identifiers may differ; that of `meta` is used. Raises `ParamsError`.
    """
    name = str(arch.get("name", "trm@"))
    ours = name.partition("@")[0].rpartition(".")[2]
    if ours not in VARIANTS:
        raise ParamsError(f"arch.name: {ours!r} cannot be imported; only {', '.join(VARIANTS)} can. Got {name!r}")
    values: dict[str, Any] = {"arch": ours, "lma": _NO_LMA}
    for key in _SAME_NAMES:
        if key in _IGNORED[ours]:
            values[key] = 1
        elif key not in arch and key not in _IF_MISSING:
            raise ParamsError(f"arch.{key} is missing; it is needed to build the model")
        else:
            values[key] = arch.get(key, _IF_MISSING.get(key))
    dim, D = arch.get("puzzle_emb_ndim", 0), values["hidden_size"]
    tokens = 0 if ours in ("hrm", "transformers_baseline") else values["puzzle_emb_len"]
    if (
        isinstance(dim, int) and isinstance(D, int) and 0 < D <= MAX_SIZE and dim <= MAX_SIZE
    ):  # otherwise `parse` reports them
        values["puzzle_emb_len"] = (tokens or math.ceil(dim / D)) if dim else 0
    values["puzzle_emb_ndim"] = dim
    no_continue = arch.get("no_ACT_continue", True)
    values["q_continue_loss"] = ours == "hrm" or (ours != "transformers_baseline" and not no_continue)
    return parse(ModelParams, values, "arch"), _meta_from_arch(arch, meta, reset_puzzle_emb)


def _meta_from_arch(arch: Mapping[str, Any], meta: DatasetMeta | None, reset_puzzle_emb: bool) -> DatasetMeta:
    sizes = {"seq_len": "seq_len", "vocab_size": "vocab_size", "num_puzzle_identifiers": "num_identifiers"}
    for key, ours in sizes.items():
        if meta is None and key not in arch:
            raise ParamsError(f"arch.{key} is missing; give the dataset that the model was trained on (--dataset)")
        may_differ = reset_puzzle_emb and ours == "num_identifiers"
        if meta is not None and not may_differ and arch.get(key, getattr(meta, ours)) != getattr(meta, ours):
            remedy = "; or set all rows to the mean row with --reset-puzzle-emb" if ours == "num_identifiers" else ""
            raise ParamsError(f"arch.{key} must be {getattr(meta, ours)}, as in the dataset. Got {arch[key]}{remedy}")
    if meta is not None:
        return meta
    for key in sizes:
        if type(arch[key]) is not int or not 1 <= arch[key] <= MAX_SIZE:
            raise ParamsError(f"arch.{key} must be an integer from 1 to {MAX_SIZE:,}. Got {arch[key]!r}")
    L, V, identifiers = arch["seq_len"], arch["vocab_size"], arch["num_puzzle_identifiers"]
    name, height, width, vocabulary = UNKNOWN_DATASET, 1, L, tuple(str(token) for token in range(V))
    side = math.isqrt(L)
    if side * side == L:
        if side == V - 2 and side in (4, 6, 9):  # checked before the maze: 4 x 4 mazes have not been published
            name, vocabulary = "sudoku", ("pad", ".", *(str(digit) for digit in range(1, side + 1)))
        elif len(_MAZE) == V:
            name, vocabulary = "maze", _MAZE
        elif (len(_ARC), 30) == (V, side):
            name, vocabulary = "arc", _ARC
        if name != UNKNOWN_DATASET:
            height = width = side
    return DatasetMeta(name=name, height=height, width=width, vocabulary=vocabulary, num_identifiers=identifiers)


def _dtype(arch: Mapping[str, Any]) -> torch.dtype:
    name = arch.get("forward_dtype", "bfloat16")
    if name not in ("float32", "bfloat16"):
        raise ParamsError(f"arch.forward_dtype must be float32 or bfloat16. Got {name!r}")
    return torch.float32 if name == "float32" else torch.bfloat16


def _tensors(model: TRM) -> dict[str, Tensor]:
    """The saved tensors, without an empty puzzle table."""
    tensors = model.state_dict()
    return tensors if model.config.puzzle_emb_ndim else {k: v for k, v in tensors.items() if k != "puzzle_table"}


def published_keys(model: TRM) -> dict[str, str]:
    """Our tensor name -> the published key, for every tensor of `model`."""
    names = dict(_NAMES)
    if not {"y", "z"}.issuperset(model.variant.states):
        names |= {f"{state}_init": f"L{i}_init" for i, state in enumerate(model.variant.latents, start=1)}
    block_names = _BLOCK_NAMES | (_MLP_T_NAMES if model.config.mlp_t else _ATTENTION_NAMES)
    for network, blocks in model.variant.blocks(model.config).items():
        for number in range(blocks):
            ours, theirs = f"networks.{network}.{number}", f"{network}_level.layers.{number}"
            names |= {f"{ours}.{name}": f"{theirs}.{key}" for name, key in block_names.items()}
    return {name: f"inner.{names[name]}" for name in _tensors(model)}
