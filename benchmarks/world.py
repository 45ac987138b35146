"""CPU milliseconds a drawing of the miniature's world, over 300 strangers of all classes in settings as pretraining meets.

python benchmarks/world.py
"""

from __future__ import annotations

import time

from cpbench.miniature.world import LIVE, NOUNS, random_setting, render, seeded, training_identity


def main() -> None:
    rng = seeded("benchmark")
    people = [training_identity(NOUNS[k % len(NOUNS)], k, "benchmark") for k in range(300)]
    settings = [random_setting(identity.noun, rng, identity.noun in LIVE) for identity in people]
    render(people[0], settings[0], rng)
    began = time.process_time()
    for identity, setting in zip(people, settings, strict=True):
        render(identity, setting, rng)
    print(f"{(time.process_time() - began) / len(people) * 1000:.2f} ms a drawing")


if __name__ == "__main__":
    main()
