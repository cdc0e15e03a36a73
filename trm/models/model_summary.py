"""`trm model-summary`: parameters, states and floating-point operations of a network."""

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import torch
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from trm.config.dataset_meta import DatasetMeta
from trm.config.model import ModelParams
from trm.models.act import build_model


def describe_model(config: ModelParams, meta: DatasetMeta) -> RenderableType:
    """A rich renderable: the parameter tree, the passes and the floating-point operations.

    Raises `ParamsError` for a network that cannot be built for this dataset.
    """
    model = build_model(config, meta.model_copy(update={"num_identifiers": 1}))
    variant, weights = model.variant, dict(model.named_parameters())
    rounds, passes = variant.rounds(config), variant.passes(config)
    blocks = variant.blocks(config)
    low, high = (blocks[name] for name in variant.networks)
    depth = f"{rounds} x ({passes} + 1) x {low}" if low == high else f"{rounds} x ({passes} x {low} + {high})"
    forward, training = flops(config, meta)
    facts = {
        "parameters": f"{_count(weights):,}",
        "puzzle embedding": f"{config.puzzle_emb_ndim} more per identifier" if config.puzzle_emb_ndim else "none",
        "states": f"{', '.join(variant.states)}: {model.positions} x {config.block_width} values each",
        "passes": f"{rounds} x ({passes} + 1) = {rounds * (passes + 1)} per supervision step",
        "effective depth": f"{depth} = {variant.depth(config)} blocks",
        "forward": f"{_readable(forward)} per sequence and supervision step",
        "training": f"{_readable(training)}, including the backward pass",
        "counted": "matrix products only; a multiplication and an addition count as two operations",
    }
    rows = Table(show_header=False, box=None, pad_edge=False)
    rows.add_column(no_wrap=True)
    rows.add_column(overflow="fold")
    for name, value in facts.items():
        rows.add_row(name, value)
    tree = Tree(f"{config.arch} for {meta.name} {meta.height} x {meta.width}: {_count(weights):,}")
    _grow(tree, {name.removesuffix(".weight"): weight for name, weight in weights.items()})
    return Group(tree, "", rows)


def flops(config: ModelParams, meta: DatasetMeta) -> tuple[int, int]:
    """Floating-point operations of a supervision step on one sequence: (inference, training).

    Training includes the backward pass and, with the continue loss, one more forward pass. A product of n x k by k x m
    counts 2 n k m; elementwise operations are not counted. A product with gradient takes two more in the backward pass,
    one for each factor.
    """
    # No sequence: shapes are computed, and nothing else. (The first operation on the meta device takes 1 s.)
    model = build_model(config, meta.model_copy(update={"num_identifiers": 1}))
    shapes = {"inputs": (0, meta.seq_len), "labels": (0, meta.seq_len), "puzzle_identifiers": (0,)}
    batch = {name: torch.zeros(shape, dtype=torch.int32) for name, shape in shapes.items()}
    carry = model.initial_carry(batch)
    with torch.no_grad(), _ProductCounter() as inference:
        model.eval().supervision_step(carry, batch)
    with _ProductCounter() as training:
        model.train().supervision_step(carry, batch)
    return inference.forward, training.forward + training.backward


class _ProductCounter(TorchFunctionMode):
    """Counts operations of matrix products per sequence.

    torch's `FlopCounterMode` counts them for a whole batch; it imports the compiler, which takes 1 s.
    """

    def __init__(self) -> None:
        super().__init__()
        self.forward = 0
        self.backward = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> object:
        result = func(*args, **kwargs or {})
        products = []
        if func is F.linear:
            products = [(result, args[0].shape[-1])]
        elif func is F.scaled_dot_product_attention:
            query, key = args[:2]
            products = [(query, key.shape[-2]), (result, key.shape[-2])]  # the weights, and their product with values
        operations = sum(2 * prod(tensor.shape[1:]) * inner for tensor, inner in products)
        self.forward += operations
        self.backward += 2 * operations * torch.is_grad_enabled()
        return result


def _grow(tree: Tree, weights: Mapping[str, Tensor]) -> None:
    """Add a branch for each component of the names of `weights`, with its number of parameters."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, weight in weights.items():
        head, _, rest = name.partition(".")
        parts.setdefault(head, {})[rest] = weight
    for name, inner in parts.items():
        shape = f" [{' x '.join(map(str, inner[''].shape))}]" if "" in inner else ""
        branch = tree.add(Text(f"{name}{shape}: {_count(inner):,}"))
        _grow(branch, {rest: weight for rest, weight in inner.items() if rest})


def _count(weights: Mapping[str, Tensor]) -> int:
    return sum(weight.numel() for weight in weights.values())


def _readable(operations: int) -> str:
    for unit, size in {"TFLOP": 1e12, "GFLOP": 1e9}.items():
        if operations >= size:
            return f"{operations / size:.2f} {unit}"
    return f"{operations / 1e6:.2f} MFLOP"
