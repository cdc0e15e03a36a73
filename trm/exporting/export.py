"""`trm export`: a model as ONNX files and as a program of torch.export, and how exactly they repeat its answers."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from trm.config.evaluation import ExportParams
from trm.config.inference import DEFAULT_INFERENCE
from trm.exporting.modules import StartModule, StepModule, batch_shapes, example_tokens
from trm.exporting.onnx_model import OPSET, solve_model, start_model, step_model
from trm.exporting.onnx_session import open_session
from trm.exporting.puzzles import first_puzzles
from trm.exporting.quantization import quantized
from trm.inference.engine import Tokens, predict
from trm.inference.puzzle import get_solvable_dataset
from trm.models.act import TRM
from trm.storage.artifact_cache import local_copy
from trm.storage.artifacts import staged, write_json, write_manifest
from trm.training.checkpoint import checkpoint_file, load_checkpoint
from trm.utils.paths import file_digest
from trm.utils.progress import progress

if TYPE_CHECKING:
    import onnxruntime

STEP, SOLVE, SOLVE_INT8, TORCH_STEP, SETTINGS = "step.onnx", "solve.onnx", "solve-int8.onnx", "step.pt2", "export.json"
BATCH = 64
"""Sequences computed at a time."""

Answers = tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]
"""Tokens [N, L] and halt logits [N]."""


@dataclass(frozen=True)
class Parity:
    """How exactly an exported file repeats the answers of the model."""

    file: str
    bytes: int
    same_answers: float
    """Fraction of the puzzles with the answer of the model."""
    exact_accuracy: float | None
    """Fraction of the puzzles with the right answer; None without labels."""
    max_logit_difference: float
    """Of the halt logits after the last step."""


@dataclass(frozen=True)
class Export:
    """What `trm export` has written."""

    parity: list[Parity]
    """The model itself, and each file with the whole loop."""
    seconds: list[float]
    """Time of a puzzle in batches of `BATCH`, for each of them."""
    puzzles: int
    sha256: str
    """Of the checkpoint."""

    def facts(self) -> dict[str, Any]:
        """Facts of the manifest: the checkpoint, and how exactly the files repeat its answers."""
        metrics = {f"same_answers.{each.file}": each.same_answers for each in self.parity[1:]}
        return {"sha256": self.sha256, "puzzles": self.puzzles, "metrics": metrics}


def export_model(location: str, dataset: str | None, out: Path, config: ExportParams) -> Export:
    """Publish the exported files of a model at the folder `out`; without a dataset the tokens are random.

    Raises the errors of `write_export`.
    """
    folder, puzzles = local_copy(location), None if dataset is None else local_copy(dataset)
    with staged(out) as target:
        result = write_export(folder, puzzles, target, config)
        write_manifest(target, {"stage": "export", "facts": result.facts()})
    return result


def write_export(folder: Path, dataset: Path | None, target: Path, config: ExportParams) -> Export:
    """Write the exported files of the model in `folder` to the folder `target`, and compare their answers.

    dataset: output of stage augment, whose first `config.max_puzzles` test puzzles are answered without early halting;
    None: random tokens. Puzzles have identifier 0, as in `trm.solve`. Raises `DataError` for a damaged model or
    dataset, `UserError` for a model that cannot solve puzzles from outside its dataset.
    """
    max_steps = config.max_steps
    model, meta = load_checkpoint(folder)
    get_solvable_dataset(meta)
    tokens, labels = _puzzles(model, dataset, config.max_puzzles)
    with progress("export", 4) as bar:
        start, step = start_model(model), step_model(model)
        solve = solve_model(model, start, step)
        files = {STEP: step, SOLVE: solve, SOLVE_INT8: quantized(solve)}
        for name, proto in files.items():
            (target / name).write_bytes(proto.SerializeToString(deterministic=True))
        bar.advance()
        torch.export.save(step_program(model), target / TORCH_STEP)
        bar.advance()
        expected, seconds = _timed(lambda: _of_model(model, tokens, max_steps), len(tokens))
        parity, times = [_compare("model", checkpoint_file(folder), expected, expected, labels)], [seconds]
        for name in (SOLVE, SOLVE_INT8):
            bar.advance()
            session = open_session(files[name].SerializeToString())
            answers, seconds = _timed(partial(_of_onnx, session, tokens, max_steps), len(tokens))
            parity.append(_compare(name, target / name, answers, expected, labels))
            times.append(seconds)
        content = {
            "meta": meta.model_dump(mode="json"),
            "first_cell_token": meta.first_cell_token,
            "opset": OPSET,
            "states": list(model.variant.states),
            "state_shape": [model.positions, model.config.block_width],
            "puzzles": len(tokens),
            "random_tokens": dataset is None,
            "max_steps": max_steps,
            "parity": [vars(each) for each in parity],
        }
        write_json(target / SETTINGS, content)
    return Export(parity, times, len(tokens), file_digest(checkpoint_file(folder)))


def step_program(model: TRM) -> torch.export.ExportedProgram:
    """One supervision step as a program of torch.export, with the signature of `StepModule`."""
    with torch.no_grad():
        inputs = StartModule(model)(example_tokens(model))
        return torch.export.export(StepModule(model), inputs, dynamic_shapes=batch_shapes(len(inputs)))


def _puzzles(model: TRM, dataset: Path | None, count: int) -> tuple[Tokens, Tokens | None]:
    """Tokens and labels, uint8 [N, L]."""
    if dataset is None:
        rng = np.random.default_rng(0)
        first = model.meta.first_cell_token
        return rng.integers(first, model.meta.vocab_size, (count, model.meta.seq_len), np.uint8), None
    return first_puzzles(model.meta, dataset, count)


def _timed(answer: Callable[[], Answers], count: int) -> tuple[Answers, float]:
    started = time.perf_counter()
    answers = answer()
    return answers, (time.perf_counter() - started) / count


def _of_model(model: TRM, tokens: Tokens, max_steps: int) -> Answers:
    config = DEFAULT_INFERENCE.model_copy(update={"max_steps": max_steps})
    found = predict(model, tokens, np.zeros(len(tokens), np.int64), config, BATCH)
    return found.tokens.astype(np.int64), found.halt_logit


def _of_onnx(session: "onnxruntime.InferenceSession", tokens: Tokens, max_steps: int) -> Answers:
    answers, logits = [], []
    for start in range(0, len(tokens), BATCH):
        batch = tokens[start : start + BATCH].astype(np.int64)
        inputs = {"tokens": batch, "max_steps": np.array(max_steps), "early_halting": np.array(False)}
        answer, halt_logit = session.run(["answer", "halt_logit"], inputs)
        answers.append(answer)
        logits.append(halt_logit)
    return np.concatenate(answers), np.concatenate(logits)


def _compare(file: str, path: Path, answers: Answers, expected: Answers, labels: Tokens | None) -> Parity:
    right = None if labels is None else float(((answers[0] == labels) | (labels == 0)).all(axis=1).mean())
    return Parity(
        file=file,
        bytes=path.stat().st_size,
        same_answers=float((answers[0] == expected[0]).all(axis=1).mean()),
        exact_accuracy=right,
        max_logit_difference=float(np.abs(answers[1] - expected[1]).max()),
    )
