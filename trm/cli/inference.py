"""The commands that ask a trained model: `trm solve`, `watch`, `demo` and `curve`. It imports nothing heavy."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from trm.inference.solve import Answer
    from trm.config.dataset_meta import DatasetMeta

OUTPUTS = Path("outputs")
"""Where the stages put and look for their folders unless told otherwise."""
MODEL, DATASET = f"{OUTPUTS / 'model'}", f"{OUTPUTS / 'dataset'}"

ModelPlace = Annotated[str, typer.Option("--model", help="A model folder, its s3:// address, or a checkpoint file.")]
Steps = Annotated[int, typer.Option(min=1, max=128, help="Supervision steps to think, at most.")]
Votes = Annotated[int, typer.Option(min=1, help="Shuffled versions that vote on the answer.")]
Rollouts = Annotated[int, typer.Option(min=1, help="Tries with noise, the surest of which answers.")]
Noise = Annotated[float, typer.Option(min=0, help="Standard deviation of that noise.")]
HaltEarly = Annotated[bool, typer.Option("--early-halting", help="Stop as soon as the model wants to.")]
CheckRules = Annotated[bool, typer.Option("--verify", help="Stop at an answer that obeys the rules.")]
Seed = Annotated[int, typer.Option(min=0, help="Of the versions and the noise.")]
Save = Annotated[Path | None, typer.Option(help="Write an animated GIF, a picture for each step.")]


def solve_command(
    puzzle: Annotated[str, typer.Argument(help="The puzzle row by row, '.' for a blank; a file of it; '-' for stdin.")],
    model: ModelPlace = MODEL,
    steps: Steps = 16,
    votes: Votes = 1,
    rollouts: Rollouts = 1,
    noise: Noise = 0.0,
    early_halting: HaltEarly = False,
    verify: CheckRules = False,
    seed: Seed = 0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Answer one puzzle with a trained model."""
    from trm.inference.solve import solve
    from trm.inference.puzzle_input import read_puzzle
    from trm.training.checkpoint import load_checkpoint

    net, meta = load_checkpoint(model)
    question = read_puzzle(puzzle, meta)
    (answer,) = solve(
        net,
        meta,
        [question],
        steps=steps,
        votes=votes,
        seed=seed,
        rollouts=rollouts,
        noise=noise,
        early_halting=early_halting,
        verify=verify,
    )
    if json:
        import json as json_module

        said = {"question": question.tolist(), "answer": answer.grid.tolist(), "valid": answer.valid}
        said |= {"halt_probability": round(answer.halt_probability, 6), "votes": answer.votes, "of": votes}
        print(json_module.dumps(said))
        return
    _print_answer(answer, meta, votes)


def watch_command(
    puzzle: Annotated[str | None, typer.Argument(help="A puzzle as for `trm solve`; none: a test puzzle.")] = None,
    test: Annotated[int, typer.Option(min=0, help="Number of the test puzzle.")] = 0,
    model: ModelPlace = MODEL,
    dataset: Annotated[str, typer.Option(help="The data set of the test puzzle: a folder or s3:// address.")] = DATASET,
    steps: Steps = 16,
    votes: Votes = 1,
    rollouts: Rollouts = 1,
    noise: Noise = 0.0,
    early_halting: HaltEarly = False,
    verify: CheckRules = False,
    seed: Seed = 0,
    save: Save = None,
) -> None:
    """Watch a model solve a puzzle: what it would answer after every pass of the network, and where its latents move.

    The dials are those of `trm solve`, and so is the answer.
    """
    from rich.console import Console

    from trm.inference.solve import checked_dials
    from trm.inference.puzzle_input import read_puzzle
    from trm.training.checkpoint import load_checkpoint
    from trm.storage.artifact_cache import local_copy
    from trm.reporting.terminal.animation import check_place
    from trm.reporting.terminal.visualize import puzzle_of, typed_puzzle, watch

    dials = checked_dials(steps, votes, rollouts, noise, early_halting)
    if save is not None:
        check_place(save)
    net, meta = load_checkpoint(model)
    if puzzle is None:
        asked = puzzle_of(model, meta, local_copy(dataset), test, votes, seed)
    else:
        asked = typed_puzzle(meta, read_puzzle(puzzle, meta), votes, seed)
    watch(net, meta, asked, dials, verify, save, Console(highlight=False))


