"""The champion of a data set: the best model so far, chosen by comparison, changed by one conditional write.

`<root>/champions/<data set>/` holds

    champion.json          the truth: which result it is, and where that came from
    history/<version>.json every champion that there was; nothing here is ever changed or deleted

A promotion reads champion.json, compares, and writes over exactly what it read: of two at once one wins, the other is
told. A rollback is a promotion too, of what stood there before.
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
from pipeline.runs import Recorded, read_runs
from trm.errors import DataError, Fault, UserError
from trm.s3_client import GoneError, LostError, Store

NAME = "champion.json"


class Champion(BaseModel):
    """What champion.json holds: a result, its whole lineage, and its place in the history."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int
    before: int | None
    """The version that a rollback brings back; None: there was none."""
    restored: int | None
    """The version that a rollback made this one of; None: it was promoted."""
    token: str
    """Tells this promotion from any other of the same result."""
    promoted: str
    data_set: str
    key: str
    keys: dict[str, str]
    """Stage -> content key."""
    metrics: dict[str, Any]
    commit: str
    dvc_lock: str
    """SHA-256 of the dvc.lock that names its outputs."""
    run: str
    image: str
    wandb: str
    comparison: dict[str, Any] | None
    """With the champion before it; None: there was none, or it was promoted without."""


class Refused(Exception):
    """The gate: a candidate that is not better than the champion."""

    def __init__(self, comparison: Comparison) -> None:
        super().__init__(comparison.verdict)
        self.comparison = comparison


@dataclass(frozen=True)
class Throne:
    """The place of a data set's champion."""

    root: str
    data_set: str

    @property
    def uri(self) -> str:
        """Its address."""
        return f"{self.root}/champions/{self.data_set}"

    def champion(self) -> Champion | None:
        """Who stands there; None where nobody ever did. Raises `DataError` where the file is broken or missing."""
        return self._read()[0]

    def history(self) -> list[Champion]:
        """Every champion that there was, the first one first."""
        return [self._parsed(self._store.get(name), name) for name in self._names()]

    def promote(
        self, result: Result, anyway: bool = False, report: Callable[[Comparison], object] = lambda _: None
    ) -> tuple[Champion, Comparison | None, bool]:
        """Make a result the champion if it is better, or `anyway`: the champion, the comparison with the one before,
        and whether it is new there. The comparison is told to `report` before anything is written. Raises `Refused`;
        `UserError` where its origin is not recorded; `Fault` where another promotion was faster.
        """
        lineage = _lineage(result)
        champion, tag = self._read()
        if champion and champion.key == result.key:
            return champion, None, False
        comparison = None
        if champion and not anyway:
            comparison = compare(result, load_result(self.root, champion.key))
            report(comparison)
            if comparison.verdict != "better":
                raise Refused(comparison)
        new = Champion(
            version=self._next(champion),
            before=champion.version if champion else None,
            restored=None,
            token=secrets.token_hex(8),
            promoted=_now(),
            data_set=self.data_set,
            key=result.key,
            keys=result.keys,
            metrics=dict(result.metrics),
            comparison=comparison.as_json() if comparison else None,
            **lineage,
        )
        self._replace(champion, tag, new)
        return new, comparison, True

    def rollback(self, to: int | None = None) -> Champion:
        """Bring back the champion before this one, or version `to`, even where champion.json is broken or missing."""
        try:
            champion, tag = self._read()
        except DataError:
            if to is None:
                raise
            champion, tag = None, self._tag()
        if champion is None and to is None:
            raise UserError(f"{self.uri}: there is no champion yet; `python -m pipeline promote` makes one")
        to = champion.before if champion and to is None else to
        if to is None:
            raise UserError(f"{self.uri}: there was no champion before this one; name one with --to, or leave it")
        name = _history_name(to)
        try:
            target = self._parsed(self._store.get(name), name)
        except GoneError:
            known = ", ".join(str(_version(name)) for name in self._names()) or "none"
            raise UserError(f"{self.uri}: has no version {to}; there are: {known}") from None
        changes = {"version": self._next(champion), "restored": to, "token": secrets.token_hex(8), "promoted": _now()}
        new = target.model_copy(update=changes)
        self._replace(champion, tag, new)
        return new

    @cached_property
    def _store(self) -> Store:
        return Store(self.uri)

    def _read(self) -> tuple[Champion | None, str | None]:
        try:
            data, tag = self._store.get_tagged(NAME)
        except GoneError:
            names = self._names()
            if names:
                last = _version(names[-1])
                raise DataError(
                    f"{self.uri}/{NAME}: is missing, though there were {len(names)} champions; "
                    f"`python -m pipeline rollback --to {last}` brings the last one back"
                ) from None
            return None, None
        return self._parsed(data, NAME), tag

    def _tag(self) -> str | None:
        try:
            return self._store.get_tagged(NAME)[1]
        except GoneError:
            return None

    def _parsed(self, data: bytes, name: str) -> Champion:
        try:
            return Champion.model_validate_json(data)
        except ValidationError:
            versions = [_version(name) for name in self._names()]
            remedy = (
                f"`python -m pipeline rollback --to {versions[-1]}` brings the last one back"
                if versions
                else ("delete it and promote again")
            )
            raise DataError(f"{self.uri}/{name}: is not what `promote` wrote; {remedy}") from None

    def _names(self) -> list[str]:
        return sorted(name for name in self._store.sizes("history/") if re.fullmatch(r"history/\d{6}\.json", name))

    def _next(self, champion: Champion | None) -> int:
        return max([champion.version if champion else 0, *map(_version, self._names())]) + 1

    def _replace(self, champion: Champion | None, tag: str | None, new: Champion) -> None:
        store, data = self._store, _bytes(new)
        # Whoever promoted the one before may have died between his two writes.
        if champion:
            with suppress(LostError):
                store.put_new(_history_name(champion.version), _bytes(champion))
        try:
            store.put_new(NAME, data) if tag is None else store.put_over(NAME, data, tag)
        except LostError:
            # The answer to our own write may have been lost, and the write tried again.
            winner = self._read()[0]
            if winner is None or winner.token != new.token:
                who = f"{winner.key[:12]} (version {winner.version})" if winner else "nobody"
                raise Fault(
                    f"{self.uri}: the champion is {who} by now, changed while this one was compared; nothing was "
                    "written; compare with it and promote again"
                ) from None
        with suppress(LostError):
            store.put_new(_history_name(new.version), data)


def _lineage(result: Result) -> dict[str, str]:
    """Where a result came from, as runs.tsv says."""
    lines = {(line.stage, line.key): line for line in read_runs()}
    own: Recorded | None = lines.get((EVALUATE.name, result.key))
    if own is None:
        raise UserError(
            f"{result.key[:12]} is not in runs.tsv, so nobody knows where it came from; check out its commit and run "
            "`python -m pipeline collect` first"
        )
    trained = lines.get(("train", result.keys["train"]), own)
    return {"commit": own.commit, "dvc_lock": own.dvc_lock, "run": own.run, "image": own.image, "wandb": trained.wandb}


def _history_name(version: int) -> str:
    return f"history/{version:06}.json"


def _version(name: str) -> int:
    return int(name.removeprefix("history/").removesuffix(".json"))


def _bytes(champion: Champion) -> bytes:
    return (json.dumps(champion.model_dump(), indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
