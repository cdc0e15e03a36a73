"""The network and its recursion: question x, answer y and latent z (TRM, arXiv 2510.04871, section 4 and figure 3).

Shape suffixes: B batch, L grid tokens, P puzzle tokens, S = P + L, D hidden size, V vocabulary. With latent meta
attention the blocks see fewer and narrower tokens than S and D.
"""

import functools
import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trm.config.model import ModelParams
from trm.config.dataset_meta import DatasetMeta
from trm.models.layers import Block, Linear, rope_table, truncated_normal_
from trm.models.lma import LatentMetaAttention
from trm.models.variants import VARIANTS

States = dict[str, Tensor]
"""The states of a member by their names, each [B, S, D] in the compute dtype."""


class RecursiveNetwork(nn.Module):
    """One small network that improves the latents from x and all states, and then the answer, over and over.

    Its member of the arch says which states there are and which pass renews which. Parameters are float32 and
    averaged by EMA; the puzzle table and the start vectors (`y_init`, `z_init`, ...) are buffers: the table is updated
    row by row by its own optimiser, the start vectors are never trained (section 2).
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
        self._initialise(generator)

    @torch.no_grad()
    def _initialise(self, generator: torch.Generator) -> None:
        D = self.config.hidden_size
        truncated_normal_(self.token_embedding, 1 / math.sqrt(D), generator)
        if self.position_embedding is not None:
            truncated_normal_(self.position_embedding, 1 / math.sqrt(D), generator)
        for layer in self.modules():
            if isinstance(layer, Linear):
                truncated_normal_(layer.weight, 1 / math.sqrt(layer.weight.shape[1]), generator)
        # No sequence wants to halt before it has learned to: sigmoid(-5) is 0.7 %.
        self.q_head.weight.zero_()
        assert self.q_head.bias is not None
        self.q_head.bias.fill_(-5)
        for name in self.variant.states:
            truncated_normal_(self.get_buffer(f"{name}_init"), 1, generator)

    @property
    def passes(self) -> int:
        """Network passes of a supervision step."""
        return self.variant.rounds(self.config) * (self.variant.passes(self.config) + 1)

    @property
    def device(self) -> torch.device:
        """Where the parameters lie."""
        return self.token_embedding.device

    def embed(self, inputs_BL: Tensor, puzzle_rows: Tensor) -> Tensor:
        """The question x [B, S, D] in the compute dtype: puzzle tokens, then grid tokens, times sqrt(D).

        With latent meta attention x is the latent sequence of it.
        """
        D, P = self.config.hidden_size, self.config.puzzle_emb_len
        x_BSD = F.embedding(inputs_BL, self.token_embedding.to(self.compute_dtype))
        if P:
            padded = F.pad(puzzle_rows.to(self.compute_dtype), (0, P * D - puzzle_rows.shape[1]))
            x_BSD = torch.cat((padded.view(-1, P, D), x_BSD), dim=1)
        if self.position_embedding is not None:
            x_BSD = (x_BSD + self.position_embedding.to(self.compute_dtype)) / math.sqrt(2)
        x_BSD = x_BSD * math.sqrt(D)
        return x_BSD if self.lma is None else self.lma.encode(x_BSD)

    def start(self, batch_size: int) -> States:
        """The start vectors spread over all positions."""
        vectors = {name: self.get_buffer(f"{name}_init").to(self.compute_dtype) for name in self.variant.states}
        return {name: vector.expand(batch_size, self.positions, -1) for name, vector in vectors.items()}

    def net(self, name: str, x_BSD: Tensor) -> Tensor:
        """All blocks of the network `name`, one pass."""
        uses_rope = self.config.pos_encodings == "rope" and not self.config.mlp_t
        rope = (self.rope_cos, self.rope_sin) if uses_rope else None
        for block in cast(nn.ModuleList, self.networks[name]):
            x_BSD = block(x_BSD, rope)
        return x_BSD

    def latent_passes(self, x: Tensor, states: States, passes: range) -> States:
        """Those passes of a round that renew the latents, one after the other."""
        if not passes:
            return states
        latents, answer = self.variant.latents, self.variant.answer
        injected = x if answer in latents else states[answer] + x
        states = dict(states)
        for i in passes:
            states[latents[i % len(latents)]] = self.net(self.variant.networks[0], _sum(states, latents) + injected)
        return states

    def answer_pass(self, x: Tensor, states: States) -> States:
        """The last pass of a round, without x: this is the update of the answer (direct, without latents, reads x)."""
        latents, answer = self.variant.latents, self.variant.answer
        read = _sum(states, latents) if latents else x
        total = read if answer in latents else states[answer] + read
        return states | {answer: self.net(self.variant.networks[1], total)}

    def latent_recursion(self, x: Tensor, states: States) -> States:
        """One round: the latents' passes, then the answer's."""
        return self.answer_pass(x, self.latent_passes(x, states, range(self.variant.passes(self.config))))

    def deep_recursion(self, x: Tensor, states: States) -> States:
        """All rounds, of which the last alone is differentiated: wholly, or its last pass of each kind (HRM)."""
        passes = self.variant.passes(self.config)
        first = passes - 1 if self.variant.short_gradient else 0
        with torch.no_grad():
            for _ in range(self.variant.rounds(self.config) - 1):
                states = self.latent_recursion(x, states)
            states = self.latent_passes(x, states, range(first))
        return self.answer_pass(x, self.latent_passes(x, states, range(first, passes)))

    def read_out(self, states: States) -> tuple[Tensor, Tensor, Tensor]:
        """Logits [B, L, V] in the compute dtype; halt and continue logits, float32 [B]."""
        y_BSD = states[self.variant.answer]
        if self.lma is not None:
            y_BSD = self.lma.decode(y_BSD)
        logits = self.output_head(y_BSD[:, self.config.puzzle_emb_len :])
        q = self.q_head(y_BSD[:, 0]).float()
        return logits, q[:, 0], q[:, 1]


def _sum(states: States, names: tuple[str, ...]) -> Tensor:
    return functools.reduce(torch.add, (states[name] for name in names))
