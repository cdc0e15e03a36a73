"""Display of the puzzles of a dataset in the terminal, in figures and in the HTML report."""

from dataclasses import dataclass

from trm.config.dataset_meta import DatasetMeta
from trm.utils.file_formats import printable

PAPER, INVALID = "#ffffff", "#8e44ad"
"""Background of cells without a color, and the color of values outside the alphabet."""
UNKNOWN = "?"
"""The symbol of values outside the alphabet: a model may predict padding, which is cell 255."""


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
    blank: int | None = None
    """The value of question cells that the answer fills; None: the answer does not repeat the question's cells."""
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
        """Color of a cell value."""
        if self.colors is None:
            return PAPER
        return self.colors[cell] if cell < len(self.colors) else INVALID


def plain_drawing(meta: DatasetMeta) -> Drawing:
    """The default display: the symbols of the vocabulary, without colors."""
    return Drawing(title=meta.name.capitalize(), symbols=list(meta.vocabulary[1:]))
