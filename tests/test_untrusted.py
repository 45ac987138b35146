"""Backbones and judges from strangers: nothing in their folders is run or unpickled unless the user says so.

Each attack leaves a folder `marker` behind if its code runs; that it would run is shown where the user allows it.
"""

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import architectures
import pytest
import torch
from safetensors.torch import load_file, save_file

from cpbench import backbones
from cpbench.backbones import backbone, hub
from cpbench.backbones.backbone import MINIATURE, fingerprint
from cpbench.backbones.options import BackboneConfig
from cpbench.config import resolve
from cpbench.errors import UserError
from cpbench.judges.local import load_clip, load_dino

ROOT = Path(__file__).resolve().parents[1]
# Where diffusers and transformers look for a part's weights.
WEIGHTS = {
    "unet": ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"),
    "vae": ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"),
    "text_encoder": ("model.safetensors", "pytorch_model.bin"),
}


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny pipeline, to be spoiled."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "theirs"))


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "marker"


class Evil:
    """Unpickling it makes a folder."""

    def __init__(self, marker: Path):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


def refused(folder: Path | str, **loading: object) -> str:
    with pytest.raises(UserError) as caught:
        backbones.load(str(folder), loading=BackboneConfig(**loading))
    line = str(caught.value)
    assert len(line.splitlines()) == 1 and "Traceback" not in line
    return line


