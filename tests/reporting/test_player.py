"""The keys of `trm visualize` and `trm demo`, in a real terminal and with a scripted keyboard."""

import io
import re
from collections.abc import Iterator

import numpy as np
import pytest
from rich.console import Console
from rich.live import Live

from tests.terminals import in_terminal
from trm.datasets.drawings import get_drawing
from trm.datasets.sudoku.dataset import sudoku_meta
from trm.inference.trace import Frame, Sample
from trm.reporting.terminal import player as module
from trm.reporting.terminal.maps import View
from trm.reporting.terminal.player import KEYS, PAUSED, SOLVED, Player, Stopped
from trm.reporting.terminal.rendering import TERMS

SOLVED_GRID = np.array([[1, 2, 3, 4], [3, 4, 1, 2], [2, 1, 4, 3], [4, 3, 2, 1]], np.uint8)


class Script:
    """A keyboard that gives these keys, one a call, and then none."""

    def __init__(self, keys: str) -> None:
        names = {">": "right", "<": "left", "_": ""}
        self._keys: Iterator[str] = iter([names.get(key, key) for key in keys])

    def read(self, seconds: float) -> str:
        del seconds
        return next(self._keys, "")


def view(step: int, solved: bool = False) -> View:
    answer = SOLVED_GRID if solved else np.full_like(SOLVED_GRID, step)
    frame = Frame(step, 1, 1, True, answer, 0.0, None, (Sample("1", "A", 0.0, "running", True, True),))
    return View(get_drawing(sudoku_meta(4)), frame, None, SOLVED_GRID * 0, SOLVED_GRID)


def shown(keys: str, views: list[View], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps of the drawings, and -1 at the end if the user has stopped it."""
    monkeypatch.setattr(module, "FRAME_SECONDS", 0.0)
    drawn = list[int]()
    console = Console(file=io.StringIO(), force_terminal=True, width=80, height=24)
    with Live(console=console, auto_refresh=False, screen=True) as live:
        player = Player(console, live, Script(keys))  # type: ignore[arg-type]
        monkeypatch.setattr(player, "draw", lambda: drawn.append(player.view.frame.step))
        try:
            for each in views:
                player.show(each)
        except Stopped:
            drawn.append(-1)
    return drawn


@pytest.mark.parametrize(
    ("keys", "steps"),
    [
        ("", [1, 2, 3, 4, 5]),
        (" _ ", [1, 1, 1, 2, 3, 4, 5]),  # pause and go on: the view is drawn again
        (">>", [1, 2, 3]),  # each key shows the next view; then it is paused
        (">><< ", [1, 2, 3, 2, 1, 1, 2, 3, 4, 5]),  # back, and forward again by time
        ("n", [1, 2, 3, 4, 5]),
        (">>>< <n", [1, 2, 3, 4, 3, 3, 2, 3]),  # to the next step in the past
        ("e", [1]),
        ("+-_", [1, 1, 1, 2, 3, 4, 5]),
        (">q", [1, 2, -1]),
    ],
)
def test_keys(keys: str, steps: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A script that ends while it is paused would wait for ever: it types q."""
    is_paused = keys in (">>", ">>>< <n")
    drawn = shown(keys + "q" * is_paused, [view(step) for step in range(1, 6)], monkeypatch)
    assert drawn == [*steps, *([-1] if is_paused else [])]


def test_jump_to_the_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown("n", [view(step) for step in (1, 1, 1, 2, 2)], monkeypatch) == [1, 2, 2]


def test_pause_at_the_solution(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once: the second time the animation goes on."""
    views = [view(1), view(2, solved=True), view(3), view(4, solved=True)]
    assert shown("___q", views, monkeypatch) == [1, 2, -1]
    assert shown("___ ", views, monkeypatch) == [1, 2, 2, 3, 4]


def test_speed_has_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80, height=24)
    with Live(console=console, auto_refresh=False, screen=True) as live:
        fast, slow = (Player(console, live, Script(key * 20 + "q")) for key in "+-")  # type: ignore[arg-type]
        for player, seconds in ((fast, module.MIN_SECONDS), (slow, module.MAX_SECONDS)):
            monkeypatch.setattr(player, "draw", lambda: None)
            with pytest.raises(Stopped):
                player.show(view(1))
            assert player.seconds == seconds


def test_lines_fit_80_columns() -> None:
    for start in (PAUSED, SOLVED):
        assert len(start + KEYS.removeprefix("space pause  ")) <= 80
    assert max(map(len, TERMS)) <= 80


DEMO = ("trm", "demo", "--seed", "3")


def test_demo_stops_at_the_solution() -> None:
    """It is solved after step 2 of 16; the screen and the settings of the terminal are restored."""
    code, output = in_terminal(DEMO, [("solved; space goes on", " ")])
    assert code == 0
    assert output.startswith("loading the model ...")
    screen, _, after = output.partition("\x1b[?1049l")
    assert "solved; halt probability 99" in after
    assert "the same puzzle again: trm demo --seed 3" in after
    assert after.count("halt logit") == 1
    assert re.findall(r"of 36 cells changed after \d+ passes without a change, 0 wrong", screen)
    assert all(term in screen for term in TERMS)


def test_quit() -> None:
    code, output = in_terminal(DEMO, [("halt logit", "q")])
    assert code == 0
    assert "stopped at step 1" in output.partition("\x1b[?1049l")[2]
    assert "the model fails on" not in output


def test_arrow_keys_and_the_end() -> None:
    keys = [("space pause", "\x1b[C"), ("paused; space", "\x1b[C"), ("paused; space", "\x1b[De")]
    code, output = in_terminal(DEMO, keys)
    assert code == 0
    assert "solved; halt probability 99" in output


@pytest.mark.parametrize("variables", [{"PYTHONIOENCODING": "ascii"}, {"TERM": "dumb"}, {"NO_COLOR": "1"}], ids=str)
def test_other_terminals(variables: dict[str, str]) -> None:
    code, output = in_terminal(DEMO, [("solved; space goes on", " ")], environment=variables)
    assert code == 0
    assert "solved; halt probability 99" in output
    if "PYTHONIOENCODING" in variables:
        assert output.isascii()
        assert "movement: - 0.006  = 0.03  % 0.2  # 1" in output
    if "TERM" in variables:
        assert "\x1b" not in output
