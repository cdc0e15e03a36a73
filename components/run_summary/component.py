"""Container components of the exit handlers.

That of a run has the content key of every stage as a parameter: "" for an optional stage that the run does not have.
"""

import inspect
from typing import Any

from kfp import dsl

from components.container import IMAGE
from components.parameters import key_parameter
from trm.stages.records import STAGES


def _run_summary(artifact_root: str, run: str, *placeholders: Any) -> dsl.ContainerSpec:  # noqa: ANN401 - of several types
    """Write how the run ended, the artifacts in S3 and the metrics. Runs after success and after failure.

    Args:
        run: Id of the run.
    """
    *keys, status, summary = placeholders
    stage_keys = [f"{stage.name}={key}" for stage, key in zip(STAGES, keys, strict=True)]
    args = [status, summary.path, artifact_root, run, *stage_keys]
    return dsl.ContainerSpec(image=IMAGE, command=["python", "-m", "components.run_summary.summary"], args=args)


def _signature() -> inspect.Signature:
    types = {
        "artifact_root": str,
        "run": str,
        **{key_parameter(stage): str for stage in STAGES},
        "status": dsl.PipelineTaskFinalStatus,
        "summary": dsl.Output[dsl.Markdown],
    }
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Signature([inspect.Parameter(name, kind, annotation=type_) for name, type_ in types.items()])


_run_summary.__name__ = "run_summary"
_run_summary.__signature__ = _signature()  # pyright: ignore[reportFunctionMemberAccess]
run_summary: Any = dsl.container_component(_run_summary)


@dsl.container_component
def sweep_summary(
    artifact_root: str,
    run: str,
    artifacts: str,
    status: dsl.PipelineTaskFinalStatus,
    summary: dsl.Output[dsl.Markdown],
) -> dsl.ContainerSpec:
    """Write how a sweep ended, and its artifacts in S3.

    Args:
        run: Id of the run.
        artifacts: `STAGE=KEY` of each artifact, separated by spaces.
    """
    args = [status, summary.path, artifact_root, run, artifacts]
    return dsl.ContainerSpec(image=IMAGE, command=["python", "-m", "components.run_summary.summary"], args=args)
