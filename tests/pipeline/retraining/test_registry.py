"""The champion in a real S3: promoted by conditional writes, never touched by a fault."""

import json
import secrets
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.local.s3_server import BUCKET, SeaweedFS
from pipeline.results import Result, load_result
from pipeline.retraining.registry import NAME, Refused, Throne
from tests.pipeline.published_results import publish_result, record, workspace  # noqa: F401 - a fixture
from tests.seaweed import objects, speak_to
from trm import s3_client
from trm.errors import DataError, Fault, UserError

pytestmark = pytest.mark.usefixtures("workspace")


@pytest.fixture(scope="module")
def published(seaweed: SeaweedFS, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    """Results of which each later one is far better."""
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
    """All collected here."""
    for name, result in published.items():
        record(result.key, dvc_lock=name)
    return published


@pytest.fixture
def throne(results: dict[str, Result]) -> Throne:
    """A place of its own for each test."""
    return Throne(results["poor"].root, secrets.token_hex(8))


def everything(server: SeaweedFS, throne: Throne) -> dict[str, bytes]:
    """Every object of the throne, with its bytes."""
    client = server.client()
    names = objects(server, throne.uri)
    prefix = throne.uri.removeprefix(f"s3://{BUCKET}/")
    return {name: client.get_object(Bucket=BUCKET, Key=f"{prefix}/{name}")["Body"].read() for name in names}


def put(server: SeaweedFS, throne: Throne, name: str, data: bytes) -> None:
    key = f"{throne.uri.removeprefix(f's3://{BUCKET}/')}/{name}"
    server.client().put_object(Bucket=BUCKET, Key=key, Body=data)


def test_the_better_one_is_promoted_and_its_whole_lineage_kept(throne: Throne, results: dict[str, Result]) -> None:
    assert throne.champion() is None
    first, comparison, new = throne.promote(results["fair"])
    assert (first.version, first.before, comparison, new) == (1, None, None, True)
    second, comparison, _ = throne.promote(results["good"])
    assert comparison is not None
    assert comparison.verdict == "better"
    assert throne.champion() == second
    assert second.key == results["good"].key
    assert second.keys == results["good"].keys
    assert second.metrics["exact_accuracy"] == 0.5
    assert (second.commit, second.run, second.image, second.dvc_lock) == ("c" * 40, "run-1", "i@sha256:1", "good")
    assert second.comparison is not None
    assert second.comparison["p"] == pytest.approx(2 / 2**10)
    again, comparison, new = throne.promote(results["good"])
    assert (again, comparison, new) == (second, None, False)
    assert throne.history() == [first, second]


def test_what_is_not_better_is_refused(throne: Throne, results: dict[str, Result], seaweed: SeaweedFS) -> None:
    throne.promote(results["good"])
    before = everything(seaweed, throne)
    with pytest.raises(Refused) as refused:
        throne.promote(results["fair"])
    assert refused.value.comparison.verdict == "worse"
    assert everything(seaweed, throne) == before
    overruled, comparison, _ = throne.promote(results["fair"], anyway=True)
    assert (throne.champion(), comparison) == (overruled, None)


def test_rollbacks_go_back_step_by_step_and_delete_nothing(
    throne: Throne, results: dict[str, Result], seaweed: SeaweedFS
) -> None:
    for name in ("poor", "fair", "good"):
        throne.promote(results[name])
    kept = everything(seaweed, throne)
    back = throne.rollback()
    assert (back.version, back.restored, back.key) == (4, 2, results["fair"].key)
    further = throne.rollback()
    assert (further.version, further.restored, further.key) == (5, 1, results["poor"].key)
    with pytest.raises(UserError, match="there was no champion before this one"):
        throne.rollback()
    # After a rollback the way goes on from there, and back to there.
    throne.promote(results["best"])
    assert throne.rollback().key == results["poor"].key
    now = everything(seaweed, throne)
    assert {name: data for name, data in kept.items() if name != NAME}.items() <= now.items()
    with pytest.raises(UserError, match="has no version 99; there are: 1, 2, 3, 4, 5, 6, 7"):
        throne.rollback(99)
    assert everything(seaweed, throne) == now


def test_a_result_nobody_collected_has_no_lineage(throne: Throne, root: str, tmp_path: Path) -> None:
    result = load_result(root, publish_result(root, tmp_path, [True] * 30, lr=9.0))
    with pytest.raises(UserError, match=r"is not in runs\.tsv"):
        throne.promote(result)
    assert throne.champion() is None


@pytest.mark.slow
def test_of_two_promotions_at_once_one_wins_a_hundred_times(
    throne: Throne, results: dict[str, Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have read the same champion, and compared, before either writes."""
    rounds = 100
    both = threading.Barrier(2)
    real = Throne._replace

    def together(self: Throne, *arguments: object) -> None:
        both.wait()
        real(self, *arguments)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(Throne, "_replace", together)
    monkeypatch.setattr("pipeline.retraining.registry.compare", lambda *_: _Better())
    monkeypatch.setattr("pipeline.retraining.registry.load_result", lambda *_: None)

    def promote(name: str) -> str:
        try:
            return throne.promote(results[name])[0].token
        except Fault as error:
            assert "changed while this one was compared; nothing was written" in str(error)
            return ""

    tokens = []
    with ThreadPoolExecutor(2) as pool:
        for number in range(rounds):
            pair = ("fair", "good") if number % 2 else ("poor", "best")
            won = [token for token in pool.map(promote, pair) if token]
            assert len(won) == 1
            champion = throne.champion()
            assert champion is not None
            assert champion.token == won[0]
            tokens += won
    assert [champion.token for champion in throne.history()] == tokens


class _Better:
    verdict = "better"

    def as_json(self) -> dict[str, object]:
        return {}


def test_a_write_whose_answer_was_lost_is_known_as_ones_own(
    throne: Throne, results: dict[str, Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    throne.promote(results["poor"])
    real = s3_client.Store.put_over

    def twice(self: s3_client.Store, name: str, data: bytes, tag: str) -> None:
        real(self, name, data, tag)
        real(self, name, data, tag)  # the client tries again: the first answer never came

    monkeypatch.setattr(s3_client.Store, "put_over", twice)
    new, _, _ = throne.promote(results["good"])
    assert throne.champion() == new
    assert [champion.version for champion in throne.history()] == [1, 2]


def test_who_died_between_the_two_writes_leaves_nothing_to_mend(
    throne: Throne, results: dict[str, Result], seaweed: SeaweedFS
) -> None:
    throne.promote(results["poor"])
    second, _, _ = throne.promote(results["fair"])
    key = f"{throne.uri.removeprefix(f's3://{BUCKET}/')}/history/000002.json"
    seaweed.client().delete_object(Bucket=BUCKET, Key=key)
    third, _, _ = throne.promote(results["good"])
    assert third.version == 3
    assert throne.history()[1] == second


@pytest.mark.parametrize("broken", [b"", b"{", b"[]", b"{}", b'{"version": NaN}', b"\xff\xfe"])
def test_a_corrupt_champion_is_left_alone(
    throne: Throne, results: dict[str, Result], seaweed: SeaweedFS, broken: bytes
) -> None:
    throne.promote(results["poor"])
    throne.promote(results["fair"])
    put(seaweed, throne, NAME, broken)
    before = everything(seaweed, throne)
    for attempt in (lambda: throne.promote(results["good"]), throne.champion, throne.rollback):
        with pytest.raises(DataError, match=r"is not what `promote` wrote; `python -m pipeline rollback --to 2`"):
            attempt()
    assert everything(seaweed, throne) == before
    mended = throne.rollback(2)
    assert (mended.version, throne.champion(), mended.key) == (3, mended, results["fair"].key)


def test_a_champion_that_is_missing_is_not_taken_for_none(
    throne: Throne, results: dict[str, Result], seaweed: SeaweedFS
) -> None:
    throne.promote(results["good"])
    seaweed.client().delete_object(Bucket=BUCKET, Key=f"{throne.uri.removeprefix(f's3://{BUCKET}/')}/{NAME}")
    with pytest.raises(DataError, match="is missing, though there were 1 champions; .* rollback --to 1"):
        throne.promote(results["poor"])
    assert NAME not in everything(seaweed, throne)
    assert throne.rollback(1).key == results["good"].key


@pytest.mark.parametrize("value", ["NaN", "Infinity"])
def test_a_metric_that_is_no_number_stops_everything(
    throne: Throne, results: dict[str, Result], root: str, tmp_path: Path, seaweed: SeaweedFS, value: str
) -> None:
    throne.promote(results["poor"])
    before = everything(seaweed, throne)
    key = publish_result(root, tmp_path, [True] * 30, metrics=f'{{"exact_accuracy": {value}}}', lr=5.0)
    with pytest.raises(DataError, match="its exact_accuracy is (nan|inf), so it is compared with nothing"):
        load_result(root, key)
    assert everything(seaweed, throne) == before


def test_s3_that_is_down_is_told(own_seaweed: SeaweedFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_client, "PATIENCE", 0.5)
    speak_to(own_seaweed, monkeypatch)
    root = f"s3://{BUCKET}/down"
    keys = [publish_result(root, tmp_path, [n > 0] * 30, lr=1.0 + n) for n in range(2)]
    for key in keys:
        record(key)
    results = [load_result(root, key) for key in keys]
    throne = Throne(root, results[0].data_set)
    throne.promote(results[0])
    before = everything(own_seaweed, throne)
    own_seaweed.kill()
    with pytest.raises(Fault, match="cannot be reached"):
        throne.promote(results[1])
    own_seaweed.start()
    assert everything(own_seaweed, throne) == before
    assert json.loads(before[NAME])["key"] == keys[0]
    assert throne.promote(results[1])[0].key == keys[1]
