"""A run's state as files that plain diffusers loads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from cpbench.backbones import hub
from cpbench.errors import UserError, did_you_mean, quoted
from cpbench.files import FILE_NAME, escape_markdown, prepare_folder, write_atomically
from cpbench.finished.load import TrainedRun, installed
from cpbench.method import NotDefined
from cpbench.miniature import is_miniature

LORA_FILE = "pytorch_lora_weights.safetensors"  # the name that load_lora_weights expects
ENCODERS = ("clip_l", "clip_g")  # the usual keys of a token's two embeddings for SDXL


def export(run: TrainedRun, out: Path, concept: str | None = None) -> list[Path]:
    """Write the state for plain diffusers: a LoRA and token embeddings, or a pipeline folder where weights were learned.

    concept: for a method that cannot use several concepts at once. Returns the files written; README.md explains how to
    load them.
    """
    from safetensors.torch import save

    if concept is not None and concept not in run.nouns:
        raise did_you_mean(concept, list(run.nouns), "concept", f"Learned at that point: {', '.join(run.nouns)}.")
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out}: is not empty; pass a new folder")
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
    write_atomically(out / "README.md", how_to_load(run, concepts, bool(lora), lora is None, list(embeddings)).encode())
    return [*files, out / "README.md"]


def _python(words: str) -> str:
    """The words as a Python literal in double quotes, without backticks, which would end a Markdown code block."""
    return json.dumps(words).replace("`", "\\u0060")


def _code(words: str) -> str:
    """The words as code in a Markdown table."""
    return "`" + " ".join(words.split()).replace("`", "'").replace("|", "\\|") + "`"


def how_to_load(run: TrainedRun, concepts: Sequence[str], lora: bool, whole: bool, tokens: list[str]) -> str:
    pipeline_class = type(run.backbone.pipe).__name__
    name, revision = hub.BUILT_IN.get(run.config.backbone, (run.config.backbone, run.config.loading.revision))
    source = "pipeline" if whole else str(hub.MINIATURE) if is_miniature(name) else name
    pinned = f", revision={_python(run.config.loading.revision or revision)}" if revision and not whole else ""
    code = [
        "from diffusers import " + pipeline_class,
        "",
        f"pipe = {pipeline_class}.from_pretrained({_python(source)}{pinned})",
    ]
    if lora:
        code.append('pipe.load_lora_weights(".")')
    if len(run.backbone.vocabulary.encoders) == 1:
        code += [f'pipe.load_textual_inversion("tokens/{name}.safetensors")' for name in tokens]
    elif tokens:
        code[0] = "from safetensors.torch import load_file\n" + code[0]
        code.append(f"for word in {tokens}:")
        code.append('    parts = load_file(f"tokens/{word}.safetensors")')
        for key, suffix in zip(ENCODERS, ("", "_2"), strict=True):
            code.append(f'    pipe.load_textual_inversion(parts["{key}"], token=f"<{{word}}>",')
            code.append(f"        text_encoder=pipe.text_encoder{suffix}, tokenizer=pipe.tokenizer{suffix})")
        code.append("# a config that names another end of text than the tokenizer's pools at the new words instead")
        code.append("pipe.text_encoder_2.text_model.eos_token_id = pipe.tokenizer_2.eos_token_id")
    prompt = _python(f"a photo of a {run.phrase(concepts[0])}")
    code.append(f'pipe({prompt}).images[0].save("picture.png")')
    words = [f"| {c} | {escape_markdown(run.nouns[c])} | {_code(run.phrase(c))} |" for c in concepts]
    method, sequence, backbone = map(escape_markdown, (run.config.method, run.config.sequence, run.config.backbone))
    return "\n".join(
        [
            f"# {method} after {len(run.nouns)} of the tasks of {sequence}",
            "",
            f"Learned by cpbench on {backbone}, seed {run.config.seed}. In this folder:",
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
