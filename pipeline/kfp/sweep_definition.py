"""The Kubeflow pipeline of a sweep: one task for each artifact that its runs need, so that they share equal ones."""

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kfp import dsl
from kfp.dsl.graph_component import GraphComponent

from components.run_summary.component import sweep_summary
from pipeline.kfp.definition import check_resources, configure_exit_task, section_texts, stage_task, with_parameters
from trm.config.cluster import ClusterParams
from trm.config.params import Params
from trm.stages.content_keys import content_keys
from trm.stages.records import Stage, producer
from trm.studies.study import RESULT, stages_to

Name = tuple[str, str]
"""Stage and content key of an artifact."""
DIGEST = "sweep"
"""Parameter of the pipeline with the digest of the content keys, by which a run of the same sweep is found."""


@dataclass(frozen=True)
class Node:
    """An artifact of a sweep."""

    stage: Stage
    key: str
    sections: Mapping[str, str]
    """Section name -> its JSON."""
    inputs: Mapping[str, Name]
    """Input name -> the artifact."""
    runs: list[str] = field(default_factory=list)
    """Names of the runs that need it."""


def sweep_nodes(runs: Mapping[str, Params]) -> dict[Name, Node]:
    """Return the artifacts that some runs need, each after its inputs. Raises `ParamsError`."""
    nodes: dict[Name, Node] = {}
    stages = stages_to(RESULT)
    for run, params in runs.items():
        keys, texts = content_keys(params), section_texts(params, stages)
        for stage in stages:
            name = (stage.name, keys[stage.name])
            inputs = {each: (producer(each).name, keys[producer(each).name]) for each in stage.inputs}
            sections = {section: texts[section] for section in stage.sections}
            nodes.setdefault(name, Node(stage, name[1], sections, inputs)).runs.append(run)
    return nodes


def build_sweep(cluster: ClusterParams, nodes: Mapping[Name, Node], uncached: Container[Name] = ()) -> GraphComponent:
    """Return the pipeline of a sweep. Its parameters are the artifact root and the digest of the sweep.

    Sections and keys are constants: the graph depends on them. A loop (`dsl.ParallelFor`) could not share artifacts.

    Args:
        cluster: Section `cluster`: image, resources and placement of the pods.
        nodes: The artifacts, each after its inputs.
        uncached: Artifacts for which Kubeflow does not take the result of an earlier run.
    """
    check_resources(cluster)
    everyone = len({run for node in nodes.values() for run in node.runs})

    def pipeline(artifact_root: Any, sweep: Any) -> None:
        del sweep
        exit_task = sweep_summary(
            artifact_root=artifact_root, run=dsl.PIPELINE_JOB_ID_PLACEHOLDER, artifacts=_pairs(nodes)
        )
        configure_exit_task(exit_task, cluster)
        outputs: dict[Name, Any] = {}
        with dsl.ExitHandler(exit_task):
            for name, node in nodes.items():
                inputs = {each: outputs[source] for each, source in node.inputs.items()}
                task = stage_task(
                    node.stage, cluster, node.sections, inputs, artifact_root, node.key, is_cached=name not in uncached
                )
                task.set_display_name(_title(node, everyone))
                outputs[name] = task.outputs[node.stage.output]

    return with_parameters(pipeline, {"artifact_root": str, DIGEST: str}, "A sweep.")


def _pairs(nodes: Iterable[Name]) -> str:
    return " ".join(f"{stage}={key}" for stage, key in nodes)


def _title(node: Node, everyone: int) -> str:
    """Return what the web UI displays: the stage, and unless all runs need it, the first run and how many more."""
    if len(node.runs) == everyone:
        return node.stage.name
    more = f" +{len(node.runs) - 1}" if len(node.runs) > 1 else ""
    return f"{node.stage.name} {node.runs[0]}{more}"
