"""An experiment with a tiny model in a separate folder, run by the command line in this process.

A process for each command would import torch again and again, which takes most of the time.
"""

import contextlib
import io
import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any
from unittest import mock

from tests.conftest import ROOT
from tests.params import params_text
from trm.cli.main import main
from trm.utils.stop_signals import handled_signals

STAGES = ("fetch", "augment", "train", "evaluate")
TINY: dict[str, Any] = {
    "model.hidden_size": 32,
    "model.num_heads": 2,
    "model.L_layers": 1,
    "model.H_cycles": 1,
    "model.L_cycles": 1,
    "train.epochs": 1,
    "train.global_batch_size": 16,
    "evaluate.max_steps": 2,
    "evaluate.batch_size": 16,
    "report.batch_size": 16,
    "train.device": "cpu",
    "evaluate.device": "cpu",
    "report.device": "cpu",
}
TINY_EMB = {"model.puzzle_emb_ndim": 32, "model.puzzle_emb_len": 1}


class Experiment:
    """A folder with the params of an experiment, in which commands run."""

    def __init__(self, folder: Path, base: str, changes: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True)
        self.folder, self.outputs = folder, folder / "outputs"
        (folder / "params.yaml").write_text(params_text({**TINY, **changes}, base))

    def start(self, *arguments: object) -> CompletedProcess[str]:
        """Run `trm` in this folder."""
        command, out, err, code = ["trm", *map(str, arguments)], io.StringIO(), io.StringIO(), 0
        handlers = {number: signal.getsignal(number) for number in handled_signals()}
        with (
            contextlib.chdir(self.folder),
            mock.patch.dict(os.environ, {"COLUMNS": "200"}),
            mock.patch("sys.argv", command),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            try:
                main()
            except SystemExit as end:
                code = int(end.code or 0)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        return CompletedProcess(command, code, out.getvalue(), err.getvalue())

    def trm(self, *arguments: object, code: int = 0) -> str:
        """Run `trm`; returns stdout, or stderr if it is expected to fail."""
        done = self.start(*arguments)
        assert done.returncode == code, done.stderr
        return done.stderr if code else done.stdout

    def run(self, *stages: str) -> None:
        """Run these stages in order."""
        for stage in stages:
            self.trm(stage)

    def json(self, file: str) -> Any:  # noqa: ANN401  (JSON may be anything)
        """The contents of a JSON file of an output."""
        return json.loads((self.outputs / file).read_text(encoding="utf-8"))

    def counts(self) -> dict[str, tuple[int, ...]]:
        """Groups, puzzles and examples of each split of the dataset."""
        splits = self.json("dataset/meta.json")["splits"]
        return {
            name: tuple(split[part] for part in ("groups", "puzzles", "examples")) for name, split in splits.items()
        }

    def inspect(self, folder: str) -> str:
        """The output of `trm inspect` for an output, which contains its key."""
        output = self.trm("inspect", f"outputs/{folder}")
        assert self.json(f"{folder}/manifest.json")["key"] in "".join(output.split())
        return output

    def solve(self, puzzle: object, *options: object) -> dict[str, Any]:
        """Solve a puzzle with the trained model. Exit code 3 reports an answer that is not valid."""
        done = self.start("solve", puzzle, "--json", *options)
        assert done.returncode in (0, 3), done.stderr
        answer = json.loads(done.stdout)
        assert (done.returncode == 3) is (answer["valid"] is False)
        return answer

    def error_of(self, *arguments: object) -> str:
        """Run `trm`, which must fail with one line and write nothing; returns the line."""
        before = sorted(self.folder.rglob("*"))
        message = self.trm(*arguments, code=2)
        assert message.startswith("trm: ") and message.count("\n") == 1, message
        assert sorted(self.folder.rglob("*")) == before
        return message


def default_params() -> str:
    """The default experiment."""
    return (ROOT / "params.yaml").read_text()
