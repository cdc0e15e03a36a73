"""Display of the puzzles of a dataset in the terminal, in figures and in the HTML report."""

import colorsys
from dataclasses import dataclass

from trm.config.dataset_meta import DatasetMeta
from trm.utils.file_formats import printable

PAPER, INVALID = "#ffffff", "#8e44ad"
"""Background of cells without a color, and the color of values outside the alphabet."""
UNKNOWN = "?"
"""The symbol of values outside the alphabet: a model may predict padding, which is cell 255."""


LIGHTNESS, STRONG, SATURATION = 0.82, 0.5, 0.75
"""Lightness of the colors of `palette` and of those of the report, and their saturation."""
TINT = 30
"""Percentage of a color of the report in its mixture with the background."""


@dataclass(frozen=True)
class Drawing:
    """The display of one dataset. Lists are indexed by cell value."""

    title: str
    """Name of the dataset in headings."""
    symbols: list[str]
    """Symbols of the cells in pictures and in the report; an empty string: none."""
    colors: list[str] | None = None
    """Colors of the cells, as #rrggbb; None: only symbols distinguish cells."""
    html_colors: list[str] | None = None
    """CSS colors in the report, which adapt to the theme; None: `colors`."""
    terminal_symbols: list[str] | None = None
    """Symbols in the terminal; None: `symbols`, and `.` where there is none."""
    dots: tuple[int, ...] = ()
    """Values drawn as dots in the report."""
    boxes: tuple[int, int] | None = None
    """Rows and columns of the boxes that lines separate."""
    names: list[str] | None = None
    """Names of the cells for readers who do not see them; None: the symbols of the vocabulary."""
    answer_only: tuple[int, ...] = ()
    """Values that no question has."""
    blank: int | None = None
    """The value of question cells that the answer fills; None: the answer does not repeat the question's cells."""
    empty: int = 0
    """The value of the cells of a new question in an editor."""
    separate_question: bool = False
    """True: question and answer are different grids, shown next to each other."""
    has_tasks: bool = False
    """True: groups are tasks with demonstrations and several attempts, scored by pass@2."""
    cell_count: str | None = None
    """Name of the number of cells as a measure of difficulty: of the given cells, or of the solution."""
    rating: str = "rating {}"
    """Phrase for the rating of a puzzle."""
    difficulty: str = "rating of the puzzle"
    """Name of the rating as a measure of difficulty."""

    def symbol(self, cell: int) -> str:
        """Symbol of a cell value."""
        return self.symbols[cell] if cell < len(self.symbols) else UNKNOWN

    def terminal_symbol(self, cell: int) -> str:
        """Symbol of a cell value in the terminal."""
        symbols = self.terminal_symbols or self.symbols
        return (printable(symbols[cell]) or ".") if cell < len(symbols) else UNKNOWN

    def color(self, cell: int) -> str:
        """Color of a cell value; cells without a value have no color."""
        if self.colors is None or cell == self.blank:
            return PAPER
        return self.colors[cell] if cell < len(self.colors) else INVALID


def palette(count: int, lightness: float = LIGHTNESS) -> list[str]:
    """`count` colors of different hues; black symbols are readable on the light ones."""
    shares = (colorsys.hls_to_rgb(number / count, lightness, SATURATION) for number in range(count))
    return ["#" + bytes(round(255 * part) for part in share).hex() for share in shares]


def plain_drawing(meta: DatasetMeta) -> Drawing:
    """The default display: the symbols of the vocabulary, each on a color of its own."""
    symbols = list(meta.vocabulary[meta.first_cell_token :])
    # Mixed with the background of the theme, so that symbols are readable on both themes.
    strong = palette(len(symbols), STRONG)
    html_colors = [f"color-mix(in srgb, {color} {TINT}%, var(--cell))" for color in strong]
    return Drawing(meta.name.capitalize(), symbols, palette(len(symbols)), html_colors)
