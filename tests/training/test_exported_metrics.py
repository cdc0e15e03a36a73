"""A training exports its metrics, which do not change its result."""

import threading
from pathlib import Path

import httpx
import pytest

from tests.apiserver import free_ports
from trm.config.model import ModelParams
from trm.config.training import TrainParams
from trm.training.trainer import train
from trm.utils.training_metrics import GAUGES, LEFT, SKIPPED


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

    def run(name: str) -> bytes:
        out = tmp_path / name
        out.mkdir()
        train(model_params, train_params, dataset, out, name)
        return (out / "checkpoint.safetensors").read_bytes()

    alone = run("alone")
    monkeypatch.setenv("TRM_METRICS_PORT", str(port))
    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        assert run("scraped") == alone
    finally:
        ended.set()
        thread.join()
    assert texts
    seen = set(" ".join(texts).split())
    for gauge in {*GAUGES} - {LEFT, SKIPPED}:  # without a pause the pace is that of the first second
        assert gauge.name in seen or f'{gauge.name}{{place="disk"}}' in seen, gauge
    assert "warning" not in capfd.readouterr().err
