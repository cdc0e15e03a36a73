"""Runs commands of `trm` on mutated files, and checks how they end.

    python -m tests.fuzzing FOLDER [--count 1000] [--format NAME ...] [--seed 0]

A file of each format is mutated: bits and bytes, lines, and values of YAML and JSON that are replaced by extreme ones.
A command that reads it must end within 10 s, with exit code 0, 1, 2 or 3 and at most one line of 2,000 characters
without control characters. It must write nothing outside its output. Prints the violations as JSON.
"""

import argparse
import contextlib
import copy
import json
import os
import random
import resource
import shutil
import signal
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fault_injection import run
from tests.params import TINY, params_text
from trm.config.recipes import changed, recipe_text

SECONDS, CHARACTERS, FIRST = 10, 2000, 20
EXTREMES: list[Any] = [
    None, True, "", "x", "\x1b[2J\x07", "\ud800", "ä" * 300, "9" * 400, "0x_", "1e999", "../../etc/passwd", "-",
    -1, 0, 1, 255, 2**31, 2**63, 10**40, -(10**40), 1.5, 1e30, 1e-300, float("nan"), float("inf"),
    [], {}, [None], [[[]]], {"": ""}, {"a": {"b": []}}, [1] * 1000, "a" * 100_000,
]  # fmt: skip
TEXTS = [
    b"", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"!!python/object/apply:os.system [ls]", b"!x y", b"2026-11-27", b"0x_",
    b"&a [*a, *a]", b"{" * 500, b"[" * 5000, b"- " * 500, b"1" * 400, b"1e400", b".inf", b"<<: *a", b"? ", b": ", b"\t",
    b"a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nd: [*c,*c,*c,*c,*c]\n",
]  # fmt: skip


OWN = ("other", "other.timing.json")
"""What the commands write."""


@dataclass(frozen=True)
class Format:
    """A file, and the commands that read it."""

    file: str
    commands: tuple[str, ...]
    structured: bool = False
    """Whether values of its JSON are replaced, too."""


