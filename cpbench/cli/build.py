"""new-sequence and pretrain."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from cpbench.cli.options import cli
from cpbench.errors import UserError


@cli.command("new-sequence", epilog="Example: cpbench new-sequence my.yaml ~/photos/rex:dog ~/photos/mug:mug")
@click.argument("target", type=click.Path(path_type=Path))
@click.argument("items", nargs=-1, required=True, metavar="FOLDER:NOUN...")
def new_sequence(target: Path, items: tuple[str, ...]) -> None:
    """Write a sequence of your own concepts. Pass folders of pictures, each with the class noun of its subject.

    The pictures are checked first: number, size, duplicates, unreadable files.
    """
    from cpbench.concepts.new_sequence import report_lines, write

    for line in report_lines(write(target, list(items))):
        click.echo(line)


@cli.command()
@click.argument("parts", nargs=-1, type=click.Choice(["vae", "unet", "clip", "dino", "checks", "flow"]))
@click.option("--all", "everything", is_flag=True, help="Train every part.")
@click.option(
    "--work",
    type=click.Path(path_type=Path),
    default=Path(".train"),
    show_default=True,
    help="Folder for checkpoints and training pictures.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="Folder for the weights.  [default: the package's own]",
)
@click.option("--device", default="auto", show_default=True, help="cpu or cuda.")
@click.option(
    "--card", is_flag=True, help="Measure the models and write their card, docs/miniature.md, instead of training."
)
def pretrain(
    parts: tuple[str, ...], everything: bool, work: Path, output: Path | None, device: str, card: bool
) -> None:
    """Train the miniature. A stopped training is resumed; the weights of complete models are written.

    checks: a classifier and a second DINO judge, which the model card is measured with. flow: the second miniature's
    denoiser, in stages, on the weights of the first; it is trained alone.
    """
    if bool(parts) + everything + card != 1:
        raise UserError(
            "pretrain: nothing is chosen, or more than one thing; pass parts (vae, unet, clip, dino, checks), or flow, or --all, "
            "or --card"
        )
    from rich.console import Console

    from cpbench.backbones.backbone import MINIATURE
    from cpbench.running.prepare import pick_device

    if card and output:
        raise UserError("pretrain --card: is of the package's own weights; leave out --output")
    if card:
        from cpbench.miniature.pretrain.card import write_card

        write_card(work, Path("docs/miniature.md"), Path("results/runs"))
        return
    from cpbench.files import prepare_folder
    from cpbench.miniature.pretrain.stages import FLOW, PARTS, pretrain_flow
    from cpbench.miniature.pretrain.stages import pretrain as train

    if FLOW in parts and len(set(parts)) > 1:
        raise UserError(
            "pretrain: flow stands on the finished weights of the other parts; train it in a call of its own"
        )

    prepare_folder(work)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    with console.status("starting") as status:  # shows nothing in a log

        def report(line: str) -> None:
            if console.is_terminal and ": step " in line:
                status.update(line)
            else:
                console.print(line)

        if FLOW in parts:
            pretrain_flow(work, output or MINIATURE, pick_device(device), report)
        else:
            train(parts or PARTS, work, output or MINIATURE, pick_device(device), report)


@cli.command("export-miniature", epilog="Example: cpbench export-miniature flow my-pipeline")
@click.argument("model", type=click.Choice(["flow"]))
@click.argument("folder", type=click.Path(path_type=Path))
def export_miniature(model: str, folder: Path) -> None:
    """Write an embedded model as a folder that diffusers loads: flow, which the package has in parts."""
    from cpbench.backbones.hub import MINIATURE
    from cpbench.miniature import flow_folder

    if folder.exists():
        raise UserError(f"{folder}: exists; pass a new folder")
    flow_folder.write(MINIATURE, MINIATURE / "transformer", folder)
    click.echo(f"{folder}: StableDiffusion3Pipeline.from_pretrained loads it; see docs/miniature.md")
