"""A node of a test cluster that runs pods of no job."""

from typing import Any, ClassVar

from components.train.pytorch_job import PyTorchJob
from tests.components.train.fake_cluster import FakeCluster


class SinglePod(PyTorchJob):
    """The pods of the node belong to no job."""

    def worker_index(self, pod: Any) -> int:
        return 0


class Node(FakeCluster):
    """A node that runs every pod of the namespace."""

    backend = SinglePod()
    container: ClassVar[str] = "doctor"

    def jobs(self) -> list[dict[str, Any]]:
        return [{"metadata": {"uid": "doctor"}}]

    def _reconcile(self, job: dict[str, Any]) -> None:
        for pod in self.job_pods():
            self._look_after(job, pod)

    def _ended(self, job: dict[str, Any], pod: Any, code: int, evicted: bool) -> None:
        pass

    def _owned(self, jobs: list[dict[str, Any]], pod: Any) -> bool:
        return True
