"""`trm export --web`: a static folder that solves puzzles in the browser, with no server behind it."""

import base64
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

from filelock import FileLock

from trm.config.dataset_meta import DatasetMeta
from trm.datasets.drawings import get_drawing
from trm.datasets.generators import get_generator
from trm.exporting.onnx_model import solve_model, start_model, step_model
from trm.exporting.puzzles import first_puzzles, page_facts
from trm.inference.puzzle import get_solvable_dataset
from trm.storage.artifact_cache import local_copy
from trm.storage.artifacts import staged, write_manifest
from trm.training.checkpoint import checkpoint_file, load_checkpoint
from trm.utils.errors import InternalError, UserError
from trm.utils.paths import cache_folder, file_digest

RUNTIME = "onnxruntime-web"
VERSION = "1.30.0"
INTEGRITY = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""SHA-512 of the package, as the npm registry states it."""
RUNTIME_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
"""The plain WebAssembly build; the others are two to four times larger."""
PAGE_FILES = ("index.html", "page.css", "page.js", "grid.js")
EXAMPLES, GENERATED = 50, 10
"""Examples from a dataset, and examples that are generated without one."""


def export_web(location: str, dataset: Path | None, out: Path, runtime: Path | None) -> int:
    """Write the page, the model and the runtime to the folder `out`; return the number of bytes.

    dataset: output of stage augment, whose first test puzzles are examples; None: generated puzzles. runtime: the file
    of the npm package; None: `npm pack` fetches it, once. Raises `UserError` for a dataset whose answers have another
    shape than the question, and without npm; `InternalError` if the package cannot be fetched.
    """
    folder = local_copy(location)
    model, meta = load_checkpoint(folder)
    content = _puzzles(meta, dataset)
    files = _runtime_files(runtime or _fetch())
    with staged(out) as target:
        proto = solve_model(model, start_model(model), step_model(model))
        (target / "model.onnx").write_bytes(proto.SerializeToString(deterministic=True))
        (target / "puzzles.json").write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")
        for name in PAGE_FILES:
            shutil.copyfile(Path(__file__).with_name("page") / name, target / name)
        for name, data in files.items():
            (target / name).write_bytes(data)
        write_manifest(target, {"stage": "export", "facts": {"sha256": file_digest(checkpoint_file(folder))}})
    return sum(path.stat().st_size for path in out.iterdir())


def _puzzles(meta: DatasetMeta, dataset: Path | None) -> dict[str, Any]:
    """What the page knows about the puzzles. Cells are tokens minus `first`."""
    get_solvable_dataset(meta)
    drawing, first = get_drawing(meta), meta.first_cell_token
    if drawing.separate_question or first != 1:
        raise UserError(
            f"trm export --web: the answers of dataset {meta.name} may have another shape than the puzzle, which the "
            "page does not draw; use the ONNX files of `trm export`, or `trm serve`"
        )
    examples: list[list[int]] = []
    if dataset is not None:
        inputs, _ = first_puzzles(meta, dataset, EXAMPLES)
        examples = [[int(token) - first for token in row] for row in inputs if (row >= first).all()]
    elif generate := get_generator(meta):
        examples = [generate(meta, seed).ravel().tolist() for seed in range(GENERATED)]
    return page_facts(meta) | {"first": first, "examples": examples}


def _fetch() -> Path:
    """The package in the cache, fetched by npm unless it is there."""
    folder = cache_folder() / "npm"
    folder.mkdir(parents=True, exist_ok=True)
    package = folder / f"{RUNTIME}-{VERSION}.tgz"
    remedy = f"give the file {package.name} of the npm registry with --runtime"
    with FileLock(folder / "lock"):
        if package.is_file():
            return package
        npm = shutil.which("npm")
        if npm is None:
            raise UserError(f"trm export --web requires npm, which fetches {RUNTIME}; install Node.js, or {remedy}")
        command = [npm, "pack", f"{RUNTIME}@{VERSION}", "--ignore-scripts", "--silent"]
        ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if ended.returncode or not package.is_file():
            reason = " ".join(ended.stderr.split())[:300] or f"exit code {ended.returncode}"
            raise InternalError(f"npm cannot fetch {RUNTIME} {VERSION} ({reason}); {remedy}")
    return package


def _runtime_files(package: Path) -> dict[str, bytes]:
    """Name and content of the files of the runtime. Raises `UserError` for another package."""
    try:
        data = package.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{package}: no such file; correct --runtime") from None
    if base64.b64encode(hashlib.sha512(data).digest()).decode() != INTEGRITY:
        raise UserError(f"{package}: is not {RUNTIME} {VERSION}; delete it, and run the command again")
    files = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for name in RUNTIME_FILES:
            member = archive.extractfile(f"package/dist/{name}")
            assert member is not None  # the digest has been checked
            files[name] = member.read()
    return files
