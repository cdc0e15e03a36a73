"""What the container of every component runs: a `trm` command, between Kubeflow's pointers and the addresses in S3.

    python -m components.run '{{$}}' <pointer to write> train --params … --dataset <pointer> --model s3://…

The first argument is Kubeflow's executor input (JSON), the rest from the third on is the command. What Kubeflow carries
from stage to stage is a pointer, a small file that says where an artifact lies, its content key and its digest: its
launcher brings and takes away what an artifact's own address names, and that must not be the data. As metadata it gets
the same and the scalar facts of the manifest.
"""

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from trm.cli import main as cli
from trm.storage import s3
from trm.storage.artifacts import MANIFEST
from trm.utils.errors import InternalError, Interrupted, UserError, exit_code


def main() -> NoReturn:
    """Run the command and tell what it published; the exit codes are `trm`'s."""
    executor_input, pointer, *command = sys.argv[1:]
    kubeflow = json.loads(executor_input)
    try:
        command = resolved(command, kubeflow["inputs"].get("artifacts", {}))
        sys.argv = ["trm", *command]
        try:
            cli.main()
        except SystemExit as ended:
            if ended.code:
                raise
        report(kubeflow["outputs"], Path(pointer), command)
    except (UserError, InternalError, Interrupted) as error:
        print(f"trm: {error}", file=sys.stderr)
        sys.exit(exit_code(error))
    sys.exit(0)


def resolved(command: list[str], inputs: Mapping[str, Any]) -> list[str]:
    """The command with the addresses that the pointers of its `inputs` hold."""
    command = list(command)
    for name in inputs:
        place = command.index(f"--{name}") + 1
        try:
            command[place] = json.loads(Path(command[place]).read_text(encoding="utf-8"))["uri"]
        except (OSError, ValueError, KeyError, TypeError):
            raise InternalError(f"{command[place]}: is no pointer to the artifact {name}; run the stage before again") from None
    return command


def report(outputs: Mapping[str, Any], pointer: Path, command: list[str]) -> None:
    """Write the pointer to the command's output, and the executor output with its metadata.

    Raises `InternalError` where no manifest lies there, whatever the command's exit code was.
    """
    ((name, listed),) = outputs["artifacts"].items()
    uri = command[command.index(f"--{name}") + 1]
    manifest = s3.read_manifest(uri)
    if manifest is None:
        raise InternalError(f"{uri}: holds no {MANIFEST} although the command ended well; run the stage again")
    facts = {"uri": uri, "key": manifest["key"], "digest": digest(manifest)}
    metadata = dict(scalars(manifest["facts"])) | facts
    artifact = listed["artifacts"][0] | {"metadata": metadata}
    _write(pointer, facts)
    _write(Path(outputs["outputFile"]), {"artifacts": {name: {"artifacts": [artifact]}}})


def digest(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of the manifest's file, as `trm.storage.artifacts.write_json` writes it."""
    text = json.dumps(manifest, indent=2, sort_keys=True, allow_nan=False) + "\n"
    return hashlib.sha256(text.encode()).hexdigest()


def scalars(facts: Mapping[str, Any]) -> Iterator[tuple[str, int | float | bool | str]]:
    """The facts that are one value, and those one level below as `name.inner`."""
    for name, value in facts.items():
        inner = value.items() if isinstance(value, dict) else ()
        for path, each in ((name, value), *((f"{name}.{key}", part) for key, part in inner)):
            if isinstance(each, int | float | bool | str):
                yield path, each


def _write(file: Path, value: Mapping[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value), encoding="utf-8")


if __name__ == "__main__":
    main()
