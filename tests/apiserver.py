"""A Kubernetes API server with etcd and the CRDs of training jobs, without controllers.

$KUBEBUILDER_ASSETS names the folder with its programs, pytorchjobs-crd.yaml (github.com/kubeflow/trainer, release 1.9)
and trainer-crds.yaml (release 2.3, less what Kubernetes 1.20 refuses).
"""

import json
import os
import secrets
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from kubernetes import client, config

CRDS = ("pytorchjobs-crd.yaml", "trainer-crds.yaml")
PROGRAMS = ("etcd", "kube-apiserver", *CRDS)
JOBS = ("kubeflow.org/v1/pytorchjobs", "trainer.kubeflow.org/v1alpha1/trainjobs")
START_TIMEOUT = 60.0
USERS = ("admin", "launcher", "rotating", "unprivileged")
"""`admin` has all permissions, the others have none until a role is bound."""


class ApiServer:
    """A server whose files are all in `folder`."""

    def __init__(self, folder: Path, assets: Path) -> None:
        self.folder, self._assets = folder, assets
        self._ports = dict(zip(("etcd", "peer", "api"), free_ports(3), strict=True))
        self.url = f"https://127.0.0.1:{self._ports['api']}"
        self.certificate, self.key = folder / "certs/apiserver.crt", folder / "certs/apiserver.key"
        self._tokens = {name: secrets.token_hex(16) for name in USERS}
        self.away = False
        """Whether a test stopped it."""
        self.in_use = threading.Lock()
        """Held by threads of the tests while they send requests; the server is stopped between them.

        CPython leaks a socket that the server resets before the TLS handshake (`SSLSocket._create`).
        """
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Start etcd and the API server, and wait until it is ready."""
        service_accounts = self.folder / "sa.key"
        if not service_accounts.exists():
            subprocess.run(["openssl", "genrsa", "-out", service_accounts, "2048"], check=True, capture_output=True)
        etcd = f"http://127.0.0.1:{self._ports['etcd']}"
        peers = f"http://127.0.0.1:{self._ports['peer']}"
        addresses = {"listen-client-urls": etcd, "advertise-client-urls": etcd, "listen-peer-urls": peers}
        self._run("etcd", {"data-dir": self.folder / "etcd", **addresses})
        self.start_api()

    def start_api(self) -> None:
        """Start the API server, without etcd."""
        groups = {"admin": "system:masters"}
        lines = [f'{self._tokens[name]},{name},{name},"{groups.get(name, "users")}"\n' for name in USERS]
        (self.folder / "tokens.csv").write_text("".join(lines))
        options = {
            "etcd-servers": f"http://127.0.0.1:{self._ports['etcd']}",
            "cert-dir": self.folder / "certs",
            "bind-address": "127.0.0.1",
            "secure-port": self._ports["api"],
            "service-account-key-file": self.folder / "sa.key",
            "service-account-signing-key-file": self.folder / "sa.key",
            "service-account-issuer": "https://kubernetes.default.svc",
            "token-auth-file": self.folder / "tokens.csv",
            "authorization-mode": "RBAC",
            "service-cluster-ip-range": "10.0.0.0/24",
            "disable-admission-plugins": "ServiceAccount",  # requires a controller
            "allow-privileged": "false",
        }
        self._run("kube-apiserver", options)
        deadline = time.monotonic() + START_TIMEOUT
        while not self._is_ready():
            process = self._processes["kube-apiserver"]
            assert process.poll() is None and time.monotonic() < deadline, (
                self.folder / "kube-apiserver.log"
            ).read_text()[-2000:]
            time.sleep(0.1)
        self.away = False

    def stop_api(self) -> None:
        """Kill the API server, without etcd."""
        with self.in_use:
            self.away = True
            self._processes["kube-apiserver"].kill()
            self._processes["kube-apiserver"].wait()

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to all processes."""
        for process in self._processes.values():
            process.send_signal(number)

    def renew_token(self, user: str) -> None:
        """Give `user` another token. The server refuses the old one after its next start."""
        self._tokens[user] = secrets.token_hex(16)

    def stop(self) -> None:
        """Kill all processes."""
        for process in reversed(self._processes.values()):
            process.send_signal(signal.SIGKILL)
            process.wait()

    def install_crds(self) -> None:
        """Install the CRDs of PyTorchJob, TrainJob and TrainingRuntime."""
        path = "apis/apiextensions.k8s.io/v1/customresourcedefinitions"
        for name in CRDS:
            text = (self._assets / name).read_text()
            for definition in yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
                response = self.post(path, definition)
                assert response.status_code == 201, response.text[:500]
        deadline = time.monotonic() + START_TIMEOUT
        while any(self.http("GET", f"apis/{jobs}").status_code != 200 for jobs in JOBS):
            assert time.monotonic() < deadline
            time.sleep(0.05)

    @cached_property
    def _trusted(self) -> ssl.SSLContext:
        """The server's certificate, which stays after its first start. Reading it takes 26 ms."""
        return ssl.create_default_context(cafile=str(self.certificate))

    def http(self, method: str, path: str, **more: Any) -> httpx.Response:
        """Send a request as `admin`."""
        headers = {"Authorization": f"Bearer {self._tokens['admin']}"}
        return httpx.request(method, f"{self.url}/{path}", headers=headers, verify=self._trusted, timeout=30, **more)

    def post(self, path: str, body: Any) -> httpx.Response:
        return self.http("POST", path, json=body)

    def kubeconfig(self, user: str = "admin", namespace: str = "default") -> Path:
        """Write a kubeconfig of `user` and return its path."""
        file = self.folder / f"kubeconfig-{user}-{namespace}"
        cluster = {"server": self.url, "certificate-authority": str(self.certificate)}
        text = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": user, "user": {"token": self._tokens[user]}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": user, "namespace": namespace}}],
            "current-context": "test",
        }
        file.write_text(json.dumps(text))
        return file

    @contextmanager
    def client(self) -> Iterator[Any]:
        """Yield a client of `admin`; its connections are closed on exit."""
        configuration: Any = client.Configuration()
        config.load_kube_config(str(self.kubeconfig()), client_configuration=configuration)
        api: Any = client.ApiClient(configuration)
        yield api
        api.rest_client.pool_manager.clear()

    def _is_ready(self) -> bool:
        try:
            return self.certificate.exists() and self.http("GET", "readyz").text == "ok"
        except (httpx.HTTPError, ssl.SSLError):
            return False

    def _run(self, program: str, options: dict[str, Any]) -> None:
        command = [str(self._assets / program), *(f"--{name}={value}" for name, value in options.items())]
        with (self.folder / f"{program}.log").open("ab") as log:
            self._processes[program] = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder)


