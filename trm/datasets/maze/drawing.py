"""Drawing of mazes."""

from trm.config.dataset_meta import DatasetMeta
from trm.data.drawing import Drawing

COLORS = {"#": "#3b4252", " ": "#ffffff", "S": "#2e7d32", "G": "#c62828", "o": "#f9a825"}
HTML_COLORS = {"#": "var(--wall)", " ": "var(--floor)", "S": "var(--start)", "G": "var(--goal)", "o": "var(--floor)"}
NAMES = {"#": "wall", " ": "free", "S": "start", "G": "goal", "o": "path"}
TERMINAL = {"#": "█", " ": "·"}


def make_drawing(meta: DatasetMeta) -> Drawing:
    """Colored cells, letters for start and goal, dots for the path."""
    characters = meta.vocabulary[1:]
    return Drawing(
        title="Mazes",
        symbols=[character if character in "SG" else "" for character in characters],
        colors=[COLORS[character] for character in characters],
        html_colors=[HTML_COLORS[character] for character in characters],
        terminal_symbols=[TERMINAL.get(character, character) for character in characters],
        dots=(characters.index("o"),),
        names=[NAMES[character] for character in characters],
        answer_only=(characters.index("o"),),
        empty=characters.index(" "),
        rating="{} moves",
        difficulty="moves of the shortest path",
    )
