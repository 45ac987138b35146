"""What a run's states are good for: draw any prompt with one, and write one as files that plain diffusers loads."""

from __future__ import annotations

import json
import os
import string
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cpbench import hub, results
from cpbench.audit import RulesError
from cpbench.config import RunConfig, load_method, validated
from cpbench.errors import DamagedState, UserError, near, quoted
from cpbench.method import Method, NotDefined, State
from cpbench.records.upgrade import read as read_record
from cpbench.results import plain
from cpbench.sequences import FILE_NAME

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


def open_run(
    run: Path,
    after: int | None = None,
    device: str = "auto",
    allow_pickle: bool | None = None,
    trust_remote_code: bool | None = None,
) -> Finished:
    """The state after task `after`, the last one that is there if None. UserError, in one line, for what is missing.

    The folder may come from anybody: what it says of its method and its backbone is no reason to run code or to unpickle
    weights, which the two last arguments allow.
    """
    folder = find(run)
    record = read_record(folder)
    config, concepts, weights = recorded(record, folder)
    config = allowed(config, folder, device, allow_pickle, trust_remote_code)
    there = [t for t in range(1, len(concepts) + 1) if (folder / f"task-{t:02d}" / "state.safetensors").exists()]
    if not there:
        raise UserError(f"run {folder}: has no state yet; let it finish a task first")
    t = there[-1] if after is None else after
    if t not in there:
        raise UserError(f"run {folder}: there is no state after task {t}; it has those after {_listed(there)}")
    state = state_after(folder, t, concepts)
    method, backbone = loaded(config, folder, weights)
    it = Finished(folder, config, method, state, backbone, {c: concepts[c] for c in state.concepts})
    with suppress(NotDefined), installed(it, (state.concepts[0],)):
        it.phrase(state.concepts[0])  # what is missing in the state shows here
    return it


def recorded(record: Any, folder: Path) -> tuple[RunConfig, dict[str, str], str]:
    """(config, class nouns by concept, hash of the backbone's weights) of a run.json. UserError for any other content."""
    try:
        nouns, weights = record["sequence"]["class_nouns"], record["facts"]["backbone"]
        given = {k: v for k, v in record["config"].items() if v is not None}
        if not all(
            FILE_NAME.fullmatch(c) and isinstance(noun, str) and noun.isprintable() for c, noun in nouns.items()
        ):
            raise ValueError("names that no concepts have")
    except (KeyError, TypeError, AttributeError, ValueError):
        raise UserError(f"run {folder}: run.json cannot be read; name another run, or run it again") from None
    return validated(RunConfig, given, f"run {folder}"), nouns, weights


def allowed(
    config: RunConfig, folder: Path, device: str, allow_pickle: bool | None, trust_remote_code: bool | None
) -> RunConfig:
    """A run's configuration on `device`, with what its user allows: what it says of that itself does not count.

    UserError where its method is a file that the user does not trust.
    """
    loading = config.loading.model_copy(
        update={"allow_pickle": bool(allow_pickle), "trust_remote_code": bool(trust_remote_code)}
    )
    if config.method.endswith(".py") and not trust_remote_code:
        raise UserError(
            f"run {folder}: its method is the Python file {config.method}; if you trust what is in it, pass --trust-remote-code"
        )
    return config.model_copy(update={"device": device, "loading": loading})


def state_after(folder: Path, t: int, concepts: Collection[str]) -> State:
    """The state after task t. UserError if it is not whole, or of none of these concepts or of others."""
    try:
        state = State.load(folder / f"task-{t:02d}")
    except (DamagedState, FileNotFoundError) as error:
        raise UserError(f"run {folder}: {error}; run the same command again to do task {t} again") from None
    if not state.concepts or not set(state.concepts) <= set(concepts):
        raise UserError(
            f"run {folder}: the state after task {t} is of concepts that run.json does not know; run it again"
        )
    return state


def loaded(config: RunConfig, folder: Path, weights: str) -> tuple[Method, Backbone]:
    """The run's method and its backbone. UserError if that has other weights by now."""
    from cpbench import backbones, runner

    backbone = backbones.load(config.backbone, runner.device_for(config), config.loading)
    if backbone.weights_hash != weights:
        raise UserError(f"run {folder}: was made with other weights than those of {config.backbone} here; use those")
    kind = load_method(config.method)
    return kind(validated(kind.Options, config.options, f"run {folder}: method {config.method}")), backbone


