"""What a run's states are good for: draw any prompt with one, and write one as files that plain diffusers loads."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cpbench import hub, results
from cpbench.config import RunConfig, load_method, validated
from cpbench.errors import DamagedState, UserError, near
from cpbench.method import Method, NotDefined, State

if TYPE_CHECKING:
    from cpbench.backbones import Backbone

LORA_FILE = "pytorch_lora_weights.safetensors"  # the name that load_lora_weights looks for
ENCODERS = ("clip_l", "clip_g")  # the usual keys of a word's two parts for SDXL


@dataclass
class Finished:
    """A state of a run, with what is needed to use it."""

    folder: Path
    config: RunConfig
    method: Method
    state: State
    backbone: Backbone
    nouns: dict[str, str]  # of the concepts that are learned, in their order

    def phrase(self, concept: str) -> str:
        return self.method.phrase(concept, self.nouns[concept], self.state)


def open_run(run: Path, after: int | None = None, device: str = "auto") -> Finished:
    """The state after task `after`, the last one that is there if None. UserError, in one line, for what is missing."""
    folder = find(run)
    record = results.read_json(folder / "run.json")
    if not isinstance(record, dict) or "config" not in record:
        raise UserError(f"run {folder}: run.json cannot be read; name another run, or run it again")
    concepts: dict[str, str] = record["sequence"]["class_nouns"]
    given = {k: v for k, v in record["config"].items() if v is not None} | {"device": device}
    config = validated(RunConfig, given, f"run {folder}")
    there = [t for t in range(1, len(concepts) + 1) if (folder / f"task-{t:02d}" / "state.safetensors").exists()]
    if not there:
        raise UserError(f"run {folder}: has no state yet; let it finish a task first")
    t = there[-1] if after is None else after
    if t not in there:
        raise UserError(f"run {folder}: there is no state after task {t}; it has those after {_listed(there)}")
    try:
        state = State.load(folder / f"task-{t:02d}")
    except DamagedState as error:
        raise UserError(f"run {folder}: {error}; run the same command again to do task {t} again") from None
    from cpbench import backbones, runner

    backbone = backbones.load(config.backbone, runner.pick_device(device), config.loading)
    if backbone.weights_hash != record["facts"]["backbone"]:
        raise UserError(f"run {folder}: was made with other weights than those of {config.backbone} here; use those")
    kind = load_method(config.method)
    method = kind(validated(kind.Options, config.options, f"run {folder}: method {config.method}"))
    return Finished(folder, config, method, state, backbone, {c: concepts[c] for c in state.concepts})


def find(run: Path) -> Path:
    """The run folder that is meant: `run` itself, or the only one below it."""
    if (run / "run.json").is_file():
        return run
    below = sorted(f.parent for f in run.glob("**/run.json")) if run.is_dir() else []
    if len(below) == 1:
        return below[0]
    if not below:
        raise UserError(f"run {run}: there is no run.json in it; name a run folder, e.g. below results/runs")
    raise UserError(f"run {run}: holds {len(below)} runs; name one of them, e.g. {below[0]}")


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


# Drawing


def sample(it: Finished, prompt: str, n: int, seed: int, steps: int | None, guidance: float | None) -> Any:
    """`n` pictures uint8 (n, h, w, 3) of a prompt in which "{dog6}" stands for the concept dog6."""
    from cpbench import images, sequences
    from cpbench.sampling import Sampler, Wanted, draw

    named = concepts_in(prompt, list(it.nouns))
    words = prompt.format(**{c: it.phrase(c) for c in named})
    sequence = sequences.load(it.config.sequence)
    usual = sequence.evaluation.drawing(images.is_drawn(sequence.concepts[0], it.config.backbone))
    sampler = Sampler(steps or usual.num_inference_steps, usual.guidance_scale if guidance is None else guidance)
    try:
        with it.backbone.installed(it.method, it.state, named):
            return draw(it.backbone, [Wanted(words, seed, "sample", prompt, k) for k in range(n)], sampler)
    except NotDefined as reason:
        raise UserError(f"prompt {prompt!r}: {reason}; name one concept") from None


def concepts_in(prompt: str, learned: list[str]) -> tuple[str, ...]:
    """The concepts that a prompt names in braces, each once. UserError for one that is not learned yet."""
    try:
        fields = [field for _, field, _, _ in string.Formatter().parse(prompt) if field is not None]
    except ValueError as error:
        raise UserError(f"prompt {prompt!r}: {error}; write a concept as {{{learned[0]}}}") from None
    for field in fields:
        if field not in learned:
            raise near(field, learned, "concept", f"Learned at that point: {', '.join(learned)}.")
    return tuple(dict.fromkeys(fields))


# Export


def export(it: Finished, out: Path, concept: str | None = None) -> list[Path]:
    """Write the state for plain diffusers: a LoRA and token embeddings, or a pipeline folder where weights were learned.

    concept: which one, for a method that cannot use several at once. Returns what was written; README.md says how to
    load it.
    """
    from safetensors.torch import save

    if concept is not None and concept not in it.nouns:
        raise near(concept, list(it.nouns), "concept", f"Learned at that point: {', '.join(it.nouns)}.")
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out}: is not empty; name a new folder")
    concepts = (concept,) if concept else tuple(it.nouns)
    results.prepare_folder(out)
    written = []
    try:
        lora = it.method.lora(it.state, concepts)
        with it.backbone.installed(it.method, it.state, concepts):
            rows = {name: row.detach().cpu() for name, row in it.backbone.rows.items()}
            if lora is None:
                it.backbone.vocabulary.restore()  # the words go into files of their own
                it.backbone.pipe.save_pretrained(out / "pipeline")
                written.append(out / "pipeline")
    except NotDefined as reason:
        raise UserError(f"{reason}; name one with --concept") from None
    if lora:
        tensors = {f"unet.{name}.weight": value.contiguous().cpu() for name, value in lora.items()}
        results.write_atomically(out / LORA_FILE, save(tensors))
        written.append(out / LORA_FILE)
    for name, row in rows.items():
        parts = [row[e.part].clone() for e in it.backbone.vocabulary.encoders]
        keys = (f"<{name}>",) if len(parts) == 1 else ENCODERS
        file = out / "tokens" / f"{name}.safetensors"
        results.write_atomically(file, save(dict(zip(keys, parts, strict=True))))
        written.append(file)
    results.write_atomically(
        out / "README.md", how_to_load(it, concepts, bool(lora), lora is None, list(rows)).encode()
    )
    return [*written, out / "README.md"]


def how_to_load(it: Finished, concepts: Sequence[str], lora: bool, whole: bool, rows: list[str]) -> str:
    kind = type(it.backbone.pipe).__name__
    name, revision = hub.BUILT_IN.get(it.config.backbone, (it.config.backbone, it.config.loading.revision))
    source = "pipeline" if whole else str(hub.MINIATURE) if name == "miniature" else name
    pinned = f', revision="{it.config.loading.revision or revision}"' if revision and not whole else ""
    code = ["from diffusers import " + kind, "", f'pipe = {kind}.from_pretrained("{source}"{pinned})']
    if lora:
        code.append('pipe.load_lora_weights(".")')
    if len(it.backbone.vocabulary.encoders) == 1:
        code += [f'pipe.load_textual_inversion("tokens/{name}.safetensors")' for name in rows]
    elif rows:
        code[0] = "from safetensors.torch import load_file\n" + code[0]
        code.append(f"for word in {rows}:")
        code.append('    parts = load_file(f"tokens/{word}.safetensors")')
        for key, suffix in zip(ENCODERS, ("", "_2"), strict=True):
            code.append(f'    pipe.load_textual_inversion(parts["{key}"], token=f"<{{word}}>",')
            code.append(f"        text_encoder=pipe.text_encoder{suffix}, tokenizer=pipe.tokenizer{suffix})")
        code.append("# a config that names another end of text than the tokenizer's pools at the new words instead")
        code.append("pipe.text_encoder_2.text_model.eos_token_id = pipe.tokenizer_2.eos_token_id")
    code.append(f'pipe("a photo of a {it.phrase(concepts[0])}").images[0].save("picture.png")')
    words = [f"| {c} | {it.nouns[c]} | `{it.phrase(c)}` |" for c in concepts]
    return "\n".join(
        [
            f"# {it.config.method} after {len(it.nouns)} of the tasks of {it.config.sequence}",
            "",
            f"Learned by cpbench on {it.config.backbone}, seed {it.config.seed}. In this folder:",
            "",
            "```python",
            *code,
            "```",
            "",
            "| concept | class noun | words for it |",
            "|---|---|---|",
            *words,
            "",
        ]
    )
