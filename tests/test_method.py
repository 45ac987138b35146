"""State: what goes in comes out, and what is not whole is named. Task: generators by purpose."""

import copy
import hashlib
import json
import math
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cpbench.errors import DamagedState, UserError
from cpbench.files import seed_of
from cpbench.method import TENSOR_TYPES, Options, State, Task

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool)
WORDS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12).filter(lambda w: w != "concepts")
NAMES = st.builds("{}/{}".format, st.sampled_from(TENSOR_TYPES), WORDS)
FACTS = st.dictionaries(
    WORDS,
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | WORDS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
        max_leaves=6,
    ),
    max_size=4,
)


def bits(tensor: torch.Tensor) -> tuple[torch.dtype, tuple[int, ...], bytes]:
    flat = tensor.contiguous().reshape(-1)
    return tensor.dtype, tuple(tensor.shape), bytes(flat.view(torch.uint8).tolist()) if len(flat) else b""


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    count = math.prod(shape)
    values = draw(st.lists(st.integers(0, 200), min_size=count, max_size=count))
    return torch.tensor(values, dtype=torch.float64).reshape(shape).to(draw(st.sampled_from(DTYPES)))


@pytest.fixture
def saved(tmp_path: Path) -> tuple[State, Path]:
    state = State(
        {"adapter/a": torch.arange(6.0).reshape(2, 3), "token/dog": torch.linspace(-1, 1, 5)},
        {"concepts": ["dog"], "loss": 0.25, "words": {"dog": "<v1> dog"}},
    )
    state.save(tmp_path)
    return state, tmp_path


def damage(folder: Path) -> DamagedState:
    with pytest.raises(DamagedState) as caught:
        State.load(folder)
    return caught.value


@settings(max_examples=60)
@given(st.dictionaries(NAMES, tensors(), max_size=4), FACTS)
def test_what_is_saved_is_what_is_loaded(
    tmp_path_factory: pytest.TempPathFactory, named: dict[str, torch.Tensor], facts: dict
) -> None:
    folder = tmp_path_factory.mktemp("state")
    State(named, copy.deepcopy(facts)).save(folder)
    loaded = State.load(folder)
    assert {k: bits(v) for k, v in loaded.tensors.items()} == {k: bits(v) for k, v in named.items()}
    assert loaded.facts == facts


def test_what_is_saved_is_plain_safetensors_and_json(saved: tuple[State, Path]) -> None:
    from safetensors import safe_open

    state, folder = saved
    with safe_open(folder / "state.safetensors", "pt") as file:
        read = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    assert {k: bits(v) for k, v in read.items()} == {k: bits(v) for k, v in state.tensors.items()}
    record = json.loads((folder / "state.json").read_text())
    assert record["facts"] == state.facts
    assert record["sha256"] == hashlib.sha256((folder / "state.safetensors").read_bytes()).hexdigest()


def test_save_returns_the_checksum_of_the_tensors(tmp_path: Path) -> None:
    digest = State({"mask/m": torch.ones(3)}, {}).save(tmp_path)
    assert digest == hashlib.sha256((tmp_path / "state.safetensors").read_bytes()).hexdigest()


def test_tensors_that_share_memory_or_are_not_contiguous_are_saved(tmp_path: Path) -> None:
    table = torch.arange(12.0).reshape(3, 4)
    named = {"adapter/a": table, "anchor/a": table, "token/row": table[1], "weights/turned": table.T}
    State(named, {}).save(tmp_path)
    loaded = State.load(tmp_path).tensors
    assert {k: v.tolist() for k, v in loaded.items()} == {k: v.tolist() for k, v in named.items()}


