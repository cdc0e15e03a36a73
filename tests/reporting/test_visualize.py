"""Watching: what is asked, what is printed, and the animation, which is written whole or not at all."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from tests.evaluation.test_arc import ASKED, VERSIONS, canvas, make
from tests.evaluation.test_arc import RIGHT as RIGHT_GRIDS
from trm.config.model import ModelParams
from trm.datasets.maze.dataset import maze_meta
from trm.datasets.sudoku.dataset import sudoku_meta
from trm.data.parquet import read_meta, read_split
from trm.utils.errors import UserError
from trm.inference.solve import Answer
from trm.inference.engine import Dials
from trm.models.act import TRM, build_model
from trm.reporting.terminal import animation
from trm.reporting.terminal import visualize as module
from trm.reporting.terminal.animation import check_place, save_gif
from trm.reporting.figures.pictures import NOTHING, RIGHT, WRONG, picture
from trm.inference.trace import Frame, Try, trace
from trm.reporting.terminal.visualize import Puzzle, puzzle_of, typed_puzzle, verdict, watch

META = sudoku_meta(4)
SOLVED = np.array([[1, 2, 3, 4], [3, 4, 1, 2], [2, 1, 4, 3], [4, 3, 2, 1]], np.uint8)
QUESTION = SOLVED * (SOLVED != 4)
"""Has one solution."""


@pytest.fixture
def model(model_params: ModelParams) -> TRM:
    return build_model(model_params, META).eval()


def test_a_typed_puzzle_knows_its_answer_if_it_has_one() -> None:
    assert np.array_equal(typed_puzzle(META, QUESTION, 1, 0).right, SOLVED)  # type: ignore[arg-type]
    assert typed_puzzle(META, np.zeros((4, 4), np.uint8), 1, 0).right is None  # many solutions
    assert typed_puzzle(META, np.ones((4, 4), np.uint8), 1, 0).right is None  # none


def test_a_test_puzzle_and_its_answer(dataset: Path) -> None:
    meta, split = read_meta(dataset), read_split(dataset / "test")
    puzzle = puzzle_of("model", meta, dataset, 2, 3, 0)
    row = split.puzzle_starts[split.group_starts[2]]
    assert puzzle.right is not None
    assert np.array_equal(puzzle.asked.grid.ravel() + 1, split.inputs[row])
    assert np.array_equal(puzzle.right.ravel() + 1, split.labels[row])
    typed = typed_puzzle(meta, puzzle.asked.grid, 3, 0)
    assert np.array_equal(puzzle.asked.versions.tokens, typed.asked.versions.tokens)
    with pytest.raises(UserError, match="has 6 test puzzles, from 0. Got 6"):
        puzzle_of("model", meta, dataset, 6, 1, 0)
    with pytest.raises(UserError, match="model: trained on sudoku 6 x 6 .* holds sudoku 4 x 4 .*; name the data set"):
        puzzle_of("model", sudoku_meta(6), dataset, 0, 1, 0)


def test_an_arc_task_is_asked_in_the_versions_of_its_data_set(tmp_path: Path, model_params: ModelParams) -> None:
    dataset = make(tmp_path / "data")
    meta = read_meta(dataset)
    numbers = range(len(read_split(dataset / "test").group_starts) - 1)
    puzzles = [puzzle_of("model", meta, dataset, number, 4, 0) for number in numbers]
    (two,) = [puzzle for puzzle in puzzles if puzzle.asked.versions.draws[0] == "two"]
    assert two.asked.grid.tolist() == ASKED[0]
    assert two.right is not None
    assert two.right.tolist() == RIGHT_GRIDS[0]
    assert len(two.asked.identifiers) == 4
    for tokens, name in zip(two.asked.versions.tokens, two.asked.versions.draws, strict=True):
        assert np.array_equal(np.where(tokens > 1, tokens, 0), canvas(ASKED[0], name))
    assert len(puzzle_of("model", meta, dataset, 0, 99, 0).asked.identifiers) == VERSIONS
    net = build_model(model_params.model_copy(update={"puzzle_emb_ndim": 16, "puzzle_emb_len": 1}), meta).eval()
    frames: list[Frame] = []
    answer = trace(net, meta, two.asked, Dials(1), False, frames.append)
    assert np.array_equal(frames[-1].answer, answer.grid)
    assert len(frames[-1].tries) == 4


def test_no_terminal_shows_the_steps_alone(model: TRM, tmp_path: Path) -> None:
    file, out = tmp_path / "a.gif", io.StringIO()
    puzzle = typed_puzzle(META, QUESTION, 1, 0)
    watch(model, META, puzzle, Dials(3), False, file, Console(file=out, width=80))
    said = out.getvalue()
    assert [line[:7] for line in said.splitlines() if "halt logit" in line] == ["step 1,", "step 2,", "step 3,"]
    assert "16 of 16 cells changed" in said.splitlines()[1]  # nothing was shown before
    assert "not solved; the model is 0.7% sure" in said
    assert f"{file}: 3 steps" in said.replace("\n", "")
    frames: list[Frame] = []
    trace(model, META, puzzle.asked, Dials(3), False, frames.append)
    save_gif(META, [frame for frame in frames if frame.ends_step], QUESTION, puzzle.right, tmp_path / "b.gif")
    assert (tmp_path / "b.gif").read_bytes() == file.read_bytes()
    with Image.open(file) as image:
        assert getattr(image, "n_frames", 1) <= 3
        assert image.width > 3 * 4 * 32


def test_a_terminal_shows_every_pass(model: TRM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WATCH_SECONDS", 0.0)
    monkeypatch.setenv("TERM", "xterm-256color")
    console = Console(file=io.StringIO(), force_terminal=True, width=80, height=24)
    watch(model, META, typed_puzzle(META, QUESTION, 1, 0), Dials(2), False, None, console)
    said = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    before, _, after = said.partition("\x1b[?1049l")  # the screen of its own is left
    assert before.count("halt logit") == 2 * model.passes
    assert after.count("halt logit") == 1  # and its last picture stays
    monkeypatch.setenv("TERM", "dumb")
    dumb = Console(file=io.StringIO(), force_terminal=True, width=80, height=24)
    watch(model, META, typed_puzzle(META, QUESTION, 1, 0), Dials(2), False, None, dumb)
    plain = dumb.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    assert plain.count("halt logit") == 2
    assert "\x1b" not in plain


def test_the_verdict() -> None:
    puzzle = Puzzle(typed_puzzle(META, QUESTION, 1, 0).asked, SOLVED)
    open_one = Puzzle(puzzle.asked, None)
    assert verdict(Answer(SOLVED, 0.75, 3, True), puzzle, 4) == "solved; the model is 75.0% sure; 3 of 4 votes"
    assert verdict(Answer(SOLVED[::-1], 0.5, 1, False), puzzle, 1) == "not solved; the model is 50.0% sure"
    other = verdict(Answer(SOLVED[::-1], 0.5, 1, True), puzzle, 1)
    assert other.startswith("another answer than the known one, which obeys the rules too;")
    assert verdict(Answer(SOLVED, 0.5, 1, True), open_one, 1).startswith("obeys the rules;")
    assert verdict(Answer(SOLVED, 0.5, 1, False), open_one, 1).startswith("not solved: breaks the rules or a clue;")
    assert verdict(Answer(SOLVED, 0.5, 1, None), open_one, 1).startswith("no rules to check;")


def test_pictures() -> None:
    wrong = SOLVED.copy()
    wrong[0, 1] = 3
    image = picture(META, wrong, SOLVED * np.array([[1, 0, 1, 0]] * 4, np.uint8), SOLVED)
    side = (image.width - 1) // 4
    assert image.size == (4 * side + 1, 4 * side + 1)
    near = [image.getpixel((column * side + 4, 4)) for column in (1, 3)]
    assert near == [Image.new("RGB", (1, 1), colour).getpixel((0, 0)) for colour in (WRONG, RIGHT)]
    maze = picture(maze_meta(4), np.array([[0, 1], [2, 3]], np.uint8))
    assert len(set(maze.get_flattened_data())) >= 4
    assert picture(META, np.full((4, 4), 255, np.uint8)).size == image.size  # a model may answer with padding
    assert picture(META, SOLVED, side=10).size == (41, 41)


def test_an_animation_of_grids_of_several_sizes(tmp_path: Path) -> None:
    meta = META.model_copy(update={"name": "arc"})
    one = Try("1", "A", 0.0, "done", True, True)

    def frame(answer: np.ndarray, tries: tuple[Try, ...]) -> Frame:
        return Frame(1, 1, 1, True, answer, 0.0, np.ones(answer.shape, np.float32), tries)

    answers = [np.ones((2, 3), np.uint8), np.zeros((0, 0), np.uint8), np.ones((3, 3), np.uint8)]
    frames = [frame(answers[0], (one,)), frame(answers[1], (one, one)), frame(answers[2], (one,))]
    save_gif(meta, frames, np.ones((5, 5), np.uint8), np.full((2, 2), 1, np.uint8), tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as image:
        assert getattr(image, "n_frames", 1) == 3
        shown = np.asarray(image.convert("RGB"))
    frame_colour = np.asarray(Image.new("RGB", (1, 1), NOTHING))
    assert (shown == frame_colour).all(axis=2).any()  # the third column is wrong


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a.png", "writes a GIF; name a file that ends in .gif"),
        ("none/a.gif", "the folder .*none does not exist; make it, or name another"),
        ("folder.gif", "is a folder; name a file"),
    ],
)
def test_places_for_no_animation(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "folder.gif").mkdir()
    with pytest.raises(UserError, match=words):
        check_place(tmp_path / name)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_closed_folder(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(UserError, match="the folder .*closed cannot be written to"):
        check_place(tmp_path / "closed/a.gif")


def test_an_animation_is_whole_or_not_there(model: TRM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.gif"
    file.write_text("older")

    def full(path: Path, content: bytes) -> int:
        with path.open("wb") as half:
            half.write(content[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(animation.Path, "write_bytes", full)
    with pytest.raises(UserError, match="no space left on the disk"):
        watch(model, META, typed_puzzle(META, QUESTION, 1, 0), Dials(1), False, file, Console(file=io.StringIO()))
    assert [path.name for path in tmp_path.iterdir()] == ["a.gif"]
    assert file.read_text() == "older"
