"""The settings of an experiment: typed, frozen, complete. The only reader of `params.yaml`.

Nothing that can change a result has a default here: a missing key is refused, and so is an unknown one. The names are
those of the published configurations; the table beside `ModelParams` gives the symbols of the papers. The settings of
section `data` stand in the module of each kind of data, which is looked up by its name like any plug-in.
"""

import importlib
import json
import os
import pkgutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, create_model, model_validator

from trm.config.cluster import ClusterParams
from trm.utils.errors import ParamsError
from trm.config.base import (
    ABSENT_IS_NULL,
    BelowOne,
    Device,
    Fraction,
    Natural,
    Positive,
    Precision,
    Rate,
    Scale,
    Section,
    SectionT,
    Sha256,
    Steps,
    parse,
    read_yaml,
)
from trm.config.tracking import VARIABLE, TrackingParams

KINDS = "trm.datasets"
"""The package that holds a module for each kind of data."""


class DataSection(Section):
    """What is learned. Each kind of data has settings of its own: `Settings` in `trm/datasets/<kind>.py`."""

    kind: str
    """The name of its module; see `dataset_module`."""

    def most_versions(self) -> int | None:
        """Versions that a puzzle has at most, itself included; None: no known bound."""
        return None


class AugmentParams(Section):
    """What is made of the raw puzzles: shuffled versions, and groups held out for validation."""

    num_aug: Natural
    """Versions of each training puzzle (in ARC: of each task), besides the puzzle as it is."""
    validation_groups: Natural
    """Training groups held out, as they are, to choose the best checkpoint; 0: the last checkpoint is the result."""
    seed: Natural


class LmaParams(Section):
    """Latent meta attention, a front end of arch `trm`: the blocks run on a shorter sequence (spec section 5)."""

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

    arch: Literal["trm", "trm_singlez", "trm_hier6", "hrm", "transformers_baseline"]
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
    puzzle_emb_ndim: Natural
    """Width of a puzzle's embedding vector; 0: no puzzle tokens."""
    puzzle_emb_len: Natural
    """Puzzle tokens in front of the grid."""
    halt_max_steps: Positive
    halt_exploration_prob: Fraction
    q_continue_loss: bool
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
        return self.q_continue_loss or self.arch == "hrm"

    @model_validator(mode="after")
    def _fits(self) -> Self:
        D, P = self.hidden_size, self.puzzle_emb_len
        if D % self.num_heads:
            raise ValueError(
                f"hidden_size must be a multiple of num_heads. Got hidden_size={D}, num_heads={self.num_heads}"
            )
        if self.arch == "trm_hier6" and self.L_cycles > 6:
            raise ValueError(f"L_cycles must be at most 6 in seven-state, a pass for each z. Got {self.L_cycles}")
        if self.lma.enable:
            self._lma_fits()
        head_size = self.block_width // self.block_heads
        if self.pos_encodings == "rope" and not self.mlp_t and head_size % 2:
            sizes = "lma.dim / lma.heads" if self.lma.enable else "hidden_size / num_heads"
            raise ValueError(f"rope needs an even head size. Got {sizes} = {head_size}")
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

    def _lma_fits(self) -> None:
        D, lma = self.hidden_size, self.lma
        if self.arch != "trm":
            raise ValueError(f"lma.enable must be false but in arch trm. Got arch={self.arch}")
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


class InitFromParams(Section):
    """The model whose averaged weights a training starts from."""

    model: str
    """A model folder, a checkpoint file, or an s3:// address."""
    sha256: Sha256
    """Of its checkpoint.safetensors, so that another one is another request."""
    reset_puzzle_emb: bool
    """True: each row of the puzzle table starts at the mean of its rows, for puzzles that it was not trained on."""


