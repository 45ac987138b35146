"""One task at a model's true size, with random weights: peak memory, seconds per step, pictures per second.

    .venv/bin/python benchmarks/true_size.py sd15 --resolution 256 --dtype bfloat16 --num-inference-steps 2 \
        seqlora clora "raretoken adapter=lora"

builds the architecture once in --work (in bfloat16 5 GB for sd15, 7 for sdxl, 6 for sd35-medium, 11 for pixart-alpha-512, 7 for
sana-600m). Then, in a separate process per method, it
loads the architecture, learns one concept for --steps steps, saves, reloads and installs the state, and generates pictures.
It prints one line per method and a Markdown table at the end, and writes all figures to --output (JSON). Without methods it
runs all of them (on sd15 and sd21-base; elsewhere those that do not train the whole denoiser). The first step is a warm-up and is not timed.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

ARCHITECTURES = ("sd15", "sd21-base", "sdxl", "sd3-medium", "sd35-medium", "pixart-alpha-512", "pixart-sigma-1024")
ARCHITECTURES += ("sana-600m", "sana-1600m", "flux-dev")
ROOT = Path(__file__).resolve().parent.parent
SHORT = ("steps", "token_steps", "dsc_steps", "fisher_samples")
COLUMNS = {
    "method": "method",
    "trained": "trained, millions",
    "state_mb": "state, MB",
    "learning_peak_gb": "peak memory, learning, GB",
    "seconds_per_step": "s per step",
    "generation_peak_gb": "peak memory, generation, GB",
    "pictures_per_second": "pictures per second",
}


def all_methods(architecture: str) -> list[str]:
    from cpbench.registry import built_in_methods

    methods = [*built_in_methods(), "raretoken adapter=lora"]
    return [m for m in methods if architecture in ("sd15", "sd21-base") or m != "raretoken"]


def run_method(method: str, folder: Path, o: dict) -> dict[str, object]:
    """Learn, save, reload, install and generate; returns the figures of one method."""
    import numpy as np
    import torch

    from cpbench import backbones, config
    from cpbench.backbones.options import BackboneConfig
    from cpbench.backbones.sampling import Sampler, SampleRequest, generate
    from cpbench.method import State, Task
    from cpbench.registry import load_method
    from cpbench.running.cost import PeakMemory
    from cpbench.validation import validated

    name, *settings = method.split()
    method_class = load_method(name)
    values = {k: o["steps"] for k in SHORT if k in method_class.Options.model_fields} | config.parse_settings(
        tuple(settings)
    )
    if "batch_size" in method_class.Options.model_fields:
        values["batch_size"] = o["batch_size"]
    options = validated(method_class.Options, values, f"method {name}")
    loading = BackboneConfig(
        dtype=o["dtype"],
        resolution=o["resolution"],
        gradient_checkpointing=o["gradient_checkpointing"],
        offload=o["offload"],
    )
    backbone = backbones.load(str(folder), o["device"], loading)
    method_class(options).check(backbone)
    size = backbone.picture_size
    pictures = np.random.default_rng(0).integers(0, 256, (4, size, size, 3), dtype=np.uint8)
    times: list[float] = []

    def log(step: int, phase: str = "train", **figures: float) -> None:
        times.append(time.perf_counter())

    state = None
    with PeakMemory(backbone.device) as learning:
        state = method_class(options).learn(backbone, Task(1, "dog", "dog", pictures, 0, log), State())
        backbone.restore()
        trained = backbone.trainable_parameters
        with tempfile.TemporaryDirectory(dir=folder.parent) as folder_name:
            state.save(Path(folder_name))
            state = State.load(Path(folder_name))
    per_step = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else float("nan")
    restored, n = method_class(options), o["pictures"]
    wanted = [SampleRequest(f"a {restored.phrase('dog', 'dog', state)}", 0, "dog", "a {}", k) for k in range(n)]
    with PeakMemory(backbone.device) as generation, backbone.installed(restored, state, ("dog",)):
        start = time.perf_counter()
        drawn = generate(backbone, wanted, Sampler(o["num_inference_steps"], 5.0, n))
        seconds = time.perf_counter() - start
    assert drawn.shape == (n, size, size, 3)
    return {
        "method": method,
        "trained": trained / 1e6,
        "state_mb": sum(state.bytes_by_type().values()) / 1e6,
        "learning_peak_gb": learning.peak / 1e9,
        "seconds_per_step": per_step,
        "generation_peak_gb": generation.peak / 1e9,
        "pictures_per_second": n / seconds,
        "device": torch.cuda.get_device_name() if o["device"] == "cuda" else f"cpu, {torch.get_num_threads()} threads",
    }


def pipeline_of(architecture: str, dtype: str, work: Path) -> Path:
    """The folder of the random-weight pipeline, which is built on first use."""
    import torch

    sys.path.insert(0, str(ROOT / "tests"))
    import architectures
    import transformer_pipelines

    build = transformer_pipelines.BUILDERS.get(architecture, architectures.build)
    folder = work / f"{architecture}-{dtype}"
    if not (folder / "pipeline" / "model_index.json").exists():
        build(architecture, folder, small=False, dtype=getattr(torch, dtype))
    return folder / "pipeline"


@click.command(help=__doc__)
@click.argument("architecture", type=click.Choice(ARCHITECTURES))
@click.argument("methods", nargs=-1)
@click.option("--device", default="cpu", show_default=True)
@click.option("--dtype", default="bfloat16", show_default=True)
@click.option("--resolution", default=256, show_default=True)
@click.option("--steps", default=2, show_default=True, help="Optimiser steps per phase.")
@click.option("--batch-size", default=1, show_default=True)
@click.option("--pictures", default=2, show_default=True, help="Pictures to generate, in one batch.")
@click.option("--num-inference-steps", default=2, show_default=True)
@click.option("--gradient-checkpointing", is_flag=True)
@click.option("--offload", is_flag=True)
@click.option("--work", type=click.Path(path_type=Path), default=Path(".cache/true-size"), show_default=True)
@click.option("--output", type=click.Path(path_type=Path), help="JSON file for all figures.")
@click.option("--one", "single_method", hidden=True, help="Run only this method, in this process.")
def main(
    architecture: str, methods: tuple[str, ...], work: Path, output: Path | None, single_method: str | None, **o
) -> None:
    from cpbench import torchvision_compat

    torchvision_compat.apply()
    folder = pipeline_of(architecture, o["dtype"], work)
    if single_method:
        click.echo(json.dumps(run_method(single_method, folder, o)))
        return
    rows = []
    for method in methods or all_methods(architecture):
        flags = [f"--{k.replace('_', '-')}{'' if v is True else f'={v}'}" for k, v in o.items() if v is not False]
        process = subprocess.run(
            [sys.executable, __file__, architecture, f"--work={work}", f"--one={method}", *flags],
            capture_output=True,
            text=True,
        )
        if process.returncode:
            rows.append({"method": method, "failed": (process.stderr.strip() or "killed").splitlines()[-1]})
        else:
            rows.append(json.loads(process.stdout.strip().splitlines()[-1]))
        click.echo(rows[-1])
        if output:
            output.write_text(json.dumps({"architecture": architecture, **o, "rows": rows}, indent=1))
    click.echo(f"\n{architecture}, {json.dumps(o)}\n")
    click.echo("| " + " | ".join(COLUMNS.values()) + " |\n|---" + "|--:" * (len(COLUMNS) - 1) + "|")
    for row in rows:
        if "failed" in row:
            click.echo(f"| {row['method']} | {row['failed']} |")
            continue
        figures = ["" if math.isnan(row[c]) else f"{row[c]:.3g}" for c in COLUMNS if c != "method"]
        click.echo(f"| {' | '.join([row['method'], *figures])} |")


if __name__ == "__main__":
    main()
