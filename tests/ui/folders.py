"""Model folders for tests of the page: hand-made networks of each dataset, with datasets next to them."""

from pathlib import Path

import numpy as np

from tests.custom_puzzles import generate_dataset, settings_of
from tests.datasets.arc_helpers import EVALUATION, TRAINING
from tests.networks import copying_network
from trm.config.data import AugmentParams
from trm.config.dataset_meta import DatasetMeta
from trm.config.model import ModelParams
from trm.data.parquet import read_meta
from trm.datasets.arc.dataset import plan_tasks
from trm.datasets.arithmetic.dataset import arithmetic_meta
from trm.datasets.augment import write_dataset
from trm.datasets.maze.dataset import maze_meta
from trm.training.checkpoint import save_checkpoint

LINEAGE: dict[str, object] = {"key": "key"}


def save(folder: Path, params: ModelParams, meta: DatasetMeta, fill: int = 1) -> None:
    """Write a model that copies its question and replaces token 1 by `fill`."""
    folder.mkdir(parents=True)
    changes = {"mlp_t": False, "num_heads": 1, "hidden_size": 2 * (meta.vocab_size + 2)}
    if meta.puzzles_digest:
        changes |= {"puzzle_emb_ndim": changes["hidden_size"], "puzzle_emb_len": 1}
    model = copying_network(params.model_copy(update=changes), meta, fill)
    save_checkpoint(folder / "checkpoint.safetensors", model, model, {})


def make_folders(root: Path, params: ModelParams) -> Path:
    """Models of mazes, sums, ARC and custom puzzles below `root`; datasets of the last two."""
    save(root / "maze/model", params, maze_meta(8))
    save(root / "maze/other", params, maze_meta(8), fill=5)
    save(root / "sums/model", params, arithmetic_meta(3))
    make_arc(root / "arc", params)
    make_custom(root / "custom", params)
    return root


def make_arc(folder: Path, params: ModelParams) -> None:
    """Four tasks on a canvas of 5 x 5, each with up to three augmentations; `c` has two test inputs."""
    augment = AugmentParams(num_aug=3, validation_groups=0, seed=0)
    plan = plan_tasks([*TRAINING, *EVALUATION], "arc-agi-1", augment, 5)
    (folder / "dataset").mkdir(parents=True)
    write_dataset(plan, folder / "dataset", LINEAGE)
    save(folder / "model", params, plan.meta)


def make_custom(folder: Path, params: ModelParams) -> None:
    """Grids of the letters a to d, 2 x 3; the output is the input."""
    folder.mkdir(parents=True)
    grids = ["".join(row) for row in np.random.default_rng(0).choice(list("abcd"), (12, 6))]
    rows = [f"{text[:3]}/{text[3:]}" for text in grids]
    lines = ["input,output", *(f"{row},{row}" for row in rows)]
    (folder / "puzzles.csv").write_text("\n".join(lines) + "\n")
    generate_dataset(settings_of(folder / "puzzles.csv"), folder / "dataset")
    save(folder / "model", params, read_meta(folder / "dataset"))
