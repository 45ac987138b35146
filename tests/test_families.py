"""Families: what they say of layers and prompts, and that nothing outside of them asks for a model's name."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import nn

from cpbench.backbones import families
from cpbench.backbones.adapters import matching_modules
from cpbench.backbones.backbone import Backbone
from cpbench.backbones.hub import BUILT_IN
from cpbench.backbones.options import BACKBONES

ROOT = Path(__file__).resolve().parents[1]
# the families themselves; how the embedded model was made; and the one place that says which name is an embedded backbone's
KNOWING = ("cpbench/backbones/families/", "cpbench/miniature/pretrain/", "cpbench/miniature/__init__.py")


def models_names() -> set[str]:
    """By which code could ask what model it has: pipelines, their denoisers and switches, families and backbones."""
    import diffusers

    classes = {n for n in dir(diffusers) if n.endswith(("Pipeline", "Transformer2DModel", "UNet2DConditionModel"))}
    known = {f.__name__ for f in map(families.family_named, families.FAMILIES)} | set(families.FAMILIES)
    short = {"sd", "sdxl", "sd3", "pixart", "sana", "flux", "unet", "transformer", "text_time"}
    return classes | known | short | set(BUILT_IN) | set(BACKBONES)


def compared(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, string) of every string that something is compared with, looked for in, or matched against."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("startswith", "endswith"):
            sides = node.args
        elif isinstance(node, ast.MatchValue):
            sides = [node.value]
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("isinstance", "issubclass"):
            for inner in ast.walk(node.args[1]):
                name = inner.attr if isinstance(inner, ast.Attribute) else getattr(inner, "id", None)
                yield from [(node.lineno, name)] if name else ()
            continue
        else:
            continue
        for inner in (c for side in sides for c in ast.walk(side)):
            if isinstance(inner, ast.Constant) and isinstance(inner.value, str):
                yield node.lineno, inner.value


@pytest.mark.parametrize("code", ['kind == "sdxl"', 'x in ("UNet2DConditionModel",)', "isinstance(p, d.FluxPipeline)"])
def test_a_question_for_a_models_name_is_seen(code: str) -> None:
    assert {name for _, name in compared(ast.parse(code))} & models_names()


def test_a_models_name_is_asked_for_in_families_alone() -> None:
    names, found = models_names(), []
    for file in sorted([*(ROOT / "cpbench").rglob("*.py"), *(ROOT / "baselines").glob("*.py")]):
        place = file.relative_to(ROOT).as_posix()
        if not place.startswith(KNOWING):
            found += [
                f"{place}:{line}: {name}" for line, name in compared(ast.parse(file.read_text())) if name in names
            ]
    assert found == []


def test_every_pipeline_in_the_table_is_one_of_diffusers_and_has_a_family() -> None:
    import diffusers

    for name in families.FAMILIES:
        family = families.family_named(name)
        assert hasattr(diffusers, name) and hasattr(diffusers, family.denoiser_class)
        assert set(family.roles) == {"attention", "text_attention", "text_keys_values", "feed_forward"}


def test_a_pipeline_of_no_family_is_refused() -> None:
    with pytest.raises(TypeError, match="it is no StableDiffusionPipeline or StableDiffusionXLPipeline"):
        families.family_of(nn.Linear(1, 1))


# Layers by their roles, against what the blocks of diffusers are made of


def test_roles_are_the_layers_of_the_blocks(tiny: Backbone) -> None:
    from diffusers.models.attention import BasicTransformerBlock

    expected: dict[str, set[int]] = {
        "attention": set(),
        "text_attention": set(),
        "text_keys_values": set(),
        "feed_forward": set(),
    }
    for block in (m for m in tiny.denoiser.modules() if isinstance(m, BasicTransformerBlock)):
        for attention in (block.attn1, block.attn2):
            projections = {id(p) for p in (attention.to_q, attention.to_k, attention.to_v, attention.to_out[0])}
            expected["attention"] |= projections
            if attention.to_k.in_features == tiny.encode_prompts(["a"]).shape[-1] and attention.is_cross_attention:
                expected["text_attention"] |= projections
                expected["text_keys_values"] |= {id(attention.to_k), id(attention.to_v)}
        expected["feed_forward"] |= {id(m) for m in block.ff.modules() if isinstance(m, nn.Linear)}
    for role, layers in expected.items():
        found = matching_modules(tiny.denoiser, (role,))
        assert {id(tiny.denoiser.get_submodule(n)) for n in found} == layers and len(found) == len(layers) > 0, role


def test_roles_and_names_go_together_and_a_role_means_nothing_to_another_network(tiny: Backbone) -> None:
    both = matching_modules(tiny.denoiser, ("text_keys_values", "conv1"))
    assert set(both) == {
        *matching_modules(tiny.denoiser, ("attn2.to_k", "attn2.to_v")),
        *matching_modules(tiny.denoiser, ("conv1",)),
    }
    with pytest.raises(ValueError, match="no layer's name ends with 'attention'"):
        matching_modules(nn.Sequential(nn.Linear(1, 1)), ("attention",))


def test_the_denoiser_answers_by_its_old_name_and_says_so_once(tiny: Backbone) -> None:
    import warnings

    from cpbench import moved

    moved._warned.discard("Backbone.unet")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert tiny.unet is tiny.denoiser is tiny.unet
    assert [str(w.message) for w in said if "Backbone" in str(w.message)] == [
        "Backbone.unet is Backbone.denoiser now; the old name goes with cpbench 0.3"
    ]
