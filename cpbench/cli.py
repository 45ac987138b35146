"""The command line: parse, call, print. Nothing heavy is imported before a verb needs it."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import click

from cpbench.errors import UserError

USAGE, FAILED, INTERRUPTED = 2, 1, 130


class Verbs(click.Group):
    """A group that answers a mistyped verb with near matches, in one line."""

    def resolve_command(self, ctx: click.Context, args: list[str]):
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            from cpbench.errors import near

            raise near(args[0], self.list_commands(ctx), "command", "`cpbench --help` says what each does.")
        return super().resolve_command(ctx, args)


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="cpbench", message="cpbench %(version)s")
def cli() -> None:
    """Benchmark continual personalization of text-to-image diffusion models.

    Concepts arrive one at a time, no data of earlier ones is kept, and after every task everything learned so far is
    drawn and judged: what was learned, what was kept, what was forgotten, and what it cost.

    \b
    cpbench run --method dcscore --sequence dreambench10
    cpbench list methods
    cpbench leaderboard
    """


# Of every verb that loads a backbone.
TRUST = (
    click.option(
        "--allow-pickle",
        is_flag=True,
        default=None,
        help="Load .bin and .pt weights too. Dangerous: such a file can run any code when it is loaded.",
    ),
    click.option(
        "--trust-remote-code",
        is_flag=True,
        default=None,
        help="Run Python code that comes with a backbone or a run. Dangerous: read it before.",
    ),
)


def _listed(context: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> list[str] | None:
    """a,b --methods c: [a, b, c]; brackets keep their commas."""
    words = [w.strip() for value in given for w in re.split(r",(?![^\[]*\])", value)]
    if "" in words:
        raise click.BadParameter("has an empty entry; write a,b,c", context, parameter)
    return words or None


def _numbered(context: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> list[int] | None:
    words = _listed(context, parameter, given)
    if words and not all(w.isdigit() for w in words):
        raise click.BadParameter("must be whole numbers, such as 0,1,2", context, parameter)
    return words and [int(w) for w in words]


JUDGING = (
    click.option(
        "--clip-preprocessing",
        metavar="KEY=VALUE,...",
        help="Change it: any of resize=256,crop=224,interpolation=bicubic,mean=R/G/B,std=R/G/B.  [default: the judge's]",
    ),
    click.option("--dino-preprocessing", metavar="KEY=VALUE,...", help="Likewise."),
    click.option(
        "--clip-activation",
        type=click.Choice(["gelu", "quickgelu"]),
        help="Of a CLIP in a .safetensors file that has no config beside it.",
    ),
)
ONE_RUN = (
    click.option("--method", help="Built-in name (`cpbench list methods`) or path of a file with a Method in it."),
    click.option("--sequence", help="Built-in name (`cpbench list sequences`) or path of a YAML file."),
    click.option(
        "--backbone",
        help="Built-in name (`cpbench list backbones`), hub id or local diffusers folder.  [default: miniature]",
    ),
    click.option("--seed", type=click.IntRange(min=0), help="Seeds everything that is random.  [default: 0]"),
    click.option(
        "--order",
        type=click.IntRange(min=0),
        help="0: the file's order; k: a permutation seeded by k.  [default: 0]",
    ),
)
SHARED = (
    click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="KEY=VALUE",
        help="A method's option, or evaluation.<key>; may be repeated.",
    ),
    click.option(
        "--config",
        type=click.Path(path_type=Path),
        help="YAML with any of these settings; the command line wins.",
    ),
    click.option("--output", type=click.Path(path_type=Path), help="Where run folders go.  [default: results/runs]"),
    click.option("--device", help="cpu, cuda or mps.  [default: chosen]"),
    click.option(
        "--deterministic",
        is_flag=True,
        default=None,
        help="On CUDA, the same bits at every call: deterministic algorithms, no TF32; slower.  [CPU: always]",
    ),
    click.option(
        "--keep-states",
        type=click.Choice(["all", "last"]),
        help="States of which tasks stay on disk.  [default: last where whole weights are learned, else all]",
    ),
    click.option(
        "--rows",
        multiple=True,
        callback=_numbered,
        help="Which rows to draw, e.g. 10,20,30, beside row 0 and the last.  [default: all]",
    ),
    click.option(
        "--overlap/--no-overlap",
        default=None,
        help="Draw and judge while the next task is learned.  [default: if there is a second GPU, or spare cores]",
    ),
    click.option(
        "--data", help="Where photographs are: a folder, or hub.  [default: CPBENCH_DATA, or the sequence's own]"
    ),
    click.option("--fit", type=click.Choice(["crop", "pad"]), help="How a photograph becomes square.  [default: crop]"),
    click.option("--clip", help="CLIP judge: published name, .safetensors file or folder.  [default: the backbone's]"),
    click.option("--dino", help="DINO judge, likewise.  [default: the backbone's]"),
    *JUDGING,
    click.option(
        "--dtype",
        type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
        help="Precision of the backbone.  [default: float32; bfloat16 on CUDA from 200 million weights on]",
    ),
    click.option("--resolution", type=click.IntRange(min=32), help="Pixels a side.  [default: the backbone's]"),
    click.option("--revision", help="Commit, tag or branch of the hub's repository.  [default: pinned, or main]"),
    click.option("--variant", help="Which variant of the weights, e.g. fp16.  [default: the usual, or the only one]"),
    click.option("--vae", help="Another autoencoder, tiny ones too: hub id or folder."),
    click.option("--gradient-checkpointing", is_flag=True, default=None, help="Less memory in learning, more time."),
    click.option("--attention-slicing", is_flag=True, default=None, help="Less memory in attention, more time."),
    click.option(
        "--offload", is_flag=True, default=None, help="Less memory in drawing: on the GPU only what is at work."
    ),
    *TRUST,
)


def with_options(*options: Callable) -> Callable[[Callable], Callable]:
    """A decorator that gives a command these options, in their order."""

    def decorate(command: Callable) -> Callable:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


@cli.command(epilog="Example: cpbench run --method seqlora --sequence dreambench10 --set steps=50 --seed 1")
@with_options(*ONE_RUN, *SHARED)
def run(settings: tuple[str, ...], config: Path | None, **given: object) -> None:
    """Run one method over one sequence; go on where a stopped run left off."""
    from cpbench.config import resolve

    resolved = resolve(given, config, settings)
    from cpbench.runner import execute

    execute(*resolved)


@cli.command(epilog="Example: cpbench plan --method dcscore --sequence dreambench10 --backbone sd15")
@with_options(*ONE_RUN, *SHARED)
def plan(settings: tuple[str, ...], config: Path | None, **given: object) -> None:
    """Say what a run would cost on this machine, before it is spent: steps, pictures, disk, memory and time."""
    from cpbench.config import resolve

    resolved = resolve(given, config, settings)
    from cpbench.plan import lines
    from cpbench.plan import plan as rehearse
    from cpbench.runner import prepare

    run = prepare(*resolved)
    for what, how_much in [*lines(rehearse(run)), *(("note", note) for note in run.notes)]:
        click.echo(f"{what:9} {how_much}")


@cli.command(
    epilog="Example: cpbench sweep --methods seqlora,'dcscore variant=ewc' --sequences dreambench10 --seeds 0,1,2"
)
@click.option("--grid", help="Built-in name (bench, bench-quick) or YAML file with any of the next five.")
@click.option("--methods", multiple=True, callback=_listed, help="A comma between; settings behind a method's name.")
@click.option("--sequences", multiple=True, callback=_listed, help="A comma between.")
@click.option("--backbones", multiple=True, callback=_listed, help="A comma between.  [default: miniature]")
@click.option("--seeds", multiple=True, callback=_numbered, help="A comma between.  [default: 0]")
@click.option("--orders", multiple=True, callback=_numbered, help="A comma between.  [default: 0]")
@click.option("--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True, help="What runs it.")
@click.option("--address", help="Of a Ray cluster; auto: this machine's.  [default: a new one here]")
@click.option("--jobs", type=click.IntRange(min=1), help="Runs at a time, here.  [default: as many as fit]")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Threads of a run.")
@click.option(
    "--gpus-per-run",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    show_default=True,
    help="0.5: two runs share a GPU.",
)
@click.option("--copy-to", help="fsspec URL that finished run folders are copied to, e.g. s3://bucket/runs.")
@click.option("--dry-run", is_flag=True, help="Say what would run, what is done, and the cost; do nothing.")
@with_options(*SHARED)
def sweep(grid: str | None, config: Path | None, settings: tuple[str, ...], dry_run: bool, **given: object) -> None:
    """Run many: methods x sequences x backbones x seeds x orders, one process a run.

    What is finished is left alone, what was stopped goes on; one run's failure stops no other.
    """
    from cpbench import sweep

    axes = {axis: given.pop(axis) for axis in sweep.AXES}
    how = {name: given.pop(name) for name in ("engine", "address", "jobs", "threads", "gpus_per_run", "copy_to")}
    wanted, output = sweep.asked_for(grid, axes, config, settings, given)
    if dry_run:
        for line in sweep.dry_run(wanted, output):
            click.echo(line)
        return
    sys.exit(sweep.start(wanted, output, **how))


@cli.command(epilog="Example: cpbench tune --method 'dcscore variant=ewc' --budget 4")
@click.option("--method", "words", required=True, help="A method; settings behind it make it a variant.")
@click.option("--budget", type=click.IntRange(min=1), default=4, show_default=True, help="Trials.")
@click.option(
    "--output", type=click.Path(path_type=Path), default=Path("results/tune"), show_default=True, help="Study and runs."
)
def tune(words: str, budget: int, output: Path) -> None:
    """Search for a method's settings on miniature-val6, and write the best into its preset."""
    from cpbench.tune import tune as search

    for key, value in search(words, budget, output).items():
        click.echo(f"{key:9} {value}")