FORMATS = {
    "params": Format("params.yaml", ("model-summary", "report --report other")),
    "csv": Format("puzzles.csv", ("fetch --params csv.yaml --raw other", "inspect puzzles.csv")),
    "jsonl": Format("puzzles.jsonl", ("fetch --params jsonl.yaml --raw other", "inspect puzzles.jsonl"), True),
    "arc": Format("tasks.json", ("fetch --params arc.yaml --raw other", "inspect tasks.json"), True),
    "parquet": Format("outputs/dataset/train/examples.parquet", ("inspect outputs/dataset", "train --model other")),
    "manifest": Format("outputs/dataset/manifest.json", ("inspect outputs/dataset", "train --model other"), True),
    "meta": Format("outputs/dataset/meta.json", ("inspect outputs/dataset", "train --model other"), True),
    "checkpoint": Format(
        "model.safetensors", ("inspect model.safetensors", "solve --model model.safetensors 1...............")
    ),
    "published": Format("published/step_10", ("checkpoint import published/step_10 --model other",)),
    "published-config": Format("published/all_config.yaml", ("checkpoint import published/step_10 --model other",)),
    "puzzles": Format("puzzles.txt", ("solve puzzles.txt",)),
}


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Change some bytes, lines or parts."""
    new = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at, size = rng.randrange(len(new) + 1), rng.choice((1, 1, 2, 8, 64))
        kind = rng.randrange(7)
        if kind == 0 and at < len(new):
            new[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del new[at : at + size]
        elif kind == 2:
            new[at:at] = rng.randbytes(size)
        elif kind == 3:
            new[at:at] = new[at : at + size] * rng.choice((1, 2, 50))
        elif kind == 4:
            del new[at:]
        elif kind == 5:
            new[at:at] = rng.choice(TEXTS)
        else:
            lines = bytes(new).split(b"\n")
            line = rng.randrange(len(lines))
            head, colon, _ = lines[line].partition(b":")
            lines[line] = head + colon + b" " + rng.choice(TEXTS) if colon else lines[rng.randrange(len(lines))]
            new = bytearray(b"\n".join(lines))
    return bytes(new)


def mutate_json(data: bytes, rng: random.Random) -> bytes:
    """Replace, delete or add a value of a JSON document, or of a line of JSON Lines."""
    lines = data.splitlines() if data.count(b"\n") > 1 and data.startswith(b'{"') else [data]
    line = rng.randrange(len(lines))
    document = json.loads(lines[line])
    places: list[tuple[Any, Any]] = []

    def collect(value: Any) -> None:  # noqa: ANN401 - any JSON value
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, item in items:
            places.append((value, key))
            collect(item)

    collect(document)
    container, key = rng.choice(places)
    extreme = copy.deepcopy(rng.choice(EXTREMES))
    if rng.random() < 0.8:
        container[key] = extreme
    elif isinstance(container, dict) and rng.random() < 0.5:
        container[f"{key}x"] = extreme
    else:
        del container[key]
    lines[line] = json.dumps(document).encode("utf-8", "surrogatepass")
    return b"\n".join(lines)


def check(folder: Path, command: str, valid: bool = False) -> dict[str, Any] | None:
    """Run a command; what is wrong with its end. valid: the file is not mutated, so it must be accepted."""
    before = listing(folder)

    def late(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        code, err = run(command.split())
    except TimeoutError:
        return {"hangs": command}
    finally:
        signal.alarm(0)
    lines = [line for line in err.splitlines() if " done in " not in line and "warning" not in line]
    problem = None
    if valid and code not in (0, 3):
        problem = "a valid file is refused"
    elif "TimeoutError" in err:
        problem = "hangs"
    elif code not in (0, 1, 2, 3) or "fault of the program" in err or "Traceback" in err or "Error: " in err:
        problem = "fault"
    elif code in (1, 2) and len(lines) != 1:
        problem = "no line, or several"
    elif any(len(line) > CHARACTERS for line in lines):
        problem = "long message"
    elif any(not character.isprintable() for line in lines for character in line):
        problem = "control character"
    elif extra := {path for path in listing(folder) - before if path.split("/")[0] not in OWN}:
        problem = f"other files: {sorted(extra)[:3]}"
    elif code != 0 and (folder / "other").exists():
        problem = "output of a failed command"
    shutil.rmtree(folder / "other", ignore_errors=True)
    (folder / "other.timing.json").unlink(missing_ok=True)
    return {"problem": problem, "command": command, "code": code, "stderr": err[:300] + err[-300:]} if problem else None


def listing(folder: Path) -> set[str]:
    """All paths in a folder but those of caches and states."""
    found = (str(path.relative_to(folder)) for path in folder.rglob("*"))
    return {path for path in found if not path.startswith(("cache", "states"))}


def prepare(folder: Path) -> None:
    """A folder with a valid file of each format."""
    (folder / "params.yaml").write_text(params_text(TINY), encoding="utf-8")
    for command in (["fetch"], ["augment"], ["train"], ["evaluate"], ["checkpoint", "export", "--out", "published"]):
        code, err = run(command)
        assert code == 0, err
    shutil.copyfile("outputs/model/checkpoint.safetensors", "model.safetensors")
    recipe = recipe_text("custom-puzzles")
    for kind in ("csv", "jsonl"):
        changes = {"data.source.file": f"puzzles.{kind}", "data.test_groups": 2, "augment.validation_groups": 2}
        Path(f"{kind}.yaml").write_text(changed(recipe, changes), encoding="utf-8")
    grids = [
        ("#..#/..#.", "#..#/..##"),
        (".#.#/....", "##.#/...."),
        ("#.../.##.", "##../.##."),
        ("..../...#", "..../..##"),
    ]
    rows = [{"group": str(number // 2), "input": grid, "output": out} for number, (grid, out) in enumerate(grids * 4)]
    table = "\n".join(",".join(row.values()) for row in rows)
    Path("puzzles.csv").write_text(f"group,input,output\n{table}\n", encoding="utf-8")
    lists = [{**row, "input": row["input"].split("/"), "output": row["output"].split("/")} for row in rows]
    Path("puzzles.jsonl").write_text("\n".join(map(json.dumps, lists)) + "\n", encoding="utf-8")
    pair = {"input": [[0, 1], [2, 3]], "output": [[3, 2, 1], [0, 9, 8]]}
    task = {"train": [pair] * 2, "test": [pair]}
    for name, first in (("tasks", 0), ("others", 3)):
        tasks = {f"{number:08x}": task for number in range(first, first + 3)}
        Path(f"{name}.json").write_text(json.dumps(tasks), encoding="utf-8")
    files = {"challenges": "tasks.json", "solutions": None, "challenges_sha256": None, "solutions_sha256": None}
    source = {"type": "path", "training": files, "evaluation": {**files, "challenges": "others.json"}, "concept": None}
    Path("arc.yaml").write_text(changed(recipe_text("arc-agi-1"), {"data.source": source}), encoding="utf-8")
    Path("puzzles.txt").write_text("1.3...122.4....1\n2.4....11.3...12\n", encoding="utf-8")


def fuzz(folder: Path, name: str, count: int, seed: int) -> list[dict[str, Any]]:
    """Mutate the file of a format `count` times."""
    form, rng, problems = FORMATS[name], random.Random(f"{name} {seed}"), []
    path = folder / form.file
    original = path.read_bytes()
    for command in form.commands:  # valid files have no problem, and are read to their end
        found = check(folder, command, valid=True)
        assert found is None, found
    for number in range(count):
        mutate: Callable[[bytes, random.Random], bytes] = mutate_bytes
        if form.structured and rng.random() < 0.6:
            mutate = mutate_json
        mutated = mutate(original, rng)
        path.write_bytes(mutated)
        for command in form.commands:
            if problem := check(folder, command):
                problems.append({"format": name, "number": number} | problem)
                (folder.parent / f"{name}-{number}").write_bytes(mutated)
    path.write_bytes(original)
    return problems


def main() -> None:
    """Fuzz the formats and print the violations."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=1000, help="mutated files of each format [1000]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--format", choices=FORMATS, action="append", help="only this format; several")
    options = parser.parse_args()
    folder = options.folder.resolve() / "work"
    folder.mkdir(parents=True)
    os.chdir(folder)
    os.environ.update(
        {"TRM_STATE_DIR": str(folder / "states"), "TRM_CACHE_DIR": str(folder / "cache"), "NO_COLOR": "1"}
    )
    warnings.simplefilter("ignore")
    with contextlib.redirect_stdout(sys.stderr):
        prepare(folder)
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        names = options.format or list(FORMATS)
        problems = {name: fuzz(folder, name, options.count, options.seed) for name in names}
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used)
    counts = {name: len(found) for name, found in problems.items()}
    first = [found for each in problems.values() for found in each[:FIRST]]
    print(json.dumps({"files": options.count, "problems": counts, "grown_bytes": grown, "first": first}, indent=1))


if __name__ == "__main__":
    main()
