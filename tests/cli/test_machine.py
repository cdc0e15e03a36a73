"""The command line on machines that are not as expected: addresses, permissions, stray variables, signals."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.helpers import Run, check_error
from tests.conftest import ROOT
from trm.training import distributed
from trm.utils.errors import InternalError

ADDRESSES = ["gs://bucket/key", "https://example.org/x", "minio://bucket/key", "S3://bucket/key"]


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize(
    "command",
    [
        "fetch --raw {}",
        "augment --raw {}",
        "train --model {}",
        "evaluate --model {}",
        "report --report {}",
        "inspect {}",
        "solve 1234 --model {}",
        "visualize --model {}",
        "demo --save {}/x.gif",
        "sweep --out {}",
        "study init --folder {}",
        "recipe use sudoku-6x6 --params {}",
        "checkpoint import {}",
        "checkpoint export --out {}",
        "model-summary --dataset {}",
    ],
)
def test_addresses_of_other_servers(run: Run, here: Path, command: str, address: str) -> None:
    code, out, err = run(*command.format(address).split())
    assert (code, out) == (2, "")
    assert address in err or address.replace("//", "/") in err
    assert len(err.splitlines()) == 1, err
    assert [path.name for path in here.iterdir()] == ["params.yaml"]


def test_address_of_another_server_in_a_variable(
    run: Run, here: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRM_STATE_DIR", "gs://bucket/key")
    check_error(run("train", "--dataset", finished / "outputs/dataset"), "TRM_STATE_DIR=gs://bucket/key")
    assert [path.name for path in here.iterdir()] == ["params.yaml"]


def test_output_below_a_file(run: Run, here: Path) -> None:
    (here / "file").touch()
    check_error(run("fetch", "--raw", "file/raw"), "file", "; correct the path")
    assert sorted(path.name for path in here.iterdir()) == ["file", "params.yaml"]


def test_name_that_is_too_long(run: Run, here: Path) -> None:
    check_error(run("fetch", "--raw", "x" * 300), "File name too long; give a shorter name")
    assert [path.name for path in here.iterdir()] == ["params.yaml"]


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="a small file system needs Linux and root")
@pytest.mark.parametrize("variable", ["", "TRM_STATE_DIR"])
def test_folder_that_cannot_be_written(
    run: Run, here: Path, finished: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    locked = here / "locked"
    locked.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", locked], check=True)
    try:
        if variable:
            monkeypatch.setenv(variable, str(locked / "x"))
        out = "outputs/model" if variable else "locked/model"
        result = run("train", "--dataset", finished / "outputs/dataset", "--model", out)
        remedy = f"set {variable} to a writable folder" if variable else "change its permissions, or give another path"
        check_error(result, "locked/", f"Read-only file system; {remedy}")
        assert not (here / "outputs").exists()
    finally:
        subprocess.run(["umount", "-l", locked], check=True)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device /dev/full of Linux")
def test_output_that_cannot_be_printed(here: Path) -> None:
    for command in ("recipe list", "recipe show sudoku-6x6"):
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(
                [sys.executable, "-m", "trm", *command.split()],
                check=False,
                cwd=here,
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        assert (done.returncode, done.stderr) == (2, "trm: No space left on device; free some space\n")


def test_fault_of_the_program(run: Run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(*_: object) -> None:
        raise ZeroDivisionError("\x1b[31mred\nline")

    monkeypatch.setattr("trm.config.recipes.recipes", fault)
    code, out, err = run("recipe", "list")
    assert (code, out) == (1, "")
    assert err == (
        "trm: ZeroDivisionError: \\x1b[31mred line; this is a fault of the program: "
        "run it with TRM_TRACEBACK=1 and report it\n"
    )


@pytest.mark.parametrize("arguments", ["slove", "train --resume", "sweep --max-puzzles 0", "solve"])
def test_wrong_command_lines_are_one_line(run: Run, here: Path, arguments: str) -> None:
    code, out, err = run(*arguments.split())
    assert (code, out) == (2, "")
    command = "trm" if arguments == "slove" else f"trm {arguments.split(maxsplit=1)[0]}"
    assert err.startswith(f"{command}: ")
    assert err.endswith(f"; see `{command} --help`\n")
    assert len(err.splitlines()) == 1


def test_stray_launcher_variables(run: Run, here: Path, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They would make this process wait for others, or compute without writing a result."""
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TRM_STATE_DIR", str(here / "states"))
    code, _, err = run("train", "--dataset", finished / "outputs/dataset")
    assert code == 0, err
    assert "train: RANK and WORLD_SIZE ignored: torchrun did not start this process\n" in err
    assert (here / "outputs/model/checkpoint.safetensors").is_file()


@pytest.fixture
def lonely(here: Path, finished: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A command that is the first of two processes of torchrun, the second of which never arrives."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    variables = {"TORCHELASTIC_RUN_ID": "run", "RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}
    for name, value in {**variables, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}.items():
        monkeypatch.setenv(name, value)
    return ["train", "--dataset", str(finished / "outputs/dataset")]


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_waiting_for_other_processes_can_be_interrupted(here: Path, lonely: list[str]) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "trm", *lonely]
    with subprocess.Popen(command, cwd=here, env=environment, stderr=subprocess.PIPE, text=True) as process:
        port = int(os.environ["MASTER_PORT"])
        deadline = time.monotonic() + 60
        while not _listens(port) and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.stderr
        assert process.stderr.read().splitlines()[-1] == (
            f"trm: stopped by signal {signal.SIGTERM.value}; nothing was written; the same command starts it again"
        )
        assert process.wait(timeout=30) == 128 + signal.SIGTERM
    assert [path.name for path in here.iterdir()] == ["params.yaml"]


def test_waiting_for_other_processes_has_a_limit(
    run: Run, here: Path, lonely: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "RENDEZVOUS_TIMEOUT", 1.0)
    code, _, err = run(*lonely)
    assert code == 1
    assert "trm: the processes of torchrun did not meet within 1 seconds" in err
    assert InternalError.__name__ not in err
    assert [path.name for path in here.iterdir()] == ["params.yaml"]
