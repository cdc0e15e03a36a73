"""The stage `evaluate`: answer the test puzzles, vote, check the rules, compute metrics.

The validation puzzles are answered too: models are compared on them, because test puzzles are never used for model
selection.
"""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trm.config.evaluation import EvaluateParams
from trm.data.parquet import read_leaks, read_meta
from trm.data.protocol import Grid
from trm.evaluation.eval_dataset import EvalDataset, EvalExample, check_same_dataset
from trm.evaluation.metrics import compute_metrics, leak_metrics
from trm.evaluation.stored_trajectories import FILE as TRAJECTORIES
from trm.evaluation.stored_trajectories import TrajectoryStore, write_trajectories
from trm.evaluation.submission import submission
from trm.inference.batch_size import BatchSize
from trm.inference.cost import check_inference, estimate, resolve_batch_size
from trm.inference.engine import Predictions, Verifier, predict
from trm.inference.voting import VoteCounter, grid_hash, same_grid
from trm.models.act import TRM
from trm.models.compilation import compile_passes, should_compile
from trm.models.model_summary import flops
from trm.training.checkpoint import load_checkpoint
from trm.training.distributed import World, world
from trm.utils.device import resolve_device, resolve_precision
from trm.utils.errors import UserError
from trm.utils.progress import progress

SCHEMA = pa.schema(
    {
        "task": pa.string(),  # name, or number in the raw file
        "pair": pa.int32(),  # number among the test examples of the task
        "puzzle": pa.int32(),  # row of the split
        "augmentation": pa.int32(),  # 0: the puzzle itself
        "transform": pa.string(),  # the augmentation, inverted in `answer`
        "height": pa.int32(),
        "width": pa.int32(),
        "answer": pa.binary(),  # cell values, row by row
        "votes": pa.int32(),  # augmentations of the puzzle that gave this answer
        "rank": pa.int32(),  # rank of this answer among the candidates of the puzzle, from 1
        "confidence": pa.float64(),  # confidence of the answer of rank 1
        "halt_logit": pa.float32(),
        "steps": pa.int32(),  # supervision steps of all samples together
        "halt_step": pa.int32(),  # first step with a positive halting decision
        "cell_accuracy": pa.float64(),  # fraction of the labelled cells; null if the solution is unknown
        "exact": pa.bool_(),  # all labelled cells are correct
        "correct": pa.bool_(),  # the answer equals the solution; `exact` also counts the border around an ARC grid
        "valid": pa.bool_(),  # the answer obeys the rules; null if the dataset has none
        "source": pa.string(),
        "rating": pa.int32(),
    }
)
MAX_SEQUENCES = 8192
"""Sequences of a chunk of tasks, about: the unit of work of a process."""


def evaluate(evaluate: EvaluateParams, dataset: Path, model: Path, out: Path, key: str) -> dict[str, object]:
    """Evaluate the EMA weights of `model` on the test split.

    Writes predictions.parquet and metrics.json to `out`, submission.json in Kaggle's format if the puzzles are named
    tasks, validation.parquet with the answers to the validation split (one augmentation each), and
    trajectories.parquet with the steps of `trajectory_puzzles` puzzles. Under torchrun the processes share the test
    puzzles and the main process writes. Returns the facts of the manifest. Raises `UserError` if the model was trained
    on another dataset, `DataError` for a damaged checkpoint or dataset.
    """
    settings = evaluate
    device = resolve_device(settings.device)
    dtype = resolve_precision(settings.precision, device)
    net, trained_on = load_checkpoint(model, dtype=dtype)
    net, meta = net.to(device), read_meta(dataset)
    check_same_dataset(model, trained_on, dataset, meta)
    check_inference(net, settings)
    tests = EvalDataset.read(dataset, meta, settings.num_votes, settings.max_puzzles, settings.seed)
    batch_size = BatchSize(resolve_batch_size(settings.batch_size, net, settings))
    file = out / "predictions.parquet"
    parts = [(file, "evaluate", tests, TrajectoryStore("test", tests, settings))]
    if (dataset / "validation").is_dir():
        held_out = EvalDataset.read(dataset, meta, 1, None, settings.seed, "validation")
        store = TrajectoryStore("validation", held_out, settings)
        parts.append((out / "validation.parquet", "validate", held_out, store))
    with world(device) as processes:
        if settings.batch_size == "auto" and processes.is_main:
            print(f"evaluate: {batch_size.size} sequences at a time", file=sys.stderr, flush=True)
        sequences = sum(part.num_sequences(task) for _, _, part, _ in parts for task in part.sample())
        compiled = _compile(net, settings, sequences, batch_size.size, processes)
        for path, description, part, store in parts:
            _write_answers(path, net, part, settings, processes, description, store, batch_size)
        trajectories = processes.gather_object([table for *_, store in parts for table in store.tables])
    if not processes.is_main:
        return {}
    write_trajectories(out / TRAJECTORIES, [table for tables in trajectories for table in tables])
    predictions = pq.read_table(file)
    tasks = {tests.name(task): tests.num_pairs(task) for task in tests.sample()}
    inputs = (settings.num_votes, settings.pass_at_k, net.passes, settings.min_confidence)
    metrics = compute_metrics(predictions, tasks, *inputs)
    leaks = read_leaks(dataset)
    if leaks is not None:
        metrics |= leak_metrics(predictions, tasks, leaks, *inputs)
    _write_json(out / "metrics.json", metrics, indent=2)
    if tests.names is not None:
        all_tasks = {tests.name(task): tests.num_pairs(task) for task in range(len(tests.split.group_starts) - 1)}
        _write_json(out / "submission.json", submission(predictions, all_tasks), indent=None)
    facts = {
        "device": device.type,
        "precision": str(dtype).removeprefix("torch."),
        "compiled": compiled,
        "processes": processes.size,
    }
    return {**facts, "metrics": {name: value for name, value in metrics.items() if not isinstance(value, dict)}}


