"""The commands `trm hub push` and `trm hub pull`. They import nothing heavy."""

import time
from pathlib import Path
from typing import Annotated

import typer

from trm.cli.options import LOCAL, OUTPUTS, local_model
from trm.cli.summary import command_line, print_end

hub_app = typer.Typer(help="Publish models on the Hugging Face Hub, and download them.", no_args_is_help=True)
Repo = Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The repository on the Hub.")]


@hub_app.command("push")
def push_command(
    repo: Repo,
    model: Annotated[
        Path, typer.Option(help="A model folder, or `demo`.", parser=local_model, metavar="PATH")
    ] = OUTPUTS / "model",
    evaluation: Annotated[
        Path | None, typer.Option(help="Output of `trm evaluate` of this model, for the score table.", **LOCAL)
    ] = None,
    dataset: Annotated[
        Path | None, typer.Option(help="Output of `trm augment` of its training, for the data settings.", **LOCAL)
    ] = None,
    licence: Annotated[
        str, typer.Option("--license", help="Identifier of the model's licence on the Hub.")
    ] = "apache-2.0",
    notes: Annotated[str, typer.Option(help="A text about the origin and the licence of the data.")] = "",
    public: Annotated[bool, typer.Option("--public", help="Create a public repository; default: private.")] = False,
    card: Annotated[
        Path | None, typer.Option(help="Write only the model card to this file, and upload nothing.", **LOCAL)
    ] = None,
) -> None:
    """Upload a model with its model card: scores with intervals, data, settings, lineage.

    The login is that of huggingface_hub (`HF_TOKEN` or `hf auth login`).
    """
    from tempfile import TemporaryDirectory

    from trm.reporting.model_card import model_card
    from trm.storage.artifacts import MANIFEST, read_manifest
    from trm.storage.hub import parse_hub_uri, upload_model
    from trm.utils.paths import replace_file

    started = time.monotonic()
    parse_hub_uri(f"hf://{repo}")
    text = model_card(repo, model, evaluation, dataset, licence, notes)
    if card is not None:
        replace_file(card, text)
        print_end("hub push", card, time.monotonic() - started, None)
        return
    files = [model / name for name in (*read_manifest(model)["files"], MANIFEST)]
    files += [evaluation / "metrics.json"] if evaluation is not None else []
    with TemporaryDirectory() as folder:
        for file in files:
            (Path(folder) / file.name).write_bytes(file.read_bytes())
        (Path(folder) / "README.md").write_text(text, encoding="utf-8")
        url = upload_model(Path(folder), repo, private=not public)
    print_end("hub push", url, time.monotonic() - started, command_line("trm", "inspect", f"hf://{repo}"))


@hub_app.command("pull")
def pull_command(
    repo: Repo,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit; default: the main branch.")] = None,
    model: Annotated[Path, typer.Option(help="The folder to write.", **LOCAL)] = OUTPUTS / "pulled",
) -> None:
    """Download a model, or the files of a published checkpoint, to a folder.

    Commands that take a model also accept hf://owner/name.
    """
    import shutil

    from trm.storage.artifacts import MANIFEST, staged
    from trm.storage.hub import download_files, download_model
    from trm.training.checkpoint import FILE

    started = time.monotonic()
    uri = f"hf://{repo}" + (f"@{revision}" if revision else "")
    source = download_files(uri)
    if (source / FILE).is_file() and (source / MANIFEST).is_file():
        download_model(uri)  # checks the digests
    with staged(model) as folder:
        for file in sorted(path for path in source.rglob("*") if path.is_file()):
            target = folder / file.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
    following = command_line("trm", "inspect", model)
    if not (model / FILE).is_file() and (model / "all_config.yaml").is_file():
        following = command_line("trm", "checkpoint", "import", model / "FILE")
    print_end("hub pull", model, time.monotonic() - started, following)
