"""A stand-in for upstream's package `sam3d_objects`: our adapter runs where there is no GPU and no gated weights.

Our own code. Names, signatures, shapes and dtypes are those of facebookresearch/sam-3d-objects at cf06676, as each
docstring says; what is computed is not: every object is a hollow ellipsoid, placed where the point map and the mask
say. `CALLS` notes what was asked.
"""
