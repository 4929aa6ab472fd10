"""SAM 3D Objects in a model's process: upstream's package and gated weights, which users install themselves.

None of upstream's code is here. Whatever these modules say of it was read at upstream's commit cf06676. They run under
the interpreter that upstream needs (`reconstructor.python`), Python 3.10 to 3.12 with NumPy 1 or 2, and import nothing
of the service but `geometry` and `models.protocol`.
"""
