"""Options that several verbs share."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import click

from cpbench import output


class Verbs(click.Group):
    """A group that answers a mistyped verb with near matches, in one line."""

    def resolve_command(self, ctx: click.Context, args: list[str]):
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            from cpbench.errors import did_you_mean

            raise did_you_mean(args[0], self.list_commands(ctx), "command", "`cpbench --help` says what each does.")
        return super().resolve_command(ctx, args)


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="cpbench", message="cpbench %(version)s")
@click.pass_context
def cli(context: click.Context) -> None:
    """Benchmark continual personalization of text-to-image diffusion models.

    Concepts arrive one at a time, no data of earlier ones is kept, and after every task everything learned so far is
    drawn and judged: what was learned, what was kept, what was forgotten, and what it cost.

    \b
    cpbench run --method dcscore --sequence dreambench10
    cpbench list methods
    cpbench leaderboard
    """
    context.with_resource(output.opened())


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
    click.option(
        "--judge",
        "judges",
        multiple=True,
        callback=_listed,
        help="A judge that an installed package adds, beside CLIP and DINO; may be repeated.",
    ),
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


RUN = click.argument("run_", metavar="RUN", type=click.Path(path_type=Path))
AFTER = click.option("--after", type=click.IntRange(min=1), help="The state after this task.  [default: the last]")
