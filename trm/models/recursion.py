"""The network and its recursion: question x, answer y and latent z (TRM, arXiv 2510.04871, section 4 and figure 3).

Shape suffixes: B batch, L grid tokens, P puzzle tokens, S = P + L, D hidden size, V vocabulary. With latent meta
attention the blocks process fewer and narrower tokens than S and D.
"""

import functools
import math
from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trm.config.dataset_meta import DatasetMeta
from trm.config.model import ModelParams
from trm.models.layers import Block, Linear, rope_table, truncated_normal_
from trm.models.lma import LatentMetaAttention
from trm.models.variants import VARIANTS

States = dict[str, Tensor]
"""State name -> tensor [B, S, D] in the compute dtype."""
PassHook = Callable[[int, int, States], None]
"""Called after each pass with the number of the round, the number of the pass in its round (both from 1) and the
states."""


class RecursiveNetwork(nn.Module):
    """A small network that repeatedly updates the latents from x and all states, and then the answer.

    The variant defines the states and which pass updates which. Parameters are float32 and averaged by EMA. The puzzle
    table and the initial states (`y_init`, `z_init`, ...) are buffers: the table is updated row by row by its own
    optimizer, the initial states are not trained.
    """

    puzzle_table: Tensor

    def __init__(self, config: ModelParams, meta: DatasetMeta, dtype: torch.dtype, generator: torch.Generator) -> None:
        super().__init__()
        self.config, self.meta, self.compute_dtype = config, meta, dtype
        self.variant = VARIANTS[config.arch]
        D, S = config.hidden_size, config.puzzle_emb_len + meta.seq_len
        self.positions = config.lma.length if config.lma.enable else S
        self.token_embedding = nn.Parameter(torch.empty(meta.vocab_size, D))
        self.position_embedding = nn.Parameter(torch.empty(S, D)) if config.pos_encodings == "learned" else None
        self.lma = LatentMetaAttention(config, S) if config.lma.enable else None
        self.networks = nn.ModuleDict(
            {
                name: nn.ModuleList(Block(config, self.positions) for _ in range(blocks))
                for name, blocks in self.variant.blocks(config).items()
            }
        )
        self.output_head = Linear(D, meta.vocab_size)
        self.q_head = Linear(D, 2, bias=True)
        rows = meta.num_identifiers if config.puzzle_emb_ndim else 0
        self.register_buffer("puzzle_table", torch.zeros(rows, config.puzzle_emb_ndim))
        for name in self.variant.states:
            self.register_buffer(f"{name}_init", torch.empty(config.block_width))
        cos, sin = rope_table(self.positions, config.block_width // config.block_heads, config.rope_theta)
        self.register_buffer("rope_cos", cos, persistent=False)
        self.register_buffer("rope_sin", sin, persistent=False)
        self._initialize(generator)

    @torch.no_grad()
    def _initialize(self, generator: torch.Generator) -> None:
        D = self.config.hidden_size
        truncated_normal_(self.token_embedding, 1 / math.sqrt(D), generator)
        if self.position_embedding is not None:
            truncated_normal_(self.position_embedding, 1 / math.sqrt(D), generator)
        for layer in self.modules():
            if isinstance(layer, Linear):
                truncated_normal_(layer.weight, 1 / math.sqrt(layer.weight.shape[1]), generator)
        # Initially no sequence halts early: sigmoid(-5) is 0.7 %.
        self.q_head.weight.zero_()
        assert self.q_head.bias is not None
        self.q_head.bias.fill_(-5)
        for name in self.variant.states:
            truncated_normal_(self.get_buffer(f"{name}_init"), 1, generator)

    def extra_repr(self) -> str:
        """Variant, sizes and recursion, for `print(model)`: the tensors that are not in a submodule."""
        config, meta = self.config, self.meta
        tables = {"token_embedding": self.token_embedding, "puzzle_table": self.puzzle_table}
        if self.position_embedding is not None:
            tables["position_embedding"] = self.position_embedding
        shapes = [f"{name}: {' x '.join(map(str, table.shape))}" for name, table in tables.items()]
        sizes = f"{config.puzzle_emb_len} puzzle tokens + {meta.height} x {meta.width} grid tokens, width"
        lines = [f"{config.arch}, {meta.name}: {sizes} {config.hidden_size}", ", ".join(shapes)]
        return "\n".join([*lines, f"{self.passes} passes per supervision step, at most {config.halt_max_steps} steps"])

    @property
    def passes(self) -> int:
        """Forward passes of a supervision step."""
        return self.variant.rounds(self.config) * (self.variant.passes(self.config) + 1)

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return self.token_embedding.device

    def embed(self, inputs_BL: Tensor, puzzle_rows: Tensor) -> Tensor:
        """The question x [B, S, D] in the compute dtype: puzzle tokens, then grid tokens, times sqrt(D).

        inputs_BL: int tokens; puzzle_rows: float32 [B, puzzle_emb_ndim]. With latent meta attention, x is the encoded
        sequence.
        """
        D, P = self.config.hidden_size, self.config.puzzle_emb_len
        x_BSD = F.embedding(inputs_BL, self.token_embedding.to(self.compute_dtype))
        if P:
            padded = F.pad(puzzle_rows.to(self.compute_dtype), (0, P * D - puzzle_rows.shape[1]))
            x_BSD = torch.cat((padded.unflatten(1, (P, D)), x_BSD), dim=1)
        if self.position_embedding is not None:
            x_BSD = (x_BSD + self.position_embedding.to(self.compute_dtype)) / math.sqrt(2)
        x_BSD = x_BSD * math.sqrt(D)
        return x_BSD if self.lma is None else self.lma.encode(x_BSD)

    def initial_states(self, batch_size: int) -> States:
        """The initial vectors, expanded to all positions."""
        vectors = {name: self.get_buffer(f"{name}_init").to(self.compute_dtype) for name in self.variant.states}
        return {name: vector.expand(batch_size, self.positions, -1) for name, vector in vectors.items()}

    def net(self, name: str, x_BSD: Tensor) -> Tensor:
        """One pass through all blocks of the network `name`."""
        uses_rope = self.config.pos_encodings == "rope" and not self.config.mlp_t
        rope = (self.rope_cos, self.rope_sin) if uses_rope else None
        for block in cast(nn.ModuleList, self.networks[name]):
            x_BSD = block(x_BSD, rope)
        return x_BSD

    def latent_passes(self, x: Tensor, states: States, passes: range, round_hook: "_RoundHook | None" = None) -> States:
        """The latent updates number `passes` (from 0) of a round, one after the other."""
        if not passes:
            return states
        latents, answer = self.variant.latents, self.variant.answer
        injected = x if answer in latents else states[answer] + x
        states = dict(states)
        for i in passes:
            states[latents[i % len(latents)]] = self.net(self.variant.networks[0], _sum(states, latents) + injected)
            if round_hook is not None:
                round_hook(i + 1, dict(states))
        return states

    def answer_pass(self, x: Tensor, states: States, round_hook: "_RoundHook | None" = None) -> States:
        """The last pass of a round: the update of the answer. It reads x only in a variant without latents."""
        latents, answer = self.variant.latents, self.variant.answer
        read = _sum(states, latents) if latents else x
        total = read if answer in latents else states[answer] + read
        states = states | {answer: self.net(self.variant.networks[1], total)}
        if round_hook is not None:
            round_hook(self.variant.passes(self.config) + 1, states)
        return states

    def latent_recursion(self, x: Tensor, states: States, round_hook: "_RoundHook | None" = None) -> States:
        """One round: the latent passes, then the answer pass."""
        passes = range(self.variant.passes(self.config))
        return self.answer_pass(x, self.latent_passes(x, states, passes, round_hook), round_hook)

    def deep_recursion(self, x: Tensor, states: States, hook: PassHook | None = None) -> States:
        """All rounds of a supervision step.

        Only the last round is differentiated: entirely, or its last latent pass and its answer pass (HRM).
        """
        rounds, passes = self.variant.rounds(self.config), self.variant.passes(self.config)
        first = passes - 1 if self.variant.short_gradient else 0
        with torch.no_grad():
            for number in range(1, rounds):
                states = self.latent_recursion(x, states, hook and functools.partial(hook, number))
            last_hook = hook and functools.partial(hook, rounds)
            states = self.latent_passes(x, states, range(first), last_hook)
        states = self.latent_passes(x, states, range(first, passes), last_hook)
        return self.answer_pass(x, states, last_hook)

    def read_out(self, states: States) -> tuple[Tensor, Tensor, Tensor]:
        """Apply the output heads: logits [B, L, V] in the compute dtype; halt and continue logits, float32 [B]."""
        y_BSD = states[self.variant.answer]
        if self.lma is not None:
            y_BSD = self.lma.decode(y_BSD)
        logits = self.output_head(y_BSD[:, self.config.puzzle_emb_len :])
        q = self.q_head(y_BSD[:, 0]).float()
        return logits, q[:, 0], q[:, 1]


_RoundHook = Callable[[int, States], None]


def _sum(states: States, names: tuple[str, ...]) -> Tensor:
    return functools.reduce(torch.add, (states[name] for name in names))
