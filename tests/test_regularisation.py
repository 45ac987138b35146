"""Pictures that a model draws for its own training, and the second denoising term on them."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from cpbench.backbones.backbone import Backbone
from cpbench.backbones.sampling import Sampler
from cpbench.learning import prior_preservation, training
from cpbench.method import Task

SAMPLER = Sampler(2, 4.0, batch_size=2)


def test_drawn_by_the_model_as_it_stands(tiny: Backbone, make_task: Callable[..., Task]) -> None:
    task, prompts = make_task(tiny), ["a dog", "a vase", "a dog"]
    before = tiny.unet_evaluations
    plain = prior_preservation.generate(tiny, task, prompts, SAMPLER)
    assert tiny.unet_evaluations - before == SAMPLER.evaluations(3) == 3 * 2 * 2
    assert plain.shape == (3, 32, 32, 3) and plain.dtype == np.uint8
    assert not np.array_equal(plain[0], plain[2])  # one prompt, other noise
    assert np.array_equal(plain, prior_preservation.generate(tiny, task, prompts, SAMPLER))
    assert not np.array_equal(plain, prior_preservation.generate(tiny, task, prompts, SAMPLER, "replay"))
    name = "conv_out.bias"
    tiny.replace_weights({name: tiny.denoiser.get_parameter(name) + 1})
    assert not np.array_equal(plain, prior_preservation.generate(tiny, task, prompts, SAMPLER))


def test_without_guidance_a_step_is_one_evaluation(tiny: Backbone, make_task: Callable[..., Task]) -> None:
    sampler, before = Sampler(3, 1.0), tiny.unet_evaluations
    prior_preservation.generate(tiny, make_task(tiny), ["a dog"], sampler)
    assert tiny.unet_evaluations - before == sampler.evaluations(1) == 3


def test_each_picture_goes_with_its_own_prompt(tiny: Backbone, make_task: Callable[..., Task]) -> None:
    """Against the error of each picture alone, under its prompt."""
    task = make_task(tiny, n=3)
    prompts = ["a dog", "a vase in the snow", "a purple backpack"]
    term = prior_preservation.denoising_term(tiny, task, task.images, prompts, 4, 2)
    for batch in training.batches(tiny, task, 4, 2, "prior"):
        singly = []
        for k in range(2):
            words = tiny.encode_prompts([prompts[int(batch.picture_indices[k])]])
            guess = tiny.predict(batch.noisy[k : k + 1], batch.timesteps[k : k + 1], words)
            singly.append(F.mse_loss(guess, batch.noise[k : k + 1]))
        assert tiny.process.prediction == "epsilon"
        torch.testing.assert_close(term(), torch.stack(singly).mean())


def test_prior_pictures_are_drawn_once_and_weighed_in_every_step(
    tiny: Backbone, make_task: Callable[..., Task]
) -> None:
    task, o = (
        make_task(tiny),
        prior_preservation.PriorOptions(prior_pictures=3, prior_weight=0.5, prior_inference_steps=2),
    )
    before = tiny.unet_evaluations
    term = prior_preservation.prior_preservation_term(tiny, task, "a dog", o, 2, 2)
    images = prior_preservation.generate(tiny, task, ["a dog"] * 3, Sampler(2, 7.5))
    unweighted = prior_preservation.denoising_term(tiny, task, images, ["a dog"] * 3, 2, 2)
    for _ in range(2):
        assert term().keys() == {"prior"}
    tiny.replace_weights({"conv_out.bias": torch.ones(4)})  # the terms are of the model as it is by now
    term = prior_preservation.prior_preservation_term(tiny, task, "a dog", o, 2, 2)
    tiny.restore()
    once = 3 * 2 * 2
    assert tiny.unet_evaluations - before == 3 * once + 2 * 2
    changed, plain = term()["prior"], 0.5 * unweighted()
    assert abs(float(changed) - float(plain)) > 1e-4
    torch.testing.assert_close(
        prior_preservation.prior_preservation_term(tiny, task, "a dog", o, 2, 2)()["prior"], plain
    )


def test_prior_costs_what_it_draws_and_a_term_a_step(tiny: Backbone, make_task: Callable[..., Task]) -> None:
    for pictures, weight, guidance in ((3, 1.0, 4.0), (3, 1.0, 1.0), (0, 1.0, 4.0), (3, 0.0, 4.0)):
        o = prior_preservation.PriorOptions(
            prior_pictures=pictures, prior_weight=weight, prior_inference_steps=2, prior_guidance_scale=guidance
        )
        before = tiny.unet_evaluations
        term = prior_preservation.prior_preservation_term(tiny, make_task(tiny), "a dog", o, 4, 2)
        terms = [term() for _ in range(4)]
        expected = 0 if not pictures or not weight else 3 * 2 * (2 if guidance > 1 else 1) + 4 * 2
        assert tiny.unet_evaluations - before == expected
        assert all(bool(t) is (expected > 0) for t in terms)
