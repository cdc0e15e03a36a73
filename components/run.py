"""Entry point of the stage containers: runs a `trm` command on artifacts that Kubeflow passes as pointers.

    python -m components.run '{{$}}' <pointer to write> train --params ... --dataset <pointer> --model s3://...

The first argument is Kubeflow's executor input (JSON), the second the file of the output artifact, the others are the
`trm` command. Kubeflow's launcher uploads and downloads the file of each artifact, which must therefore not be the
data: the file is a pointer, a small JSON document with the URI, content key and digest of the artifact in S3. The
artifact's metadata repeat these values and hold the scalar facts of the manifest.
"""

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from trm.cli import main as cli
from trm.stages.records import STAGES, Stage
from trm.storage import s3
from trm.storage.artifacts import MANIFEST
from trm.utils.errors import InternalError, Interrupted, UserError, exit_code
from trm.utils.output import output_may_close


@output_may_close()
def main() -> NoReturn:
    """Run the command and register its output with Kubeflow. Exits with the code of `trm`."""
    executor_input, pointer, *command = sys.argv[1:]
    kubeflow = json.loads(executor_input)
    try:
        command = resolve_inputs(command)
        sys.argv = ["trm", *command]
        try:
            cli.main()
        except SystemExit as ended:
            if ended.code:
                raise
        register_output(kubeflow["outputs"], Path(pointer), command)
    except (UserError, InternalError, Interrupted) as error:
        print(f"trm: {error}", file=sys.stderr)
        sys.exit(exit_code(error))
    sys.exit(0)


def resolve_inputs(command: list[str]) -> list[str]:
    """Return `command` with the pointer file of each input of its stage replaced by the URI that the file holds.

    Raises `InternalError` for a file that is not a pointer.
    """
    command = list(command)
    for name in _stage(command).inputs:
        index = command.index(f"--{name}") + 1
        try:
            command[index] = json.loads(Path(command[index]).read_text(encoding="utf-8"))["uri"]
        except (OSError, ValueError, KeyError, TypeError):
            raise InternalError(
                f"{command[index]}: not a pointer to the artifact {name}; run the preceding stage again"
            ) from None
    return command


def register_output(outputs: Mapping[str, Any], pointer: Path, command: list[str]) -> None:
    """Write the pointer to the command's output, and the executor output with its metadata.

    Raises `InternalError` when the output has no manifest in S3, whatever the exit code of the command was.
    """
    name = _stage(command).output  # Kubeflow's driver adds outputs of its own, such as `executor-logs`
    uri = command[command.index(f"--{name}") + 1]
    manifest = s3.read_manifest(uri)
    if manifest is None:
        raise InternalError(f"{uri}: no {MANIFEST} although the command succeeded; run the stage again")
    identity = {"uri": uri, "key": manifest["key"], "digest": manifest_digest(manifest)}
    metadata = dict(scalar_facts(manifest["facts"])) | identity
    artifact = outputs["artifacts"][name]["artifacts"][0] | {"metadata": metadata}
    _write_json(pointer, identity)
    _write_json(Path(outputs["outputFile"]), {"artifacts": {name: {"artifacts": [artifact]}}})


def _stage(command: list[str]) -> Stage:
    return next(stage for stage in STAGES if stage.name == command[0])


def manifest_digest(manifest: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the manifest file, as `trm.storage.artifacts.write_json` writes it."""
    text = json.dumps(manifest, indent=2, sort_keys=True, allow_nan=False) + "\n"
    return hashlib.sha256(text.encode()).hexdigest()


def scalar_facts(facts: Mapping[str, Any]) -> Iterator[tuple[str, int | float | bool | str]]:
    """Yield the scalar facts, and those one level below as `name.inner`."""
    for name, value in facts.items():
        inner = value.items() if isinstance(value, dict) else ()
        for path, each in ((name, value), *((f"{name}.{key}", part) for key, part in inner)):
            if isinstance(each, int | float | bool | str):
                yield path, each


def _write_json(file: Path, value: Mapping[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value), encoding="utf-8")


if __name__ == "__main__":
    main()