@pytest.mark.parametrize("name", ["latents/dog", "adapter", "Adapter/a", "", "/adapter", "adapters/a"])
def test_a_tensor_without_a_type_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="has no type") as caught:
        State({"adapter/fine": torch.ones(2), name: torch.ones(2)}, {}).save(tmp_path)
    assert repr(name) in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_nothing_there_is_not_damage(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        State.load(tmp_path)


@pytest.mark.parametrize("keep", ["nothing", "half", "all but one byte"])
@pytest.mark.parametrize("name", ["state.safetensors", "state.json"])
def test_a_truncated_file_is_named(saved: tuple[State, Path], name: str, keep: str) -> None:
    file = saved[1] / name
    data = file.read_bytes()
    file.write_bytes(data[: {"nothing": 0, "half": len(data) // 2, "all but one byte": len(data) - 1}[keep]])
    error = damage(saved[1])
    assert error.path == file
    assert str(file) in str(error)


def test_every_flipped_bit_of_the_tensors_is_seen(saved: tuple[State, Path]) -> None:
    file = saved[1] / "state.safetensors"
    data = file.read_bytes()
    for at in range(len(data)):
        file.write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
        assert damage(saved[1]).path == file


def test_no_flipped_bit_of_the_record_changes_the_facts(saved: tuple[State, Path]) -> None:
    state, folder = saved
    file = folder / "state.json"
    data = file.read_bytes()
    seen = 0
    for at in range(len(data)):
        file.write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
        try:
            assert State.load(folder).facts == state.facts
        except DamagedState as error:
            assert error.path == file
            seen += 1
    assert seen > 0.9 * len(data)  # the rest is space between words


@pytest.mark.parametrize("content", ["[]", "3", "null", '"words"', "{}", '{"schema": 1}'])
def test_a_record_of_another_form_is_damage(saved: tuple[State, Path], content: str) -> None:
    file = saved[1] / "state.json"
    file.write_text(content)
    assert damage(saved[1]).path == file


def rewritten(folder: Path, **changes: object) -> None:
    """A record with other values whose checksum is right, as anybody can make one."""
    file = folder / "state.json"
    record = json.loads(file.read_text()) | changes
    record.pop("checksum")
    checksum = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
    file.write_text(json.dumps(record | {"checksum": checksum}))


@pytest.mark.parametrize("facts", [None, 3, [], "words", {"concepts": "dog"}, {"concepts": [1]}, {"concepts": None}])
def test_facts_of_another_form_are_damage(saved: tuple[State, Path], facts: object) -> None:
    rewritten(saved[1], facts=facts)
    assert damage(saved[1]).path == saved[1] / "state.json"


def test_a_record_that_is_nested_without_end_or_no_file_is_damage(saved: tuple[State, Path]) -> None:
    file = saved[1] / "state.json"
    file.write_text('{"facts": ' + "[" * 10**5)
    assert damage(saved[1]).path == file
    rewritten_schema = "x" * 10**5
    file.write_text(json.dumps({"schema": rewritten_schema, "sha256": "", "facts": {}}))
    assert len(str(damage(saved[1]))) < len(str(file)) + 300
    file.unlink()
    file.mkdir()
    assert damage(saved[1]).path == file


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not safetensors",
        struct.pack("<Q", 2**62),
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 60) + b'{"adapter/a":{"dtype":"F99","shape":[1],"data_offsets":[0,4]}}'[:60],
        struct.pack("<Q", 62) + b'{"adapter/a":{"dtype":"F32","shape":[9],"data_offsets":[0,4]}}' + b"abcd",
    ],
)
def test_tensors_whose_checksum_alone_is_right_are_damage(saved: tuple[State, Path], data: bytes) -> None:
    file = saved[1] / "state.safetensors"
    file.write_bytes(data)
    rewritten(saved[1], sha256=hashlib.sha256(data).hexdigest())
    assert damage(saved[1]).path == file


def test_missing_tensors_are_named(saved: tuple[State, Path]) -> None:
    file = saved[1] / "state.safetensors"
    file.unlink()
    error = damage(saved[1])
    assert error.path == file
    assert "missing" in str(error)


@pytest.mark.parametrize(("schema", "whose"), [(87, "a newer one"), (0, "an older one")])
def test_another_schema_is_no_damage_and_says_both_numbers(saved: tuple[State, Path], schema: int, whose: str) -> None:
    """It must not be set aside, and its task done again by this version."""
    rewritten(saved[1], schema=schema)
    with pytest.raises(UserError) as caught:
        State.load(saved[1])
    assert not isinstance(caught.value, DamagedState) and len(str(caught.value).splitlines()) == 1
    assert f"schema is {schema}" in str(caught.value) and "reads 1" in str(caught.value) and whose in str(caught.value)


def test_bytes_are_counted_by_kind() -> None:
    state = State(
        {
            "adapter/a": torch.zeros(2, 3),
            "adapter/b": torch.zeros(5, dtype=torch.float16),
            "token/dog": torch.zeros(7, dtype=torch.float64),
            "mask/m": torch.zeros(9, dtype=torch.bool),
            "fisher/none": torch.zeros(0),
        }
    )
    assert state.bytes_by_type() == {"adapter": 2 * 3 * 4 + 5 * 2, "token": 7 * 8, "mask": 9, "fisher": 0}


def test_a_part_is_taken_by_whole_words() -> None:
    state = State({f"adapter/{k}": torch.zeros(i) for i, k in enumerate(["dog/a", "dog/b", "dog2/a"])})
    assert {k: len(v) for k, v in state.tensors_of("adapter/dog").items()} == {"a": 0, "b": 1}
    assert State().concepts == [] and State({}, {"concepts": ["dog"]}).concepts == ["dog"]


def test_a_part_comes_to_the_device_that_is_asked_for() -> None:
    tensors = {"adapter/a": torch.arange(3.0), "adapter/b": torch.ones(2, 2), "token/dog": torch.zeros(4)}
    state = State(tensors, {})
    here = state.tensors_of("adapter")
    assert {k: (v.device.type, v.tolist()) for k, v in here.items()} == {
        "a": ("cpu", [0.0, 1.0, 2.0]),
        "b": ("cpu", [[1.0, 1.0], [1.0, 1.0]]),
    }
    for device in ("meta", torch.device("meta")):  # the one other device that every machine has
        there = state.tensors_of("adapter", device)
        assert {k: (v.device.type, tuple(v.shape)) for k, v in there.items()} == {
            "a": ("meta", (3,)),
            "b": ("meta", (2, 2)),
        }
    assert all(v.device.type == "cpu" for v in state.tensors.values())  # the state stays where it is


def test_a_task_can_be_logged_to_without_anybody_listening() -> None:
    import numpy as np

    heard: list[tuple] = []
    alone = Task(1, "dog", "dog", np.zeros((1, 2, 2, 3), np.uint8), 0)
    assert alone.log(3, phase="train", loss=0.5) is None
    replace(alone, log=lambda *step, **figures: heard.append((*step, figures))).log(3, phase="train", loss=0.5)
    assert heard == [(3, {"phase": "train", "loss": 0.5})]


def test_a_seed_is_half_of_the_first_eight_bytes_of_sha256() -> None:
    # printf '%s' '7/noise/dog/a {} in the snow/0' | sha256sum begins f9d6dfb9069ab5e7, least byte first
    assert seed_of(7, "noise", "dog", "a {} in the snow", 0) == 0xE7B59A06B9DFD6F9 // 2


@given(st.lists(WORDS, min_size=1, max_size=3))
def test_a_seed_fits_torch_and_numpy(words: list[str]) -> None:
    assert 0 <= seed_of(*words) < 2**63
    torch.Generator().manual_seed(seed_of(*words))


def test_a_generator_depends_on_seed_purpose_and_concept_and_starts_again() -> None:
    def first(change: Callable[[Task], Task] = lambda t: t, purpose: str = "train") -> float:
        import numpy as np

        task = change(Task(1, "dog", "dog", np.zeros((1, 2, 2, 3), np.uint8), 0))
        return float(torch.rand(1, generator=task.generator(purpose)))

    from dataclasses import replace

    assert first() == first(lambda t: replace(t, number=4))
    others = [
        first(lambda t: replace(t, seed=1)),
        first(lambda t: replace(t, concept="cat")),
        first(purpose="lora"),
    ]
    assert len({first(), *others}) == 4


def test_a_generator_leaves_the_global_one_alone() -> None:
    import numpy as np

    before = torch.get_rng_state()
    torch.rand(3, generator=Task(1, "dog", "dog", np.zeros((1, 2, 2, 3), np.uint8), 0).generator("train"))
    assert torch.equal(torch.get_rng_state(), before)


def test_options_refuse_unknown_keys_wrong_types_and_changes() -> None:
    from pydantic import ValidationError

    class Mine(Options):
        steps: int = 3

    for wrong in ({"step": 4}, {"steps": "many"}, {"steps": 2.5}):
        with pytest.raises(ValidationError):
            Mine(**wrong)
    with pytest.raises(ValidationError):
        Mine().steps = 4
