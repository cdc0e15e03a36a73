"""What a worker of a PyTorchJob runs: torchrun, with exit codes from which the training operator can tell what to do.

    python -m components.train.worker --nproc-per-node=4 train --params … --dataset … --model …

torchrun itself exits with 1 whatever happened. Here the code is that of the process that failed, which ends the job;
128 + n after signal n, as when the node is taken away: then the operator makes the worker anew. The PET_* variables
that the operator sets tell torchrun of the other workers. Where the first worker, at which they meet, is not there
(yet, or for a while), this one tries again: nobody waits shorter than the job's deadline.
"""

import sys
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError


def main() -> NoReturn:
    """Train until the end."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous.api import RendezvousConnectionError
    from torch.distributed.run import parse_args, run

    option, *command = sys.argv[1:]
    while True:
        try:
            run(parse_args([option, "-m", "trm", *command]))
            sys.exit(0)
        except RendezvousConnectionError as error:
            print(f"worker: the first worker is not there ({error.__cause__ or error}); trying again", file=sys.stderr)
        except SignalException as error:
            sys.exit(128 + error.sigval)
        except ChildFailedError as error:
            sys.exit(_exit_code(error))


def _exit_code(error: "ChildFailedError") -> int:
    """That of the process that failed first; 1 where it was killed: torchrun has started it again often enough."""
    rank, failure = error.get_first_failure()
    how = f"was killed by signal {-failure.exitcode}" if failure.exitcode < 0 else f"exited with {failure.exitcode}"
    print(f"worker: process {rank} {how}", file=sys.stderr)
    return max(failure.exitcode, 0) or 1


if __name__ == "__main__":
    main()
