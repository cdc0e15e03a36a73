"""A trace as an animated GIF: question, answer and movement next to each other, one picture per supervision step."""

import os
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from trm.data.drawing import Drawing
from trm.data.protocol import Grid
from trm.inference.trace import Frame
from trm.reporting.figures.pictures import picture, suitable_cell_size
from trm.reporting.terminal.colors import intensity
from trm.reporting.terminal.maps import fit
from trm.reporting.terminal.rendering import sample_text, vote_text
from trm.utils.errors import UserError
from trm.utils.paths import is_disk_full

FRAME_MS, LAST_MS = 250, 2000
"""Duration of a frame, and of the last one, in milliseconds."""
GAP, LINE = 16, 20
"""Pixels between two pictures, and the height of a line of text."""
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
        levels = Image.fromarray((255 * (1 - intensity(frame.moved))).astype(np.uint8))
        image = levels.resize(parts["answer"].size, Image.Resampling.NEAREST).convert("RGB")
        ImageDraw.Draw(image).rectangle((0, 0, image.width - 1, image.height - 1), None, "#c3c8d2")
        parts["movement of the latents"] = image
    words = [f"step {frame.step}   halt logit {frame.halt_logit:+.1f}"]
    if len(frame.samples) > 1:
        samples = "    ".join(sample_text(sample) for sample in frame.samples[:MAX_SAMPLES])
        words += [f"samples  {samples}", vote_text(frame)]
    font, top = ImageFont.load_default(size=14), LINE * (len([line for line in words if line]) + 1)
    widths = [max(part.width, round(font.getlength(title))) + GAP for title, part in parts.items()]
    width = max(sum(widths), *(round(font.getlength(line)) + GAP for line in words))
    page = Image.new("RGB", (width, top + max(part.height for part in parts.values())), "#ffffff")
    pen = ImageDraw.Draw(page)
    for number, line in enumerate(line for line in words if line):
        pen.text((2, 2 + number * LINE), line, "#1f2430", font)
    left = 0
    for (title, part), step in zip(parts.items(), widths, strict=True):
        pen.text((left + 2, top - LINE + 2), title, "#6b7280", font)
        page.paste(part, (left, top))
        left += step
    return page