def _compile(model: TRM, settings: EvaluateParams, sequences: int, batch_size: int, processes: World) -> bool:
    """Compile the passes of `model` if `settings` or the work of all `sequences` ask for it. Returns whether it did."""
    name, setting = "evaluate.compile", settings.compile
    operations = flops(model.config, model.meta)[0] * sequences * settings.num_samples * settings.max_steps
    if not should_compile(setting, name, model.device.type, operations):
        return False
    if processes.is_main:
        print("evaluate: with torch.compile; the first batches take longer", file=sys.stderr, flush=True)
    try:
        compile_passes(model, name, min(batch_size, sequences * settings.num_samples), backward=False)
    except UserError as error:
        if setting != "auto":
            raise
        print(f"evaluate: not compiled: {error}", file=sys.stderr, flush=True)
        return False
    return True


def _write_answers(
    file: Path,
    model: TRM,
    tests: EvalDataset,
    settings: EvaluateParams,
    processes: World,
    description: str,
    store: TrajectoryStore,
    batch_size: BatchSize,
) -> None:
    """Write a row for each augmentation of each puzzle of the sample, in order.

    The trajectories of this process are added to `store`.
    """
    sample = tests.sample()
    total = sum(tests.num_sequences(task) for task in sample)
    expected = estimate(model, total, settings, batch_size.size) if processes.is_main else None
    if expected:
        print(f"{description}: {expected}", file=sys.stderr, flush=True)
    with (
        pq.ParquetWriter(file, SCHEMA, compression="zstd") as writer,
        progress(description, total, silent=not processes.is_main) as bar,
    ):
        for table in answer_rows(model, tests, settings, processes, store, batch_size, bar.advance):
            writer.write_table(table)


def _write_json(path: Path, value: dict[str, object], indent: int | None) -> None:
    path.write_text(json.dumps(value, indent=indent, allow_nan=False) + "\n", encoding="utf-8")


def answer_rows(
    model: TRM,
    tests: EvalDataset,
    settings: EvaluateParams,
    processes: World,
    store: TrajectoryStore,
    batch_size: BatchSize,
    advance: Callable[[int], None] = lambda _: None,
) -> Iterator[pa.Table]:
    """The rows of all tasks in order, computed by all processes in turn; empty except in the main process.

    The trajectories of this process are added to `store`. `advance` is called with the number of finished sequences.
    """
    chunks = _chunks(tests, tests.sample(), processes.size)
    while turn := list(islice(chunks, processes.size)):
        own = turn[processes.rank] if processes.rank < len(turn) else []
        table = SCHEMA.empty_table()
        if own:
            table = _answer(model, tests, settings, own, store, batch_size, lambda done: advance(done * len(turn)))
        if processes.size == 1:
            yield table
            continue
        with pa.BufferOutputStream() as stream, pa.ipc.new_stream(stream, SCHEMA) as writer:
            writer.write_table(table)
        parts = processes.gather_object(stream.getvalue().to_pybytes())
        yield from (pa.ipc.open_stream(part).read_all() for part in parts)