def demo_command(
    seed: Annotated[int | None, typer.Option(min=0, help="Repeats the puzzle of this seed.")] = None,
    steps: Steps = 16,
    votes: Votes = 1,
    rollouts: Rollouts = 1,
    noise: Noise = 0.0,
    early_halting: HaltEarly = False,
    verify: CheckRules = False,
    save: Save = None,
) -> None:
    """Watch the model that ships with the package solve a new 6x6 Sudoku; nothing has to be trained or fetched."""
    # Compiling what makes the puzzle takes much longer than making one without.
    os.environ.setdefault("NUMBA_DISABLE_JIT", "1")
    from rich.console import Console

    from trm.inference.solve import checked_dials
    from trm.reporting.terminal.animation import check_place
    from trm.reporting.terminal.demo import demo

    dials = checked_dials(steps, votes, rollouts, noise, early_halting)
    if save is not None:
        check_place(save)
    demo(votes, dials, verify, seed, save, Console(highlight=False))


def curve_command(
    model: Annotated[str, typer.Argument(help="A model folder, its s3:// address, or a checkpoint file.")] = MODEL,
    dataset: Annotated[str, typer.Option(help="The data set it was trained on: a folder or s3:// address.")] = DATASET,
    curve: Annotated[Path, typer.Option(help="The folder to write.")] = OUTPUTS / "curve",
    steps: Annotated[str, typer.Option(help="Supervision steps to try.")] = "1,2,4,8,16,32",
    votes: Annotated[str, typer.Option(help="Versions that vote, to try.")] = "1,4",
    rollouts: Annotated[str, typer.Option(help="Tries with noise, to try.")] = "1,4",
    noise: Annotated[str, typer.Option(help="Standard deviations of that noise, to try.")] = "0.3",
    max_puzzles: Annotated[int | None, typer.Option(min=1, help="Puzzles of each split; all unless given.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Sequences at a time.")] = 64,
    device: Annotated[str, typer.Option(help="auto, cpu, mps or cuda.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "float32",
    seed: Annotated[int, typer.Option(min=0, help="Of the versions, the noise and the sample.")] = 0,
) -> None:
    """Measure accuracy against network passes, every combination of the dials, and draw the frontier."""
    from rich.console import Console

    from trm.config.evaluation import ReportParams
    from trm.storage.artifact_cache import local_copy
    from trm.reporting.pareto import run_curve, told
    from trm.config.base import parse

    lists = {"steps": steps, "votes": votes, "rollouts": rollouts, "noise": noise}
    grid = {name: [_number(part) for part in text.split(",") if part.strip()] for name, text in lists.items()}
    values = {"batch_size": batch_size, "device": device, "precision": precision, "seed": seed}
    values |= {"published": {}, "gallery": 0, "curve": {**grid, "max_puzzles": max_puzzles}}
    settings = parse(ReportParams, values, "trm curve")
    measured = run_curve(local_copy(model), local_copy(dataset), settings, curve)
    console = Console(highlight=False)
    console.print(told(measured))
    console.print(f"{curve}: curve.json, curve.png, curve.svg", soft_wrap=True)


def _number(text: str) -> object:
    """A number where it is one."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _print_answer(answer: "Answer", meta: "DatasetMeta", votes: int) -> None:
    from rich.console import Console

    from trm.reporting.terminal.dataset_summary import draw

    verdict = {True: "obeys the rules", False: "breaks the rules or a clue: not a solution", None: "no rules to check"}
    Console(highlight=False, soft_wrap=True).print(draw(meta, answer.grid))
    said = f"{verdict[answer.valid]}; the model is {answer.halt_probability:.1%} sure"
    print(said + (f"; {answer.votes} of {votes} votes" if votes > 1 else ""))


COMMANDS = {"solve": solve_command, "watch": watch_command, "demo": demo_command, "curve": curve_command}
"""What `trm.cli` offers of them, by name."""
