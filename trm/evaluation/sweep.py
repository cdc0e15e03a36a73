"""Accuracy against network passes: what more thinking costs and what it brings (spec section 6).

Validation puzzles choose a setting, test puzzles score it.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from trm.config.evaluation import CurveParams
from trm.evaluation.metrics import paired_difference, proportion
from trm.evaluation.eval_dataset import EvalDataset
from trm.evaluation.trajectories import Noisy, Record, Setting, record
from trm.inference.engine import Dials
from trm.config.dataset_meta import DatasetMeta
from trm.models.act import TRM
from trm.utils.progress import progress

CHOOSES, SCORES = "validation", "test"
"""The splits that are asked."""
WITHIN = 0.01
"""The cheapest setting that is so close to the best is good enough."""


class Knobs(TypedDict):
    """A setting of the dials, by the names of section `evaluate`."""

    steps: int
    early_halting: bool
    verify: bool
    votes: int
    rollouts: int
    noise: float


class Row(Knobs):
    """What a setting came to. Fractions; `passes` is the mean of a test example, over all its tries."""

    passes: float
    exact: float
    low: float
    high: float
    """The 95 % interval of `exact`."""
    difference: float
    """Of `exact` to the plain setting's, the same puzzles asked of both."""
    difference_low: float
    difference_high: float
    valid: float | None
    """Answers that obey the rules, where there are some."""


class Asked(TypedDict):
    """The rows of a split, cheapest first."""

    puzzles: int
    settings: list[Row]


class Curve(TypedDict):
    """What `curve.json` holds."""

    passes_per_step: int
    plain: Knobs
    """As published: `halt_max_steps` steps and nothing else."""
    chosen: Knobs | None
    """The cheapest setting within `WITHIN` of the best; None without validation puzzles, as test puzzles choose
    nothing."""
    splits: dict[str, Asked]


def measure_curve(model: TRM, meta: DatasetMeta, dataset: Path, grid: CurveParams, batch_size: int, seed: int) -> Curve:
    """Ask `model` the validation and the test puzzles of `dataset` in every setting of the `grid`.

    Raises `UserError` for votes that the kind of data does not have, and where no answer is known.
    """
    plain_steps = model.config.halt_max_steps
    steps = sorted({*grid.steps, plain_steps})
    plain = Setting(Dials(plain_steps), votes=1, verify=False)
    asked: dict[str, Asked] = {}
    for split in (name for name in (CHOOSES, SCORES) if (dataset / name).is_dir()):
        tests = EvalDataset(dataset, meta, max(grid.votes), grid.max_puzzles, seed, split)
        tries = [
            Noisy(0.0, 0),
            *(Noisy(scale, number) for scale in grid.noise for number in range(1, max(grid.rollouts))),
        ]
        total = len(tries) * sum(tests.sequences(task) for task in tests.sample())
        with progress(f"curve, {split}", total) as bar:
            seen = record(model, tests, max(steps), tries, batch_size, bar.advance)
        settings = list(_settings(grid, steps, seen.valid is not None and not hasattr(tests.kind, "recall")))
        asked[split] = {"puzzles": len(seen.answer), "settings": _rows(seen, settings, plain, model.passes)}
    chosen = cheapest(asked[CHOOSES]["settings"]) if CHOOSES in asked else None
    return {
        "passes_per_step": model.passes,
        "plain": knobs(plain),
        "chosen": chosen and _knobs_of(chosen),
        "splits": asked,
    }


def _settings(grid: CurveParams, steps: Sequence[int], has_rules: bool) -> Iterator[Setting]:
    noisy = [
        (rollouts, scale)
        for rollouts in sorted(set(grid.rollouts))
        if rollouts > 1
        for scale in sorted(set(grid.noise))
    ]
    tries = [(1, 0.0), *noisy]
    checks = (False, True) if has_rules else (False,)
    votes = sorted({1, *grid.votes})
    for rounds, halts, check, k, (rollouts, scale) in itertools.product(steps, (False, True), checks, votes, tries):
        yield Setting(Dials(rounds, halts, rollouts, scale), k, check)


def _rows(seen: Record, settings: Sequence[Setting], plain: Setting, passes: int) -> list[Row]:
    as_published = _right(seen, seen.replay(plain)[0])
    rows = []
    for setting in settings:
        answer, steps = seen.replay(setting)
        right = _right(seen, answer)
        exact, difference = proportion(int(right.sum()), len(right)), paired_difference(right, as_published)
        valid = None if seen.valid is None else float(seen.valid[np.arange(len(answer)), answer].mean())
        rows.append(
            Row(
                **knobs(setting),
                passes=passes * float(steps.mean()),
                exact=_known(exact["value"]),
                low=_known(exact["low"]),
                high=_known(exact["high"]),
                difference=_known(difference["value"]),
                difference_low=_known(difference["low"]),
                difference_high=_known(difference["high"]),
                valid=valid,
            )
        )
    return sorted(rows, key=lambda row: row["passes"])


def _right(seen: Record, answer: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    return seen.right[np.arange(len(answer)), answer]


def _known(value: float | None) -> float:
    assert value is not None
    return value


def knobs(setting: Setting) -> Knobs:
    """The setting by the names of section `evaluate`."""
    dials = setting.dials
    return Knobs(
        steps=dials.steps,
        early_halting=dials.early_halting,
        verify=setting.verify,
        votes=setting.votes,
        rollouts=dials.rollouts,
        noise=dials.noise,
    )


def _knobs_of(row: Mapping[str, object]) -> Knobs:
    return Knobs(**{name: row[name] for name in Knobs.__annotations__})  # pyright: ignore[reportArgumentType]


def cheapest(rows: Sequence[Row]) -> Row:
    """The row with fewest passes among those within `WITHIN` of the best accuracy."""
    best = max(row["exact"] for row in rows)
    return min((row for row in rows if row["exact"] >= best - WITHIN - 1e-9), key=lambda row: row["passes"])


def find(rows: Sequence[Row], wanted: Knobs) -> Row:
    """The row of that setting."""
    return next(row for row in rows if _knobs_of(row) == wanted)


def frontier(rows: Sequence[Row]) -> list[Row]:
    """The rows that no other row beats: each dearer one is more accurate."""
    kept: list[Row] = []
    for row in sorted(rows, key=lambda row: (row["passes"], -row["exact"])):
        if not kept or row["exact"] > kept[-1]["exact"]:
            kept.append(row)
    return kept


def one_dial(rows: Sequence[Row], plain: Knobs) -> list[tuple[str, Row]]:
    """The rows in which one dial alone is turned away from `plain`, each with the dial's name."""
    turned = []
    for row in rows:
        differs = [name for name, value in plain.items() if row[name] != value]  # pyright: ignore[reportTypedDictNotRequiredAccess]
        dial = "rollouts" if differs == ["rollouts", "noise"] else differs[0] if len(differs) == 1 else None
        if dial:
            turned.append((dial, row))
    order = list(plain)
    return sorted(
        turned,
        key=lambda pair: (
            order.index(pair[0]),
            pair[1]["steps"],
            pair[1]["votes"],
            pair[1]["rollouts"],
            pair[1]["noise"],
        ),
    )
