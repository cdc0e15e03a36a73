"""Garbage of an artifact root: artifacts, training states and logs of workers that nothing refers to.

An artifact is kept if a champion (also a former one), a row of runs.tsv, a pin or the present params refer to it, or
if a kept artifact was computed from it, or if it is young: a run may still need it. A training state is kept while its
training is not finished and something refers to the model, its logs while something refers to the model.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from components.train.backend import LOGS, logs_uri
from pipeline.retraining.registry import Registry
from pipeline.runs import RunRecord
from trm.stages.records import STAGES, producer
from trm.storage import s3
from trm.storage.artifacts import MANIFEST
from trm.storage.s3_client import Store, StoredObject
from trm.utils.errors import DataError, InternalError, UserError

STATES = "states"
_KEY = "[0-9a-f]{64}"
_STAGES = "|".join(stage.name for stage in STAGES)
_ARTIFACT = re.compile(rf"(?P<stage>{_STAGES})/(?P<key>{_KEY})/(?P<file>.+)")
_STATE = re.compile(rf"(?P<key>{_KEY})/.+")
_LOG = re.compile(rf"{LOGS}/(?P<key>{_KEY})/.+")
_CHAMPION = re.compile(r"champions/(?P<dataset>[^/]+)/.+\.json")

_NEVER = datetime.min.replace(tzinfo=UTC)

Name = tuple[str, str]
"""Stage (or `states`, `logs`) and content key."""


@dataclass
class Group:
    """The objects of an artifact, or the training states of a content key."""

    uri: str
    size: int = 0
    """Bytes."""
    modified: datetime = _NEVER
    """When the newest object was written."""
    is_complete: bool = False
    """Whether an artifact has its manifest."""

    def add(self, found: StoredObject) -> None:
        """Add an object."""
        self.size += found.size
        self.modified = max(self.modified, found.modified)


@dataclass(frozen=True)
class Garbage:
    """What may be deleted, and what is kept."""

    groups: dict[Name, Group]
    kept: dict[Name, Group]
    champions: frozenset[Name] = field(repr=False)
    """What the champions referred to when the garbage was found."""


def find_garbage(
    root: str,
    state_root: str | None,
    records: Iterable[RunRecord],
    pins: Iterable[Name],
    min_age: timedelta,
    now: datetime | None = None,
) -> Garbage:
    """Find the garbage below `root`.

    Args:
        root: Artifact root, `s3://bucket/folder`.
        state_root: Root of the training states; None: they are not in S3.
        records: Rows of runs.tsv.
        pins: Further artifacts to keep, for example those of the present params.
        min_age: What is younger is kept.
        now: The present time; None: that of this machine.

    Raises:
        DataError: A champion or a manifest cannot be read, so that it is unknown what it refers to.
    """
    store = Store(root)
    listed = store.objects("")
    groups = _artifacts(root, listed) | _logs(root, listed)
    champions = frozenset(_champions(root, listed))
    roots = champions | {(record.stage, record.key) for record in records} | set(pins)
    reachable = _closure(roots, groups, store)
    if state_root is not None:
        groups |= _states(state_root)
    limit = (now or datetime.now(UTC)) - min_age

    def is_needed(name: Name) -> bool:
        stage, key = name
        if stage == LOGS:
            return ("train", key) in reachable
        if stage != STATES:
            return name in reachable
        model = groups.get(("train", key))
        return ("train", key) in reachable and not (model and model.is_complete)

    kept = {name for name, group in groups.items() if is_needed(name) or group.modified > limit}
    return Garbage(
        {name: groups[name] for name in _dependents_first(groups) if name not in kept},
        {name: groups[name] for name in _dependents_first(groups) if name in kept},
        champions,
    )


def delete_garbage(root: str, garbage: Garbage, report: Callable[[Name], object] = lambda _: None) -> None:
    """Delete the garbage; `report` is called after each artifact. If it is interrupted, the rest is garbage again.

    The manifest of an artifact is deleted first, so that the artifact is absent from then on. Raises `InternalError` if
    the champions have changed since the garbage was found.
    """
    store = Store(root)
    if frozenset(_champions(root, store.objects("champions/"))) != garbage.champions:
        raise InternalError(f"{root}: the champions have changed meanwhile; nothing was deleted: run the command again")
    for name, group in garbage.groups.items():
        s3.remove_from(store.at(group.uri))
        report(name)


def parse_pin(text: str) -> Name:
    """An artifact as `<stage>/<key>` or its URI. Raises `UserError`."""
    match = re.search(rf"(?:^|/)({_STAGES})/({_KEY})/?$", text)
    if match is None:
        raise UserError(f"{text}: not an artifact; write it as <stage>/<content key>, or as its s3:// URI")
    return match[1], match[2]


def _artifacts(root: str, listed: dict[str, StoredObject]) -> dict[Name, Group]:
    groups: dict[Name, Group] = {}
    for name, found in listed.items():
        if match := _ARTIFACT.fullmatch(name):
            key = (match["stage"], match["key"])
            group = groups.setdefault(key, Group(s3.artifact_uri(root, *key)))
            group.add(found)
            group.is_complete |= match["file"] == MANIFEST
    return groups


def _logs(root: str, listed: dict[str, StoredObject]) -> dict[Name, Group]:
    groups: dict[Name, Group] = {}
    for name, found in listed.items():
        if match := _LOG.fullmatch(name):
            groups.setdefault((LOGS, match["key"]), Group(logs_uri(root, match["key"]))).add(found)
    return groups


def _states(state_root: str) -> dict[Name, Group]:
    groups: dict[Name, Group] = {}
    for name, found in Store(state_root).objects("").items():
        if match := _STATE.fullmatch(name):
            groups.setdefault((STATES, match["key"]), Group(f"{state_root}/{match['key']}")).add(found)
    return groups


def _champions(root: str, listed: Iterable[str]) -> Iterator[Name]:
    """What the champions refer to, the former ones included."""
    datasets = {match["dataset"] for name in listed if (match := _CHAMPION.fullmatch(name))}
    for dataset in sorted(datasets):
        registry = Registry(root, dataset)
        champion = registry.champion()
        for each in (*([champion] if champion else []), *registry.history()):
            yield from each.keys.items()


def _closure(roots: Iterable[Name], groups: dict[Name, Group], store: Store) -> set[Name]:
    """The roots, and what they were computed from."""
    reachable, waiting = set[Name](), list(roots)
    while waiting:
        name = waiting.pop()
        if name in reachable:
            continue
        reachable.add(name)
        group = groups.get(name)
        if group is None or not group.is_complete:
            continue
        manifest = s3.manifest_in(store.at(group.uri))
        try:
            inputs = {} if manifest is None else manifest["inputs"]
            waiting += [(producer(each).name, key) for each, key in inputs.items()]
        except (KeyError, AttributeError, StopIteration):
            raise DataError(f"{group.uri}: its manifest does not name its inputs; nothing was deleted") from None
    return reachable


def _dependents_first(groups: dict[Name, Group]) -> list[Name]:
    order = [STATES, LOGS, *(stage.name for stage in reversed(STAGES))]
    return sorted(groups, key=lambda name: (order.index(name[0]), name[1]))
