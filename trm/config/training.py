"""Section `train`: initialization, optimization, logging and checkpoints."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from trm.config.base import BelowOne, Device, Fraction, Natural, Positive, Precision, Rate, Scale, Section, Sha256


class InitFromParams(Section):
    """The model whose EMA weights initialize the training."""

    model: str
    """A model folder, a checkpoint file, or an s3:// URI."""
    sha256: Sha256
    """SHA-256 of its checkpoint.safetensors; another file is another request."""
    reset_puzzle_emb: bool
    """True: every row of the puzzle embedding starts at the mean of its rows, for puzzles it was not trained on."""


class AdamAtan2Params(Section):
    """Adam-atan2, for the network: Adam whose step is atan2(m, sqrt(v)), without an epsilon. Its rate is `train.lr`."""

    name: Literal["adam_atan2"]
    """The algorithm."""
    beta1: BelowOne
    """Decay of the average of the gradients."""
    beta2: BelowOne
    """Decay of the average of the squared gradients."""
    weight_decay: Rate
    """Decoupled weight decay: each step multiplies the weights by 1 - lr * weight_decay."""
    fused: bool
    """True: the CUDA kernel of the package adam-atan2 (`pip install trm[cuda]`); false: the same formula in PyTorch."""


class AdamWParams(Section):
    """AdamW as in `torch.optim.AdamW`. Its rate is `train.lr`."""

    name: Literal["adamw"]
    """The algorithm."""
    beta1: BelowOne
    """Decay of the average of the gradients."""
    beta2: BelowOne
    """Decay of the average of the squared gradients."""
    weight_decay: Rate
    """Decoupled weight decay: each step multiplies the weights by 1 - lr * weight_decay."""


class MuonParams(Section):
    """Muon as in `torch.optim.Muon`: momentum whose matrix is orthogonalized (SIC, arXiv 2601.19085).

    For the matrices of the blocks; embeddings, heads and biases have another optimizer.
    """

    name: Literal["muon"]
    """The algorithm."""
    lr: Rate
    """Learning rate of the matrices after warm-up (SIC: 0.02); the schedule is that of `train.lr`."""
    momentum: BelowOne
    """Decay of the average of the gradients."""
    weight_decay: Rate
    """Decoupled weight decay: each step multiplies the matrices by 1 - lr * weight_decay (SIC: 1e-4 = 0.02 * 0.005)."""
    others: Annotated[AdamAtan2Params | AdamWParams, Field(discriminator="name")]
    """The optimizer of the other weights."""


class SignSgdParams(Section):
    """Sparse SignSGD, for the puzzle embedding: only the rows of the batch move, each by the sign of its gradient."""

    name: Literal["sign_sgd"]
    """The algorithm."""
    lr: Rate
    """Learning rate after warm-up; the schedule is that of `train.lr`."""
    weight_decay: Rate
    """Decoupled weight decay of the rows that move."""


class DepthParams(Section):
    """A part of the training with a shallower recursion."""

    until: Fraction
    """End of this part, as a fraction of all optimizer steps."""
    H_cycles: Positive
    """Rounds of a supervision step, instead of model.H_cycles."""
    L_cycles: Positive
    """Latent updates of a round, instead of model.L_cycles."""


class OptimizerParams(Section):
    """The optimizer, one entry for each parameter group."""

    network: Annotated[AdamAtan2Params | AdamWParams | MuonParams, Field(discriminator="name")]
    """All weights of the network."""
    puzzle_emb: SignSgdParams
    """The puzzle embedding."""


