"""Registry of champions in an S3 server: promotion, rollback, concurrency and failures."""

import json
import secrets
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.local.s3_server import BUCKET, SeaweedFS
from pipeline.results import Result, load_result
from pipeline.retraining.registry import CHAMPION_FILE, PromotionRejected, Registry
from tests.pipeline.published_results import publish_result, record, workspace  # noqa: F401 - a fixture
from tests.seaweed import objects, speak_to
from trm.storage import s3_client
from trm.utils.errors import DataError, InternalError, UserError

pytestmark = pytest.mark.usefixtures("workspace")


@pytest.fixture(scope="module")
def published(seaweed: SeaweedFS, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    """Results of increasing quality."""
    root, solved = f"s3://{BUCKET}/{secrets.token_hex(8)}", {"poor": 0, "fair": 10, "good": 20, "best": 30}
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        speak_to(seaweed, patch)
        for number, (name, count) in enumerate(solved.items()):
            outcomes = [True] * count + [False] * (30 - count)
            key = publish_result(root, tmp_path_factory.mktemp(name), outcomes, lr=1.0 + number)
            found[name] = load_result(root, key)
    return found


@pytest.fixture
def results(published: dict[str, Result], root: str, workspace: Path) -> dict[str, Result]:  # noqa: F811
    """The results, recorded in runs.tsv."""
    for name, result in published.items():
        record(result.key, dvc_lock=name)
    return published


@pytest.fixture
def registry(results: dict[str, Result]) -> Registry:
    """An empty registry."""
    return Registry(results["poor"].artifact_root, secrets.token_hex(8))


def all_objects(server: SeaweedFS, registry: Registry) -> dict[str, bytes]:
    """Return name -> bytes of all objects of the registry."""
    client = server.client()
    names = objects(server, registry.uri)
    prefix = registry.uri.removeprefix(f"s3://{BUCKET}/")
    return {name: client.get_object(Bucket=BUCKET, Key=f"{prefix}/{name}")["Body"].read() for name in names}


def put(server: SeaweedFS, registry: Registry, name: str, data: bytes) -> None:
    key = f"{registry.uri.removeprefix(f's3://{BUCKET}/')}/{name}"
    server.client().put_object(Bucket=BUCKET, Key=key, Body=data)


def test_better_result_is_promoted_with_provenance(registry: Registry, results: dict[str, Result]) -> None:
    assert registry.champion() is None
    first, comparison, new = registry.promote(results["fair"])
    assert (first.version, first.previous_version, comparison, new) == (1, None, None, True)
    second, comparison, _ = registry.promote(results["good"])
    assert comparison is not None
    assert comparison.verdict == "better"
    assert registry.champion() == second
    assert second.key == results["good"].key
    assert second.keys == results["good"].keys
    assert second.metrics["exact_accuracy"] == 0.5
    assert (second.commit, second.run, second.image, second.dvc_lock) == ("c" * 40, "run-1", "i@sha256:1", "good")
    assert second.comparison is not None
    assert second.comparison["p"] == pytest.approx(2 / 2**10)
    again, comparison, new = registry.promote(results["good"])
    assert (again, comparison, new) == (second, None, False)
    assert registry.history() == [first, second]


def test_result_that_is_not_better_is_rejected(
    registry: Registry, results: dict[str, Result], seaweed: SeaweedFS
) -> None:
    registry.promote(results["good"])
    before = all_objects(seaweed, registry)
    with pytest.raises(PromotionRejected) as refused:
        registry.promote(results["fair"])
    assert refused.value.comparison.verdict == "worse"
    assert all_objects(seaweed, registry) == before
    overruled, comparison, _ = registry.promote(results["fair"], force=True)
    assert (registry.champion(), comparison) == (overruled, None)


def test_rollbacks_step_back_and_delete_nothing(
    registry: Registry, results: dict[str, Result], seaweed: SeaweedFS
) -> None:
    for name in ("poor", "fair", "good"):
        registry.promote(results[name])
    kept = all_objects(seaweed, registry)
    back = registry.rollback()
    assert (back.version, back.restored_version, back.key) == (4, 2, results["fair"].key)
    further = registry.rollback()
    assert (further.version, further.restored_version, further.key) == (5, 1, results["poor"].key)
    with pytest.raises(UserError, match="the champion has no previous version"):
        registry.rollback()
    # A promotion after a rollback can be rolled back too.
    registry.promote(results["best"])
    assert registry.rollback().key == results["poor"].key
    now = all_objects(seaweed, registry)
    assert {name: data for name, data in kept.items() if name != CHAMPION_FILE}.items() <= now.items()
    with pytest.raises(UserError, match="no version 99; existing versions: 1, 2, 3, 4, 5, 6, 7"):
        registry.rollback(99)
    assert all_objects(seaweed, registry) == now


def test_uncollected_result_cannot_be_promoted(registry: Registry, root: str, tmp_path: Path) -> None:
    result = load_result(root, publish_result(root, tmp_path, [True] * 30, lr=9.0))
    with pytest.raises(UserError, match=r"is not in runs\.tsv"):
        registry.promote(result)
    assert registry.champion() is None


@pytest.mark.slow
def test_of_two_concurrent_promotions_one_succeeds(
    registry: Registry, results: dict[str, Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred times, both have read the same champion and compared before either writes."""
    rounds = 100
    both = threading.Barrier(2)

    def draw_together(size: int) -> str:
        both.wait()
        return secrets.token_hex(size)

    # The token of a promotion is drawn before its first write.
    monkeypatch.setattr("pipeline.retraining.registry.secrets", SimpleNamespace(token_hex=draw_together))
    monkeypatch.setattr("pipeline.retraining.registry.compare", lambda *_: _Better())
    monkeypatch.setattr("pipeline.retraining.registry.load_result", lambda *_: None)

    def promote(name: str) -> str:
        try:
            return registry.promote(results[name])[0].token
        except InternalError as error:
            assert "the champion was changed during the comparison" in str(error)
            return ""

    tokens = []
    with ThreadPoolExecutor(2) as pool:
        for number in range(rounds):
            pair = ("fair", "good") if number % 2 else ("poor", "best")
            won = [token for token in pool.map(promote, pair) if token]
            assert len(won) == 1
            champion = registry.champion()
            assert champion is not None
            assert champion.token == won[0]
            tokens += won
    assert [champion.token for champion in registry.history()] == tokens


class _Better:
    verdict = "better"

    def as_json(self) -> dict[str, object]:
        return {}


def test_repeated_write_after_a_lost_response_succeeds(
    registry: Registry, results: dict[str, Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.promote(results["poor"])
    real = s3_client.Store.put_if_match

    def twice(self: s3_client.Store, name: str, data: bytes, tag: str) -> None:
        real(self, name, data, tag)
        real(self, name, data, tag)  # the client repeats the request, as the first response was lost

    monkeypatch.setattr(s3_client.Store, "put_if_match", twice)
    new, _, _ = registry.promote(results["good"])
    assert registry.champion() == new
    assert [champion.version for champion in registry.history()] == [1, 2]


def test_promotion_completes_an_interrupted_history(
    registry: Registry, results: dict[str, Result], seaweed: SeaweedFS
) -> None:
    registry.promote(results["poor"])
    second, _, _ = registry.promote(results["fair"])
    key = f"{registry.uri.removeprefix(f's3://{BUCKET}/')}/history/000002.json"
    seaweed.client().delete_object(Bucket=BUCKET, Key=key)
    third, _, _ = registry.promote(results["good"])
    assert third.version == 3
    assert registry.history()[1] == second


@pytest.mark.parametrize("broken", [b"", b"{", b"[]", b"{}", b'{"version": NaN}', b"\xff\xfe"])
def test_corrupt_champion_is_not_overwritten(
    registry: Registry, results: dict[str, Result], seaweed: SeaweedFS, broken: bytes
) -> None:
    registry.promote(results["poor"])
    registry.promote(results["fair"])
    put(seaweed, registry, CHAMPION_FILE, broken)
    before = all_objects(seaweed, registry)
    for attempt in (lambda: registry.promote(results["good"]), registry.champion, registry.rollback):
        with pytest.raises(DataError, match=r"not written by `promote`; `python -m pipeline rollback --to 2`"):
            attempt()
    assert all_objects(seaweed, registry) == before
    restored = registry.rollback(2)
    assert (restored.version, registry.champion(), restored.key) == (3, restored, results["fair"].key)


def test_missing_champion_file_is_reported(registry: Registry, results: dict[str, Result], seaweed: SeaweedFS) -> None:
    registry.promote(results["good"])
    seaweed.client().delete_object(Bucket=BUCKET, Key=f"{registry.uri.removeprefix(f's3://{BUCKET}/')}/{CHAMPION_FILE}")
    with pytest.raises(DataError, match="missing, but the history has 1 champions; .* rollback --to 1"):
        registry.promote(results["poor"])
    assert CHAMPION_FILE not in all_objects(seaweed, registry)
    assert registry.rollback(1).key == results["good"].key


@pytest.mark.parametrize("value", ["NaN", "Infinity"])
def test_non_finite_metric_is_rejected(
    registry: Registry, results: dict[str, Result], root: str, tmp_path: Path, seaweed: SeaweedFS, value: str
) -> None:
    registry.promote(results["poor"])
    before = all_objects(seaweed, registry)
    key = publish_result(root, tmp_path, [True] * 30, metrics=f'{{"exact_accuracy": {value}}}', lr=5.0)
    with pytest.raises(
        DataError, match="exact_accuracy is (nan|inf); results with such metrics are neither compared nor promoted"
    ):
        load_result(root, key)
    assert all_objects(seaweed, registry) == before


def test_unavailable_s3_changes_nothing(
    own_seaweed: SeaweedFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_client, "RETRY_SECONDS", 0.5)
    speak_to(own_seaweed, monkeypatch)
    root = f"s3://{BUCKET}/down"
    keys = [publish_result(root, tmp_path, [n > 0] * 30, lr=1.0 + n) for n in range(2)]
    for key in keys:
        record(key)
    results = [load_result(root, key) for key in keys]
    registry = Registry(root, results[0].dataset)
    registry.promote(results[0])
    before = all_objects(own_seaweed, registry)
    own_seaweed.kill()
    with pytest.raises(InternalError, match="cannot be reached"):
        registry.promote(results[1])
    own_seaweed.start()
    assert all_objects(own_seaweed, registry) == before
    assert json.loads(before[CHAMPION_FILE])["key"] == keys[0]
    assert registry.promote(results[1])[0].key == keys[1]
