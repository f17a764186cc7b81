"""Layers: packages become deterministic tars. Pure: bytes in, bytes out.

wheel, prefix        what a wheel, or a conda package, puts into the environment
conda_archive        a look at a conda package before it is unpacked
large                large files, hashed while the engine takes the image
bytecode             its .pyc files, compiled by the image's own Python
grouping             which packages share a layer
assemble             a lock's packages become its layers, each made once
"""
