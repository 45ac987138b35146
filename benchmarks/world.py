"""CPU milliseconds per rendering of the miniature's world, for 300 unseen identities of all classes in pretraining's settings.

python benchmarks/world.py
"""

from __future__ import annotations

import time

from cpbench.miniature.world import LIVE, NOUNS, random_setting, render, seeded, training_identity


def main() -> None:
    rng = seeded("benchmark")
    identities = [training_identity(NOUNS[k % len(NOUNS)], k, "benchmark") for k in range(300)]
    settings = [random_setting(identity.noun, rng, identity.noun in LIVE) for identity in identities]
    render(identities[0], settings[0], rng)
    start = time.process_time()
    for identity, setting in zip(identities, settings, strict=True):
        render(identity, setting, rng)
    print(f"{(time.process_time() - start) / len(identities) * 1000:.2f} ms per rendering")


if __name__ == "__main__":
    main()
