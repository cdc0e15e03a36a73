"""The compiled half of the kind `arc`: versions of tasks compared, written on canvases and cut out of them again."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trm.data.numba_utils import compiled
from trm.data.protocol import Grid
from trm.data.symmetries import apply_symmetry

SIDE = 30
"""Height and width of the canvas."""
_END = 1
_FIRST = 2
"""Token of colour 0."""
_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_WEIGHTS = np.random.default_rng(0).integers(2**64, size=SIDE * SIDE, dtype=np.uint64) | np.uint64(1)
"""A number for each cell, for the hash of a grid; odd, so that no colour's multiple of it is 0."""


@dataclass(frozen=True)
class Turned:
    """The grids of a task in all eight symmetries.

    `cells` uint8 holds one grid after the other, row by row. `places` int64 [8, pairs, 2, 3] says for symmetry, pair
    and input or output where it starts, its height and its width; an output that is not known is 0 x 0.
    """

    cells: npt.NDArray[np.uint8]
    places: npt.NDArray[np.int64]


def turn(pairs: Sequence[tuple[Grid, Grid | None]]) -> Turned:
    """The eight symmetries of each grid, uint8 [h, w]."""
    places = np.zeros((8, len(pairs), 2, 3), dtype=np.int64)
    cells: list[npt.NDArray[np.uint8]] = []
    start = 0
    for symmetry in range(8):
        for number, pair in enumerate(pairs):
            for side, grid in enumerate(pair):
                if grid is not None:
                    turned = apply_symmetry(grid, symmetry)
                    places[symmetry, number, side] = start, *turned.shape
                    cells.append(turned.ravel())
                    start += turned.size
    return Turned(np.concatenate(cells), places)


