"""Lockstep: a conda spec becomes a training image that is the same, bit for bit, wherever it is built.

The five nouns, each in a module of its own: Spec, Lock, Layer, Image, Run. `pipeline` tells how one
becomes the next; docs/architecture.md draws it.
"""

__version__ = "0.1.0"
