"""The exit handler's command: `python -m components.run_summary.summary STATUS FILE ROOT STAGE=KEY...`.

It prints how the run ended and writes the same as Markdown to FILE, which Kubeflow shows.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trm import s3
from trm.errors import Fault, Interrupted, UserError, exit_code
from trm.stages import TIMING


def summary(status: Mapping[str, Any], root: str, keys: Mapping[str, str]) -> str:
    """How the run ended, a line for each stage, and the scores, as Markdown.

    The manifests tell how it ended; Kubeflow's own word is added, as some of its versions still say RUNNING here.
    """
    uris = {stage: f"{root}/{stage}/{key}" for stage, key in keys.items()}
    manifests = {stage: s3.read_manifest(uri) for stage, uri in uris.items()}
    missing = [stage for stage, manifest in manifests.items() if manifest is None]
    lines = [f"# Run ended without the result of {missing[0]}" if missing else "# Run succeeded", ""]
    message = (status.get("error") or {}).get("message")
    said = [status.get("state"), " ".join(str(message).split()) if message else None]
    lines += [f"Kubeflow says: {', '.join(str(words) for words in said if words)}", ""]
    lines += ["| stage | in S3 | seconds |", "|---|---|---|"]
    metrics: dict[str, Any] = {}
    for stage, manifest in manifests.items():
        if manifest is None:
            lines.append(f"| {stage} | missing | |")
            continue
        seconds = (s3.get_json(f"{uris[stage]}/{TIMING}") or {}).get("seconds", "")
        lines.append(f"| {stage} | `{uris[stage]}` | {seconds} |")
        metrics |= manifest["facts"].get("metrics", {})
    if metrics:
        lines += ["", "| metric | value |", "|---|---|"]
        lines += [f"| {name} | {value} |" for name, value in metrics.items()]
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> None:
    """Print and write the summary; S3 that cannot be asked is said in one line and exit code 1 or 2."""
    status, file, root, *pairs = arguments
    try:
        text = summary(json.loads(status), root, dict(pair.split("=", 1) for pair in pairs))
    except (UserError, Fault, Interrupted) as error:
        print(f"summary: {error}", file=sys.stderr)
        sys.exit(exit_code(error))
    print(text)
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
