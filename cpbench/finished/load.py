"""Opens a state of a run, which may come from anybody, and samples pictures with it."""

from __future__ import annotations

import string
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cpbench.config import RunConfig
from cpbench.errors import DamagedState, RulesError, UserError, did_you_mean
from cpbench.method import Method, NotDefined, State
from cpbench.output import say
from cpbench.records import option_names, recorded_paths
from cpbench.records.folder import RunFolder
from cpbench.records.reading import find, read
from cpbench.records.record import Record
from cpbench.registry import load_method
from cpbench.validation import validated

if TYPE_CHECKING:
    from cpbench.backbones.backbone import Backbone
    from cpbench.backbones.sampling import Sampler


@dataclass
class TrainedRun:
    """A state of a run, with everything needed to use it."""

    folder: Path
    config: RunConfig
    method: Method
    state: State
    backbone: Backbone
    nouns: dict[str, str]  # class nouns of the learned concepts, in learning order
    after: int | None = None  # the task after which the state is; None: unknown
    sampler: Sampler | None = None  # how its pictures were generated; None: as `generation_settings` says

    def phrase(self, concept: str) -> str:
        return self.method.phrase(concept, self.nouns[concept], self.state)


def open_run(
    run: Path,
    after: int | None = None,
    device: str = "auto",
    allow_pickle: bool | None = None,
    trust_remote_code: bool | None = None,
    check: Callable[[list[str]], object] | None = None,
) -> TrainedRun:
    """The state after task `after`, by default the last one on disk. UserError, in one line, for what is missing.

    check: called with the learned concepts before the backbone is loaded; it raises UserError if the user names others.

    The folder may come from anybody: its record may not cause code to run or weights to be unpickled; only the last two
    arguments allow that.
    """
    folder = find(run)
    record = read(folder)
    config, concepts, weights = recorded_config(record, folder)
    config = trusted_config(config, folder, device, allow_pickle, trust_remote_code)
    recorded_paths.refuse_missing(record, folder, ("method", "backbone", "vae"))
    tasks_with_state = [t for t in range(1, len(concepts) + 1) if RunFolder(folder).task(t).state.exists()]
    if not tasks_with_state:
        raise UserError(f"run {folder}: has no state yet; run it until a task is finished")
    t = tasks_with_state[-1] if after is None else after
    if t not in tasks_with_state:
        raise UserError(
            f"run {folder}: there is no state after task {t}; it has those after {', '.join(map(str, tasks_with_state))}"
        )
    state = state_after(folder, t, concepts)
    if check is not None:
        check(state.concepts)
    method, backbone = load_backbone(config, folder, weights)
    nouns = {c: concepts[c] for c in state.concepts}
    trained_run = TrainedRun(folder, config, method, state, backbone, nouns, t, recorded_sampler(record))
    first = state.concepts[0]
    with suppress(NotDefined), installed(trained_run, (first,), (f"a photo of a {concepts[first]}",)):
        trained_run.phrase(first)  # what is missing in the state shows here
    return trained_run


def recorded_config(record: Record, folder: Path) -> tuple[RunConfig, dict[str, str], str]:
    """(config, class nouns by concept, hash of the backbone's weights) of a record. UserError if one of them is missing."""
    nouns, weights = record.sequence.class_nouns, record.facts.backbone
    if weights is None or not nouns:
        raise UserError(
            f"run {folder}: its run.json does not say the class nouns or the backbone's weights; run it again, or name another"
        )
    settings = {k: v for k, v in recorded_paths.config_today(record, folder).items() if v is not None}
    return validated(RunConfig, settings, f"run {folder}"), nouns, weights


def recorded_sampler(record: Record) -> Sampler | None:
    """The steps and the guidance of the run's own pictures; None if the record does not say them."""
    from cpbench.backbones.sampling import Sampler

    recorded = record.facts.sampler or {}
    steps, guidance = recorded.get("num_inference_steps"), recorded.get("guidance_scale")
    if type(steps) is not int or steps < 1 or type(guidance) not in (int, float):
        return None
    return Sampler(steps, guidance)


def sampler_of(run: TrainedRun, steps: int | None = None, guidance: float | None = None) -> Sampler:
    """The sampler with these values, and the run's for those that are None."""
    from cpbench.backbones.sampling import Sampler
    from cpbench.concepts import sequences
    from cpbench.running.prepare import generation_settings

    usual = run.sampler or generation_settings(run.config, sequences.load(run.config.sequence))[0]
    return Sampler(steps or usual.num_inference_steps, usual.guidance_scale if guidance is None else guidance)


def trusted_config(
    config: RunConfig, folder: Path, device: str, allow_pickle: bool | None, trust_remote_code: bool | None
) -> RunConfig:
    """A run's configuration on `device`, with the user's permissions instead of the recorded ones.

    UserError if its method is a Python file and the user does not trust it.
    """
    loading = config.loading.model_copy(
        update={"allow_pickle": bool(allow_pickle), "trust_remote_code": bool(trust_remote_code)}
    )
    if config.method.endswith(".py") and not trust_remote_code:
        raise UserError(
            f"run {folder}: its method is the Python file {config.method}; if you trust that file, pass --trust-remote-code"
        )
    return config.model_copy(update={"device": device, "loading": loading})