@cli.command("new-sequence", epilog="Example: cpbench new-sequence my.yaml ~/photos/rex:dog ~/photos/mug:mug")
@click.argument("target", type=click.Path(path_type=Path))
@click.argument("items", nargs=-1, required=True, metavar="FOLDER:NOUN...")
def new_sequence(target: Path, items: tuple[str, ...]) -> None:
    """Write a sequence of your own concepts: folders of pictures, each with the noun for what it shows.

    The pictures are checked first: number, size, copies, unreadable files.
    """
    from cpbench.new_sequence import report_lines, write

    for line in report_lines(write(target, list(items))):
        click.echo(line)


@cli.command()
@click.option("--data", help="Where photographs are: a folder, or hub.  [default: CPBENCH_DATA, or data/]")
def doctor(data: str | None) -> None:
    """Say what is installed, which devices, weights and photographs are within reach, and what to do about the rest."""
    from rich.console import Console
    from rich.table import Table

    from cpbench.doctor import findings

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for f in findings(data):
        table.add_row(
            "[green]ok[/green]" if f.good else "[yellow]--[/yellow]",
            f.what,
            f.found if f.good else f"{f.found}: {f.todo}",
        )
    Console(width=None if sys.stdout.isatty() else 160, highlight=False).print(table)


RUN = click.argument("run_", metavar="RUN", type=click.Path(path_type=Path))
AFTER = click.option("--after", type=click.IntRange(min=1), help="The state after this task.  [default: the last]")


