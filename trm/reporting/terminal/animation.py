"""A trace as an animated GIF: question, answer and movement side by side, a picture for each supervision step."""

import os
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from trm.data.protocol import Grid
from trm.utils.errors import UserError
from trm.utils.paths import is_disk_full
from trm.config.dataset_meta import DatasetMeta
from trm.reporting.figures.pictures import picture, side_of
from trm.reporting.terminal.rendering import darkness, fitted, tally, told
from trm.inference.trace import Frame

FRAME_MS, LAST_MS = 250, 2000
"""How long a GIF shows a frame, and its last one."""
GAP, LINE = 16, 20
"""Pixels between two pictures, and of a line of words."""
TRIES = 8
"""Tries of a frame that are told."""


def check_place(path: Path) -> None:
    """Raise `UserError` where no GIF can be written to `path`."""
    if path.suffix.lower() != ".gif":
        raise UserError(f"{path}: --save writes a GIF; name a file that ends in .gif")
    if not path.parent.is_dir():
        raise UserError(f"{path}: the folder {path.parent} does not exist; make it, or name another")
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name a file")
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"{path}: the folder {path.parent} cannot be written to; name another")


def save_gif(meta: DatasetMeta, frames: Sequence[Frame], question: Grid, right: Grid | None, path: Path) -> None:
    """Write the frames to `path`, whole or not at all. Raises `UserError` where the disk is full."""
    images = [_image(meta, frame, question, right) for frame in frames]
    size = (max(image.width for image in images), max(image.height for image in images))
    pages = []
    for image in images:
        page = Image.new("RGB", size, "#ffffff")
        page.paste(image)
        pages.append(page.convert("P", palette=Image.Palette.ADAPTIVE))
    times = [FRAME_MS] * (len(pages) - 1) + [LAST_MS]
    whole = BytesIO()
    pages[0].save(whole, "GIF", save_all=True, append_images=pages[1:], duration=times, loop=0, optimize=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        beside.write_bytes(whole.getvalue())
        beside.replace(path)
    except OSError as error:
        if is_disk_full(error):
            raise UserError(f"{path}: no space left on the disk; free some and run the command again") from error
        raise
    finally:
        beside.unlink(missing_ok=True)


def _image(meta: DatasetMeta, frame: Frame, question: Grid, right: Grid | None) -> Image.Image:
    side = min(side_of(grid.shape) for grid in (question, frame.answer, question if right is None else right))
    expected = None if right is None else fitted(right, frame.answer.shape)
    parts = {
        "question": picture(meta, question, side=side),
        "answer": picture(meta, frame.answer, question, expected, side),
    }
    if frame.moved is not None and frame.moved.size:
        levels = Image.fromarray((255 * (1 - darkness(frame.moved))).astype(np.uint8))
        shown = levels.resize(parts["answer"].size, Image.Resampling.NEAREST).convert("RGB")
        ImageDraw.Draw(shown).rectangle((0, 0, shown.width - 1, shown.height - 1), None, "#c3c8d2")
        parts["how much each latent moves"] = shown
    words = [f"step {frame.step}   halt logit {frame.halt_logit:+.1f}"]
    if len(frame.tries) > 1:
        words += ["tries  " + "    ".join(told(one) for one in frame.tries[:TRIES]), tally(frame)]
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
