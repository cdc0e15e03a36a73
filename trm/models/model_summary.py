"""`trm model-summary`: parameters, states and floating-point operations of a network."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
from trm.models.act import TRM, build_model


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


@dataclass(frozen=True)
class Product:
    """A matrix product of a supervision step: rows x inner by inner x columns, for each sequence."""

    rows: int
    inner: int
    columns: int
    heads: int | None
    """Attention: number of products with different right factors. None: the right factor is a weight of the network."""
    differentiated: bool
    """True: the backward pass takes two more products, one for the gradient of each factor."""

    @property
    def operations(self) -> int:
        """Floating-point operations for a sequence, including the backward pass: 2 n k m for n x k by k x m."""
        return 2 * self.rows * self.inner * self.columns * (self.heads or 1) * (3 if self.differentiated else 1)


def flops(config: ModelParams, meta: DatasetMeta) -> tuple[int, int]:
    """Floating-point operations of a supervision step on one sequence: (inference, training).

    Training includes the backward pass and, with the continue loss, one more forward pass. A product of n x k by k x m
    counts 2 n k m; elementwise operations are not counted.
    """
    # Not on the meta device, whose first operation takes 1 s.
    model = build_model(config, meta.model_copy(update={"num_identifiers": 1}))
    inference, training = (
        sum(product.operations * count for product, count in matrix_products(model.train(training)).items())
        for training in (False, True)
    )
    return inference, training


def matrix_products(model: TRM) -> Counter[Product]:
    """The matrix products of a supervision step on one sequence, with their numbers, in the mode of the model."""
    # No sequence: shapes are computed, and nothing else.
    training, meta = model.training, model.meta
    shapes = {"inputs": (0, meta.seq_len), "labels": (0, meta.seq_len), "puzzle_identifiers": (0,)}
    batch = {name: torch.zeros(shape, dtype=torch.int32) for name, shape in shapes.items()}
    carry = model.initial_carry(batch)
    with torch.set_grad_enabled(training), _ProductCounter() as counter:
        model.supervision_step(carry, batch)
    return counter.products


class _ProductCounter(TorchFunctionMode):
    """Counts the products. torch's `FlopCounterMode` does too, but imports the compiler, which takes 1 s."""

    def __init__(self) -> None:
        super().__init__()
        self.products: Counter[Product] = Counter()

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> object:
        if func is F.linear:
            x, weight = args[:2]
            self._add(prod(x.shape[1:-1]), x.shape[-1], weight.shape[0], None)
        elif func is F.scaled_dot_product_attention:
            (_, heads, queries, size), keys = args[0].shape, args[1].shape[-2]
            self._add(queries, size, keys, heads)  # the attention weights
            self._add(queries, keys, size, heads)  # the weighted sum of the values
        return func(*args, **kwargs or {})

    def _add(self, rows: int, inner: int, columns: int, heads: int | None) -> None:
        self.products[Product(rows, inner, columns, heads, torch.is_grad_enabled())] += 1


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
