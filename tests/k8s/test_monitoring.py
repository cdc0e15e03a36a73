"""Manifests of k8s/components/monitoring: they refer to pods, ports and metrics that exist, and the alerts fire."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.train import job_metrics
from components.train.backends import fill, job_template
from components.train.train_job import runtime
from pipeline.kfp.compile import pipeline_spec
from tests.components.train.fake_trainer import worker_template
from tests.conftest import ROOT
from tests.k8s.rendering import FOLDER, objects, render
from trm.config.cluster import ClusterParams
from trm.utils import training_metrics

COMPONENT = FOLDER / "components/monitoring"
PORT = 9400
METRICS = {gauge.name for gauge in (*training_metrics.GAUGES, *job_metrics.GAUGES)}
MAIN = "main"
"""Name that Kubeflow Pipelines gives to the container of a stage."""


def cluster(**more: Any) -> ClusterParams:  # noqa: ANN401 - settings
    return ClusterParams.model_validate({"metrics_port": PORT, **more})


def pods() -> dict[str, dict[str, Any]]:
    """Return kind of pod -> labels, variables and container names."""
    found = {}
    settings = cluster(train_job={})
    job = fill(job_template(settings), ["train"], "a" * 64, settings.artifact_root)
    found["PyTorchJob"] = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]
    settings = cluster(train_job={"backend": "trainjob", "max_workers": 1})
    assert settings.train_job is not None
    job = fill(job_template(settings), ["train"], "a" * 64, settings.artifact_root)
    found["TrainJob"] = worker_template(job, runtime(settings, settings.train_job))["spec"]["template"]
    for name, each in {"launcher": settings, "stage": cluster()}.items():
        spec = pipeline_spec(each)
        container = spec["pipeline_spec"]["deploymentSpec"]["executors"]["exec-train"]["container"]
        platform = spec["platform_spec"]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-train"]
        found[name] = {
            "metadata": {"labels": platform["podMetadata"]["labels"]},
            "spec": {"containers": [{"name": MAIN, "env": container["env"]}]},
        }
    return found


def rendered() -> dict[tuple[str, str], dict[str, Any]]:
    return objects(render("dev with monitoring"))


def expressions() -> list[str]:
    """Return the PromQL of the alerts and of the dashboard."""
    (group,) = yaml.safe_load((COMPONENT / "rules.yaml").read_text())["spec"]["groups"]
    dashboard = json.loads((COMPONENT / "dashboard.json").read_text())
    targets = [target for panel in dashboard["panels"] for target in panel["targets"]]
    return [each["expr"] for each in (*group["rules"], *targets)]


def test_pods_with_metrics_match_the_monitor() -> None:
    """Their label selects them and holds the port that their process opens."""
    spec, policy = rendered()["PodMonitor", "trm"]["spec"], rendered()["NetworkPolicy", "trm-metrics"]["spec"]
    (wanted,) = spec["selector"]["matchExpressions"]
    (endpoint,) = spec["podMetricsEndpoints"]
    keep, address = endpoint["relabelings"]
    for kind, pod in pods().items():
        (container,) = pod["spec"]["containers"]
        assert (wanted["operator"], pod["metadata"]["labels"][wanted["key"]]) == ("Exists", str(PORT)), kind
        assert {"name": "TRM_METRICS_PORT", "value": str(PORT)} in container["env"], kind
        assert re.fullmatch(keep["regex"], container["name"]), kind
    assert address["sourceLabels"][1].removeprefix("__meta_kubernetes_pod_label_") == re.sub(r"\W", "_", wanted["key"])
    assert policy["podSelector"] == spec["selector"]
    assert policy["ingress"][0]["ports"] == [{"port": PORT, "protocol": "TCP"}]


def test_pods_have_no_metrics_by_default() -> None:
    settings = ClusterParams.model_validate({"train_job": {}})
    job = json.dumps(fill(job_template(settings), ["train"], "a" * 64, settings.artifact_root))
    for text in (job, json.dumps(pipeline_spec(settings)), json.dumps(pipeline_spec(ClusterParams()))):
        assert "TRM_METRICS_PORT" not in text
        assert "metrics-port" not in text


def test_other_stages_have_no_metrics() -> None:
    executors = pipeline_spec(cluster())["pipeline_spec"]["deploymentSpec"]["executors"]
    assert [name for name, each in executors.items() if "TRM_METRICS_PORT" in json.dumps(each)] == ["exec-train"]


def test_alerts_and_dashboard_use_every_metric_and_no_other() -> None:
    used = {name for text in expressions() for name in re.findall(r"\btrm_\w+", text)}
    assert used == METRICS


def test_documentation_lists_the_metrics() -> None:
    text = (ROOT / "docs/operations.md").read_text()
    assert re.findall(r"^\| `(trm_\w+)", text, re.M) == [
        gauge.name for gauge in (*training_metrics.GAUGES, *job_metrics.GAUGES)
    ]


def test_dashboard_is_loaded_by_grafana() -> None:
    """The sidecar of its chart reads the label; titles and ids are unique; panels do not overlap."""
    configured = rendered()["ConfigMap", "trm-dashboard"]
    assert configured["metadata"]["labels"]["grafana_dashboard"] == "1"
    dashboard = json.loads(configured["data"]["trm.json"])
    assert dashboard == json.loads((COMPONENT / "dashboard.json").read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    cells = [
        (column, row)
        for place in (panel["gridPos"] for panel in panels)
        for column in range(place["x"], place["x"] + place["w"])
        for row in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(column for column, _ in cells) < 24
    variables = {f"${each['name']}" for each in dashboard["templating"]["list"]}
    assert set(re.findall(r"\$\w+", json.dumps(panels))) <= variables
    assert json.dumps(panels).count("${datasource}") == len(panels) + sum(len(panel["targets"]) for panel in panels)


def promtool(*arguments: str | Path) -> None:
    """Run promtool of Prometheus; skip where it is missing."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    ran = subprocess.run([program, *arguments], check=False, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr


