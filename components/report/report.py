"""The exit handler's command: `python -m components.report.report STATUS FILE ROOT STAGE=KEY...`.

It prints how the run ended and writes the same as Markdown to FILE, which Kubeflow shows.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trm import s3
from trm.errors import Fault, UserError


def summary(status: Mapping[str, Any], root: str, keys: Mapping[str, str]) -> str:
    """How the run ended, a line for each stage, and the scores, as Markdown."""
    error = status.get("error") or {}
    lines = [f"# Run {str(status.get('state', 'ended')).lower()}", ""]
    if error.get("message"):
        lines += [f"{' '.join(str(error['message']).split())}", ""]
    lines += ["| stage | in S3 | seconds |", "|---|---|---|"]
    metrics: dict[str, Any] = {}
    for stage, key in keys.items():
        uri = f"{root}/{stage}/{key}"
        manifest = s3.read_manifest(uri)
        if manifest is None:
            lines.append(f"| {stage} | missing | |")
            continue
        seconds = (s3.get_json(f"{uri}/timing.json") or {}).get("seconds", "")
        lines.append(f"| {stage} | `{uri}` | {seconds} |")
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
    except UserError as error:
        sys.exit(_say(2, error))
    except Fault as error:
        sys.exit(_say(1, error))
    print(text)
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _say(code: int, error: Exception) -> int:
    print(f"report: {error}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main(sys.argv[1:])
