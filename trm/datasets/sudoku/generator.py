"""Generation of Sudoku puzzles: random full grids whose clues are removed as long as the solution stays unique."""

from functools import partial
from typing import Literal

import numpy as np

from trm.data.deduplication import Representatives
from trm.data.puzzle_csv import Puzzles
from trm.datasets.sudoku.augmentation import Grids
from trm.datasets.sudoku.equivalence import are_equivalent, fingerprints
from trm.datasets.sudoku.solver import dig_puzzles, units_of
from trm.utils.errors import UserError
from trm.utils.memory import check_memory, generation_announcement
from trm.utils.progress import progress

MIN_CLUES = {4: 4, 6: 8, 9: 17}
"""Grid size -> fewest clues of a puzzle with a unique solution, known from exhaustive search (9x9: McGuire et al.,
2012).
"""

MAX_TRIES_WITHOUT_PUZZLE = {4: 5_000, 6: 10_000, 9: 5_000}
"""Grid size -> consecutive tries without a new puzzle after which generation fails: at most about 20 seconds."""

BYTES_PER_PUZZLE = 500
"""Memory of a generated puzzle besides its cells: objects, and its entry among the puzzles seen."""
_BLOCK = {4: 1024, 6: 256, 9: 32}
"""Grid size -> tries per compiled call."""


def generate_puzzles(size: int, count: int, clues: Literal["minimal"] | int, seed: int, allow_leakage: bool) -> Puzzles:
    """Generate `count` different puzzles n x n with a unique solution, rated by `solver.rating`.

    clues: "minimal" (no clue can be removed) or the exact number. No two puzzles are equivalent, or with
    `allow_leakage` no two are identical. The result depends only on the arguments. Full grids come from a randomized
    search and clues are removed in random order; the distribution is not uniform. Raises `UserError` if not enough
    puzzles are found.
    """
    num_clues = 0 if clues == "minimal" else clues
    if 0 < num_clues < MIN_CLUES[size]:
        raise UserError(
            f"data.source.clues: no {size}x{size} puzzle with fewer than {MIN_CLUES[size]} clues has one solution. "
            f"Got {clues}; increase it, or set it to minimal"
        )
    needed = count * (BYTES_PER_PUZZLE + 4 * size * size)
    check_memory(needed, f"data.source: generating {count} puzzles")
    units, block = units_of(size), _BLOCK[size]
    state = np.random.SeedSequence([seed, size]).generate_state(1, np.uint64) | np.uint64(1)
    questions, answers = np.zeros((2, block, size * size), np.uint8)
    ratings = np.zeros(block, np.int32)
    puzzles: list[tuple[Grids, Grids, int]] = []
    questions_seen: set[bytes] = set()
    representatives = Representatives(are_equivalent)
    tries_without_puzzle = tries = valid = 0
    announce = partial(generation_announcement, count, "puzzles", needed)
    with progress(f"generate {size}x{size} puzzles", count, announce=announce) as bar:
        while len(puzzles) < count:
            dig_puzzles(units, num_clues, state, questions, answers, ratings)
            grids = questions.reshape(-1, size, size)
            marks = fingerprints(grids) if not allow_leakage else np.zeros(block, np.uint64)
            before = len(puzzles)
            for index in range(block):
                tries += 1
                tries_without_puzzle += 1
                if ratings[index] < 0:
                    continue
                valid += 1
                name = questions[index].tobytes()
                if name in questions_seen:
                    continue
                questions_seen.add(name)
                question = grids[index].copy()
                if not allow_leakage and representatives.find_or_add(question, int(marks[index]), tries) != tries:
                    continue
                puzzles.append((question, answers[index].reshape(size, size).copy(), int(ratings[index])))
                tries_without_puzzle = 0
                if len(puzzles) == count:
                    break
            bar.advance(len(puzzles) - before)
            if tries_without_puzzle >= MAX_TRIES_WITHOUT_PUZZLE[size]:
                raise UserError(_exhausted(size, count, clues, len(puzzles), valid, tries, allow_leakage))
    return Puzzles(
        np.stack([question for question, _, _ in puzzles]).reshape(count, -1) + np.uint8(1),  # digits to tokens
        np.stack([answer for _, answer, _ in puzzles]).reshape(count, -1) + np.uint8(1),
        ["generated"] * count,
        np.array([guesses for _, _, guesses in puzzles], dtype=np.int32),
    )


def _exhausted(size: int, count: int, clues: str | int, found: int, valid: int, tries: int, allow_leakage: bool) -> str:
    description = "minimal puzzles" if clues == "minimal" else f"puzzles with {clues} clues and one solution"
    if valid * 100 < tries:
        return (
            f"data.source.clues: only {found} of {count} {size}x{size} {description} found in {tries} tries; "
            "increase data.source.clues, or set it to minimal"
        )
    remedy = "" if allow_leakage else ", or set data.allow_leakage: true"
    return (
        f"data.source.train_puzzles and test_puzzles: only {found} different {size}x{size} {description} found. "
        f"Expected {count}; no new one in the last {MAX_TRIES_WITHOUT_PUZZLE[size]} tries; reduce them{remedy}"
    )
