"""Checks of test_new_stage.py. The module imports no project code before `add_stage` has changed the stage records."""

import json
import sys
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def add_stage() -> None:
    """Add the record of stage `quantize`, and the module that its component folder would contain."""
    from trm.stages import records as stages

    quantize = stages.Stage(
        name="quantize",
        sections=("report",),
        inputs=("model",),
        output="quantized",
        run="trm.quantize:quantize",
        help="Quantize the model.",
        duration_invariant=("report.batch_size",),
        work=lambda sections: 3,
    )
    stages.STAGES += (quantize,)
    stages.REQUIRED_STAGES += (quantize,)
    from kfp import dsl

    from components.container import container_spec

    def component(
        report_params: str, artifact_root: str, key: str, model: dsl.Input[dsl.Model], quantized: dsl.Output[dsl.Model]
    ) -> dsl.ContainerSpec:
        artifacts = {"model": model, "quantized": quantized}
        return container_spec("quantize", {"report": report_params}, artifacts, artifact_root, key)

    component.__name__ = "quantize"
    module = types.ModuleType("components.quantize.component")
    module.__dict__["quantize"] = dsl.container_component(component)
    sys.modules["components.quantize.component"] = module


def check_pipeline() -> None:
    from pipeline.kfp.compile import pipeline_spec
    from trm.config.cluster import ClusterParams

    spec = pipeline_spec(ClusterParams())["pipeline_spec"]
    assert "quantize" in spec["components"]["comp-exit-handler-1"]["dag"]["tasks"]
    assert "quantize_key" in spec["root"]["inputDefinitions"]["parameters"]
    summary = spec["deploymentSpec"]["executors"]["exec-run-summary"]["container"]["args"]
    assert summary[-1] == "quantize={{$.inputs.parameters['quantize_key']}}"


def check_entry_point() -> None:
    from components import run
    from trm.storage import s3

    uri = s3.artifact_uri("s3://bucket", "quantize", "k")
    s3.read_manifest = {uri: {"key": "k", "facts": {"bytes": 5}}}.get
    artifacts = {name: {"artifacts": [{"name": name}]} for name in ("executor-logs", "quantized")}
    outputs = {"artifacts": artifacts, "outputFile": "executor.json"}
    run.register_output(outputs, Path("pointer"), ["quantize", "--model", "s3://bucket/train/m", "--quantized", uri])
    assert json.loads(Path("pointer").read_text())["uri"] == uri
    metadata = json.loads(Path("executor.json").read_text())["artifacts"]["quantized"]["artifacts"][0]["metadata"]
    assert metadata["bytes"] == 5


def check_summary() -> None:
    from components.run_summary.summary import read_artifacts, summarize
    from trm.storage import s3

    s3.read_manifest = lambda uri: {"key": "k", "facts": {"metrics": {"quantized_bytes": 5}}}
    s3.get_json = lambda uri: {"seconds": 7.0}
    text = summarize({"state": "SUCCEEDED"}, read_artifacts("s3://bucket", ["quantize=k"]))
    assert text.startswith("# Run succeeded\n")
    assert "| quantize | `s3://bucket/quantize/k` | 7.0 |" in text
    assert "| quantized_bytes | 5 |" in text


def check_records() -> None:
    from pipeline.runs import estimate, local_records, stage_sections
    from tests.pipeline.test_runs import outputs
    from trm.stages.params import load_params
    from trm.stages.records import STAGES

    outputs()
    record = local_records()[-1]
    assert (record.stage, record.work, record.seconds) == ("quantize", 3, 1.0)
    sections = stage_sections(load_params(ROOT / "params.yaml"))
    assert estimate(STAGES[-1], "new", sections, [record]) == (1.0, record)
    other = {**sections, "report": {**sections["report"], "batch_size": 1}}
    assert estimate(STAGES[-1], "new", other, [record]) == (1.0, record)
    other = {**sections, "report": {**sections["report"], "seed": 1, "device": "cuda"}}
    assert estimate(STAGES[-1], "new", other, [record]) is None
