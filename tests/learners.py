"""Tasks of a method on a tiny backbone, as the runner does them, and what a LoRA is worked out by loops."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from cpbench.backbones.backbone import Backbone
from cpbench.learning import step_log
from cpbench.method import Method, State, Task, recipe_of

MakeTask = Callable[..., Task]
Tensors = dict[str, torch.Tensor]
CONCEPTS = ("dog", "vase", "dog2")
FOURTH = "backpack"
TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
# of a method's options, those that it has: a task as short as can be
SHORT: dict[str, Any] = {"rank": 2, "steps": 2, "batch_size": 1, "token_steps": 1, "fisher_samples": 2, "dsc_steps": 1}
SHORT |= {
    "prior_pictures": 2,
    "prior_inference_steps": 1,
    "replay_pictures": 1,
    "replay_inference_steps": 1,
    "crops": 1,
}
SHORT |= {"initializer": "rare", "caption_samples": 1, "merge_steps": 1}
SMALL: dict[str, Any] = {"rank": 2, "steps": 3, "batch_size": 2, "learning_rate": 1e-2, "token_learning_rate": 1e-2}


@dataclass
class Learned:
    """What one task left: its state, its curve, the factors after its last step, and what the backbone counted."""

    state: State
    curve: list[dict[str, Any]] = field(default_factory=list)
    factors: Tensors = field(default_factory=dict)
    evaluations: int = 0
    trained: int = 0

    def phase(self, name: str) -> list[dict[str, Any]]:
        return [figures for figures in self.curve if figures["phase"] == name]


def learn(
    kind: type[Method],
    backbone: Backbone,
    make_task: MakeTask,
    number: int,
    state: State | None,
    look: Callable[[str, int], None] = lambda phase, step: None,
    seed: int = 0,
    **options: Any,
) -> Learned:
    """Task `number` by a new method object; `look` is called after every step, and all figures are read in each."""
    learned = Learned(State())
    given = State({k: v.clone() for k, v in state.tensors.items()}, copy.deepcopy(state.facts)) if state else State()

    def log(step: int, phase: str, **figures: Any) -> None:
        learned.curve.append({"phase": phase, "step": step, **figures})
        if phase == "train":
            learned.factors = {k: v.detach().clone() for k, v in backbone.lora_parameters.items()}
        look(phase, step)

    chosen = {k: v for k, v in (SMALL | options).items() if k in options or k in kind.Options.model_fields}
    task = make_task(backbone, (*CONCEPTS, FOURTH)[number - 1], number, seed=seed, log=log)
    before, backbone.trainable_parameters = backbone.unet_evaluations, 0
    period, step_log.PERIOD = step_log.PERIOD, 1
    try:
        method = kind(kind.Options(**chosen))
        learned.state = method.learn(backbone, replace(task, recipe=recipe_of(method.options)), given)
    finally:
        step_log.PERIOD = period
        backbone.restore()
    if state is not None:  # what was given is not written to
        assert given.facts == state.facts and same(given.tensors, state.tensors)
    learned.evaluations, learned.trained = backbone.unet_evaluations - before, backbone.trainable_parameters
    return learned


def tasks(kind: type[Method], backbone: Backbone, make_task: MakeTask, count: int = 3, **options: Any) -> list[Learned]:
    """The first tasks, one after the other."""
    learned: list[Learned] = []
    for number in range(1, count + 1):
        learned.append(learn(kind, backbone, make_task, number, learned[-1].state if learned else None, **options))
    return learned


def same(a: Tensors, b: Tensors) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def layers(backbone: Backbone, targets: tuple[str, ...] = TARGETS) -> list[str]:
    """Names of the pristine UNet's layers that the targets mean."""
    found = [n for n, m in backbone.denoiser.named_modules() if hasattr(m, "weight") and n.endswith(targets)]
    assert len(found) > 4
    return found


def product(factors: Tensors, layer: str) -> np.ndarray:
    """sum_r B[i, r] A[r, j], float64 (out, in, ...)."""
    A, B = (factors[f"{layer}.{side}"].detach().double().numpy() for side in ("lora_A", "lora_B"))
    out = np.zeros((len(B), A[0].size))
    for r in range(len(A)):
        out += np.outer(B[:, r], A[r])
    return out.reshape(len(B), *A.shape[1:])


def change(backbone: Backbone, method: Method, state: State, concepts: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """What the installed method changes of every linear layer's weight, told by the layers' own answers."""
    names = layers(backbone)
    pristine = {n: backbone.denoiser.get_submodule(n).weight.detach().double().numpy() for n in names}
    found = {}
    with backbone.installed(method, state, concepts), torch.no_grad():
        for n in names:
            layer, width = backbone.denoiser.get_submodule(n), pristine[n].shape[1]
            answer = layer(torch.eye(width)) - layer(torch.zeros(1, width))
            found[n] = answer.double().numpy().T - pristine[n]
    return found


def rows_stay(learned: list[Learned]) -> None:
    """Earlier words' rows are bit for bit as they were, new ones are not where the last one was."""
    for before, after in zip(learned, learned[1:], strict=False):
        for concept in before.state.concepts:
            assert torch.equal(before.state.tensors[f"token/{concept}"], after.state.tensors[f"token/{concept}"])
    final = learned[-1].state
    assert final.concepts == list(CONCEPTS[: len(learned)])
    assert final.tensors_of("token").keys() == set(final.concepts)
