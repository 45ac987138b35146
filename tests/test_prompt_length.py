"""A prompt that is cut before the concept's own word is refused; one whose end is cut is said."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from cpbench.backbones.backbone import Backbone
from cpbench.concepts import prompt_length
from cpbench.config import resolve
from cpbench.errors import UserError
from cpbench.running.prepare import Run, prepare

MANY = "in the snow " * 20  # 60 tokens: twice as many as the miniature's text encoder reads


def sequence(folder: Path, template: str) -> str:
    content = {
        "name": "long",
        "version": 1,
        "images": {"drawn": True},
        "concepts": [{"name": n, "class_noun": n, "kind": "live"} for n in ("dog", "cat")],
        "prompts": {"live": [template, "a {} on the beach"]},
        "evaluation": {"live": [template], "pictures_per_prompt": 1, "num_inference_steps": 1},
    }
    (folder / "long.yaml").write_text(yaml.safe_dump(content))
    return str(folder / "long.yaml")


def prepared(folder: Path, template: str) -> Run:
    given = {"method": "seqlora", "sequence": sequence(folder, template), "output": folder / "out", "device": "cpu"}
    return prepare(*resolve(given))


def test_what_is_cut_is_what_the_tokenizer_cuts(miniature: Backbone) -> None:
    (reader,) = prompt_length.readers_of(miniature)
    assert reader.most == 30
    for n in range(20, 40):
        ahead = "snow " * n + "dog"
        ids = miniature.tokenizer(ahead, truncation=True, max_length=32).input_ids
        read = miniature.tokenizer.decode(ids, skip_special_tokens=True)
        assert (reader.lacks(ahead, ahead) == "concept") == ("dog" not in read)


def test_a_learned_word_takes_room_as_well(miniature: Backbone) -> None:
    exact = "snow " * 29 + "dog"
    assert prompt_length.readers_of(miniature)[0].lacks(exact, exact) == ""
    assert prompt_length.readers_of(miniature, added=1)[0].lacks(exact, exact) == "concept"


def test_a_run_whose_concepts_would_be_cut_off_is_refused_before_anything_is_spent(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="text encoder reads 30 tokens, and the words for the concept end after those"):
        prepared(tmp_path, MANY + "a {}")
    assert not (tmp_path / "out").exists()


def test_a_run_whose_prompts_lose_their_end_says_so(tmp_path: Path) -> None:
    notes = prepared(tmp_path, "a {} " + MANY.strip()).notes
    assert any("1 prompt is longer" in n or "2 prompts are longer" in n for n in notes)
    assert {"the text encoder", "the CLIP judge"} == {
        who for who in ("the text encoder", "the CLIP judge") for n in notes if who in n
    }
    assert prepared(tmp_path, "a {} in the snow").notes == []


def test_sampling_refuses_a_concept_that_is_cut_off_and_says_what_else_is(short_run: Callable, call: Callable) -> None:
    folder = short_run("seqlora")
    code, _, said = call("sample", folder, "--prompt", MANY + "a {dog}", "-n", 1, "--num-inference-steps", 1)
    assert code == 2 and "would not be asked for" in said and len(said.splitlines()) == 1
    code, out, _ = call("sample", folder, "--prompt", "a {dog} " + MANY, "-n", 1, "--num-inference-steps", 1)
    assert code == 0 and "its end does not count" in out


def test_a_sequence_is_not_written_with_a_noun_that_no_prompt_has_room_for(call: Callable, tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "rex").mkdir()
    for k in range(3):
        Image.effect_noise((300, 300), 20 + 60 * k).convert("RGB").save(tmp_path / "rex" / f"{k}.png")
    code, _, said = call("new-sequence", "my.yaml", f"{tmp_path / 'rex'}:{'very ' * 80}dog")
    assert code == 2 and "CLIP's text encoder reads 75 tokens" in said
    assert not (tmp_path / "my.yaml").exists()
