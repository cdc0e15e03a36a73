"""Addresses of artifacts, and params that arrive as JSON, as containers get them."""

import json
from pathlib import Path

import pytest

from tests.conftest import ROOT
from trm.config.cluster import ClusterParams
from trm.stages.params import load_params, load_sections
from trm.storage.artifact_cache import folder_of, local_copy, output_uri, parse_artifact_uri
from trm.utils.errors import ParamsError, UserError

KEY, OTHER = "a" * 64, "b" * 64
EVALUATE = load_params(ROOT / "params.yaml").evaluate.model_dump_json()
URI = f"s3://bucket/some/root/train/{KEY}"


@pytest.mark.parametrize("tail", ["", "/"])
def test_an_artifact_has_one_address(tail: str) -> None:
    assert parse_artifact_uri(URI + tail) == URI
    assert output_uri(URI + tail, "train", KEY) == URI


@pytest.mark.parametrize(
    "wrong",
    ["s3://bucket", "s3://bucket/root", URI[:-1], f"{URI}/checkpoint.safetensors", f"s3://bucket/{KEY}", "s3:///x"],
)
def test_what_is_no_artifact(wrong: str) -> None:
    with pytest.raises(UserError, match="not the URI of an artifact; give s3://<root>/<stage>/<key>"):
        parse_artifact_uri(wrong)


def test_an_output_goes_below_the_root() -> None:
    assert output_uri("s3://bucket", "train", KEY) == f"s3://bucket/train/{KEY}"
    assert output_uri("s3://bucket/some/root/", "train", KEY) == URI


@pytest.mark.parametrize(("stage", "key"), [("train", OTHER), ("augment", KEY)])
def test_an_address_made_for_another_request_is_refused(stage: str, key: str) -> None:
    with pytest.raises(UserError, match=f"this request has the key {stage}/{key}.*build and push the image again"):
        output_uri(URI, stage, key)


def test_the_folder_here_depends_on_stage_and_key_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRM_CACHE_DIR", str(tmp_path))
    assert folder_of(URI) == tmp_path / "artifacts" / "train" / KEY
    assert local_copy(tmp_path / "x") == tmp_path / "x"
    assert local_copy("outputs/model") == Path("outputs/model")


def test_sections_from_a_file_and_from_json_are_alike() -> None:
    params = load_params(ROOT / "params.yaml")
    text = json.dumps({"data": params.data.model_dump(mode="json"), "augment": params.augment.model_dump(mode="json")})
    wanted = {"data": params.data, "augment": params.augment}
    assert load_sections(text, ("data", "augment")) == wanted
    assert load_sections(str(ROOT / "params.yaml"), ("data", "augment")) == wanted


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "--params: not valid JSON"),
        ("{}", "--params: evaluate is missing"),
        ('{"evaluate": {"max_steps": 0}}', "--params: evaluate.max_steps must be"),
        ('{"evaluate": 1}', "--params: evaluate must be"),
        ('{"evaluate": {}, "train": {}}', "--params: evaluate.max_steps is missing"),
        (f'{{"evaluate": {EVALUATE}, "train": {{}}}}', "--params: train is not a setting; remove it"),
    ],
)
def test_json_with_a_mistake(text: str, said: str) -> None:
    with pytest.raises(ParamsError) as error:
        load_sections(text, ("evaluate",))
    assert said in str(error.value)


def test_json_of_an_unknown_kind() -> None:
    with pytest.raises(ParamsError, match=r"--params: data.name must be one of arc, arithmetic.* Got 'chess'"):
        load_sections('{"data": {"name": "chess"}}', ("data",))


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("kfp_host: localhost:8080", "cluster.kfp_host must be"),
        ("artifact_root: /tmp/x", "cluster.artifact_root must be"),
        ("artifact_root: s3://bucket/", "cluster.artifact_root must be"),
        ("imgae: x", "cluster.imgae is not a setting; did you mean image?"),
        ("resources: {train: {gpus: -1}}", "cluster.resources.train.gpus must be"),
        ("resources: {train: {memory: 4 GB}}", "cluster.resources.train.memory must be"),
        (
            "resources: {train: {tolerations: [{effect: NoSchedule}]}}",
            "cluster.resources.train.tolerations.0.key is missing",
        ),
    ],
)
def test_mistakes_in_the_cluster_section(tmp_path: Path, section: str, said: str) -> None:
    text = (ROOT / "recipes/sudoku-6x6.yaml").read_text()
    (tmp_path / "params.yaml").write_text(f"{text}\ncluster:\n  {section}\n")
    with pytest.raises(ParamsError) as error:
        load_params(tmp_path / "params.yaml")
    assert said in str(error.value)


def test_recipes_need_no_cluster_section() -> None:
    assert load_params(ROOT / "recipes/sudoku-6x6.yaml").cluster == ClusterParams()
