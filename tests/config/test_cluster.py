"""Settings of section `cluster` that are refused, and how settings of all pods combine with those of a stage."""

from typing import Any

import pytest

from trm.config.base import parse
from trm.config.cluster import ClusterParams
from trm.utils.errors import ParamsError


def cluster(**values: Any) -> ClusterParams:  # noqa: ANN401 - values of a params file
    return parse(ClusterParams, values, "cluster")


TRAINJOB = {"backend": "trainjob", "max_workers": 1}


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (
            {"train_job": {"backend": "trainjob"}},
            "train_job: a TrainJob has a fixed number of workers: set min_workers = ",
        ),
        (
            {"train_job": {**TRAINJOB, "ttl_seconds": 86400}},
            "train_job: a TrainJob has no ttl_seconds: set it to null; ",
        ),
        (
            {"train_job": {**TRAINJOB, "max_workers": 2, "min_workers": 2, "gang": {"min_available": 1}}},
            "train_job: a TrainJob waits for all its workers: set gang.min_available to null",
        ),
        (
            {"train_job": {**TRAINJOB, "gang": {"timeout_seconds": 9}}},
            "train_job: a TrainJob hands no timeout to Volcano: set gang.timeout_seconds to null",
        ),
        (
            {"train_job": {"gang": {"min_available": 3}}},
            "train_job: gang.min_available must be at most max_workers. Got 3",
        ),
        (
            {"train_job": {"gang": {"scheduler": "coscheduling", "queue": "a"}}},
            "train_job: gang.queue requires scheduler volcano; for Kueue, set cluster.resources.train.queue",
        ),
        ({"train_job": {"backend": "mpijob"}}, "train_job.backend must be 'pytorchjob' or 'trainjob'. Got 'mpijob'"),
        (
            {"pods": {"env": {"PET_NNODES": "1"}}},
            "pods.env: PET_NNODES is reserved: the training back end sets it; remove it",
        ),
        ({"pods": {"env": {"TRM_STATE_DIR": "/"}}}, "pods.env: TRM_STATE_DIR is set by cluster.state_root; remove it"),
        ({"pods": {"env": {"A B": "1"}}}, "pods.env.A B must be a string of the form"),
        ({"pods": {"labels": {"trm/key": "a"}}}, "pods.labels: trm/key is a label of the project; choose another name"),
        (
            {"resources": {"train": {"labels": {"kueue.x-k8s.io/queue-name": "a"}}}},
            "resources.train.labels: kueue.x-k8s.io/queue-name is a label of the project; set cluster.resources.",
        ),
        ({"pods": {"labels": {"a": "b c"}}}, "pods.labels.a must be a string of the form"),
        (
            {"pods": {"volumes": [{"mount_path": "/a", "secret": "b", "pvc": "c"}]}},
            "pods.volumes.0: set exactly one of secret, config_map, pvc and empty_dir for /a",
        ),
        ({"pods": {"volumes": [{"mount_path": "/a"}]}}, "pods.volumes.0: set exactly one of secret, "),
        (
            {"pods": {"volumes": [{"mount_path": "/cache/a", "secret": "b"}]}},
            "pods.volumes.0: mount_path /cache/a is in /cache, a volume of the project; change it",
        ),
        ({"pods": {"volumes": [{"mount_path": "a", "secret": "b"}]}}, "pods.volumes.0.mount_path must be a string of"),
        ({"pods": {"node_affinity": [{"key": "a"}]}}, "pods.node_affinity.0: operator In requires values"),
        (
            {"pods": {"node_affinity": [{"key": "a", "operator": "Exists", "values": ["b"]}]}},
            "pods.node_affinity.0: operator Exists takes no values",
        ),
        (
            {"pods": {"node_affinity": [{"key": "a", "values": ["b"], "weight": 101}]}},
            "pods.node_affinity.0.weight must be",
        ),
        ({"pods": {"priority_class": "a"}}, "pods.priority_class is not a setting; remove it"),
        (
            {"resources": {"train": {"extended_resources": {"hca": 1}}}},
            "resources.train.extended_resources.hca must be",
        ),
    ],
)
def test_invalid_settings_are_refused_in_one_line(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(ParamsError) as error:
        cluster(**values)
    assert str(error.value).startswith(f"cluster: {problem}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("path", ["/cached", "/dev/shm2", "/etc/ca"])
def test_other_mount_paths_are_accepted(path: str) -> None:
    assert cluster(pods={"volumes": [{"mount_path": path, "secret": "a"}]}).pods.volumes[0].mount_path == path


def test_settings_of_a_stage_are_on_top_of_those_of_all_pods() -> None:
    volumes = [{"mount_path": "/a", "secret": "a"}, {"mount_path": "/b", "pvc": "b"}]
    section = cluster(
        pods={"env": {"A": "1", "B": "2"}, "volumes": volumes[:1]},
        resources={"train": {"env": {"B": "3", "C": "4"}, "volumes": volumes[1:], "gpus": 2}},
    )
    pod = section.pod("train")
    assert pod.env == {"A": "1", "B": "3", "C": "4"}
    assert [volume.mount_path for volume in pod.volumes] == ["/a", "/b"]
    assert pod.gpus == 2
    assert section.pod("evaluate").env == {"A": "1", "B": "2"}
    assert cluster().pod("train") == type(pod)()