class TrainParams(Section):
    """Optimization, logging and checkpoints."""

    init_from: InitFromParams | None
    """Start from a trained model; null: from random weights drawn by the seed."""
    freeze_weights: bool
    """True: only the puzzle embedding is trained; the network has no gradient."""

    epochs: Positive
    """Passes over the groups; a pass takes one puzzle of each group."""
    global_batch_size: Positive
    """Sequences of an optimizer step, over all processes."""
    micro_batch_size: Positive | None
    """Sequences that a process computes at a time, accumulating gradients, to save memory; null: all of them."""
    compile: Literal["auto"] | bool
    """Compile the network with torch.compile; auto: if the run is long enough to repay it and there is a C++ compiler.
    A resumed run keeps its choice."""
    lr: Rate
    """Learning rate of the network after warm-up."""
    lr_min_ratio: Fraction
    """Learning rate at the end of the cosine decay, relative to lr; 1: constant."""
    lr_warmup_steps: Natural
    """Optimizer steps of linear warm-up."""
    optimizer: OptimizerParams
    """The optimizer of each parameter group."""
    ema_rate: BelowOne
    """Decay of the exponential moving average of the weights; 0: no EMA."""
    loss: Literal["stablemax", "softmax"]
    """Token loss: cross-entropy with stablemax (float64) or softmax."""
    label_smoothing: BelowOne
    """Fraction of the token target that is distributed evenly over all tokens (SIC, arXiv 2601.19085: 0.2)."""
    halt_loss_weight: Rate
    """Weight of the halt loss, relative to the token loss (TRM: 0.5; SIC: 0.05)."""
    max_grad_norm: Scale | None
    """Largest norm of the gradient of the network; a larger one is scaled down (RSM, arXiv 2603.15641: 1)."""
    depth_schedule: Annotated[tuple[DepthParams, ...], Field(strict=False)]
    """Parts of the training with another depth, in order of `until`; after the last one the depth is that of `model`
    (CGAR, arXiv 2511.08653: 1 round of 2 passes until 0.3, 2 of 4 until 0.6). Evaluation has the depth of `model`."""
    carry_pool: Positive = 1
    """Batches of sequences that are trained in turn, one at each optimizer step. With 1 the consecutive steps of a
    sequence follow each other, and a model may memorize a small batch while it is trained."""
    winner_takes_all: Positive = 1
    """Start states of each sequence, of which only the one with the lowest loss is trained (SIC: 4); 1: off. Requires
    model.random_start. Evaluation has one start state."""
    online_augmentation: bool = False
    """True: each training example gets a new augmentation each time it is read, in addition to the stage `augment`,
    which can store the puzzles as they are (augment.num_aug: 0). Only for Sudoku and mazes."""
    max_hints: Fraction = 0.0
    """Largest fraction of the cells asked for that a training question gets from its answer. The fraction of an example
    is drawn uniformly from 0 to this number, which changes linearly to final_max_hints over the training."""
    final_max_hints: Fraction = 0.0
    """Value of max_hints at the end of the training; 0: the last examples are the puzzles as they are."""
    eval_interval: Positive
    """Epochs between two evaluations on the validation groups."""
    log_interval: Positive
    """Optimizer steps averaged into one line of the training log."""
    checkpoint_interval: Positive
    """Optimizer steps between two saved training states."""
    max_seconds: Scale | None
    """Time after which the training saves its state and ends with exit code 143, for queues with a time limit; the same
    command resumes. It is not part of the content key. null: no limit."""
    max_stall_seconds: Scale | None
    """Time without a step after which the training prints the stacks of all threads and ends with exit code 1, so that
    it is started again. It must exceed the time of a validation and of the compilation. It is not part of the content
    key. null: no limit."""
    rollback_on_nonfinite: bool = False
    """True: a loss or gradient that is NaN or infinite does not end the training. The last saved state is loaded, and
    the batch is skipped: it keeps its place in the schedule, without an optimizer step. The training ends after 10
    consecutive ones."""
    deterministic: bool = False
    """True: deterministic algorithms of PyTorch, so that on CUDA, too, a resumed training has the bytes of an
    uninterrupted one on the same GPU and software; slower there. On a CPU the result is the same without it."""
    precision: Precision
    """Compute dtype; auto: bfloat16 where the hardware multiplies it fast, else float32. Weights stay float32."""
    device: Device
    """Device; auto: CUDA, then MPS, then CPU."""
    seed: Natural
    """Seed of the initial weights, the order of the examples and the exploration."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.freeze_weights and self.init_from is None:
            raise ValueError("init_from must name a trained model if freeze_weights is true. Got null")
        ends = [part.until for part in self.depth_schedule]
        if ends != sorted(set(ends)):
            raise ValueError(f"depth_schedule: each until must be larger than the one before. Got {ends}")
        return self
