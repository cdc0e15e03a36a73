"""IAM policies in k8s/iam: exactly the requests of this project, for identities that are pinned."""

import json
import re
from typing import Any

import pytest

from tests.conftest import ROOT

FOLDER = ROOT / "k8s/iam"
GITHUB = "token.actions.githubusercontent.com"
PERMISSIONS = {
    "get_object": {"s3:GetObject"},
    "put_object": {"s3:PutObject"},
    "copy_object": {"s3:GetObject", "s3:PutObject"},
    "delete_object": {"s3:DeleteObject"},
    "list_objects_v2": {"s3:ListBucket"},
    "create_multipart_upload": {"s3:PutObject"},
    "upload_part": {"s3:PutObject"},
    "complete_multipart_upload": {"s3:PutObject"},
    "abort_multipart_upload": {"s3:AbortMultipartUpload"},
    "list_multipart_uploads": {"s3:ListBucketMultipartUploads"},
}
"""Operation of boto3 -> permissions (https://docs.aws.amazon.com/AmazonS3/latest/API/API_Operations.html)."""


def statements(name: str) -> list[dict[str, Any]]:
    return json.loads((FOLDER / name).read_text())["Statement"]


def test_pods_may_do_exactly_what_the_client_requests() -> None:
    text = (ROOT / "trm/storage/s3_client.py").read_text()
    used = set(re.findall(r'_call\(\s*"(\w+)"', text)) | set(re.findall(r"client\.(\w+_\w+)\b(?!\()", text))
    used |= set(re.findall(r"client\.(\w+)\(", text))
    used.discard("meta")
    assert used == set(PERMISSIONS)
    granted = {action for statement in statements("artifacts-policy.json") for action in statement["Action"]}
    assert granted == set().union(*PERMISSIONS.values())


@pytest.mark.parametrize("name", ["artifacts-policy.json", "collect-policy.json"])
def test_objects_are_limited_to_prefixes(name: str) -> None:
    for statement in statements(name):
        assert "*" not in "".join(statement["Action"])
        objects = [resource for resource in statement["Resource"] if "/" in resource]
        assert all(re.fullmatch(r"arn:aws:s3:::our-bucket/(trm|dvc)/\*", resource) for resource in objects)
        if statement["Action"] == ["s3:ListBucket"]:
            assert set(statement["Condition"]["StringLike"]["s3:prefix"]) <= {"trm/*", "dvc/*"}


def test_the_job_that_runs_the_code_of_a_run_cannot_write_artifacts() -> None:
    writes = {
        resource
        for statement in statements("collect-policy.json")
        if "s3:PutObject" in statement["Action"]
        for resource in statement["Resource"]
    }
    assert writes == {"arn:aws:s3:::our-bucket/dvc/*"}


@pytest.mark.parametrize(
    ("name", "issuer", "subjects"),
    [
        ("pods-trust.json", "oidc.eks.us-east-1.amazonaws.com", {"system:serviceaccount:trm:trm-launcher"}),
        (
            "gke-pods-trust.json",
            "container.googleapis.com/v1/projects/our-project/locations/us-east1/clusters/our-cluster",
            {"system:serviceaccount:trm:trm-launcher"},
        ),
        (
            "github-trust.json",
            GITHUB,
            {
                f"repo:OWNER/trm:{end}"
                for end in ("environment:retrain", "environment:retrain-approval", "ref:refs/heads/main")
            },
        ),
        ("collect-trust.json", GITHUB, {"repo:OWNER/trm:ref:refs/heads/main"}),
    ],
)
def test_roles_trust_one_identity_each(name: str, issuer: str, subjects: set[str]) -> None:
    """No wildcard: neither other repositories, nor pull requests, nor other branches."""
    (statement,) = statements(name)
    assert statement["Action"] == "sts:AssumeRoleWithWebIdentity"
    provider = statement["Principal"]["Federated"].partition("oidc-provider/")[2]
    assert provider.startswith(issuer)
    (condition,) = statement["Condition"].items()
    assert condition[0] == "StringEquals"
    found = condition[1][f"{provider}:sub"]
    assert set([found] if isinstance(found, str) else found) == subjects
    assert condition[1][f"{provider}:aud"] == "sts.amazonaws.com"


def test_the_role_of_pods_is_that_of_the_overlay() -> None:
    (statement,) = statements("pods-trust.json")
    assert "name: trm-launcher" in (ROOT / "k8s/overlays/s3/iam-role.yaml").read_text()
    assert any("trm-launcher" in str(value) for value in statement["Condition"]["StringEquals"].values())
