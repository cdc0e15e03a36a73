"""A training exports its metrics, which do not change its result."""

import threading
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.apiserver import free_ports
from trm.config.model import ModelParams
from trm.config.training import TrainParams
from trm.training.trainer import train
from trm.utils.training_metrics import COMPLETED, GAUGES, LEFT, PLANNED, SKIPPED, STATE_AGE


def test_metrics_are_served_during_the_training(
    dataset: Path,
    model_params: ModelParams,
    train_params: TrainParams,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (port,) = free_ports(1)
    texts, ended = [], threading.Event()

    def scrape() -> None:
        while not ended.wait(0.02):
            try:
                texts.append(httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text)
            except httpx.TransportError:
                continue

    def run(name: str) -> tuple[dict[str, object], bytes]:
        out = tmp_path / name
        out.mkdir()
        facts = train(model_params, train_params, dataset, out, name)
        return facts, (out / "checkpoint.safetensors").read_bytes()

    facts, alone = run("alone")
    monkeypatch.setenv("TRM_METRICS_PORT", str(port))
    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        assert run("scraped")[1] == alone
    finally:
        ended.set()
        thread.join()
    families = [family for text in texts for family in text_string_to_metric_families(text)]
    samples = [sample for family in families for sample in family.samples]
    # No batch is skipped, and a training may end before its pace is measured.
    assert {sample.name for sample in samples} >= {gauge.name for gauge in {*GAUGES} - {LEFT, SKIPPED}}
    last = {sample.name: sample.value for sample in samples}
    assert 0 < last[COMPLETED.name] <= last[PLANNED.name] == facts["steps"]
    assert {sample.labels["place"] for sample in samples if sample.name == STATE_AGE.name} == {"disk"}
    assert "warning" not in capfd.readouterr().err
