"""The schema of a sequence's or a prompt set's YAML file; sequences.py has an example and turns it into a Sequence.

These checks look at one value at a time. An optional key may be absent (LEFT_OUT, unchecked) but not empty.
"""

import re
from functools import partial
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from cpbench.errors import quoted
from cpbench.files import FILE_NAME

SubjectType = Literal["live", "object", "style"]
SUBJECT_TYPES: tuple[str, ...] = get_args(SubjectType)
SLOT = "{}"  # replaced by the words for the concept
STRICT = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
LEFT_OUT: Any = None


def _one_line(text: str) -> str:
    if not text or text != text.strip() or not text.isprintable():
        raise ValueError(f"must be one line of text with no space around it, not {quoted(text)}")
    return text


def _noun(text: str) -> str:
    if word := re.search(r"<[^<>\s]*>", text):
        raise ValueError(
            f"{quoted(text)} contains {word[0]}, and methods name the words that they add like this; write the plain word for the class"
        )
    return text


def _file_name(text: str) -> str:
    if not FILE_NAME.fullmatch(text):
        raise ValueError(f"{quoted(text)} cannot name a folder; use up to 100 letters, digits, '_', '-' and '.'")
    return text


def _no_way_out(path: str) -> str:
    if ".." in re.split(r"[/\\]", path):
        raise ValueError(f"{quoted(path)} leaves its folder by '..'; write the folder's absolute path")
    return path


def _slots(count: int, template: str) -> str:
    text = template.replace(SLOT, "")
    if template.count(SLOT) != count or "{" in text or "}" in text:
        often = "once, for the concept," if count == 1 else "twice, for two concepts,"
        raise ValueError(f"{quoted(template)} must contain {SLOT} {often} and no other brace")
    return template


def _distinct(templates: list[str]) -> list[str]:
    if len(set(templates)) < len(templates):
        twice = next(template for template in templates if templates.count(template) > 1)
        raise ValueError(f"{quoted(twice)} occurs twice; keep one")
    return templates


Text = Annotated[str, AfterValidator(_one_line)]
Name = Annotated[Text, AfterValidator(_file_name)]
Noun = Annotated[Text, AfterValidator(_noun)]
Path = Annotated[Text, AfterValidator(_no_way_out)]
Template = Annotated[Text, AfterValidator(partial(_slots, 1))]
Templates = Annotated[list[Template], Field(min_length=1), AfterValidator(_distinct)]
Pair = Annotated[Text, AfterValidator(partial(_slots, 2))]
Pairs = Annotated[list[Pair], Field(min_length=1), AfterValidator(_distinct)]
Whole = Annotated[int, Field(ge=1)]
MOST_CONCEPTS = 500
Number = Annotated[float, Field(ge=0)]


class Images(BaseModel):
    model_config = STRICT
    folder: Path | None = None
    drawn: bool = LEFT_OUT  # default: if no folder is given


class ConceptEntry(BaseModel):
    model_config = STRICT
    name: Name
    class_noun: Noun
    kind: SubjectType
    images: Images = LEFT_OUT


class Prompts(BaseModel):
    """Templates by subject type."""

    model_config = STRICT
    live: Templates = LEFT_OUT
    object: Templates = LEFT_OUT
    style: Templates = LEFT_OUT


class SamplingEntry(BaseModel):
    model_config = STRICT
    pictures_per_prompt: Whole = LEFT_OUT
    num_inference_steps: Whole = LEFT_OUT
    guidance_scale: Number = LEFT_OUT


class EvaluationEntry(SamplingEntry, Prompts):
    photographs: SamplingEntry = SamplingEntry()
    compositions: Pairs = []
    prior: Templates = []


class SequenceFile(BaseModel):
    model_config = STRICT
    name: Name
    version: Whole
    description: str = ""
    prompts: Any = "dreambench"  # the name of a prompt set, or Prompts
    images: Images = Images()
    concepts: list[ConceptEntry] = Field(min_length=1, max_length=MOST_CONCEPTS)
    evaluation: EvaluationEntry


class PromptSetFile(BaseModel):
    model_config = STRICT
    set: str
    kind: SubjectType
    prompts: Templates
