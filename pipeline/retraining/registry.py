"""Registry of champions: the best model of each dataset, promoted by comparison with one conditional write.

`<artifact_root>/champions/<dataset>/` contains

    champion.json           the current champion: its content keys and provenance
    history/<version>.json  every champion so far; these files are never changed or deleted

A promotion reads champion.json, compares, and overwrites exactly the version that it read: of two concurrent promotions
one succeeds and the other raises an error. A rollback is a promotion of an earlier champion.
"""

import json
import re
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.results import EVALUATE, Result, load_result
from pipeline.retraining.compare import Comparison, compare
from pipeline.runs import RunRecord, read_runs
from trm.storage.s3_client import ConflictError, NotFoundError, Store
from trm.utils.errors import DataError, InternalError, UserError

CHAMPION_FILE = "champion.json"


class Champion(BaseModel):
    """Content of champion.json: a result, its provenance, and its position in the history."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int
    previous_version: int | None
    """Version that a rollback restores; None for the first champion."""
    restored_version: int | None
    """Version that a rollback restored here; None for a promotion."""
    token: str
    """Random identifier of this promotion."""
    promoted_at: str
    """ISO 8601, UTC."""
    dataset: str
    key: str
    """Content key of stage evaluate."""
    keys: dict[str, str]
    """Stage name -> content key."""
    metrics: dict[str, Any]
    commit: str
    dvc_lock: str
    """SHA-256 of the dvc.lock that refers to the outputs."""
    run: str
    image: str
    wandb: str
    comparison: dict[str, Any] | None
    """Comparison with the previous champion; None for the first champion and for forced promotions."""


class PromotionRejected(Exception):
    """The candidate is not better than the champion."""

    def __init__(self, comparison: Comparison) -> None:
        super().__init__(comparison.verdict)
        self.comparison = comparison


@dataclass(frozen=True)
class Registry:
    """The champions of one dataset."""

    artifact_root: str
    dataset: str

    @property
    def uri(self) -> str:
        """URI of the folder with champion.json."""
        return f"{self.artifact_root}/champions/{self.dataset}"

    def champion(self) -> Champion | None:
        """Return the current champion; None if none was promoted. Raises `DataError` for a corrupt or missing file."""
        return self._read()[0]

    def history(self) -> list[Champion]:
        """Return all champions, oldest first."""
        return [self._parse(self._store.get(name), name) for name in self._history_names()]

    def promote(
        self, result: Result, force: bool = False, report: Callable[[Comparison], object] = lambda _: None
    ) -> tuple[Champion, Comparison | None, bool]:
        """Make a result the champion if it is better than the current one.

        Args:
            result: The candidate.
            force: Promote without a comparison.
            report: Called with the comparison before anything is written.

        Returns:
            The champion, the comparison with the previous champion, and whether the champion is new.

        Raises:
            PromotionRejected: The candidate is not better.
            UserError: runs.tsv does not contain the candidate.
            InternalError: Another promotion changed the champion meanwhile.
        """
        provenance = _provenance(result)
        champion, tag = self._read()
        if champion and champion.key == result.key:
            return champion, None, False
        comparison = None
        if champion and not force:
            comparison = compare(result, load_result(self.artifact_root, champion.key))
            report(comparison)
            if comparison.verdict != "better":
                raise PromotionRejected(comparison)
        new = Champion(
            version=self._next_version(champion),
            previous_version=champion.version if champion else None,
            restored_version=None,
            token=secrets.token_hex(8),
            promoted_at=_now(),
            dataset=self.dataset,
            key=result.key,
            keys=result.keys,
            metrics=dict(result.metrics),
            comparison=comparison.as_json() if comparison else None,
            **provenance,
        )
        self._replace(champion, tag, new)
        return new, comparison, True

    def rollback(self, version: int | None = None) -> Champion:
        """Restore a champion of the history and return it.

        Args:
            version: Version to restore, also if champion.json is corrupt or missing. None: the previous champion.
        """
        try:
            champion, tag = self._read()
        except DataError:
            if version is None:
                raise
            champion, tag = None, self._tag()
        if champion is None and version is None:
            raise UserError(f"{self.uri}: no champion; run `python -m pipeline promote` first")
        version = champion.previous_version if champion and version is None else version
        if version is None:
            raise UserError(f"{self.uri}: the champion has no previous version; pass a version with --to")
        name = _history_name(version)
        try:
            target = self._parse(self._store.get(name), name)
        except NotFoundError:
            known = ", ".join(str(_version(name)) for name in self._history_names()) or "none"
            raise UserError(f"{self.uri}: no version {version}; existing versions: {known}") from None
        changes = {"version": self._next_version(champion), "restored_version": version}
        new = target.model_copy(update={**changes, "token": secrets.token_hex(8), "promoted_at": _now()})
        self._replace(champion, tag, new)
        return new

    @cached_property
    def _store(self) -> Store:
        return Store(self.uri)

    def _read(self) -> tuple[Champion | None, str | None]:
        """Return the champion and the ETag of its file."""
        try:
            data, tag = self._store.get_with_etag(CHAMPION_FILE)
        except NotFoundError:
            names = self._history_names()
            if names:
                raise DataError(
                    f"{self.uri}/{CHAMPION_FILE}: missing, but the history has {len(names)} champions; "
                    f"`python -m pipeline rollback --to {_version(names[-1])}` restores the last one"
                ) from None
            return None, None
        return self._parse(data, CHAMPION_FILE), tag

    def _tag(self) -> str | None:
        try:
            return self._store.get_with_etag(CHAMPION_FILE)[1]
        except NotFoundError:
            return None

    def _parse(self, data: bytes, name: str) -> Champion:
        try:
            return Champion.model_validate_json(data)
        except ValidationError:
            names = self._history_names()
            remedy = (
                f"`python -m pipeline rollback --to {_version(names[-1])}` restores the last champion"
                if names
                else "delete it and promote again"
            )
            raise DataError(f"{self.uri}/{name}: not written by `promote`; {remedy}") from None

    def _history_names(self) -> list[str]:
        return sorted(name for name in self._store.sizes("history/") if re.fullmatch(r"history/\d{6}\.json", name))

    def _next_version(self, champion: Champion | None) -> int:
        return max([champion.version if champion else 0, *map(_version, self._history_names())]) + 1

    def _replace(self, champion: Champion | None, tag: str | None, new: Champion) -> None:
        store, data = self._store, _serialize(new)
        # An earlier promotion may have been killed between its two writes.
        if champion:
            with suppress(ConflictError):
                store.put_if_absent(_history_name(champion.version), _serialize(champion))
        try:
            store.put_if_absent(CHAMPION_FILE, data) if tag is None else store.put_if_match(CHAMPION_FILE, data, tag)
        except ConflictError:
            # The response to our own write may have been lost, and the write repeated.
            current = self._read()[0]
            if current is None or current.token != new.token:
                name = f"{current.key[:12]} (version {current.version})" if current else "missing"
                raise InternalError(
                    f"{self.uri}: the champion was changed during the comparison (now: {name}); nothing was written: "
                    "compare with the new champion and promote again"
                ) from None
        with suppress(ConflictError):
            store.put_if_absent(_history_name(new.version), data)


def _provenance(result: Result) -> dict[str, str]:
    """Return commit, run, image, W&B run and dvc.lock of a result from runs.tsv."""
    records = {(record.stage, record.key): record for record in read_runs()}
    evaluated: RunRecord | None = records.get((EVALUATE.name, result.key))
    if evaluated is None:
        raise UserError(
            f"{result.key[:12]} is not in runs.tsv, so its provenance is unknown; check out its commit and run "
            "`python -m pipeline collect` first"
        )
    trained = records.get(("train", result.keys["train"]), evaluated)
    names = ("commit", "dvc_lock", "run", "image")
    return {name: getattr(evaluated, name) for name in names} | {"wandb": trained.wandb}


def _history_name(version: int) -> str:
    return f"history/{version:06}.json"


def _version(name: str) -> int:
    return int(name.removeprefix("history/").removesuffix(".json"))


def _serialize(champion: Champion) -> bytes:
    return (json.dumps(champion.model_dump(), indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