@pytest.fixture(scope="session")
def assets() -> Path:
    """Folder with the programs."""
    folder = os.environ.get("KUBEBUILDER_ASSETS")
    if not folder:
        pytest.skip("KUBEBUILDER_ASSETS is not set; set it to a folder with " + ", ".join(PROGRAMS))
    missing = [name for name in PROGRAMS if not (Path(folder) / name).exists()]
    if missing:
        pytest.skip(f"KUBEBUILDER_ASSETS={folder} lacks {', '.join(missing)}")
    return Path(folder)


@pytest.fixture(scope="module")
def bare_apiserver(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """Server without CRDs."""
    yield from _server(tmp_path_factory.mktemp("bare"), assets)


@pytest.fixture(scope="session")
def shared_apiserver(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """Server with the CRDs of training jobs, for all modules."""
    for server in _server(tmp_path_factory.mktemp("apiserver"), assets):
        server.install_crds()
        yield server


@pytest.fixture(scope="module")
def apiserver(shared_apiserver: ApiServer) -> Iterator[ApiServer]:
    """The shared server, which is stopped between the modules: when idle, it uses 3 % of a core."""
    shared_apiserver.send_signal(signal.SIGCONT)
    yield shared_apiserver
    shared_apiserver.send_signal(signal.SIGSTOP)


def _server(folder: Path, assets: Path) -> Iterator[ApiServer]:
    server = ApiServer(folder, assets)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def free_ports(count: int) -> list[int]:
    """Return free ports."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