class TrainParams(Section):
    """Optimisation and its rhythm (spec sections 3 and 4)."""

    start: InitFromParams | None
    """null: new weights, drawn from the seed."""
    freeze_weights: bool
    """True: the puzzle table alone is trained, and the network has no gradient."""

    epochs: Positive
    """Passes over the groups; one puzzle of each group a pass."""
    global_batch_size: Positive
    """Sequences of an update, over all processes."""
    micro_batch_size: Positive | None
    """Sequences that a process computes at a time, adding up gradients, where memory is short; null: all it has."""
    compile: bool
    """True: torch.compile makes the network faster, after a while; checkpoints are the same."""
    lr: Rate
    lr_min_ratio: Fraction
    lr_warmup_steps: Natural
    beta1: BelowOne
    beta2: BelowOne
    weight_decay: Rate
    puzzle_emb_lr: Rate
    puzzle_emb_weight_decay: Rate
    ema_rate: BelowOne
    """Share of the old average kept at each step; 0: the average is the last weights (no EMA)."""
    loss: Literal["stablemax", "softmax"]
    eval_interval: Positive
    """Epochs between evaluations on the validation groups."""
    log_interval: Positive
    """Steps averaged into one line of the training log."""
    checkpoint_interval: Positive
    """Steps between two saved states, from which a killed run goes on."""
    precision: Precision
    device: Device
    seed: Natural

    @model_validator(mode="after")
    def _has_a_network_to_freeze(self) -> Self:
        if self.freeze_weights and self.start is None:
            raise ValueError("start must name a trained model where freeze_weights is true. Got null")
        return self


class EvaluateParams(Section):
    """How the test puzzles are answered and scored (spec section 6)."""

    steps: Steps
    """Supervision steps of each sequence, at most."""
    early_halting: bool
    """True: a sequence stops where training would have halted it. Published figures are without."""
    rollouts: Positive
    """Tries of each sequence with noise of their own, of which the answer with the highest halt logit wins."""
    noise: Rate
    """Standard deviation of the noise on the latent states of all rollouts but the first."""
    verify: bool
    """True: the work on a puzzle stops at the first answer that obeys the rules, which wins."""
    votes: Positive
    """Versions of each puzzle that vote on its answer: the puzzle as it is and `votes - 1` shuffles."""
    pass_at_k: Annotated[tuple[Positive, ...], Field(min_length=1, strict=False)]
    max_puzzles: Positive | None
    """Score a seeded sample of so many test puzzles (groups: in ARC tasks); null: all of them."""
    batch_size: Positive
    precision: Precision
    device: Device
    seed: Natural

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.rollouts > 1) != (self.noise > 0):
            raise ValueError(
                "rollouts above 1 need noise above 0, and the other way round. "
                f"Got rollouts={self.rollouts}, noise={self.noise}"
            )
        return self


class CurveParams(Section):
    """How far more thinking helps: accuracy against network passes for every combination of these dials (spec section
    6), each with and without early halting and, where rules are known, with and without their check.
    """

    steps: Annotated[tuple[Steps, ...], Field(min_length=1, strict=False)]
    votes: Annotated[tuple[Positive, ...], Field(min_length=1, strict=False)]
    rollouts: Annotated[tuple[Positive, ...], Field(min_length=1, strict=False)]
    noise: Annotated[tuple[Scale, ...], Field(strict=False)]
    """Standard deviations to try, for rollouts above 1."""
    max_puzzles: Positive | None
    """Puzzles of each split, a seeded sample of them; null: all. Validation puzzles choose, test puzzles score."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (max(self.rollouts) > 1) != bool(self.noise):
            raise ValueError(
                "rollouts above 1 need a noise, and the other way round. "
                f"Got rollouts={list(self.rollouts)}, noise={list(self.noise)}"
            )
        return self


class ReportParams(Section):
    """The page about an experiment (spec section 6)."""

    published: dict[str, Fraction]
    """Scores that others published of this experiment, to stand beside ours: a metric's name -> fraction."""
    gallery: Natural
    """Test puzzles that are shown step by step, half of them solved and half failed where there are such."""
    curve: CurveParams | None
    """null: more thinking is not measured."""
    batch_size: Positive
    precision: Precision
    device: Device
    seed: Natural


