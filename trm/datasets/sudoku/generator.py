"""Making Sudoku puzzles: random full grids, and clues taken away while one solution is left."""

from typing import Literal

import numpy as np

from trm.datasets.sudoku.equivalence import equivalent, fingerprints
from trm.data.puzzle_csv import Puzzles
from trm.datasets.sudoku.solver import dig_puzzles, units_of
from trm.datasets.sudoku.augmentation import Grids
from trm.data.deduplication import Representatives
from trm.utils.errors import UserError
from trm.utils.progress import progress

FEWEST_CLUES = {4: 4, 6: 8, 9: 17}
"""No puzzle of that size with fewer clues has exactly one solution (found by others, by exhaustive search)."""

FRUITLESS_TRIES = {4: 5_000, 6: 10_000, 9: 5_000}
"""Tries in a row without a new puzzle after which there seem to be no more: some 20 seconds at most."""

_BLOCK = {4: 1024, 6: 256, 9: 32}
"""Tries made by one compiled call."""


def generate_puzzles(
    size: int, count: int, clues: Literal["minimal"] | int, seed: int, allow_leakage: bool
) -> Puzzles:
    """Make `count` different puzzles n x n with one solution each, rated by `rating`; a pure function of its arguments.

    `clues`: "minimal" (no clue can be left out) or exactly so many. No two are equivalent, or only no two identical
    where `allow_leakage`. Full grids come from a random search and clues are dropped in random order, so puzzles
    are varied but not uniformly distributed. Raises `UserError` where there are not enough such puzzles.
    """
    wanted = 0 if clues == "minimal" else clues
    if 0 < wanted < FEWEST_CLUES[size]:
        raise UserError(
            f"data.source.clues: no {size}x{size} puzzle with fewer than {FEWEST_CLUES[size]} clues has one solution. "
            f"Got {clues}; ask for more clues, or minimal"
        )
    units, block = units_of(size), _BLOCK[size]
    state = np.random.SeedSequence([seed, size]).generate_state(1, np.uint64) | np.uint64(1)
    questions, answers = np.zeros((2, block, size * size), np.uint8)
    ratings = np.zeros(block, np.int32)
    kept: list[tuple[Grids, Grids, int]] = []
    seen: set[bytes] = set()
    known = Representatives(equivalent)
    fruitless = tries = made = 0
    with progress(f"generate {size}x{size} puzzles", count) as shown:
        while len(kept) < count:
            dig_puzzles(units, wanted, state, questions, answers, ratings)
            grids = questions.reshape(-1, size, size)
            prints = fingerprints(grids) if not allow_leakage else np.zeros(block, np.uint64)
            before = len(kept)
            for index in range(block):
                tries += 1
                fruitless += 1
                if ratings[index] < 0:
                    continue
                made += 1
                name = questions[index].tobytes()
                if name in seen:
                    continue
                seen.add(name)
                question = grids[index].copy()
                if not allow_leakage and known.find_or_add(question, int(prints[index]), tries) != tries:
                    continue
                kept.append((question, answers[index].reshape(size, size).copy(), int(ratings[index])))
                fruitless = 0
                if len(kept) == count:
                    break
            shown.advance(len(kept) - before)
            if fruitless >= FRUITLESS_TRIES[size]:
                raise UserError(_exhausted(size, count, clues, len(kept), made, tries, allow_leakage))
    return Puzzles(
        np.stack([question for question, _, _ in kept]).reshape(count, -1) + np.uint8(1),  # digits to tokens
        np.stack([answer for _, answer, _ in kept]).reshape(count, -1) + np.uint8(1),
        ["generated"] * count,
        np.array([guesses for _, _, guesses in kept], dtype=np.int32),
    )


def _exhausted(
    size: int, count: int, clues: str | int, found: int, made: int, tries: int, allow_leakage: bool
) -> str:
    kind = "minimal puzzles" if clues == "minimal" else f"puzzles with {clues} clues and one solution"
    if made * 100 < tries:
        return (
            f"data.source.clues: only {found} of {count} {size}x{size} {kind} found in {tries} tries; "
            "ask for more clues, or minimal"
        )
    remedy = "" if allow_leakage else ", or set data.allow_leakage: true"
    return (
        f"data.source.train_puzzles and test_puzzles: only {found} different {size}x{size} {kind} found where {count} "
        f"are wanted, and none in the last {FRUITLESS_TRIES[size]} tries; ask for fewer{remedy}"
    )
