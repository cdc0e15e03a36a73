"""Public notations of Sudoku puzzles: one puzzle a line, grids with rulers, SadMan (.sdk) and Simple Sudoku (.ss)."""

import re
from collections.abc import Iterator

BLANKS = "-*xX_?0"
"""Characters that stand for a blank besides `.`."""
ONE_LINE = (16, 36, 81)
"""Cells of a puzzle."""

_SECTION = re.compile(r"\s*\[(\w+)\]\s*")
_TITLE = re.compile(r"\s*(grid|puzzle|sudoku)\b.*", re.IGNORECASE)
_UPRIGHT = re.compile("[|!:,\u00a6\u2502\u2503\u2551]")
_RULER = re.compile("[-+=*.:,'`|\\s\u2500-\u257f]*")
_CERTAIN_RULER = re.compile("[+='`\u2500\u2501\u2550\u250c-\u254b\u2552-\u256c]")
_TO_DOT = str.maketrans(BLANKS, "." * len(BLANKS))


def normalize(text: str) -> str:
    """The rows of all puzzles of a text, one per line, with `.` for a blank.

    Removed are comments (from `#` on), titles such as `Grid 01`, rulers between boxes, and all sections of a .sdk file
    but `[Puzzle]` (without it: the lines before the first section, else `[State]`). `/` separates rows.
    """
    lines = [line.partition("#")[0] for line in text.splitlines()]
    lines = [part for line in _puzzle_sections(lines) for part in line.split("/")]
    lines = [line for line in lines if line.strip() and not _TITLE.fullmatch(line)]
    rows = []
    for line in lines:
        may_be_ruler = _RULER.fullmatch(line) is not None
        if not (may_be_ruler and _CERTAIN_RULER.search(line)):
            rows.append((_UPRIGHT.sub("", line), may_be_ruler and "-" in line))
    return "\n".join(_without_rulers(rows)).translate(_TO_DOT)


def _puzzle_sections(lines: list[str]) -> Iterator[str]:
    sections: list[tuple[str, list[str]]] = [("", [])]
    for line in lines:
        header = _SECTION.fullmatch(line)
        if header:
            sections.append((header[1].lower(), []))
        else:
            sections[-1][1].append(line)
    filled = {name for name, content in sections if "".join(content).strip()}
    wanted = next((name for name in ("puzzle", "", "state") if name in filled), "")
    for name, content in sections:
        if name == wanted:
            yield from content


def _without_rulers(rows: list[tuple[str, bool]]) -> list[str]:
    """Remove lines such as `---------`, which may be a ruler or a row of blanks: (line, whether it may be a ruler).

    They are rulers if the other rows are complete without them, or if they have another length.
    """
    certain = ["".join(line.split()) for line, is_ambiguous in rows if not is_ambiguous]
    if not certain:
        return [line for line, _ in rows]
    width = len(certain[0])
    complete = width not in ONE_LINE and len(certain) % width == 0
    return [
        line
        for line, is_ambiguous in rows
        if not is_ambiguous or (not complete and len("".join(line.split())) == width)
    ]
