"""sample and export."""

from __future__ import annotations

from pathlib import Path

import click

from cpbench.cli.options import AFTER, RUN, TRUST, cli, with_options


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
    from cpbench.files import prepare_folder, write_atomically
    from cpbench.finished import load
    from cpbench.records.pictures import png_bytes

    prepare_folder(output)
    it = load.open_run(run_, after, device, **trusted)
    for k, picture in enumerate(load.sample(it, prompt, n, seed, num_inference_steps, guidance_scale)):
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
    from cpbench.finished.export import export as write_files
    from cpbench.finished.load import open_run

    for path in write_files(open_run(run_, after, "cpu", **trusted), out, concept):
        click.echo(path)
