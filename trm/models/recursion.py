"""The network and its recursion: question x, answer y and latent z (TRM, arXiv 2510.04871, section 4 and figure 3).

Shape suffixes: B batch, L grid tokens, P puzzle tokens, S = P + L, D hidden size, V vocabulary. With latent meta
attention the blocks process fewer and narrower tokens than S and D.
"""

import copy
import functools
import math
from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trm.config.dataset_meta import DatasetMeta
from trm.config.model import ModelParams
from trm.models.layers import Block, Linear, grid_coordinates, rope_table, truncated_normal_
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
        D, S = config.hidden_size, config.prefix_len + meta.seq_len
        self.positions = config.lma.length if config.lma.enable else S
        self.token_embedding = nn.Parameter(torch.empty(meta.vocab_size, D))
        self.position_embedding = nn.Parameter(torch.empty(S, D)) if config.pos_encodings == "learned" else None
        registers = config.register_tokens
        self.registers = nn.Parameter(torch.empty(registers, D)) if registers else None
        self.lma = LatentMetaAttention(config, S) if config.lma.enable else None
        self.networks = nn.ModuleDict(
            {
                name: nn.ModuleList(Block(config, self.positions) for _ in range(blocks))
                for name, blocks in self.variant.blocks(config).items()
            }
        )
        self._cast_networks: list[nn.ModuleDict] = []
        """`networks` in the compute dtype, if that is not float32. In a list it is no submodule."""
        self.output_head = Linear(D, meta.vocab_size)
        self.q_head = Linear(D, 2, bias=True)
        rows = meta.num_identifiers if config.puzzle_emb_ndim else 0
        self.register_buffer("puzzle_table", torch.zeros(rows, config.puzzle_emb_ndim))
        for name in self.variant.states:
            self.register_buffer(f"{name}_init", torch.empty(config.block_width))
        if config.pos_encodings == "rope_2d":
            coordinates = grid_coordinates(config.prefix_len, meta.height, meta.width)
        else:
            coordinates = torch.arange(self.positions)[:, None]
        cos, sin = rope_table(coordinates, config.block_width // config.block_heads, config.rope_theta)
        self.register_buffer("rope_cos", cos, persistent=False)
        self.register_buffer("rope_sin", sin, persistent=False)
        self._initialize(generator)

    @torch.no_grad()
    def _initialize(self, generator: torch.Generator) -> None:
        D = self.config.hidden_size
        truncated_normal_(self.token_embedding, 1 / math.sqrt(D), generator)
        if self.position_embedding is not None:
            truncated_normal_(self.position_embedding, 1 / math.sqrt(D), generator)
        if self.registers is not None:
            truncated_normal_(self.registers, 1 / math.sqrt(D), generator)
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
        registers = f"{config.register_tokens} registers + " if config.register_tokens else ""
        sizes = f"{config.puzzle_emb_len} puzzle tokens + {registers}{meta.height} x {meta.width} grid tokens, width"
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
        """The question x [B, S, D] in the compute dtype: puzzle tokens, registers and grid tokens, times sqrt(D).

        inputs_BL: int tokens; puzzle_rows: float32 [B, puzzle_emb_ndim]. With latent meta attention, x is the encoded
        sequence.
        """
        D, P = self.config.hidden_size, self.config.puzzle_emb_len
        x_BSD = F.embedding(inputs_BL, self.token_embedding.to(self.compute_dtype))
        if self.registers is not None:
            registers = self.registers.to(self.compute_dtype).expand(x_BSD.shape[0], -1, -1)
            x_BSD = torch.cat((registers, x_BSD), dim=1)
        if P:
            padded = F.pad(puzzle_rows.to(self.compute_dtype), (0, P * D - puzzle_rows.shape[1]))
            x_BSD = torch.cat((padded.unflatten(1, (P, D)), x_BSD), dim=1)
        if self.position_embedding is not None:
            x_BSD = (x_BSD + self.position_embedding.to(self.compute_dtype)) / math.sqrt(2)
        x_BSD = x_BSD * math.sqrt(D)
        return x_BSD if self.lma is None else self.lma.encode(x_BSD)

    def initial_states(self, batch_size: int, generator: torch.Generator | None = None) -> States:
        """The states before the first step, [B, S, D].

        They are the initial vectors, expanded to all positions; or, with `model.random_start`, noise from `generator`
        for each sequence. None: the same noise for all sequences and calls.
        """
        vectors = {name: self.get_buffer(f"{name}_init").to(self.compute_dtype) for name in self.variant.states}
        states = {name: vector.expand(batch_size, self.positions, -1) for name, vector in vectors.items()}
        for name in self.random_states:
            states[name] = self.start_noise(name, batch_size, generator).to(self.device, self.compute_dtype)
        return states

    @property
    def random_states(self) -> tuple[str, ...]:
        """The states that start from noise."""
        return self.variant.random_states(self.config.random_start)

    def start_noise(self, name: str, batch_size: int, generator: torch.Generator | None) -> Tensor:
        """Start of the state `name` from noise, float32 [B, S, D] on the device of `generator`.

        The values are normal with a standard deviation of 1, truncated to -2 to 2.
        """
        shape = (1 if generator is None else batch_size, self.positions, self.config.block_width)
        if generator is None:
            generator = torch.Generator().manual_seed(self.variant.states.index(name))
        # nn.init.trunc_normal_ draws until no value is outside of the bounds, and waits for a GPU each time.
        bound = math.erf(math.sqrt(2))
        noise = torch.empty(shape, device=generator.device).uniform_(-bound, bound, generator=generator).erfinv_()
        return noise.mul_(math.sqrt(2)).clamp_(-2, 2).expand(batch_size, -1, -1)

    def net(self, name: str, x_BSD: Tensor) -> Tensor:
        """One pass through all blocks of the network `name`.

        Without gradients the weights are those of the last `cast_weights`.
        """
        networks = self.networks if torch.is_grad_enabled() or not self._cast_networks else self._cast_networks[0]
        uses_rope = self.config.pos_encodings in ("rope", "rope_2d") and not self.config.mlp_t
        rope = (self.rope_cos, self.rope_sin) if uses_rope else None
        for block in cast(nn.ModuleList, networks[name]):
            x_BSD = block(x_BSD, rope)
        return x_BSD

    @torch.no_grad()
    def cast_weights(self) -> None:
        """Cast the weights of the networks to the compute dtype: once per supervision step, and not in each pass.

        Passes with gradients cast the weights themselves, so that the gradients of all passes are added in float32.
        """
        if self.compute_dtype is torch.float32:
            return
        if not self._cast_networks or next(self._cast_networks[0].parameters()).device != self.device:
            self._cast_networks[:] = [copy.deepcopy(self.networks).to(self.compute_dtype).requires_grad_(False)]
        for weight, own in zip(self._cast_networks[0].parameters(), self.networks.parameters(), strict=True):
            weight.copy_(own)

    def injected(self, x: Tensor, states: States) -> Tensor:
        """What the latent updates of a round read in addition to the latents: the question, and the answer if it is
        not a latent.
        """
        return x if self.variant.answer in self.variant.latents else states[self.variant.answer] + x

    def latent_pass(
        self, injected: Tensor, states: States, number: int, generator: torch.Generator | None = None
    ) -> States:
        """The latent update `number` (from 0) of a round."""
        latents, damping = self.variant.latents, self.config.update_damping
        name = latents[number % len(latents)]
        updated = self.net(self.variant.networks[0], _sum(states, latents) + injected)
        if damping:
            updated = torch.lerp(updated, states[name], damping)
        if self.training and self.config.update_noise:
            noise = torch.empty_like(updated).normal_(generator=generator)
            updated = updated + self.config.update_noise * noise
        return states | {name: updated}

    def answer_pass(self, x: Tensor, states: States) -> States:
        """The last pass of a round: the update of the answer. It reads x only in a variant without latents."""
        latents, answer = self.variant.latents, self.variant.answer
        read = _sum(states, latents) if latents else x
        total = read if answer in latents else states[answer] + read
        return states | {answer: self.net(self.variant.networks[1], total)}

    def deep_recursion(
        self, x: Tensor, states: States, hook: PassHook | None = None, generator: torch.Generator | None = None
    ) -> States:
        """All rounds of a supervision step, of which the last `gradient_passes` passes are differentiated.

        generator: source of the noise of `model.update_noise`, on the device of x; None: torch's default generator.
        """
        passes = self.variant.passes(self.config)
        first = self.passes - self.variant.gradient_passes(self.config)
        """Number of the first pass that is differentiated, from 0."""
        self.cast_weights()
        injected = x
        for done in range(self.passes):
            number, position = divmod(done, passes + 1)
            with torch.set_grad_enabled(torch.is_grad_enabled() and done >= first):
                if position == 0 or done == first:
                    injected = self.injected(x, states)
                if position < passes:
                    states = self.latent_pass(injected, states, position, generator)
                else:
                    states = self.answer_pass(x, states)
            if hook is not None:
                hook(number + 1, position + 1, states)
        return states

    def read_out(self, states: States) -> tuple[Tensor, Tensor, Tensor]:
        """Apply the output heads: logits [B, L, V] in the compute dtype; halt and continue logits, float32 [B]."""
        y_BSD = states[self.variant.answer]
        if self.lma is not None:
            y_BSD = self.lma.decode(y_BSD)
        cells_BLD = y_BSD[:, self.config.prefix_len :]
        q = self.q_head(y_BSD[:, 0]).float()
        return self.output_head(cells_BLD), q[:, 0], q[:, 1]


def _sum(states: States, names: tuple[str, ...]) -> Tensor:
    return functools.reduce(torch.add, (states[name] for name in names))
