"""Checks of `python -m pipeline doctor` in Kubernetes: objects that section `cluster` names, controllers, rights."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import urllib3
import yaml
from kubernetes import client
from kubernetes.client import ApiException

from components.run_summary.notification import WEBHOOK_KEY
from components.train.backend import TRAIN, ApiResource
from components.train.backends import BACKENDS, fill, job_template
from components.train.cluster_checks import check_node_capacity, check_runtime
from components.train.kubernetes_client import TIMEOUT, KubernetesClient
from components.train.pod_template import S3_KEYS
from components.train.train_job import RUNTIME
from trm.config.cluster import ClusterParams
from trm.utils.errors import InternalError, UserError
from trm.utils.findings import Finding, NotCheckedError, check

KFP_LAUNCHER = "kfp-launcher"
"""ConfigMap from which Kubeflow's containers read the S3 server."""
ANY_KEY = "0" * 64
"""Content key of the job that is only validated."""


class KubernetesChecks:
    """The checks of one cluster. Nothing is created; secrets are read, and none of their values is printed."""

    def __init__(self, cluster: ClusterParams, kubernetes: KubernetesClient) -> None:
        self.cluster, self.kubernetes, self.namespace = cluster, kubernetes, kubernetes.namespace
        self.core: Any = client.CoreV1Api(kubernetes.api)
        job = job_template(cluster)
        self.job = fill(job, ["train", "--params", "{}"], ANY_KEY, cluster.artifact_root) if job else {}

    def findings(self) -> Iterator[Finding]:
        """Yield the findings, by name."""
        first = check("Kubernetes", self._version)
        yield first
        if not first.is_ok:
            return
        checks: dict[str, Callable[[], str]] = {
            "namespace": self._namespace,
            "S3 secret": self._secret,
            "other secrets": self._other_secrets,
            "image pull secret": self._pull_secret,
            "service account": self._account,
            "ConfigMap kfp-launcher": self._config_map,
            "cache volume": self._volume,
            "training jobs": self._controller,
            "TrainingRuntime": self._runtime,
            "GPUs": self._gpus,
            "admission": self._admission,
            "permissions": self._permissions,
        }
        for name, function in checks.items():
            yield check(name, function)

    def _version(self) -> str:
        version = self._read(client.VersionApi(self.kubernetes.api).get_code)
        return f"{version.git_version if version else 'unknown version'} at {self.kubernetes.host}"

    def _namespace(self) -> str:
        if self._read(self.core.read_namespace, self.namespace) is None:
            raise UserError(f"namespace {self.namespace} does not exist; create it, or correct cluster.namespace")
        return f"{self.namespace} exists"

    def _secret(self) -> str:
        name = self.cluster.s3_secret
        if name is None:
            return "none: the pods use the IAM role of the service account"
        self._check_keys(name, S3_KEYS, "create it as k8s/secret.example.yaml describes")
        if self.cluster.s3_region is None:
            raise UserError("cluster.s3_region is null, and pods with keys have no other source of it; set it")
        return f"{name} has {' and '.join(S3_KEYS)}"

    def _other_secrets(self) -> str:
        """Check the secrets of variables and of the webhook."""
        settings = (self.cluster.pods, *self.cluster.resources.values())
        wanted = {(each.secret, each.key) for one in settings for each in one.secret_env.values()}
        if self.cluster.notify:
            wanted.add((self.cluster.notify.secret, WEBHOOK_KEY))
        for name, key in sorted(wanted):
            remedy = f"run `kubectl -n {self.namespace} create secret generic {name} --from-literal={key}=...`"
            self._check_keys(name, (key,), remedy)
        return ", ".join(sorted({name for name, _ in wanted})) or "none are used"

    def _check_keys(self, name: str, keys: Sequence[str], remedy: str) -> None:
        """Raise `UserError` unless the secret `name` has these keys."""
        data = self._named(f"secret {name}", self.core.read_namespaced_secret, name, remedy).data or {}
        for key in keys:
            if not data.get(key):
                raise UserError(f"secret {name} in namespace {self.namespace} has no {key}; {remedy}")

    def _pull_secret(self) -> str:
        name = self.cluster.image_pull_secret
        if name is None:
            return "none: the registry needs no login"
        remedy = f"run `kubectl -n {self.namespace} create secret docker-registry {name} ...`"
        secret = self._named(f"secret {name}", self.core.read_namespaced_secret, name, remedy)
        if not secret.type.startswith("kubernetes.io/dockerc"):
            raise UserError(f"secret {name} in namespace {self.namespace} has type {secret.type}; {remedy}")
        return f"{name} exists"

    def _account(self) -> str:
        name = self.cluster.service_account
        if name is None:
            return "null: the default of Kubeflow Pipelines"
        remedy = "apply an overlay of k8s/, or correct cluster.service_account"
        self._named(f"service account {name}", self.core.read_namespaced_service_account, name, remedy)
        return f"{name} exists"

    def _config_map(self) -> str:
        remedy = f"correct {KFP_LAUNCHER}.yaml of your overlay and apply it"
        found = self._named(
            f"ConfigMap {KFP_LAUNCHER}",
            self.core.read_namespaced_config_map,
            KFP_LAUNCHER,
            "apply an overlay of k8s/: Kubeflow's containers read the S3 server there",
        )
        try:
            providers = yaml.safe_load((found.data or {}).get("providers", "")) or {}
            s3 = providers["s3"]
            default = s3["default"]
            credentials = default.get("credentials") or {}
        except (yaml.YAMLError, KeyError, TypeError, AttributeError):
            raise UserError(f"ConfigMap {KFP_LAUNCHER}: providers.s3.default is missing; {remedy}") from None
        if s3.get("overrides"):
            raise NotCheckedError("providers.s3.overrides may replace the defaults")
        expected = {"endpoint": _host(self.cluster.s3_endpoint or "s3.amazonaws.com"), "region": self.cluster.s3_region}
        actual = {"endpoint": _host(str(default.get("endpoint", ""))), "region": default.get("region")}
        expected["secret"] = self.cluster.s3_secret
        by_role = str(credentials.get("fromEnv")).lower() == "true"
        actual["secret"] = None if by_role else (credentials.get("secretRef") or {}).get("secretName")
        for name, value in expected.items():
            if actual[name] != value:
                raise UserError(
                    f"ConfigMap {KFP_LAUNCHER}: {name} of providers.s3.default is {actual[name]}, section cluster has "
                    f"{value}; {remedy}"
                )
        return "agrees with section cluster"

    def _volume(self) -> str:
        name = self.cluster.cache_pvc
        if name is None:
            return "none: an emptyDir volume, deleted with the pod"
        claim = self._named(
            f"PersistentVolumeClaim {name}",
            self.core.read_namespaced_persistent_volume_claim,
            name,
            "create it (k8s/base/cache.yaml), or correct cluster.cache_pvc",
        )
        modes, phase = claim.spec.access_modes or [], claim.status.phase
        if phase == "Lost":
            raise UserError(f"PersistentVolumeClaim {name} has lost its volume; create it again")
        workers = self.cluster.train_job.max_workers if self.cluster.train_job else 1
        if workers > 1 and "ReadWriteMany" not in modes:
            raise UserError(
                f"PersistentVolumeClaim {name} has access modes {', '.join(modes)}, but {workers} workers mount it; "
                "use a ReadWriteMany volume, or set cluster.cache_pvc to null"
            )
        return f"{name} is {phase}, {', '.join(modes)}"

    def _controller(self) -> str:
        served = [backend for backend in BACKENDS if self._is_served(backend.resource)]
        if not self.job:
            raise NotCheckedError("cluster.train_job is null: the pod of the stage trains")
        own = self.kubernetes.backend
        if own not in served:
            other = f", or set cluster.train_job.backend to {served[0].name}, which is installed" if served else ""
            raise UserError(
                f"{own.resource.kind} ({own.resource.group}/{own.resource.version}) is not installed; install "
                f"{own.resource.controller}{other}"
            )
        return f"{own.resource.plural}.{own.resource.group} {own.resource.version} is served"

    def _runtime(self) -> str:
        self._require_job()
        if self.job["kind"] != "TrainJob":
            raise NotCheckedError("only TrainJobs have one")
        check_runtime(self.kubernetes, self.job)
        return f"{self.job['spec']['runtimeRef']['name']} was made for this section cluster"

    def _gpus(self) -> str:
        resources = self.cluster.pod(TRAIN)
        if not resources.gpus:
            return "none are requested"
        nodes = self._read(self.core.list_node).items
        counts = [int((node.status.allocatable or {}).get(resources.gpu_resource, 0)) for node in nodes]
        if self.job:
            check_node_capacity(self.kubernetes, self.job)
        if max(counts, default=0) < resources.gpus:
            raise UserError(
                f"no node has {resources.gpus} {resources.gpu_resource}; install the device plug-in of the GPUs, or "
                "make sure that an autoscaler adds such nodes"
            )
        return f"{sum(counts)} {resources.gpu_resource} on {sum(map(bool, counts))} of {len(counts)} nodes"

    def _admission(self) -> str:
        """Create the job in a dry run of the server, with its quotas, policies and webhooks."""
        self._require_job()
        custom, resource = client.CustomObjectsApi(self.kubernetes.api), self.kubernetes.backend.resource
        place = (resource.group, resource.version, self.namespace, resource.plural)
        if self._read(custom.create_namespaced_custom_object, *place, self.job, dry_run="All") is None:
            raise NotCheckedError(f"{resource.kind} is not installed, or the namespace does not exist")
        return f"the server accepts the {resource.kind} (dry run)"

    def _permissions(self) -> str:
        account = self.cluster.service_account or ("default-editor" if self.cluster.namespace else "pipeline-runner")
        reviews: Any = client.AuthorizationV1Api(self.kubernetes.api)
        required = required_permissions(self.cluster, self.kubernetes.backend.resource if self.job else None)
        for attributes in required:
            spec = {
                "user": f"system:serviceaccount:{self.namespace}:{account}",
                "groups": [
                    "system:serviceaccounts",
                    f"system:serviceaccounts:{self.namespace}",
                    "system:authenticated",
                ],
                "resourceAttributes": {"namespace": self.namespace, **attributes},
            }
            body = {"metadata": {"namespace": self.namespace}, "spec": spec}
            review = self._read(reviews.create_namespaced_local_subject_access_review, self.namespace, body)
            if not review.status.allowed:
                what = "/".join(attributes[key] for key in ("resource", "subresource", "name") if key in attributes)
                raise UserError(
                    f"service account {account} may not {attributes['verb']} {what} in namespace {self.namespace}; "
                    "apply an overlay of k8s/, or grant it"
                )
        return f"service account {account} has the {len(required)} permissions that it needs"

    def _require_job(self) -> None:
        if not self.job:
            raise NotCheckedError("cluster.train_job is null")

    def _is_served(self, resource: ApiResource) -> bool:
        custom = client.CustomObjectsApi(self.kubernetes.api)
        place = (resource.group, resource.version, self.namespace, resource.plural)
        return self._read(custom.list_namespaced_custom_object, *place, limit=1) is not None

    def _named(self, what: str, read: Callable[..., Any], name: str, remedy: str) -> Any:
        """Return the object `name` of the namespace. Raises `UserError` if it does not exist."""
        found = self._read(read, name, self.namespace)
        if found is None:
            raise UserError(f"{what} does not exist in namespace {self.namespace}; {remedy}")
        return found

    def _read(self, request: Callable[..., Any], *arguments: object, **options: object) -> Any:
        """Return the response; None if the object does not exist. Raises `NotCheckedError` without the permission."""
        try:
            return request(*arguments, **options, _request_timeout=TIMEOUT)
        except ApiException as error:
            if error.status == 404:
                return None
            if error.status == 403 and "admission webhook" not in str(error.body):
                raise NotCheckedError("the credentials of your kubeconfig may not read it (403)") from None
            if (error.status or 0) >= 500:
                raise InternalError(f"{self.kubernetes.host}: {error.status} {error.reason}") from None
            raise self.kubernetes.project_error(error) from None
        except urllib3.exceptions.HTTPError as error:
            reason = " ".join(str(error).split())[:200]
            raise InternalError(f"{self.kubernetes.host}: cannot connect to Kubernetes ({reason})") from None


def required_permissions(cluster: ClusterParams, resource: ApiResource | None) -> list[Mapping[str, str]]:
    """Return the requests of the launcher and of Kubeflow's containers, as in k8s/base/access.yaml."""
    rights = [("get", "", "configmaps", {"name": KFP_LAUNCHER})]
    rights += [(verb, "argoproj.io", "workflowtaskresults", {}) for verb in ("create", "patch")]
    if cluster.s3_secret:
        rights.append(("get", "", "secrets", {"name": cluster.s3_secret}))
    if resource:
        rights += [(verb, resource.group, resource.plural, {}) for verb in ("create", "delete", "get")]
        rights += [("list", "", "pods", {}), ("list", "", "events", {}), ("get", "", "pods", {"subresource": "log"})]
        if resource.kind == "TrainJob":
            rights.append(("get", RUNTIME.group, RUNTIME.plural, {}))
    return [{"verb": verb, "group": group, "resource": kind, **more} for verb, group, kind, more in rights]


def _host(endpoint: str) -> str:
    """Return host and port of an endpoint, which may lack its scheme."""
    return urlsplit(endpoint if "//" in endpoint else f"//{endpoint}").netloc
