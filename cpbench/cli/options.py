"""Options that several commands share."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import click

from cpbench import output
from cpbench.cli import candidates

LONGEST_HELP = 1000  # characters of a command's first sentence


class Verbs(click.Group):
    """A group of commands that answers a mistyped name with similar ones, in one line."""

    def resolve_command(self, ctx: click.Context, args: list[str]):
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            from cpbench.errors import did_you_mean

            raise did_you_mean(args[0], self.list_commands(ctx), "command", "`cpbench --help` lists them all.")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Each command with the first sentence of its help, whole: click's own cuts it."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, c.get_short_help_str(LONGEST_HELP)) for name, c in commands if c is not None and not c.hidden]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="cpbench", message="cpbench %(version)s")
@click.pass_context
def cli(context: click.Context) -> None:
    """Benchmark continual personalization of text-to-image diffusion models.

    Concepts arrive one at a time and no data of earlier ones is kept. After every task, pictures of all concepts learned
    so far are generated and judged: what was learned, what was kept, what was forgotten, and what it cost.

    \b
    cpbench run --method dcscore --sequence dreambench10
    cpbench list methods
    cpbench leaderboard
    """
    context.with_resource(output.opened())


# For every command that loads a backbone.
TRUST = (
    click.option(
        "--allow-pickle",
        is_flag=True,
        default=None,
        help="Also load .bin and .pt weights. Dangerous: such a file can run any code when it is loaded.",
    ),
    click.option(
        "--trust-remote-code",
        is_flag=True,
        default=None,
        help="Run the Python code that comes with a backbone or a run. Dangerous: read that code first.",
    ),
)


def _listed(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> list[str] | None:
    """["a", "b", "c"] of "a,b --methods c"; commas in brackets do not separate."""
    words = [w.strip() for value in values for w in re.split(r",(?![^\[]*\])", value)]
    if "" in words:
        raise click.BadParameter("has an empty entry; write a,b,c", context, parameter)
    return words or None


def _numbered(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> list[int] | None:
    words = _listed(context, parameter, values)
    if words and not all(w.isdigit() for w in words):
        raise click.BadParameter("must be whole numbers, such as 0,1,2", context, parameter)
    return words and [int(w) for w in words]


JUDGING = (
    click.option(
        "--clip-preprocessing",
        metavar="KEY=VALUE,...",
        help="Change the CLIP judge's preprocessing: any of resize=256, crop=224, interpolation=bicubic, mean=R/G/B, std=R/G/B.",
    ),
    click.option(
        "--dino-preprocessing", metavar="KEY=VALUE,...", help="Change the DINO judge's preprocessing, likewise."
    ),
    click.option(
        "--clip-activation",
        type=click.Choice(["gelu", "quickgelu"]),
        help="Activation of a CLIP judge whose .safetensors file has no config beside it.",
    ),
)
ONE_RUN = (
    click.option(
        "--method",
        shell_complete=candidates.methods,
        help="Built-in name (see `cpbench list methods`) or path of a Python file that defines a Method.",
    ),
    click.option(
        "--sequence",
        shell_complete=candidates.sequences,
        help="Built-in name (see `cpbench list sequences`) or path of a YAML file.",
    ),
    click.option(
        "--backbone",
        shell_complete=candidates.backbones,
        help="Built-in name (see `cpbench list backbones`), hub id or local diffusers folder.  [default: miniature]",
    ),
    click.option("--seed", type=click.IntRange(min=0), help="Seed of everything random.  [default: 0]"),
    click.option(
        "--order",
        type=click.IntRange(min=0),
        help="Order of the concepts: 0 is the file's, k > 0 a permutation seeded by k.  [default: 0]",
    ),
)
SHARED = (
    click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="KEY=VALUE",
        help="Set an option of the method, or evaluation.<key>. Repeatable.",
    ),
    click.option(
        "--config",
        type=click.Path(path_type=Path),
        help="YAML file with any of these settings; the command line takes precedence.",
    ),
    click.option(
        "--output", type=click.Path(path_type=Path), help="Parent of the run folders.  [default: results/runs]"
    ),
    click.option("--device", help="cpu, cuda or mps.  [default: the best available]"),
    click.option(
        "--deterministic",
        is_flag=True,
        default=None,
        help="Give the same bits at every call on CUDA: deterministic algorithms, no TF32; slower. The CPU always does.",
    ),
    click.option(
        "--keep-states",
        type=click.Choice(["all", "last"]),
        help="Keep the states of all tasks on disk, or the last.  [default: last if whole weights are learned, else all]",
    ),
    click.option(
        "--rows",
        multiple=True,
        callback=_numbered,
        help="Rows of the matrix to generate besides row 0 and the last, e.g. 10,20,30; short for --set evaluation.rows=[10,20,30].  [default: all]",
    ),
    click.option(
        "--overlap/--no-overlap",
        default=None,
        help="Generate and judge while the next task is learned.  [default: on a CPU with spare cores; another GPU is used only with --overlap]",
    ),
    click.option(
        "--compile",
        type=click.Choice(["auto", "on", "off"]),
        help="Compile the denoiser for generation: faster after a minute or two, other last bits.  [default: auto, if the run is long enough to repay it]",
    ),
    click.option(
        "--data", help="Folder with the photographs, or hub.  [default: $CPBENCH_DATA, or as the sequence says]"
    ),
    click.option(
        "--fit",
        type=click.Choice(["crop", "pad"]),
        help="Make photographs square by cropping or padding.  [default: crop]",
    ),
    click.option("--clip", help="CLIP judge: published name, .safetensors file or folder.  [default: the backbone's]"),
    click.option("--dino", help="DINO judge, given likewise.  [default: the backbone's]"),
    click.option(
        "--judge",
        "judges",
        multiple=True,
        callback=_listed,
        help="Add a judge of an installed package to CLIP and DINO. Repeatable.",
    ),
    *JUDGING,
    click.option(
        "--dtype",
        type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
        help="Precision of the backbone.  [default: float32; on CUDA, bfloat16 from 200 million weights]",
    ),
    click.option("--resolution", type=click.IntRange(min=32), help="Pixels per side.  [default: the backbone's]"),
    click.option("--revision", help="Commit, tag or branch of the hub repository.  [default: pinned, or main]"),
    click.option("--variant", help="Variant of the weights, e.g. fp16.  [default: the usual one, or the only one]"),
    click.option("--vae", help="Use another autoencoder (tiny ones work too): hub id or folder."),
    click.option(
        "--gradient-checkpointing", is_flag=True, default=None, help="Save memory in learning, at the cost of time."
    ),
    click.option(
        "--attention-slicing", is_flag=True, default=None, help="Save memory in attention, at the cost of time."
    ),
    click.option(
        "--offload", is_flag=True, default=None, help="Save GPU memory in generation: move idle networks to the CPU."
    ),
    click.option(
        "--t5",
        is_flag=True,
        default=None,
        help="Load also T5, the third text encoder of Stable Diffusion 3: 9 GB more in bfloat16.",
    ),
    click.option(
        "--instruction",
        type=click.Choice(["default", "none"]),
        help="What a language model is told before each prompt (Sana).  [default: as the pipeline does]",
    ),
    click.option(
        "--quantization",
        type=click.Choice(["none", "int8", "nf4"]),
        help="Hold the denoiser's linear layers in 8 or 4 bits, with a LoRA beside them (QLoRA).  [default: none]",
    ),
    click.option(
        "--text-encoder-quantization",
        type=click.Choice(["none", "int8"]),
        help="Hold the text encoders' linear layers in 8 bits.  [default: none]",
    ),
    click.option(
        "--allow-distilled",
        is_flag=True,
        default=None,
        help="Learn on a model that was distilled for a few steps, such as turbo.",
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


RUN = click.argument("run_", metavar="RUN", type=click.Path(path_type=Path), shell_complete=candidates.runs)
AFTER = click.option("--after", type=click.IntRange(min=1), help="Use the state after this task.  [default: the last]")
