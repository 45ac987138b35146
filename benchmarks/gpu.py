"""How much of a GPU learning and sampling use: one command, below 8 minutes on an H200.

    python benchmarks/gpu.py                 # on a CUDA device
    python benchmarks/gpu.py --dry-run       # the same code on the CPU, with tiny networks; its figures mean nothing

Stable Diffusion 1.5 and XL of true size with random weights, in bfloat16: seqlora's learning steps at batch 4 and sampling
with guidance, each by the difference of a long and a short call, so that what is done once does not count. A share is of
the device's dense bfloat16 peak: floating-point operations of the pristine network (torch's counter; in learning its
forward and its backward to the activations, without the LoRA's own few) over the measured time. Beside them are the host's
seconds per picture: PNG, SHA-256, and both judges.

It needs no weights, no results and no network. Each line is JSON and is printed when it is measured, so that a run that is
stopped keeps the earlier ones.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import timing
import torch
import true_networks
from torch.utils.flop_counter import FlopCounterMode

from cpbench.backbones.backbone import Backbone
from cpbench.backbones.sampling import Sampler, SampleRequest, generate
from cpbench.method import State
from cpbench.records.pictures import png_bytes
from cpbench.registry import load_method

# dense bfloat16, from the makers' data sheets
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "RTX 4090": 165e12}
GUIDANCE = 5.0


def seconds(work: Callable[[], object], device: str) -> float:
    """Wall seconds of a call, with all that it started on the device."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def per_unit(work: Callable[[int], object], short: int, long: int, device: str) -> float:
    """Seconds per unit of work(n), by the difference of a long and a short call, after a first short one."""
    work(short)
    durations = {n: seconds(lambda n=n: work(n), device) for n in (short, long)}
    return (durations[long] - durations[short]) / (long - short)


def forward_flops(backbone: Backbone, pictures: int, backward: bool) -> int:
    """Operations of the pristine denoiser's forward, with or without its backward to its inputs."""
    latents = torch.randn(pictures, *backbone.latent_shape).to(backbone.device, backbone.dtype)
    t = backbone.process.evenly(1).to(backbone.device).expand(pictures)
    with torch.set_grad_enabled(backward):
        embeds = backbone.encode_prompts(["a dog"]).expand(pictures, -1, -1).detach().requires_grad_(backward)
        with FlopCounterMode(display=False) as counter:
            output = backbone.predict(latents.requires_grad_(backward), t, embeds)
            if backward:
                output.float().sum().backward()
    return counter.get_total_flops()


def learn(backbone: Backbone, steps: int, batch_size: int) -> State:
    """seqlora's first task."""
    method_class = load_method("seqlora")
    options = method_class.Options(steps=steps, batch_size=batch_size, rank=8, target_modules=("attention",))
    state = method_class(options).learn(backbone, true_networks.task(backbone.picture_size), State())
    backbone.restore()
    return state


def sample(backbone: Backbone, state: State, steps: int, pictures: int) -> np.ndarray:
    """Pictures of the learned concept, in one batch."""
    method_class = load_method("seqlora")
    method = method_class(method_class.Options(rank=8, target_modules=("attention",)))
    prompt = f"a photo of a {method.phrase('dog', 'dog', state)}"
    requests = [SampleRequest(prompt, 0, "dog", "a photo of a {}", k) for k in range(pictures)]
    with backbone.installed(method, state, ("dog",)):
        return generate(backbone, requests, Sampler(steps, GUIDANCE, pictures))


def network_rows(name: str, device: str, dry: bool, emit: Callable[..., None]) -> None:
    """Measure learning, sampling and the host's work on pictures of one network's size."""
    dtype = torch.float32 if dry else torch.bfloat16  # which most CPUs only emulate
    backbone = true_networks.backbone(name, device, dtype, small=dry, thin=dry)
    short, long = (1, 3) if dry else (4, 24)
    batch_size, pictures = 4, {"sd15": 16, "sdxl": 8}[name] if not dry else 2
    step = per_unit(lambda n: learn(backbone, n, batch_size), short, long, device)
    emit(name, "learning step", step, flops=forward_flops(backbone, batch_size, backward=True), batch_size=batch_size)
    state = learn(backbone, 1, batch_size)
    step = per_unit(lambda n: sample(backbone, state, n, pictures), short, long, device)
    flops = forward_flops(backbone, 2 * pictures, backward=False)  # with guidance each picture is two
    emit(name, "sampling step", step, flops=flops, batch_size=pictures)
    drawn_pictures: list[np.ndarray] = []
    whole = seconds(lambda: drawn_pictures.extend(sample(backbone, state, short, pictures)), device)
    emit(name, "picture besides its steps", whole / pictures - step * short / pictures)
    encoded = seconds(lambda: [png_bytes(picture) for picture in drawn_pictures], device)
    emit(name, "PNG per picture", encoded / pictures)
    hashed = seconds(lambda: [hashlib.sha256(picture.tobytes()).digest() for picture in drawn_pictures], device)
    emit(name, "SHA-256 per picture", hashed / pictures)


def judge_rows(sizes: list[int], device: str, emit: Callable[..., None]) -> None:
    """Measure the published judges' architectures on random pictures of these sizes."""
    import random_models

    from cpbench.judges import published

    with tempfile.TemporaryDirectory() as folder:
        files = random_models.judge_files(Path(folder))
        judges = [
            published.load("clip", str(files["clip"]), device, activation="quickgelu"),
            published.load("dino", str(files["dino"]), device),
        ]
    for size in sizes:
        noise = np.random.default_rng(size).integers(0, 256, (32, size, size, 3), dtype=np.uint8)
        for judge in judges:
            judge.images(noise[:2])
            duration = seconds(lambda judge=judge, noise=noise: judge.images(noise[2:]), device)
            emit(f"{size} pixels", f"{judge.name} per picture", duration / 30)


@click.command(help=__doc__)
@click.argument("networks", nargs=-1, type=click.Choice(["sd15", "sdxl"]))
@click.option("--dry-run", is_flag=True)
@click.option("--output", type=click.Path(path_type=Path), help="Also append the lines to this file.")
def main(networks: tuple[str, ...], dry_run: bool, output: Path | None) -> None:
    if not dry_run and not torch.cuda.is_available():
        raise click.ClickException("there is no CUDA device here; --dry-run tries the same code on the CPU")
    device = "cpu" if dry_run else "cuda"
    name = timing.processor() if dry_run else torch.cuda.get_device_name()
    peak = None if dry_run else next((peak for key, peak in PEAKS.items() if key in name), None)
    start = time.perf_counter()

    def emit(network: str, measure: str, duration: float, flops: int | None = None, **more: Any) -> None:
        row = {"network": network, "measure": measure, "seconds": duration, **more}
        if flops is not None:
            row |= {"tflops": flops / 1e12, "share_of_peak": flops / duration / peak if peak else None}
        line = json.dumps(row | {"device": name, "torch": torch.__version__, "at": round(time.perf_counter() - start)})
        click.echo(line)
        if output:
            with output.open("a") as file:
                file.write(line + "\n")

    for network in networks or ("sd15", "sdxl"):
        network_rows(network, device, dry_run, emit)
        if not dry_run:
            torch.cuda.empty_cache()
    judge_rows([64] if dry_run else [512, 1024], device, emit)
    click.echo(json.dumps({"finished": True, "minutes": round((time.perf_counter() - start) / 60, 1)}))


if __name__ == "__main__":
    main()
