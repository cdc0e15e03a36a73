"""Program of the exit handler: `python -m components.run_summary.summary STATUS FILE ARTIFACT_ROOT STAGE=KEY...`.

Prints a summary of the run and writes it as Markdown to FILE, which Kubeflow displays.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.markdown import escape_markdown
from trm.storage import s3
from trm.storage.artifacts import TIMING
from trm.utils.errors import InternalError, Interrupted, UserError, exit_code
from trm.utils.output import output_may_close


def summarize(status: Mapping[str, Any], artifact_root: str, keys: Mapping[str, str]) -> str:
    """Return the outcome of the run, one row per stage, and the metrics, as Markdown.

    The outcome depends on the manifests in S3 alone, because some versions of Kubeflow Pipelines report the state
    RUNNING to the exit handler. The reported state is included for information.

    Args:
        status: Final status of the run as Kubeflow reports it, with `state` and `error.message`.
        artifact_root: Root of the artifacts in S3.
        keys: Stage name -> content key.
    """
    uris = {stage: s3.artifact_uri(artifact_root, stage, key) for stage, key in keys.items()}
    manifests = {stage: s3.read_manifest(uri) for stage, uri in uris.items()}
    missing = [stage for stage, manifest in manifests.items() if manifest is None]
    lines = [f"# Run failed: stage {missing[0]} has no artifact" if missing else "# Run succeeded", ""]
    message = (status.get("error") or {}).get("message")
    reported = [status.get("state"), " ".join(str(message).split()) if message else None]
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


@output_may_close()
def main(arguments: list[str]) -> None:
    """Print and write the summary. Exits with code 1 or 2 and a one-line message when S3 is not readable."""
    status, file, artifact_root, *pairs = arguments
    try:
        text = summarize(json.loads(status), artifact_root, dict(pair.split("=", 1) for pair in pairs))
    except (UserError, InternalError, Interrupted) as error:
        print(f"run_summary: {error}", file=sys.stderr)
        sys.exit(exit_code(error))
    print(text)
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
