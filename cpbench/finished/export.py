"""A run's state as files that plain diffusers loads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from cpbench import torchvision_compat
from cpbench.backbones import hub
from cpbench.errors import UserError, quoted
from cpbench.files import FILE_NAME, escape_markdown, prepare_folder, write_atomically
from cpbench.finished.load import TrainedRun, installed, refuse_unknown, sampler_of
from cpbench.method import NotDefined
from cpbench.miniature import is_miniature

LORA_FILE = "pytorch_lora_weights.safetensors"  # the name that load_lora_weights expects
EXPORTED = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
ENCODERS = ("clip_l", "clip_g")  # the usual keys of a token's two embeddings for SDXL


def refuse(out: Path, concept: str | None, learned: list[str]) -> None:
    """UserError for a folder that is not empty, and a concept that is not learned: known before a model is loaded."""
    if concept is not None:
        refuse_unknown(concept, learned)
    if out.is_dir() and any(out.iterdir()):
        raise UserError(f"{out}: is not empty; pass a new folder")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; pass a new folder")


def export(run: TrainedRun, out: Path, concept: str | None = None) -> list[Path]:
    """Write the state for plain diffusers: a LoRA and token embeddings, or a pipeline folder where weights were learned.

    concept: for a method that cannot use several concepts at once. Returns the files written; README.md explains how to
    load them.
    """
    from safetensors.torch import save

    refuse(out, concept, list(run.nouns))
    if not any(c.__name__ in EXPORTED for c in type(run.backbone.pipe).__mro__):
        raise UserError(
            f"run {run.folder}: export does not write files for {type(run.backbone.pipe).__name__} yet; generate with `cpbench sample`"
        )
    if run.method.per_prompt:
        raise UserError(
            f"run {run.folder}: {run.config.method} is installed for each prompt separately, so it cannot be exported to files; use `cpbench sample`"
        )
    concepts = (concept,) if concept else tuple(run.nouns)
    prepare_folder(out)
    files = []
    try:
        with installed(run, concepts):
            lora = run.method.lora(run.state, concepts)
            embeddings = {name: row.detach().cpu() for name, row in run.backbone.token_embeddings.items()}
            if unsafe_names := [name for name in embeddings if not FILE_NAME.fullmatch(name)]:
                raise UserError(
                    f"run {run.folder}: its state's word {quoted(unsafe_names[0])} cannot name a file; run it again"
                )
            if lora is None:
                run.backbone.vocabulary.restore()  # the words go into files of their own
                run.backbone.pipe.save_pretrained(out / "pipeline")
                files.append(out / "pipeline")
    except NotDefined as reason:
        raise UserError(f"{reason}; choose one with --concept") from None
    if lora:
        tensors = {f"unet.{name}.weight": value.contiguous().cpu() for name, value in lora.items()}
        write_atomically(out / LORA_FILE, save(tensors))
        files.append(out / LORA_FILE)
    for name, row in embeddings.items():
        parts = [row[e.part].clone() for e in run.backbone.vocabulary.encoders]
        keys = (f"<{name}>",) if len(parts) == 1 else ENCODERS
        file = out / "tokens" / f"{name}.safetensors"
        write_atomically(file, save(dict(zip(keys, parts, strict=True))))
        files.append(file)
    text = how_to_load(run, concepts, bool(lora), lora is None, list(embeddings), out)
    write_atomically(out / "README.md", text.encode())
    return [*files, out / "README.md"]


def _python(words: object) -> str:
    """The words as a Python literal in double quotes, without backticks, which would end a Markdown code block."""
    text = str(words).encode("unicode_escape").decode()
    return '"' + text.replace('"', '\\"').replace("`", "\\u0060") + '"'


def _code(words: str) -> str:
    """The words as code in a Markdown table."""
    return "`" + " ".join(words.split()).replace("`", "'").replace("|", "\\|") + "`"


def _source(run: TrainedRun, whole: bool) -> str:
    """The pipeline to load, as Python: the exported one, a local folder by its absolute path, or a hub id."""
    if whole:
        return 'folder + "/pipeline"'
    if is_miniature(run.config.backbone):
        return _python(hub.MINIATURE)
    local = Path(os.path.expanduser(run.config.backbone))
    if os.path.isdir(local):
        return _python(local.absolute())
    return _python(hub.BUILT_IN.get(run.config.backbone, (run.config.backbone, None))[0])


def _loading_arguments(run: TrainedRun, classes: list[str]) -> list[str]:
    """Arguments of `from_pretrained` that load what the run loaded; the classes that they need are added to `classes`."""
    loading, arguments = run.config.loading, []
    pinned = None if os.path.isdir(os.path.expanduser(run.config.backbone)) else hub.BUILT_IN.get(run.config.backbone)
    if revision := loading.revision or (pinned and pinned[1]):
        arguments.append(f"revision={_python(revision)}")
    if loading.variant:
        arguments.append(f"variant={_python(loading.variant)}")
    if loading.vae:
        classes.append(type(run.backbone.vae).__name__)
        local = os.path.expanduser(loading.vae)
        vae = _python(os.path.abspath(local) if os.path.isdir(local) else loading.vae)
        arguments.append(f"vae={classes[-1]}.from_pretrained({vae})")
    return arguments


def how_to_load(run: TrainedRun, concepts: Sequence[str], lora: bool, whole: bool, tokens: list[str], out: Path) -> str:
    """The README: code that generates a picture with plain diffusers, from any folder, with the run's steps and guidance."""
    pipeline_class, sampler = type(run.backbone.pipe).__name__, sampler_of(run)
    classes, arguments = [pipeline_class, "DPMSolverMultistepScheduler"], [_source(run, whole)]
    if not whole:
        arguments += _loading_arguments(run, classes)
    code = [
        f"from diffusers import {', '.join(sorted(classes))}",
        "",
        f"folder = {_python(out.absolute())}  # of this file",
        f"pipe = {pipeline_class}.from_pretrained({', '.join(arguments)})",
        "pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)",
    ]
    if lora:
        code.append("pipe.load_lora_weights(folder)")
    if len(run.backbone.vocabulary.encoders) == 1:
        code += [f'pipe.load_textual_inversion(folder + "/tokens/{name}.safetensors")' for name in tokens]
    elif tokens:
        code.insert(0, "from safetensors.torch import load_file")
        code.append(f"for word in {tokens}:")
        code.append('    parts = load_file(f"{folder}/tokens/{word}.safetensors")')
        for key, suffix in zip(ENCODERS, ("", "_2"), strict=True):
            code.append(f'    pipe.load_textual_inversion(parts["{key}"], token=f"<{{word}}>",')
            code.append(f"        text_encoder=pipe.text_encoder{suffix}, tokenizer=pipe.tokenizer{suffix})")
        code.append("# a config that names another end of text than the tokenizer's pools at the new words instead")
        code.append("pipe.text_encoder_2.text_model.eos_token_id = pipe.tokenizer_2.eos_token_id")
    if torchvision_compat.apply():
        code = [
            "from cpbench import torchvision_compat",
            "",
            "torchvision_compat.apply()  # before diffusers; leave it out where torchvision fits torch",
            *code,
        ]
    prompt = _python(f"a photo of a {run.phrase(concepts[0])}")
    settings = f"num_inference_steps={sampler.num_inference_steps}, guidance_scale={sampler.guidance_scale}"
    if side := run.config.loading.resolution:
        settings += f", height={side}, width={side}"
    code.append(f'pipe({prompt}, {settings}).images[0].save("picture.png")')
    words = [f"| {c} | {escape_markdown(run.nouns[c])} | {_code(run.phrase(c))} |" for c in concepts]
    method, sequence, backbone = map(escape_markdown, (run.config.method, run.config.sequence, run.config.backbone))
    return "\n".join(
        [
            f"# {method} after {len(run.nouns)} of the tasks of {sequence}",
            "",
            f"Learned by cpbench on {backbone}, seed {run.config.seed}. Steps and guidance are the run's.",
            "If you move this folder, change its path in the code.",
            "",
            "```python",
            *code,
            "```",
            "",
            "| concept | class noun | phrase |",
            "|---|---|---|",
            *words,
            "",
        ]
    )
