"""Check of a pod template against the Pod Security Standard `restricted`, which includes `baseline`.

Source: kubernetes.io/docs/concepts/security/pod-security-standards. The API server of the tests is too old to enforce
the standard.
"""

from collections.abc import Iterator, Mapping
from typing import Any

VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
SYSCTLS = {
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
}
SECCOMP = ("RuntimeDefault", "Localhost")
SELINUX_TYPES = ("", "container_t", "container_init_t", "container_kvm_t", "container_engine_t")


def violations(template: Mapping[str, Any]) -> list[str]:
    """Return the violations of a pod template (metadata and spec)."""
    spec = template["spec"]
    of_containers = (violation for each in _containers(spec) for violation in _container_violations(each, spec))
    return [*_pod_violations(template), *of_containers]


def _containers(spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [each for key in ("initContainers", "containers", "ephemeralContainers") for each in spec.get(key, ())]


def _pod_violations(template: Mapping[str, Any]) -> Iterator[str]:
    spec = template["spec"]
    security = spec.get("securityContext", {})
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(key):
            yield key
    for volume in spec.get("volumes", ()):
        for kind in set(volume) - {"name"} - VOLUMES:
            yield f"volume {volume['name']}: {kind}"
    for sysctl in security.get("sysctls", ()):
        if sysctl["name"] not in SYSCTLS:
            yield f"sysctl {sysctl['name']}"
    for name, value in template.get("metadata", {}).get("annotations", {}).items():
        if name.startswith("container.apparmor.security.beta.kubernetes.io/") and value == "unconfined":
            yield "apparmor"


def _container_violations(container: Mapping[str, Any], spec: Mapping[str, Any]) -> Iterator[str]:
    name, own, of_pod = container["name"], container.get("securityContext", {}), spec.get("securityContext", {})

    def setting(key: str) -> Any:  # noqa: ANN401 - any value of the manifest
        return own[key] if key in own else of_pod.get(key)

    if own.get("privileged"):
        yield f"{name}: privileged"
    if own.get("allowPrivilegeEscalation") is not False:
        yield f"{name}: allowPrivilegeEscalation"
    if "ALL" not in own.get("capabilities", {}).get("drop", ()):
        yield f"{name}: capabilities are not dropped"
    if set(own.get("capabilities", {}).get("add", ())) - {"NET_BIND_SERVICE"}:
        yield f"{name}: capabilities are added"
    if setting("runAsNonRoot") is not True:
        yield f"{name}: runAsNonRoot"
    if setting("runAsUser") == 0:
        yield f"{name}: runAsUser"
    if (setting("seccompProfile") or {}).get("type") not in SECCOMP:
        yield f"{name}: seccompProfile"
    if (setting("appArmorProfile") or {}).get("type") == "Unconfined":
        yield f"{name}: appArmorProfile"
    selinux = setting("seLinuxOptions") or {}
    if selinux.get("type", "") not in SELINUX_TYPES or selinux.get("user") or selinux.get("role"):
        yield f"{name}: seLinuxOptions"
    if own.get("procMount", "Default") != "Default":
        yield f"{name}: procMount"
    if any(port.get("hostPort") for port in container.get("ports", ())):
        yield f"{name}: hostPort"
