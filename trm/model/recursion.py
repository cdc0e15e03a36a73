"""The network and its recursion: question x, answer y and latent z (TRM, arXiv 2510.04871, section 4 and figure 3).

Shape suffixes: B batch, L grid tokens, P puzzle tokens, S = P + L, D hidden size, V vocabulary.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trm.config import ModelParams
from trm.meta import DatasetMeta
from trm.model.layers import Block, Linear, rope_table, truncated_normal_


class RecursiveNetwork(nn.Module):
    """One small network that improves z from (x, y, z) and then y from (y, z), over and over.

    Parameters are float32 and averaged by EMA; the puzzle table and the start vectors y0, z0 are buffers: the table is
    updated row by row by its own optimiser, the start vectors are never trained (section 2).
    """

    y_init: Tensor
    z_init: Tensor
    puzzle_table: Tensor

    def __init__(self, config: ModelParams, meta: DatasetMeta, dtype: torch.dtype, generator: torch.Generator) -> None:
        super().__init__()
        self.config, self.meta, self.compute_dtype = config, meta, dtype
        D, S = config.hidden_size, config.puzzle_emb_len + meta.seq_len
        self.token_embedding = nn.Parameter(torch.empty(meta.vocab_size, D))
        self.position_embedding = nn.Parameter(torch.empty(S, D)) if config.pos_encodings == "learned" else None
        self.blocks = nn.ModuleList(Block(config, S) for _ in range(config.L_layers))
        self.output_head = Linear(D, meta.vocab_size)
        self.q_head = Linear(D, 2, bias=True)
        rows = meta.num_identifiers if config.puzzle_emb_dim else 0
        self.register_buffer("puzzle_table", torch.zeros(rows, config.puzzle_emb_dim))
        self.register_buffer("y_init", torch.empty(D))
        self.register_buffer("z_init", torch.empty(D))
        cos, sin = rope_table(S, D // config.num_heads, config.rope_theta)
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
        truncated_normal_(self.y_init, 1, generator)
        truncated_normal_(self.z_init, 1, generator)

    @property
    def device(self) -> torch.device:
        """Where the parameters lie."""
        return self.token_embedding.device

    def embed(self, inputs_BL: Tensor, puzzle_rows: Tensor) -> Tensor:
        """The question x [B, S, D] in the compute dtype: puzzle tokens, then grid tokens, times sqrt(D)."""
        D, P = self.config.hidden_size, self.config.puzzle_emb_len
        x_BSD = F.embedding(inputs_BL, self.token_embedding.to(self.compute_dtype))
        if P:
            padded = F.pad(puzzle_rows.to(self.compute_dtype), (0, P * D - puzzle_rows.shape[1]))
            x_BSD = torch.cat((padded.view(-1, P, D), x_BSD), dim=1)
        if self.position_embedding is not None:
            x_BSD = (x_BSD + self.position_embedding.to(self.compute_dtype)) / math.sqrt(2)
        return x_BSD * math.sqrt(D)

    def start(self, batch_size: int) -> tuple[Tensor, Tensor]:
        """y0 and z0 spread over all positions, each [B, S, D] in the compute dtype."""
        S = self.config.puzzle_emb_len + self.meta.seq_len
        y, z = (v.to(self.compute_dtype).expand(batch_size, S, -1) for v in (self.y_init, self.z_init))
        return y, z

    def net(self, x_BSD: Tensor) -> Tensor:
        """All blocks, one pass."""
        uses_rope = self.config.pos_encodings == "rope" and not self.config.mlp_t
        rope = (self.rope_cos, self.rope_sin) if uses_rope else None
        for block in self.blocks:
            x_BSD = block(x_BSD, rope)
        return x_BSD

    def latent_recursion(self, x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """One round: n updates of z, then one of y."""
        x_and_y = x + y
        for _ in range(self.config.L_cycles):
            z = self.net(z + x_and_y)
        y = self.net(y + z)  # x is absent: this is the update of the answer
        return y, z

    def deep_recursion(self, x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """T rounds, of which the last alone is differentiated, and it wholly."""
        with torch.no_grad():
            for _ in range(self.config.H_cycles - 1):
                y, z = self.latent_recursion(x, y, z)
        return self.latent_recursion(x, y, z)

    def read_out(self, y_BSD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits [B, L, V] in the compute dtype; halt and continue logits, float32 [B]."""
        logits = self.output_head(y_BSD[:, self.config.puzzle_emb_len :])
        q = self.q_head(y_BSD[:, 0]).float()
        return logits, q[:, 0], q[:, 1]
