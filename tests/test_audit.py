"""The watch on methods that must not see earlier data: each cheat is caught by name, and the honest are not."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cpbench.backbones.backbone import Backbone
from cpbench.concepts import images
from cpbench.config import resolve
from cpbench.errors import ReplayError
from cpbench.method import State
from cpbench.running import audit, prepare, runner, task
from cpbench.running.audit import search_state

CHEATS = Path(__file__).parent / "cheats"
CONCEPTS = ("dog", "vase")
HERE = {"output": "{output}", "folder": "{photos}/dog", "subject": "dog"}  # what a cheat is told, to look at

Runs = Callable[..., prepare.Run]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos of two concepts, and two sequences: drawn.yaml, and photos.yaml of those photos."""
    folder = tmp_path_factory.mktemp("audit")
    for name in CONCEPTS:
        (folder / "photos" / name).mkdir(parents=True)
        for i, picture in enumerate(images.rendered(name)[:2]):
            Image.fromarray(picture).save(folder / "photos" / name / f"{i}.png")
    content = {
        "version": 1,
        "concepts": [
            {"name": n, "class_noun": n, "kind": k} for n, k in zip(CONCEPTS, ("live", "object"), strict=True)
        ],
        "evaluation": {
            "live": ["a {} in the snow"],
            "object": ["a {} in the snow"],
            "pictures_per_prompt": 1,
            "num_inference_steps": 2,
        },
    }
    for name, where in (("drawn", {"drawn": True}), ("photos", {"folder": "photos/{name}"})):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"name": name, "images": where, **content}))
    return folder


@pytest.fixture
def run(place: Path) -> Runs:
    """run(method, sequence, **options): the run, from its preparation to its end, on the miniature."""

    def execute(method: str, sequence: str, **options: object) -> prepare.Run:
        here = {"output": place / "out", "photos": place / "photos"}
        told = {k: v.format(**here) if isinstance(v, str) else v for k, v in options.items()}
        given = {
            "method": method if "/" not in method else str(CHEATS.parent / method),
            "sequence": str(place / f"{sequence}.yaml"),
            "output": here["output"],
            "options": told,
            "backbone": "miniature",
            "device": "cpu",
        }
        return runner.execute(*resolve(given))

    return execute


def caught(run: Runs, place: Path, method: str, sequence: str, **options: object) -> str:
    """The words of the ReplayError, which the run's record must hold as well."""
    before = set(place.rglob("run.json"))
    with pytest.raises(ReplayError) as error:
        run(f"cheats/{method}.py", sequence, **options)
    (record,) = set(place.rglob("run.json")) - before
    told = json.loads(record.read_text())
    assert told["status"] == "failed" and told["reason"] == f"ReplayError: {error.value}"
    assert told["sees_earlier_data"] is False
    return str(error.value)


# Cheats


def test_opening_another_concepts_folder_is_caught(run: Runs, place: Path) -> None:
    said = caught(run, place, "other_folder", "photos", folder=HERE["folder"])
    assert f"opened {place / 'photos' / 'dog' / '0.png'}" in said and "another concept" in said
    # task 1 was learning the dog itself, and went by
    states = sorted(f.parent.name for f in place.rglob("other_folder/*/*/task-*/state.json"))
    assert states == ["task-01"]
    assert Image.open(place / "photos" / "dog" / "0.png").size == (64, 64)  # nobody learns any more


def test_opening_a_picture_of_the_run_folder_is_caught(run: Runs, place: Path) -> None:
    said = caught(run, place, "run_folder", "drawn", output=HERE["output"])
    path = Path(said.removeprefix("learn opened ").partition(": ")[0])
    assert path.is_file() and path.suffix == ".png" and "dog" in path.parts
    assert (place / "out").resolve() in path.parents


def test_asking_the_drawn_world_for_another_subject_is_caught(run: Runs, place: Path) -> None:
    said = caught(run, place, "other_subject", "drawn", subject="dog")
    assert "'dog' while learning 'vase'" in said  # in task 2: its own subject may be asked for


@pytest.mark.parametrize(
    ("form", "scale", "offset"), [("latent", 1.0, 0.0), ("hwc", 1 / 255, 0.0), ("chw", -2 / 255, 1.0)]
)
def test_carrying_the_concept_itself_is_caught(run: Runs, place: Path, form: str, scale: float, offset: float) -> None:
    said = caught(run, place, "latents_in_state", "drawn", form=form, scale=scale, offset=offset)
    what = "latent" if form == "latent" else "image"
    assert "'generated/replay'" in said and "'vase'" in said and what in said
    assert not list(place.rglob("latents_in_state/*/*/task-02/state.json"))


