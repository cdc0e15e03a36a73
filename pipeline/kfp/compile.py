"""Compilation of the pipeline to YAML."""

from collections.abc import Container, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kfp import compiler
from kfp.dsl.graph_component import GraphComponent
from ruamel.yaml import YAML

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
    with TemporaryDirectory() as folder:
        file = Path(folder) / "pipeline.yaml"
        compiler.Compiler().compile(pipeline, str(file))
        spec, *platform = YAML(typ="safe", pure=True).load_all(file)
    return {"pipeline_spec": spec, "platform_spec": platform[0]} if platform else spec