@cli.command(epilog='Example: cpbench sample results/runs/... --after 5 --prompt "a {dog2} in the snow" -n 4')
@RUN
@AFTER
@click.option("--prompt", required=True, help='A concept stands in braces: "a {dog} beside a {vase}".')
@click.option("--count", "-n", "n", type=click.IntRange(1, 1000), default=4, show_default=True, help="Pictures.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Other noise.")
@click.option("--num-inference-steps", type=click.IntRange(min=1), help="Sampler steps.  [default: the sequence's]")
@click.option("--guidance-scale", type=click.FloatRange(min=0), help="Guidance.  [default: the sequence's]")
@click.option("--output", type=click.Path(path_type=Path), default=Path("sample"), show_default=True, help="Folder.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda or mps.")
@with_options(*TRUST)
def sample(
    run_: Path,
    after: int | None,
    prompt: str,
    n: int,
    seed: int,
    num_inference_steps: int | None,
    guidance_scale: float | None,
    output: Path,
    device: str,
    **trusted: bool | None,
) -> None:
    """Draw any prompt with what a run has learned; several concepts at once where the method can."""
    from cpbench import finished
    from cpbench.results import prepare_folder, write_atomically
    from cpbench.sampling import png_bytes

    prepare_folder(output)
    it = finished.open_run(run_, after, device, **trusted)
    for k, picture in enumerate(finished.sample(it, prompt, n, seed, num_inference_steps, guidance_scale)):
        write_atomically(output / f"{k:02d}.png", png_bytes(picture))
        click.echo(output / f"{k:02d}.png")