@pytest.mark.parametrize("carry", [False, True])
def test_what_identity_is_scored_against_is_not_for_learning(run: Runs, place: Path, carry: bool) -> None:
    said = caught(run, place, "references", "drawn", carry=carry)
    assert ("holds an image of concept 'dog'" if carry else "identity is scored against") in said


# The honest


LORA = {"rank": 1, "steps": 2, "batch_size": 1, "target_modules": ["to_v"]}
WEIGHTS = {"adapter": "full", "token_steps": 1, "steps": 1, "batch_size": 1}


@pytest.mark.parametrize(
    ("method", "sequence", "options"),
    [("seqlora", "drawn", LORA), ("seqlora", "photos", LORA), ("raretoken", "drawn", WEIGHTS)],
)
def test_an_honest_method_is_not_caught(run: Runs, method: str, sequence: str, options: dict[str, object]) -> None:
    """Whether it carries a LoRA or all of the UNet's weights, whatever shapes these have."""
    done = run(method, sequence, **options)
    assert json.loads((done.folder / "run.json").read_text())["status"] == "finished"


def test_a_method_that_says_so_may_see_everything(run: Runs) -> None:
    done = run("cheats/says_so.py", "photos", **HERE)
    record = json.loads((done.folder / "run.json").read_text())
    assert record["status"] == "finished" and record["sees_earlier_data"] is True
    assert (done.folder / "task-02" / "state.json").is_file()


