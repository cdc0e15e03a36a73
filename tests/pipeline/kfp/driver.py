"""Stand-in of Kubeflow's driver: runs the containers of a compiled pipeline as processes on this machine.

It resolves inputs along the DAGs as `backend/src/v2/driver` of Kubeflow Pipelines does, skips tasks whose input is
missing, takes the results of cached tasks from an earlier run, retries failed containers, and runs the exit handler in
any case. After a failure it starts all tasks that it can; Argo may start none
(github.com/kubeflow/pipelines/issues/7330).
"""

import json
import shutil
import subprocess
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kfp.local import placeholder_utils

from tests.conftest import ROOT
from tests.preload import python

RUN_ID = "5c1e2f00-0000-4000-8000-000000000001"


@dataclass
class Driver:
    """Runs a pipeline. Each task has a folder of its own, with its outputs."""

    spec: Mapping[str, Any]
    """`pipeline_spec` of a compiled pipeline."""
    folder: Path
    environment: Mapping[str, str]
    kills: dict[str, int] = field(default_factory=dict)
    """Display name of a task -> number of its containers that are killed at their start."""
    cache: dict[str, dict[str, str]] = field(default_factory=dict)
    """Fingerprint of a task -> its output files; shared by the runs of a test."""
    cached: list[str] = field(default_factory=list)
    """Display names of the tasks whose outputs came from the cache."""
    attempts: Counter[str] = field(default_factory=Counter)
    """Display name of a task -> number of its containers."""
    ended: dict[str, int] = field(default_factory=dict)
    """Display name of a task -> exit code of its container."""
    output: dict[str, str] = field(default_factory=dict)
    """Display name of a task -> output of its container."""

    def run(self, arguments: Mapping[str, Any]) -> None:
        """Run all tasks, one after the other."""
        self._dag(self.spec["root"]["dag"], arguments, self.folder)

    def _dag(self, dag: Mapping[str, Any], given: Mapping[str, Any], folder: Path) -> bool:
        artifacts: dict[tuple[str, str], str] = {}
        done: dict[str, bool] = {}
        waiting = dict(dag["tasks"])
        while waiting:
            name = next(each for each, task in waiting.items() if set(task.get("dependentTasks", ())) <= set(done))
            task = waiting.pop(name)
            always = task.get("triggerPolicy", {}).get("strategy") == "ALL_UPSTREAM_TASKS_COMPLETED"
            if not always and not all(done[each] for each in task.get("dependentTasks", ())):
                done[name] = False
                continue
            values = {key: self._value(each, given, done) for key, each in self._inputs(task, "parameters").items()}
            inputs = {
                key: artifacts[source["producerTask"], source["outputArtifactKey"]]
                for key, each in self._inputs(task, "artifacts").items()
                for source in [each["taskOutputArtifact"]]
            }
            component = self.spec["components"][task["componentRef"]["name"]]
            if "dag" in component:
                done[name] = self._dag(component["dag"], values, folder / name)
                continue
            outputs = {
                key: str(folder / name / key) for key in component.get("outputDefinitions", {}).get("artifacts", {})
            }
            fingerprint = self._fingerprint(component, values, inputs)
            is_cached = bool(task.get("cachingOptions", {}).get("enableCache"))
            if is_cached and fingerprint in self.cache:
                self.cached.append(task["taskInfo"]["name"])
                outputs, done[name] = self.cache[fingerprint], True
            else:
                done[name] = self._task(task, component, values, inputs, outputs, folder / name)
                if done[name]:
                    self.cache[fingerprint] = outputs
            artifacts |= {(name, key): path for key, path in outputs.items()}
        return all(done.values())

    def _inputs(self, task: Mapping[str, Any], kind: str) -> dict[str, Any]:
        return task.get("inputs", {}).get(kind, {})

    def _value(self, source: Mapping[str, Any], given: Mapping[str, Any], done: Mapping[str, bool]) -> Any:
        if "runtimeValue" in source:
            constant = source["runtimeValue"]["constant"]
            return RUN_ID if constant == "{{$.pipeline_job_uuid}}" else constant
        if "componentInputParameter" in source:
            return given[source["componentInputParameter"]]
        state = "SUCCEEDED" if done[source["taskFinalStatus"]["producerTask"]] else "FAILED"
        return json.dumps({"state": state, "pipelineTaskName": source["taskFinalStatus"]["producerTask"]})

    def _fingerprint(self, component: Mapping[str, Any], values: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
        """Return what a cached result depends on: image, command, parameters and the ids of the input artifacts."""
        container = self.spec["deploymentSpec"]["executors"][component["executorLabel"]]["container"]
        parts = (container["image"], container["command"], container["args"], dict(values), dict(inputs))
        return json.dumps(parts, sort_keys=True)

    def _task(
        self,
        task: Mapping[str, Any],
        component: Mapping[str, Any],
        values: Mapping[str, Any],
        inputs: Mapping[str, str],
        outputs: Mapping[str, str],
        folder: Path,
    ) -> bool:
        """Run the container of a task, again after a failure if the task has a retry policy."""
        for _ in range(1 + int(task.get("retryPolicy", {}).get("maxRetryCount", 0))):
            shutil.rmtree(folder, ignore_errors=True)
            if self._container(task["taskInfo"]["name"], component, values, inputs, outputs, folder):
                return True
        return False

    def _container(
        self,
        name: str,
        component: Mapping[str, Any],
        values: Mapping[str, Any],
        inputs: Mapping[str, str],
        outputs: Mapping[str, str],
        folder: Path,
    ) -> bool:
        folder.mkdir(parents=True)
        container = self.spec["deploymentSpec"]["executors"][component["executorLabel"]]["container"]

        def listed(paths: Mapping[str, str]) -> dict[str, Any]:
            return {key: {"artifacts": [{"name": key, "uri": path}]} for key, path in paths.items()}

        executor_input = {
            "inputs": {"parameterValues": dict(values), "artifacts": listed(inputs)},
            "outputs": {"artifacts": listed(outputs), "outputFile": str(folder / "executor-output.json")},
        }
        command = placeholder_utils.replace_placeholders(
            full_command=[*container["command"], *container["args"]],
            executor_input_dict=executor_input,
            pipeline_resource_name="trm",
            task_resource_name=name,
            pipeline_root=str(self.folder),
            unique_pipeline_id=RUN_ID,
        )
        self.attempts[name] += 1
        if self.attempts[name] <= self.kills.get(name, 0):
            self.ended[name] = 137
            return False
        variables = {each["name"]: each["value"] for each in container.get("env", ())}
        ran = subprocess.run(
            [python() if word == "python" else word for word in command],
            check=False,
            cwd=ROOT,
            env={**self.environment, **variables, "TRM_CACHE_DIR": str(folder / "cache")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.ended[name], self.output[name] = ran.returncode, ran.stdout
        return ran.returncode == 0
