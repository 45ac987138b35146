"""The README of an export: code that loads its files into plain diffusers and generates a picture."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cpbench import torchvision_compat
from cpbench.backbones import hub
from cpbench.backbones.untrusted import T5
from cpbench.backbones.vocabulary import Encoder, encoder_name, is_clip
from cpbench.files import escape_markdown
from cpbench.finished.load import TrainedRun, sampler_of
from cpbench.miniature import FLOW, is_miniature

ADAPTER = "lora"  # the folder that peft reads, of a pipeline without load_lora_weights
BASE = "base"  # the folder of the second miniature, which is put together
# the usual keys of a word's parts, where the pipeline loads textual inversions into two encoders
PARTS = {"StableDiffusionXLPipeline": ("clip_l", "clip_g"), "FluxPipeline": ("clip_l", "t5")}
PUT_WORDS_IN = """\
for word in {words}:  # without its words the LoRA draws something else
    for part, row in load_file(f"{{folder}}/tokens/{{word}}.safetensors").items():
        encoder, tokenizer = getattr(pipe, part), getattr(pipe, part.replace("text_encoder", "tokenizer"))
        tokenizer.add_tokens({token})
        if len(tokenizer) > encoder.get_input_embeddings().num_embeddings:
            encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        table = encoder.get_input_embeddings().weight.data
        table[tokenizer.convert_tokens_to_ids(f"<{{word}}>")] = row.to(table)""".splitlines()


def word_keys(pipe: Any, encoders: Sequence[Encoder], word: str) -> dict[str, Encoder]:
    """Each text encoder, by the key of its part of a word's embedding in the word's file."""
    if not hasattr(pipe, "load_textual_inversion"):
        return {encoder_name(e.tokenizer_name): e for e in encoders}
    keys = (f"<{word}>",) if len(encoders) == 1 else parts_of(pipe)
    return dict(zip(keys, encoders, strict=True))


def parts_of(pipe: Any) -> tuple[str, ...]:
    """The keys of a word's parts for a pipeline that loads textual inversions into two encoders."""
    return next(PARTS[c.__name__] for c in type(pipe).__mro__ if c.__name__ in PARTS)


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
    if run.config.backbone == FLOW:
        return f'folder + "/{BASE}"'
    if is_miniature(run.config.backbone):
        return _python(hub.MINIATURE)
    local = Path(os.path.expanduser(run.config.backbone))
    if os.path.isdir(local):
        return _python(local.absolute())
    repository = hub.BUILT_IN.get(run.config.backbone)
    return _python(repository.name if repository else run.config.backbone)


def _loading_arguments(run: TrainedRun, classes: list[str]) -> list[str]:
    """Arguments of `from_pretrained` that load what the run loaded; the classes that they need are added to `classes`."""
    loading, arguments = run.config.loading, []
    pinned = None if os.path.isdir(os.path.expanduser(run.config.backbone)) else hub.BUILT_IN.get(run.config.backbone)
    if revision := loading.revision or (pinned and pinned.revision):
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
    pipe, family, sampler = run.backbone.pipe, run.backbone.family, sampler_of(run)
    pipeline_class, is_flow = type(pipe).__name__, family.density is not None
    classes, arguments = [pipeline_class], [_source(run, whole)]
    if not whole:
        arguments += _loading_arguments(run, classes)
    arguments += (f"{part}=None" for part in T5 if part in family.unread and getattr(pipe, part) is None)
    if not is_flow:
        classes.append("DPMSolverMultistepScheduler")
    code = [
        f"from diffusers import {', '.join(sorted(classes))}",
        "",
        f"folder = {_python(out.absolute())}  # of this file",
        f"pipe = {pipeline_class}.from_pretrained({', '.join(arguments)})",
    ]
    if not is_flow:
        code.append("pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)")
    if lora and hasattr(pipe, "load_lora_weights"):
        code.append("pipe.load_lora_weights(folder)")
    elif lora:
        code.insert(1, "from peft import PeftModel")
        code.append(f'PeftModel.from_pretrained(pipe.{family.denoiser}, folder + "/{ADAPTER}")')
    code = with_words(code, run, tokens)
    if torchvision_compat.apply():
        code = [
            "from cpbench import torchvision_compat",
            "",
            "torchvision_compat.apply()  # before diffusers; leave it out where torchvision fits torch",
            *code,
        ]
    prompt = _python(f"a photo of a {run.phrase(concepts[0])}")
    settings = f"num_inference_steps={sampler.num_inference_steps}, guidance_scale={sampler.guidance_scale}"
    more = family.sampling_arguments([], sampler.guidance_scale)
    settings += "".join(f", {key}={value}" for key, value in more.items() if key not in ("prompt", "guidance_scale"))
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
            *(
                [f"It was learned with {run.config.loading.few_bits}, so that pictures differ a little from the run's."]
                if run.config.loading.few_bits
                else []
            ),
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


def with_words(code: list[str], run: TrainedRun, words: list[str]) -> list[str]:
    """The code, and after it the lines that put the learned words into the pipeline."""
    pipe, encoders = run.backbone.pipe, run.backbone.vocabulary.encoders
    if not words:
        return code
    if not hasattr(pipe, "load_textual_inversion"):
        is_spaced = any(encoder.is_spaced for encoder in encoders)  # it has the space before it in its token
        token = 'AddedToken(f"<{word}>", lstrip=True, normalized=False)' if is_spaced else 'f"<{word}>"'
        lines = [line.format(words=words, token=token) for line in PUT_WORDS_IN]
        imports = ["from safetensors.torch import load_file"]
        imports += ["from transformers import AddedToken"] if is_spaced else []
        return [*imports, *code, *lines, *ends_of_text(encoders)]
    if len(encoders) == 1:
        return [*code, *(f'pipe.load_textual_inversion(folder + "/tokens/{name}.safetensors")' for name in words)]
    lines = [f"for word in {words}:", '    parts = load_file(f"{folder}/tokens/{word}.safetensors")']
    for key, encoder in zip(parts_of(pipe), encoders, strict=True):
        lines.append(f'    pipe.load_textual_inversion(parts["{key}"], token=f"<{{word}}>",')
        lines.append(
            f"        text_encoder=pipe.{encoder_name(encoder.tokenizer_name)}, tokenizer=pipe.{encoder.tokenizer_name})"
        )
    return ["from safetensors.torch import load_file", *code, *lines, *ends_of_text(encoders)]


def ends_of_text(encoders: Sequence[Encoder]) -> list[str]:
    """Lines by which CLIP pools at the end of text, and not at a new word."""
    lines = ["# a config that names another end of text than the tokenizer's pools at the new words instead"]
    for encoder in encoders:
        if is_clip(encoder.model):
            inner = ".text_model" if hasattr(encoder.model, "text_model") else ""
            place = f"pipe.{encoder_name(encoder.tokenizer_name)}{inner}"
            lines.append(f"{place}.eos_token_id = pipe.{encoder.tokenizer_name}.eos_token_id")
    return lines if len(lines) > 1 else []
