"""A study: variations of a recipe, trained on the same data with the same budget and several seeds each.

Runs are in `<folder>/<recipe>-<seed>/`, each with its complete params.yaml, its model and its evaluation; shared data
is in `<folder>/data/<content key>/`. Finished stages are skipped, interrupted ones resume.
"""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from trm.config.base import Positive, Section, parse, read_yaml
from trm.config.params import Params
from trm.config.recipes import ablations, changed, find, read_changes, recipe_text, studies, summary
from trm.config.tracking import TrackingParams
from trm.stages.content_keys import requests
from trm.stages.params import parse_params
from trm.stages.records import STAGES, Stage
from trm.stages.runner import is_complete, run_stage
from trm.utils.errors import InternalError
from trm.utils.output import output_may_close

BASELINE = "baseline"
"""Name of the unchanged recipe."""
SHARED = ("raw", "dataset")
RESULT = "evaluation"
"""The output that a run ends with."""


class Variation(Section):
    """A variation of the base recipe."""

    seeds: Positive = 1
    """Number of runs, with seeds 0, 1, …"""
    changes: dict[str, Any] = Field(default_factory=dict)
    """Changes for this variation only: dotted key -> value."""


class Grid(Section):
    """Variations with every combination of some values."""

    seeds: Positive = 1
    """Number of runs of each combination."""
    values: Annotated[dict[str, Annotated[list[Any], Field(min_length=1)]], Field(min_length=1)]
    """Dotted key -> its values."""

    def variations(self) -> dict[str, Variation]:
        """Name -> variation. A name has the last part of each key with several values, and the value: `lr-0-002`.

        Raises `ValueError` if two combinations have the same name.
        """
        several = [key for key, values in self.values.items() if len(values) > 1]
        found: dict[str, Variation] = {}
        for combination in product(*self.values.values()):
            changes = dict(zip(self.values, combination, strict=True))
            words = [f"{key.rpartition('.')[2]}-{changes[key]}" for key in several] or ["grid"]
            name = re.sub("[^a-z0-9]+", "-", "-".join(words).lower()).strip("-")[:64]
            if name in found:
                raise ValueError(f"two combinations have the name {name}; list them in runs")
            found[name] = Variation(seeds=self.seeds, changes=changes)
        return found


class Study(Section):
    """The contents of a study file."""

    base: str
    """The base recipe."""
    changes: dict[str, Any] = Field(default_factory=dict)
    """Changes for all runs (data and budget): dotted key -> value."""
    runs: dict[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")], Variation] = Field(default_factory=dict)
    """Name -> how to run it. The name of an ablation applies its changes; `baseline` and other names apply none."""
    grid: Grid | None = None
    """Further variations."""

    @model_validator(mode="after")
    def _check_variations(self) -> Self:
        if not self.variations():
            raise ValueError("a study needs runs or a grid")
        if self.grid and (both := self.runs.keys() & self.grid.variations().keys()):
            raise ValueError(f"{min(both)} is a name in runs and in the grid; rename it in runs")
        return self

    def variations(self) -> dict[str, Variation]:
        """Return all variations, those of the grid last."""
        return self.runs | (self.grid.variations() if self.grid else {})


@dataclass(frozen=True)
class Run:
    """A training of a study and its evaluation, in its own folder."""

    recipe: str
    seed: int
    folder: Path
    text: str
    """Its complete params file."""
    tracking: TrackingParams | None = None
    """Settings of Weights & Biases; None: disabled."""

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"{self.recipe}-{self.seed}"

    @cached_property
    def params(self) -> Params:
        """The validated params. Raises `ParamsError`."""
        return parse_params(self.text, self.name)

    def finish(self) -> None:
        """Run the stages up to the evaluation whose outputs do not exist yet. Raises their errors."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "params.yaml").write_text(self.text, encoding="utf-8")
        folders: dict[str, str] = {}
        all_requests = requests(self.params)
        for stage in stages_to(RESULT):
            key = all_requests[stage.name]["key"]
            home = self.folder.parent / "data" / key[:12] if stage.output in SHARED else self.folder
            out = home / stage.output
            folders[stage.output] = str(out)
            if not is_complete(out, stage, key):
                sections = {name: getattr(self.params, name) for name in stage.sections}
                run_stage(stage, sections, {name: folders[name] for name in stage.inputs}, str(out), self.tracking)


def stages_to(output: str) -> list[Stage]:
    """The stages that `output` depends on, in order."""
    needed = {output}
    for stage in reversed(STAGES):
        if stage.output in needed:
            needed.update(stage.inputs)
    return [stage for stage in STAGES if stage.output in needed]


def load_study(name: str) -> tuple[Study, str]:
    """Load a study that ships with the package, or a file, and its title (the first comment). Raises `UserError`."""
    path = Path(name) if name.endswith(".yaml") else find(name, studies(), "study")
    values = read_yaml(path, "give an existing file, or a study that ships with the package (`trm study list`)")
    return parse(Study, values, str(path)), summary(path)


def runs_of(study: Study, folder: Path, tracking: TrackingParams | None = None) -> list[Run]:
    """All runs, the first seed of all variations before the second of any. Raises `UserError` for invalid params.

    In Weights & Biases they form a group, named after the folder unless `tracking` names one, and have the name of
    their variation as a tag.
    """
    variations = study.variations()
    most = max(variation.seeds for variation in variations.values())
    runs, base = [], recipe_text(study.base)
    for seed in range(most):
        for recipe, variation in variations.items():
            if seed < variation.seeds:
                # A variation with changes of its own may have a name that no ablation has.
                is_own = recipe == BASELINE or (variation.changes and recipe not in ablations())
                ablated = {} if is_own else read_changes(recipe)[1]
                changes = study.changes | ablated | variation.changes | {"train.seed": seed}
                text, run_tracking = changed(base, changes), tracking
                if tracking is not None:
                    group, tags = tracking.group or folder.name, (*tracking.tags, recipe)
                    run_tracking = tracking.model_copy(update={"group": group, "tags": tags})
                runs.append(Run(recipe, seed, folder / f"{recipe}-{seed}", text, run_tracking))
    for run in runs:
        _ = run.params  # all errors are raised before the first training
    return runs


@output_may_close()
def run_study(study: Study, folder: Path, title: str, tracking: TrackingParams | None = None) -> None:
    """Finish all runs and write the report to `folder`.

    Failed runs are listed in the report; if there are any, raises `InternalError` at the end.
    """
    from trm.studies.report import Result, write_report

    failed: dict[str, str] = {}
    runs = runs_of(study, folder, tracking)
    for run in _announce(runs):
        try:
            run.finish()
        except InternalError as error:
            failed[run.name] = str(error)
            print(f"{run.name} failed: {error}", file=sys.stderr, flush=True)
    results = [Result.of(run.recipe, run.seed, run.folder, run.params) for run in runs if run.name not in failed]
    write_report(title, results, failed, folder)
    if failed:
        raise InternalError(
            f"{folder}: {len(failed)} of {len(runs)} runs failed ({', '.join(failed)}); run the study again"
        )


def _announce(runs: list[Run]) -> Iterator[Run]:
    for number, run in enumerate(runs, 1):
        print(f"{run.name} ({number} of {len(runs)})", file=sys.stderr, flush=True)
        yield run
