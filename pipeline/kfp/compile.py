"""Compilation of the pipeline to YAML."""

from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict
from kfp import compiler
from kfp.dsl.graph_component import GraphComponent

from pipeline.kfp.definition import build_pipeline
from trm.config.cluster import ClusterParams
from trm.stages.records import REQUIRED_STAGES, Stage


def compile_pipeline(path: Path, cluster: ClusterParams, stages: Sequence[Stage] = REQUIRED_STAGES) -> None:
    """Write the compiled pipeline to `path`. Equal arguments give equal bytes."""
    compiler.Compiler().compile(build_pipeline(cluster, stages=stages), str(path))


def pipeline_spec(
    cluster: ClusterParams, uncached: Container[str] = (), stages: Sequence[Stage] = REQUIRED_STAGES
) -> dict[str, Any]:
    """Return the compiled pipeline as the run API accepts it: `pipeline_spec` and `platform_spec`."""
    return spec_of(build_pipeline(cluster, uncached, stages))


def spec_of(pipeline: GraphComponent) -> dict[str, Any]:
    """Return a compiled pipeline as the run API accepts it."""
    spec, platform = (MessageToDict(part) for part in (pipeline.pipeline_spec, pipeline.platform_spec))
    return {"pipeline_spec": spec, "platform_spec": platform} if platform else {"pipeline_spec": spec}
