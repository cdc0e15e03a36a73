"""The evaluation stage: answer the test puzzles, vote, check the rules, score (spec section 6).

It answers the validation puzzles too, where there are some: by them two models are compared, as test puzzles choose
nothing.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trm.config.evaluation import EvaluateParams
from trm.data.protocol import Grid
from trm.data.parquet import read_meta
from trm.utils.device import resolve_device, resolve_precision
from trm.training.distributed import World, world
from trm.evaluation.metrics import scores
from trm.evaluation.eval_dataset import Question, EvalDataset, check_same_dataset
from trm.evaluation.submission import submission
from trm.inference.engine import Dials, Rules, predict
from trm.inference.voting import VoteCounter, grid_hash
from trm.models.act import TRM
from trm.utils.progress import progress
from trm.training.checkpoint import load_checkpoint

SCHEMA = pa.schema(
    {
        "task": pa.string(),  # its name, or its row in the raw file
        "pair": pa.int32(),  # which of the task's test examples
        "puzzle": pa.int32(),  # row of the split
        "version": pa.int32(),  # 0: the puzzle as it is
        "draw": pa.string(),  # what made the version, undone in `answer`
        "height": pa.int32(),
        "width": pa.int32(),
        "answer": pa.binary(),  # cell values, row by row
        "votes": pa.int32(),  # versions of the puzzle that gave this answer
        "rank": pa.int32(),  # of this answer among the puzzle's candidates, from 1
        "halt_logit": pa.float32(),
        "steps": pa.int32(),  # supervision steps taken, over all rollouts
        "first_halt": pa.int32(),  # the first step at which training would have halted
        "cell_accuracy": pa.float64(),  # labelled cells that are right, a fraction; null where no answer is known
        "exact": pa.bool_(),  # every labelled cell is right
        "right": pa.bool_(),  # the answer is the right grid: the same as `exact` but for what lies around an ARC grid
        "valid": pa.bool_(),  # null where the data has no rules
        "source": pa.string(),
        "rating": pa.int32(),
    }
)
SEQUENCES_AT_ONCE = 8192


def dials(settings: EvaluateParams) -> Dials:
    """What section `evaluate` says of a sequence's computation."""
    return Dials(settings.steps, settings.early_halting, settings.rollouts, settings.noise)


def evaluate(evaluate: EvaluateParams, dataset: Path, model: Path, out: Path, key: str) -> dict[str, object]:
    """Score the averaged weights in `model` on the test split; write predictions.parquet and metrics.json to `out`,
    and submission.json in Kaggle's form where the puzzles are named tasks. The answers to the validation split, each
    puzzle asked once as it is, go to validation.parquet.

    Started by torchrun, the processes share the test puzzles and the leader writes.
    Raises `UserError` where the model was trained on other data, `DataError` for a broken checkpoint or data set.
    """
    settings = evaluate
    device = resolve_device(settings.device)
    dtype = resolve_precision(settings.precision, device)
    net, trained_on = load_checkpoint(model, dtype=dtype)
    net, meta = net.to(device), read_meta(dataset)
    check_same_dataset(model, trained_on, dataset, meta)
    tests = EvalDataset(dataset, meta, settings.votes, settings.max_puzzles, settings.seed)
    file = out / "predictions.parquet"
    with world(device) as processes:
        _write_answers(file, net, tests, settings, processes, "evaluate")
        if (dataset / "validation").is_dir():
            held_out = EvalDataset(dataset, meta, 1, None, settings.seed, "validation")
            _write_answers(out / "validation.parquet", net, held_out, settings, processes, "validate")
    if not processes.leads:
        return {}
    predictions = pq.read_table(file)
    asked = {tests.name(task): tests.pairs(task) for task in tests.sample()}
    metrics = scores(predictions, asked, settings.votes, settings.pass_at_k, net.passes)
    _write(out / "metrics.json", metrics, indent=2)
    if tests.names is not None:
        everything = {tests.name(task): tests.pairs(task) for task in range(len(tests.split.group_starts) - 1)}
        _write(out / "submission.json", submission(predictions, everything), indent=None)
    facts = {"device": device.type, "precision": str(dtype).removeprefix("torch."), "processes": processes.size}
    return {**facts, "metrics": {name: value for name, value in metrics.items() if not isinstance(value, dict)}}


def _write_answers(
    file: Path, model: TRM, tests: EvalDataset, settings: EvaluateParams, processes: World, description: str
) -> None:
    """A line for each version of each puzzle of the sample, in order."""
    sample = tests.sample()
    total = sum(tests.sequences(task) for task in sample)
    with (
        pq.ParquetWriter(file, SCHEMA, compression="zstd") as writer,
        progress(description, total, silent=not processes.leads) as bar,
    ):
        for answered in _answers(model, tests, settings, processes, bar.advance):
            writer.write_table(answered)


def _write(path: Path, value: dict[str, object], indent: int | None) -> None:
    path.write_text(json.dumps(value, indent=indent, allow_nan=False) + "\n", encoding="utf-8")


def _answers(
    model: TRM, tests: EvalDataset, settings: EvaluateParams, processes: World, advance: Callable[[int], None]
) -> Iterator[pa.Table]:
    """The lines of all tasks in order, made in turns by all processes, for the leader; nothing for the others."""
    chunks = _chunks(tests, tests.sample(), processes.size)
    while turn := list(islice(chunks, processes.size)):
        own = turn[processes.rank] if processes.rank < len(turn) else []
        answered = SCHEMA.empty_table()
        if own:
            answered = _answer(model, tests, settings, own, lambda done: advance(done * len(turn)))
        if processes.size == 1:
            yield answered
            continue
        with pa.BufferOutputStream() as stream, pa.ipc.new_stream(stream, SCHEMA) as writer:
            writer.write_table(answered)
        yield from (pa.ipc.open_stream(part).read_all() for part in processes.collect(stream.getvalue().to_pybytes()))


