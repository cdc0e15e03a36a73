"""`trm visualize`: the puzzle, the terminal output, and the animation, which is written atomically."""

import io
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from tests.networks import ScriptedNetwork, inference_config
from trm.config.base import parse
from trm.config.data import AugmentParams
from trm.config.model import ModelParams
from trm.data.drawing import INVALID
from trm.data.parquet import read_meta, read_split
from trm.datasets.arc.dataset import Settings as ArcSettings
from trm.datasets.arc.dataset import fetch as fetch_arc
from trm.datasets.augment import augment
from trm.datasets.drawings import get_drawing
from trm.datasets.maze.dataset import maze_meta
from trm.datasets.sudoku.dataset import sudoku_meta
from trm.inference.solve import Answer
from trm.inference.trace import Frame, Sample, trace_puzzle
from trm.models.act import TRM, build_model
from trm.reporting.figures.pictures import CORRECT, WRONG, picture
from trm.reporting.terminal import animation, player
from trm.reporting.terminal.animation import check_gif_path, save_gif
from trm.reporting.terminal.visualize import Puzzle, dataset_puzzle, input_puzzle, outcome, visualize
from trm.utils.errors import UserError

META = sudoku_meta(4)
SOLVED = np.array([[1, 2, 3, 4], [3, 4, 1, 2], [2, 1, 4, 3], [4, 3, 2, 1]], np.uint8)
QUESTION = SOLVED * (SOLVED != 4)
"""It has one solution."""


@pytest.fixture
def model(model_params: ModelParams) -> TRM:
    return build_model(model_params, META).eval()


def test_unique_solution_of_an_input_puzzle() -> None:
    assert np.array_equal(input_puzzle(META, QUESTION, 1, 0).solution, SOLVED)  # type: ignore[arg-type]
    assert input_puzzle(META, np.zeros((4, 4), np.uint8), 1, 0).solution is None  # many solutions
    assert input_puzzle(META, np.ones((4, 4), np.uint8), 1, 0).solution is None  # none


def test_puzzle_of_a_dataset(dataset: Path) -> None:
    meta, split = read_meta(dataset), read_split(dataset / "test")
    puzzle = dataset_puzzle("model", meta, dataset, 2, 3, 0)
    row = split.puzzle_starts[split.group_starts[2]]
    assert puzzle.solution is not None
    assert np.array_equal(puzzle.puzzle.grid.ravel() + 1, split.inputs[row])
    assert np.array_equal(puzzle.solution.ravel() + 1, split.labels[row])
    same = input_puzzle(meta, puzzle.puzzle.grid, 3, 0)
    assert np.array_equal(puzzle.puzzle.augmentations.tokens, same.puzzle.augmentations.tokens)
    with pytest.raises(UserError, match="--index must be below 6, the number of test puzzles. Got 6"):
        dataset_puzzle("model", meta, dataset, 6, 1, 0)
    with pytest.raises(UserError, match="model: trained on sudoku 6 x 6 .* contains sudoku 4 x 4 .*; give the dataset"):
        dataset_puzzle("model", sudoku_meta(6), dataset, 0, 1, 0)


ARC_PAIR = ([[1, 2], [0, 3]], [[1, 2, 3]])
"""The test pair of the ARC task `task`."""


def arc_dataset(folder: Path) -> Path:
    """An ARC dataset with five augmentations of the evaluation task `task`."""
    tasks = {"training": ("other", ([[3, 4]], [[4, 3]])), "evaluation": ("task", ARC_PAIR)}
    source: dict[str, Any] = {"type": "path", "concept": None}
    for subset, (name, (question, solution)) in tasks.items():
        demonstration = {"input": [[1]], "output": [[2, 3]]}
        contents = {
            "challenges": {name: {"train": [demonstration], "test": [{"input": question}]}},
            "solutions": {name: [solution]},
        }
        source[subset] = {f"{part}_sha256": None for part in contents}
        for part, content in contents.items():
            source[subset][part] = str(folder / f"{subset}_{part}.json")
            (folder / f"{subset}_{part}.json").write_text(json.dumps(content))
    raw, out = folder / "raw", folder / "dataset"
    raw.mkdir()
    out.mkdir()
    values = {"name": "arc", "edition": "arc-agi-1", "source": source, "seed": 0}
    settings = parse(ArcSettings, values, "test")
    fetch_arc(settings, raw)
    augment(settings, AugmentParams(num_aug=5, validation_groups=0, seed=0), raw, out, "key")
    return out


