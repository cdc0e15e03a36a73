"""What the container of every component runs: a `trm` command, of whose output it then tells Kubeflow.

    python -m components.run '{{$}}' train --params … --dataset … --model s3://…

The first argument is Kubeflow's executor input (JSON), the rest is the command. Kubeflow gets a pointer to the output's
manifest, since its launcher downloads what an artifact's URI names and must not move data; beside it, as metadata, the
manifest's content key, its digest and its scalar facts.
"""

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from trm import cli, s3
from trm.artifacts import MANIFEST
from trm.errors import Fault, Interrupted, UserError


def main() -> NoReturn:
    """Run the command and report what it published; the exit codes are `trm`'s."""
    executor_input, *command = sys.argv[1:]
    sys.argv = ["trm", *command]
    try:
        cli.main()
    except SystemExit as ended:
        if ended.code:
            raise
    try:
        report(json.loads(executor_input)["outputs"], command)
    except (UserError, Fault, Interrupted) as error:
        print(f"trm: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UserError) else 1 if isinstance(error, Fault) else 128 + error.signal)
    sys.exit(0)


def report(outputs: Mapping[str, Any], command: list[str]) -> None:
    """Write the executor output: of the one output artifact, where the command put it and what it is.

    Raises `Fault` where no manifest lies there, whatever the command's exit code was.
    """
    ((name, listed),) = outputs["artifacts"].items()
    uri = command[command.index(f"--{name}") + 1]
    manifest = s3.read_manifest(uri)
    if manifest is None:
        raise Fault(f"{uri}: holds no {MANIFEST} although the command ended well; run the stage again")
    metadata = dict(scalars(manifest["facts"])) | {"key": manifest["key"], "digest": digest(manifest)}
    artifact = listed["artifacts"][0] | {"uri": f"{uri}/{MANIFEST}", "metadata": metadata}
    file = Path(outputs["outputFile"])
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"artifacts": {name: {"artifacts": [artifact]}}}), encoding="utf-8")


def digest(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of the manifest's file, as `trm.artifacts.write_json` writes it."""
    text = json.dumps(manifest, indent=2, sort_keys=True, allow_nan=False) + "\n"
    return hashlib.sha256(text.encode()).hexdigest()


def scalars(facts: Mapping[str, Any]) -> Iterator[tuple[str, int | float | bool | str]]:
    """The facts that are one value, and those one level below as `name.inner`."""
    for name, value in facts.items():
        inner = value.items() if isinstance(value, dict) else ()
        for path, each in ((name, value), *((f"{name}.{key}", part) for key, part in inner)):
            if isinstance(each, int | float | bool | str):
                yield path, each


if __name__ == "__main__":
    main()
