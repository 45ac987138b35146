"""The subjects' drawing functions: one module per group, one function per variant.

A drawing stands on the ground line y = 0 and is centred on x = 0; y up is negative. It is about 150 units high or wide.
A live subject's drawing is a generator: what it draws before it yields a `Frame` lies under its clothes.
"""

# In the order of `NOUNS`, live ones first.
from . import dogs, cats, bags, vessels, kitchen, footwear, plush, toys, toy_creatures, things, cartoons  # noqa: F401, I001
