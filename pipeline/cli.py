"""Command line `python -m pipeline`: runs the experiment of params.yaml on a cluster and manages its results."""

from typing import NoReturn

import typer

from pipeline.kfp import commands as kfp
from pipeline.local import commands as local
from pipeline.operations import commands as operations
from pipeline.retraining import commands as retraining
from trm.cli.main import run_app

app = typer.Typer(
    help="Run the experiment of params.yaml on Kubeflow Pipelines, collect, compare and promote its results.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
COMMANDS = {
    "plan": retraining.plan,
    "compile": kfp.compile_,
    "submit": kfp.submit,
    "sweep": kfp.sweep,
    "watch": kfp.watch,
    "runs": kfp.runs,
    "logs": kfp.logs,
    "stop": kfp.stop,
    "collect": kfp.collect,
    "train-job": kfp.train_job,
    "local": local.local,
    "compare": retraining.compare,
    "promote": retraining.promote,
    "rollback": retraining.rollback,
    "champion": retraining.champion,
    "publish": retraining.publish,
    "list-uncollected": retraining.list_uncollected,
    "retrain": retraining.retrain,
    "gc": operations.gc,
    "doctor": operations.doctor,
}
for name, command in COMMANDS.items():
    app.command(name)(command)


def main() -> NoReturn:
    """Run the command line, with the exit codes of `trm`."""
    run_app(app, "pipeline")
