"""This machine's clock: whether something keeps it, and how far it is from the S3 server's.

A broker's clock shows in the timestamps of records alone, and to write one is not for a doctor: see `clock`.
"""

from __future__ import annotations

import ctypes
import struct
import time

from stream_worker.doctor.check import Finding, failed, not_checked, ok, warning
from stream_worker.errors import OutageError, UserError
from stream_worker.settings import Settings
from stream_worker.store import folder_of, open_store
from stream_worker.store.threads import Threads

NTP = "let chrony, systemd-timesyncd or the host keep the time (`timedatectl`)"
NEAR_S = 2.0
"""A Date header is cut to seconds, and took its time."""
REFUSED_S = 900.0
"""S3 refuses signatures this old: RequestTimeTooSkewed."""

TIME_ERROR = 5
_TIMEX = struct.Struct("@Iqqqqi")
"""The beginning of the kernel's `struct timex`: modes, offset, freq, maxerror (us), esterror, status."""
_TIMEX_BYTES = 512


async def clock(settings: Settings, threads: Threads) -> list[Finding]:
    """What is known of this machine's clock without changing anything."""
    findings = [kernel(*_adjtimex())]
    if folder_of(settings) is None:
        findings.append(await _beside_the_store(settings, threads))
    why = "the broker's clock: it shows in records alone, and none is written here"
    return [*findings, not_checked("clock", why, "look at `date` on the brokers: deadlines are counted from theirs")]


def kernel(state: int, maxerror_us: int) -> Finding:
    """What adjtimex(2) says. `state` below 0: nothing."""
    if state < 0:
        return not_checked("clock", "the kernel does not say whether its clock is kept", NTP)
    if state == TIME_ERROR:
        return warning("clock", "nothing keeps this machine's clock, says the kernel", NTP)
    return ok("clock", f"kept, says the kernel, and off by {maxerror_us / 1e6:.3f} s at most")


def difference(ahead_s: float) -> Finding:
    """How far this machine is ahead of the S3 server."""
    seen = f"{abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} the S3 server"
    if abs(ahead_s) >= REFUSED_S:
        return failed("clock", f"{seen}, which refuses every request for it", f"one of the two is wrong: {NTP}")
    if abs(ahead_s) > NEAR_S:
        return warning("clock", seen, f"one of the two is wrong: {NTP}")
    return ok("clock", f"as the S3 server's, within {NEAR_S:.0f} s")


async def _beside_the_store(settings: Settings, threads: Threads) -> Finding:
    from stream_worker.store.s3 import S3Store  # minio takes half a second

    try:
        store = await threads.run(open_store, settings)
        assert isinstance(store, S3Store), "what is no folder is a bucket"
        try:
            began = time.time()
            theirs = await store.clock()
            ours = (began + time.time()) / 2
        finally:
            await store.close()
    except (UserError, OutageError):
        return not_checked("clock", "the S3 server's: it can't be asked (see store)")
    if theirs is None:
        return not_checked("clock", "the S3 server's: its answers have no date")
    return difference(ours - (theirs.timestamp() + 0.5))


def _adjtimex() -> tuple[int, int]:
    """What the call returns, and the maximal error in microseconds. It needs no right to read."""
    buffer = ctypes.create_string_buffer(_TIMEX_BYTES)
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(buffer)
    except (OSError, AttributeError):
        return -1, 0
    return state, _TIMEX.unpack_from(buffer)[3]
