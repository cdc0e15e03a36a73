"""The command `trm ui`: its address, its end, and its messages."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.cli.helpers import Run, check_error
from trm.serving.server import listen


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_address_and_the_end(number: signal.Signals, code: int) -> None:
    """One line with the address and the token; a signal ends the server, also during a trace."""
    environment = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "WAYLAND_DISPLAY")}
    command = [sys.executable, "-m", "trm", "ui", "--max-steps", "3"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.fullmatch(r"ui: (http://127\.0\.0\.1:\d+)/#token=([\w-]{43}); Ctrl-C stops\n", line)
        assert found is not None, line
        headers = {"authorization": f"Bearer {found[2]}"}
        with httpx.Client(base_url=found[1], headers=headers, timeout=60) as client:
            listed = client.get("/ui/models").json()
            assert [model["name"] for model in listed["models"]] == ["demo"]
            assert listed["settings"][0]["default"] == 3
            body = {"model": "demo", "puzzle": [[0] * 6] * 6, "settings": {"max_steps": 2000}}
            with client.stream("POST", "/ui/trace", json=body) as response:
                next(response.iter_lines())
                process.send_signal(number)
                assert process.wait(60) == code
        assert process.stderr.read() == f"trm: stopped by signal {number.value}\n"


@pytest.mark.parametrize("command", ["ui", "serve"])
def test_a_missing_extra(command: str) -> None:
    program = "import sys; sys.modules['fastapi'] = None; from trm.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", program, command], check=False, capture_output=True, text=True)
    message = f"trm {command} requires the package fastapi; install it with `pip install 'trm[serve]'`\n"
    assert (done.returncode, done.stderr) == (2, message)


def test_mistakes(run: Run, here: Path) -> None:
    check_error(run("ui", "nothing"), "nothing: is not a folder; give model folders, or folders that contain them")
    check_error(run("ui", "s3://bucket/model"), "s3://bucket/model: an address of a server; give a local path")
    check_error(run("ui", "--num-votes", "2000"), "max_steps must be at most 16384. Got 32000")
    check_error(run("ui", "--num-samples", "2"), "num_samples above 1 requires latent_noise_std above 0")
    with listen("127.0.0.1", 0) as used:
        port = used.getsockname()[1]
        check_error(run("ui", "--port", port), f"cannot listen at 127.0.0.1:{port} (Address already in use)")
    assert list(here.iterdir()) == [here / "params.yaml"]
