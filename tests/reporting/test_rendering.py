"""How a frame is drawn: what fits, and what can be told apart, with colours and without."""

import io
from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest
from rich.console import Console

from trm.datasets.arc.dataset import VOCABULARY as COLOURS
from trm.datasets.arithmetic.dataset import arithmetic_meta
from trm.datasets.maze.dataset import maze_meta
from trm.datasets.sudoku.dataset import sudoku_meta
from trm.config.dataset_meta import DatasetMeta
from trm.reporting.terminal.rendering import Room, View, darkness, draw
from trm.inference.trace import Frame, State, Try

WIDE = Room(160, 60, False)
ARC = DatasetMeta(name="arc", height=30, width=30, vocabulary=COLOURS, num_identifiers=2)
OWN = DatasetMeta(name="custom", height=20, width=20, vocabulary=("pad", "a", "b", "c"), num_identifiers=1)
NUMBERS = DatasetMeta(name="custom", height=5, width=5, vocabulary=("pad", "-1", "0", "12"), num_identifiers=1)
METAS = {
    "sudoku-4x4": sudoku_meta(4),
    "sudoku-6x6": sudoku_meta(6),
    "sudoku-9x9": sudoku_meta(9),
    "maze-6x6": maze_meta(6),
    "maze-30x30": maze_meta(30),
    "arc": ARC,
    "sums": arithmetic_meta(3),
    "custom": OWN,
    "numbers": NUMBERS,
}
COLOURS_OF: dict[tuple[bool, bool], Literal["standard", "truecolor"] | None] = {
    (True, True): "truecolor",
    (True, False): "standard",
    (False, True): None,
}
ONE = Try("1", "A", 0.0, "thinks", True, True)


def frame_of(answer: np.ndarray, tries: tuple[Try, ...] = (ONE,), moved: bool = True) -> Frame:
    heat = np.full(answer.shape, 1.0, np.float32) if moved else None
    return Frame(2, 1, 3, True, answer, 0.0, heat, tries)


def printed(view: View, room: Room) -> str:
    console = Console(file=io.StringIO(), force_terminal=True, color_system=COLOURS_OF[room.colour, room.shades])
    console.width = room.width
    console.print(draw(view, room))
    return console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


def test_a_drawing_by_hand() -> None:
    """Right and wrong ones, kept and new, of a 4x4 Sudoku; the clue is the 4."""
    right = np.array([[1, 2, 3, 4], [3, 4, 1, 2], [2, 1, 4, 3], [4, 3, 2, 1]], np.uint8)
    answer, before, question = right.copy(), right.copy(), np.zeros_like(right)
    answer[0, :2] = before[0, 0] = 4  # wrong before, and just become wrong
    before[0, 2] = 1
    question[0, 3] = 4
    view = View(sudoku_meta(4), frame_of(answer), before, question, right)
    assert draw(view, Room(80, 40, False)).plain == "\n".join(
        [
            "step 2, round 1, pass 3   halt logit +0.00: 50.0% sure",
            "2 of 16 cells changed, 2 are wrong",
            "answer        how much each latent moves",
            "4x4X| 3*4     ████| ████",
            "3 4 | 1 2     ████| ████",
            "----+-----    ----+-----",
            "2 1 | 4 3     ████| ████",
            "4 3 | 2 1     ████| ████",
            "* just changed, x wrong, X both",
        ]
    )
    coloured = printed(view, Room(80, 40, True))
    assert "\x1b[31m4x" in coloured  # wrong
    assert "\x1b[1;7;31m4X" in coloured  # wrong and changed
    assert "\x1b[1;7;32m3*" in coloured  # right and changed
    assert "\x1b[1m4 " in coloured  # a clue
    assert "\x1b[32m2 " in coloured  # right


def test_shades_by_hand() -> None:
    """Full at 1, half at 10 ** -1.5, blank at 10 ** -3 and below."""
    assert darkness(np.array([1, 10**-1.5, 1e-3, 0], np.float32)) == pytest.approx([1, 0.5, 0, 0], abs=1e-6)
    answer = np.zeros((1, 4), np.uint8)
    moved = np.array([[1, 10**-1.5, 1e-3, 0]], np.float32)
    frame = Frame(1, 1, 1, False, answer, 0.0, moved, (ONE,))
    view = View(OWN, frame, answer, answer, None)
    assert draw(view, Room(80, 40, False)).plain.splitlines()[3].rstrip().endswith("██▒▒")


ROOMS = [Room(80, 24, True), Room(80, 40, True, False), Room(160, 50, True), Room(80, 24, False), Room(160, 50, False)]


