"""Params on their way into a container: Kubeflow's structs, Argo's templates, Kubernetes' expansion of arguments."""

import json
import re
from typing import Any

import pytest
from google.protobuf import json_format, struct_pb2
from hypothesis import given
from hypothesis import strategies as st
from kfp.local import placeholder_utils

from components.parameters import parameter_text
from components.train.backends import fill, job_template
from pipeline.kfp.definition import component, run_arguments
from trm.config.cluster import ClusterParams, TrainJobParams
from trm.config.recipes import recipes
from trm.stages.params import load_recipe, load_sections
from trm.stages.records import STAGES, Stage
from trm.utils.errors import ParamsError

ENVIRONMENT = {"HOME": "/root", "AWS_DEFAULT_REGION": "eu-1"}
KEYS = dict.fromkeys((stage.name for stage in STAGES), "0" * 64)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
traps = st.sampled_from(
    ["{{workflow.name}}", "$(HOME)", "$$(HOME)", "$$", "{{{a}}}", "{{$.inputs}}", "\\u007b", "\n", "'"]
)
sections = st.dictionaries(st.text(max_size=5), json_values | traps | st.lists(traps), max_size=5)


def transport(text: str) -> str:
    """Return a parameter as a container gets it.

    The API server keeps it in a protobuf Struct, Argo replaces `{{...}}` in the workflow, KFP inserts it into the
    arguments, and kubelet expands them (https://kubernetes.io/docs/tasks/inject-data-application).
    """
    struct = struct_pb2.Struct()
    json_format.Parse(json.dumps({"parameter": text}), struct)
    arrived = str(json.loads(json_format.MessageToJson(struct))["parameter"])
    arrived = re.sub(r"\{\{(.*?)\}\}", "replaced", arrived, flags=re.DOTALL)

    def expand(match: re.Match[str]) -> str:
        return "$" if match[0] == "$$" else ENVIRONMENT.get(match[1], match[0])

    return re.sub(r"\$\$|\$\(([^)]*)\)", expand, arrived)


@given(sections)
def test_every_json_value_arrives_unchanged(value: dict[str, Any]) -> None:
    arrived = json.loads(transport(parameter_text(value)))
    assert json.dumps(arrived, sort_keys=True) == json.dumps(value, sort_keys=True)


def test_a_struct_would_change_values() -> None:
    """The reason for the text: the stand-in above is not more lenient than Kubeflow."""
    struct = struct_pb2.Struct()
    json_format.Parse('{"seed": 9007199254740993}', struct)
    assert json.loads(json_format.MessageToJson(struct))["seed"] != 9007199254740993
    assert transport("{{workflow.name}} $(HOME) $$") == "replaced /root $"


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
@pytest.mark.parametrize("recipe", recipes())
def test_params_of_recipes_arrive_unchanged(recipe: str, stage: Stage) -> None:
    """As the component's arguments are resolved: the sections are inserted into one JSON object."""
    params = load_recipe(recipe, {"evaluate.seed": 2**53 + 1, "export.weights": ["ema"]})
    given = run_arguments(params, KEYS, "s3://trm/artifacts")
    spec = component(stage).component_spec.implementation.container
    template = spec.args[spec.args.index("--params") + 1]
    text = re.sub(r"\{\{\$\.inputs\.parameters\['(\w+)_params'\]\}\}", lambda name: transport(given[name[1]]), template)
    assert load_sections(text, stage.sections) == {name: getattr(params, name) for name in stage.sections}


def test_local_runner_inserts_the_text_unchanged() -> None:
    text = parameter_text({"a": {"b": None}, "c": '{{x}} $(HOME) \\ "é'})
    parameters = {"parameterValues": {"data_params": text}}
    given = placeholder_utils.replace_placeholders(
        full_command=["{\"data\": {{$.inputs.parameters['data_params']}}}"],
        executor_input_dict={"inputs": parameters, "outputs": {"outputFile": "/tmp/output"}},
        pipeline_resource_name="run",
        task_resource_name="task",
        pipeline_root="/tmp",
        unique_pipeline_id="1",
    )
    assert given == [f'{{"data": {text}}}']


def test_params_of_a_job_arrive_unchanged() -> None:
    """The launcher writes them into the arguments of another pod, whose manifest arrived as a parameter."""
    cluster = ClusterParams(train_job=TrainJobParams(deadline_seconds=2**53 + 1), s3_region="$(HOME)")
    template = json.loads(transport(parameter_text(job_template(cluster))))
    assert template == job_template(cluster)
    job = fill(template, ["train", "--params", parameter_text({"a": "$(HOME) $$"})], "a" * 64, "s3://b/root")
    (container,) = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]["containers"]
    assert json.loads(transport(container["args"][-1])) == {"a": "$(HOME) $$"}


def test_numbers_that_are_not_finite_are_rejected() -> None:
    params = load_recipe("sudoku-4x4")
    endless = params.model_copy(update={"train": params.train.model_copy(update={"lr": float("inf")})})
    with pytest.raises(ParamsError, match="train: contains a number that is not finite"):
        run_arguments(endless, KEYS, "s3://trm/artifacts")
