"""Runs a stage: reads its inputs, calls its function, publishes the output folder with its manifest."""

import json
import os
import platform
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from trm.stages.content_keys import digest_of, key_request
from trm.stages.records import Stage, producer
from trm.utils.errors import Interrupted
from trm.utils.launch import ignored_variables, rank, world_size
from trm.utils.output import output_may_close
from trm.utils.paths import is_s3_uri

if TYPE_CHECKING:
    from trm.config.data import DataSection
    from trm.config.tracking import TrackingParams


@output_may_close()
def run_stage(
    stage: Stage,
    sections: Mapping[str, Any],
    inputs: Mapping[str, str],
    out: str,
    tracking: "TrackingParams | None" = None,
    data: "DataSection | None" = None,
) -> Path | None:
    """Run `stage` on the folders `inputs` and publish its output at `out`, with the wall times next to it.

    Returns the local folder of the result; None if this process only takes part, or the result exists in S3.

    Folders are paths or URIs `s3://<root>/<stage>/<key>`; `out` may also be a bare `s3://<root>`. A result that exists
    in S3 under its content key is not computed again, and its inputs are not downloaded. `tracking` configures Weights
    & Biases; None disables it. `data` is the section of the experiment's params, if known: inputs that were made with
    another one are refused with a `ParamsError`.
    """
    from trm.storage import artifact_cache, s3
    from trm.storage.artifacts import TIMING, read_manifest, timing_file
    from trm.tracking.client import run_name, tracked

    for location in (*inputs.values(), out):
        is_s3_uri(location)
    if ignored := ignored_variables():
        print(f"{stage.name}: {' and '.join(ignored)} ignored: torchrun did not start this process", file=sys.stderr)
    manifests = {name: _manifest_at(inputs[name], producer(name).name) for name in stage.inputs}
    if data is not None:
        for name, manifest in manifests.items():
            check_same_data(data, manifest, inputs[name])
    dataset_name = sections["data"].name if "data" in sections else manifests["dataset"]["params"]["data"]["name"]
    input_keys = {name: manifest["key"] for name, manifest in manifests.items()}
    request = key_request(stage, sections, dataset_name, input_keys)
    key = digest_of(request)
    if rank() != 0:
        # It takes part in the computation; the main process publishes.
        print(f"{stage.name}: worker process {rank()} of {world_size()}", file=sys.stderr, flush=True)
        with TemporaryDirectory() as scratch:
            _call(stage, sections, _input_folders(stage, inputs), Path(scratch), key)
        return None

    def run_here(folder: Path) -> None:
        with tracked(tracking, stage.name, manifests, request, key) as finish_tracking:
            folders = _run_here(stage, sections, inputs, request, folder, run_name(tracking, stage.name, key))
            finish_tracking(**folders, out=folder)

    if not is_s3_uri(out):
        run_here(Path(out))
        return Path(out)
    uri = artifact_cache.output_uri(out, stage.name, key)
    if s3.read_manifest(uri) is not None:
        print(f"{uri} exists: nothing to do", file=sys.stderr)
        return None
    folder = artifact_cache.folder_of(uri)
    with artifact_cache.locked(folder):
        if not is_complete(folder, stage, key):
            run_here(folder)
    if s3.publish(folder, uri) == read_manifest(folder) and timing_file(folder).is_file():
        s3.put_json(f"{uri}/{TIMING}", json.loads(timing_file(folder).read_text(encoding="utf-8")))
    print(f"published {uri}", file=sys.stderr)
    return folder


def check_same_data(data: "DataSection", manifest: Mapping[str, Any], location: str) -> None:
    """Raise `ParamsError` if the artifact at `location` was made with another section `data` of the params."""
    from trm.utils.errors import ParamsError

    made_with = manifest.get("params", {}).get("data")
    if made_with is None:
        return
    asked, made = (_flat(values, "data") for values in (data.model_dump(mode="json"), made_with))
    # Only settings that both have: another version of the package may know other settings.
    for key in sorted(asked.keys() & made.keys(), key=lambda key: (key != "data.name", key)):
        if asked[key] != made[key]:
            raise ParamsError(
                f"the params have {key}: {_text(asked[key])}, but {location} was made with {_text(made[key])}; "
                "give the params of that dataset, or make its dataset with `trm fetch` and `trm augment`"
            )


def _flat(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Full key -> value of nested settings."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        full = f"{name}.{key}"
        flat |= _flat(value, full) if isinstance(value, Mapping) else {full: value}
    return flat


def _text(value: object) -> str:
    return "no value" if value is None else json.dumps(value)


def is_complete(folder: Path, stage: Stage, key: str) -> bool:
    """Whether `folder` holds the complete, undamaged result of `stage` with this content key."""
    from trm.storage.artifacts import verified_manifest
    from trm.utils.errors import DataError

    try:
        return verified_manifest(folder, stage.name)["key"] == key
    except DataError:
        return False


def _manifest_at(location: str, stage: str) -> dict[str, Any]:
    """The manifest of an input, read before its files are downloaded."""
    from trm.storage import artifact_cache, s3
    from trm.storage.artifacts import read_manifest
    from trm.utils.errors import DataError

    if not is_s3_uri(location):
        return read_manifest(Path(location), stage)
    uri = artifact_cache.parse_artifact_uri(location)
    manifest = s3.read_manifest(uri)
    if manifest is None:
        raise DataError(f"{uri}: no such artifact; run `trm {stage}` with this root first")
    if manifest["stage"] != stage:
        raise DataError(f"{uri}: was written by stage {manifest['stage']}; give the output of `trm {stage}`")
    return manifest


def _run_here(
    stage: Stage,
    sections: Mapping[str, Any],
    inputs: Mapping[str, str],
    request: Mapping[str, Any],
    out: Path,
    wandb: str | None,
) -> dict[str, Path]:
    """Write the local folder `out`; returns the local folders of the inputs. `wandb` is the path of the W&B run."""
    from trm.storage.artifacts import staged, timing_file, write_json, write_manifest

    folders, key = _input_folders(stage, inputs), digest_of(request)
    started, clock = datetime.now(UTC), time.monotonic()
    with staged(out) as staging:
        try:
            facts = _call(stage, sections, folders, staging, key)
        except Interrupted as error:
            note = error.note or "nothing was written; the same command starts it again"
            raise Interrupted(error.signal, note, error.reason) from None
        timing = {"stage": stage.name, "key": key, "started": started.isoformat(timespec="seconds")}
        timing |= {"seconds": round(time.monotonic() - clock, 3), **_machine(), **facts.pop("timing", {})}
        timing |= {"wandb": wandb} if wandb else {}
        write_manifest(staging, {**request, "key": key, "facts": facts})
    write_json(timing_file(out), timing)
    return folders


def _input_folders(stage: Stage, inputs: Mapping[str, str]) -> dict[str, Path]:
    """The inputs as local folders, with the digest of every file checked."""
    from trm.storage.artifact_cache import local_copy
    from trm.storage.artifacts import verified_manifest

    folders = {name: local_copy(inputs[name]) for name in stage.inputs}
    for name, folder in folders.items():
        verified_manifest(folder, producer(name).name)
    return folders


def _call(
    stage: Stage, sections: Mapping[str, Any], folders: Mapping[str, Path], out: Path, key: str
) -> dict[str, Any]:
    return stage.function()(**sections, **folders, out=out, key=key)


def _machine() -> dict[str, Any]:
    return {"host": platform.node(), "machine": platform.machine(), "cores": os.cpu_count()}
