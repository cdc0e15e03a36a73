from pathlib import Path

import pytest
import torch
from ruamel.yaml import YAML

from tests.models.test_conversion import ARCH
from trm import export_published, load_checkpoint
from trm.config.dataset_meta import DatasetMeta
from trm.config.model import ModelParams
from trm.inference.puzzle_input import parse_puzzles
from trm.inference.solve import solve
from trm.models.act import build_model
from trm.storage.artifacts import MANIFEST
from trm.training.checkpoint import FILE, read_settings, save_checkpoint, write_tensors
from trm.training.ema import ema_copy, update_ema
from trm.training.import_export import import_checkpoint
from trm.utils.errors import DataError, ParamsError, UserError


def test_raw_and_ema_weights(model_params: ModelParams, meta: DatasetMeta, tmp_path: Path) -> None:
    params = model_params.model_copy(update={"puzzle_emb_ndim": 16, "puzzle_emb_len": 1})
    model = build_model(params, meta)
    average = ema_copy(model)
    with torch.no_grad():
        model.token_embedding.add_(1)
        model.puzzle_table.add_(3)
    update_ema(average, model, 0.5)
    save_checkpoint(tmp_path / FILE, model, average, {"step": 12})
    for weights, expected in (("raw", model), ("ema", average)):
        loaded, loaded_meta = load_checkpoint(tmp_path, weights=weights)  # pyright: ignore[reportArgumentType]
        assert loaded_meta == meta
        assert loaded.config == params
        assert not loaded.training
        assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in expected.state_dict().items())
    assert read_settings(tmp_path).facts == {"step": 12}


def test_same_contents_same_bytes(model_params: ModelParams, meta: DatasetMeta, tmp_path: Path) -> None:
    for name in ("a", "b"):
        model = build_model(model_params, meta)
        save_checkpoint(tmp_path / name, model, ema_copy(model), {"b": 1, "a": 2})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_errors_of_the_operating_system_name_the_file(
    model_params: ModelParams, meta: DatasetMeta, tmp_path: Path
) -> None:
    """safetensors reports them with an exception and a message of its own."""
    model = build_model(model_params, meta)
    path = tmp_path / "missing" / "checkpoint.safetensors"
    with pytest.raises(FileNotFoundError) as error:
        save_checkpoint(path, model, ema_copy(model), {})
    assert error.value.filename == str(path)


def test_mismatched_tensors_and_settings(model_params: ModelParams, meta: DatasetMeta, tmp_path: Path) -> None:
    model = build_model(model_params, meta)
    header = {"model": model_params.model_dump(mode="json"), "meta": meta.model_dump(mode="json"), "facts": {}}
    write_tensors(tmp_path / FILE, {"y_init": model.get_buffer("y_init")}, header)
    with pytest.raises(DataError, match="damaged checkpoint"):
        load_checkpoint(tmp_path)
    tensors = {f"ema.{name}": value for name, value in model.named_parameters()}
    tensors |= dict(model.named_buffers()) | {"y_init": torch.zeros(3)}
    write_tensors(tmp_path / FILE, tensors, header)
    with pytest.raises(DataError, match=r"y_init should have shape \(16,\). Got \(3,\)"):
        load_checkpoint(tmp_path)
    write_tensors(tmp_path / FILE, tensors, {**header, "model": {"hidden_size": 16}})
    with pytest.raises(DataError, match="its settings do not match this version"):
        load_checkpoint(tmp_path)


def test_import_of_published_checkpoint(model_params: ModelParams, meta: DatasetMeta, tmp_path: Path) -> None:
    changes = {
        "mlp_t": False,
        "pos_encodings": "rope",
        "puzzle_emb_ndim": 20,
        "puzzle_emb_len": 2,
        "halt_max_steps": 16,
    }
    model = build_model(model_params.model_copy(update=changes), meta.model_copy(update={"num_identifiers": 3}), seed=5)
    (tmp_path / "published").mkdir()
    file, out = tmp_path / "published/step_100", tmp_path / "imported"
    torch.save({f"_orig_mod.model.{key}": value for key, value in export_published(model).items()}, file)
    YAML().dump({"arch": ARCH}, tmp_path / "published/all_config.yaml")
    import_checkpoint(file, None, out)
    loaded, loaded_meta = load_checkpoint(out)
    assert loaded_meta.name == "sudoku"
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
    assert (out / MANIFEST).exists()
    YAML().dump({"arch": ARCH | {"hidden_size": 15}}, tmp_path / "published/all_config.yaml")
    with pytest.raises(ParamsError, match="arch: hidden_size must be a multiple"):
        import_checkpoint(file, None, tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("vocabulary", "L", "kind"), [("p# SGo", 36, "maze"), ("pe0123456789", 900, "arc"), ("pabcd", 36, "tokens")]
)
def test_solving_with_imported_models(
    model_params: ModelParams, tmp_path: Path, vocabulary: str, L: int, kind: str
) -> None:
    """Imported without a dataset: mazes are solved; ARC tasks and unknown datasets raise an error."""
    params = model_params.model_copy(update={"mlp_t": False, "pos_encodings": "rope"})
    flat = DatasetMeta(name="any", height=1, width=L, vocabulary=tuple(vocabulary), num_identifiers=1)
    file = tmp_path / "step_100"
    torch.save(export_published(build_model(params, flat, seed=5)), file)
    sizes = {"seq_len": L, "vocab_size": len(vocabulary), "num_puzzle_identifiers": 1, "puzzle_emb_ndim": 0}
    YAML().dump({"arch": ARCH | sizes}, tmp_path / "all_config.yaml")
    import_checkpoint(file, None, tmp_path / "imported")
    model, meta = load_checkpoint(tmp_path / "imported")
    assert meta.name == kind
    if kind == "maze":
        (question,) = parse_puzzles("S" + "." * 34 + "G", meta)
        assert solve(model, meta, [question], max_steps=1)[0].grid.shape == (6, 6)
        return
    message = {
        "arc": "ARC tasks cannot be solved outside the dataset",
        "tokens": "the dataset of this model is unknown .*--dataset",
    }[kind]
    for call in (lambda: parse_puzzles("000", meta), lambda: solve(model, meta, [[[77]]], max_steps=1)):
        with pytest.raises(UserError, match=f"^{message}"):
            call()
