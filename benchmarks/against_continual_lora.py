"""Learning, sampling and judging against continual-lora, on a small SDXL with random weights: one core, one thread each.

    git clone https://github.com/luk-st/continual-lora
    .venv/bin/pip install tensorboard seaborn        # for continual-lora only
    .venv/bin/python benchmarks/against_continual_lora.py continual-lora --photographs data/dreambooth/dataset

Three concepts one after another (its method naive_cl, ours seqlora): LoRA of rank 8 on the attention layers, batch 4, SDXL's
published configuration with widths divided by ten, 128 pixels; then its five prompts with CLIP and DINO for every learned
concept after every task. Ours also with benchmarks/without_word.py, which trains what continual-lora trains: no new word.

Prints seconds of learning (theirs between the first and the last step, without imports; ours the whole stage), sampling and
judging (theirs whole processes; ours from run.json) and of the whole (all processes; ours without the row of the untouched
model, which continual-lora does not have), ratios of theirs to ours, and a last line of JSON.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

import click
import timing
import yaml
from PIL import Image, ImageOps
from rival import seconds_per_step

from cpbench.numbers import number

CONCEPTS = {"dog": "dog", "backpack": "backpack", "cat": "cat"}
PROMPTS = [
    "a {} in a purple wizard outfit",
    "a {} in a police outfit",
    "a {} wearing a santa hat",
    "a {} in a jail",
    "a {} looking into a mirror",
]
PIPELINE, VAE = "stabilityai/stable-diffusion-xl-base-1.0", "madebyollin/sdxl-vae-fp16-fix"
LATENT_SIDE = 16  # of 128 pixels
BENCHMARKS = Path(__file__).resolve().parent


def jpegs(photographs: Path, target: Path) -> None:
    """The concepts' photographs as .jpg files, the only ones that continual-lora's judges read."""
    for name in CONCEPTS:
        (target / name).mkdir(parents=True)
        for file in sorted(f for f in (photographs / name).iterdir() if f.suffix.lower() in (".jpg", ".jpeg", ".png")):
            picture = ImageOps.exif_transpose(Image.open(file)).convert("RGB")
            picture.save(target / name / f"{file.stem}.jpg", quality=95)


def prepare_checkout(folder: Path, models: Path, concepts: Path, checkout: Path) -> None:
    """A copy of continual-lora with the models where it looks for them."""
    shutil.copytree(folder, checkout, ignore=shutil.ignore_patterns(".git"))
    (checkout / "clip.py").touch()  # imported for a judge of styles that is not used
    links = {
        PIPELINE: models / "pipeline",
        VAE: models / "pipeline" / "vae",
        "openai/clip-vit-base-patch32": models / "clip",
        "facebook/dino-vits16": models / "dino",
    }
    for name, target in links.items():
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).symlink_to(target.resolve())
    tasks = [
        {"index": t, "prompt": f"sks {class_noun}", "path": str(concepts / name)}
        for t, (name, class_noun) in enumerate(CONCEPTS.items(), 1)
    ]
    order = checkout / "models/naive_cl/seed_0_object/seed_42_order"
    order.mkdir(parents=True)
    (order / "config.json").write_text(json.dumps({"tasks": tasks}))


def theirs(python: str, checkout: Path, concepts: Path, steps: int, pictures: int, inference_steps: int) -> dict:
    """Seconds of learning, sampling, judging and the whole of continual-lora's three stages in this copy of it."""
    order, steps_file = "models/naive_cl/seed_0_object/seed_42_order", checkout / "steps.json"

    def call(script: str | Path, *arguments: str) -> float:
        return timing.execute([python, BENCHMARKS / "rival.py", steps_file, script, *arguments], checkout)

    seconds = dict.fromkeys(("learning", "sampling", "judging", "whole"), 0.0)
    for t, (name, class_noun) in enumerate(CONCEPTS.items(), 1):
        arguments = {
            "pretrained_model_name_or_path": PIPELINE,
            "pretrained_vae_model_name_or_path": VAE,
            "instance_data_dir": concepts / name,
            "output_dir": f"{order}/{t}",
            "instance_prompt": f"a photo of sks {class_noun}",
            "rank": 8,
            "resolution": 128,
            "train_batch_size": 4,
            "learning_rate": 1e-4,
            "report_to": "tensorboard",
            "lr_scheduler": "constant",
            "lr_warmup_steps": 0,
            "max_train_steps": steps,
            "seed": 0,
            "experiment_name": "naive_cl",
        }
        if t > 1:
            arguments["lora_path"] = f"{order}/{t - 1}"
        flags = [f"--{key}={value}" for key, value in arguments.items()]
        seconds["whole"] += call("lora/train_dreambooth_lora_sdxl.py", *flags)
        seconds["learning"] += seconds_per_step(steps_file) * steps
    numbers = map(str, (inference_steps, pictures, LATENT_SIDE))
    seconds["sampling"] = call(BENCHMARKS / "continual_lora_sampling.py", order, *numbers)
    judging = {"samples_path": "results/object/naive_cl", "models_dir": "models/naive_cl/"}
    judging |= {"method_name": "naive_cl", "task_type": "object"}
    seconds["judging"] = call("eval/eval_method.py", *(f"--{key}={value}" for key, value in judging.items()))
    seconds["whole"] += seconds["sampling"] + seconds["judging"]
    return seconds


