"""A small experiment whose commands run in several processes."""

import csv
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TextIO

from tests.conftest import ROOT
from tests.params import params_text
from tests.preload import python

SETTINGS: dict[str, Any] = {
    "model.hidden_size": 16,
    "model.num_heads": 2,
    # Shallow: rounding differences grow with the depth of the recursion.
    "model.L_cycles": 2,
    "model.halt_max_steps": 4,
    "model.expansion": 1,
    "model.puzzle_emb_ndim": 24,
    "model.puzzle_emb_len": 2,
    "train.optimizer.puzzle_emb.lr": 1.0e-3,
    "model.halt_exploration_prob": 0.5,
    "model.q_continue_loss": True,
    "train.epochs": 20,
    "train.global_batch_size": 8,
    "train.eval_interval": 5,
    "train.log_interval": 1,
    "train.checkpoint_interval": 7,
    "train.lr_warmup_steps": 10,
    "evaluate.max_steps": 4,
    "train.precision": "float32",
    "evaluate.precision": "float32",
    "report.precision": "float32",
    "train.device": "cpu",
    "evaluate.device": "cpu",
    "report.device": "cpu",
}
STEPS = 20 * 20 // 8


class Experiment:
    """A folder in which `trm` runs in several processes."""

    def __init__(self, folder: Path, dataset: Path, changes: Mapping[str, Any] = MappingProxyType({})) -> None:
        self.folder, self.dataset = folder, dataset
        self.states = str(folder / "states")
        """Value of TRM_STATE_DIR."""
        folder.mkdir(parents=True)
        (folder / "params.yaml").write_text(params_text({**SETTINGS, **changes}))

    def start(
        self,
        processes: int,
        *words: str,
        restarts: int = 0,
        output: int | TextIO = subprocess.PIPE,
        program: str = sys.executable,
        workers: str = "",
    ) -> subprocess.Popen[str]:
        """Start `trm`, directly or under torchrun with up to `restarts` restarts.

        program: the interpreter. workers: that of the processes that torchrun starts, if it is another one.
        """
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        torchrun += [f"--max-restarts={restarts}"]
        environment = {**os.environ, "TRM_STATE_DIR": self.states, "PYTHONPATH": str(ROOT)}
        environment |= {"OMP_NUM_THREADS": "1", "PYTHON_EXEC": workers or program}
        if environment["PYTHON_EXEC"] == sys.executable:
            environment["PYTHONWARNINGS"] = "error::FutureWarning:trm"
        return subprocess.Popen(
            [program, *(torchrun if processes > 1 else []), "-m", "trm", *words],
            cwd=self.folder,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, processes: int, *words: str, code: int = 0) -> str:
        process = self.start(processes, *words, program=python())
        out, _ = process.communicate(timeout=200)
        assert process.returncode == code, out
        return out

    def train(self, processes: int, code: int = 0) -> str:
        return self.run(processes, "train", "--dataset", str(self.dataset), "--model", "model", code=code)

    def log(self) -> list[dict[str, str]]:
        with (self.folder / "model/train.tsv").open() as file:
            return list(csv.DictReader(file, delimiter="\t"))

    def steps_done(self) -> int:
        return self.lines(self.folder)

    def lines(self, folder: Path) -> int:
        """Number of rows in the training log of the run with its states below `folder`."""
        logs = list((folder / "states").glob("*/train.tsv"))
        return logs[0].read_bytes().count(b"\n") - 1 if logs else 0

    def stop_after(self, process: subprocess.Popen[str], steps: int, number: int) -> str:
        """Send signal `number` after `steps` logged steps; returns the output of the processes."""
        while self.steps_done() < steps and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(number)
        return process.communicate(timeout=100)[0]
