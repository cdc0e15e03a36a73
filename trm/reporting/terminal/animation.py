"""A trace as an animated GIF: question, answer and movement next to each other, one picture per supervision step."""

import os
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from trm.data.drawing import INVALID, PAPER, Drawing
from trm.data.protocol import Grid
from trm.inference.trace import Frame, Heat
from trm.reporting.figures.pictures import CORRECT, GIVEN, INK, WRONG, picture, suitable_cell_size
from trm.reporting.figures.pictures import LINE as LINE_COLOR
from trm.reporting.terminal.colors import intensity
from trm.reporting.terminal.maps import fit
from trm.reporting.terminal.rendering import sample_text, vote_text
from trm.utils.errors import UserError
from trm.utils.paths import is_disk_full

FRAME_MS, LAST_MS = 250, 2000
"""Duration of a frame, and of the last one, in milliseconds."""
GAP, LINE = 16, 20
"""Pixels between two pictures, and the height of a line of text."""
SCALE = 60
"""Pixels of the scale of the movement."""
MOVEMENT = "movement of the latents"
PALE_INK = "#6b7280"
MAX_SAMPLES = 8
"""Samples named in a frame."""


def check_gif_path(path: Path) -> None:
    """Raise `UserError` unless a GIF can be written to `path`."""
    if path.suffix.lower() != ".gif":
        raise UserError(f"{path}: --save writes a GIF; give a file that ends in .gif")
    if not path.parent.is_dir():
        raise UserError(f"{path}: the folder {path.parent} does not exist; create it, or give another")
    if path.is_dir():
        raise UserError(f"{path}: is a folder; give a file")
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"{path}: the folder {path.parent} is not writable; give another")


def save_gif(drawing: Drawing, frames: Sequence[Frame], question: Grid, solution: Grid | None, path: Path) -> None:
    """Write the frames to `path` atomically. Raises `UserError` if the disk is full."""
    images = [_image(drawing, frame, question, solution) for frame in frames]
    size = (max(image.width for image in images), max(image.height for image in images))
    pages = []
    for image in images:
        page = Image.new("RGB", size, "#ffffff")
        page.paste(image)
        pages.append(page.convert("P", palette=Image.Palette.ADAPTIVE))
    times = [FRAME_MS] * (len(pages) - 1) + [LAST_MS]
    buffer = BytesIO()
    pages[0].save(buffer, "GIF", save_all=True, append_images=pages[1:], duration=times, loop=0, optimize=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(buffer.getvalue())
        partial.replace(path)
    except OSError as error:
        if is_disk_full(error):
            raise UserError(f"{path}: no space left on the disk; free some and run the command again") from error
        raise
    finally:
        partial.unlink(missing_ok=True)


def _image(drawing: Drawing, frame: Frame, question: Grid, solution: Grid | None) -> Image.Image:
    grids = (question, frame.answer, question if solution is None else solution)
    cell_size = min(suitable_cell_size(grid.shape) for grid in grids)
    expected = None if solution is None else fit(solution, frame.answer.shape)
    parts = {
        "question": picture(drawing, question, cell_size=cell_size),
        "answer": picture(drawing, frame.answer, question, expected, cell_size),
    }
    if frame.moved is not None and frame.moved.size:
        levels = Image.fromarray(_shades(frame.moved))
        image = levels.resize(parts["answer"].size, Image.Resampling.NEAREST).convert("RGB")
        ImageDraw.Draw(image).rectangle((0, 0, image.width - 1, image.height - 1), None, LINE_COLOR)
        parts[MOVEMENT] = image
    words = [f"step {frame.step}   halt logit {frame.halt_logit:+.1f}"]
    if len(frame.samples) > 1:
        samples = "    ".join(sample_text(sample) for sample in frame.samples[:MAX_SAMPLES])
        words += [f"samples  {samples}", vote_text(frame)]
    font, top = ImageFont.load_default(size=14), LINE * (len([line for line in words if line]) + 1)
    widths = [max(part.width, round(font.getlength(title))) + GAP for title, part in parts.items()]
    key = _legend(drawing, solution is not None, font)
    width = max(sum(widths), key.width, *(round(font.getlength(line)) + GAP for line in words))
    bottom = top + max(part.height for part in parts.values()) + GAP // 2
    page = Image.new("RGB", (width, bottom + 2 * LINE), "#ffffff")
    pen = ImageDraw.Draw(page)
    for number, line in enumerate(line for line in words if line):
        pen.text((2, 2 + number * LINE), line, INK, font)
    left = 0
    for (title, part), step in zip(parts.items(), widths, strict=True):
        pen.text((left + 2, top - LINE + 2), title, PALE_INK, font)
        page.paste(part, (left, top))
        if title == MOVEMENT:
            _draw_scale(pen, (left, bottom), font)
        left += step
    page.paste(key, (0, bottom + LINE))
    return page


def _legend(drawing: Drawing, is_known: bool, font: Any) -> Image.Image:  # noqa: ANN401 - Pillow has two classes
    """The meaning of the colors of the answer."""
    has_given = drawing.boxes is not None
    colored = (
        [("wrong", PAPER, INVALID)]
        if drawing.colors
        else [("correct", CORRECT, LINE_COLOR), ("wrong", WRONG, LINE_COLOR)]
    )
    items = [("given", GIVEN, LINE_COLOR)] * has_given + (colored if is_known else [])
    width = sum(LINE + GAP + round(font.getlength(words)) for words, _, _ in items)
    image = Image.new("RGB", (max(width, 1), LINE), PAPER)
    pen, left = ImageDraw.Draw(image), 0
    for words, color, frame in items:
        pen.rectangle((left, 3, left + 14, 17), color, frame, 2 if frame == INVALID else 1)
        pen.text((left + LINE, 2), words, PALE_INK, font)
        left += LINE + GAP + round(font.getlength(words))
    return image


def _draw_scale(pen: ImageDraw.ImageDraw, place: tuple[int, int], font: Any) -> None:  # noqa: ANN401
    """The scale of the movement: logarithmic from 0.001 to 1, white to black."""
    (left, top), labels = place, ("0.001", "1")
    start = left + round(font.getlength(labels[0])) + 6
    pen.text((left + 2, top), labels[0], PALE_INK, font)
    for step in range(SCALE):
        moved = np.float32(10 ** (3 * (step / (SCALE - 1) - 1)))
        shade = _shades(np.full((1, 1), moved, np.float32))[0, 0]
        pen.line((start + step, top + 4, start + step, top + 15), (shade, shade, shade))
    pen.rectangle((start - 1, top + 3, start + SCALE, top + 16), None, LINE_COLOR)
    pen.text((start + SCALE + 4, top), labels[1], PALE_INK, font)


def _shades(moved: Heat) -> np.ndarray:
    """Gray levels of movements: 255 for none, 0 for a relative change of 1."""
    return (255 * (1 - intensity(moved))).astype(np.uint8)
