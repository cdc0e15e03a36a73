"""A model at work on one puzzle: what it would answer after every network pass, and where its latents still move."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont
from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.style import Style
from rich.text import Text

from trm.data.kind import Grid
from trm.meta import DatasetMeta
from trm.model.recursion import States
from trm.model.supervision import TRM
from trm.report.pictures import look, picture

Heat = npt.NDArray[np.float32]
"""float32 [height, width] of the canvas."""
SHADES = " ░▒▓█"
FRAME_MS, LAST_MS = 250, 2000
"""How long a GIF shows a frame, and its last one."""


@dataclass(frozen=True)
class Frame:
    """The model after one network pass."""

    step: int
    """Supervision step, from 1."""
    round: int
    """Of the step, from 1."""
    number: int
    """Of the pass in its round, from 1; the last renews the answer."""
    answer: Grid
    """What the answer state says."""
    halt_logit: float
    moved: Heat | None
    """How far the latents of each cell have moved since the round began, relative to their length; None where they
    belong to no cells (latent meta attention), or where there are none."""
    ends_step: bool


@torch.no_grad()
def trace(
    model: TRM,
    tokens: npt.NDArray[np.uint8],
    identifier: int,
    undo: Callable[[npt.NDArray[np.uint8]], Sequence[Grid]],
    steps: int = 16,
) -> Iterator[Frame]:
    """A frame for each of the steps x rounds x (passes + 1) network passes on the puzzle `tokens` (uint8 [L]).

    `undo` makes grids of answers, uint8 [1, L]. The last frame's answer is what the model answers after `steps`.
    """
    inputs = torch.from_numpy(tokens.astype(np.int32)[None]).to(model.device)
    rows = torch.tensor([identifier], dtype=torch.int32, device=model.device)
    x, states = model.embed(inputs, model.gather_puzzle_rows(rows)), model.start(1)
    rounds, passes = model.member.rounds(model.config), model.member.passes(model.config)
    for step in range(1, steps + 1):
        for turn in range(1, rounds + 1):
            before = states
            for number in range(1, passes + 2):
                is_last = number > passes
                states = (
                    model.answer_pass(x, states)
                    if is_last
                    else model.latent_passes(x, states, range(number - 1, number))
                )
                logits, halt_logit, _ = model.read_out(states)
                (answer,) = undo(logits.argmax(-1).to(torch.uint8).cpu().numpy())
                ends_step = is_last and turn == rounds
                yield Frame(step, turn, number, answer, float(halt_logit[0]), _moved(model, before, states), ends_step)


def _moved(model: TRM, before: States, after: States) -> Heat | None:
    latents = model.member.latents
    if model.lma is not None or not latents:
        return None
    change = sum((after[name] - before[name]).float().square().sum(-1) for name in latents)
    length = sum(after[name].float().square().sum(-1) for name in latents)
    assert isinstance(change, torch.Tensor)
    share = (change / length).sqrt()[0, model.config.puzzle_emb_len :]
    return share.cpu().numpy().reshape(model.meta.height, model.meta.width)


def shown(meta: DatasetMeta, frame: Frame, before: Grid | None, right: Grid | None) -> RenderableType:
    """A frame for the terminal: the answer, in which cells that changed since `before` stand reversed and, where the
    `right` answer is known, right ones are green and wrong ones red; beside it where the latents move.
    """
    grid = Text("")
    for row, cells in enumerate(frame.answer):
        for column, cell in enumerate(cells):
            changed = before is None or before.shape != frame.answer.shape or before[row, column] != cell
            known = right is not None and right.shape == frame.answer.shape
            colour = ("green" if right[row, column] == cell else "red") if known and right is not None else None
            grid.append(*_cell(meta, int(cell), Style(color=colour, reverse=changed, bold=changed)))
        grid.append("\n")
    head = f"step {frame.step}, round {frame.round}, pass {frame.number}"
    sure = 1 / (1 + np.exp(-frame.halt_logit))
    parts = [Group(Text("answer", "dim"), grid)]
    if frame.moved is not None:
        parts.append(Group(Text("how much each latent moves", "dim"), heat(frame.moved)))
    return Group(Text(f"{head}   halt logit {frame.halt_logit:+.2f}: {sure:.1%} sure"), Columns(parts, padding=(0, 4)))


def _cell(meta: DatasetMeta, cell: int, style: Style) -> tuple[str, Style]:
    """Two columns wide, so that cells are about square."""
    colour, symbol = look(meta, cell)
    if meta.kind == "arc":
        mark = "><" if style.reverse else "  "
        return mark, Style(bgcolor=colour, color="white")
    if meta.kind == "maze":
        symbols = meta.vocabulary[1:]
        symbol = {"#": "█", " ": "·"}.get(symbols[cell], symbols[cell]) if cell < len(symbols) else "?"
        return symbol * 2 if symbol == "█" else f"{symbol} ", style
    return f"{symbol or '.'} ", style


def heat(moved: Heat) -> Text:
    """A map of how far each cell's latents have moved: full at their own length, blank at a thousandth of it."""
    levels = (_darkness(moved) * (len(SHADES) - 1)).round().astype(int)
    return Text("\n".join("".join(SHADES[level] * 2 for level in row) for row in levels), "cyan")


def _darkness(moved: Heat) -> Heat:
    """0 to 1, by orders of magnitude."""
    return np.clip(1 + np.log10(np.maximum(moved, np.float32(1e-9))) / 3, 0, 1).astype(np.float32)


def save_gif(meta: DatasetMeta, frames: Sequence[Frame], question: Grid, right: Grid | None, path: Path) -> None:
    """Write an animation of the frames, which shows question, answer and movement side by side."""
    images = [_image(meta, frame, question, right) for frame in frames]
    size = (max(image.width for image in images), max(image.height for image in images))
    pages = []
    for image in images:
        page = Image.new("RGB", size, "#ffffff")
        page.paste(image)
        pages.append(page.convert("P", palette=Image.Palette.ADAPTIVE))
    times = [FRAME_MS] * (len(pages) - 1) + [LAST_MS]
    pages[0].save(path, save_all=True, append_images=pages[1:], duration=times, loop=0, optimize=True)


def _image(meta: DatasetMeta, frame: Frame, question: Grid, right: Grid | None) -> Image.Image:
    parts = [picture(meta, question), picture(meta, frame.answer, question, right)]
    if frame.moved is not None:
        levels = Image.fromarray((255 * (1 - _darkness(frame.moved))).astype(np.uint8))
        parts.append(levels.resize(parts[0].size, Image.Resampling.NEAREST).convert("RGB"))
    gap, head = 16, 28
    page = Image.new(
        "RGB", (sum(part.width + gap for part in parts) - gap, head + max(p.height for p in parts)), "white"
    )
    words = f"step {frame.step}  round {frame.round}  pass {frame.number}  halt {frame.halt_logit:+.1f}"
    ImageDraw.Draw(page).text((2, 4), words, "#1f2430", ImageFont.load_default(size=14))
    left = 0
    for part in parts:
        page.paste(part, (left, head))
        left += part.width + gap
    return page
