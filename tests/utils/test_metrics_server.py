"""Metrics of a computation on a port."""

import socket
import sys
from collections.abc import Iterator

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.apiserver import free_ports
from trm.utils.metrics_server import Gauge, Values, metrics_server

STEPS, AGE = Gauge("steps", "Steps."), Gauge("age_seconds", "Age.", "place")


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    (port,) = free_ports(1)
    monkeypatch.setenv("TRM_METRICS_PORT", str(port))
    return port


def get(port: int, path: str = "/metrics") -> httpx.Response:
    return httpx.get(f"http://127.0.0.1:{port}{path}", trust_env=False, timeout=10)


def samples(text: str) -> Iterator[tuple[str, dict[str, str], float]]:
    for family in text_string_to_metric_families(text):
        yield from ((sample.name, sample.labels, sample.value) for sample in family.samples)


def test_current_values_are_served(port: int) -> None:
    values: dict[Gauge, float | dict[str, float]] = {STEPS: 3, AGE: {"disk": 1.5, "s3": 2.0}}
    with metrics_server(lambda: values, "train", "the training"):
        answer = get(port)
        assert list(samples(answer.text)) == [
            ("steps", {}, 3.0),
            ("age_seconds", {"place": "disk"}, 1.5),
            ("age_seconds", {"place": "s3"}, 2.0),
        ]
        assert answer.headers["Content-Type"].startswith("text/plain")
        assert "# HELP steps Steps.\n# TYPE steps gauge\n" in answer.text
        values.update({STEPS: 4, AGE: {}})
        assert list(samples(get(port).text)) == [("steps", {}, 4.0)]
        assert get(port, "/").status_code == 404
    with pytest.raises(httpx.ConnectError):
        get(port)
    with metrics_server(lambda: values, "train", "the training"):  # the port is free again
        assert get(port).status_code == 200


def test_port_is_closed_after_an_error(port: int) -> None:
    with pytest.raises(KeyboardInterrupt), metrics_server(dict, "train", "the training"):
        assert get(port).status_code == 200
        raise KeyboardInterrupt
    with pytest.raises((httpx.ConnectError, httpx.ReadError, httpx.RemoteProtocolError)):
        while True:  # the thread needs a moment
            get(port)


def test_without_the_variable_nothing_is_served(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRM_METRICS_PORT", "")
    with metrics_server(dict, "train", "the training"), pytest.raises(httpx.ConnectError):
        get(port)


def test_fault_of_a_connection_or_a_value_affects_nothing(port: int, capfd: pytest.CaptureFixture[str]) -> None:
    def read() -> Values:
        if faulty:
            raise ValueError
        return {STEPS: 1}

    faulty = True
    with metrics_server(read, "train", "the training"):
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(b"\xff\r\n\r\n")
        with socket.create_connection(("127.0.0.1", port)):
            pass
        with pytest.raises(httpx.RemoteProtocolError):
            get(port)
        faulty = False
        assert get(port).status_code == 200
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("fault", ["in use", "a", "-1", "70000", "no package"])
def test_fault_is_one_warning(
    fault: str, port: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    expected = "$TRM_METRICS_PORT must be a number from 1 to 65535. Got "
    with socket.socket() as other:
        if fault == "in use":
            other.bind(("0.0.0.0", port))
            other.listen()
            expected = f"port {port}: Address already in use"
        elif fault == "no package":
            monkeypatch.setitem(sys.modules, "prometheus_client", None)
            expected = 'the package prometheus-client is not installed: pip install "trm[serve]"'
        else:
            monkeypatch.setenv("TRM_METRICS_PORT", fault)
            expected += repr(fault)
        with metrics_server(dict, "train", "the training"):
            pass
    assert capfd.readouterr().err == f"train: warning: no metrics ({expected}); the training continues\n"
