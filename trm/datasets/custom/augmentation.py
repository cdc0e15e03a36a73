"""Versions of a person's own puzzles: drawn from the symmetries that the settings choose, applied and undone.

A version is the puzzle with its symbols permuted, then turned or mirrored, then put somewhere on the canvas.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trm.data.symmetries import INVERSE, KEEP_SHAPE, SWAP_SIDES, apply_symmetry
from trm.config.dataset_meta import DatasetMeta

DRAWS_PER_VERSION = 5
"""So many draws are made at most for each version that is wanted; repeats do not count."""

Tokens = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Space:
    """The versions that a data set's puzzles have."""

    height: int
    width: int
    symmetries: tuple[int, ...]
    """Those that are drawn; (0,) for none."""
    vocab_size: int
    free: Tokens
    """The tokens that are permuted, ascending; empty for none."""
    translate: bool


@dataclass(frozen=True)
class Draws:
    """What makes k versions of a puzzle."""

    symmetries: Ints
    """int64 [k]."""
    symbols: Tokens
    """uint8 [k, V]: the image of each token."""
    rows: Ints
    """int64 [k]: the place of the version's upper left cell on the canvas."""
    columns: Ints

    def __len__(self) -> int:
        return len(self.symmetries)


def space_of(meta: DatasetMeta) -> Space:
    """The versions that the symmetries in `meta` allow; a canvas that is no square is never turned."""
    turns = (0,)
    if "dihedral" in meta.symmetries:
        turns = tuple(range(len(INVERSE))) if meta.height == meta.width else KEEP_SHAPE
    free = np.zeros(0, np.uint8)
    if "permute_symbols" in meta.symmetries:
        tokens = [t for t, symbol in enumerate(meta.vocabulary) if t and symbol not in meta.fixed_symbols]
        free = np.array(tokens, np.uint8)
    return Space(meta.height, meta.width, turns, meta.vocab_size, free, "translate" in meta.symmetries)


def as_it_is(space: Space, row: int = 0, column: int = 0) -> Draws:
    """The draw that changes nothing, for a puzzle that lies at (row, column)."""
    symbols = np.arange(space.vocab_size, dtype=np.uint8)[None]
    return Draws(np.zeros(1, np.int64), symbols, np.array([row]), np.array([column]))


def draw(space: Space, rng: np.random.Generator, shape: tuple[int, int], k: int) -> Draws:
    """k draws for a puzzle of that shape."""
    symmetries = rng.choice(np.array(space.symmetries, np.int64), k)
    symbols = np.tile(np.arange(space.vocab_size, dtype=np.uint8), (k, 1))
    if len(space.free):
        symbols[:, space.free] = rng.permuted(np.tile(space.free, (k, 1)), axis=1)
    rows, columns = np.zeros((2, k), np.int64)
    if space.translate:
        swapped = np.isin(symmetries, SWAP_SIDES)
        rows = rng.integers(0, space.height - np.where(swapped, shape[1], shape[0]), endpoint=True)
        columns = rng.integers(0, space.width - np.where(swapped, shape[0], shape[1]), endpoint=True)
    return Draws(symmetries, symbols, rows, columns)


def draw_distinct(space: Space, rng: np.random.Generator, question: Tokens, answer: Tokens, k: int) -> Tokens:
    """The puzzle as it is, and k versions of it, or fewer where the draws run out; no two are the same pair.

    question, answer: uint8 [h, w] of tokens. Returns both on canvases, the answer's beside the question's:
    uint8 [1 + k or fewer, 2 L].
    """
    kept = [_pairs(space, as_it_is(space), question, answer)]
    seen = {kept[0].tobytes()}
    wanted = k
    for _ in range(DRAWS_PER_VERSION):
        if not wanted:
            break
        drawn = draw(space, rng, (question.shape[0], question.shape[1]), k)
        new = []
        pairs = _pairs(space, drawn, question, answer)
        for index, pair in enumerate(map(bytes, pairs)):
            if pair not in seen and len(new) < wanted:
                seen.add(pair)
                new.append(index)
        kept.append(pairs[np.array(new, np.int64)])
        wanted -= len(new)
    return np.concatenate(kept)