def ours(method: str, models: Path, sequence: Path, output: Path, steps: int, compile_flags: list[str]) -> dict:
    """The same of one run of ours, without the row of the untouched model."""
    settings = {"rank": 8, "steps": steps, "batch_size": 4, "learning_rate": 1e-4}
    settings["target_modules"] = "[to_q,to_k,to_v,to_out.0]"
    flags = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    flags += ["--clip", str(models / "clip.safetensors"), "--clip-activation", "quickgelu"]
    flags += ["--dino", str(models / "dino.safetensors"), "--backbone", str(models / "pipeline"), "--device", "cpu"]
    start = time.perf_counter()
    timing.cpbench(
        *("run", "--method", method, "--sequence", sequence, "--no-overlap"), *flags, *compile_flags, "--output", output
    )
    whole = time.perf_counter() - start
    record = timing.run_record(output)
    stages = timing.stage_seconds(record, untouched=False)
    row_0 = sum(timing.stage_seconds(record).values()) - sum(stages.values())
    return stages | {"whole": whole - row_0}


def sequence_file(folder: Path, concepts: Path, pictures: int, inference_steps: int) -> Path:
    """The same task as a sequence of ours."""
    file = folder / "three.yaml"
    concept_list = [{"name": name, "class_noun": noun, "kind": "object"} for name, noun in CONCEPTS.items()]
    evaluation = {"object": PROMPTS, "pictures_per_prompt": pictures, "num_inference_steps": inference_steps}
    facts = {"name": "three", "version": 1, "description": "Three concepts.", "prompts": {"object": PROMPTS}}
    facts |= {"images": {"folder": f"{concepts}/{{name}}"}, "concepts": concept_list}
    file.write_text(yaml.safe_dump(facts | {"evaluation": evaluation | {"guidance_scale": 5.0}}))
    return file


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--photographs", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--steps", default=100, show_default=True, type=click.IntRange(min=2), help="Learning steps per concept.")
@click.option("--pictures", default=8, show_default=True, help="Pictures per prompt.")
@click.option("--inference-steps", default=10, show_default=True)
@click.option("--repeats", default=1, show_default=True)
@click.option("--python", default=sys.executable, help="The Python that runs continual-lora.  [default: this one]")
@click.option("--compile", "compile_choice", type=click.Choice(["auto", "on", "off"]), help="Passed to our runs.")
def main(
    folder: Path,
    photographs: Path,
    steps: int,
    pictures: int,
    inference_steps: int,
    repeats: int,
    python: str,
    compile_choice: str | None,
) -> None:
    import random_models

    compile_flags = timing.compile_flags(compile_choice)
    timing.pin()
    repetitions: dict[str, list[dict]] = {"continual-lora": [], "seqlora": [], "without_word": []}
    with tempfile.TemporaryDirectory() as work_name:
        work = Path(work_name)
        jpegs(photographs, work / "concepts")
        random_models.build(work / "models")
        sequence = sequence_file(work, work / "concepts", pictures, inference_steps)
        for repetition in range(repeats):
            checkout = work / f"checkout-{repetition}"
            prepare_checkout(folder, work / "models", work / "concepts", checkout)
            rival = theirs(python, checkout, work / "concepts", steps, pictures, inference_steps)
            repetitions["continual-lora"].append(rival)
            click.echo(f"continual-lora: {json.dumps(rival)}", err=True)  # the whole takes most of an hour
            for method in ("seqlora", "without_word"):
                name = method if method == "seqlora" else str(BENCHMARKS / "without_word.py")
                output = work / f"{method}-{repetition}"
                run = ours(name, work / "models", sequence, output, steps, compile_flags)
                repetitions[method].append(run)
                click.echo(f"{method}: {json.dumps(run)}", err=True)
    stages = ("learning", "sampling", "judging", "whole")
    seconds = {
        name: timing.medians({stage: [run[stage] for run in runs] for stage in stages})
        for name, runs in repetitions.items()
    }
    rival, *methods = seconds
    ratios = {name: {s: seconds[rival][s] / seconds[name][s] for s in stages} for name in methods}
    rows = [
        [s, *(f"{seconds[name][s]:.3g}" for name in seconds), *(number(ratios[name][s], 2) for name in methods)]
        for s in stages
    ]
    click.echo(
        f"{timing.where()}; seconds; {len(CONCEPTS)} concepts, {steps} steps, {pictures} pictures per prompt of "
        f"{inference_steps} steps, {repeats} repetitions, compile {compile_choice or 'not asked'}\n"
    )
    click.echo(timing.table(["", *seconds, *(f"{rival} / {name}" for name in methods)], rows))
    click.echo(json.dumps({"seconds": seconds, "ratios": ratios, "where": timing.where()}))


if __name__ == "__main__":
    main()
