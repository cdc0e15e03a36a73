"""The command `trm serve`: its start, its names of models, and its end."""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.cli.helpers import Run, check_error
from trm.serving.server import listen

PUZZLE = ".6..2........5.......3.1...43.42...6"


@contextmanager
def server(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    """The process of a server, and a client of it."""
    command = [sys.executable, "-m", "trm", "serve", *arguments, "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line.startswith("serve: "), line
        with httpx.Client(base_url=line.split(" at ")[1].partition(";")[0], timeout=60) as client:
            yield process, client
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_it_after_running_requests(number: signal.Signals, code: int) -> None:
    with server("first=demo", "demo", "--max-steps", "2") as (process, client):
        models = client.get("/v1/models").json()["models"]
        assert [model["name"] for model in models] == ["first", "demo"]
        assert models[0]["settings"]["max_steps"] == 2
        statuses = list[int]()
        body = {"puzzles": [PUZZLE], "settings": {"max_steps": 100}}
        request = threading.Thread(target=lambda: statuses.append(client.post("/v1/solve", json=body).status_code))
        request.start()
        while "trm_requests_running 2.0" not in client.get("/metrics").text:  # this one, and that of the thread
            assert not statuses
        process.send_signal(number)
        assert process.wait(60) == code
        request.join()
        assert process.stderr is not None
        assert process.stderr.read() == f"trm: stopped by signal {number.value}\n"
    assert statuses == [200]


@pytest.mark.slow
def test_the_schema_of_the_api(tmp_path: Path) -> None:
    """Random requests that the schema allows, and some that it does not: the responses are those of the schema."""
    with server("demo", "--max-work", "64", "--max-steps", "1") as (_, client):
        program = Path(sys.executable).with_name("st")
        # Texts that are no puzzles agree with the schema and are refused.
        options = ("--exclude-checks", "positive_data_acceptance", "--max-examples", "5", "--seed", "1")
        command = [program, "run", f"{client.base_url}/openapi.json", "--phases", "coverage,fuzzing", *options]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-4000:]
    assert "11 tested" in result.stdout.lower() or "Tested: 11" in result.stdout


def test_mistakes(run: Run, here: Path) -> None:
    check_error(run("serve"), "outputs/model: no such file; train a model first")
    check_error(run("serve", "demo", "demo"), "models must have different names. Got demo, demo; give NAME=MODEL")
    check_error(run("serve", "a b=demo"), "a b=demo: the name of a model must have letters")
    check_error(run("serve", "demo", "--num-votes", "2000"), "max_steps must be at most 16384. Got 32000")
    check_error(run("serve", "demo", "--device", "gpu"), "'gpu' is not one of")
    check_error(run("serve", "demo", "--precision", "float16"), "'float16' is not one of")
    with listen("127.0.0.1", 0) as used:
        port = used.getsockname()[1]
        check_error(run("serve", "demo", "--port", port), f"cannot listen at 127.0.0.1:{port} (Address already in use)")
    assert list(here.iterdir()) == [here / "params.yaml"]
