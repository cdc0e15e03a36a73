"""The command `trm export`."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.cli.helpers import Run, check_error
from trm.exporting.modules import StartModule, example_tokens
from trm.exporting.onnx_session import open_session
from trm.reporting.terminal.demo import MODEL
from trm.storage.artifacts import read_manifest
from trm.training.checkpoint import load_checkpoint

FILES = {"export.json", "solve-int8.onnx", "solve.onnx", "step.onnx", "step.pt2"}


@pytest.mark.slow
def test_files_and_comparison(run: Run, here: Path) -> None:
    code, out, err = run("export", "--model", "demo", "--max-puzzles", 8, "--max-steps", 2)
    assert code == 0, err
    assert "8 rows of random tokens, 2 supervision steps:" in out
    assert "next: trm inspect outputs/exported" in out
    folder = here / "outputs/exported"
    manifest = read_manifest(folder)
    assert (manifest["stage"], set(manifest["files"])) == ("export", FILES)
    content = json.loads((folder / "export.json").read_text())
    model, solve, small = content["parity"]
    assert (model["same_answers"], model["max_logit_difference"], model["exact_accuracy"]) == (1.0, 0.0, None)
    assert (solve["file"], solve["same_answers"]) == ("solve.onnx", 1.0)
    assert small["bytes"] < solve["bytes"] / 2
    session = open_session((folder / "solve.onnx").read_bytes())
    puzzle = ".6..2........5.......3.1...43.42...6".replace(".", "0")
    tokens = np.array([[int(cell) + content["first_cell_token"] for cell in puzzle]])
    inputs = {"tokens": tokens, "max_steps": np.array(16), "early_halting": np.array(True)}
    (answer,) = np.asarray(session.run(["answer"], inputs)[0])
    assert "".join(str(token - 1) for token in answer) == "564123132645351264246351615432423516"
    net, _ = load_checkpoint(MODEL)
    with torch.no_grad():
        x, *states = StartModule(net)(example_tokens(net, 3))
        program = torch.export.load(folder / "step.pt2").module()
        logits = program(x, *states)[-3]
        expected = net.read_out(net.deep_recursion(x, {"y": states[0], "z": states[1]}))[0]
    assert logits.numpy() == pytest.approx(expected.numpy(), abs=0.01)
    code, out, _ = run("inspect", folder)
    assert code == 0


def test_mistakes(run: Run, here: Path) -> None:
    check_error(run("export"), "outputs/model: no such file; train a model first")
    check_error(run("export", "--model", "demo", "--dataset", "nothing"), "nothing")
    check_error(
        run("export", "--model", "demo", "--max-puzzles", 0), "--max-puzzles must be greater than or equal to 1. Got 0"
    )
    assert list(here.iterdir()) == [here / "params.yaml"]


def test_options_of_the_stage_and_of_other_models(run: Run, here: Path) -> None:
    stage = ("export", "--params", "params.yaml", "--model", "demo")
    check_error(run(*stage, "--max-steps", 3), "--max-steps has no effect on stage export; use --set export.max_steps")
    check_error(run(*stage, "--web", "web"), "--web has no effect on stage export; leave --params out")
    check_error(run("export", "--set", "export.max_steps=3"), "--set export.max_steps=3 has no effect without --params")
    check_error(run("export", "--out", "s3://bucket/x", "--model", "demo"), "s3://bucket/x: an address of a server")
    assert list(here.iterdir()) == [here / "params.yaml"]
