"""Fixtures: a Docker engine and the project's image. Tests are skipped if no engine is available.

tests/integration/containers/conftest.py imports the fixtures for the tests in its folder.
"""

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from platformdirs import user_cache_path

from tests.conftest import ROOT

PULLED = "python:3.11.14-slim-bookworm"
"""Default base of the Dockerfile."""
PACKAGES = ("python3", "python3-dev", "python3-venv", "g++", "ca-certificates")
BOOTSTRAP = ("debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", "bookworm")
"""Command that creates a similar base without a registry."""
FRESH_DAYS = 30
"""Maximum age of a cached base, because of Debian's security updates."""
INSTALL = "install docker.io and debootstrap and run as root, or start a Docker engine"


@dataclass(frozen=True)
class Engine:
    """A running Docker engine."""

    host: str
    """Value of DOCKER_HOST."""

    @property
    def environment(self) -> dict[str, str]:
        """Environment of processes that use it."""
        return {**os.environ, "DOCKER_HOST": self.host}

    def run(self, *arguments: str, code: int = 0, stdin: str = "", timeout: float = 900) -> str:
        """Run `docker` and return its stdout; stdout and stderr for an expected `code` other than 0."""
        done = subprocess.run(
            ["docker", *arguments],
            check=False,
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        output = f"{done.stdout}\n{done.stderr}"
        assert done.returncode == code, f"docker {' '.join(arguments)}: {done.returncode}\n{output[-5000:]}"
        return output if code else done.stdout

    def has(self, image: str) -> bool:
        """Return True if the image exists."""
        command = ["docker", "image", "inspect", image]
        return subprocess.run(command, check=False, env=self.environment, capture_output=True).returncode == 0


@dataclass(frozen=True)
class Image:
    """The project's image, built from the working tree."""

    engine: Engine
    name: str
    build_args: tuple[str, ...]
    """Options of the `docker build` command."""

    def run(self, *command: str, options: tuple[str, ...] = (), code: int = 0, stdin: str = "") -> str:
        """Run a command in a new container; see `Engine.run`."""
        return self.engine.run("run", "--rm", "-i", *options, self.name, *command, code=code, stdin=stdin)


@pytest.fixture(scope="package")
def engine() -> Iterator[Engine]:
    """The engine of `docker`, or a new one, which is removed afterwards."""
    if shutil.which("docker") is None:
        pytest.skip(f"docker is not installed; {INSTALL}")
    if subprocess.run(["docker", "info"], check=False, capture_output=True, timeout=60).returncode == 0:
        command = ["docker", "context", "inspect", "--format", "{{.Endpoints.docker.Host}}"]
        host = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        yield Engine(os.environ.get("DOCKER_HOST") or host)
    elif shutil.which("dockerd") is None or os.geteuid() != 0:
        pytest.skip(f"no Docker engine is running, and none can be started; {INSTALL}")
    else:
        folder = Path(tempfile.mkdtemp(prefix="trm-docker-"))
        try:
            yield from _own_engine(folder)
        finally:
            _remove(folder)


def _own_engine(folder: Path) -> Iterator[Engine]:
    """Start a daemon whose files are all in `folder`, and which does not change the firewall.

    Its containers have network access through the host network only.
    """
    own = Engine(f"unix://{folder}/socket")
    options = {"host": own.host, "data-root": f"{folder}/data", "exec-root": f"{folder}/exec"}
    options |= {"pidfile": f"{folder}/pid", "iptables": "false", "ip-forward": "false"}
    command = ["dockerd", *(f"--{name}={value}" for name, value in options.items())]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as daemon:
        try:
            deadline = time.monotonic() + 60
            while subprocess.run(["docker", "info"], check=False, env=own.environment, capture_output=True).returncode:
                if daemon.poll() is not None or time.monotonic() > deadline:
                    pytest.skip(f"dockerd does not start: {(folder / 'log').read_text()[-1000:]}")
                time.sleep(0.2)
            yield own
        finally:
            daemon.terminate()


def _remove(folder: Path) -> None:
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in sorted((mount for mount in mounts if mount.startswith(f"{folder}/")), reverse=True):
        subprocess.run(["umount", "--lazy", mount], check=False)
    shutil.rmtree(folder)


@pytest.fixture(scope="package")
def base(engine: Engine) -> str:
    """An image with Python 3.11: the Dockerfile's default base, or a Debian system from packages."""
    pull = ["docker", "pull", "--quiet", PULLED]
    if (
        engine.has(PULLED)
        or not subprocess.run(pull, check=False, env=engine.environment, capture_output=True).returncode
    ):
        return PULLED
    if shutil.which("debootstrap") is None or os.geteuid() != 0:
        pytest.skip(f"{PULLED} cannot be pulled, and no base can be created; {INSTALL}")
    system = _bootstrapped()
    name = f"trm-base:{system.stem}-{int(system.stat().st_mtime)}"
    if not engine.has(name):
        engine.run("import", str(system), name)
    return name


def _bootstrapped() -> Path:
    """Return the tar file of a minimal Debian system, cached for a month."""
    command_hash = hashlib.sha256(" ".join((*BOOTSTRAP, platform.machine())).encode()).hexdigest()[:16]
    system = user_cache_path("trm") / "tests" / f"debian-{command_hash}.tar"
    if system.exists() and time.time() - system.stat().st_mtime < FRESH_DAYS * 24 * 3600:
        return system
    system.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="trm-debian-") as folder:
        made = subprocess.run([*BOOTSTRAP, folder], check=False, capture_output=True, text=True)
        if made.returncode:
            pytest.skip(f"debootstrap: {made.stdout[-500:]}{made.stderr[-500:]}; check the access to Debian's mirror")
        partial = Path(folder).with_suffix(".tar")
        try:
            leave = ("--exclude=./var/lib/apt/lists/*", "--exclude=./var/cache/apt/*", "--exclude=./var/log/*")
            subprocess.run(["tar", "-C", folder, *leave, "-cf", partial, "."], check=True)
            shutil.move(partial, system)
        finally:
            partial.unlink(missing_ok=True)
    return system