def _chunks(tests: EvalDataset, sample: np.ndarray, processes: int) -> Iterator[list[int]]:
    """Tasks of about `MAX_SEQUENCES` sequences together, or fewer if that gives every process some."""
    most = min(MAX_SEQUENCES, -(-sum(tests.num_sequences(task) for task in sample) // processes))
    chunk: list[int] = []
    sequences = 0
    for task in sample:
        chunk.append(task)
        sequences += tests.num_sequences(task)
        if sequences >= most:
            yield chunk
            chunk, sequences = [], 0
    if chunk:
        yield chunk


def _answer(
    model: TRM,
    tests: EvalDataset,
    settings: EvaluateParams,
    tasks: Sequence[int],
    store: TrajectoryStore,
    batch_size: BatchSize,
    advance: Callable[[int], None],
) -> pa.Table:
    """Answer all augmentations of the examples of some tasks and vote: a row for each augmentation, in order."""
    examples = [example for task in tasks for example in tests.examples(task)]
    split = tests.split
    tokens = np.concatenate([example.augmentations.tokens for example in examples])
    identifiers = np.concatenate([example.identifiers for example in examples])
    k = [example.num_votes for example in examples]
    seeds = [seed for example in examples for seed in example.seeds]
    puzzles = np.arange(len(examples)).repeat(k)
    verifier = Verifier(tests.meta, tokens) if settings.verify else None
    recorder = store.recorder(examples, settings.max_steps)
    predicted = predict(
        model,
        tokens,
        identifiers,
        settings,
        batch_size,
        advance,
        seeds,
        puzzles,
        verifier,
        on_step=recorder and recorder.add,
    )
    if recorder is not None:
        store.add(recorder, examples)

    ends = np.cumsum(k)
    parts = [slice(end - n, end) for n, end in zip(k, ends, strict=True)]
    answers = [
        example.augmentations.invert(predicted.tokens[part]) for example, part in zip(examples, parts, strict=True)
    ]
    questions = [example.grid for example, grids in zip(examples, answers, strict=True) for _ in grids]
    valid = tests.dataset.valid(tests.meta, questions, [grid for grids in answers for grid in grids])
    verified = valid if settings.verify and valid is not None else [False] * len(tokens)
    votes, ranks, confidences = _vote(examples, answers, settings, predicted, parts, verified)
    columns: dict[str, list] = {name: [] for name in SCHEMA.names}
    for example, part, grids, votes_of, ranks_of, confidence in zip(
        examples, parts, answers, votes, ranks, confidences, strict=True
    ):
        n = len(grids)
        accuracies = _accuracies(example, predicted.tokens[part], grids)
        rows: dict[str, Sequence] = {
            "task": [example.task] * n,
            "pair": [example.pair] * n,
            "puzzle": [example.row] * n,
            "augmentation": range(n),
            "transform": example.augmentations.names,
            "height": [grid.shape[0] for grid in grids],
            "width": [grid.shape[1] for grid in grids],
            "answer": [grid.tobytes() for grid in grids],
            "votes": votes_of,
            "rank": ranks_of,
            "confidence": [confidence] * n,
            "halt_logit": predicted.halt_logit[part].tolist(),
            "steps": predicted.steps[part].tolist(),
            "halt_step": predicted.halt_step[part].tolist(),
            "cell_accuracy": accuracies,
            "exact": [accuracy if accuracy is None else accuracy == 1 for accuracy in accuracies],
            "correct": [None if example.solution is None else same_grid(grid, example.solution) for grid in grids],
            "valid": [None] * n if valid is None else [bool(value) for value in valid[part]],
            "source": [split.source_names[split.source_codes[example.row]]] * n,
            "rating": [int(split.ratings[example.row])] * n,
        }
        for name, values in rows.items():
            columns[name] += values
    return pa.table([pa.array(columns[field.name], field.type) for field in SCHEMA], schema=SCHEMA)


def _accuracies(example: EvalExample, tokens: np.ndarray, grids: Sequence[Grid]) -> list[float | None]:
    """The fraction of labelled cells that are correct, for each augmentation."""
    if example.solution is None:
        return [None] * len(grids)
    if example.labels is None:
        return [cell_accuracy(grid, example.solution) for grid in grids]
    labelled = example.labels != 0
    return (((tokens == example.labels) & labelled).sum(axis=1) / labelled.sum(axis=1)).tolist()


def cell_accuracy(grid: Grid, solution: Grid) -> float:
    """The fraction of correct cells among those of the answer and the solution: 1 if and only if they are equal."""
    height, width = (min(sides) for sides in zip(grid.shape, solution.shape, strict=True))
    correct = (grid[:height, :width] == solution[:height, :width]).sum()
    return float(correct / (grid.size + solution.size - height * width))


def _vote(
    examples: Sequence[EvalExample],
    answers: Sequence[Sequence[Grid]],
    settings: EvaluateParams,
    predicted: Predictions,
    parts: Sequence[slice],
    verified: Sequence[bool],
) -> tuple[list[list[int]], list[list[int]], list[float]]:
    """For each augmentation of each example: the votes for its answer, and the rank of the answer; for each example the
    confidence of its best answer.

    parts: the rows of each example in `predicted` and `verified`. Test examples of a task with equal questions share
    their votes.
    """
    counter = VoteCounter(settings.selection)
    names = [(example.task, grid_hash(example.grid)) for example in examples]
    for name, grids, part in zip(names, answers, parts, strict=True):
        outputs = (predicted.halt_logit[part], predicted.score[part], predicted.settled[part])
        for grid, *of_grid in zip(grids, *(values.tolist() for values in outputs), strict=True):
            counter.add(name, grid, *of_grid)
    votes, ranks, confidences = [], [], []
    for name, grids, part in zip(names, answers, parts, strict=True):
        hashes = [grid_hash(grid) for grid in grids]
        preferred = {key for key, is_verified in zip(hashes, verified[part], strict=True) if is_verified}
        ranked = counter.ranked(name, preferred)
        rank_of = {grid_hash(candidate.grid): rank for rank, candidate in enumerate(ranked, 1)}
        ranks.append([rank_of[key] for key in hashes])
        votes.append([ranked[rank - 1].votes for rank in ranks[-1]])
        confidences.append(ranked[0].confidence)
    return votes, ranks, confidences