@cli.command(epilog="Example: cpbench export results/runs/... out/ --after 10")
@RUN
@click.argument("out", type=click.Path(path_type=Path))
@AFTER
@click.option("--concept", help="Which one, for a method that cannot use several at once.")
@with_options(*TRUST)
def export(run_: Path, out: Path, after: int | None, concept: str | None, **trusted: bool | None) -> None:
    """Write what a run has learned as files that plain diffusers loads; README.md in the folder says how."""
    from cpbench import finished

    for path in finished.export(finished.open_run(run_, after, "cpu", **trusted), out, concept):
        click.echo(path)


@cli.command(epilog="Example: cpbench clean --output results/runs --dry-run")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=Path("results/runs"),
    show_default=True,
    help="Where run folders are.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be removed; remove nothing.")
def clean(output: Path, dry_run: bool) -> None:
    """Say what the cache of pictures holds, and remove what no run names and what stopped processes left half written."""
    from cpbench.cleaning import clean as remove

    for line in remove(output, dry_run):
        click.echo(line)


@cli.command("list")
@click.argument("what", type=click.Choice(["methods", "sequences", "backbones"]))
def list_(what: str) -> None:
    """List methods, sequences or backbones."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, words in _known(what).items():
        table.add_row(f"[bold]{name}[/bold]", words)
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def _known(what: str) -> dict[str, str]:
    if what == "methods":
        from cpbench import config

        built_in = config.built_in_methods()
        return {
            n: config.summary_of(n) if n in built_in else "(added by an installed package)"
            for n in config.method_names()
        }
    if what == "sequences":
        from cpbench import sequences

        return {n: sequences.load(n).description for n in sequences.names()}
    from cpbench import config

    return config.BACKBONES


@cli.command()
@click.argument("name")
def describe(name: str) -> None:
    """Tell all about a method, a sequence or a backbone."""
    from cpbench import config, describing, sequences
    from cpbench.errors import near

    if name in config.method_names() or name.endswith(".py"):
        describing.method(name)
    elif name in sequences.names() or name.endswith((".yaml", ".yml")):
        describing.sequence(name)
    elif name in _known("backbones"):
        describing.backbone(name)
    else:
        everything = [*config.method_names(), *sequences.names(), *_known("backbones")]
        raise near(
            name,
            everything,
            "method, sequence or backbone",
            "`cpbench list methods` (sequences, backbones) shows them.",
        )


@cli.command()
@click.argument("where", required=False, metavar="[RESULTS]", type=click.Path(path_type=Path))
@click.option(
    "--results",
    "folder",
    type=click.Path(path_type=Path),
    help="Where finished runs are looked for; the same as RESULTS.  [default: results]",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="Where leaderboard.md, .html, .csv and .json go.  [default: the results folder]",
)
@click.option("--concept", help="Of which concept each method's pictures are shown.  [default: a sequence's first]")
def leaderboard(where: Path | None, folder: Path | None, output: Path | None, concept: str | None) -> None:
    """Make the leaderboard from finished runs: Markdown, an HTML page to sort and filter, CSV and JSON.

    Runs that cannot be compared are in tables of their own. A picture shows one concept by every method.
    """
    if where and folder:
        raise UserError(f"leaderboard: two results folders, {where} and --results {folder}; name one")
    from cpbench.leaderboard import write

    folder = where or folder or Path("results")
    write(folder, output or folder, concept)


@cli.command(epilog="Example: cpbench report results/runs/quick3/miniature/seqlora --plots")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="The page's file.  [default: report.html in the run's folder; of several, in results]",
)
@click.option("--plots", is_flag=True, help="Write the plots as PNG and SVG too, in a folder beside the page.")
def report(runs: tuple[Path, ...], output: Path | None, plots: bool) -> None:
    """Write one page of a run that opens anywhere: pictures, matrices, curves, cost; of several runs, side by side."""
    from cpbench.html_report import write

    for path in write(runs, output, plots):
        click.echo(path)


@cli.command(
    epilog="Example: cpbench compare results/runs/quick3/miniature/seqlora results/runs/quick3/miniature/dcscore"
)
@click.argument("one", metavar="RUN", type=click.Path(path_type=Path))
@click.argument("other", metavar="RUN", type=click.Path(path_type=Path))
def compare(one: Path, other: Path) -> None:
    """Say whether two runs differ: paired by concept, prompt and noise, with an interval and a p value over concepts."""
    from rich.console import Console

    from cpbench.paired_runs import compared, left_out, table

    runs, row, found, notes = compared(one, other)
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    console.print(table(runs, row, found))
    for line in [*left_out(found), *notes]:
        console.print(line, markup=False)
    if min(it.concepts for it in found.values()) < 6:
        console.print("With fewer than six concepts no difference can be shown: p cannot fall below 0.05.")


@cli.command(epilog="Example: cpbench score results/runs/quick3/sd15/seqlora --judge clip-vit-l-14")
@RUN
@click.option("--judge", "names", multiple=True, help="A published judge; once for each kind.")
@click.option("--clip", help="CLIP judge: published name, .safetensors file or folder.")
@click.option("--dino", help="DINO judge, likewise.")
@with_options(*JUDGING)
@click.option("--data", help="Where photographs are: a folder, or hub.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda or mps.")
def score(
    run_: Path,
    names: tuple[str, ...],
    clip: str | None,
    dino: str | None,
    data: str | None,
    device: str,
    **preprocessing: str | None,
) -> None:
    """Judge a run's saved pictures again, by other judges; nothing is drawn. What comes out is in RUN/scored."""
    from rich.console import Console

    from cpbench.report import run_tables
    from cpbench.runner import pick_device
    from cpbench.scoring import again, kinds_of

    named = kinds_of(names)
    folder, concepts, last = again(
        run_, clip or named.get("clip"), dino or named.get("dino"), data, pick_device(device), **preprocessing
    )
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    for table in run_tables(folder, concepts, last):
        console.print(table)
    click.echo(folder)


