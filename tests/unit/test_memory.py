"""What a process keeps of what it has freed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from stream_worker.memory import ARENAS

PROGRAM = """
import ctypes, re, sys, threading
if sys.argv[1] == "bounded":
    from stream_worker import memory
    assert memory.give_back()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]

# Large buffers between small ones that stay: what a heap can't give back.
for size in (1 << 20, 8 << 20):
    libc.free(libc.malloc(size))  # the dynamic threshold rises
large, small = [], []
for _ in range(60):
    large.append(libc.malloc(1 << 20))
    ctypes.memset(large[-1], 1, 1 << 20)
    small.append(libc.malloc(1024))
for address in large:
    libc.free(address)

barrier = threading.Barrier(9)
def allocate():
    barrier.wait()
    libc.malloc(4096)
    barrier.wait()
for _ in range(8):
    threading.Thread(target=allocate, daemon=True).start()
barrier.wait(); barrier.wait()

resident = int(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024
libc.fopen.restype, libc.fclose.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
libc.malloc_info.argtypes = [ctypes.c_int, ctypes.c_void_p]
file = libc.fopen(sys.argv[2].encode(), b"w")
libc.malloc_info(0, file)
libc.fclose(file)
print(resident, open(sys.argv[2]).read().count("<heap nr="))
"""


def measured(how: str, path: str) -> tuple[int, int]:
    """Resident MiB and arenas of a process that has freed 60 MiB in pieces and allocated in eight threads."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how, path], capture_output=True, text=True, check=True, timeout=60
    )
    resident, arenas = map(int, done.stdout.split())
    return resident, arenas


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_what_was_freed_is_given_back(tmp_path: object) -> None:
    before, arenas_before = measured("plain", f"{tmp_path}/plain")
    after, arenas_after = measured("bounded", f"{tmp_path}/bounded")
    assert arenas_before > ARENAS >= arenas_after
    assert after < before - 40
