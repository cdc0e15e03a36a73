"""The evaluation stage: answer the test puzzles, vote, check the rules, score (spec section 6)."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trm.config import EvaluateParams
from trm.data.store import Split, read_meta, read_split
from trm.device import resolve_device, resolve_precision
from trm.errors import UserError
from trm.evaluation.checkers import valid
from trm.evaluation.metrics import scores
from trm.evaluation.solve import predict
from trm.evaluation.versions import cells, draw_versions
from trm.evaluation.voting import Ballots, grid_hash
from trm.meta import DatasetMeta
from trm.model.supervision import TRM
from trm.progress import progress
from trm.training.checkpoint import load_checkpoint

SCHEMA = pa.schema(
    {
        "puzzle": pa.int32(),  # row of the test split
        "version": pa.int32(),  # 0: the puzzle as it is
        "draw": pa.string(),  # the shuffle that made the version, undone in `answer`
        "answer": pa.binary(),  # cell values, row by row
        "votes": pa.int32(),  # versions of the puzzle that gave this answer
        "rank": pa.int32(),  # of this answer among the puzzle's candidates, from 1
        "halt_logit": pa.float32(),
        "steps": pa.int32(),
        "first_halt": pa.int32(),  # the first step at which training would have halted
        "cell_accuracy": pa.float64(),  # labelled cells that are right, a fraction
        "exact": pa.bool_(),
        "valid": pa.bool_(),
        "source": pa.string(),
        "rating": pa.int32(),
    }
)
ROWS_AT_ONCE = 8192


def evaluate(evaluate: EvaluateParams, dataset: Path, model: Path, out: Path, key: str) -> dict[str, object]:
    """Score the averaged weights in `model` on the test split; write predictions.parquet and metrics.json to `out`.

    Raises `UserError` where the model was trained on other data, `DataError` for a broken checkpoint or data set.
    """
    settings = evaluate
    device = resolve_device(settings.device)
    dtype = resolve_precision(settings.precision, device)
    net, trained_on = load_checkpoint(model, dtype=dtype)
    net, meta = net.to(device), read_meta(dataset)
    if trained_on != meta:
        raise UserError(
            f"{model}: trained on {trained_on.kind} {trained_on.height} x {trained_on.width}, but {dataset} holds "
            f"{meta.kind} {meta.height} x {meta.width}; name the data set that the model was trained on"
        )
    split = read_split(dataset / "test")
    rows = _sample(len(split), settings)
    file, puzzles_at_once = out / "predictions.parquet", max(1, ROWS_AT_ONCE // settings.votes)
    with (
        pq.ParquetWriter(file, SCHEMA, compression="zstd") as writer,
        progress("evaluate", len(rows) * settings.votes) as bar,
    ):
        for start in range(0, len(rows), puzzles_at_once):
            part = rows[start : start + puzzles_at_once]
            writer.write_table(_answer(net, meta, split, part, settings, bar.advance))
    text = json.dumps(scores(pq.read_table(file), settings.votes, settings.pass_at), indent=2, allow_nan=False)
    (out / "metrics.json").write_text(text + "\n", encoding="utf-8")
    return {"device": device.type, "precision": str(dtype).removeprefix("torch."), "processes": 1}


def _sample(count: int, settings: EvaluateParams) -> np.ndarray:
    """The test rows to score, int64, in the order of the split."""
    if settings.max_puzzles is None or settings.max_puzzles >= count:
        return np.arange(count)
    rng = np.random.default_rng(np.random.SeedSequence([settings.seed, count]))
    return np.sort(rng.choice(count, settings.max_puzzles, replace=False))


def _answer(
    model: TRM,
    meta: DatasetMeta,
    split: Split,
    rows: np.ndarray,
    settings: EvaluateParams,
    advance: Callable[[int], None],
) -> pa.Table:
    """Answer the puzzles `rows` in all their versions and vote: a line for each version, in order."""
    k = settings.votes
    # A draw depends on seed and row alone: a sample of the puzzles sees the same versions as all of them.
    generators = [np.random.default_rng(np.random.SeedSequence([settings.seed, int(row), 1])) for row in rows]
    versions = [draw_versions(meta, split.inputs[row], rng, k) for row, rng in zip(rows, generators, strict=True)]
    asked = np.concatenate([version.tokens for version in versions])
    identifiers = np.repeat(split.identifiers[rows], k)
    predicted = predict(model, asked, identifiers, settings.steps, settings.batch_size, advance)

    questions, rights = cells(meta, split.inputs[rows]), cells(meta, split.labels[rows])
    labelled = split.labels[rows] != 0
    tokens_of = predicted.tokens.reshape(len(rows), k, -1)
    answers = np.stack([version.undo(tokens) for version, tokens in zip(versions, tokens_of, strict=True)])
    votes, ranks = _vote(rows, questions, answers, predicted.halt_logit.reshape(len(rows), k))
    per_cell = (answers == rights[:, None]).reshape(len(rows), k, -1) & labelled[:, None]
    right_cells = per_cell.sum(axis=2) / labelled.sum(axis=1)[:, None]
    flat = answers.reshape(-1, meta.height, meta.width)
    source = [split.source_names[code] for code in split.source_codes[rows]]
    columns = {
        "puzzle": np.repeat(rows, k),
        "version": np.tile(np.arange(k), len(rows)),
        "draw": [draw for version in versions for draw in version.draws],
        "answer": [answer.tobytes() for answer in flat],
        "votes": votes.ravel(),
        "rank": ranks.ravel(),
        "halt_logit": predicted.halt_logit,
        "steps": np.full(len(flat), settings.steps),
        "first_halt": predicted.first_halt,
        "cell_accuracy": right_cells.ravel(),
        "exact": (right_cells == 1).ravel(),
        "valid": valid(meta, questions.repeat(k, axis=0), flat),
        "source": [name for name in source for _ in range(k)],
        "rating": np.repeat(split.ratings[rows], k),
    }
    return pa.table([pa.array(columns[field.name], field.type) for field in SCHEMA], schema=SCHEMA)


def _vote(
    rows: np.ndarray, questions: np.ndarray, answers: np.ndarray, halt_logits: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Votes for each answer [N, k, height, width], and its rank among its puzzle's candidates: int64 [N, k]."""
    ballots = Ballots()
    puzzles = [(int(row), grid_hash(question)) for row, question in zip(rows, questions, strict=True)]
    for puzzle, of_puzzle, logits in zip(puzzles, answers, halt_logits, strict=True):
        for answer, logit in zip(of_puzzle, logits, strict=True):
            ballots.add(puzzle, answer, logit)
    votes, ranks = (np.empty(answers.shape[:2], dtype=np.int64) for _ in range(2))
    for i, puzzle in enumerate(puzzles):
        ranked = ballots.ranked(puzzle)
        place = {candidate.grid.tobytes(): place for place, candidate in enumerate(ranked, 1)}
        ranks[i] = [place[answer.tobytes()] for answer in answers[i]]
        votes[i] = [ranked[rank - 1].votes for rank in ranks[i]]
    return votes, ranks
