"""ClassDiffusion: Custom Diffusion without pictures of the class; its word is held to the class noun instead.

Huang et al. 2025, "ClassDiffusion: More Aligned Personalization Tuning with Explicit Class Guidance" (ICLR, arXiv
2405.17532). Over K and V of every cross-attention layer and v, the embedding of the word <v>,

    L = L_recon + lambda L_SP,   L_recon = E || eps - eps_theta(z_t, t, c("a photo of a <v> {class}")) ||^2
    L_SP = 1 - cos( E("a photo of a <v> {class}"), E("a photo of a {class}") )

K and V do not enter L_SP: they learn from L_recon alone, and v from both. E is told in `cpbench.learning.semantic_preservation`.

From the paper and its scripts on Stable Diffusion 1.5: this, lambda = 1, no pictures of the class, two pictures a step,
500 steps on one GPU at 2e-5 (1e-5, scaled by the batch), the rare word that v starts from. Not here: resizing, and the loss
under its mask. The code leaves <v> without a position in L_SP; `spl_keep_position` mends that, and is on (the paper's
equation has no such exception). Its weight decay (0.01) moves rows of the table that are not trained: here there is none.
Our reading: a sequence, as `customdiffusion` reads it, merging included.
"""

from __future__ import annotations

from pydantic import Field

from cpbench.baselines import customdiffusion


class ClassDiffusionOptions(customdiffusion.CustomDiffusionOptions):
    learning_rate: float = Field(2e-5, gt=0, description="of the K and V matrices")
    token_learning_rate: float = Field(2e-5, ge=0, description="of v, the new word's embedding row")
    spl_weight: float = Field(1.0, ge=0, description="lambda of L_SP")
    prior_pictures: int = Field(0, ge=0, description="pictures of the class that the model draws first; 0: none")


class ClassDiffusion(customdiffusion.CustomDiffusion):
    """Carries what Custom Diffusion carries."""

    version = 1
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
