"""`python -m pipeline doctor` and the manifests of k8s/ agree."""

from typing import Any

import pytest
import yaml

from components.train.backends import BACKENDS
from pipeline.operations.kubernetes_checks import required_permissions
from pipeline.operations.pod_probe import probe_pod
from tests.conftest import ROOT
from trm.config.cluster import ClusterParams, TrainJobParams


def manifests(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((ROOT / "k8s/base" / name).read_text()))


def test_required_permissions_are_those_of_the_roles() -> None:
    granted = {
        (verb, group, *resource.split("/"), *rule.get("resourceNames", ()))
        for each in manifests("access.yaml")
        if each["kind"] == "Role"
        for rule in each["rules"]
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    assert granted == {
        tuple(each.values())
        for backend in BACKENDS
        for each in required_permissions(ClusterParams(s3_secret="trm-s3"), backend.resource)
    }


@pytest.mark.parametrize("policy", ["trm-workers", "trm-stages"])
def test_network_policies_select_the_pod(policy: str) -> None:
    """It connects to what workers and stages connect to."""
    cluster = ClusterParams(image="registry/trm@sha256:0", train_job=TrainJobParams())
    labels = probe_pod(cluster, [], 1.0)["metadata"]["labels"]
    (selected,) = [each["spec"] for each in manifests("network.yaml") if each["metadata"]["name"] == policy]
    assert selected["podSelector"]["matchLabels"].items() <= labels.items()
