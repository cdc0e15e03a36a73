"""Augmentations of custom puzzles: drawn from the configured symmetries, applied and inverted.

An augmentation permutes the symbols, then rotates or reflects the grid, then translates it on the canvas.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trm.config.dataset_meta import DatasetMeta
from trm.data.canvas import FIRST_CELL, crop_grids, draw_ends
from trm.data.symmetries import INVERSE, KEEP_SHAPE, SWAP_SIDES, apply_symmetry

MAX_DRAWS_PER_AUGMENTATION = 5
"""Draws per augmentation; duplicates are dropped."""

Tokens = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class AugmentationSpace:
    """The set of augmentations of a dataset."""

    height: int
    """Height of the canvas."""
    width: int
    """Width of the canvas."""
    symmetries: tuple[int, ...]
    """Allowed symmetries (`trm.data.symmetries`); (0,): only the identity."""
    vocab_size: int
    """Size of the vocabulary (V)."""
    free: Tokens
    """Permuted tokens in ascending order; empty: none."""
    translate: bool
    """Whether grids are translated."""
    has_ends: bool
    """Whether end tokens delimit the grids, because outputs may have other shapes than their inputs."""


@dataclass(frozen=True)
class Transforms:
    """k augmentations."""

    symmetries: Ints
    """int64 [k]."""
    symbols: Tokens
    """Image of each token, uint8 [k, V]."""
    rows: Ints
    """Row of the upper left cell on the canvas, int64 [k]."""
    columns: Ints
    """Column of the upper left cell on the canvas, int64 [k]."""

    def __len__(self) -> int:
        return len(self.symmetries)


def augmentation_space(meta: DatasetMeta) -> AugmentationSpace:
    """The augmentations allowed by `meta.symmetries`. On a canvas that is not square, `dihedral` keeps the shape."""
    symmetries, first = (0,), meta.first_cell_token
    if "dihedral" in meta.symmetries:
        symmetries = tuple(range(len(INVERSE))) if meta.height == meta.width else KEEP_SHAPE
    free = np.zeros(0, np.uint8)
    if "permute_symbols" in meta.symmetries:
        tokens = [t for t, symbol in enumerate(meta.vocabulary) if t >= first and symbol not in meta.fixed_symbols]
        free = np.array(tokens, np.uint8)
    translate, has_ends = "translate" in meta.symmetries, first == FIRST_CELL
    return AugmentationSpace(meta.height, meta.width, symmetries, meta.vocab_size, free, translate, has_ends)


def identity_transform(space: AugmentationSpace, row: int = 0, column: int = 0) -> Transforms:
    """The identity for a grid at (row, column)."""
    symbols = np.arange(space.vocab_size, dtype=np.uint8)[None]
    return Transforms(np.zeros(1, np.int64), symbols, np.array([row]), np.array([column]))


def draw_transforms(space: AugmentationSpace, rng: np.random.Generator, shape: tuple[int, int], k: int) -> Transforms:
    """Draw k random transforms for grids of at most this shape."""
    symmetries = rng.choice(np.array(space.symmetries, np.int64), k)
    symbols = np.tile(np.arange(space.vocab_size, dtype=np.uint8), (k, 1))
    if len(space.free):
        symbols[:, space.free] = rng.permuted(np.tile(space.free, (k, 1)), axis=1)
    rows, columns = np.zeros((2, k), np.int64)
    if space.translate:
        swaps_sides = np.isin(symmetries, SWAP_SIDES)
        rows = rng.integers(0, space.height - np.where(swaps_sides, shape[1], shape[0]), endpoint=True)
        columns = rng.integers(0, space.width - np.where(swaps_sides, shape[0], shape[1]), endpoint=True)
    return Transforms(symmetries, symbols, rows, columns)


def draw_distinct_augmentations(
    space: AugmentationSpace, rng: np.random.Generator, question: Tokens, answer: Tokens, k: int
) -> Tokens:
    """The puzzle and up to k augmentations of it, no two with the same question and answer.

    question, answer: tokens, uint8 [h, w] each. Returns uint8 [1 + k or fewer, 2 L]: the canvas of the question
    followed by that of the answer.
    """
    results = [_question_answer_canvases(space, identity_transform(space), question, answer)]
    seen = {results[0].tobytes()}
    missing = k
    for _ in range(MAX_DRAWS_PER_AUGMENTATION):
        if not missing:
            break
        shape = (max(question.shape[0], answer.shape[0]), max(question.shape[1], answer.shape[1]))
        transforms = draw_transforms(space, rng, shape, k)
        new = []
        pairs = _question_answer_canvases(space, transforms, question, answer)
        for index, pair in enumerate(map(bytes, pairs)):
            if pair not in seen and len(new) < missing:
                seen.add(pair)
                new.append(index)
        results.append(pairs[np.array(new, np.int64)])
        missing -= len(new)
    return np.concatenate(results)


def concatenate(parts: list[Transforms]) -> Transforms:
    """Concatenate transforms."""
    return Transforms(
        np.concatenate([part.symmetries for part in parts]),
        np.concatenate([part.symbols for part in parts]),
        np.concatenate([part.rows for part in parts]),
        np.concatenate([part.columns for part in parts]),
    )


def apply_transforms(space: AugmentationSpace, transforms: Transforms, grid: Tokens) -> Tokens:
    """Apply k transforms to a grid, uint8 [h, w] of tokens: canvases uint8 [k, L], with end tokens if the space has
    them.
    """
    canvases = np.zeros((len(transforms), space.height * space.width), np.uint8)
    corners = transforms.rows * space.width + transforms.columns
    for symmetry in np.unique(transforms.symmetries).tolist():
        indices = np.flatnonzero(transforms.symmetries == symmetry)
        transformed = apply_symmetry(grid, symmetry)
        cells = (np.arange(transformed.shape[0])[:, None] * space.width + np.arange(transformed.shape[1])).ravel()
        canvases[indices[:, None], corners[indices, None] + cells] = transforms.symbols[indices][:, transformed.ravel()]
        if space.has_ends:
            shape = (transformed.shape[0], transformed.shape[1])
            for index in indices.tolist():
                canvas = canvases[index].reshape(space.height, space.width)
                draw_ends(canvas, int(transforms.rows[index]), int(transforms.columns[index]), shape)
    return canvases


def invert_transforms(
    space: AugmentationSpace, transforms: Transforms, canvases: Tokens, shape: tuple[int, int]
) -> list[Tokens]:
    """Crop and invert k augmentations of a grid of this shape: k arrays uint8 [h, w] of tokens.

    With end tokens, the answers determine their shapes.
    """
    grids = []
    for index, canvas in enumerate(canvases.reshape(-1, space.height, space.width)):
        symmetry, row, column = int(transforms.symmetries[index]), transforms.rows[index], transforms.columns[index]
        height, width = shape[::-1] if symmetry in SWAP_SIDES else shape
        region = canvas[row : row + height, column : column + width]
        if space.has_ends:
            region = crop_grids(canvas[None, row:, column:])[0] + np.uint8(FIRST_CELL)
        inverse = np.argsort(transforms.symbols[index]).astype(np.uint8)
        grids.append(apply_symmetry(inverse[region], INVERSE[symmetry]))
    return grids


def canonical_forms(
    space: AugmentationSpace, grids: Sequence[Tokens], answers: Sequence[Tokens] | None = None
) -> list[bytes]:
    """A canonical form of each grid, uint8 [h, w] of tokens: equal for two grids if and only if one is an augmentation
    of the other. With `answers`: of each grid together with its answer.

    It is the smallest of the rotated and reflected grids, with free tokens renamed by first appearance.
    """
    forms: list[bytes] = [b""] * len(grids)
    parts = [grids] if answers is None else [grids, answers]
    by_shape: dict[tuple[tuple[int, ...], ...], list[int]] = {}
    for index in range(len(grids)):
        by_shape.setdefault(tuple(part[index].shape for part in parts), []).append(index)
    for indices in by_shape.values():
        stacked = [np.stack([part[index] for index in indices]) for part in parts]
        for symmetry in space.symmetries:
            transformed = [apply_symmetry(part, symmetry) for part in stacked]
            named = _rename_tokens(space, np.hstack([part.reshape(len(indices), -1) for part in transformed]))
            shape = bytes(side for part in transformed for side in part.shape[1:])
            for index, values in zip(indices, named, strict=True):
                form = shape + values.tobytes()
                forms[index] = min(forms[index] or form, form)
    return forms


def _rename_tokens(space: AugmentationSpace, grids: Tokens) -> Tokens:
    """Rename the free tokens of grids uint8 [n, cells] by first appearance."""
    if not len(space.free):
        return grids
    # New name of each token; 255: not assigned yet (tokens are at most 254).
    names = np.tile(np.arange(space.vocab_size, dtype=np.uint8), (len(grids), 1))
    names[:, space.free] = 255
    used = np.zeros(len(grids), np.int64)
    renamed = np.empty_like(grids)
    rows = np.arange(len(grids))
    for cell in range(grids.shape[1]):
        tokens = grids[:, cell]
        new = np.flatnonzero(names[rows, tokens] == 255)
        names[new, tokens[new]] = space.free[used[new]]
        used[new] += 1
        renamed[:, cell] = names[rows, tokens]
    return renamed


def _question_answer_canvases(
    space: AugmentationSpace, transforms: Transforms, question: Tokens, answer: Tokens
) -> Tokens:
    return np.hstack([apply_transforms(space, transforms, question), apply_transforms(space, transforms, answer)])
