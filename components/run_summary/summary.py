"""Program of the exit handler: `python -m components.run_summary.summary STATUS FILE ARTIFACT_ROOT RUN STAGE=KEY...`.

Prints a summary of the run and writes it as Markdown to FILE, which Kubeflow displays. Then it sends the outcome to the
webhook of `cluster.notify`.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.markdown import escape_markdown
from components.parameters import PIPELINE
from components.run_summary.notification import Outcome, notify
from trm.storage import s3
from trm.storage.artifacts import TIMING
from trm.utils.errors import InternalError, Interrupted, UserError, exit_code
from trm.utils.output import output_may_close

Manifests = Mapping[str, Mapping[str, Any] | None]
"""Stage name -> manifest; None if there is no artifact."""


def read_manifests(artifact_root: str, keys: Mapping[str, str]) -> Manifests:
    """Return the manifests of the artifacts in S3. keys: stage name -> content key."""
    return {stage: s3.read_manifest(s3.artifact_uri(artifact_root, stage, key)) for stage, key in keys.items()}


def first_missing(manifests: Manifests) -> str | None:
    """Return the first stage without an artifact."""
    return next((stage for stage, manifest in manifests.items() if manifest is None), None)


def summarize(status: Mapping[str, Any], artifact_root: str, keys: Mapping[str, str], manifests: Manifests) -> str:
    """Return the outcome of the run, one row per stage, and the metrics, as Markdown.

    The outcome depends on the manifests in S3 alone, because some versions of Kubeflow Pipelines report the state
    RUNNING to the exit handler. The reported state is included for information.

    Args:
        status: Final status of the run as Kubeflow reports it, with `state` and `error.message`.
        artifact_root: Root of the artifacts in S3.
        keys: Stage name -> content key.
        manifests: Their manifests.
    """
    uris = {stage: s3.artifact_uri(artifact_root, stage, key) for stage, key in keys.items()}
    missing = first_missing(manifests)
    lines = [f"# Run failed: stage {missing} has no artifact" if missing else "# Run succeeded", ""]
    reported = [status.get("state"), _error_message(status)]
    lines += [f"State reported by Kubeflow: {escape_markdown(', '.join(str(part) for part in reported if part))}", ""]
    lines += ["| stage | artifact | seconds |", "|---|---|---|"]
    metrics: dict[str, Any] = {}
    for stage, manifest in manifests.items():
        if manifest is None:
            lines.append(f"| {stage} | missing | |")
            continue
        seconds = (s3.get_json(f"{uris[stage]}/{TIMING}") or {}).get("seconds", "")
        lines.append(f"| {stage} | `{uris[stage]}` | {escape_markdown(str(seconds))} |")
        metrics |= manifest["facts"].get("metrics", {})
    if metrics:
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
    status, keys = json.loads(text), dict(pair.split("=", 1) for pair in pairs)
    try:
        manifests = read_manifests(artifact_root, keys)
        text = summarize(status, artifact_root, keys, manifests)
    except (UserError, InternalError, Interrupted) as error:
        print(f"run_summary: {error}", file=sys.stderr)
        notify(Outcome(PIPELINE, run, "unknown", None, f"{_error_message(status)} {error}".strip()))
        sys.exit(exit_code(error))
    print(text)
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    missing = first_missing(manifests)
    notify(Outcome(PIPELINE, run, "failed" if missing else "succeeded", missing, _error_message(status)))


if __name__ == "__main__":
    main(sys.argv[1:])