# The watch itself


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    for name in ("dog", "dog2", "run"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").write_bytes(b"picture")
        (tmp_path / name / "state.json").write_bytes(b"words")
    return tmp_path


def test_what_may_be_opened_while_learning(folders: Path) -> None:
    with audit.learning_only("dog", [folders / "dog2"], folders / "run"):
        for allowed in ("dog/0.png", "run/state.json"):
            assert (folders / allowed).read_bytes()
        (folders / "run" / "notes.txt").write_text("to be written")


@pytest.mark.parametrize("name", ["dog2/0.png", "dog2/state.json", "run/0.png", "dog/../dog2/0.png", "link/0.png"])
@pytest.mark.parametrize("how", ["open", "pathlib", "bytes", "numpy", "os"])
def test_what_may_not_be_opened_while_learning(folders: Path, name: str, how: str) -> None:
    import os

    (folders / "link").symlink_to(folders / "dog2")
    path = str(folders / name)
    ways = {
        "open": lambda: open(path),  # noqa: SIM115 - it does not open
        "pathlib": lambda: Path(path).read_bytes(),
        "bytes": lambda: open(os.fsencode(path), "rb"),  # noqa: SIM115
        "numpy": lambda: np.fromfile(path),
        "os": lambda: os.open(path, os.O_RDONLY),
    }
    with audit.learning_only("dog", [folders / "dog2"], folders / "run"), pytest.raises(ReplayError) as error:
        ways[how]()
    assert os.path.realpath(path) in str(error.value)
    assert Path(path).read_bytes()  # afterwards anything goes, also after a failure


def test_a_folder_whose_name_begins_alike_is_another_folder(folders: Path) -> None:
    with audit.learning_only("dog2", [folders / "dog"], folders / "run"):
        assert (folders / "dog2" / "0.png").read_bytes()
        with pytest.raises(ReplayError):
            (folders / "dog" / "0.png").read_bytes()


# The search


@pytest.fixture(scope="module")
def seen() -> dict[str, tuple[np.ndarray, torch.Tensor]]:
    """Two concepts' pictures and stand-ins for their latents, of a seed that no test below draws from."""
    g = torch.Generator().manual_seed(0)
    return {name: (images.rendered(name)[:2], torch.randn(2, 8, 16, 16, generator=g)) for name in CONCEPTS}


FORMS: dict[str, Callable[[np.ndarray, torch.Tensor], torch.Tensor]] = {
    "picture": lambda p, z: torch.from_numpy(p[1]).float(),
    "picture, channels first": lambda p, z: torch.from_numpy(p[1]).permute(2, 0, 1).float(),
    "picture in gray": lambda p, z: torch.from_numpy(p[1]).float().mean(-1),
    "picture in bytes": lambda p, z: torch.from_numpy(p[1]),
    "latent": lambda p, z: z[1],
    "latents": lambda p, z: z,
    "latents, flat": lambda p, z: z.reshape(-1),
    "latent in half precision": lambda p, z: z[1].half(),
    "latent with noise": lambda p, z: z[1] + 0.3 * torch.randn(z[1].shape, generator=torch.Generator().manual_seed(1)),
    "latent among zeros": lambda p, z: torch.cat([torch.zeros_like(z), z[:1]]),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("concept", CONCEPTS)
def test_a_concept_is_found_in_every_form(
    seen: dict[str, tuple[np.ndarray, torch.Tensor]], form: str, concept: str
) -> None:
    hidden = {"adapter/a": torch.linspace(0, 1, 9000), "token/x": FORMS[form](*seen[concept])}
    with pytest.raises(ReplayError) as error:
        search_state(hidden, seen)
    assert "'token/x'" in str(error.value) and repr(concept) in str(error.value)
    search_state(hidden, {k: v for k, v in seen.items() if k != concept})


@pytest.mark.parametrize("form", ["picture", "picture, channels first", "picture in gray"])
def test_a_picture_whose_channels_have_nothing_in_common_is_found(form: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    latents = torch.zeros(2, 4, 8, 8)
    with pytest.raises(ReplayError, match="an image of concept 'dog'"):
        search_state({"mask/m": FORMS[form](noise, latents)}, {"dog": (noise, latents)})


@settings(max_examples=40)
@given(
    st.sampled_from(["picture", "picture, channels first", "latents"]),
    st.floats(1e-4, 1e4),
    st.sampled_from([-1, 1]),
    st.floats(-10, 10),
)
def test_scale_sign_and_offset_hide_nothing(
    seen: dict[str, tuple[np.ndarray, torch.Tensor]], form: str, scale: float, sign: int, offset: float
) -> None:
    hidden = (FORMS[form](*seen["dog"]) + offset) * scale * sign
    with pytest.raises(ReplayError, match="'dog'"):
        search_state({"mask/m": hidden}, seen)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.integers(1, 2**32 - 1),
    st.lists(st.integers(1, 40), min_size=1, max_size=3),
    st.sampled_from(["normal", "uniform", "whole", "sparse", "constant", "ramp"]),
)
def test_random_tensors_are_never_flagged(
    seen: dict[str, tuple[np.ndarray, torch.Tensor]], seed: int, shape: list[int], kind: str
) -> None:
    g = torch.Generator().manual_seed(seed)
    tensor = {
        "normal": lambda: torch.randn(shape, generator=g) * 10 ** (seed % 9 - 4),
        "uniform": lambda: torch.rand(shape, generator=g),
        "whole": lambda: torch.randint(-5, 200, shape, generator=g),
        "sparse": lambda: (torch.rand(shape, generator=g) < 0.01).float(),
        "constant": lambda: torch.full(shape, seed / 2**32),
        "ramp": lambda: torch.arange(float(np.prod(shape))).reshape(shape),
    }[kind]()
    search_state({"adapter/a": tensor, "mask/empty": torch.zeros(0)}, seen)


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(2, 50))
def test_alikeness_is_the_largest_correlation(seed: int, m: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    slices, reference = rng.normal(size=(m, n)), rng.normal(size=n)
    expected = max(abs(np.corrcoef(row, reference)[0, 1]) for row in slices)
    got = audit.highest_correlation(torch.from_numpy(slices), torch.from_numpy(reference))
    assert got == pytest.approx(expected, abs=1e-9)


def test_a_real_lora_is_not_taken_for_its_pictures(miniature: Backbone, make_task: Callable) -> None:
    from cpbench.baselines.seqlora import SequentialLora
    from cpbench.learning.lora import LoraOptions

    task = make_task(miniature, n=2)
    state = SequentialLora(LoraOptions(rank=8, steps=2, batch_size=2)).learn(miniature, task, State())
    miniature.restore()
    search_state(state.tensors, {"dog": (task.images, miniature.encode_images(task.images)[0])})


def test_training_pictures_are_encoded_once_per_run_and_not_once_per_task(place: Path) -> None:
    settings = {"method": "seqlora", "sequence": str(place / "drawn.yaml"), "output": place / "encoded"}
    loaded = prepare.load_run(*resolve(settings))
    encoded: list[int] = []
    loaded.backbone.vae.encoder.register_forward_hook(lambda module, args, out: encoded.append(len(args[0])))
    for t in (1, 2, 2):
        task.check(loaded, t, State({"adapter/a": torch.randn(20_000)}, {"concepts": list(CONCEPTS[:t])}))
    assert sum(encoded) == sum(len(loaded.all_images[name]) for name in CONCEPTS)
    copied = torch.from_numpy(loaded.images["dog"][0]).float().flatten()
    with pytest.raises(ReplayError, match="an image of concept 'dog'"):
        task.check(loaded, 2, State({"adapter/a": 0.01 * copied + 3}, {"concepts": list(CONCEPTS)}))
