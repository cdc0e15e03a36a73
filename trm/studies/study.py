"""A study: recipes that differ in little, trained on the same data with the same budget, some with several seeds.

Its runs lie in `<folder>/<recipe>-<seed>/`, each with its whole params.yaml, its model and its evaluation; data that
they share in `<folder>/data/<content key>/`. What is finished is skipped, what was stopped goes on.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import Field
from ruamel.yaml import YAML

from trm.config.params import Params
from trm.stages.params import check_params
from trm.utils.errors import InternalError
from trm.config.recipes import changed, find, read_ablation, recipe_text, studies, summary
from trm.config.base import Positive, Section, parse, read_yaml
from trm.stages.records import STAGES, Stage
from trm.stages.runner import is_whole, run_stage
from trm.stages.content_keys import requests
from trm.config.tracking import TrackingParams

BASELINE = "baseline"
"""The recipe as it is."""
SHARED = ("raw", "dataset")
RESULT = "evaluation"
"""The output that a run is made for."""


class Member(Section):
    """One recipe of a study."""

    seeds: Positive = 1
    """It is trained so often, with seeds 0, 1, …"""
    changes: dict[str, Any] = Field(default_factory=dict)
    """Of this recipe alone: dotted key -> value."""


class Study(Section):
    """What a study's file holds."""

    base: str
    """The recipe that every run starts from."""
    changes: dict[str, Any] = Field(default_factory=dict)
    """The data and the budget of every run: dotted key -> value."""
    runs: dict[str, Member]
    """Name of an ablation, of which the changes count alone, or `baseline` -> how it is run."""


@dataclass(frozen=True)
class Run:
    """One training of a study and its evaluation, in a folder of its own."""

    recipe: str
    seed: int
    folder: Path
    text: str
    """Its whole params file."""
    tracking: TrackingParams | None = None
    """What Weights & Biases is told; None: nothing."""

    @property
    def name(self) -> str:
        """That of its folder."""
        return f"{self.recipe}-{self.seed}"

    @cached_property
    def params(self) -> Params:
        """Raises `ParamsError`."""
        return check_params(YAML(typ="safe", pure=True).load(self.text), self.name)

    def finish(self) -> None:
        """Run every stage that leads to the evaluation and whose output is not there yet. Raises what they raise."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "params.yaml").write_text(self.text, encoding="utf-8")
        places: dict[str, str] = {}
        asked = requests(self.params)
        for stage in stages_to(RESULT):
            key = asked[stage.name]["key"]
            home = self.folder.parent / "data" / key[:12] if stage.output in SHARED else self.folder
            out = home / stage.output
            places[stage.output] = str(out)
            if not is_whole(out, stage, key):
                sections = {name: getattr(self.params, name) for name in stage.sections}
                run_stage(stage, sections, {name: places[name] for name in stage.inputs}, str(out), self.tracking)


def stages_to(output: str) -> list[Stage]:
    """The stages without which there is no such output, in order."""
    needed = {output}
    for stage in reversed(STAGES):
        if stage.output in needed:
            needed.update(stage.inputs)
    return [stage for stage in STAGES if stage.output in needed]


def load_study(name: str) -> tuple[Study, str]:
    """A study that ships, or a file of one, and its first line, a comment. Raises `UserError`."""
    path = Path(name) if name.endswith(".yaml") else find(name, studies(), "study")
    values = read_yaml(path, "name a file that is there, or a study that ships (`trm study list`)")
    return parse(Study, values, str(path)), summary(path)


def runs_of(study: Study, folder: Path, tracking: TrackingParams | None = None) -> list[Run]:
    """Every run, the first seed of all recipes before the second of any. Raises `UserError` for what cannot be run.

    They are tracked as one group, named after the folder unless `tracking` names one, each tagged with its recipe.
    """
    most = max(member.seeds for member in study.runs.values())
    runs = []
    for seed in range(most):
        for recipe, member in study.runs.items():
            if seed < member.seeds:
                ablated = {} if recipe == BASELINE else read_ablation(recipe)[1]
                changes = study.changes | ablated | member.changes | {"train.seed": seed}
                text, told = changed(recipe_text(study.base), changes), tracking
                if tracking is not None:
                    group, tags = tracking.group or folder.name, (*tracking.tags, recipe)
                    told = tracking.model_copy(update={"group": group, "tags": tags})
                runs.append(Run(recipe, seed, folder / f"{recipe}-{seed}", text, told))
    for run in runs:
        _ = run.params  # every mistake shows before the first training
    return runs


def run_study(study: Study, folder: Path, title: str, tracking: TrackingParams | None = None) -> None:
    """Finish every run, tracked as `runs_of` says, and write the report to `folder`.

    A run that fails is told in the report and the others go on; then raises `InternalError` at the end.
    """
    from trm.studies.report import Result, write_report

    failed: dict[str, str] = {}
    runs = runs_of(study, folder, tracking)
    for run in _told(runs):
        try:
            run.finish()
        except InternalError as error:
            failed[run.name] = str(error)
            print(f"{run.name} failed: {error}", file=sys.stderr, flush=True)
    results = [Result.of(run.recipe, run.seed, run.folder, run.params) for run in runs if run.name not in failed]
    write_report(title, results, failed, folder)
    if failed:
        raise InternalError(f"{folder}: {len(failed)} of {len(runs)} runs failed ({', '.join(failed)}); run the study again")


def _told(runs: list[Run]) -> Iterator[Run]:
    for number, run in enumerate(runs, 1):
        print(f"{run.name} ({number} of {len(runs)})", file=sys.stderr, flush=True)
        yield run
