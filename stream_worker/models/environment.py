"""The environment variables of a model's process: what it inherits, and its limits on threads and GPU.

They must stand before the child imports anything, which is why they are variables and not calls.
"""

from __future__ import annotations

from collections.abc import Mapping

_INHERITED = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "LD_LIBRARY_PATH", "LD_PRELOAD", "HF_HOME")
_INHERITED_PREFIXES = (
    "LC_",
    "CUDA_",
    "NVIDIA_",
    "NCCL_",
    "PYTORCH_",
    "TORCH",  # TORCH_HOME, TORCHINDUCTOR_CACHE_DIR...
    "TRITON_",
    "SPCONV_",
    "MALLOC_",
)
_THREAD_POOLS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


def child_environment(parent: Mapping[str, str], extra: Mapping[str, str], *, same_interpreter: bool) -> dict[str, str]:
    """The whole environment of a model's process.

    Only what is named above is inherited: the keys of our broker and store are no business of a library
    that reads hostile bytes. PYTHONPATH goes along only to our own interpreter; another one has its own
    packages, and ours are built for another Python.
    """
    environment = {
        name: value for name, value in parent.items() if name in _INHERITED or name.startswith(_INHERITED_PREFIXES)
    }
    if same_interpreter and "PYTHONPATH" in parent:
        environment["PYTHONPATH"] = parent["PYTHONPATH"]
    return {**environment, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8:replace", **extra}


def compute_limits(*, threads: int = 4, device: str = "auto") -> dict[str, str]:
    """Thread, spconv and GPU limits of a model's process.

    Args:
        threads: of every pool of native threads. Without a limit each of several processes starts one
            thread per core, and they fight for them.
        device: `cpu` hides the GPUs, `cuda:<index or UUID>` leaves exactly that one, which the child then
            sees as number 0; `auto` and `cuda` leave what the parent sees.
    """
    limits = dict.fromkeys(_THREAD_POOLS, str(threads))
    limits["SPCONV_ALGO_TIME_LIMIT"] = "100"  # ms of tuning per shape; unlimited it takes seconds
    limits["SPCONV_TUNE_DEVICE"] = "0"  # device numbers are remapped by CUDA_VISIBLE_DEVICES
    limits["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    kind, _, which = device.partition(":")
    if kind == "cpu":
        limits["CUDA_VISIBLE_DEVICES"] = ""
    elif which:
        limits["CUDA_VISIBLE_DEVICES"] = which
    return limits
