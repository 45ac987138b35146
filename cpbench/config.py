"""RunConfig: a run's settings. The command line precedes --config, which precedes the preset, which precedes defaults."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from cpbench import miniature
from cpbench.backbones.options import BACKBONES, BackboneConfig
from cpbench.concepts import sequences
from cpbench.errors import UserError, quoted, synonyms
from cpbench.judges.identity import LIKE, preprocessing_settings
from cpbench.miniature import is_miniature
from cpbench.moved import warn_once
from cpbench.records import option_names
from cpbench.records.upgrade import OLD_EVALUATION_NAMES
from cpbench.registry import load_method, method_names, preset
from cpbench.validation import validated
from cpbench.yaml_files import from_yaml, read_yaml

if TYPE_CHECKING:
    from cpbench.method import Method, Options

DEFAULT_OUTPUT = Path("results/runs")
ANY_RUN = {"method": "", "sequence": ""}  # to check settings without these two
ON_THE_MINIATURE = "photographs on the miniature, whose model and judges know only drawings: their scores mean little"


class EvaluationChoices(BaseModel):
    """How the pictures of a row are generated; None: as the sequence says."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    pictures_per_prompt: int | None = Field(None, ge=1, description="pictures per prompt")
    num_inference_steps: int | None = Field(None, ge=1, description="sampler steps")
    guidance_scale: float | None = Field(None, ge=0, description="classifier-free guidance")
    batch_size: int = Field(16, ge=1, description="pictures per pipeline call")
    forward_transfer_cells: bool | None = Field(
        None, description="also generate concepts not yet learned, which forward transfer needs"
    )
    rows: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(
        None, description="rows of the matrix to generate besides row 0 and the last; None: all"
    )
    adapter_scales: tuple[Annotated[float, Field(gt=0, le=4)], ...] = Field(
        (),
        description="also generate the concepts of the last row with what was learned at these strengths, 1 being as it is",
    )
    held_out: int | None = Field(
        None,
        ge=0,
        le=64,
        description="pictures of each concept that identity is scored against and nothing learns from, the last photographs; "
        "None: 8 further drawings, no photographs; 0: the training pictures",
    )
    diagonal: bool = Field(False, description="also generate, in each row left out, the concept of its own task alone")

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

    @field_validator("adapter_scales")
    @classmethod
    def _name_scales_once(cls, scales: tuple[float, ...]) -> tuple[float, ...]:
        if repeated := [s for s in scales if scales.count(s) > 1]:
            raise ValueError(f"strength {repeated[0]:g} is named twice; name it once")
        return tuple(sorted(scales))

    @field_validator("rows")
    @classmethod
    def _name_rows_once(cls, rows: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if repeated := [t for t in rows or () if rows and rows.count(t) > 1]:
            raise ValueError(f"row {repeated[0]} is named twice; name it once")
        return rows


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
    deterministic: bool = Field(False, description="the same bits at every call on CUDA: slower, without TF32")
    clip: str | None = Field(None, description="CLIP judge: published name, .safetensors file or folder")
    dino: str | None = Field(None, description="DINO judge, given likewise")
    clip_preprocessing: str | None = Field(None, description=f"changes to the CLIP judge's preprocessing, e.g. {LIKE}")
    dino_preprocessing: str | None = Field(None, description="changes to the DINO judge's preprocessing, likewise")
    clip_activation: Literal["gelu", "quickgelu"] | None = Field(
        None, description="activation of a CLIP judge whose file has no config beside it"
    )
    judges: tuple[str, ...] = Field((), description="names of judges that installed packages add to CLIP and DINO")
    data: str | None = Field(None, description="folder with the photographs, or hub")
    fit: Literal["crop", "pad"] = Field("crop", description="how photographs are made square")
    loading: BackboneConfig = Field(default_factory=BackboneConfig)
    keep_states: Literal["all", "last"] | None = Field(
        None, description="default: last if whole weights are learned, else all"
    )
    overlap: bool | None = Field(
        None, description="rows in a second process; None: on the CPU, if there are spare cores"
    )
    compile: Literal["auto", "on", "off"] = Field(
        "auto",
        description="compile the denoiser for sampling: faster, other last bits; auto: if the run's pictures repay it",
    )
    options: dict[str, Any] = Field(default_factory=dict, description="the method's options")
    evaluation: EvaluationChoices = Field(default_factory=EvaluationChoices)

    @model_validator(mode="before")
    @classmethod
    def _rows_in_evaluation(cls, values: Any) -> Any:
        return with_rows_in_evaluation(values) if isinstance(values, dict) else values

    @property
    def rows(self) -> tuple[int, ...] | None:
        """`evaluation.rows`, by its short form."""
        return self.evaluation.rows

    @field_validator("clip_preprocessing", "dino_preprocessing")
    @classmethod
    def _read_preprocessing(cls, words: str | None) -> str | None:
        if words is not None:
            preprocessing_settings(words)
        return words

    @field_validator("compile", mode="before")
    @classmethod
    def _switch(cls, value: Any) -> Any:
        """YAML reads on and off as true and false."""
        return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


# Layers of settings


def parse_settings(pairs: tuple[str, ...]) -> dict[str, Any]:
    """`key=value` arguments of the command line, with values in YAML; "evaluation.x=y" sets an evaluation setting."""
    out: dict[str, Any] = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign or not key:
            raise UserError(f"--set {quoted(pair)}: must be key=value, e.g. --set steps=100")
        parsed = from_yaml(value, f"--set {quoted(pair)}")
        if isinstance(parsed, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", parsed):
            parsed = float(parsed)  # YAML 1.1 needs a dot in 1e-4, which people leave out
        out[key.replace("-", "_")] = parsed
    return out


def split_settings(pairs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the method's options, the evaluation's settings), from the result of `parse_settings`."""
    options = {k: v for k, v in pairs.items() if not k.startswith("evaluation.")}
    return options, {k.partition(".")[2]: v for k, v in pairs.items() if k.startswith("evaluation.")}


def with_settings(values: dict[str, Any], settings: tuple[str, ...]) -> dict[str, Any]:
    """`values` with the arguments of --set added to its options and its evaluation."""
    options, evaluation = split_settings(parse_settings(settings))
    return _with_more(_with_more(values, "options", options), "evaluation", evaluation)


def with_rows_in_evaluation(values: dict[str, Any]) -> dict[str, Any]:
    """`values` with `rows`, the short form of `evaluation.rows`, in their evaluation, where it takes precedence."""
    rows, evaluation = values.get("rows"), values.get("evaluation", {})
    if "rows" not in values or not isinstance(evaluation, dict):
        return values
    return {k: v for k, v in values.items() if k != "rows"} | {"evaluation": evaluation | {"rows": rows}}


def _with_more(values: dict[str, Any], part: str, more: dict[str, Any]) -> dict[str, Any]:
    """`values` with `more` in one of its mappings; unchanged if that is no mapping, which `checked` will report."""
    entries = values.get(part, {})
    return {**values, part: entries | more} if more and isinstance(entries, dict) else values


def read_config_file(path: Path) -> dict[str, Any]:
    """The content of a --config file. UserError, in one line that names the file, for a value that RunConfig does not accept."""
    label = f"--config {path}"
    values = read_yaml(path, label)
    checked(ANY_RUN | values if isinstance(values, dict) else values, label)
    return values


def checked(values: Any, label: str) -> RunConfig:
    """The configuration with these values; entries of `loading` may also be at the top level, as on the command line."""
    if isinstance(values, dict):
        loading = {k: values[k] for k in BackboneConfig.model_fields if k in values}
        values = _with_more({k: v for k, v in values.items() if k not in loading}, "loading", loading)
    return validated(RunConfig, values, label)


def _refuse_photographs_on_the_miniature(sequence: str) -> None:
    """UserError if no backbone is given and the sequence's concepts are photographs: it was probably forgotten."""
    concepts = sequences.load(sequence).concepts
    if photographed := [c.name for c in concepts if not c.rendered]:
        alternatives = ", ".join(name for name in BACKBONES if not is_miniature(name))
        raise UserError(
            f"sequence {sequence}: {photographed[0]} is photographed, and without --backbone the run would be of "
            f"{ON_THE_MINIATURE}; pass --backbone ({alternatives}, a hub id or a folder), or --backbone miniature if you mean it"
        )


def _refuse_options_beside(values: dict[str, Any]) -> None:
    """UserError if an option of the method, or a setting of the evaluation, stands where the run's own settings do."""
    own_keys = {*RunConfig.model_fields, *BackboneConfig.model_fields, "rows"}
    if not isinstance(values["method"], str):  # which `checked` will refuse
        return
    foreign = [key for key in values if key not in own_keys and not synonyms(str(key), own_keys)]
    if not foreign:
        return
    parts = {
        "evaluation": EvaluationChoices.model_fields,
        "options": load_method(values["method"]).Options.model_fields,
    }
    for key in foreign:
        for part, fields in parts.items():
            if key in fields or synonyms(str(key), fields):
                setting = key if key in fields else synonyms(str(key), fields)[0]
                owner = "the method" if part == "options" else "the evaluation"
                raise UserError(
                    f"run: {quoted(key)}: is a setting of {owner}; put it under {part}, as {{{setting}: VALUE}}"
                )


def resolve(
    keywords: dict[str, Any], config_file: Path | None = None, settings: tuple[str, ...] = ()
) -> tuple[RunConfig, type[Method], Options]:
    """(config, method class, its options) from the command line's values (None: not given), a file and --set arguments."""
    return resolved(requested(keywords, config_file, settings))


def requested(keywords: dict[str, Any], config_file: Path | None = None, settings: tuple[str, ...] = ()) -> RunConfig:
    """The same without the method, which is not loaded: its options are only those that were given, and unchecked."""
    values = with_rows_in_evaluation(read_config_file(config_file)) if config_file else {}
    values = with_rows_in_evaluation(values | {k: v for k, v in keywords.items() if v is not None})
    for key in ("method", "sequence"):
        if not values.get(key):
            raise UserError(f"--{key} is missing; pass one (`cpbench list {key}s` shows them)")
    _refuse_options_beside(values)
    config = checked(with_settings(values, settings), "run")
    if "backbone" not in config.model_fields_set:
        _refuse_photographs_on_the_miniature(config.sequence)
    return config


def resolved(config: RunConfig) -> tuple[RunConfig, type[Method], Options]:
    """(config, method class, its options) of a requested configuration: with the method's preset and defaults."""
    method = load_method(config.method)
    name = Path(config.method).stem
    has_preset = config.method in method_names()  # a file is no built-in method
    settings_by_name = option_names.accepted(config.options, method.Options.model_fields)
    tuned = preset(config.backbone, name, settings_by_name) if has_preset else {}
    options = validated(method.Options, tuned | settings_by_name, f"method {name}")
    return config.model_copy(update={"options": options.model_dump(mode="json")}), method, options