@cli.command(epilog="Example: cpbench classify results/runs/quick3/miniature/seqlora --rows 0,1,3")
@RUN
@click.option("--rows", multiple=True, callback=_numbered, help="Which rows, e.g. 0,5,10.  [default: all with a state]")
@click.option(
    "--draws", type=click.IntRange(1, 1000), default=4, show_default=True, help="Noises and timesteps a picture."
)
@click.option("--data", help="Where photographs are: a folder, or hub.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda or mps.")
@with_options(*TRUST)
def classify(
    run_: Path, rows: list[int] | None, draws: int, data: str | None, device: str, **trusted: bool | None
) -> None:
    """Ask the model itself which concept each real picture shows: a retention matrix without a judge.

    A picture is of the concept whose words best predict the noise put on it. What comes out is in RUN/classifier; rows
    that are there already stay.
    """
    from rich.console import Console

    from cpbench import classifier_matrix

    done = classifier_matrix.classify(run_, rows, draws, data, device, **trusted)
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    for table in classifier_matrix.tables(done.matrix):
        console.print(table)
    if done.left_out:
        click.echo(f"left out: {classifier_matrix.said(done.left_out)} not on disk")
    click.echo(f"chance: one in the concepts of a row; UNet evaluations: {done.spent[0]} now, {done.spent[1]} in all")
    click.echo(done.folder)


