"""What the interpreter imports when it starts, with this folder on PYTHONPATH: crash points for workers only.

A worker's children (models, decoders, the shim that ties them) inherit the variables, and are left alone.
"""

import os
import sys

if "CRASH_PLAN" in os.environ and sys.orig_argv[1:3] == ["-m", "stream_worker"]:
    from tests.faults.crash_points.hooks import install

    install(os.environ["CRASH_PLAN"], sys.orig_argv[3])
