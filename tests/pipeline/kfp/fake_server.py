"""Fake server of the Kubeflow Pipelines API, whose responses are models of kfp-server-api."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kfp_server_api


class FakeKfpServer:
    """Stores runs and experiments. Tests script the progress of runs and the errors of the server."""

    def __init__(self) -> None:
        self.runs: dict[str, Any] = {}
        self.experiments: dict[str, Any] = {}
        self.logs: dict[str, str] = {}
        """Pod name -> log."""
        self.script: list[dict[str, Any]] = []
        """Changes of the newest run; each query of a run applies the next one."""
        self.token: str | None = None
        """Required Authorization header; None: not required."""
        self.lost_responses = 0
        """Number of next creations whose response is not sent."""
        self.errors: list[int] = []
        """Status codes of the next responses."""
        self.page = ""
        """Login page that is the response to every request."""
        self.delay = 0.0
        """Seconds before each response."""
        self.multi_user = False
        self.build: dict[str, Any] = {"apiServerTagName": "2.17.0", "apiServerReady": True}
        self.requests: list[str] = []
        """Method and path of each request."""
        self.bodies: list[dict[str, Any]] = []
        """Bodies of the requests that create runs."""
        self._models: Any = kfp_server_api.ApiClient(kfp_server_api.Configuration())
        self._server: ThreadingHTTPServer | None = None
        self.port = 0
        self.start()

    @property
    def host(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Serve, on the same port after `stop`."""
        server = self

        class Handler(_Handler):
            kfp = server

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def add_run(self, name: str, state: str = "RUNNING", **fields: Any) -> Any:
        number = len(self.runs) + 1
        run: Any = kfp_server_api.V2beta1Run(
            run_id=f"run-{number}",
            display_name=name,
            state=state,
            created_at=datetime(2026, 11, 22, tzinfo=UTC) + timedelta(minutes=number),
            **fields,
        )
        self.runs[run.run_id] = run
        return run

    def set_task(self, run: Any, name: str, state: str, problem: str = "") -> None:
        """Add a stage as Kubeflow reports it: a task, its driver, and the pod of its container."""
        details: Any = run.run_details or kfp_server_api.V2beta1RunDetails(task_details=[])
        details.task_details = [task for task in details.task_details if task.task_id.partition("/")[0] != name]
        error = kfp_server_api.GoogleRpcStatus(code=1, message=problem) if problem else None
        pod: Any = kfp_server_api.PipelineTaskDetailChildTask(pod_name=f"trm-{name}-impl")
        details.task_details += [
            kfp_server_api.V2beta1PipelineTaskDetail(
                task_id=name, display_name=name, state=state, error=error, child_tasks=[pod]
            ),
            kfp_server_api.V2beta1PipelineTaskDetail(
                task_id=f"{name}/driver",
                display_name=f"{name}-driver",
                state="SUCCEEDED",
                pod_name=f"trm-{name}-driver",
            ),
        ]
        run.run_details = details

    def _advance(self, run: Any) -> None:
        if self.script and run is list(self.runs.values())[-1]:
            step = self.script.pop(0)
            for name, state in step.get("tasks", {}).items():
                self.set_task(run, name, state, step.get("problem", ""))
            run.state = step.get("state", run.state)
            self.logs.update(step.get("logs", {}))

    def respond(self, method: str, target: str, body: Any) -> tuple[int, Any]:  # noqa: PLR0911 - one per path
        """Return status and body: a model, a text, or a dict."""
        url = urlsplit(target)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        parts = url.path.strip("/").split("/")
        if url.path == "/k8s/pod/logs":
            return (200, self.logs[query["podname"]]) if query["podname"] in self.logs else (404, "no such pod")
        if parts[:2] != ["apis", "v2beta1"]:
            return 404, {"message": "unknown path"}
        name_filter = None
        if "filter" in query:
            (predicate,) = json.loads(query["filter"])["predicates"]
            if (predicate["key"], predicate["operation"]) != ("name", "EQUALS"):
                return 400, {"message": "no such filter"}
            name_filter = predicate["string_value"]
        if parts[2:] == ["healthz"]:
            return 200, {"multi_user": self.multi_user, **self.build}  # with the fields that the web UI adds
        if parts[2:] == ["experiments"]:
            if method == "POST":
                new = kfp_server_api.V2beta1Experiment(experiment_id="e-1", display_name=body["display_name"])
                self.experiments[body["display_name"]] = new
                return 200, new
            found = [experiment for name, experiment in self.experiments.items() if name == name_filter]
            return 200, kfp_server_api.V2beta1ListExperimentsResponse(experiments=found)
        if parts[2:] == ["runs"]:
            if method == "POST":
                self.bodies.append(body)
                config = kfp_server_api.V2beta1RuntimeConfig(**body["runtime_config"])
                fields = {"runtime_config": config, "description": body.get("description")}
                return 200, self.add_run(body["display_name"], "PENDING", **fields)
            found = [run for run in reversed(self.runs.values()) if name_filter in (None, run.display_name)]
            return 200, kfp_server_api.V2beta1ListRunsResponse(runs=found, total_size=len(found))
        name, _, verb = parts[3].partition(":")
        if name not in self.runs:
            return 404, {"code": 5, "message": f"Run {name} not found"}
        run = self.runs[name]
        if verb == "terminate":
            run.state = "CANCELING"
            return 200, {}
        self._advance(run)
        return 200, run

    def encode(self, body: Any) -> bytes:
        return (
            body.encode()
            if isinstance(body, str)
            else json.dumps(self._models.sanitize_for_serialization(body)).encode()
        )


class _Handler(BaseHTTPRequestHandler):
    kfp: FakeKfpServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._serve("GET")

    def do_POST(self) -> None:
        self._serve("POST")

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _serve(self, method: str) -> None:
        kfp = self.kfp
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        kfp.requests.append(f"{method} {urlsplit(self.path).path}")
        time.sleep(kfp.delay)
        if kfp.token is not None and self.headers.get("Authorization") != kfp.token:
            status, response = 401, {"message": "Unauthorized"}
        elif kfp.errors:
            status, response = kfp.errors.pop(0), {"message": "try later"}
        elif kfp.page:
            status, response = 200, kfp.page
        else:
            status, response = kfp.respond(method, self.path, body)
        if kfp.lost_responses and method == "POST" and self.path.startswith("/apis/v2beta1/runs"):
            kfp.lost_responses -= 1
            self.close_connection = True
            return
        data = kfp.encode(response)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def kfp_server() -> Iterator[FakeKfpServer]:
    server = FakeKfpServer()
    try:
        yield server
    finally:
        server.stop()
