"""Program of the pod that `python -m pipeline doctor --pod` starts: checks what only a pod of the cluster can.

    python -m components.pod_check <artifact root> <URL>...

Each line of its output is a finding as JSON.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from urllib.parse import urlsplit

import httpx

from trm.stages.doctor import check_machine, describe_device
from trm.storage.server_check import check_server
from trm.utils.errors import UserError
from trm.utils.findings import Finding, check

TIMEOUT = 10.0
"""Seconds for a connection to a server outside of the cluster."""


def main() -> None:
    """Print the findings."""
    root, *urls = sys.argv[1:]
    for finding in find(root, urls):
        print(json.dumps(asdict(finding)), flush=True)


def find(root: str, urls: list[str]) -> Iterator[Finding]:
    """Yield the findings about this container, the S3 server of `root`, and the servers of `urls`."""
    yield from check_machine()
    yield check("device", lambda: describe_device("auto", "auto"))
    yield from check_server(root)
    for url in urls:
        yield check("egress", lambda url=url: _reach(url))


def _reach(url: str) -> str:
    """Request the headers of `url`: any status shows that the server is reached. Proxy variables apply."""
    host = urlsplit(url).hostname
    try:
        httpx.head(url, timeout=TIMEOUT)
    except httpx.HTTPError as error:
        raise UserError(
            f"{host} cannot be reached ({error}); allow it in k8s/base/network.yaml, or set HTTPS_PROXY in "
            "cluster.pods.env"
        ) from None
    return f"{host} is reached"


if __name__ == "__main__":
    main()
