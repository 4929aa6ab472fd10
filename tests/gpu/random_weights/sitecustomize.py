"""What the interpreter imports when it starts, with this folder on PYTHONPATH: a worker's SAM 3D Objects is `Forced`.

So the whole service runs with upstream's real modules and no gated weights, see `upstream.py`.
"""

import os
import sys

if sys.orig_argv[1:3] == ["-m", "stream_worker"]:
    from stream_worker import inference, reconstructor
    from stream_worker.settings import SAM3D
    from tests.gpu import upstream

    limits = inference.compute_limits
    named = {name: os.environ[name] for name in (upstream.UPSTREAM, upstream.CONFIGS)}
    inference.compute_limits = lambda **asked: limits(**asked) | named
    reconstructor.MODELS[SAM3D] = "tests.gpu.forced:Forced"
