"""Shared fixtures: a small experiment, and optional data folders."""

import gc
import inspect
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numba  # noqa: F401 - imported here, so that the time limit of no property test includes it
import numpy as np
import pytest
import torch
from filelock import FileLock

from tests.apiserver import apiserver, assets, bare_apiserver, shared_apiserver  # noqa: F401 - fixtures
from tests.preload import python
from tests.seaweed import own_seaweed, root, seaweed  # noqa: F401 - fixtures
from tests.sudokus import of_digits, sudoku, write
from trm.config.data import AugmentParams
from trm.config.dataset_meta import DatasetMeta
from trm.config.model import LmaParams, ModelParams
from trm.config.training import AdamAtan2Params, OptimizerParams, SignSgdParams, TrainParams
from trm.data.numba_utils import MACHINE_CODE_FOLDER
from trm.datasets.augment import augment
from trm.datasets.sudoku.augmentation import draw_transforms
from trm.stages.records import REQUIRED_STAGES
from trm.utils.stop_signals import handled_signals

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.scheduler.loadscope import LoadScopeScheduling

# A shell starts commands in the background with an ignored SIGINT, which processes inherit and tests send.
signal.signal(signal.SIGINT, signal.default_int_handler)
# kfp reads the call stack at each setting of a task. Lines of code, which it does not use, took 28 s of fast tests.
inspect.stack.__defaults__ = (0,)
# Tests have separate cache folders, but share compiled functions.
os.environ["NUMBA_CACHE_DIR"] = MACHINE_CODE_FOLDER
if "PYTEST_XDIST_WORKER" in os.environ:  # the tests run in several processes
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: "Producer") -> "LoadScopeScheduling":
    """Run the tests of a file in one process; and those that share an image, or a Kubernetes API server."""
    from xdist.scheduler.loadscope import LoadScopeScheduling

    class Files(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            folder = Path(file).parent.name
            return {"containers": "image", "cluster": "API server", "k8s": "API server"}.get(folder, file)

    return Files(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take minutes, so that all processes end at the same time."""
    items.sort(key=lambda item: "integration" not in item.path.parts)


def pytest_collection_finish() -> None:
    """Make garbage collections rare, and exclude modules and tests: they took a fifth of the time of many tests."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


@pytest.fixture(scope="session")
def goldens() -> Path:
    """Numbers of the published code."""
    folder = SHARED / "goldens"
    if not folder.is_dir():
        pytest.skip("../shared/goldens (numbers of the published code) is not on this machine")
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real puzzles."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip("../shared/data (real puzzles) is not on this machine")
    return folder


@pytest.fixture
def meta() -> DatasetMeta:
    """Sudoku 4x4."""
    return DatasetMeta(name="sudoku", height=4, width=4, vocabulary=("pad", ".", *"1234"), num_identifiers=1)


@pytest.fixture(scope="session")
def model_params() -> ModelParams:
    """A network with steps of a few milliseconds."""
    return ModelParams(
        arch="trm",
        hidden_size=16,
        num_heads=2,
        L_layers=1,
        H_layers=1,
        expansion=1.0,
        H_cycles=2,
        L_cycles=2,
        lma=LmaParams(enable=False, mode="clean", length=8, dim=8, heads=2),
        mlp_t=True,
        pos_encodings="none",
        rope_theta=10000.0,
        rms_norm_eps=1e-5,
        puzzle_emb_ndim=0,
        puzzle_emb_len=0,
        halt_max_steps=4,
        halt_exploration_prob=0.1,
        q_continue_loss=False,
    )


@pytest.fixture(scope="session")
def train_params() -> TrainParams:
    """Settings that overfit a few puzzles quickly, float32 on the CPU."""
    return TrainParams(
        init_from=None,
        freeze_weights=False,
        epochs=8,
        global_batch_size=4,
        micro_batch_size=None,
        compile=False,
        lr=3e-3,
        lr_min_ratio=1.0,
        lr_warmup_steps=0,
        optimizer=OptimizerParams(
            network=AdamAtan2Params(name="adam_atan2", beta1=0.9, beta2=0.95, weight_decay=0.1, fused=False),
            puzzle_emb=SignSgdParams(name="sign_sgd", lr=1e-2, weight_decay=0.1),
        ),
        ema_rate=0.9,
        loss="stablemax",
        label_smoothing=0.0,
        halt_loss_weight=0.5,
        max_grad_norm=None,
        depth_schedule=(),
        eval_interval=2,
        log_interval=3,
        checkpoint_interval=5,
        max_seconds=None,
        max_stall_seconds=None,
        precision="float32",
        device="cpu",
        seed=0,
    )


SOLUTION = "1234341221434321"


@pytest.fixture(scope="session")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raw folder of 24 training and 6 test Sudoku 4x4: transforms of one grid with a few clues removed."""
    folder = tmp_path_factory.mktemp("raw")
    rng = np.random.default_rng(0)
    solution = np.array([int(digit) for digit in SOLUTION], dtype=np.uint8).reshape(4, 4)
    answers = draw_transforms(rng, 4, 30).apply(solution)
    questions = np.where(rng.random(answers.shape) < 0.3, 0, answers).astype(np.uint8)
    for name, part in {"train": slice(24), "test": slice(24, 30)}.items():
        count = len(answers[part])
        write(folder / f"{name}.csv", of_digits(questions[part], answers[part], "made", np.arange(count)), 4)
    return folder


@pytest.fixture(scope="session")
def dataset(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The augmented dataset of `raw`: 20 training groups of 4 puzzles, 4 validation groups, 6 test puzzles."""
    out = tmp_path_factory.mktemp("dataset")
    data = sudoku(4, allow_leakage=True)
    augment(data, AugmentParams(num_aug=3, validation_groups=4, seed=0), raw, out, "key")
    return out


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the params and the outputs of a tiny experiment, for all processes. Tests must not change it."""
    from tests.params import TINY, params_text

    mine = tmp_path_factory.getbasetemp()
    folder = (mine.parent if "PYTEST_XDIST_WORKER" in os.environ else mine) / "finished"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            making = folder.with_name("making")
            making.mkdir()
            (making / "params.yaml").write_text(params_text(TINY))
            environment = {**os.environ, "TRM_STATE_DIR": str(making / "states"), "PYTHONPATH": str(ROOT)}
            for stage in REQUIRED_STAGES:
                command = [python(), "-m", "trm", stage.name]
                subprocess.run(command, cwd=making, env=environment, check=True, capture_output=True)
            making.rename(folder)
    return folder


@pytest.fixture(autouse=True)
def _own_signals() -> Iterator[None]:
    """Restore the signal handlers, which commands in the test process do not restore."""
    handlers = {number: signal.getsignal(number) for number in handled_signals()}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRM_STATE_DIR", str(tmp_path / "states"))
    monkeypatch.setenv("TRM_CACHE_DIR", str(tmp_path / "cache"))
