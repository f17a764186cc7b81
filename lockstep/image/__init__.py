"""Image: layers and a config, the store that keeps both, and the layout that other tools read.

`layer` is the one place that writes tar headers: owner, mode, time and order are decided there.
"""

from lockstep.image.image import (
    CONFIG,
    CREATED,
    LAYER,
    LOCK_HASH,
    MANIFEST,
    MAX_LAYERS,
    Image,
    ImageLayer,
    as_image_layer,
    compare_layers,
    compare_packages,
    compose,
    digest_of,
    read_image,
)

__all__ = [
    "CONFIG",
    "CREATED",
    "LAYER",
    "LOCK_HASH",
    "MANIFEST",
    "MAX_LAYERS",
    "Image",
    "ImageLayer",
    "as_image_layer",
    "compare_layers",
    "compare_packages",
    "compose",
    "digest_of",
    "read_image",
]
