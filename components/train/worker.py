"""Program of a training job's worker: torchrun, with exit codes that the job's controller can interpret.

    python -m components.train.worker --nproc-per-node=4 train --params ... --dataset ... --model ...

torchrun exits with code 1 for every failure. This program exits with the code of the failed process, which ends the
job, or with 128 + n after signal n (preemption of the node), upon which the controller recreates the worker. The
manifest and the controller set the PET_* variables that torchrun reads. While the first worker, which hosts the
rendezvous, is unavailable, the rendezvous is retried: the job's deadline limits the wait.
"""

import sys
from typing import TYPE_CHECKING, NoReturn

from trm.utils.output import output_may_close

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError


@output_may_close()
def main() -> NoReturn:
    """Run the `trm` command in all processes of this worker and exit with its code."""
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
            print(f"worker: first worker unavailable ({error.__cause__ or error}); retrying", file=sys.stderr)
        except SignalException as error:
            sys.exit(128 + error.sigval)
        except ChildFailedError as error:
            sys.exit(_exit_code(error))


def _exit_code(error: "ChildFailedError") -> int:
    """Return the code of the process that failed first; 1 if it was killed, as torchrun has exhausted its restarts."""
    rank, failure = error.get_first_failure()
    cause = f"was killed by signal {-failure.exitcode}" if failure.exitcode < 0 else f"exited with {failure.exitcode}"
    print(f"worker: process {rank} {cause}", file=sys.stderr)
    return max(failure.exitcode, 0) or 1


if __name__ == "__main__":
    main()
