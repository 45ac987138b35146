"""CPU milliseconds a drawing of the miniature's world, over 300 strangers of all classes in settings as pretraining meets.

python benchmarks/world.py
"""

from __future__ import annotations

import time

from cpbench.miniature.world import LIVE, NOUNS, draw, random_setting, seeded, training_identity


def main() -> None:
    rng = seeded("benchmark")
    people = [training_identity(NOUNS[k % len(NOUNS)], k, "benchmark") for k in range(300)]
    settings = [random_setting(who.noun, rng, who.noun in LIVE) for who in people]
    draw(people[0], settings[0], rng)
    began = time.process_time()
    for who, setting in zip(people, settings, strict=True):
        draw(who, setting, rng)
    print(f"{(time.process_time() - began) / len(people) * 1000:.2f} ms a drawing")


if __name__ == "__main__":
    main()
