"""Commands of `python -m pipeline` for operations."""

import json
import sys
from datetime import timedelta
from typing import Annotated

import typer

from pipeline.options import PARAMS, AsJson, ParamsFile, print_next
from trm.stages.params import load_params


def gc(
    params: ParamsFile = PARAMS,
    dry_run: Annotated[
        bool, typer.Option("--dry-run/--delete", help="Only print what would be deleted; or delete it.")
    ] = True,
    min_age_days: Annotated[float, typer.Option(min=0, help="What is younger is kept: a run may need it.")] = 7.0,
    pin: Annotated[
        list[str] | None, typer.Option(help="Keep this artifact: its URI or <stage>/<key>; can be repeated.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List artifacts and training states in S3 that nothing refers to, with their sizes; --delete deletes them.

    Kept: what champions (also former ones), runs.tsv, pins and the present params refer to, what it was computed from,
    and what is younger than --min-age-days.
    """
    from pipeline.operations.garbage import delete_garbage, find_garbage, parse_pin
    from pipeline.runs import read_runs
    from trm.stages.content_keys import content_keys
    from trm.utils.memory import readable
    from trm.utils.progress import progress

    settings = load_params(params)
    cluster, pins = settings.cluster, [parse_pin(text) for text in pin or ()]
    root = cluster.artifact_root
    state_root = None if cluster.state_root == "off" else cluster.state_root or f"{root}/states"
    garbage = find_garbage(
        root, state_root, read_runs(), [*pins, *content_keys(settings).items()], timedelta(days=min_age_days)
    )
    size = sum(group.size for group in garbage.groups.values())
    if as_json:
        rows = [
            {"uri": group.uri, "bytes": group.size, "modified": group.modified.isoformat(timespec="seconds")}
            for group in garbage.groups.values()
        ]
        print(json.dumps({"garbage": rows, "kept": len(garbage.kept), "bytes": size}, indent=2))
    else:
        for group in garbage.groups.values():
            print(f"{group.modified:%Y-%m-%d}  {readable(group.size):>9}  {group.uri}")
    kept = sum(group.size for group in garbage.kept.values())
    amounts = f"{len(garbage.groups)} with {readable(size)}; {len(garbage.kept)} with {readable(kept)} are kept"
    if dry_run:
        print(f"would delete {amounts}", file=sys.stderr)
        if garbage.groups:
            print_next("gc --delete", params)
        return
    with progress("delete", len(garbage.groups)) as bar:
        delete_garbage(root, garbage, lambda _: bar.advance())
    print(f"deleted {amounts}", file=sys.stderr)


def doctor(
    params: ParamsFile = PARAMS,
    pod: Annotated[
        bool, typer.Option("--pod/--no-pod", help="Start a pod with the image and settings of a worker, and delete it.")
    ] = False,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds until the pod must have finished.")] = 300.0,
) -> None:
    """Check whether the cluster can run this experiment: Kubeflow, S3, Kubernetes objects, training jobs, permissions.

    Exit code 0: nothing is wrong, 1: a line that starts with PROBLEM ends with the remedy. Writes and deletes small
    objects in S3 below the artifact root.
    """
    from pipeline.operations.doctor import diagnose_cluster
    from trm.utils.findings import print_findings

    if print_findings(diagnose_cluster(lambda: load_params(params), timeout if pod else None)):
        raise typer.Exit(1)
