"""RunConfig: what a run is asked to do, from the command line over --config over the preset over defaults."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from cpbench import miniature
from cpbench.backbones.options import BACKBONES, Loading
from cpbench.concepts import sequences
from cpbench.errors import UserError, quoted
from cpbench.judges.identity import LIKE, preprocessing_settings
from cpbench.miniature import is_miniature
from cpbench.moved import warn_once
from cpbench.records.upgrade import OLD_EVALUATION_NAMES
from cpbench.registry import load_method, method_names, preset
from cpbench.validation import validated
from cpbench.yaml_files import from_yaml, read_yaml

if TYPE_CHECKING:
    from cpbench.method import Method

DEFAULT_OUTPUT = Path("results/runs")
ANY_RUN = {"method": "", "sequence": ""}  # for checking settings without these two
ON_THE_MINIATURE = "photographs on the miniature, whose model and judges know drawings alone: their scores say little"


class EvaluationChoices(BaseModel):
    """How the pictures of a row are generated; None: as the sequence says."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    pictures_per_prompt: int | None = Field(None, ge=1, description="pictures a prompt")
    num_inference_steps: int | None = Field(None, ge=1, description="sampler steps")
    guidance_scale: float | None = Field(None, ge=0, description="classifier-free guidance")
    batch_size: int = Field(16, ge=1, description="pictures a pipeline call")
    forward_transfer_cells: bool | None = Field(
        None, description="also generate concepts not yet learned, which forward transfer needs"
    )

    @model_validator(mode="before")
    @classmethod
    def _by_new_names(cls, values: Any) -> Any:
        """The values with the names that cpbench 0.1 had replaced, and one warning for each."""
        if not isinstance(values, dict):
            return values
        for old, new in OLD_EVALUATION_NAMES.items():
            if old in values and new not in values:
                warn_once(f"evaluation.{old}", f"evaluation.{new}")
                values = {new if key == old else key: value for key, value in values.items()}
        return values


class RunConfig(BaseModel):
    """One method x sequence x backbone x seed x order."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    method: str
    sequence: str
    backbone: str = miniature.NAME
    seed: int = Field(0, ge=0)
    order: int = Field(0, ge=0)
    output: Path = DEFAULT_OUTPUT
    device: str = "auto"
    deterministic: bool = Field(False, description="on CUDA, the same bits at every call: slower, and without TF32")
    clip: str | None = Field(None, description="CLIP judge: published name, .safetensors file or folder")
    dino: str | None = Field(None, description="DINO judge, likewise")
    clip_preprocessing: str | None = Field(None, description=f"what to change of the CLIP judge's own, e.g. {LIKE}")
    dino_preprocessing: str | None = Field(None, description="what to change of the DINO judge's own, likewise")
    clip_activation: Literal["gelu", "quickgelu"] | None = Field(
        None, description="of a CLIP judge's file where no config beside it says which"
    )
    judges: tuple[str, ...] = Field((), description="judges that installed packages add, by name, beside CLIP and DINO")
    data: str | None = Field(None, description="where photographs are: a folder, or hub")
    fit: Literal["crop", "pad"] = Field("crop", description="how a photograph becomes square")
    loading: Loading = Field(default_factory=Loading)
    keep_states: Literal["all", "last"] | None = Field(
        None, description="last where whole weights are learned, else all"
    )
    rows: tuple[int, ...] | None = Field(
        None, description="rows of the matrix to draw, beside row 0 and the last; None: every row"
    )
    overlap: bool | None = Field(
        None, description="rows in a second process; None: where there is a second GPU or spare cores"
    )
    options: dict[str, Any] = Field(default_factory=dict, description="the method's options")
    evaluation: EvaluationChoices = Field(default_factory=EvaluationChoices)

    @field_validator("clip_preprocessing", "dino_preprocessing")
    @classmethod
    def _read_preprocessing(cls, words: str | None) -> str | None:
        if words is not None:
            preprocessing_settings(words)
        return words


# Layers of settings


def parse_settings(pairs: tuple[str, ...]) -> dict[str, Any]:
    """`key=value` words from the command line, values read as YAML; "evaluation.x=y" sets an evaluation choice."""
    out: dict[str, Any] = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign or not key:
            raise UserError(f"--set {quoted(pair)}: must be key=value, e.g. --set steps=100")
        parsed = from_yaml(value, f"--set {quoted(pair)}")
        if isinstance(parsed, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", parsed):
            parsed = float(parsed)  # YAML 1.1 wants a dot in 1e-4; people do not write one
        out[key.replace("-", "_")] = parsed
    return out


def split_settings(pairs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the method's options, the evaluation's choices), from what `parse_settings` returns."""
    options = {k: v for k, v in pairs.items() if not k.startswith("evaluation.")}
    return options, {k.partition(".")[2]: v for k, v in pairs.items() if k.startswith("evaluation.")}