@contextmanager
def installed(it: Finished, concepts: tuple[str, ...]) -> Iterator[None]:
    """The backbone with the state for `concepts`. UserError if the state is not this method's, or not for this backbone."""
    try:
        with it.backbone.installed(it.method, it.state, concepts):
            yield
    except (NotDefined, UserError, RulesError, OSError):
        raise
    except Exception as error:  # the state may come from anybody, and a method looks for what it saved itself
        if "out of memory" in str(error):
            raise
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise UserError(
            f"run {it.folder}: its state is not one that {it.config.method} can use on {it.config.backbone} ({reason}); "
            "run it again"
        ) from error


def find(run: Path) -> Path:
    """The run folder that is meant: `run` itself, or the only one below it."""
    if os.path.isfile(run / "run.json"):  # unlike pathlib's, calm about names too long to be a file's
        return run
    below = sorted(f.parent for f in run.glob("**/run.json")) if os.path.isdir(run) else []
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
    words = "".join(text + (it.phrase(c) if c else "") for text, c, *_ in string.Formatter().parse(prompt))
    sequence = sequences.load(it.config.sequence)
    usual = sequence.evaluation.drawing(images.are_drawn(sequence.concepts, it.config.backbone))
    sampler = Sampler(steps or usual.num_inference_steps, usual.guidance_scale if guidance is None else guidance)
    try:
        with installed(it, named):
            refuse_unread(it, prompt)
            return draw(it.backbone, [Wanted(words, seed, "sample", prompt, k) for k in range(n)], sampler)
    except NotDefined as reason:
        raise UserError(f"prompt {prompt!r}: {reason}; name one concept") from None


def refuse_unread(it: Finished, prompt: str) -> None:
    """UserError where a text encoder does not read a prompt up to its last concept; a line where it misses the end."""
    from cpbench import prompt_length

    ahead = whole = ""
    for text, concept, *_ in string.Formatter().parse(prompt):
        whole += text + (it.phrase(concept) if concept else "")
        ahead = whole if concept else ahead
    readers = prompt_length.readers_of(it.backbone)
    prompt_length.refuse_cut(readers, ahead, whole)
    if cut := [reader for reader in readers if reader.lacks(ahead, whole)]:
        print(
            f"note: the prompt is longer than the {cut[0].most} tokens that {cut[0].name} reads: its end does not count"
        )


def concepts_in(prompt: str, learned: list[str]) -> tuple[str, ...]:
    """The concepts that a prompt names in braces, each once. UserError for one that is not learned yet."""
    try:
        parsed = [rest for _, *rest in string.Formatter().parse(prompt) if rest[0] is not None]
        if odd := [field for field, form, conversion in parsed if form or conversion]:
            raise ValueError(f"{odd[0]} is followed by more than a brace")
    except ValueError as error:
        raise UserError(f"prompt {prompt!r}: {error}; write a concept as {{{learned[0]}}}") from None
    fields = [field for field, *_ in parsed]
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
        with installed(it, concepts):
            lora = it.method.lora(it.state, concepts)
            rows = {name: row.detach().cpu() for name, row in it.backbone.rows.items()}
            if odd := [name for name in rows if not FILE_NAME.fullmatch(name)]:
                raise UserError(f"run {it.folder}: its state's word {quoted(odd[0])} cannot name a file; run it again")
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


def _python(words: str) -> str:
    """The words as Python writes them, in quotes that people use, and with no backtick that would end the code."""
    return json.dumps(words).replace("`", "\\u0060")


def _code(words: str) -> str:
    """The words in a table of Markdown, as code."""
    return "`" + " ".join(words.split()).replace("`", "'").replace("|", "\\|") + "`"


def how_to_load(it: Finished, concepts: Sequence[str], lora: bool, whole: bool, rows: list[str]) -> str:
    kind = type(it.backbone.pipe).__name__
    name, revision = hub.BUILT_IN.get(it.config.backbone, (it.config.backbone, it.config.loading.revision))
    source = "pipeline" if whole else str(hub.MINIATURE) if name == "miniature" else name
    pinned = f", revision={_python(it.config.loading.revision or revision)}" if revision and not whole else ""
    code = ["from diffusers import " + kind, "", f"pipe = {kind}.from_pretrained({_python(source)}{pinned})"]
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
    prompt = _python(f"a photo of a {it.phrase(concepts[0])}")
    code.append(f'pipe({prompt}).images[0].save("picture.png")')
    words = [f"| {c} | {plain(it.nouns[c])} | {_code(it.phrase(c))} |" for c in concepts]
    method, sequence, backbone = map(plain, (it.config.method, it.config.sequence, it.config.backbone))
    return "\n".join(
        [
            f"# {method} after {len(it.nouns)} of the tasks of {sequence}",
            "",
            f"Learned by cpbench on {backbone}, seed {it.config.seed}. In this folder:",
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
