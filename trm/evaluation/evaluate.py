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
from trm.evaluation.metrics import Estimate, mean_interval, proportion
from trm.evaluation.solve import predict
from trm.evaluation.versions import cells, draw_versions
from trm.evaluation.voting import Ballots, grid_hash, pass_at
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
        "exact": pa.bool_(),
        "valid": pa.bool_(),
        "source": pa.string(),
        "rating": pa.int32(),
    }
)
ROWS_AT_ONCE = 8192


def evaluate(evaluate: EvaluateParams, dataset: Path, model: Path, out: Path, key: str) -> dict[str, object]:
    """Score the averaged weights in `model` on the test split; write metrics.json and predictions.parquet to `out`."""
    settings = evaluate
    device = resolve_device(settings.device)
    dtype = resolve_precision(settings.precision, device)
    net, trained_on = load_checkpoint(model, dtype=dtype)
    meta = read_meta(dataset)
    if trained_on != meta:
        raise UserError(
            f"{model}: trained on {trained_on.kind} {trained_on.height} x {trained_on.width}, but {dataset} holds "
            f"{meta.kind} {meta.height} x {meta.width}; name the data set that the model was trained on"
        )
    split = read_split(dataset / "test")
    rows = _sample(len(split), settings)
    scores = _Scores(settings)
    puzzles_at_once = max(1, ROWS_AT_ONCE // settings.votes)
    with (
        pq.ParquetWriter(out / "predictions.parquet", SCHEMA, compression="zstd") as writer,
        progress("evaluate", len(rows) * settings.votes) as bar,
    ):
        for start in range(0, len(rows), puzzles_at_once):
            part = rows[start : start + puzzles_at_once]
            table = _answer(net.to(device), meta, split, part, settings, scores, bar.advance)
            writer.write_table(table)
    text = json.dumps(scores.metrics(), indent=2, sort_keys=True, allow_nan=False)
    (out / "metrics.json").write_text(text + "\n", encoding="utf-8")
    return {"device": device.type, "precision": str(dtype).removeprefix("torch."), "processes": 1, "key": key}


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
    scores: "_Scores",
    advance: Callable[[int], None],
) -> pa.Table:
    """Answer the puzzles `rows` in all their versions, score them, and return a line for each version."""
    k = settings.votes
    # Version by seed and row alone: a sample of the puzzles sees the same versions as all of them.
    generators = [np.random.default_rng(np.random.SeedSequence([settings.seed, int(row), 1])) for row in rows]
    versions = [draw_versions(meta, split.inputs[row], rng, k) for row, rng in zip(rows, generators, strict=True)]
    tokens = np.concatenate([version.tokens for version in versions])
    predicted = predict(
        model, tokens, np.repeat(split.identifiers[rows], k), settings.steps, settings.batch_size, advance
    )

    questions, rights = cells(meta, split.inputs[rows]), cells(meta, split.labels[rows])
    answers = np.concatenate(
        [version.undo(predicted.tokens[i * k : (i + 1) * k]) for i, version in enumerate(versions)]
    )
    obeys = valid(meta, questions.repeat(k, axis=0), answers)
    lines: dict[str, list] = {name: [] for name in SCHEMA.names}
    for i, row in enumerate(rows):
        own = slice(i * k, (i + 1) * k)
        ballot, ballots = (int(row), grid_hash(questions[i])), Ballots()
        for answer, halt_logit in zip(answers[own], predicted.halt_logit[own], strict=True):
            ballots.add(ballot, answer, halt_logit)
        ranked = ballots.ranked(ballot)
        exact = (answers[own] == rights[i]).all(axis=(1, 2))
        labelled = split.labels[row] != 0
        right_cells = (predicted.tokens[i * k] == split.labels[row])[labelled].mean()
        scores.add(
            cell=float(right_cells),
            exact=bool(exact[0]),
            valid=bool(obeys[i * k]),
            halted=bool(predicted.halt_logit[i * k] >= 0),
            first_halt=int(predicted.first_halt[i * k]),
            voted_valid=bool(valid(meta, questions[i][None], ranked[0].grid[None])[0]),
            passes={at: pass_at(ranked, rights[i], at) for at in settings.pass_at},
        )
        ranks = {candidate.grid.tobytes(): (place, candidate) for place, candidate in enumerate(ranked, 1)}
        lines["puzzle"] += [int(row)] * k
        lines["version"] += range(k)
        lines["draw"] += versions[i].draws
        lines["answer"] += [answer.tobytes() for answer in answers[own]]
        lines["votes"] += [ranks[answer.tobytes()][1].votes for answer in answers[own]]
        lines["rank"] += [ranks[answer.tobytes()][0] for answer in answers[own]]
        lines["exact"] += exact.tolist()
        lines["source"] += [split.sources[row]] * k
        lines["rating"] += [int(split.ratings[row])] * k
    lines["halt_logit"] = predicted.halt_logit.tolist()
    lines["first_halt"] = predicted.first_halt.tolist()
    lines["steps"] = [settings.steps] * len(answers)
    lines["valid"] = obeys.tolist()
    return pa.table(lines, schema=SCHEMA)


class _Scores:
    """Scores of the puzzles so far: of each puzzle as it is, and of the vote over its versions."""

    def __init__(self, settings: EvaluateParams) -> None:
        self.settings = settings
        self.puzzles: list[dict] = []

    def add(self, **puzzle: object) -> None:
        self.puzzles.append(puzzle)

    def metrics(self) -> dict[str, object]:
        """Fractions, with their bounds under `interval_95`; `pass@K` and `voted_valid` are of the vote."""
        n = len(self.puzzles)

        def share(holds: Callable[[dict], bool]) -> Estimate:
            return proportion(sum(holds(puzzle) for puzzle in self.puzzles), n)

        estimates = {
            "exact_accuracy": share(lambda puzzle: puzzle["exact"]),
            "cell_accuracy": mean_interval([puzzle["cell"] for puzzle in self.puzzles]),
            "halt_accuracy": share(lambda puzzle: puzzle["halted"] == puzzle["exact"]),
            "valid": share(lambda puzzle: puzzle["valid"]),
            "voted_valid": share(lambda puzzle: puzzle["voted_valid"]),
        }
        for at in self.settings.pass_at:
            estimates[f"pass@{at}"] = share(lambda puzzle, at=at: puzzle["passes"][at])
        return {
            **{name: estimate["value"] for name, estimate in estimates.items()},
            "interval_95": {name: [estimate["low"], estimate["high"]] for name, estimate in estimates.items()},
            "mean_steps": float(self.settings.steps),
            "mean_first_halt": float(np.mean([puzzle["first_halt"] for puzzle in self.puzzles])),
            "puzzles": n,
            "votes": self.settings.votes,
        }
