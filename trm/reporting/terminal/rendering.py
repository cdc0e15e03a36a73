"""A frame of a trace as text for a terminal, as large as the window allows.

If the window is too small, a line of text shows two rows of a colored grid, and a second map shows changed and wrong
cells.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console
from rich.text import Text

from trm.inference.trace import Frame, Sample
from trm.reporting.terminal.maps import (
    WRONG,
    Map,
    Scale,
    View,
    Window,
    answer_map,
    legend,
    movement_map,
    plain_map,
    size_of,
)

GAP = 4
"""Columns between two maps."""
MAX_SAMPLE_LINES, MAX_ANSWERS = 6, 8
ZOOMS = (Scale("wide", 4), Scale("wide", 3), Scale("wide", 2))
"""Scales for large windows."""
TERMS = (
    "step: the network refines its answer and estimates whether it is correct",
    "pass: a step is rounds of passes; the last pass of a round updates the answer",
    "halt logit: above 0 the model takes its answer as correct; probability: sigmoid",
    "movement: relative change of a cell's latent since the start of the round",
)
"""The words of the frame, one a line."""
ASCII = str.maketrans({"░": "-", "▒": "=", "▓": "%", "█": "#", "·": "."})


def window_of(console: Console, height: int | None, keys: str = "", compact: bool = False) -> Window:
    """The window of a console."""
    color = console.color_system is not None and not console.no_color
    return Window(console.width, height, color, console.color_system != "standard", console.encoding, keys, compact)


def render(view: View, window: Window) -> Text:
    """The frame as text that fits the window."""
    head, foot = _head(view), _foot(view, window)
    if window.keys:
        foot.append(Text(window.keys, "reverse" if window.color else ""))
    height = None if window.height is None else window.height - len(head) - len(foot)
    lines = [*head, *_maps(view, replace(window, height=height))]
    has_space = window.height is not None and len(lines) + len(foot) + len(TERMS) < window.height
    if has_space and not window.compact:
        lines += [Text(), *(Text(line, "dim") for line in TERMS)]
    lines += foot
    if window.height is not None and len(lines) > window.height and window.keys:
        lines = [*lines[: window.height - 1], lines[-1]]
    for line in lines:
        line.truncate(window.width)
    return Text("\n").join(_encodable(line, window) for line in lines[: window.height])


def render_answer(view: View, window: Window) -> list[Text]:
    """Question, answer and, if known, solution of a finished puzzle."""
    grids = [("question", view.question)] + ([] if view.solution is None else [("solution", view.solution)])
    scales = (Scale("wide"), Scale("narrow"))
    for scale in scales:
        question, *solution = (plain_map(title, grid, view, scale, window) for title, grid in grids)
        maps = [question, answer_map(view, scale, window), *solution]
        arranged = _arrange(maps, size_of(view, scale), window, 0, stacked=scale == scales[-1])
        if arranged:
            break
    else:
        arranged = [Text(f"the window is too small for {view.area[1]} columns", "dim")]
    wrong = view.wrong
    note = [Text(f"{WRONG} wrong", "dim")] if wrong is not None and wrong.any() else []
    return [_encodable(line, window) for line in [*arranged, *note]]


def _encodable(line: Text, window: Window) -> Text:
    """The line with ASCII in place of characters that the terminal cannot show; styles are kept."""
    if window.can_show(line.plain):
        return line
    plain = "".join(
        character if window.can_show(character) else character.translate(ASCII) if character in "░▒▓█·" else "?"
        for character in line.plain
    )
    return Text(plain, line.style, spans=line.spans)


def _head(view: View) -> list[Text]:
    frame, wrong = view.frame, view.wrong
    probability = 1 / (1 + math.exp(-frame.halt_logit))
    names = ("step", "round", "pass")
    numbers = zip(names, (frame.step, frame.round, frame.number), view.limits or (0, 0, 0), strict=True)
    place = ", ".join(f"{name} {number}" + (f" of {limit}" if limit else "") for name, number, limit in numbers)
    status = f"{int(view.changed.sum())} of {frame.answer.size} cells changed" if view.before is not None else ""
    status = status or "the first answer"
    if view.skipped:
        unit = view.unit if view.skipped == 1 else {"pass": "passes", "step": "steps"}[view.unit]
        status += f" after {view.skipped} {unit} without a change"
    if view.solution is not None and wrong is not None:
        status += f", {int(wrong.sum())} wrong"
        if view.solution.shape != frame.answer.shape:
            status += "; {} x {}, the solution is {} x {}".format(*frame.answer.shape, *view.solution.shape)
    return [Text(f"{place}   halt logit {frame.halt_logit:+.2f}, probability {probability:.1%}"), Text(status)]


def _foot(view: View, window: Window) -> list[Text]:
    """The samples, in columns."""
    samples = view.frame.samples
    if len(samples) < 2:
        return []
    width = max(len(sample.name) for sample in samples) + 20
    columns = max((window.width + 2) // width, 1)
    shown = min(math.ceil(len(samples) / columns), MAX_SAMPLE_LINES) * columns
    lines = [Text("samples: answer (equal letters are equal answers), halt logit; > is shown", "dim")]
    for start in range(0, shown, columns):
        line = Text()
        for sample in samples[start : start + columns]:
            line.append(sample_text(sample).ljust(width), "bold" if sample.shown else "" if sample.votes else "dim")
        line.rstrip()
        lines.append(line)
    if len(samples) > shown:
        lines.append(Text(f"and {len(samples) - shown} more", "dim"))
    votes = vote_text(view.frame)
    return [*lines, *([Text(votes)] if votes else [])]


def sample_text(sample: Sample) -> str:
    """A sample in a few words."""
    name = f"{'>' if sample.shown else ' '}{sample.name}"
    if sample.status == "pending":
        return f"{name} pending"
    status = "" if sample.status in ("running", "done") else f" {sample.status}"
    return f"{name} {sample.letter} {sample.halt_logit:+.1f}{status}"


def vote_text(frame: Frame) -> str:
    """The votes of the augmentations that have started, most first; empty for a single augmentation."""
    votes = Counter(sample.letter for sample in frame.samples if sample.votes)
    if sum(votes.values()) < 2:
        return ""
    most = votes.most_common(MAX_ANSWERS)
    rest = sum(votes.values()) - sum(count for _, count in most)
    return "votes: " + ", ".join(f"{letter} {count}" for letter, count in most) + (f", others {rest}" if rest else "")


def _maps(view: View, window: Window) -> list[Text]:
    """Question, answer and movement at the largest scale that fits, or as many of them as fit."""
    has_blocks = window.color and view.is_colored and window.shades and window.can_show("▀")
    wide, dense = Scale("wide"), Scale("half" if has_blocks else "narrow")
    zooms = () if window.height is None or window.compact else ZOOMS
    attempts = [(scale, True, False) for scale in (*zooms, wide, dense)]
    attempts += [(scale, True, True) for scale in (wide, dense)]
    attempts += [(scale, False, True) for scale in (wide, dense)]
    for scale, with_question, stacked in attempts:
        maps = [each for each in (answer_map(view, scale, window), movement_map(view, scale)) if each]
        if with_question:
            maps.insert(0, plain_map("question", view.question, view, scale, window))
        explained = legend(view, scale, window)
        if arranged := _arrange(maps, size_of(view, scale), window, len(explained), stacked):
            return [*arranged, *explained]
    for scale in (wide, dense):
        note = [Text("latent movement: the window is too small", "dim")] if movement_map(view, scale) else []
        if arranged := _arrange([answer_map(view, scale, window)], size_of(view, scale), window, 1 + len(note)):
            return [*arranged, *legend(view, scale, window)[:1], *note]
    width, height = size_of(view, dense)
    warning = f"the window is too small: {width} columns and {height + 4} lines are needed"
    return [Text(warning, "bold"), *answer_map(view, dense, window).lines()]


def _arrange(
    maps: Sequence[Map], size: tuple[int, int], window: Window, reserved: int, stacked: bool = True
) -> list[Text] | None:
    """The maps next to each other, or else (`stacked`) below each other; None if they do not fit with `reserved` lines.

    size: columns and lines of a map.
    """
    width, height = size
    widths = [max(width, len(each.title)) for each in maps[:-1]] + [width]
    max_height = math.inf if window.height is None else window.height - reserved
    if sum(widths) + GAP * (len(maps) - 1) <= window.width and height <= max_height:
        rows = [Text() for _ in range(height)]
        start = 0
        for each, columns in zip(maps, widths, strict=True):
            for row, line in zip(rows, [Text(each.title, "dim"), *each.lines()], strict=True):
                row.append(" " * (start - row.cell_len))
                row.append_text(line)
            start += columns + GAP
        return rows
    if stacked and width <= window.width and height * len(maps) <= max_height:
        return [line for each in maps for line in (Text(each.title, "dim"), *each.lines())]
    return None
