"""Compilation of the pipeline to YAML."""

from collections.abc import Container
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kfp import compiler
from ruamel.yaml import YAML

from pipeline.kfp.definition import build_pipeline
from trm.config.cluster import ClusterParams


def compile_pipeline(path: Path, cluster: ClusterParams, uncached: Container[str] = ()) -> None:
    """Write the compiled pipeline to `path`. Equal arguments give equal bytes."""
    compiler.Compiler().compile(build_pipeline(cluster, uncached), str(path))


def pipeline_spec(cluster: ClusterParams, uncached: Container[str] = ()) -> dict[str, Any]:
    """Return the compiled pipeline as the run API accepts it: `pipeline_spec` and `platform_spec`."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "pipeline.yaml"
        compile_pipeline(file, cluster, uncached)
        pipeline, *platform = YAML(typ="safe", pure=True).load_all(file)
    return {"pipeline_spec": pipeline, "platform_spec": platform[0]} if platform else pipeline