def _chunks(tests: EvalDataset, sample: np.ndarray, processes: int) -> Iterator[list[int]]:
    """Tasks of about `SEQUENCES_AT_ONCE` sequences together, or of fewer, so that every process has some."""
    most = min(SEQUENCES_AT_ONCE, -(-sum(tests.sequences(task) for task in sample) // processes))
    waiting: list[int] = []
    sequences = 0
    for task in sample:
        waiting.append(task)
        sequences += tests.sequences(task)
        if sequences >= most:
            yield waiting
            waiting, sequences = [], 0
    if waiting:
        yield waiting


def _answer(
    model: TRM, tests: EvalDataset, settings: EvaluateParams, tasks: Sequence[int], advance: Callable[[int], None]
) -> pa.Table:
    """Answer the tasks' questions in all their versions and vote: a line for each version, in order."""
    questions = [question for task in tasks for question in tests.questions(task)]
    split = tests.split
    tokens = np.concatenate([question.versions.tokens for question in questions])
    identifiers = np.concatenate([question.identifiers for question in questions])
    k = [question.count for question in questions]
    seeds = [[settings.seed, question.row, 2, version] for question in questions for version in range(question.count)]
    rules = Rules(tests.meta, tokens, np.arange(len(questions)).repeat(k)) if settings.verify else None
    predicted = predict(model, tokens, identifiers, dials(settings), settings.batch_size, advance, seeds, rules)

    ends = np.cumsum(k)
    parts = [slice(end - n, end) for n, end in zip(k, ends, strict=True)]
    answers = [question.versions.undo(predicted.tokens[part]) for question, part in zip(questions, parts, strict=True)]
    asked = [question.grid for question, grids in zip(questions, answers, strict=True) for _ in grids]
    valid = tests.kind.valid(tests.meta, asked, [grid for grids in answers for grid in grids])
    logits = [predicted.halt_logit[part] for part in parts]
    wins = valid if settings.verify and valid is not None else [False] * len(tokens)
    votes, ranks = _vote(questions, answers, logits, [wins[part] for part in parts])
    columns: dict[str, list] = {name: [] for name in SCHEMA.names}
    for question, part, grids, votes_of, ranks_of in zip(questions, parts, answers, votes, ranks, strict=True):
        n = len(grids)
        accuracies = _accuracies(question, predicted.tokens[part], grids)
        rows: dict[str, Sequence] = {
            "task": [question.task] * n,
            "pair": [question.pair] * n,
            "puzzle": [question.row] * n,
            "version": range(n),
            "draw": question.versions.draws,
            "height": [grid.shape[0] for grid in grids],
            "width": [grid.shape[1] for grid in grids],
            "answer": [grid.tobytes() for grid in grids],
            "votes": votes_of,
            "rank": ranks_of,
            "halt_logit": predicted.halt_logit[part].tolist(),
            "steps": predicted.steps[part].tolist(),
            "first_halt": predicted.first_halt[part].tolist(),
            "cell_accuracy": accuracies,
            "exact": [accuracy if accuracy is None else accuracy == 1 for accuracy in accuracies],
            "right": [question.right if question.right is None else _same(grid, question.right) for grid in grids],
            "valid": [None] * n if valid is None else [bool(value) for value in valid[part]],
            "source": [split.source_names[split.source_codes[question.row]]] * n,
            "rating": [int(split.ratings[question.row])] * n,
        }
        for name, values in rows.items():
            columns[name] += values
    return pa.table([pa.array(columns[field.name], field.type) for field in SCHEMA], schema=SCHEMA)


def _accuracies(question: Question, tokens: np.ndarray, grids: Sequence[Grid]) -> list[float | None]:
    """The fraction of labelled cells that are right, for each version."""
    if question.right is None:
        return [None] * len(grids)
    if question.labels is None:
        return [float((grid == question.right).mean()) for grid in grids]
    labelled = question.labels != 0
    return (((tokens == question.labels) & labelled).sum(axis=1) / labelled.sum(axis=1)).tolist()


def _same(one: Grid, other: Grid) -> bool:
    return one.shape == other.shape and bool((one == other).all())


def _vote(
    questions: Sequence[Question],
    answers: Sequence[Sequence[Grid]],
    halt_logits: Sequence[np.ndarray],
    wins: Sequence[Sequence[bool]],
) -> tuple[list[list[int]], list[list[int]]]:
    """For each version of each question: votes for its answer, and the rank of that among the question's candidates.

    An answer that `wins`, as it was seen to obey the rules, is ranked before those that do not.
    """
    counter = VoteCounter()
    names = [(question.task, grid_hash(question.grid)) for question in questions]
    for name, grids, logits in zip(names, answers, halt_logits, strict=True):
        for grid, logit in zip(grids, logits.tolist(), strict=True):
            counter.add(name, grid, logit)
    votes, ranks = [], []
    for name, grids, sure in zip(names, answers, wins, strict=True):
        winners = {grid_hash(grid) for grid, win in zip(grids, sure, strict=True) if win}
        ranked = sorted(counter.ranked(name), key=lambda candidate: grid_hash(candidate.grid) not in winners)
        place = {grid_hash(candidate.grid): place for place, candidate in enumerate(ranked, 1)}
        ranks.append([place[grid_hash(grid)] for grid in grids])
        votes.append([ranked[rank - 1].votes for rank in ranks[-1]])
    return votes, ranks
