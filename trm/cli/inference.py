"""The commands that run a trained model: `trm solve`, `visualize`, `demo` and `sweep`. It imports nothing heavy."""

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trm.cli.options import LOCAL, OUTPUTS, model_location, with_inference_options
from trm.cli.summary import command_line, folder_options, inference_options, print_end
from trm.config.inference import InferenceConfig
from trm.utils.errors import UserError

if TYPE_CHECKING:
    from trm.config.dataset_meta import DatasetMeta
    from trm.data.protocol import Grid
    from trm.inference.solve import Answer

UNSOLVED = 3
"""Exit code of `trm solve` if a puzzle is left unanswered, or an answer breaks a rule or changes a clue."""
MODEL, DATASET = f"{OUTPUTS / 'model'}", f"{OUTPUTS / 'dataset'}"

ModelLocation = Annotated[
    str,
    typer.Option(
        "--model", callback=model_location, help="A model folder, its s3:// URI, a checkpoint file, or `demo`."
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the augmentations and the noise.")]
Save = Annotated[Path | None, typer.Option(help="Write an animated GIF with a frame for each step.", **LOCAL)]


@with_inference_options
def solve_command(
    puzzle: Annotated[
        str | None,
        typer.Argument(help="The puzzle row by row, '.' for blanks; a text file of puzzles; or '-' for stdin."),
    ] = None,
    *,
    file: Annotated[
        str | None, typer.Option(metavar="PATH", help="A text file of puzzles, one a line; '-' for stdin.")
    ] = None,
    model: ModelLocation = MODEL,
    config: InferenceConfig,
    seed: Seed = 0,
    json: Annotated[bool, typer.Option("--json", help="Print each result as a line of JSON.")] = False,
) -> None:
    """Solve puzzles with a trained model. Results are printed as they come.

    The exit code is 0, or 3 if a puzzle is left unanswered, or an answer breaks a rule of the puzzle or changes a clue.
    """
    from trm.inference.cost import check_inference, estimate
    from trm.inference.puzzle_input import check_puzzles, read_puzzles
    from trm.inference.solve import BATCH, can_vote, solve_each
    from trm.training.checkpoint import load_checkpoint
    from trm.utils.progress import progress

    if (puzzle is None) == (file is None):
        raise typer.BadParameter("give either a puzzle or --file FILE; - is stdin")
    net, meta = load_checkpoint(model)
    questions = read_puzzles(puzzle or file or "", meta, is_file=puzzle is None)
    for note in check_puzzles(questions, meta):
        print(f"note: {note}", file=sys.stderr, flush=True)
    check_inference(net, config)
    total, invalid, unanswered, has_rules = len(questions) * config.num_votes, 0, 0, False
    expected = estimate(net, total, config, BATCH)
    if expected:
        print(f"solve: {expected}", file=sys.stderr, flush=True)
    with progress("solve", total, silent=expected is None) as bar:
        for question, answer in zip(
            questions, solve_each(net, meta, questions, config, seed, bar.advance), strict=True
        ):
            unanswered += not answer.answered
            invalid, has_rules = invalid + (answer.answered and answer.valid is False), answer.valid is not None
            if json:
                _print_json(question, answer, config)
            else:
                _print_answer(answer, meta, config)
    answered = len(questions) - unanswered
    if len(questions) > 1 and unanswered:
        print(f"solve: {answered} of {len(questions)} puzzles are answered", file=sys.stderr, flush=True)
    if len(questions) > 1 and has_rules:
        print(f"solve: {answered - invalid} of {answered} answers are valid", file=sys.stderr, flush=True)
    if invalid and not json and config.num_votes == 1 and can_vote(meta, questions[0]):
        print("hint: --num-votes 4 --verify may find a valid answer", file=sys.stderr, flush=True)
    if invalid or unanswered:
        raise typer.Exit(UNSOLVED)


@with_inference_options
def visualize_command(
    *,
    puzzle: Annotated[str | None, typer.Argument(help="A puzzle as in `trm solve`; default: a test puzzle.")] = None,
    index: Annotated[
        int, typer.Option(min=0, help="Index of the test puzzle, or of the puzzle in the file, from 0.")
    ] = 0,
    model: ModelLocation = MODEL,
    dataset: Annotated[str, typer.Option(help="The dataset of the test puzzle: a folder or s3:// URI.")] = DATASET,
    config: InferenceConfig,
    seed: Seed = 0,
    save: Save = None,
) -> None:
    """Show a model solving a puzzle: question, answer, and the movement of the latents, after each forward pass.

    Passes without a change are skipped. On a terminal, keys pause, step, jump and quit. With equal settings, the
    answer is that of `trm solve`.
    """
    _announce()
    from rich.console import Console

    from trm.inference.cost import check_inference
    from trm.inference.puzzle_input import check_puzzles, read_puzzles
    from trm.reporting.terminal.animation import check_gif_path
    from trm.reporting.terminal.visualize import dataset_puzzle, input_puzzle, visualize
    from trm.storage.artifact_cache import local_copy
    from trm.training.checkpoint import load_checkpoint

    if save is not None:
        check_gif_path(save)
    net, meta = load_checkpoint(model)
    check_inference(net, config)
    if puzzle is None:
        shown = dataset_puzzle(model, meta, local_copy(dataset), index, config.num_votes, seed)
    else:
        puzzles = read_puzzles(puzzle, meta)
        if index >= len(puzzles):
            raise UserError(f"--index must be below {len(puzzles)}, the number of puzzles in {puzzle}. Got {index}")
        for note in check_puzzles([puzzles[index]], meta):
            print(f"note: {note}", file=sys.stderr, flush=True)
        shown = input_puzzle(meta, puzzles[index], config.num_votes, seed)
    visualize(net, meta, shown, config, save, Console(highlight=False))


@with_inference_options
def demo_command(
    config: InferenceConfig,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the puzzle; default: random.")] = None,
    save: Save = None,
) -> None:
    """Show the included model solving a newly generated 6x6 Sudoku. Requires no training and no download."""
    _announce()
    # Compiling the generator takes much longer than generating one puzzle in pure Python.
    os.environ.setdefault("NUMBA_DISABLE_JIT", "1")
    from rich.console import Console

    from trm.reporting.terminal.animation import check_gif_path
    from trm.reporting.terminal.demo import demo

    if save is not None:
        check_gif_path(save)
    demo(config, seed, save, Console(highlight=False))


def _announce() -> None:
    """Print a line on a terminal before the libraries are imported, which takes seconds."""
    if sys.stderr is not None and sys.stderr.isatty():
        print("loading the model ...", file=sys.stderr, flush=True)


def sweep_command(
    model: Annotated[
        str,
        typer.Argument(
            callback=model_location,
            help="A model folder, its s3:// URI, a checkpoint file, or `demo`, the included model.",
        ),
    ] = MODEL,
    dataset: Annotated[str, typer.Option(help="The dataset of its training: a folder or s3:// URI.")] = DATASET,
    out: Annotated[Path, typer.Option(help="The folder to write.", **LOCAL)] = OUTPUTS / "sweep",
    max_steps: Annotated[str, typer.Option(help="Values of max_steps, separated by commas.")] = "1,2,4,8,16,32",
    num_votes: Annotated[str, typer.Option(help="Values of num_votes, separated by commas.")] = "1,4",
    num_samples: Annotated[str, typer.Option(help="Values of num_samples, separated by commas.")] = "1,4",
    latent_noise_std: Annotated[str, typer.Option(help="Values of latent_noise_std, separated by commas.")] = "0.3",
    selection: Annotated[str, typer.Option(help="Values of selection, separated by commas.")] = "votes",
    max_puzzles: Annotated[int | None, typer.Option(min=1, help="Random sample of each split; default: all.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Sequences computed at a time.")] = 64,
    device: Annotated[str, typer.Option(help="auto, cpu, mps or cuda.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "float32",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the augmentations, the noise and the sample.")] = 0,
) -> None:
    """Measure accuracy against forward passes for all combinations of inference settings; plot the Pareto front."""
    from rich.console import Console

    from trm.config.base import parse
    from trm.config.evaluation import ReportParams
    from trm.reporting.pareto import terminal_tables, write_sweep
    from trm.storage.artifact_cache import local_copy

    started = time.monotonic()
    lists = {"max_steps": max_steps, "num_votes": num_votes}
    lists |= {"num_samples": num_samples, "latent_noise_std": latent_noise_std, "selection": selection}
    grid = {name: [_number(part.strip()) for part in text.split(",") if part.strip()] for name, text in lists.items()}
    values = {"batch_size": batch_size, "device": device, "precision": precision, "seed": seed}
    values |= {"published": {}, "num_examples": 0, "test_time_compute": {**grid, "max_puzzles": max_puzzles}}
    settings = parse(ReportParams, values, "trm sweep")
    results = write_sweep(local_copy(model), local_copy(dataset), settings, out)
    console = Console(highlight=False)
    console.print(terminal_tables(results))
    console.print(f"  {out / 'sweep.png'} shows the Pareto front", soft_wrap=True)
    following = command_line("trm", "inspect", out)
    if results["selected"] is not None:
        folders = folder_options({"model": model, "dataset": dataset})
        following = command_line("trm", "visualize", *folders, *inference_options(results["selected"]))
    print_end("sweep", out, time.monotonic() - started, following)


def _number(text: str) -> object:
    """Convert to a number if possible."""
    for convert in (int, float):
        try:
            return convert(text)
        except ValueError:
            continue
    return text


def _print_json(question: "Grid", answer: "Answer", config: InferenceConfig) -> None:
    import json

    shown = answer.answered
    result = {"question": question.tolist(), "answered": shown}
    result |= {"answer": answer.grid.tolist() if shown else None, "valid": answer.valid if shown else None}
    result |= {"confidence": round(answer.confidence, 6), "halt_probability": round(answer.halt_probability, 6)}
    print(json.dumps(result | {"votes": answer.votes, "num_votes": config.num_votes}), flush=True)


def _print_answer(answer: "Answer", meta: "DatasetMeta", config: InferenceConfig) -> None:
    from rich.console import Console

    from trm.inference.solve import confidence_text
    from trm.reporting.terminal.dataset_summary import grid_text

    if not answer.answered:
        print(confidence_text(answer, config), flush=True)
        return
    verdict = {True: "valid", False: "invalid: breaks a rule or a clue", None: "no rules to check"}
    Console(highlight=False, soft_wrap=True).print(grid_text(meta, answer.grid))
    words = [verdict[answer.valid], f"halt probability {answer.halt_probability:.1%}"]
    words += [f"{answer.votes} of {config.num_votes} votes"] if config.num_votes > 1 else []
    print("; ".join([*words, *filter(None, [confidence_text(answer, config)])]), flush=True)


COMMANDS = {
    "solve": solve_command,
    "visualize": visualize_command,
    "demo": demo_command,
    "sweep": sweep_command,
}
"""Command name -> function."""
