"""`trm model`: what a network is made of and what a supervision step of it costs."""

from collections.abc import Mapping

import torch
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from trm.config.model import ModelParams
from trm.config.dataset_meta import DatasetMeta
from trm.models.act import TRM, build_model


def describe_model(config: ModelParams, meta: DatasetMeta) -> RenderableType:
    """The tree of the parameters, the passes and the floating-point operations, as something for rich to print.

    Raises `ParamsError` for a network that cannot be built for such data.
    """
    model = build_model(config, meta.model_copy(update={"num_identifiers": 1}))
    member, weights = model.variant, dict(model.named_parameters())
    rounds, passes = member.rounds(config), member.passes(config)
    blocks = member.blocks(config)
    low, high = (blocks[name] for name in member.networks)
    depth = f"{rounds} x ({passes} + 1) x {low}" if low == high else f"{rounds} x ({passes} x {low} + {high})"
    forward, training = flops(config, meta)
    facts = {
        "parameters": f"{_count(weights):,}",
        "puzzle table": f"{config.puzzle_emb_ndim} more for each identifier" if config.puzzle_emb_ndim else "none",
        "states": f"{', '.join(member.states)}: {model.positions} x {config.block_width} numbers each",
        "passes": f"{rounds} x ({passes} + 1) = {rounds * (passes + 1)} a supervision step",
        "effective depth": f"{depth} = {member.depth(config)} blocks",
        "forward": f"{_readable(forward)} a sequence and supervision step",
        "training": f"{_readable(training)}, the backward pass included",
        "counted": "products of matrices, a multiplication and an addition as two operations; nothing else",
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
    """Operations of one supervision step on one sequence: without gradients, and as training does it.

    Training has the backward pass of what is differentiated and, with the continue loss, one more forward pass. A
    product of n x k by k x m counts 2 n k m; additions, norms and other elementwise work count nothing.
    """
    # On no device: shapes alone are computed, and attention is made of the products that are counted.
    model = build_model(config, meta.model_copy(update={"num_identifiers": 1})).to("meta")
    with torch.no_grad():
        forward, _ = _counted_step(model.eval())
    training, outputs = _counted_step(model.train())
    with FlopCounterMode(display=False) as backward:
        torch.autograd.backward([output.float().sum() for output in outputs])
    return forward, training + backward.get_total_flops()


def _counted_step(model: TRM) -> tuple[int, tuple[Tensor, Tensor, Tensor]]:
    L = model.meta.seq_len
    shapes = {"inputs": (1, L), "labels": (1, L), "puzzle_identifiers": (1,)}
    batch = {name: torch.zeros(shape, dtype=torch.int32, device="meta") for name, shape in shapes.items()}
    carry = model.initial_carry(batch)
    with FlopCounterMode(display=False) as counter:
        _, out = model.supervision_step(carry, batch)
    return counter.get_total_flops(), (out.logits, out.halt_logit, out.continue_logit)


def _grow(tree: Tree, weights: Mapping[str, Tensor]) -> None:
    """A branch for each part of the names of `weights`, with the number of its parameters."""
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