@compiled
def _mix(x):  # noqa: ANN001, ANN202  (compiled: numba infers the types)
    """The output function of splitmix64 on a uint64: a different number for each."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@compiled
def _below(key, number, limit):  # noqa: ANN001, ANN202
    """Draw `number` (0, 1, …) of the splitmix64 stream that starts at the uint64 `key`: from 0 .. limit - 1."""
    x = _mix(key + np.uint64(number + 1) * _GAMMA)
    return np.int64((x >> np.uint64(32)) * np.uint64(limit) >> np.uint64(32))


@compiled
def _colour_sums(cells, places, weights):  # noqa: ANN001, ANN202
    """What a grid's hash is made of, uint64 [8, pairs, 2, 11]: the weights of the cells of each colour, summed, and a
    number for its shape. The hash of the grid recoloured is then a sum of ten products.
    """
    sums = np.zeros((8, places.shape[1], 2, 11), np.uint64)
    for symmetry in range(8):
        for pair in range(places.shape[1]):
            for side in range(2):
                at, height, width = places[symmetry, pair, side]
                sums[symmetry, pair, side, 10] = np.uint64(height * 31 + width) * _GAMMA
                for i in range(height):
                    for j in range(width):
                        sums[symmetry, pair, side, cells[at]] += weights[i * SIDE + j]
                        at += 1
    return sums


@compiled
def _fingerprints(sums, symmetries, permutations, result):  # noqa: ANN001, ANN202
    for version in range(len(symmetries)):
        total = np.uint64(0)
        for pair in range(sums.shape[1]):
            both = np.uint64(0)
            for side in range(2):  # mixed in between: input and output are no equals
                part = sums[symmetries[version], pair, side]
                grid = part[10]
                for colour in range(10):
                    grid += np.uint64(permutations[version, colour]) * part[colour]
                both = _mix((both + grid) ^ _GAMMA)
            total += both  # summed: the order of the pairs does not count
        result[version] = total


@compiled
def _render(cells, places, pairs, symmetries, permutations, first, key, shift, inputs, labels):  # noqa: ANN001, ANN202
    """Write versions `first`, first + 1, … on canvases that are all 0; without `shift` all stand at (0, 0)."""
    colours = np.zeros(10, np.uint8)
    example = 0
    for version in range(len(symmetries)):
        for colour in range(10):
            colours[colour] = permutations[version, colour] + _FIRST
        # Each version has draws of its own, so that it does not matter how a task is cut into blocks.
        stream = _mix(key + np.uint64(first + version) * _GAMMA)
        kept = _below(stream, 0, len(pairs))
        for number in range(len(pairs)):
            place = places[symmetries[version], pairs[number]]
            row = column = 0
            if shift and number != kept:
                row = _below(stream, 2 * number + 1, SIDE + 1 - max(place[0, 1], place[1, 1]))
                column = _below(stream, 2 * number + 2, SIDE + 1 - max(place[0, 2], place[1, 2]))
            _draw(cells, place[0], colours, row, column, inputs[example])
            _draw(cells, place[1], colours, row, column, labels[example])
            example += 1


@compiled
def _draw(cells, place, colours, row, column, canvas):  # noqa: ANN001, ANN202
    """One grid and its end tokens on a canvas uint8 [900], its corner at (row, column)."""
    start, height, width = place
    for i in range(height):
        at = (row + i) * SIDE + column
        source = cells[start + i * width : start + (i + 1) * width]
        for j in range(width):
            canvas[at + j] = colours[source[j]]
        if column + width < SIDE:
            canvas[at + width] = _END
    if row + height < SIDE:
        at = (row + height) * SIDE + column
        for j in range(width):
            canvas[at + j] = _END


@compiled
def _cut(tokens, sizes):  # noqa: ANN001, ANN202
    for number in range(len(tokens)):
        canvas, width, area = tokens[number], SIDE, 0
        for row in range(SIDE):
            run = 0
            while run < width and canvas[row * SIDE + run] >= _FIRST:
                run += 1
            width = run
            if (row + 1) * width > area:  # the first greatest
                area = (row + 1) * width
                sizes[number, 0], sizes[number, 1] = row + 1, width
            if width == 0:
                break


def fingerprints(
    turned: Turned, symmetries: npt.NDArray[np.uint8], permutations: npt.NDArray[np.uint8]
) -> npt.NDArray[np.uint64]:
    """One number for each version of a task, uint64 [n]: equal for equal multisets of pairs (input, output), and for
    others with a chance of about 2^-60. Versions: symmetries uint8 [n], images of the colours uint8 [n, 10].
    """
    result = np.empty(len(symmetries), dtype=np.uint64)
    _fingerprints(_colour_sums(turned.cells, turned.places, _WEIGHTS), symmetries, permutations, result)
    return result


def render(
    turned: Turned,
    pairs: npt.NDArray[np.int64],
    symmetries: npt.NDArray[np.uint8],
    permutations: npt.NDArray[np.uint8],
    first: int,
    key: np.uint64,
    shift: bool,
    inputs: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.uint8],
) -> None:
    """Write the `pairs` (int64 [p], numbers of a task's pairs) of n versions on `inputs` and `labels`.

    These are uint8 [n * p, 900] and all 0. The versions are numbers `first`, first + 1, … of their task: with `shift`,
    `key` and these numbers fix the offsets; one pair of each version, drawn too, keeps (0, 0).
    """
    places = turned.places
    _render(turned.cells, places, pairs, symmetries, permutations, first, key, shift, inputs, labels)


def cut_grids(tokens: npt.NDArray[np.uint8]) -> list[Grid]:
    """The answers on canvases, tokens uint8 [k, 900].

    An answer is the rectangle of nothing but colours with a corner at (0, 0) that has the greatest area, of such the
    one of the least height; 0 x 0 where the first token is no colour.
    """
    sizes = np.zeros((len(tokens), 2), dtype=np.int64)
    _cut(tokens, sizes)
    canvases = tokens.reshape(-1, SIDE, SIDE)
    return [canvas[:h, :w] - np.uint8(_FIRST) for canvas, (h, w) in zip(canvases, sizes.tolist(), strict=True)]