def arc_canvas(grid: list[list[int]], name: str) -> np.ndarray:
    """The augmentation `name` of a grid, at the upper left of a canvas; independent of the code under test."""
    cells = np.array(grid, np.uint8)
    _, symmetry, colors = name.split("|||") if "|||" in name else (name, "t0", "0123456789")
    cells = np.array([int(color) for color in colors], np.uint8)[cells]
    number = int(symmetry[1])
    cells = np.rot90(cells, number) if number < 4 else cells
    reflections = {4: np.fliplr, 5: np.flipud, 6: np.transpose, 7: lambda grid: np.fliplr(np.rot90(grid))}
    cells = reflections.get(number, np.copy)(cells)
    tokens = np.zeros((30, 30), np.uint8)
    tokens[: cells.shape[0], : cells.shape[1]] = cells + 2
    return tokens.ravel()


def test_arc_task_has_the_augmentations_of_the_dataset(tmp_path: Path, model_params: ModelParams) -> None:
    dataset = arc_dataset(tmp_path)
    meta = read_meta(dataset)
    puzzle = dataset_puzzle("model", meta, dataset, 0, 4, 0)
    question, solution = ARC_PAIR
    assert puzzle.solution is not None
    assert (puzzle.puzzle.grid.tolist(), puzzle.solution.tolist()) == (question, solution)
    augmentations = puzzle.puzzle.augmentations
    assert augmentations.names[0] == "task"
    assert len(puzzle.puzzle.identifiers) == len(set(augmentations.names)) == 4
    for tokens, name in zip(augmentations.tokens, augmentations.names, strict=True):
        assert np.array_equal(np.where(tokens > 1, tokens, 0), arc_canvas(question, name))
    assert dataset_puzzle("model", meta, dataset, 0, 99, 0).puzzle.num_votes == 6
    net = build_model(model_params.model_copy(update={"puzzle_emb_ndim": 16, "puzzle_emb_len": 1}), meta).eval()
    frames: list[Frame] = []
    answer = trace_puzzle(net, meta, puzzle.puzzle, inference_config(1, num_votes=4), frames.append)
    assert np.array_equal(frames[-1].answer, answer.grid)
    assert len(frames[-1].samples) == 4


def test_every_step_without_a_terminal(model: TRM, tmp_path: Path) -> None:
    file, out = tmp_path / "a.gif", io.StringIO()
    puzzle = input_puzzle(META, QUESTION, 1, 0)
    visualize(model, META, puzzle, inference_config(3), file, Console(file=out, width=80))
    text = out.getvalue()
    steps = [line.split(",")[0] for line in text.splitlines() if "halt logit" in line]
    assert (steps[0], steps[-1]) == ("step 1 of 3", "step 3 of 3")
    assert text.splitlines()[1].startswith("the first answer, ")
    assert "not solved; halt probability 0.7%" in text
    assert f"{file}:3steps" in "".join(text.split())  # the line may be wrapped anywhere
    frames: list[Frame] = []
    trace_puzzle(model, META, puzzle.puzzle, inference_config(3), frames.append)
    last_frames = [frame for frame in frames if frame.ends_step]
    save_gif(get_drawing(META), last_frames, QUESTION, puzzle.solution, tmp_path / "b.gif")
    assert (tmp_path / "b.gif").read_bytes() == file.read_bytes()
    with Image.open(file) as image:
        assert getattr(image, "n_frames", 1) <= 3
        assert image.width > 3 * 4 * 32


