"""Learning speed against diffusers' own LoRA script, on the miniature: one core, one thread each, interleaved.

    git clone https://github.com/huggingface/diffusers    # take the tag of the installed version, or the last before it
    .venv/bin/python benchmarks/against_diffusers.py diffusers/examples/dreambooth --repeats 3

Both train a LoRA of rank 8 on the attention layers with AdamW over the same pictures of the three concepts of quick3, with
equal steps and pictures per step. train_dreambooth_lora.py cannot continue a LoRA: it is one process per concept. Ours is
one run over all three, in which the model is sampled and judged before and after as well.

Prints seconds per step (theirs between the first and the last step, without imports; ours the whole learning stage) and
seconds of the whole (processes with imports), as medians and ratios, and a last line of JSON.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from statistics import median

import click
import timing
from PIL import Image
from rival import seconds_per_step

from cpbench.numbers import number

CONCEPTS = {"dog": "dog", "backpack": "backpack", "dog2": "dog"}  # of quick3, with their class nouns
ATTENTION = "[to_q,to_k,to_v,to_out.0]"


def theirs(script: Path, pipeline: Path, concepts: Path, work: Path, steps: int) -> list[float]:
    """Train each concept in a process of its own. Returns the seconds per step of each."""
    durations = []
    for name, class_noun in CONCEPTS.items():
        arguments = {
            "pretrained_model_name_or_path": pipeline,
            "instance_data_dir": concepts / name,
            "instance_prompt": f"a photo of sks {class_noun}",
            "resolution": 64,
            "train_batch_size": 4,
            "gradient_accumulation_steps": 1,
            "max_train_steps": steps,
            "learning_rate": 1e-4,
            "lr_scheduler": "constant",
            "lr_warmup_steps": 0,
            "rank": 8,
            "seed": 0,
            "checkpointing_steps": 1_000_000,
            "output_dir": work / name,
        }
        flags = [f"--{key}={value}" for key, value in arguments.items()]
        steps_file = work / f"{name}.json"
        timing.execute([sys.executable, timing.ROOT / "benchmarks/rival.py", steps_file, script, *flags], work)
        durations.append(seconds_per_step(steps_file))
    return durations


def ours(output: Path, steps: int, compile_flags: list[str]) -> list[float]:
    """Run seqlora over the three concepts. Returns the seconds per step of each."""
    settings = {
        "rank": 8,
        "steps": steps,
        "batch_size": 4,
        "target_modules": ATTENTION,
        "evaluation.num_inference_steps": 1,
        "evaluation.pictures_per_prompt": 1,
    }
    flags = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    run = ["run", "--method", "seqlora", "--sequence", "quick3", "--rows", "3", "--no-overlap", "--device", "cpu"]
    timing.cpbench(*run, *flags, *compile_flags, "--output", output)
    costs = timing.run_record(output)["costs"]
    return [costs[task_index]["learning_seconds"] / steps for task_index in ("1", "2", "3")]


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--steps", default=100, show_default=True, type=click.IntRange(min=2))
@click.option("--repeats", default=3, show_default=True)
@click.option("--compile", "compile_choice", type=click.Choice(["auto", "on", "off"]), help="Passed to our run.")
def main(folder: Path, steps: int, repeats: int, compile_choice: str | None) -> None:
    from cpbench.backbones import hub
    from cpbench.concepts import images

    script = (folder / "train_dreambooth_lora.py").resolve()
    if not script.is_file():
        raise click.ClickException(f"{script}: there is no such file; pass diffusers' examples/dreambooth")
    compile_flags = timing.compile_flags(compile_choice)
    timing.pin()
    per_step: dict[str, list[float]] = {"diffusers": [], "cpbench": []}
    with tempfile.TemporaryDirectory() as work_name:
        work = Path(work_name)
        for name in CONCEPTS:
            (work / "concepts" / name).mkdir(parents=True)
            for k, picture in enumerate(images.rendered(name)):
                Image.fromarray(picture).save(work / "concepts" / name / f"{k}.png")
        pipeline = hub.folder_of("miniature", None)[0]

        def run_theirs() -> None:
            folder = Path(tempfile.mkdtemp(dir=work))
            per_step["diffusers"] += theirs(script, pipeline, work / "concepts", folder, steps)

        def run_ours() -> None:
            per_step["cpbench"] += ours(Path(tempfile.mkdtemp(dir=work)), steps, compile_flags)

        whole = timing.medians(timing.interleaved({"diffusers": run_theirs, "cpbench": run_ours}, repeats))
    step = {name: median(values) for name, values in per_step.items()}
    ratios = {"step": step["diffusers"] / step["cpbench"], "whole": whole["diffusers"] / whole["cpbench"]}
    rows = [
        ["seconds per learning step", *(f"{step[n]:.3g}" for n in step), number(ratios["step"], 2)],
        ["seconds for three concepts", *(f"{whole[n]:.3g}" for n in step), number(ratios["whole"], 2)],
    ]
    click.echo(f"{timing.where()}; {steps} steps, {repeats} repetitions, compile {compile_choice or 'not asked'}\n")
    click.echo(timing.table(["", "diffusers", "cpbench", "ratio"], rows))
    click.echo(json.dumps({"step": step, "whole": whole, "ratios": ratios, "where": timing.where()}))


if __name__ == "__main__":
    main()