def join(parts: list[Draws]) -> Draws:
    """All the draws as one."""
    return Draws(
        np.concatenate([part.symmetries for part in parts]),
        np.concatenate([part.symbols for part in parts]),
        np.concatenate([part.rows for part in parts]),
        np.concatenate([part.columns for part in parts]),
    )


def apply(space: Space, draws: Draws, grid: Tokens) -> Tokens:
    """The versions of a grid, uint8 [h, w] of tokens, on canvases: uint8 [k, L]."""
    canvases = np.zeros((len(draws), space.height * space.width), np.uint8)
    corners = draws.rows * space.width + draws.columns
    for symmetry in np.unique(draws.symmetries).tolist():
        which = np.flatnonzero(draws.symmetries == symmetry)
        turned = apply_symmetry(grid, symmetry)
        cells = (np.arange(turned.shape[0])[:, None] * space.width + np.arange(turned.shape[1])).ravel()
        canvases[which[:, None], corners[which, None] + cells] = draws.symbols[which][:, turned.ravel()]
    return canvases


def undo(space: Space, draws: Draws, canvases: Tokens, shape: tuple[int, int]) -> list[Tokens]:
    """What lies where each version of a grid of that shape lay, brought back: k arrays uint8 [h, w] of tokens."""
    grids = []
    for index, canvas in enumerate(canvases.reshape(-1, space.height, space.width)):
        symmetry, row, column = int(draws.symmetries[index]), draws.rows[index], draws.columns[index]
        height, width = shape[::-1] if symmetry in SWAP_SIDES else shape
        cut = canvas[row : row + height, column : column + width]
        original = np.argsort(draws.symbols[index]).astype(np.uint8)
        grids.append(apply_symmetry(original[cut], INVERSE[symmetry]))
    return grids


def canonical_forms(space: Space, grids: list[Tokens]) -> list[bytes]:
    """For each grid, uint8 [h, w] of tokens, the same bytes as for all its versions, and for no other grid.

    The smallest of its turned and mirrored forms, with the symbols that are permuted renamed by first appearance.
    """
    forms: list[bytes] = [b""] * len(grids)
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for index, grid in enumerate(grids):
        by_shape.setdefault(grid.shape, []).append(index)
    for which in by_shape.values():
        stacked = np.stack([grids[index] for index in which])
        for symmetry in space.symmetries:
            turned = apply_symmetry(stacked, symmetry)
            named = _renamed(space, turned.reshape(len(which), -1))
            shape = bytes(turned.shape[1:])
            for index, values in zip(which, named, strict=True):
                form = shape + values.tobytes()
                forms[index] = min(forms[index] or form, form)
    return forms


def _renamed(space: Space, grids: Tokens) -> Tokens:
    """Grids uint8 [n, cells] with the free tokens renamed by first appearance."""
    if not len(space.free):
        return grids
    # Each grid's names: 255 where a free token has none yet (no token is 255, there being 254 symbols).
    names = np.tile(np.arange(space.vocab_size, dtype=np.uint8), (len(grids), 1))
    names[:, space.free] = 255
    used = np.zeros(len(grids), np.int64)
    renamed = np.empty_like(grids)
    every = np.arange(len(grids))
    for cell in range(grids.shape[1]):
        tokens = grids[:, cell]
        new = np.flatnonzero(names[every, tokens] == 255)
        names[new, tokens[new]] = space.free[used[new]]
        used[new] += 1
        renamed[:, cell] = names[every, tokens]
    return renamed


def _pairs(space: Space, draws: Draws, question: Tokens, answer: Tokens) -> Tokens:
    return np.hstack([apply(space, draws, question), apply(space, draws, answer)])