def stepwise(question: np.ndarray, step: int, _noise: float) -> tuple[np.ndarray, float]:
    """A wrong answer in steps 1 and 2, the solution in step 3, and the wrong one again from step 6 on."""
    del question
    return (SOLVED if 3 <= step < 6 else SOLVED[::-1]).ravel() + np.uint8(1), 0.0


def test_steps_without_a_change_are_skipped_and_counted(model: TRM) -> None:
    network = ScriptedNetwork(model.config, META, stepwise)
    out = io.StringIO()
    visualize(network, META, input_puzzle(META, QUESTION, 1, 0), inference_config(9), None, Console(file=out, width=80))
    lines = out.getvalue().splitlines()
    assert [line.split(",")[0] for line in lines if "halt logit" in line] == [
        f"step {step} of 9" for step in (1, 3, 6, 9)
    ]
    statuses = [line.split(",")[0] for line in lines if "cells changed" in line]
    assert statuses == [
        "16 of 16 cells changed after 1 step without a change",
        "16 of 16 cells changed after 2 steps without a change",
        "0 of 16 cells changed after 2 steps without a change",
    ]


def test_passes_on_a_terminal(model: TRM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a keyboard: the first pass, those with a change, and the last one."""
    monkeypatch.setattr(player, "FRAME_SECONDS", 0.0)
    monkeypatch.setenv("TERM", "xterm-256color")
    network = ScriptedNetwork(model.config, META, stepwise)
    puzzle, config = input_puzzle(META, QUESTION, 1, 0), inference_config(4)
    console = Console(file=io.StringIO(), force_terminal=True, width=120, height=40)
    visualize(network, META, puzzle, config, None, console)
    text = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    before, _, after = text.partition("\x1b[?1049l")  # the alternate screen is left
    shown = re.findall(r"step (\d) of 4, round (\d) of 2, pass (\d) of 3", before)
    # Before the first answer pass all cells are 0; the last view is drawn once more.
    assert shown == [("1", "1", "1"), ("1", "1", "3"), ("3", "1", "3"), *[("4", "2", "3")] * 2]
    assert "space pause" not in text
    assert after.count("halt logit") == 1  # and the last frame is printed
    monkeypatch.setenv("TERM", "dumb")
    dumb = Console(file=io.StringIO(), force_terminal=True, width=80, height=24)
    visualize(network, META, puzzle, config, None, dumb)
    plain = dumb.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    assert plain.count("halt logit") == 3
    assert "\x1b" not in plain


def test_outcome() -> None:
    one, four = (input_puzzle(META, QUESTION, num_votes, 0).puzzle for num_votes in (1, 4))
    known, unknown = Puzzle(one, SOLVED), Puzzle(one, None)

    def text(puzzle: Puzzle, grid: np.ndarray, valid: bool | None, votes: int = 1, **settings: object) -> str:
        config = inference_config(**settings)  # pyright: ignore[reportArgumentType]
        return outcome(Answer(grid, 0.75, votes, valid, 0.5, config.min_confidence <= 0.5), puzzle, config)

    assert text(Puzzle(four, SOLVED), SOLVED, True, 3) == "solved; halt probability 75.0%; 3 of 4 votes"
    assert text(known, SOLVED[::-1], False) == "not solved; halt probability 75.0%"
    assert text(known, SOLVED[::-1], True).startswith("valid, but not the known solution;")
    assert text(unknown, SOLVED, True).startswith("valid;")
    assert text(unknown, SOLVED, False).startswith("not solved: invalid;")
    assert text(unknown, SOLVED, None).startswith("no rules to check;")
    assert text(known, SOLVED, True, selection="settled") == "solved; halt probability 75.0%; confidence 50.0%"
    assert text(known, SOLVED, True, min_confidence=0.51).endswith("; left unanswered: confidence 50.0% is below 51.0%")


def test_visualize_returns_whether_the_puzzle_is_solved(model: TRM) -> None:
    def solves(network: TRM, grid: np.ndarray) -> bool | None:
        puzzle = input_puzzle(META, grid, 1, 0)
        return visualize(network, META, puzzle, inference_config(1), None, Console(file=io.StringIO()))

    def script(question: np.ndarray, _step: int, _noise: float) -> tuple[np.ndarray, float]:
        del question
        return SOLVED.ravel() + np.uint8(1), 0.0

    network = ScriptedNetwork(model.config, META, script)
    assert solves(network, QUESTION)
    assert solves(network, np.zeros((4, 4), np.uint8))  # many solutions: the answer obeys the rules
    assert not solves(network, SOLVED[::-1] * (SOLVED[::-1] != 4))


def test_pictures() -> None:
    drawing, wrong = get_drawing(META), SOLVED.copy()
    wrong[0, 1] = 3
    image = picture(drawing, wrong, SOLVED * np.array([[1, 0, 1, 0]] * 4, np.uint8), SOLVED)
    size = (image.width - 1) // 4
    assert image.size == (4 * size + 1, 4 * size + 1)
    pixels = [image.getpixel((column * size + 4, 4)) for column in (1, 3)]
    assert pixels == [Image.new("RGB", (1, 1), color).getpixel((0, 0)) for color in (WRONG, CORRECT)]
    maze = picture(get_drawing(maze_meta(4)), np.array([[0, 1], [2, 3]], np.uint8))
    assert len(set(maze.get_flattened_data())) >= 4
    assert picture(drawing, np.full((4, 4), 255, np.uint8)).size == image.size  # the model may predict padding
    assert picture(drawing, SOLVED, cell_size=10).size == (41, 41)


def test_animation_of_grids_of_several_sizes(tmp_path: Path) -> None:
    drawing = get_drawing(META.model_copy(update={"name": "arc"}))
    one = Sample("1", "A", 0.0, "done", True, True)

    def frame(answer: np.ndarray, samples: tuple[Sample, ...]) -> Frame:
        return Frame(1, 1, 1, True, answer, 0.0, np.ones(answer.shape, np.float32), samples)

    answers = [np.ones((2, 3), np.uint8), np.zeros((0, 0), np.uint8), np.ones((3, 3), np.uint8)]
    frames = [frame(answers[0], (one,)), frame(answers[1], (one, one)), frame(answers[2], (one,))]
    save_gif(drawing, frames, np.ones((5, 5), np.uint8), np.full((2, 2), 1, np.uint8), tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as image:
        assert getattr(image, "n_frames", 1) == 3
        shown = np.asarray(image.convert("RGB"))
    frame_color = np.asarray(Image.new("RGB", (1, 1), INVALID))
    assert (shown == frame_color).all(axis=2).any()  # the third column is wrong


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a.png", "writes a GIF; give a file that ends in .gif"),
        ("none/a.gif", "the folder .*none does not exist; create it, or give another"),
        ("folder.gif", "is a folder; give a file"),
    ],
)
def test_invalid_gif_paths(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "folder.gif").mkdir()
    with pytest.raises(UserError, match=words):
        check_gif_path(tmp_path / name)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root can write to every folder")
def test_read_only_folder(tmp_path: Path) -> None:
    (tmp_path / "readonly").mkdir(mode=0o500)
    with pytest.raises(UserError, match="the folder .*readonly is not writable"):
        check_gif_path(tmp_path / "readonly/a.gif")


def test_animation_is_written_atomically(model: TRM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.gif"
    file.write_text("older")

    def full(path: Path, content: bytes) -> int:
        with path.open("wb") as file:
            file.write(content[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(animation.Path, "write_bytes", full)
    puzzle = input_puzzle(META, QUESTION, 1, 0)
    with pytest.raises(UserError, match="no space left on the disk"):
        visualize(model, META, puzzle, inference_config(1), file, Console(file=io.StringIO()))
    assert [path.name for path in tmp_path.iterdir()] == ["a.gif"]
    assert file.read_text() == "older"
