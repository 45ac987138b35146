"""Kernels of one learning step on a GPU, counted on a machine without one.

    python benchmarks/kernels.py sd15 sdxl
    python benchmarks/kernels.py sd15 --by-op

Learns a concept as `seqlora` does (LoRA of rank 8 on attention, a new word, batch 1, bfloat16) with the program's own code
on the true networks, whose tensors have no data; see fake_gpu.py for what counts as a kernel. The last line is JSON:
{"sd15": n, "sdxl": n}. A step is counted from the denoiser's second call to its third: the first step, in which the
optimiser allocates its moments, is left out, and so is whatever the program does only every tenth step.
--method: another method that learns by the same loop; --by-op: the most frequent operations of each network first.
--thin: a part of the networks, two levels of one layer each, which takes a third of the time; not their true number.
"""

from __future__ import annotations

import json
from collections import Counter

import click
import fake_gpu

STEPS = 3
ARCHITECTURES = ("sd15", "sdxl", "sd3-medium", "sd35-medium", "pixart-alpha-512", "pixart-sigma-1024")
ARCHITECTURES += ("sana-600m", "sana-1600m", "flux-dev")


class Counted(Exception):
    """Leaves the training loop at the denoiser's third call."""


def kernels(architecture: str, method: str = "seqlora", thin: bool = False) -> Counter[str]:
    """The kernels of a method's second learning step on an architecture, by the names of torch's operations."""
    import torch
    import true_networks

    from cpbench.method import State
    from cpbench.registry import load_method

    method_class = load_method(method)
    options = method_class.Options(steps=STEPS, batch_size=1, rank=8, target_modules=("attention",))
    snapshots: list[Counter[str]] = []

    def snapshot(module: torch.nn.Module, inputs: tuple) -> None:
        snapshots.append(gpu.kernels.copy())
        if len(snapshots) == STEPS:
            raise Counted

    with fake_gpu.FakeGpu() as gpu:
        backbone = true_networks.backbone(architecture, "cuda", torch.bfloat16, thin=thin)
        backbone.denoiser.register_forward_pre_hook(snapshot)
        task = true_networks.task(backbone.picture_size, pictures=1)
        try:
            method_class(options).learn(backbone, task, State())
        except Counted:
            return snapshots[2] - snapshots[1]
    raise RuntimeError(f"{method} called the denoiser {len(snapshots)} times in {STEPS} steps; {STEPS} were expected")


@click.command(help=__doc__)
@click.argument("architectures", nargs=-1, required=True, type=click.Choice(ARCHITECTURES))
@click.option("--method", default="seqlora", show_default=True)
@click.option("--by-op", is_flag=True)
@click.option("--thin", is_flag=True)
def main(architectures: tuple[str, ...], method: str, by_op: bool, thin: bool) -> None:
    try:
        fake_gpu.register()
    except RuntimeError as error:
        raise click.ClickException(str(error)) from error
    counts = {architecture: kernels(architecture, method, thin) for architecture in architectures}
    if by_op:
        for architecture, counter in counts.items():
            click.echo(f"{architecture}: {counter.total()} kernels\n")
            click.echo("| operation | kernels |\n|---|--:|")
            click.echo("\n".join(f"| {name} | {count} |" for name, count in counter.most_common(10)) + "\n")
    click.echo(json.dumps({architecture: counter.total() for architecture, counter in counts.items()}))


if __name__ == "__main__":
    main()
