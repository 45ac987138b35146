"""A LoRA learned on each family equals a plain loop in the manner of diffusers' script for it, with peft's own layers.

The loop reads times from the scheduler that the script loads, by the script's own density, and prompts from the
pipeline's own encode_prompt. From ours it takes the random numbers: pictures, posterior, noise, and the u of each time.
"""

from collections.abc import Callable
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, inject_adapter_in_model
from test_transformers import SIDE, plain_pipeline
from transformer_pipelines import BUILDERS

from cpbench.backbones import adapters, loading
from cpbench.backbones.backbone import Backbone
from cpbench.backbones.options import BackboneConfig
from cpbench.files import seed_of
from cpbench.learning import training
from cpbench.method import Task

STEPS, N, RANK, RATE = 3, 2, 4, 1e-4
PROJECTIONS = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"]
SCRIPTS = {"StableDiffusion3Pipeline": "sd3", "SanaPipeline": "sana", "FluxPipeline": "flux"}  # PixArt's are diffusions


@pytest.fixture(scope="module", params=BUILDERS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return BUILDERS[request.param](request.param, tmp_path_factory.mktemp(request.param))


def prompt_inputs(pipe, prompt: str) -> dict[str, torch.Tensor]:
    """What the script for this pipeline gives the transformer of a batch of one prompt."""
    name, prompts = type(pipe).__name__, [prompt] * N
    if name == "StableDiffusion3Pipeline":
        hidden, _, pooled, _ = pipe.encode_prompt(prompts, None, None, do_classifier_free_guidance=False)
        return {"encoder_hidden_states": hidden, "pooled_projections": pooled}
    if name == "FluxPipeline":
        hidden, pooled, ids = pipe.encode_prompt(prompts)
        return {
            "encoder_hidden_states": hidden,
            "pooled_projections": pooled,
            "txt_ids": ids,
            "guidance": torch.tensor([3.5]).expand(N),  # train_dreambooth_lora_flux.py --guidance_scale
        }
    if name == "SanaPipeline":
        import inspect

        lines = inspect.signature(pipe.__call__).parameters["complex_human_instruction"].default
        hidden, mask, _, _ = pipe.encode_prompt(prompts, False, complex_human_instruction=lines)
        return {"encoder_hidden_states": hidden, "encoder_attention_mask": mask}
    hidden, mask, _, _ = pipe.encode_prompt(prompts, False)
    sizes = {"resolution": None, "aspect_ratio": None}
    return {"encoder_hidden_states": hidden, "encoder_attention_mask": mask, "added_cond_kwargs": sizes}


def flow_times(script: str, folder: Path, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(timesteps, sigmas) of the script's lines, with its u drawn by inversion from uniform u: noise falls with u there."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler.from_pretrained(folder, subfolder="scheduler")
    u = 1 - u.double()
    if script == "sd3":  # --weighting_scheme logit_normal; the others' default is none, which is uniform
        u = torch.distributions.Normal(0.0, 1.0).icdf(u).sigmoid()
    indices = (u * scheduler.config.num_train_timesteps).long()
    return scheduler.timesteps[indices], scheduler.sigmas[indices].view(-1, 1, 1, 1)


def plain_error(pipe, folder: Path, latents, eps, u, inputs) -> torch.Tensor:
    """The loss of one step as the script for this pipeline computes it."""
    transformer = pipe.transformer
    if (script := SCRIPTS.get(type(pipe).__name__)) is None:
        scheduler = diffusers.DDPMScheduler.from_config(pipe.scheduler.config)
        timesteps = (u * scheduler.config.num_train_timesteps).long()
        output = transformer(scheduler.add_noise(latents, eps, timesteps), timestep=timesteps, **inputs).sample
        return F.mse_loss(output.chunk(2, dim=1)[0], eps)  # the other half is a variance
    timesteps, sigmas = flow_times(script, folder, u)
    noisy = (1.0 - sigmas) * latents + sigmas * eps
    if script == "flux":
        ids = pipe._prepare_latent_image_ids(N, latents.shape[2] // 2, latents.shape[3] // 2, "cpu", torch.float32)
        packed = pipe._pack_latents(noisy, *noisy.shape)
        output = transformer(hidden_states=packed, timestep=timesteps / 1000, img_ids=ids, **inputs).sample
        output = pipe._unpack_latents(output, SIDE, SIDE, pipe.vae_scale_factor)
    else:
        output = transformer(noisy, timestep=timesteps, **inputs).sample
    return F.mse_loss(output, eps - latents)


def test_learning_is_a_plain_loop_of_diffusers_and_peft(folder: Path) -> None:
    backbone = loading.load(str(folder), loading=BackboneConfig(resolution=SIDE))
    losses: list[float] = []
    pictures = np.random.default_rng(0).integers(0, 255, (2, SIDE, SIDE, 3), np.uint8)
    task = Task(1, "dog", "dog", pictures, 0, lambda step, phase, **figures: losses.append(figures["loss"]))
    parameters = backbone.add_lora(RANK, adapters.ATTENTION, task.generator("lora"))
    first = {k: v.detach().clone() for k, v in parameters.items()}
    loss = training.denoising(backbone, "dog")
    training.train(backbone, task, loss, [(RATE, list(parameters.values()))], STEPS, N)
    ours = {k: v.detach().clone() for k, v in parameters.items()}
    latents_of = plain_latents(backbone, folder)

    pipe, _ = plain_pipeline(backbone, folder)
    for part in (pipe.transformer, pipe.vae):
        part.requires_grad_(False)
    config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=PROJECTIONS, bias="none")
    inject_adapter_in_model(config, pipe.transformer)  # PixArt's has no add_adapter
    weights = {k.replace(".default.weight", ""): p for k, p in pipe.transformer.named_parameters() if p.requires_grad}
    assert weights.keys() == first.keys()
    with torch.no_grad():
        for k, p in weights.items():
            p.copy_(first[k])
    both = np.concatenate([pictures, pictures[:, :, ::-1]])
    optimizer = torch.optim.AdamW(weights.values(), lr=RATE, weight_decay=0)
    generator = torch.Generator().manual_seed(seed_of(task.seed, "train", "dog"))
    for step in range(STEPS):
        which = torch.randint(len(both), (N,), generator=generator)
        latents = latents_of(both[which], torch.randn(N, *backbone.latent_shape, generator=generator))
        u = (torch.randperm(N, generator=generator) + torch.rand(N, generator=generator)) / N
        eps = torch.randn(latents.shape, generator=generator)
        template = ("a photo of a dog", "a picture of a dog", "a dog")[int(torch.randint(3, (1,), generator=generator))]
        with torch.no_grad():
            inputs = prompt_inputs(pipe, template)
        error = plain_error(pipe, folder, latents, eps, u, inputs)
        assert abs(float(error.detach()) - losses[step]) < 1e-5 * max(1.0, losses[step])
        optimizer.zero_grad()
        error.backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
        optimizer.step()
    for k, p in weights.items():
        torch.testing.assert_close(ours[k], p.detach(), atol=1e-5, rtol=1e-5)


def plain_latents(backbone: Backbone, folder: Path) -> Callable[[np.ndarray, torch.Tensor], torch.Tensor]:
    """latents(pictures, normal noise) as the scripts compute them: sampled from the posterior where there is one."""
    pipe, _ = plain_pipeline(backbone, folder)
    shift, scale = pipe.vae.config.get("shift_factor") or 0.0, pipe.vae.config.scaling_factor

    @torch.no_grad()
    def latents(pictures: np.ndarray, noise: torch.Tensor) -> torch.Tensor:
        encoded = pipe.vae.encode(torch.tensor(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1)
        if hasattr(encoded, "latent"):
            return encoded.latent * scale
        return (encoded.latent_dist.mean + encoded.latent_dist.std * noise - shift) * scale

    return latents
