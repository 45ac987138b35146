"""ClassDiffusion: Custom Diffusion without class pictures; a loss keeps the new word close to the class noun.

Huang et al. 2025, "ClassDiffusion: More Aligned Personalization Tuning with Explicit Class Guidance" (ICLR, arXiv
2405.17532). K and V of each cross-attention layer and v, the embedding of the word <v>, are trained on

    L = L_recon + lambda L_SP,   L_recon = E || eps - eps_theta(z_t, t, c("a photo of a <v> {class}")) ||^2
    L_SP = 1 - cos( E("a photo of a <v> {class}"), E("a photo of a {class}") )

L_SP does not depend on K and V: they learn from L_recon only, v from both. `cpbench.learning.semantic_preservation`
defines E.

From the paper and its scripts on Stable Diffusion 1.5: these equations, lambda = 1, no class pictures, two pictures per
step, 500 steps on one GPU at 2e-5 (1e-5, scaled by the batch), and the rare word that v starts from. Left out:
resizing, the loss under its mask, and weight decay (0.01), which changes untrained token embeddings. The code leaves
<v> without a position in L_SP; here it keeps its position, as in the paper's equation (`spl_keep_position`).
Our assumption: a sequence is learned as by `customdiffusion`, merging included.
"""

from __future__ import annotations

from pydantic import Field

from cpbench.baselines import customdiffusion


class ClassDiffusionOptions(customdiffusion.CustomDiffusionOptions):
    learning_rate: float = Field(2e-5, gt=0, description="learning rate of the K and V matrices")
    token_learning_rate: float = Field(2e-5, ge=0, description="learning rate of v, the new word's embedding")
    spl_weight: float = Field(1.0, ge=0, description="lambda, weight of L_SP")
    prior_pictures: int = Field(0, ge=0, description="class pictures, generated before learning; 0: none")


class ClassDiffusion(customdiffusion.CustomDiffusion):
    """The state is that of Custom Diffusion."""

    version = 2
    Options = ClassDiffusionOptions
    tested_against = "official code's behaviour"
    search = {
        "": {
            "learning_rate": {"log": (0.0003, 0.003)},
            "token_learning_rate": {"log": (0.001, 0.02)},
            "spl_weight": {"log": (0.01, 1.0)},
        },
    }
    templates = ("a photo of a {}",)
