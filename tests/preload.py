"""A server that runs `trm`, and `python` with -m or -c, in forks of a process that has imported torch and more.

Importing them takes longer than most commands of the tests. Project code is imported by the forked process, as usual.
`programs` has a folder with programs `python` and `trm` for the PATH of a test. Modules of other projects, and
processes with variables that affect imports, run in the usual interpreter. The parent of a forked process is the
server: tests of what happens when torchrun ends use the usual interpreter, too. SIGKILL for such a program also kills
the children of its process, like the end of a container. A process is in the network namespace of its program.
"""

import array
import atexit
import ctypes
import gc
import importlib
import inspect
import json
import os
import runpy
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

MODULES = ("torch", "torch.distributed.launcher.api", "numba", "scipy.special", "safetensors.torch", "boto3")
MODULES += ("pyarrow.parquet", "pyarrow.compute", "pyarrow.csv", "pyarrow.dataset", "matplotlib.backends.backend_svg")
MODULES += ("pydantic.main", "pydantic.json_schema", "typer", "ruamel.yaml")
MODULES += ("rich.progress", "rich.table", "rich.tree", "jinja2", "filelock", "tenacity", "platformdirs.unix")
MODULES += ("kfp.client", "kfp.compiler", "kfp.dsl", "kfp.kubernetes", "kubernetes.client", "kubernetes.config")
CLIENT = r"""#!{python} -ISE
import array, json, os, signal, socket, sys
name, words = os.path.basename(sys.argv[0]), sys.argv[1:]
real = [{python!r}, *words] if name == "python" else [{python!r}, {script!r}, *words]
words = words[1:] if words[:1] == ["-u"] else words  # torchrun starts its processes so
module = "trm.__main__" if name == "trm" else words[1] if words[:1] == ["-m"] and len(words) > 1 else ""
code = words[1] if words[:1] == ["-c"] else ""
known = code or module.partition(".")[0] in ("trm", "pipeline", "components", "tests")
known = known or module == "torch.distributed.run"
if not known or os.environ.keys() & {{"PYTHONWARNINGS", "LD_PRELOAD"}}:
    os.execv(real[0], real)
link = socket.socket(socket.AF_UNIX)
link.connect({address!r})
first = "-c" if code else sys.argv[0]
request = {{"module": module, "code": code, "argv": [first, *(words[2:] if name == "python" else words)]}}
request |= {{"cwd": os.getcwd(), "env": dict(os.environ)}}
data = json.dumps(request).encode("utf-8", "surrogateescape")
fds = array.array("i", (0, 1, 2, os.open("/proc/self/ns/net", os.O_RDONLY)))
link.sendmsg([len(data).to_bytes(8, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
link.sendall(data)
pid = int.from_bytes(link.recv(8, socket.MSG_WAITALL), "big")
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) is not signal.SIG_IGN:
        signal.signal(number, lambda number, _: os.kill(pid, number))
status = int.from_bytes(link.recv(8, socket.MSG_WAITALL), "big")
if os.WIFSIGNALED(status):
    number = os.WTERMSIG(status)
    signal.signal(number, signal.SIG_DFL) if number != signal.SIGKILL else None
    os.kill(os.getpid(), number)
os._exit(os.waitstatus_to_exitcode(status))
"""


