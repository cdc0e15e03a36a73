"""The command `trm solve-arc`. It imports nothing heavy."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trm.cli.inference import MODEL, UNSOLVED, ModelLocation
from trm.cli.options import LOCAL, with_options
from trm.config.arc_tasks import DEFAULT_ARC_TASK, ArcTaskConfig
from trm.utils.errors import Interrupted, UserError

if TYPE_CHECKING:
    from rich.console import Console

    from trm.config.dataset_meta import DatasetMeta
    from trm.evaluation.arc_tasks import TaskAnswer


@with_options(DEFAULT_ARC_TASK)
def solve_arc_command(
    tasks: Annotated[
        str, typer.Argument(help="A file of one ARC task, a file of many (id -> task), or a folder of such files.")
    ],
    *,
    model: ModelLocation = MODEL,
    config: ArcTaskConfig,
    max_minutes: Annotated[
        float | None, typer.Option(help="Time for all tasks together, shared evenly; default: no limit.")
    ] = None,
    submission: Annotated[
        Path | None, typer.Option(help="Write the attempts at all tasks in Kaggle's format.", **LOCAL)
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print each test input as a line of JSON.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the augmentations and the training.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, mps or cuda.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "float32",
) -> None:
    """Answer ARC tasks that the model was not trained on, with two attempts for each test input.

    For each task a copy of the model is trained on its demonstrations and their augmentations, then all augmentations
    vote. Outputs of the test pairs are not used; if the file has them, the score is printed. The exit code is 0, or 3
    if a task is left unanswered.
    """
    from rich.console import Console

    from trm.config.arc_tasks import ComputeConfig
    from trm.config.base import parse
    from trm.evaluation.arc_tasks import check_arc_tasks, read_arc_tasks, solve_each_task, work
    from trm.training.checkpoint import load_checkpoint
    from trm.utils.device import resolve_device, resolve_precision
    from trm.utils.output import output_may_close
    from trm.utils.progress import progress

    if submission is not None:
        _check_submission(submission)
    compute = parse(ComputeConfig, {"device": device, "precision": precision}, "trm solve-arc")
    target = resolve_device(compute.device)
    questions = read_arc_tasks(tasks)
    net, meta = load_checkpoint(model, dtype=resolve_precision(compute.precision, target))
    net = net.to(target)
    check_arc_tasks(net, questions, config, max_minutes)
    answers: list[TaskAnswer] = []
    console = Console(highlight=False, soft_wrap=True)
    try:
        total = sum(work(task, config) for task in questions)
        # A reader that has gone must not prevent the submission.
        with output_may_close(), progress("solve-arc", total) as bar:
            for answer in solve_each_task(net, questions, config, seed, max_minutes, advance=bar.advance):
                answers.append(answer)
                if json:
                    _print_json(answer)
                else:
                    _print_answer(answer, meta, console)
    except Interrupted as error:
        raise Interrupted(error.signal, "no submission was written" if submission else "", error.reason) from None
    if submission is not None:
        _write_submission(submission, answers)
    _print_score(answers)
    if any(answer.problem for answer in answers):
        raise typer.Exit(UNSOLVED)


def _check_submission(path: Path) -> None:
    if path.is_dir():
        raise UserError(f"--submission {path}: is a folder; give the name of a file")
    if not path.parent.is_dir():
        raise UserError(f"--submission {path}: the folder {path.parent} does not exist; create it")


def _write_submission(path: Path, answers: "list[TaskAnswer]") -> None:
    import json

    from trm.evaluation.arc_tasks import submission_of
    from trm.utils.paths import replace_file

    replace_file(path, json.dumps(submission_of(answers)) + "\n")


def _print_json(answer: "TaskAnswer") -> None:
    import json

    from trm.inference.voting import same_grid

    for number, (_, output) in enumerate(answer.task.tests):
        candidates = answer.attempts[number] if answer.attempts else []
        attempts = [
            {"grid": each.grid.tolist(), "votes": each.votes, "confidence": round(each.confidence, 6)}
            for each in candidates
        ]
        known = None if output is None else any(same_grid(each.grid, output) for each in candidates)
        result = {"task": answer.task.name, "test": number, "attempts": attempts, "correct": known}
        result |= {"num_votes": answer.num_votes, "train_steps": answer.train_steps, "problem": answer.problem or None}
        print(json.dumps(result), flush=True)


def _print_answer(answer: "TaskAnswer", meta: "DatasetMeta", console: "Console") -> None:
    from trm.reporting.terminal.dataset_summary import grid_text

    if answer.problem:
        print(f"task {answer.task.name}: left unanswered: {answer.problem}", flush=True)
    for number, candidates in enumerate(answer.attempts, 1):
        for attempt, each in enumerate(candidates, 1):
            votes = f"{each.votes} of {answer.num_votes} votes, confidence {each.confidence:.1%}"
            size = f"{each.grid.shape[0]} x {each.grid.shape[1]}"
            print(f"task {answer.task.name}, test input {number}, attempt {attempt}: {size}, {votes}", flush=True)
            console.print(grid_text(meta, each.grid))


def _print_score(answers: "list[TaskAnswer]") -> None:
    from trm.evaluation.arc_tasks import pass_at

    unanswered = sum(bool(answer.problem) for answer in answers)
    if len(answers) > 1 and unanswered:
        text = f"solve-arc: {len(answers) - unanswered} of {len(answers)} tasks are answered"
        print(text, file=sys.stderr, flush=True)
    for k in (1, 2):
        score = pass_at(answers, k)
        if score["n"]:
            interval = f"[{100 * (score['low'] or 0):.1f}, {100 * (score['high'] or 0):.1f}]"
            text = f"pass@{k} {100 * (score['value'] or 0):.1f} % {interval} of {score['n']} test inputs"
            print(f"solve-arc: {text}", file=sys.stderr, flush=True)
