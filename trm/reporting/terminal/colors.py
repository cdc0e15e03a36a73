"""Colors of cells in the terminal: half blocks, contrast, and the movement of latents as brightness."""

import colorsys

import numpy as np
import numpy.typing as npt
from rich.style import Style
from rich.text import Text

from trm.data.drawing import Drawing
from trm.data.protocol import Grid
from trm.inference.trace import Heat

Colors = npt.NDArray[np.float64]
"""RGB of cells, [h, w, 3], 0 to 255."""
CORRECT, WRONG, UNKNOWN = (40, 170, 70), (225, 50, 45), (0, 165, 195)
PASTEL_LIGHTNESS, PASTEL_SATURATION = 0.7, 0.3


def intensity(moved: Heat) -> Heat:
    """Movement on a logarithmic scale, 0 to 1: 1 for a relative change of 1, 0 for a thousandth."""
    return np.clip(1 + np.log10(np.maximum(moved, np.float32(1e-9))) / 3, 0, 1).astype(np.float32)


def background(drawing: Drawing, cell: int) -> str:
    """The color of a cell value; black is slightly lighter, to be visible on a black terminal."""
    color = drawing.color(cell)
    return "#262626" if color == "#000000" else color


def strong(color: str) -> str:
    """A pastel color with more contrast: among 16 colors, the nearest one to a pastel is white or gray."""
    hue, lightness, saturation = colorsys.rgb_to_hls(*(part / 255 for part in _rgb(color)))
    if lightness < PASTEL_LIGHTNESS or saturation < PASTEL_SATURATION:
        return color
    return _hex(255 * np.array(colorsys.hls_to_rgb(hue, 0.5, 1.0)))


def contrasting(color: str) -> str:
    """Black or white, whichever is more legible on `color`."""
    red, green, blue = _rgb(color)
    return "#000000" if 0.3 * red + 0.59 * green + 0.11 * blue > 110 else "#ffffff"


def cell_colors(drawing: Drawing, grid: Grid) -> Colors:
    """The colors of a grid."""
    rows = [[_rgb(background(drawing, int(cell))) for cell in row] for row in grid]
    return np.array(rows, float).reshape(*grid.shape, 3)


def status_colors(changed: npt.NDArray[np.bool_], wrong: npt.NDArray[np.bool_] | None, moved: Heat | None) -> Colors:
    """Green: correct, red: wrong, blue: unknown; brighter where latents move, pale where the cell has just changed."""
    colors = np.empty((*changed.shape, 3))
    colors[:] = UNKNOWN if wrong is None else CORRECT
    if wrong is not None:
        colors[wrong] = WRONG
    if moved is not None:
        colors *= 0.35 + 0.65 * intensity(moved)[..., None]
    colors[changed] = 0.4 * colors[changed] + 0.6 * 255
    return colors


def half_blocks(colors: Colors, area: tuple[int, int]) -> list[Text]:
    """Two rows of cells per line of text, one column per cell, padded to `area` (rows, columns)."""
    padded = np.full((area[0] + area[0] % 2, area[1], 3), -1.0)
    padded[: colors.shape[0], : colors.shape[1]] = colors
    lines = []
    for upper, lower in zip(padded[::2], padded[1::2], strict=True):
        line = Text()
        for top, bottom in zip(upper, lower, strict=True):
            if top[0] < 0:
                line.append(" ")
            else:
                line.append("▀", Style(color=_hex(top), bgcolor=_hex(bottom) if bottom[0] >= 0 else None))
        lines.append(line)
    return lines


def _rgb(color: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(color[1:]))


def _hex(color: npt.NDArray[np.float64]) -> str:
    return "#" + bytes(color.round().astype(np.uint8).tolist()).hex()
