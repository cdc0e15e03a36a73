"""Throughput and latency of `trm serve` with the included model, server and clients on this machine.

    python -m benchmarks.serve
    python -m benchmarks.serve --minutes 10

Starts the server, and sends `--requests` requests with a new 6x6 Sudoku each: one at a time, then from `--clients`
threads, with the batch sizes of `--batch-sizes`. Prints as JSON:

- requests_per_second, p50_ms, p99_ms: of the requests
- errors: requests without status 200
- differing: answers that are not those of `trm.solve`
- speedup: requests per second relative to one request at a time

`--minutes`: the clients go on for so long, and the memory of the server is read every 10 seconds.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from trm.datasets.sudoku.generator import generate_puzzles
from trm.inference.solve import solve
from trm.reporting.terminal.demo import MODEL
from trm.training.checkpoint import load_checkpoint

Grids = list[list[list[int]]]
SAMPLE_SECONDS = 10
SETTLED_SECONDS = 60
"""Time after which the memory of the server should not grow."""


def main() -> None:
    """Measure and print the results as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--clients", type=int, default=20, help="threads that send requests (default: 20)")
    parser.add_argument("--requests", type=int, default=400, help="requests of each measurement (default: 400)")
    parser.add_argument("--batch-sizes", default="1,2,4,8,16,32,64", help="batch sizes of the server")
    parser.add_argument("--minutes", type=float, help="measure the memory of the server under load instead")
    options = parser.parse_args()
    puzzles = generate_puzzles(6, options.requests, "minimal", seed=7, allow_leakage=False)
    questions: Grids = (puzzles.questions.reshape(-1, 6, 6) - 1).tolist()  # tokens to digits
    if options.minutes:
        print(json.dumps(measure_memory(questions, options.clients, options.minutes), indent=2))
        return
    model, meta = load_checkpoint(MODEL)
    expected = [answer.grid.tolist() for answer in solve(model, meta, questions)]
    results: dict[str, Any] = {"clients": options.clients, "requests": options.requests, "batch_sizes": {}}
    with server(64) as (url, _):
        results["one_at_a_time"] = measure(url, questions, expected, 1)
    for size in map(int, options.batch_sizes.split(",")):
        with server(size) as (url, _):
            measured = measure(url, questions, expected, options.clients)
        measured["speedup"] = round(
            measured["requests_per_second"] / results["one_at_a_time"]["requests_per_second"], 2
        )
        results["batch_sizes"][size] = measured
    print(json.dumps(results, indent=2))


@contextmanager
def server(batch_size: int) -> Iterator[tuple[str, int]]:
    """Run the server; URL and process ID."""
    command = [sys.executable, "-m", "trm", "serve", "demo", "--port", "0", "--batch-size", str(batch_size)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        yield line.split(" at ")[1].partition(";")[0], process.pid
    finally:
        process.terminate()
        process.wait()


def measure(url: str, questions: Grids, expected: Grids, clients: int) -> dict[str, Any]:
    """Send one request for each question; compare the answers."""
    local = threading.local()

    def ask(number: int) -> tuple[float, int, bool]:
        if not hasattr(local, "client"):
            local.client = httpx.Client(base_url=url, timeout=60)
        started = time.perf_counter()
        response = local.client.post("/v1/solve", json={"puzzles": [questions[number]]})
        seconds = time.perf_counter() - started
        same = response.status_code == 200 and response.json()["answers"][0]["answer"] == expected[number]
        return seconds, response.status_code, same

    with ThreadPoolExecutor(clients) as pool:
        started = time.perf_counter()
        results = list(pool.map(ask, range(len(questions))))
        total = time.perf_counter() - started
    milliseconds = np.array([seconds for seconds, _, _ in results]) * 1000
    return {
        "requests_per_second": round(len(questions) / total, 1),
        "p50_ms": round(float(np.percentile(milliseconds, 50)), 1),
        "p99_ms": round(float(np.percentile(milliseconds, 99)), 1),
        "errors": sum(status != 200 for _, status, _ in results),
        "differing": sum(not same for _, _, same in results),
    }


def measure_memory(questions: Grids, clients: int, minutes: float) -> dict[str, Any]:
    """Send requests for some minutes; resident memory of the server in MB, every 10 seconds."""
    samples: list[float] = []
    errors, answered = 0, 0
    until = time.monotonic() + 60 * minutes
    with server(64) as (url, pid):

        def load(first: int) -> tuple[int, int]:
            failed = done = 0
            with httpx.Client(base_url=url, timeout=60) as client:
                for number in itertools.count(first):
                    if time.monotonic() >= until:
                        return done, failed
                    body = {"puzzles": [questions[number % len(questions)]], "seed": number}
                    failed += client.post("/v1/solve", json=body).status_code != 200
                    done += 1
            raise AssertionError

        with ThreadPoolExecutor(clients) as pool:
            running = [pool.submit(load, number * 1000) for number in range(clients)]
            while time.monotonic() < until:
                time.sleep(SAMPLE_SECONDS)
                samples.append(resident(pid))
            for each in running:
                done, failed = each.result()
                answered, errors = answered + done, errors + failed
    settled = samples[min(int(SETTLED_SECONDS / SAMPLE_SECONDS), len(samples) - 1)]
    return {
        "requests": answered,
        "errors": errors,
        "memory_mb": samples,
        "growth_after_a_minute": round(samples[-1] / settled - 1, 4),
    }


def resident(pid: int) -> float:
    """Resident memory of a process in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


if __name__ == "__main__":
    main()