def change(file: Path, **values: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def pickled(folder: Path, part: str) -> Path:
    """The part's weights as the same tensors in a pickle, in place of its safetensors."""
    safe, unsafe = (folder / part / name for name in WEIGHTS[part])
    torch.save(load_file(safe), unsafe)
    safe.unlink()
    return unsafe


# Pickles


def test_the_pickle_of_these_tests_runs_when_it_is_unpickled(marker: Path) -> None:
    pickle.loads(pickle.dumps(Evil(marker)))
    assert marker.is_dir()


@pytest.mark.parametrize("part", WEIGHTS)
def test_pickled_weights_need_the_users_word(folder: Path, tiny: backbone.Backbone, part: str) -> None:
    file = pickled(folder, part)
    line = refused(folder)
    assert str(file) in line and "any code" in line and "--allow-pickle" in line
    theirs = fingerprint(backbones.load(str(folder), loading=BackboneConfig(allow_pickle=True)))
    assert theirs == fingerprint(tiny)


@pytest.mark.parametrize("ending", ["ckpt", "pt"])
def test_checkpoints_of_other_endings_are_named_too(folder: Path, ending: str) -> None:
    file = pickled(folder, "unet")
    file.rename(file.with_suffix(f".{ending}"))
    assert f"diffusion_pytorch_model.{ending} would have to be unpickled" in refused(folder)
    assert "cannot be loaded" in refused(folder, allow_pickle=True)  # by diffusers


@pytest.mark.parametrize("allow_pickle", [False, True])
def test_a_pickle_beside_safetensors_is_never_read(
    folder: Path, tiny: backbone.Backbone, marker: Path, allow_pickle: bool
) -> None:
    for part, (_, name) in WEIGHTS.items():
        torch.save({"conv_in.weight": Evil(marker)}, folder / part / name)
    torch.save(Evil(marker), folder / "everything.ckpt")
    (folder / "optimizer.bin").write_bytes(pickle.dumps(Evil(marker)))
    loaded = backbones.load(str(folder), loading=BackboneConfig(allow_pickle=allow_pickle))
    assert fingerprint(loaded) == fingerprint(tiny)
    assert not marker.exists()


@pytest.mark.parametrize("part", WEIGHTS)
def test_what_is_allowed_is_still_read_as_weights_only(folder: Path, marker: Path, part: str) -> None:
    torch.save({"conv_in.weight": Evil(marker)}, pickled(folder, part))
    assert "cannot be loaded" in refused(folder, allow_pickle=True)
    assert not marker.exists()


def test_safetensors_that_are_a_pickle_are_named(folder: Path, marker: Path) -> None:
    file = folder / "unet" / WEIGHTS["unet"][0]
    torch.save(Evil(marker), file)
    assert str(file) in refused(folder) and str(file) in refused(folder, allow_pickle=True)
    assert not marker.exists()


@pytest.mark.parametrize("shard", ["evil.bin", "../evil.safetensors", 3])
def test_an_index_of_shards_names_safetensors_beside_it_only(folder: Path, marker: Path, shard: object) -> None:
    file = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    (folder / "unet" / WEIGHTS["unet"][0]).rename(folder / "unet" / "other.safetensors")
    torch.save(Evil(marker), folder / "unet" / "evil.bin")
    file.write_text(json.dumps({"metadata": {}, "weight_map": {"conv_in.weight": shard}}))
    assert str(file) in refused(folder) and not marker.exists()


def test_another_autoencoder_is_looked_at_as_well(folder: Path, tiny_folder: Path) -> None:
    file = pickled(folder, "vae")
    line = refused(tiny_folder, vae=str(folder / "vae"))
    assert line.startswith("vae ") and str(file) in line and "--allow-pickle" in line
    loaded = backbones.load(str(tiny_folder), loading=BackboneConfig(vae=str(folder / "vae"), allow_pickle=True))
    assert loaded.facts["allow_pickle"] is True  # which is in the run's record


def test_a_pipeline_without_an_autoencoder_does_not_take_one_of_the_hub(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(folder / "vae")
    monkeypatch.chdir(folder.parent)
    line = refused(folder.name)  # "theirs/vae" looks like a repository of the hub
    assert "hub's cache" not in line and str(folder) in line


# Code

CODE = "import os\nos.mkdir({marker!r})\nfrom diffusers import StableDiffusionPipeline, UNet2DConditionModel\n"
CODE += "class Own(UNet2DConditionModel):\n    pass\nclass OwnPipeline(StableDiffusionPipeline):\n    pass\n"


def own_component(folder: Path, code: str) -> None:
    (folder / "unet" / "own.py").write_text(code)
    change(folder / "model_index.json", unet=["own", "Own"])


def own_pipeline(folder: Path, code: str) -> None:
    (folder / "own_pipeline.py").write_text(code)
    change(folder / "model_index.json", _class_name=["own_pipeline", "OwnPipeline"])


def library_of_the_same_name(folder: Path, code: str) -> None:
    (folder / "unet" / "diffusers.py").write_text(code + "UNet2DConditionModel = Own\n")


def pipeline_called_none(folder: Path, code: str) -> None:
    (folder / "None.py").write_text(code + "del StableDiffusionPipeline\n")


def installed_library(folder: Path, code: str) -> None:
    change(folder / "model_index.json", unet=["antigravity", "Own"])


def auto_map(folder: Path, code: str) -> None:
    (folder / "unet" / "own.txt").write_text(code)
    change(folder / "unet" / "config.json", auto_map={"AutoModel": "own.Own"})


def auto_map_of_the_tokenizer(folder: Path, code: str) -> None:
    change(folder / "tokenizer" / "tokenizer_config.json", auto_map={"AutoTokenizer": ["own.Own", None]})


def kernel_of_the_hub(folder: Path, code: str) -> None:
    change(folder / "text_encoder" / "config.json", _attn_implementation="somebody/kernel")


RUN = (own_component, own_pipeline, library_of_the_same_name, pipeline_called_none)
NAMED = (installed_library, auto_map, auto_map_of_the_tokenizer, kernel_of_the_hub)


@pytest.mark.parametrize("attack", [*RUN, *NAMED], ids=lambda a: a.__name__)
def test_code_in_a_pipelines_folder_is_not_run(folder: Path, marker: Path, attack: Callable) -> None:
    attack(folder, CODE.format(marker=str(marker)))
    line = refused(folder)
    assert "Python code" in line and "--trust-remote-code" in line and "antigravity" not in sys.modules
    refused(folder, allow_pickle=True)
    assert not marker.exists()


@pytest.mark.parametrize("attack", [own_component, own_pipeline], ids=lambda a: a.__name__)
def test_with_the_users_word_the_code_runs_and_the_backbone_works(
    folder: Path, tiny: backbone.Backbone, marker: Path, attack: Callable
) -> None:
    attack(folder, CODE.format(marker=str(marker)))
    loaded = backbones.load(str(folder), loading=BackboneConfig(trust_remote_code=True))
    assert marker.is_dir() and loaded.facts["trust_remote_code"] is True
    assert "Own" in type(loaded.denoiser).__name__ + type(loaded.pipe).__name__
    assert {k: v for k, v in fingerprint(loaded).items() if k.endswith(":")} == {
        k: v for k, v in fingerprint(tiny).items() if k.endswith(":")
    }


@pytest.mark.parametrize("part", ["text_encoder", "text_encoder_2"])
def test_sdxl_without_one_of_its_text_encoders_is_one_line(tmp_path: Path, part: str) -> None:
    folder = architectures.build("sdxl", tmp_path)
    shutil.rmtree(folder / part)
    change(folder / "model_index.json", **{part: [None, None]})  # as diffusers saves a pipeline without it
    said = refused(folder)
    assert f"has no {part}" in said and "StableDiffusionXLPipeline" in said


def test_a_trusted_pipeline_must_still_be_a_stable_diffusion(folder: Path, marker: Path) -> None:
    other = CODE.format(marker=str(marker)).replace("(StableDiffusionPipeline)", "")
    own_pipeline(folder, other)
    assert "cannot be loaded" in refused(folder, trust_remote_code=True)


def test_an_adapter_that_names_another_model_is_refused(folder: Path) -> None:
    file = folder / "text_encoder" / "adapter_config.json"
    file.write_text('{"base_model_name_or_path": "somebody/other", "peft_type": "LORA"}')
    assert str(file) in refused(folder)


def test_the_options_of_the_command_line_reach_the_backbone() -> None:
    asked = {"method": "base", "sequence": "quick3"}
    assert not resolve(asked)[0].loading.allow_pickle and not resolve(asked)[0].loading.trust_remote_code
    config, _, _ = resolve(asked | {"allow_pickle": True, "trust_remote_code": True})
    assert config.loading.allow_pickle and config.loading.trust_remote_code


# The hub, in a process of its own, with a hub of ours

ASK = """
import sys
from cpbench import backbones
from cpbench.backbones.options import Loading
from cpbench.errors import UserError
for name, how in (("some/pickled", {}), ("some/coded", {}), ("some/pickled", {"allow_pickle": True})):
    try:
        backbones.load(name, loading=Loading(**how))
        print("loaded")
    except UserError as error:
        print(error)
"""
COMMIT = "0" * 40


class Hub(BaseHTTPRequestHandler):
    """Answers what diffusers asks of a repository: its list of files, and each of them."""

    def do_GET(self) -> None:
        _, *parts = self.path.partition("?")[0].split("/")
        if parts[:2] == ["api", "models"]:
            root = self.server.root / parts[3]
            names = sorted(f.relative_to(root).as_posix() for f in root.rglob("*") if f.is_file())
            files = [{"type": "file", "path": n, "rfilename": n, "oid": COMMIT, "size": 1} for n in names]
            info = {"id": "/".join(parts[2:4]), "sha": COMMIT, "siblings": files, "tags": []}
            return self.answer(json.dumps(files if "tree" in parts else info).encode())
        file = self.server.root / parts[1] / "/".join(parts[4:])
        if self.command == "GET":
            self.server.fetched.append((parts[1], "/".join(parts[4:])))
        return self.answer(file.read_bytes()) if file.is_file() else self.send_error(404)

    do_HEAD = do_GET

    def answer(self, data: bytes) -> None:
        self.send_response(200)
        headers = {"Content-Length": len(data), "ETag": f'"{hash(data) % 10**12}"', "X-Repo-Commit": COMMIT}
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *words: object) -> None:
        pass


def asked_of_a_hub(root: Path, home: Path, program: str) -> tuple[list[str], list[str]]:
    """(the lines that a program prints, the paths that it fetched) where the hub holds the repositories some/<folder of root>."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.root, server.fetched = root, []
    Thread(target=server.serve_forever, daemon=True).start()
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING")) and "proxy" not in k.lower()}
    own = {"HF_HOME": str(home), "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}"}
    own |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}
    own["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    try:
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, env=kept | own, capture_output=True, text=True, timeout=170)
    finally:
        server.shutdown()
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), server.fetched


def test_repositories_of_the_hub_are_refused_like_folders(folder: Path, tmp_path: Path, marker: Path) -> None:
    root = tmp_path / "hub"
    shutil.copytree(folder, root / "coded")
    own_component(root / "coded", CODE.format(marker=str(marker)))
    for part in WEIGHTS:
        pickled(folder, part)
    shutil.copytree(folder, root / "pickled")
    (first, second, third), _ = asked_of_a_hub(root, tmp_path / "home", ASK)
    assert "some/pickled: has no safetensors for its text_encoder" in first and "--allow-pickle" in first
    assert "some/coded" in second and "Python code" in second and "--trust-remote-code" in second
    assert third == "loaded"
    assert not marker.exists()


def test_a_repository_of_another_kind_is_refused_by_its_index_alone(folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "hub"
    shutil.copytree(folder, root / "another")
    change(root / "another" / "model_index.json", _class_name="CogView4Pipeline")
    shutil.copytree(folder, root / "usual")
    for name in ("README.md", "v1-5.ckpt", "unet/diffusion_pytorch_model.fp16.safetensors"):
        (root / "usual" / name).write_bytes(b"x")
    program = """
from cpbench.backbones import hub
from cpbench.errors import UserError
for name in ("some/another", "some/usual"):
    try:
        print(hub.hash_folder(hub.folder_of(name, None)[0]))
    except UserError as error:
        print(error)
"""
    (first, second), fetched = asked_of_a_hub(root, tmp_path / "home", program)
    assert "some/another" in first and "CogView4Pipeline" in first
    assert {name for repository, name in fetched if repository == "another"} == {"model_index.json"}
    assert second == hub.hash_folder(folder)
    read = {name for repository, name in fetched if repository == "usual"}
    assert read == set(hub.files_read(folder, "it")) and "unet/diffusion_pytorch_model.safetensors" in read


# Broken files


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", "3", '"x"', "[" * 10**5, "\x00", '{"a": ' + "9" * 5000 + "}"]
)
@pytest.mark.parametrize(
    "name", ["model_index.json", "unet/config.json", "vae/config.json", "text_encoder/config.json"]
)
def test_broken_configs_are_named(folder: Path, name: str, content: str) -> None:
    (folder / name).write_text(content)
    assert str(folder / name) in refused(folder)


@pytest.mark.parametrize(
    "name", ["tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json", "scheduler/scheduler_config.json"]
)
@pytest.mark.parametrize(
    "content", ["", '{"a": ', '{"_class_name": 3, "version": [], "model": 7, "model_max_length": "x"}']
)
def test_broken_tokenizers_and_schedulers_are_one_line(folder: Path, name: str, content: str) -> None:
    (folder / name).write_text(content)
    assert str(folder) in refused(folder)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("model_index.json", {"unet": "UNet2DConditionModel"}),
        ("model_index.json", {"unet": ["diffusers"]}),
        ("model_index.json", {"unet": [None, None]}),
        ("model_index.json", {"unet": ["diffusers", "AutoencoderKL"]}),
        ("model_index.json", {"text_encoder": [None, None]}),
        ("model_index.json", {"scheduler": [["diffusers"], {}]}),
        ("model_index.json", {"_class_name": {"a": 1}}),
        ("unet/config.json", {"block_out_channels": "wide"}),
        ("unet/config.json", {"sample_size": "wide"}),
        ("unet/config.json", {"sample_size": -3}),
        ("unet/config.json", {"norm_eps": None}),
        ("unet/config.json", {"cross_attention_dim": 10**9}),
        ("vae/config.json", {"scaling_factor": [0.1, "x"]}),
        ("vae/config.json", {"_class_name": "UNet2DConditionModel"}),
        ("vae/config.json", {"latent_channels": {}}),
        ("text_encoder/config.json", {"hidden_size": "sixteen"}),
        ("text_encoder/config.json", {"layer_norm_eps": None}),
        ("scheduler/scheduler_config.json", {"prediction_type": "guess"}),
        ("scheduler/scheduler_config.json", {"timestep_spacing": 3}),
        ("tokenizer/tokenizer_config.json", {"model_max_length": 10**9}),
        ("tokenizer/tokenizer_config.json", {"model_max_length": "all"}),
    ],
)
def test_configs_of_wrong_types_are_one_line(folder: Path, name: str, values: dict[str, object]) -> None:
    change(folder / name, **values)
    assert str(folder) in refused(folder)


@pytest.mark.parametrize("keep", ["nothing", "half", "all but one byte", "a pipe"])
@pytest.mark.parametrize("part", WEIGHTS)
def test_broken_weights_are_named(folder: Path, part: str, keep: str) -> None:
    file = folder / part / WEIGHTS[part][0]
    data = file.read_bytes()
    file.unlink()
    if keep == "a pipe":
        os.mkfifo(file)
    else:
        file.write_bytes(data[: {"nothing": 0, "half": len(data) // 2, "all but one byte": len(data) - 1}[keep]])
    assert str(file) in refused(folder)


def test_weights_of_another_network_are_one_line(folder: Path) -> None:
    shutil.copy(folder / "vae" / WEIGHTS["vae"][0], folder / "unet" / WEIGHTS["unet"][0])
    assert "its unet lacks weights that its config.json asks for: conv_in.weight and" in refused(folder)


def test_names_that_no_file_can_have_are_unknown(tmp_path: Path) -> None:
    for name in ("x" * 5000, "~nobody-of-this-name", "a\0b"):
        assert "unknown backbone" in refused(name)


# Judges

JUDGES = {
    "clip": (load_clip, "open_clip_model.safetensors", "open_clip_config.json"),
    "dino": (load_dino, "model.safetensors", "config.json"),
}


@pytest.fixture(params=JUDGES)
def judge(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Callable, Path, Path]:
    """What loads it, its weights and its config, in a folder to be spoiled."""
    load, weights, config = JUDGES[request.param]
    folder = Path(shutil.copytree(MINIATURE / "judges" / request.param, tmp_path / "judge"))
    return load, folder / weights, folder / config


def refused_judge(judge: tuple[Callable, Path, Path]) -> str:
    load, weights, _ = judge
    with pytest.raises(UserError) as caught:
        load(weights.parent)
    line = str(caught.value)
    assert len(line.splitlines()) == 1 and str(weights.parent) in line
    return line


def test_a_judge_is_never_unpickled(judge: tuple[Callable, Path, Path], marker: Path) -> None:
    load, weights, _ = judge
    for name in ("pytorch_model.bin", "open_clip_pytorch_model.bin", "a.pth"):
        torch.save(Evil(marker), weights.parent / name)
    load(weights.parent)
    weights.unlink()
    line = refused_judge(judge)
    assert "a.pth" in line and "any code" in line
    torch.save(Evil(marker), weights)
    assert str(weights) in refused_judge(judge) and not marker.exists()


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"model_cfg": 3, "architecture": {}}', "[" * 10**5])
def test_a_judges_broken_config_is_one_line(judge: tuple[Callable, Path, Path], content: str) -> None:
    judge[2].write_text(content)
    refused_judge(judge)


def test_a_judges_broken_weights_are_named(judge: tuple[Callable, Path, Path]) -> None:
    judge[1].write_bytes(judge[1].read_bytes()[:-1])
    assert str(judge[1]) in refused_judge(judge)
    save_file({"other": torch.zeros(3)}, judge[1])
    assert "cannot be loaded" in refused_judge(judge)


def test_a_judge_brings_no_code_and_builds_on_no_other_model(judge: tuple[Callable, Path, Path]) -> None:
    whole = json.loads(judge[2].read_text())
    change(judge[2], auto_map={"AutoModel": "own.Own"})
    assert "Python code" in refused_judge(judge)
    if "model_cfg" in whole:
        whole["model_cfg"]["text_cfg"]["hf_model_name"] = "somebody/other"
        judge[2].write_text(json.dumps(whole))
        assert "another model" in refused_judge(judge)