def with_settings(values: dict[str, Any], settings: tuple[str, ...]) -> dict[str, Any]:
    """`values` with --set's words added to its options and its evaluation."""
    options, evaluation = split_settings(parse_settings(settings))
    return _with_more(_with_more(values, "options", options), "evaluation", evaluation)


def _with_more(values: dict[str, Any], part: str, more: dict[str, Any]) -> dict[str, Any]:
    """`values` with more in one of its mappings; where that is none, they are as they were: `checked` will say so."""
    entries = values.get(part, {})
    return {**values, part: entries | more} if more and isinstance(entries, dict) else values


def read_config_file(path: Path) -> dict[str, Any]:
    """What a --config file says. UserError, in one line that names the file, where a value is not what RunConfig takes."""
    label = f"--config {path}"
    values = read_yaml(path, label)
    checked(ANY_RUN | values if isinstance(values, dict) else values, label)
    return values


def checked(values: Any, label: str) -> RunConfig:
    """The configuration of these values; what belongs in `loading` may stand beside it, as on the command line."""
    if isinstance(values, dict):
        loading = {k: values[k] for k in Loading.model_fields if k in values}
        values = _with_more({k: v for k, v in values.items() if k not in loading}, "loading", loading)
    return validated(RunConfig, values, label)


def _refuse_photographs_on_the_miniature(sequence: str) -> None:
    """UserError where nobody named a backbone and the sequence's concepts are photographs: it was forgotten."""
    concepts = sequences.load(sequence).concepts
    if photographed := [c.name for c in concepts if not c.rendered]:
        alternatives = ", ".join(name for name in BACKBONES if not is_miniature(name))
        raise UserError(
            f"sequence {sequence}: {photographed[0]} is photographed, and without --backbone these would be "
            f"{ON_THE_MINIATURE}; name a backbone ({alternatives}, a hub id or a folder), or --backbone miniature if you mean it"
        )


def resolve(
    keywords: dict[str, Any], config_file: Path | None = None, settings: tuple[str, ...] = ()
) -> tuple[RunConfig, type[Method], BaseModel]:
    """(config, method class, its options) from the command line's values (None = not given), a file and --set pairs."""
    values = read_config_file(config_file) if config_file else {}
    values |= {k: v for k, v in keywords.items() if v is not None}
    for key in ("method", "sequence"):
        if not values.get(key):
            raise UserError(f"--{key} is missing; name one (`cpbench list {key}s` shows them)")
    config = checked(with_settings(values, settings), "run")
    if "backbone" not in config.model_fields_set:
        _refuse_photographs_on_the_miniature(config.sequence)
    method = load_method(config.method)
    name = Path(config.method).stem
    has_preset = config.method in method_names()  # a file's name is no method's
    tuned = preset(config.backbone, name, config.options) if has_preset else {}
    options = validated(method.Options, tuned | config.options, f"method {name}")
    return config.model_copy(update={"options": options.model_dump(mode="json")}), method, options