POD = '{namespace="trm", pod="a"}'
HEALTHY = {
    "trm_training_steps_completed": "0+10x200",
    "trm_training_loss": "1x200",
    "trm_training_state_age_seconds": "60x200",
    "trm_training_skipped_batches": "0x200",
    "trm_training_restarts": "1x200",
    "trm_job_wait_seconds": "4000x200",
    "trm_job_workers_running": "2x200",
    "trm_job_workers_replaced": "2x200",
}
"""Metric -> values, one per minute."""
FAULTS: dict[str, dict[str, str | None]] = {
    "TrmTrainingStalled": {"trm_training_steps_completed": "0+10x20 200x180"},
    "TrmTrainingStateOld": {"trm_training_state_age_seconds": "0+60x200"},
    "TrmTrainingLossMissing": {"trm_training_loss": None},
    "TrmTrainingBatchesSkipped": {"trm_training_skipped_batches": "0x110 1x90"},
    "TrmTrainingRestartsOften": {"trm_training_restarts": "0x110 1 2 3 4 5x90"},
    "TrmTrainingPending": {"trm_job_wait_seconds": "0+60x200", "trm_job_workers_running": "0x200"},
}
"""Alert -> what differs from a healthy training."""


@pytest.mark.parametrize("alert", [*FAULTS, "healthy"])
def test_alert_fires_for_its_fault_only(alert: str, tmp_path: Path) -> None:
    """After two hours, in Prometheus itself."""
    groups = yaml.safe_load((COMPONENT / "rules.yaml").read_text())["spec"]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(groups))
    values = {**HEALTHY, **FAULTS.get(alert, {})}
    series = [{"series": name + POD, "values": each} for name, each in values.items() if each is not None]
    names = [rule["alert"] for rule in groups["groups"][0]["rules"]]
    assert set(names) == set(FAULTS)
    test = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": series,
                "promql_expr_test": [
                    {
                        "expr": f'count by (alertname) (ALERTS{{alertstate="firing", alertname="{name}"}})',
                        "eval_time": "120m",
                        "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1}] if name == alert else [],
                    }
                    for name in names
                ],
            }
        ],
    }
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(test))
    promtool("test", "rules", tmp_path / "test.yaml")


def test_rules_are_valid_for_prometheus(tmp_path: Path) -> None:
    groups = yaml.safe_load((COMPONENT / "rules.yaml").read_text())["spec"]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(groups))
    promtool("check", "rules", tmp_path / "rules.yaml")
