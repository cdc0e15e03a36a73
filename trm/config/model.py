"""Section `model`: the network and its recursion."""

from typing import Literal, Self

from pydantic import model_validator

from trm.config.base import BelowOne, Fraction, Noise, Scale, Section, Size, SizeOrZero, TrainingSteps


class LmaParams(Section):
    """Latent meta attention: the blocks run on a shorter, narrower sequence. Only for arch `trm`."""

    enable: bool
    """Use latent meta attention."""
    mode: Literal["clean", "unclean"]
    """clean: each chunk of the sequence contains complete channels; unclean: chunks may cross channels."""
    length: Size
    """Latent tokens (S_new). Must divide hidden_size (clean) or all tokens * hidden_size (unclean)."""
    dim: Size | None
    """Width of a latent token (D_new); null: hidden_size / 2."""
    heads: Size
    """Attention heads of the blocks, instead of num_heads."""


class ModelParams(Section):
    """The network and its recursion.

    | here | TRM paper | meaning |
    |---|---|---|
    | `H_cycles` | T | rounds of a supervision step; only the last one is differentiated |
    | `L_cycles` | n | updates of the latent z in a round |
    | `halt_max_steps` | N_sup | supervision steps of a sequence |
    | `x`, `y`, `z` in the code | x, y, z | question, answer (z_H elsewhere), latent (z_L elsewhere) |
    """

    arch: Literal["trm", "trm_singlez", "trm_hier6", "hrm", "transformers_baseline"]
    """The recursion; see `trm.models.variants`."""
    hidden_size: Size
    """Width of a token (D)."""
    num_heads: Size
    """Attention heads of a block; must divide hidden_size."""
    L_layers: Size
    """Blocks of the network; of the low-level network in hrm. Unused in transformers_baseline."""
    H_layers: Size
    """Blocks of the high-level network in hrm, and of transformers_baseline. Unused in the other architectures."""
    expansion: Scale
    """Width of the SwiGLU layers relative to their input; the inner width is expansion * 2/3, rounded up to 256."""
    swiglu: Literal["swiglu", "normed"] = "swiglu"
    """swiglu: W_down(silu(gate) * up). normed: W_down(sigmoid(gate) * rmsnorm(gate * up)) (SIC, arXiv 2601.19085)."""
    H_cycles: Size
    """Rounds of a supervision step (T). Unused in transformers_baseline."""
    L_cycles: Size
    """Latent updates of a round (n), before the update of the answer. At most 6 in trm_hier6."""
    lma: LmaParams
    """Latent meta attention."""
    mlp_t: bool
    """True: an MLP over the positions mixes the tokens; False: attention."""
    pos_encodings: Literal["rope", "rope_2d", "learned", "none"]
    """Position encodings: rotary, rotary with rows and columns of the grid, a learned table, or none."""
    rope_theta: Scale
    """Base of the rotary frequencies."""
    rms_norm_eps: Scale
    """Epsilon of the RMS norms."""
    puzzle_emb_ndim: SizeOrZero
    """Width of a puzzle's embedding vector; 0: no puzzle embeddings."""
    puzzle_emb_len: SizeOrZero
    """Puzzle tokens in front of the grid (P)."""
    register_tokens: SizeOrZero = 0
    """Learned tokens between puzzle tokens and grid, the same for all puzzles (SIC: 1, without puzzle tokens)."""
    random_start: Literal["none", "latents", "all"] = "none"
    """States that start from noise, N(0, 1) cut at two standard deviations, instead of one fixed vector: the latents
    (SIC), or the answer, too (EqR, arXiv 2605.21488)."""
    update_damping: BelowOne = 0.0
    """Share d of the old latent in an update: z = d * z + (1 - d) * net(z, ...) (EqR: 0.05)."""
    update_noise: Noise = 0.0
    """Standard deviation of the noise added to a latent after each update in training (EqR: 0.01)."""
    gradient_passes: Size | None = None
    """Passes at the end of a supervision step that are differentiated; null: all of the last round (in hrm: 2)."""
    halt_max_steps: TrainingSteps
    """Supervision steps after which a sequence always halts (N_sup)."""
    halt_exploration_prob: Fraction
    """Probability that a slot must reach a random minimum of steps before it may halt, drawn at each training step."""
    q_continue_loss: bool
    """True: train the continue logit (Q-learning) and halt when the halt logit exceeds it. hrm always does."""

    @property
    def block_width(self) -> int:
        """Width of a token inside the blocks: hidden_size, or lma.dim."""
        return (self.lma.dim or self.hidden_size // 2) if self.lma.enable else self.hidden_size

    @property
    def block_heads(self) -> int:
        """Attention heads of a block: num_heads, or lma.heads."""
        return self.lma.heads if self.lma.enable else self.num_heads

    @property
    def prefix_len(self) -> int:
        """Tokens in front of the grid: puzzle tokens and registers."""
        return self.puzzle_emb_len + self.register_tokens

    @property
    def uses_q_continue(self) -> bool:
        """Whether the continue logit is trained and compared with the halt logit."""
        return self.q_continue_loss or self.arch == "hrm"

    @model_validator(mode="after")
    def _check(self) -> Self:
        D, P = self.hidden_size, self.puzzle_emb_len
        if D % self.num_heads:
            raise ValueError(
                f"hidden_size must be a multiple of num_heads. Got hidden_size={D}, num_heads={self.num_heads}"
            )
        if self.arch == "trm_hier6" and self.L_cycles > 6:
            raise ValueError(f"L_cycles must be at most 6 in trm_hier6, one for each z. Got {self.L_cycles}")
        if self.lma.enable:
            self._check_lma()
        head_size, factor = self.block_width // self.block_heads, {"rope": 2, "rope_2d": 4}
        if not self.mlp_t and head_size % factor.get(self.pos_encodings, 1):
            sizes = "lma.dim / lma.heads" if self.lma.enable else "hidden_size / num_heads"
            needed = "an even head size" if self.pos_encodings == "rope" else "a head size that is a multiple of 4"
            raise ValueError(f"{self.pos_encodings} needs {needed}. Got {sizes} = {head_size}")
        if (self.puzzle_emb_ndim == 0) != (P == 0):
            raise ValueError(
                "puzzle_emb_ndim and puzzle_emb_len must both be 0 (no puzzle tokens) or both be positive. "
                f"Got {self.puzzle_emb_ndim} and {P}"
            )
        if self.puzzle_emb_ndim > P * D:
            raise ValueError(
                f"puzzle_emb_ndim must be at most puzzle_emb_len * hidden_size = {P * D}. Got {self.puzzle_emb_ndim}"
            )
        return self

    def _check_lma(self) -> None:
        D, lma = self.hidden_size, self.lma
        if self.arch != "trm":
            raise ValueError(f"lma.enable must be false unless arch is trm. Got arch={self.arch}")
        if self.pos_encodings == "rope_2d":
            raise ValueError("pos_encodings must not be rope_2d if lma.enable is true: latent tokens are not cells")
        if lma.dim is None and D % 2:
            raise ValueError(f"lma.dim must be a number if hidden_size is odd. Got null, hidden_size={D}")
        if self.block_width % lma.heads:
            raise ValueError(
                f"lma.dim must be a multiple of lma.heads. Got lma.dim={self.block_width}, lma.heads={lma.heads}"
            )
        if lma.mode == "clean" and D % lma.length:
            raise ValueError(
                f"lma.length must divide hidden_size in mode clean. Got lma.length={lma.length}, hidden_size={D}"
            )