@pytest.fixture(scope="package")
def image(engine: Engine, base: str, tmp_path_factory: pytest.TempPathFactory) -> Image:
    """The project's image for the CPU, with a compiler.

    The wheels are downloaded with this machine's pip configuration, and the image is built without a network. If pip
    finds no CPU build of torch, the build downloads from PyPI and PyTorch's index.
    """
    wheels = tmp_path_factory.mktemp("wheels")
    problem = _collect_wheels(
        wheels / "wheels", engine.run("run", "--rm", "--network", "none", base, "python3", "-c", ABI)
    )
    args = {"BASE": base, "COMPILER": "yes", "REVISION": "a-revision", "VERSION": "a-version"}
    if not problem:
        (wheels / "pip.conf").write_text("[global]\nno-index = true\nfind-links = /wheels\n")
        (wheels / "Dockerfile").write_text(f"FROM {base}\nCOPY pip.conf /etc/pip.conf\nCOPY wheels /wheels\n")
        engine.run("build", "--tag", "trm-build-base:test", str(wheels))
        args["BUILD_BASE"] = "trm-build-base:test"
    options = tuple(part for name, value in args.items() for part in ("--build-arg", f"{name}={value}"))
    options += ("--network", "host" if problem else "none")
    built = Image(engine, "trm:test", options)
    try:
        engine.run("build", "--tag", built.name, *options, str(ROOT))
    except AssertionError as error:
        raise AssertionError(f"{error}\n{problem}") from None
    return built


ABI = "import platform, sys; print(*sys.version_info[:2], platform.machine(), platform.libc_ver()[1])"


def _collect_wheels(folder: Path, abi: str) -> str:
    """Download the packages of the Dockerfile for this Python ABI; return pip's error message, or ""."""
    major, minor, machine, libc = abi.split()
    glibc = range(5, int(libc.split(".")[1]) + 1)
    platforms = [f"manylinux{name}_{machine}" for name in ("2014", "2010", "1", *(f"_2_{n}" for n in glibc))]
    torch = re.search(r"^torch==\S+", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)
    assert torch is not None
    command = [sys.executable, "-m", "pip", "download", "--dest", folder, "--constraint", ROOT / "constraints.txt"]
    command += ["--only-binary=:all:", f"--python-version={major}.{minor}"]
    command += [f"--platform={name}" for name in platforms]
    locked = [part for name in ("image", "build") for part in ("-r", ROOT / f"requirements/{name}.txt")]
    for wanted in ([f"{torch[0]}+cpu"], ["--no-deps", "--require-hashes", *locked]):
        done = subprocess.run([*command, *wanted], check=False, capture_output=True, text=True)
        if done.returncode:
            return done.stderr[-2000:]
    return ""
