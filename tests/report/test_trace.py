"""The trace of a puzzle: what its frames say, and how they are shown."""

import io
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from trm.config import ModelParams
from trm.data.kinds.maze import maze_meta
from trm.data.kinds.sudoku import sudoku_meta
from trm.errors import UserError
from trm.model.supervision import TRM, build_model
from trm.report.pictures import RIGHT, WRONG, picture
from trm.report.trace import Frame, heat, save_gif, shown, trace
from trm.report.watch import Asked, puzzle_of, typed_puzzle, watch

META = sudoku_meta(4)
SOLVED = np.array([[1, 2, 3, 4], [3, 4, 1, 2], [2, 1, 4, 3], [4, 3, 2, 1]], np.uint8)
QUESTION = SOLVED * np.array([[1, 0, 1, 0]] * 4, np.uint8)


def model_of(params: ModelParams, **changes: object) -> TRM:
    return build_model(params.model_copy(update=changes), META).eval()


def asked() -> Asked:
    return typed_puzzle(META, QUESTION)


def frames_of(model: TRM, steps: int) -> list[Frame]:
    puzzle = asked()
    return list(trace(model, puzzle.tokens, 0, puzzle.undo, steps))


@pytest.mark.parametrize("family", ["trm", "single-state", "seven-state", "hrm", "direct"])
def test_the_end_of_each_step_is_the_models_own_answer(model_params: ModelParams, family: str) -> None:
    model = model_of(model_params, family=family)
    frames = frames_of(model, 3)
    assert len(frames) == 3 * model.passes
    ends = [frame for frame in frames if frame.ends_step]
    assert [frame.step for frame in ends] == [1, 2, 3]
    puzzle = asked()
    batch = {
        "inputs": torch.from_numpy(puzzle.tokens.astype(np.int32)[None]),
        "puzzle_identifiers": torch.zeros(1).int(),
    }
    for frame in ends:
        tokens, halt_logit, _ = model.answer(batch, frame.step)
        assert np.array_equal(frame.answer, puzzle.undo(tokens.numpy().astype(np.uint8))[0])
        assert frame.halt_logit == pytest.approx(float(halt_logit[0]), abs=1e-5)


def test_latents_move_before_the_answer_does(model_params: ModelParams) -> None:
    frames = frames_of(model_of(model_params, H_cycles=2, L_cycles=3), 1)
    assert [(frame.round, frame.number) for frame in frames] == [(r, n) for r in (1, 2) for n in (1, 2, 3, 4)]
    for first, second in itertools.pairwise(frames):
        if second.number < 4 and second.round == first.round:
            assert np.array_equal(first.answer, second.answer)  # y is renewed by a round's last pass
    moved = frames[0].moved
    assert moved is not None
    assert moved.shape == (4, 4)
    assert (moved > 0).all()
    assert np.array_equal(frames[2].moved, frames[3].moved)  # type: ignore[arg-type] - the answer's pass moves no latent
    assert frames_of(model_of(model_params, family="direct"), 1)[0].moved is None


def printed(renderable: object, **options: object) -> str:
    console = Console(file=io.StringIO(), force_terminal=True, color_system="standard", width=80, **options)  # pyright: ignore[reportArgumentType]
    console.print(renderable)
    return console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


def test_how_a_frame_is_shown() -> None:
    answer = SOLVED.copy()
    answer[0, 0] = 2
    frame = Frame(2, 1, 3, answer, 0.0, np.full((4, 4), 1.0, np.float32), True)
    text = printed(shown(META, frame, SOLVED, SOLVED))
    assert "step 2, round 1, pass 3   halt logit +0.00: 50.0% sure" in text
    assert text.count("\x1b[1;7;31m2 ") == 1  # wrong, and changed
    assert text.count("\x1b[32m") >= 4  # right ones, unchanged
    assert "████████" in text
    assert "\x1b[3" not in printed(shown(META, frame, SOLVED, SOLVED), no_color=True)


def test_a_heat_map_by_hand() -> None:
    """Full at 1, half at 10 ** -1.5, blank at 10 ** -3 and below."""
    assert heat(np.array([[1, 10**-1.5], [1e-3, 0]], np.float32)).plain == "██▒▒\n    "


def test_pictures() -> None:
    wrong = SOLVED.copy()
    wrong[0, 1] = 3
    image = picture(META, wrong, QUESTION, SOLVED)
    side = (image.width - 1) // 4
    assert image.size == (4 * side + 1, 4 * side + 1)
    near = [image.getpixel((column * side + 4, 4)) for column in (1, 3)]
    assert near == [Image.new("RGB", (1, 1), colour).getpixel((0, 0)) for colour in (WRONG, RIGHT)]
    maze = picture(maze_meta(4), np.array([[0, 1], [2, 3]], np.uint8))
    assert len(set(maze.get_flattened_data())) >= 4
    assert picture(META, np.full((4, 4), 255, np.uint8)).size == image.size  # a model may answer with padding


def test_the_animation_has_a_picture_for_each_step(model_params: ModelParams, tmp_path: Path) -> None:
    file, out = tmp_path / "a.gif", io.StringIO()
    watch(model_of(model_params), META, asked(), 3, file, Console(file=out, width=80))
    with Image.open(file) as image:
        assert getattr(image, "n_frames", 1) <= 3
        assert image.width > 3 * 60
    said = out.getvalue()
    assert said.count("halt logit") == 3  # no terminal: the steps alone
    assert "not solved" in said
    assert f"{file}: 3 steps" in said.replace("\n", "")
    frames = [frame for frame in frames_of(model_of(model_params), 3) if frame.ends_step]
    save_gif(META, frames, QUESTION, SOLVED, tmp_path / "b.gif")
    assert (tmp_path / "b.gif").read_bytes() == file.read_bytes()


def test_a_test_puzzle_and_its_answer(dataset: Path) -> None:
    from trm.data.store import read_meta, read_split

    meta, split = read_meta(dataset), read_split(dataset / "test")
    puzzle = puzzle_of(meta, dataset, 2)
    row = split.puzzle_starts[split.group_starts[2]]
    assert puzzle.right is not None
    assert np.array_equal(puzzle.question.ravel() + 1, split.inputs[row])
    assert np.array_equal(puzzle.right.ravel() + 1, split.labels[row])
    with pytest.raises(UserError, match="has 6 test puzzles, from 0. Got 6"):
        puzzle_of(meta, dataset, 6)
