"""A run's state as files that plain diffusers loads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cpbench.backbones.hub import MINIATURE
from cpbench.errors import UserError, quoted
from cpbench.files import FILE_NAME, prepare_folder, write_atomically
from cpbench.finished.export_readme import ADAPTER, BASE, how_to_load, word_keys
from cpbench.finished.load import TrainedRun, installed, refuse_unknown
from cpbench.method import NotDefined
from cpbench.miniature import FLOW, flow_folder

if TYPE_CHECKING:
    import torch

LORA_FILE = "pytorch_lora_weights.safetensors"  # the name that load_lora_weights expects


def refuse(out: Path, concept: str | None, learned: list[str]) -> None:
    """UserError for a folder that is not empty, and a concept that is not learned: known before a model is loaded."""
    if concept is not None:
        refuse_unknown(concept, learned)
    if out.is_dir() and any(out.iterdir()):
        raise UserError(f"{out}: is not empty; pass a new folder")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; pass a new folder")


def export(run: TrainedRun, out: Path, concept: str | None = None) -> list[Path]:
    """Write the state for plain diffusers: a LoRA and token embeddings, or a pipeline folder where weights were learned.

    concept: for a method that cannot use several concepts at once. Returns the files written; README.md explains how to
    load them.
    """
    from safetensors.torch import save

    refuse(out, concept, list(run.nouns))
    if run.method.per_prompt:
        raise UserError(
            f"run {run.folder}: {run.config.method} is installed for each prompt separately, so it cannot be exported to files; use `cpbench sample`"
        )
    concepts = (concept,) if concept else tuple(run.nouns)
    prepare_folder(out)
    files = []
    try:
        with installed(run, concepts):
            lora = run.method.lora(run.state, concepts)
            embeddings = {name: row.detach().cpu() for name, row in run.backbone.token_embeddings.items()}
            if unsafe_names := [name for name in embeddings if not FILE_NAME.fullmatch(name)]:
                raise UserError(
                    f"run {run.folder}: its state's word {quoted(unsafe_names[0])} cannot name a file; run it again"
                )
            if lora is None:
                if few_bits := run.config.loading.few_bits:
                    raise UserError(
                        f"run {run.folder}: {run.config.method} changes whole weights, and a pipeline with its {few_bits} cannot be "
                        "written; use `cpbench sample`"
                    )
                run.backbone.vocabulary.restore()  # the words go into files of their own
                run.backbone.pipe.save_pretrained(out / "pipeline")
                files.append(out / "pipeline")
    except NotDefined as reason:
        raise UserError(f"{reason}; choose one with --concept") from None
    if lora is not None and run.config.backbone == FLOW:  # whose folder is in the cache, which may be deleted
        flow_folder.write(MINIATURE, MINIATURE / "transformer", out / BASE)
        files.append(out / BASE)
    if lora:
        files += _write_lora(run, lora, out)
    for name, row in embeddings.items():
        parts = {
            key: row[e.part].clone()
            for key, e in word_keys(run.backbone.pipe, run.backbone.vocabulary.encoders, name).items()
        }
        file = out / "tokens" / f"{name}.safetensors"
        write_atomically(file, save(parts))
        files.append(file)
    text = how_to_load(run, concepts, bool(lora), lora is None, list(embeddings), out)
    write_atomically(out / "README.md", text.encode())
    return [*files, out / "README.md"]


def _write_lora(run: TrainedRun, lora: Mapping[str, torch.Tensor], out: Path) -> list[Path]:
    """A file for the pipeline's load_lora_weights, or where it has none, a folder for peft."""
    from peft import LoraConfig
    from safetensors.torch import save

    def renamed(prefix: str) -> dict[str, torch.Tensor]:
        return {f"{prefix}.{name}.weight": value.contiguous().cpu() for name, value in lora.items()}

    if hasattr(run.backbone.pipe, "load_lora_weights"):
        write_atomically(out / LORA_FILE, save(renamed(run.backbone.family.denoiser)))
        return [out / LORA_FILE]
    ranks = {name.removesuffix(".lora_A"): len(value) for name, value in lora.items() if name.endswith(".lora_A")}
    usual = max(ranks.values())
    other_ranks = {layer: rank for layer, rank in ranks.items() if rank != usual}
    config = LoraConfig(
        r=usual, lora_alpha=usual, rank_pattern=other_ranks, alpha_pattern=other_ranks, target_modules=list(ranks)
    )
    config.save_pretrained(out / ADAPTER)
    file = out / ADAPTER / "adapter_model.safetensors"
    write_atomically(file, save(renamed("base_model.model")))
    return [out / ADAPTER / "adapter_config.json", file]
