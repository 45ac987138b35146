"""continual-lora's sampling with another number of steps, pictures and pixels; against_continual_lora.py calls this by rival.py.

    rival.py STEPS.json continual_lora_sampling.py MODELS NUM_INFERENCE_STEPS PICTURES_PER_PROMPT LATENT_SIDE

Its script has the number of steps in a default, which is bound when the function is defined, and the noise's shape in the
function.
"""

import sys

import torch
from eval import sample_images


def prepare_noise(device, n_prompts):
    generator = torch.Generator(device=device).manual_seed(sample_images.GENERATOR_SEED)
    shape = (sample_images.N_SAMPLES_PER_PROMPT, 4, latent_side, latent_side)
    return torch.randn(shape, generator=generator, device=device).repeat(n_prompts, 1, 1, 1)


models, steps, pictures, latent_side = sys.argv[1], *map(int, sys.argv[2:])
sample_images.N_SAMPLES_PER_PROMPT = pictures
sample_images.prepare_noise = prepare_noise
sample_images.sample_ranked_batched.__defaults__ = (steps, *sample_images.sample_ranked_batched.__defaults__[1:])
sample_images.get_object_metrics(models, "naive_cl", "object", None)