class Params(Section):
    """A whole experiment: one section for each stage's concern, and the cluster that may run it."""

    data: DataSection
    augment: AugmentParams
    model: ModelParams
    train: TrainParams
    evaluate: EvaluateParams
    report: ReportParams
    tracking: TrackingParams = TrackingParams()
    cluster: ClusterParams = ClusterParams()

    @model_validator(mode="after")
    def _versions_exist(self) -> Self:
        most = self.data.most_versions()
        if most is not None and self.augment.num_aug >= most:
            raise ValueError(
                f"augment.num_aug must be at most {most - 1}, the versions that such a puzzle has beside itself. "
                f"Got {self.augment.num_aug}"
            )
        curve = self.report.test_time_compute
        asked = {"evaluate.num_votes": self.evaluate.num_votes, "report.test_time_compute.votes": max(curve.votes) if curve else 1}
        for name, votes in asked.items():
            if most is not None and votes > most:
                raise ValueError(f"{name} must be at most {most}, the versions that such a puzzle has. Got {votes}")
        return self


def load_params(path: str | Path) -> Params:
    """Read and check a whole `params.yaml`. Raises `ParamsError` with the key, its value and the remedy."""
    values = read_yaml(path, "`trm recipe use sudoku-6x6` writes one")
    return check_params(values, str(path))


def check_params(values: object, where: str) -> Params:
    """What a whole params file holds, checked; `where` opens the message of the `ParamsError`."""
    return parse(_of_kind(Params, values, where), values, where)


def load_sections(source: str, names: Sequence[str]) -> dict[str, Any]:
    """The named sections of a params file; or of a JSON text, which holds these sections and no other.

    A container gets its params as such a text, in which a key that is not given is null. Raises `ParamsError`.
    """
    if not source.lstrip().startswith("{"):
        params = load_params(source)
        return {name: getattr(params, name) for name in names}
    where = "--params"
    try:
        values = json.loads(source)
    except ValueError as error:
        raise ParamsError(f"{where}: not valid JSON ({error}); give a file, or one JSON object of sections") from None
    fields: dict[str, Any] = {name: (Params.model_fields[name].annotation, ...) for name in names}
    sections = create_model("Sections", __base__=Section, **fields)
    return dict(parse(_of_kind(sections, values, where), values, where, ABSENT_IS_NULL))


def load_tracking(source: str) -> TrackingParams:
    """The section `tracking`: of `$TRM_TRACKING` (JSON) where that is set, else of a params file. Raises
    `ParamsError`.
    """
    if text := os.environ.get(VARIABLE):
        try:
            return parse(TrackingParams, json.loads(text), f"${VARIABLE}")
        except ValueError as error:
            if isinstance(error, ParamsError):
                raise
            raise ParamsError(f"${VARIABLE}: not valid JSON ({error})") from None
    return TrackingParams() if source.lstrip().startswith("{") else load_params(source).tracking


def _of_kind(cls: type[SectionT], values: object, where: str) -> type[SectionT]:
    """`cls` with the settings of the kind of data that `values` name, if they have a section `data`."""
    data = values.get("data") if isinstance(values, Mapping) else None
    if not isinstance(data, Mapping) or "kind" not in data or "data" not in cls.model_fields:
        return cls
    try:
        settings = dataset_module(data["kind"]).Settings
    except ParamsError as error:
        raise ParamsError(f"{where}: {error}") from None
    return create_model(cls.__name__, __base__=cls, data=(settings, ...))


def kinds() -> list[str]:
    """The names of the kinds of data."""
    return sorted(module.name for module in pkgutil.iter_modules(importlib.import_module(KINDS).__path__))


def dataset_module(name: object) -> ModuleType:
    """The module of a kind of data. Raises `ParamsError` where there is none."""
    known = kinds()
    if name not in known:
        raise ParamsError(f"data.name must be one of {', '.join(known)}. Got {name!r}")
    module = importlib.import_module(f"{KINDS}.{name}")
    if not hasattr(module, "Settings"):
        raise ParamsError(f"data.name {name}: its module has no class Settings; trm/data/protocol.py says what it needs")
    return module


def canonical_json(value: BaseModel | Mapping[str, Any]) -> str:
    """The one JSON text of some settings: sorted keys, no spaces."""
    data = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
