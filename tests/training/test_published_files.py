"""Forms of published checkpoint files, and files that are none."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML
from safetensors.torch import save_file
from torch import Tensor

from trm.config.dataset_meta import DatasetMeta
from trm.config.model import ModelParams
from trm.models.act import TRM, build_model
from trm.models.conversion import arch_of, export_published
from trm.training.checkpoint import FILE, load_checkpoint, save_checkpoint
from trm.training.ema import ema_copy
from trm.training.import_export import export_checkpoint, import_checkpoint
from trm.utils.errors import DataError

Tensors = dict[str, Tensor]


def prefixed(tensors: Tensors, prefix: str) -> Tensors:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def zeros(tensors: Tensors) -> Tensors:
    return {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}


FORMS: dict[str, Callable[[Tensors], Any]] = {
    "plain": lambda tensors: tensors,
    "compiled": lambda tensors: prefixed(tensors, "_orig_mod.model."),
    "model": lambda tensors: {"model": tensors, "optimizer": {"state": {}, "lr": 1e-4}, "step": 7},
    "state_dict": lambda tensors: {"state_dict": prefixed(tensors, "module.")},
    "model_state_dict": lambda tensors: {"epoch": 3, "model_state_dict": prefixed(tensors, "module._orig_mod.")},
    "ema": lambda tensors: {"ema": prefixed(tensors, "module.")},
    "ema is preferred": lambda tensors: {"model": zeros(tensors), "ema": tensors},
    "shadow": lambda tensors: {"model": zeros(tensors), "ema": {"decay": 0.999, "shadow": tensors}},
    "broken ema": lambda tensors: {"model": tensors, "ema": None},
    "lightning": lambda tensors: {
        "epoch": 2,
        "global_step": 10,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": prefixed(tensors, "model."),
        "optimizer_states": [{"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": []}],
        "callbacks": {},
        "hyper_parameters": {"lr": 1e-4},
    },
    "lightning net": lambda tensors: {"state_dict": prefixed(tensors, "net._orig_mod.")},
}


@pytest.fixture
def model(model_params: ModelParams, meta: DatasetMeta) -> TRM:
    return build_model(model_params, meta, seed=5)


def published(folder: Path, model: TRM, name: str) -> Path:
    YAML().dump({"arch": arch_of(model)}, folder / "all_config.yaml")
    return folder / name


@pytest.mark.parametrize("form", FORMS)
def test_import(model: TRM, tmp_path: Path, form: str) -> None:
    file = published(tmp_path, model, "last.ckpt")
    torch.save(FORMS[form](export_published(model)), file)
    import_checkpoint(file, None, tmp_path / "imported")
    loaded, _ = load_checkpoint(tmp_path / "imported")
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_import_of_safetensors(model: TRM, tmp_path: Path) -> None:
    file = published(tmp_path, model, "model.safetensors")
    save_file(prefixed(export_published(model), "model."), file)
    import_checkpoint(file, None, tmp_path / "imported")
    loaded, _ = load_checkpoint(tmp_path / "imported")
    assert torch.equal(loaded.output_head.weight, model.output_head.weight)


def test_invalid_files(model: TRM, tmp_path: Path) -> None:
    file, tensors = published(tmp_path, model, "last.ckpt"), export_published(model)
    torch.save({"state_dict": prefixed(tensors, "model.") | prefixed(tensors, "ema_model.")}, file)
    with pytest.raises(DataError, match=r"contains the weights twice, as model\.\S+ and ema_model\.\S+; save only one"):
        import_checkpoint(file, None, tmp_path / "imported")
    torch.save({"optimizer": {}, "model": {"epoch": 1}}, file)
    with pytest.raises(DataError, match=r"not a state dict of tensors, nor one under ema, .* net; give a file"):
        import_checkpoint(file, None, tmp_path / "imported")
    torch.save({"state_dict": tensors, "arguments": Path("a")}, file)
    with pytest.raises(DataError, match=r"it contains Python objects, which are never loaded: save only its tensors"):
        import_checkpoint(file, None, tmp_path / "imported")
    for content, words in (
        (gzip.compress(b"1"), "is gzip-compressed, not a PyTorch or safetensors file; decompress it"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer, .*git lfs pull"),
        (b"<!doctype html>", "is an HTML or XML page, .*"),
    ):
        file.write_bytes(content)
        with pytest.raises(DataError, match=words):
            import_checkpoint(file, None, tmp_path / "imported")
        with pytest.raises(DataError, match=words.partition(",")[0]):
            load_checkpoint(file)
    file.write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(DataError, match=r"not a PyTorch state dict .*; download it again") as caught:
        import_checkpoint(file, None, tmp_path / "imported")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize("name", ["a.pt", "a.pth", "a.ckpt", "a.safetensors", "legacy.bin"])
def test_loading_names_the_import(model: TRM, tmp_path: Path, name: str) -> None:
    file, tensors = tmp_path / name, export_published(model)
    if name == "a.safetensors":
        save_file(tensors, file)
    else:
        torch.save({"state_dict": tensors}, file, _use_new_zipfile_serialization=name != "legacy.bin")
    with pytest.raises(
        DataError, match=rf"^{file}: is a .* of another program; convert it with `trm checkpoint import"
    ):
        load_checkpoint(file)


def test_loading_a_published_folder_names_the_import(model: TRM, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / FILE, model, ema_copy(model), {})
    export_checkpoint(tmp_path, tmp_path / "published")
    with pytest.raises(DataError, match=r"published holds a published checkpoint: convert it with `trm checkpoint imp"):
        load_checkpoint(tmp_path / "published")


def test_a_damaged_checkpoint_is_not_of_another_program(model: TRM, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / FILE, model, ema_copy(model), {})
    (tmp_path / FILE).write_bytes((tmp_path / FILE).read_bytes()[:-10])
    with pytest.raises(DataError, match=r"not a checkpoint of this project, or damaged"):
        load_checkpoint(tmp_path)