@cli.command(epilog='Example: cpbench world "a dog in the snow" --subject dog2 --count 8 --output dog.png')
@click.argument("caption", required=False)
@click.option("--subject", help="Who is drawn.  [default: strangers of the class that the caption names]")
@click.option("--count", type=click.IntRange(1, 400), default=8, show_default=True, help="Pictures of a caption.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Other poses, lights, strangers."
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="Folder of the sheets, or the caption's PNG file.  [default: sheets, or caption.png]",
)
def world(caption: str | None, subject: str | None, count: int, seed: int, output: Path | None) -> None:
    """Draw contact sheets of the miniature's world, or any caption.

    Without a caption: subjects.png, places.png, outfits.png, finishes.png and individuals.png in the output folder.
    """
    if caption is None and subject is not None:
        raise UserError(f'--subject {subject} needs a caption: cpbench world "a dog in the snow" --subject {subject}')
    from cpbench.miniature.world import sheets

    if caption is None:
        for path in sheets.write_sheets(output or Path("sheets")):
            click.echo(path)
        return
    target = output or Path("caption.png")
    sheets.write_caption(caption, target, subject, count, seed)
    click.echo(target)


@cli.command()
@click.argument("parts", nargs=-1, type=click.Choice(["vae", "unet", "clip", "dino", "checks"]))
@click.option("--all", "everything", is_flag=True, help="Every part.")
@click.option(
    "--work",
    type=click.Path(path_type=Path),
    default=Path(".train"),
    show_default=True,
    help="Checkpoints and drawn pictures.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="Where the weights go.  [default: the package's own folder]",
)
@click.option("--device", default="auto", show_default=True, help="cpu or cuda.")
@click.option(
    "--card", is_flag=True, help="Measure the model and write its card, docs/miniature.md, instead of training."
)
def pretrain(
    parts: tuple[str, ...], everything: bool, work: Path, output: Path | None, device: str, card: bool
) -> None:
    """Train parts of the miniature from where a stopped training left off, and write the weights that are complete.

    checks: what the card is measured with, a classifier and a second DINO judge.
    """
    if bool(parts) + everything + card != 1:
        raise UserError("pretrain: name parts (vae, unet, clip, dino, checks), or --all, or --card")
    from rich.console import Console

    from cpbench.backbones import MINIATURE
    from cpbench.runner import pick_device

    if card:
        from cpbench.miniature.pretrain.card import write_card

        write_card(output or MINIATURE, work, Path("docs/miniature.md"), Path("results/runs"))
        return
    from cpbench.miniature.pretrain.stages import PARTS
    from cpbench.miniature.pretrain.stages import pretrain as train
    from cpbench.results import prepare_folder

    prepare_folder(work)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    with console.status("starting") as status:  # shows nothing in a log

        def report(line: str) -> None:
            if console.is_terminal and ": step " in line:
                status.update(line)
            else:
                console.print(line)

        train(parts or PARTS, work, output or MINIATURE, pick_device(device), report)


def main() -> None:
    """Entry point: one clear line and exit code 2 for bad input, 130 when interrupted."""
    try:
        cli(sys.argv[1:] or ["--help"], standalone_mode=False)
    except UserError as error:
        _leave(f"cpbench: {error}", USAGE)
    except click.UsageError as error:
        _leave(
            f"cpbench: {error.format_message()} (see `{error.ctx.command_path if error.ctx else 'cpbench'} --help`)",
            USAGE,
        )
    except click.ClickException as error:
        _leave(f"cpbench: {error.format_message()}", USAGE)
    except (KeyboardInterrupt, click.Abort):
        _leave("cpbench: interrupted; the same command goes on from the last whole task", INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)
    except OSError as error:
        if error.errno is None:  # a library's own, which is no disk's
            raise
        _leave(f"cpbench: {error.filename or 'a file'}: {error.strerror}; {_disk_advice(error.errno)}", FAILED)
    except RuntimeError as error:
        if "RulesError" not in (c.__name__ for c in type(error).__mro__):  # by name: audit is not imported yet
            raise
        _leave(f"cpbench: the method broke the rules: {error}", FAILED)


def _disk_advice(number: int) -> str:
    again = "run the same command again: it goes on from the last whole task"
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"make room there and {again}"
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"make it writable, or name another --output, and {again}"
    return f"see that its disk or network mount is there and {again}"


def _leave(line: str, code: int) -> None:
    click.echo(line, err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
