"""Program of the exit handler: `python -m components.run_summary.summary STATUS FILE ARTIFACT_ROOT RUN STAGE=KEY...`.

Prints a summary of the run and writes it as Markdown to FILE, which Kubeflow displays. Then it sends the outcome to the
webhook of `cluster.notify`.
"""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.markdown import escape_markdown
from components.parameters import PIPELINE
from components.run_summary.notification import Outcome, notify
from trm.storage import s3
from trm.storage.artifacts import TIMING
from trm.utils.errors import InternalError, Interrupted, UserError, exit_code
from trm.utils.output import output_may_close


@dataclass(frozen=True)
class Artifact:
    """An artifact that the run had to make."""

    stage: str
    uri: str
    manifest: Mapping[str, Any] | None
    """None: it does not exist."""


def read_artifacts(artifact_root: str, pairs: Iterable[str]) -> list[Artifact]:
    """Return the artifacts of `STAGE=KEY` pairs; the key of a stage that the run does not have is empty.

    Raises the errors of `trm.storage.s3`.
    """
    found = []
    for stage, key in (pair.split("=") for pair in pairs):
        if not key:
            continue
        uri = s3.artifact_uri(artifact_root, stage, key)
        found.append(Artifact(stage, uri, s3.read_manifest(uri)))
    return found


def first_missing(artifacts: Iterable[Artifact]) -> str | None:
    """Return the first stage without an artifact."""
    return next((each.stage for each in artifacts if each.manifest is None), None)


def summarize(status: Mapping[str, Any], artifacts: Sequence[Artifact]) -> str:
    """Return the outcome of the run, one row per artifact, and the metrics, as Markdown.

    The outcome depends on the manifests in S3 alone, because some versions of Kubeflow Pipelines report the state
    RUNNING to the exit handler. The reported state is included for information.

    Args:
        status: Final status of the run as Kubeflow reports it, with `state` and `error.message`.
        artifacts: The artifacts of the run. Metrics are those of a run with one evaluation: `pipeline sweep --collect`
            tabulates those of several.
    """
    missing = first_missing(artifacts)
    lines = [f"# Run failed: stage {missing} has no artifact" if missing else "# Run succeeded", ""]
    reported = [status.get("state"), _error_message(status)]
    lines += [f"State reported by Kubeflow: {escape_markdown(', '.join(str(part) for part in reported if part))}", ""]
    lines += ["| stage | artifact | seconds |", "|---|---|---|"]
    metrics: dict[str, Any] = {}
    for each in artifacts:
        if each.manifest is None:
            lines.append(f"| {each.stage} | missing | |")
            continue
        seconds = (s3.get_json(f"{each.uri}/{TIMING}") or {}).get("seconds", "")
        lines.append(f"| {each.stage} | `{each.uri}` | {escape_markdown(str(seconds))} |")
        metrics |= each.manifest["facts"].get("metrics", {})
    if metrics and len({each.stage for each in artifacts}) == len(artifacts):
        lines += ["", "| metric | value |", "|---|---|"]
        lines += [f"| {escape_markdown(name)} | {escape_markdown(str(value))} |" for name, value in metrics.items()]
    return "\n".join(lines) + "\n"


def _error_message(status: Mapping[str, Any]) -> str:
    """Return the error that Kubeflow reports, as one line; "" if there is none."""
    return " ".join(str((status.get("error") or {}).get("message") or "").split())


@output_may_close()
def main(arguments: list[str]) -> None:
    """Print and write the summary. Exits with code 1 or 2 and a one-line message when S3 is not readable."""
    text, file, artifact_root, run, *pairs = arguments
    status = json.loads(text)
    try:
        artifacts = read_artifacts(artifact_root, " ".join(pairs).split())
        text = summarize(status, artifacts)
    except (UserError, InternalError, Interrupted) as error:
        print(f"run_summary: {error}", file=sys.stderr)
        notify(Outcome(PIPELINE, run, "unknown", None, f"{_error_message(status)} {error}".strip()))
        sys.exit(exit_code(error))
    print(text)
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    missing = first_missing(artifacts)
    notify(Outcome(PIPELINE, run, "failed" if missing else "succeeded", missing, _error_message(status)))


if __name__ == "__main__":
    main(sys.argv[1:])