@cache
def programs() -> tuple[Path, ...]:
    """The folder with `python` and `trm`. The server starts at the first call and ends with this process.

    Empty on systems without `pidfd_open`.
    """
    from trm.utils.process_settings import SPINS  # the server must not import project code

    if not hasattr(os, "pidfd_open"):
        return ()
    folder = Path(tempfile.mkdtemp(prefix="trm-preload-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    text = CLIENT.format(
        python=sys.executable, script=str(Path(sys.executable).with_name("trm")), address=str(folder / "socket")
    )
    bin_folder = folder / "bin"
    bin_folder.mkdir()
    for program in ("python", "trm"):
        (bin_folder / program).write_text(text)
        (bin_folder / program).chmod(0o755)
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "OMP_NUM_THREADS")}
    environment["GOMP_SPINCOUNT"] = SPINS  # `trm` sets it before the import of torch
    command = [sys.executable, __file__, str(folder / "socket")]
    server = subprocess.Popen(command, cwd="/", env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"
    atexit.register(server.communicate)
    return (bin_folder,)


def python() -> str:
    """The program `python` of `programs`, where there is one."""
    return next((str(folder / "python") for folder in programs()), sys.executable)


def serve(address: str) -> None:
    """Run the server until its stdin is closed."""
    sys.path.pop(0)  # this folder
    for name in MODULES:
        importlib.import_module(name)
    import numba

    numba.njit(lambda: 0)()  # initializes LLVM
    inspect.getmodule(serve.__code__.replace(co_filename=""))  # lists the files of the modules, which pydantic needs
    gc.freeze()  # the forked processes do not write to these pages
    selector, children = selectors.DefaultSelector(), dict[int, socket.socket]()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(64)
        selector.register(listener, selectors.EVENT_READ, 0)
        selector.register(sys.stdin, selectors.EVENT_READ, -1)
        print("ready", flush=True)
        while True:
            for key, _ in selector.select():
                if key.data < 0:
                    return
                if key.data == 0:
                    _start(listener, selector, children)
                elif isinstance(key.fileobj, socket.socket):  # the client has been killed
                    if key.data in children:  # its process has not ended in the meantime
                        _kill(key.data)
                        selector.unregister(key.fileobj)
                else:
                    _end(key, selector, children)


def _start(listener: socket.socket, selector: selectors.BaseSelector, children: dict[int, socket.socket]) -> None:
    link, _ = listener.accept()
    size, fds = _receive(link)
    request = json.loads(link.recv(size, socket.MSG_WAITALL).decode("utf-8", "surrogateescape"))
    pid = os.fork()
    if pid == 0:
        for other in (listener, link, *children.values()):
            other.close()
        selector.close()
        _run(request, fds)
    for fd in fds:
        os.close(fd)
    with suppress(OSError):  # the client has been killed, which the selector reports
        link.sendall(pid.to_bytes(8, "big"))
    children[pid] = link
    selector.register(link, selectors.EVENT_READ, pid)
    selector.register(os.pidfd_open(pid), selectors.EVENT_READ, pid)


def _kill(pid: int) -> None:
    """Kill a process and its children, which may have their own sessions."""
    killed = [pid]
    with suppress(OSError):  # a thread has ended in the meantime
        for path in Path(f"/proc/{pid}/task").glob("*/children"):
            killed += map(int, path.read_text().split())
    for each in killed:
        with suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)


def _receive(link: socket.socket) -> tuple[int, list[int]]:
    data, ancillary, _, _ = link.recvmsg(8, socket.CMSG_LEN(4 * 4))
    fds = array.array("i")
    for level, kind, content in ancillary:
        assert (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
        fds.frombytes(content)
    return int.from_bytes(data, "big"), list(fds)


def _end(key: selectors.SelectorKey, selector: selectors.BaseSelector, children: dict[int, socket.socket]) -> None:
    pidfd, pid = key.fd, key.data
    selector.unregister(pidfd)
    os.close(pidfd)
    _, status = os.waitpid(pid, 0)
    link = children.pop(pid)
    if link in {each.fileobj for each in selector.get_map().values()}:
        selector.unregister(link)
        with suppress(OSError):
            link.sendall(status.to_bytes(8, "big"))
    link.close()


def _run(request: dict[str, Any], fds: list[int]) -> NoReturn:
    *streams, network = fds
    for number, fd in enumerate(streams):
        os.dup2(fd, number)
        os.close(fd)
    with Path("/proc/self/ns/net").open() as own, os.fdopen(network) as its:
        if not os.path.sameopenfile(own.fileno(), its.fileno()):
            assert ctypes.CDLL(None).setns(network, 0) == 0  # Python 3.12 has `os.setns`
    os.environ.clear()
    os.environ.update(request["env"])
    # The package kubernetes reads this variable when it is imported.
    location = os.environ.get("KUBECONFIG", "~/.kube/config")
    sys.modules["kubernetes.config.kube_config"].KUBE_CONFIG_DEFAULT_LOCATION = location  # type: ignore[attr-defined]
    os.chdir(request["cwd"])
    sys.argv = request["argv"]
    code = 1
    try:
        sys.path[:0] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
        if "OMP_NUM_THREADS" in os.environ:  # the library has read its variables
            sys.modules["torch"].set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        if request["module"] != "trm.__main__":
            sys.path.insert(0, request["cwd"])
        if request["code"]:
            exec(compile(request["code"], "<string>", "exec"), {"__name__": "__main__"})
        else:
            runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
    # As at the end of an interpreter, but the modules are not deleted one by one, which takes a while.
    threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]  # noqa: SLF001 - there are no public names
    atexit._run_exitfuncs()  # noqa: SLF001
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    serve(sys.argv[1])