def cells_of(meta: DatasetMeta) -> tuple[np.ndarray, Callable[..., View]]:
    """An answer, and a function that makes views of it."""
    symbols = 10 if meta.name == "arc" else meta.vocab_size - 1
    answer = np.random.default_rng(0).integers(1, symbols, (meta.height, meta.width)).astype(np.uint8)
    question = np.full_like(answer, 255 if meta.name == "arithmetic" else 0)

    def view(before: np.ndarray, right: np.ndarray | None, **more: object) -> View:
        frame = frame_of(answer, **more)  # pyright: ignore[reportArgumentType]
        return View(meta, frame, before, question, right)

    return answer, view


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: f"{room.width}x{room.height}-{room.colour}-{room.shades}")
@pytest.mark.parametrize("kind", METAS)
def test_what_happened_to_a_cell_can_be_told(kind: str, room: Room) -> None:
    """The first cell is right or wrong, just changed or not: four different drawings, none larger than the room."""
    answer, view = cells_of(METAS[kind])
    other = answer.copy()
    other[0, 0] = 2 if answer[0, 0] == 1 else 1
    drawn = [draw(view(before, right), room) for right in (answer, other) for before in (answer, other)]
    pictures = []
    for text in drawn:
        lines = text.plain.splitlines()
        assert len(lines) <= room.height if room.height else True
        assert max(map(len, lines)) <= room.width
        # The second line says it in numbers; the cell alone must tell.
        console = Console(file=io.StringIO(), force_terminal=True, color_system=COLOURS_OF[room.colour, room.shades])
        console.width = room.width
        for line in text.split()[2:]:
            console.print(line)
        pictures.append(console.file.getvalue())  # pyright: ignore[reportAttributeAccessIssue]
    assert len(set(pictures)) == 4
    # Where nobody knows the answer: changed or not.
    unknown = {printed(view(before, None), room).split("\n", 2)[2] for before in (answer, other)}
    assert len(unknown) == 2


@pytest.mark.parametrize("kind", METAS)
@pytest.mark.parametrize("colour", [True, False])
def test_a_window_of_any_size_is_kept_to(kind: str, colour: bool) -> None:
    answer, view = cells_of(METAS[kind])
    tries = tuple(Try(f"{n}", "A", 1.0, "thinks", True, n == 3) for n in range(1, 100))
    for width, height in ((1, 1), (20, 5), (64, 20), (100, 34)):
        for more in ({}, {"tries": tries}, {"moved": False}):
            lines = draw(view(answer, answer, **more), Room(width, height, colour)).plain.splitlines()
            assert len(lines) <= height
            assert max(map(len, lines)) <= width


def test_the_largest_drawing_that_fits() -> None:
    answer, view = cells_of(maze_meta(30))

    def lines(room: Room) -> list[str]:
        return draw(view(answer, answer), room).plain.splitlines()

    roomy = lines(Room(160, 50, True))
    assert "how much each latent moves" in roomy[2]
    assert len(roomy) == 2 + 1 + 30 + 1
    halves = lines(Room(80, 24, True))
    assert "how each cell does" in halves[2]
    assert halves[3].count("▀") == 60
    assert len(halves) == 2 + 1 + 15 + 1
    narrow = lines(Room(80, 40, False))
    assert "how much each latent moves" in narrow[2]
    assert len(narrow[3]) == 30 + 4 + 30
    alone = lines(Room(40, 40, False))
    assert alone[-1] == "no room for how the latents move"
    assert len(alone[3]) == 30
    assert lines(Room(80, 24, False))[2].startswith("the window is too small for all of it, which takes 30 columns")


def test_a_grid_of_another_size() -> None:
    right, question = np.ones((3, 4), np.uint8), np.full((2, 2), 5, np.uint8)
    answer = np.array([[1, 2, 1, 1, 1]], np.uint8)
    text = draw(View(ARC, frame_of(answer), None, question, right), WIDE).plain.splitlines()
    assert text[1] == "5 of 5 cells changed, 2 are wrong; 1 x 5 where 3 x 4 is right"
    assert text[2].split() == ["question", "answer", "how", "much", "each", "latent", "moves"]
    assert text[3].startswith("5 5           1*2X1*1*1X")
    nothing = draw(View(ARC, frame_of(np.zeros((0, 0), np.uint8)), answer, question, right), WIDE).plain
    assert "0 of 0 cells changed, 0 are wrong; 0 x 0 where 3 x 4 is right" in nothing


def test_tries_by_hand() -> None:
    said: list[tuple[str, str, float, State]] = [
        ("1.1", "A", 1.25, "halted"),
        ("1.2", "B", -2.0, "thinks"),
        ("2.1", "A", 3.0, "obeys"),
        ("2.2", "C", 0.0, "stopped"),
        ("3.1", "", 0.0, "waits"),
    ]
    tries = tuple(Try(*words, votes=n in (0, 2), shown=n == 2) for n, words in enumerate(said))
    answer, view = cells_of(sudoku_meta(4))
    lines = draw(view(answer, answer, tries=tries), Room(80, 40, False)).plain.splitlines()
    assert lines[-4:] == [
        "tries: answer (the same letter is the same answer), halt logit; > is shown",
        " 1.1 A +1.2 halted      1.2 B -2.0            >2.1 A +3.0 obeys",
        " 2.2 C +0.0 stopped     3.1 waits",
        "votes: A 2",
    ]
    many = tuple(Try(str(n), "A", 1.0, "thinks", True, n == 1) for n in range(1, 61))
    lines = draw(view(answer, answer, tries=many), Room(80, 40, False)).plain.splitlines()
    assert lines[-2:] == ["and 42 more", "votes: A 60"]
