"""sample and export."""

from __future__ import annotations

from pathlib import Path

import click

from cpbench.cli.options import AFTER, RUN, TRUST, cli, with_options


@cli.command(epilog='Example: cpbench sample results/runs/... --after 5 --prompt "a {dog2} in the snow" -n 4')
@RUN
@AFTER
@click.option("--prompt", required=True, help='Prompt with concepts in braces: "a {dog} next to a {vase}".')
@click.option(
    "--count", "-n", "n", type=click.IntRange(1, 1000), default=4, show_default=True, help="Number of pictures."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the noise.")
@click.option("--num-inference-steps", type=click.IntRange(min=1), help="Sampler steps.  [default: the run's]")
@click.option("--guidance-scale", type=click.FloatRange(min=0), help="Classifier-free guidance.  [default: the run's]")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=Path("sample"),
    show_default=True,
    help="Folder for the pictures.",
)
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
    """Generate pictures from a run. The prompt may name several concepts if the method supports that.

    Pictures are numbered after those in the folder; sample.json says how each was made.
    """
    from cpbench.files import prepare_folder
    from cpbench.finished import load, sample_folder

    prepare_folder(output)
    sample_folder.entries_of(output)  # a damaged sample.json is refused before anything is generated
    trained_run = load.open_run(run_, after, device, **trusted, check=lambda learned: load.concepts_in(prompt, learned))
    pictures = load.sample(trained_run, prompt, n, seed, num_inference_steps, guidance_scale)
    request = load.request_of(trained_run, prompt, seed, num_inference_steps, guidance_scale)
    for path in sample_folder.write(output, pictures, request):
        click.echo(path)


@cli.command(epilog="Example: cpbench export results/runs/... out/ --after 10")
@RUN
@click.argument("out", type=click.Path(path_type=Path))
@AFTER
@click.option("--concept", help="Concept to export, for a method that cannot use several at once.")
@with_options(*TRUST)
def export(run_: Path, out: Path, after: int | None, concept: str | None, **trusted: bool | None) -> None:
    """Export a run to diffusers. README.md in the folder shows how to load the files with plain diffusers."""
    from cpbench.finished import export as exporting
    from cpbench.finished.load import open_run

    trained_run = open_run(run_, after, "cpu", **trusted, check=lambda learned: exporting.refuse(out, concept, learned))
    for path in exporting.export(trained_run, out, concept):
        click.echo(path)
