"""Section `model`: the network and its recursion."""

from typing import Literal, Self

from pydantic import model_validator

from trm.config.base import Fraction, Natural, Positive, Scale, Section


class LmaParams(Section):
    """Latent meta attention, a front end of family `trm`: the blocks run on a shorter sequence (spec section 5)."""

    enable: bool
    mode: Literal["clean", "unclean"]
    """clean: each chunk of the sequence holds whole channels; unclean: chunks may straddle channels."""
    length: Positive
    """Latent tokens (S_new): a divisor of hidden_size (clean), of all tokens * hidden_size (unclean)."""
    dim: Positive | None
    """Size of a latent token (D_new); null: hidden_size / 2."""
    heads: Positive
    """Attention heads there, instead of num_heads."""


class ModelParams(Section):
    """The network and its recursion (spec sections 2 and 5).

    | here | TRM paper | meaning |
    |---|---|---|
    | `H_cycles` | T | rounds of a supervision step; only the last is differentiated |
    | `L_cycles` | n | updates of the latent z in a round |
    | `halt_max_steps` | N_sup | supervision steps of a sequence |
    | `x`, `y`, `z` in the code | x, y, z | question, answer (z_H elsewhere), latent (z_L elsewhere) |
    """

    family: Literal["trm", "single-state", "seven-state", "hrm", "direct"]
    """The recursion: a member of `trm.models.variants`."""
    hidden_size: Positive
    num_heads: Positive
    L_layers: Positive
    """Blocks of the network; in hrm of the low one. direct has none of these."""
    H_layers: Positive
    """Blocks of hrm's high network, or of direct. The other members have none of these."""
    expansion: Scale
    H_cycles: Positive
    """Rounds; direct, which does not recurse, leaves both cycles aside."""
    L_cycles: Positive
    """Passes of a round before the answer's; at most 6 in seven-state."""
    lma: LmaParams
    mlp_t: bool
    """True: tokens are mixed by an MLP over the positions; False: by attention."""
    pos_encodings: Literal["rope", "learned", "none"]
    rope_theta: Scale
    rms_norm_eps: Scale
    puzzle_emb_dim: Natural
    """Width of a puzzle's embedding vector; 0: no puzzle tokens."""
    puzzle_emb_len: Natural
    """Puzzle tokens in front of the grid."""
    halt_max_steps: Positive
    halt_exploration_prob: Fraction
    continue_loss: bool
    """True: HRM's Q-learning; a sequence halts when its halt logit exceeds its continue logit. hrm always does so."""

    @property
    def block_width(self) -> int:
        """Numbers of a token inside the blocks: hidden_size, or lma.dim."""
        return (self.lma.dim or self.hidden_size // 2) if self.lma.enable else self.hidden_size

    @property
    def block_heads(self) -> int:
        """Attention heads of a block."""
        return self.lma.heads if self.lma.enable else self.num_heads

    @property
    def learns_to_continue(self) -> bool:
        """Whether the continue logit is trained, and compared with the halt logit."""
        return self.continue_loss or self.family == "hrm"

    @model_validator(mode="after")
    def _fits(self) -> Self:
        D, P = self.hidden_size, self.puzzle_emb_len
        if D % self.num_heads:
            raise ValueError(
                f"hidden_size must be a multiple of num_heads. Got hidden_size={D}, num_heads={self.num_heads}"
            )
        if self.family == "seven-state" and self.L_cycles > 6:
            raise ValueError(f"L_cycles must be at most 6 in seven-state, a pass for each z. Got {self.L_cycles}")
        if self.lma.enable:
            self._lma_fits()
        head_size = self.block_width // self.block_heads
        if self.pos_encodings == "rope" and not self.mlp_t and head_size % 2:
            sizes = "lma.dim / lma.heads" if self.lma.enable else "hidden_size / num_heads"
            raise ValueError(f"rope needs an even head size. Got {sizes} = {head_size}")
        if (self.puzzle_emb_dim == 0) != (P == 0):
            raise ValueError(
                "puzzle_emb_dim and puzzle_emb_len must both be 0 (no puzzle tokens) or both be positive. "
                f"Got {self.puzzle_emb_dim} and {P}"
            )
        if self.puzzle_emb_dim > P * D:
            raise ValueError(
                f"puzzle_emb_dim must be at most puzzle_emb_len * hidden_size = {P * D}. Got {self.puzzle_emb_dim}"
            )
        return self

    def _lma_fits(self) -> None:
        D, lma = self.hidden_size, self.lma
        if self.family != "trm":
            raise ValueError(f"lma.enable must be false but in family trm. Got family={self.family}")
        if lma.dim is None and D % 2:
            raise ValueError(f"lma.dim must be a number where hidden_size is odd. Got null, hidden_size={D}")
        if self.block_width % lma.heads:
            raise ValueError(
                f"lma.dim must be a multiple of lma.heads. Got lma.dim={self.block_width}, lma.heads={lma.heads}"
            )
        if lma.mode == "clean" and D % lma.length:
            raise ValueError(
                f"lma.length must divide hidden_size in mode clean. Got lma.length={lma.length}, hidden_size={D}"
            )