def state_after(folder: Path, t: int, concepts: Collection[str]) -> State:
    """The state after task t. UserError if it is damaged, or not of these concepts."""
    try:
        state = State.load(RunFolder(folder).task(t).path)
    except (DamagedState, FileNotFoundError) as error:
        raise UserError(f"run {folder}: {error}; run the same command again to learn task {t} again") from None
    if not state.concepts or not set(state.concepts) <= set(concepts):
        raise UserError(
            f"run {folder}: the state after task {t} has concepts that run.json does not list; run it again"
        )
    return state


def load_backbone(config: RunConfig, folder: Path, weights: str) -> tuple[Method, Backbone]:
    """The run's method and its backbone. UserError if the backbone has other weights than the run's."""
    from cpbench import backbones
    from cpbench.running.prepare import device_for

    backbone = backbones.load(config.backbone, device_for(config), config.loading)
    if backbone.weights_hash != weights:
        raise UserError(
            f"run {folder}: was made with other weights of {config.backbone} than the ones found here; use the same weights"
        )
    method_class = load_method(config.method)
    options = option_names.accepted(config.options, method_class.Options.model_fields)
    return method_class(validated(method_class.Options, options, f"run {folder}: method {config.method}")), backbone


@contextmanager
def installed(run: TrainedRun, concepts: tuple[str, ...], prompts: tuple[str, ...] = ()) -> Iterator[None]:
    """A context in which the state is installed for `concepts`.

    prompts: passed to `Method.install` if the method is installed per prompt. UserError if the state does not fit the method or the backbone.
    """
    try:
        with run.backbone.installed(run.method, run.state, concepts, prompts if run.method.per_prompt else ()):
            yield
    except (NotDefined, UserError, RulesError, OSError):
        raise
    except Exception as error:  # the state may come from anybody, and a method expects the tensors that it saved itself
        if "out of memory" in str(error):
            raise
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise UserError(
            f"run {run.folder}: its state is not one that {run.config.method} can use on {run.config.backbone} ({reason}); "
            "run it again"
        ) from error


# Sampling


def sample(run: TrainedRun, prompt: str, n: int, seed: int, steps: int | None, guidance: float | None) -> Any:
    """`n` pictures, uint8 (n, h, w, 3), of a prompt in which "{dog6}" is replaced by the phrase of concept dog6.

    steps, guidance: None for the run's own.
    """
    from cpbench.backbones.sampling import SampleRequest, generate
    from cpbench.running.devices import few_threads

    named = concepts_in(prompt, list(run.nouns))
    words = full_prompt(run, prompt)
    sampler = sampler_of(run, steps, guidance)
    try:
        with few_threads(run.backbone), installed(run, named, (words,)):
            refuse_unread(run, prompt)
            return generate(run.backbone, [SampleRequest(words, seed, "sample", prompt, k) for k in range(n)], sampler)
    except NotDefined as reason:
        raise UserError(f"prompt {prompt!r}: {reason}; name one concept") from None


def request_of(run: TrainedRun, prompt: str, seed: int, steps: int | None, guidance: float | None) -> dict[str, Any]:
    """What decides the pictures of `sample`, as JSON; `run` is where the state was found."""
    sampler = sampler_of(run, steps, guidance)
    at = None if run.after is None else RunFolder(run.folder).task(run.after).path
    return {
        "prompt": prompt,
        "full_prompt": full_prompt(run, prompt),
        "seed": seed,
        "num_inference_steps": sampler.num_inference_steps,
        "guidance_scale": float(sampler.guidance_scale),
        "method": run.config.method,
        "backbone": run.config.backbone,
        "backbone_sha256": run.backbone.weights_hash,
        "after": run.after,
        "state_sha256": None if at is None else State.checksum(at),
        "run": str(run.folder.absolute()),
    }


def full_prompt(run: TrainedRun, prompt: str) -> str:
    """The prompt with the phrases of its concepts, as it is encoded."""
    return "".join(text + (run.phrase(c) if c else "") for text, c, *_ in string.Formatter().parse(prompt))


def refuse_unread(run: TrainedRun, prompt: str) -> None:
    """UserError if a text encoder's limit cuts a prompt before the end of its last concept; a note if it cuts later text."""
    from cpbench.concepts import prompt_length

    ahead = whole = ""
    for text, concept, *_ in string.Formatter().parse(prompt):
        whole += text + (run.phrase(concept) if concept else "")
        ahead = whole if concept else ahead
    readers = prompt_length.readers_of(run.backbone)
    prompt_length.refuse_cut(readers, ahead, whole)
    if cut := [reader for reader in readers if reader.lacks(ahead, whole)]:
        say(
            f"note: the prompt is longer than the {cut[0].most} tokens that {cut[0].name} reads: its end does not count"
        )


def concepts_in(prompt: str, learned: list[str]) -> tuple[str, ...]:
    """The concepts in braces in a prompt, without repetitions. UserError for one that is not learned."""
    try:
        parsed = [replacement for _, *replacement in string.Formatter().parse(prompt) if replacement[0] is not None]
        if with_format := [field for field, form, conversion in parsed if form or conversion]:
            raise ValueError(f"{with_format[0]} must be followed by a closing brace")
    except ValueError as error:
        raise UserError(f"prompt {prompt!r}: {error}; write a concept as {{{learned[0]}}}") from None
    fields = [field for field, *_ in parsed]
    for field in fields:
        refuse_unknown(field, learned)
    return tuple(dict.fromkeys(fields))


def refuse_unknown(concept: str, learned: list[str]) -> None:
    """UserError for a concept that is not learned."""
    if concept not in learned:
        raise did_you_mean(concept, learned, "concept", f"Learned at that point: {', '.join(learned)}.")
