"""What a child's RESULT, BODY or INIT says: a value, or a fault in the service's terms. A child is not trusted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from stream_worker.errors import Reason, RecordFault, TransientFault

CUDA_OOM = "cuda_oom"
"""The child's code for a GPU whose memory, or the process's share of it, was not enough."""

TRANSIENT_CODES = frozenset({CUDA_OOM, "out_of_space"})
"""Faults that are not the record's: another moment or another GPU may do."""

NOT_FINITE = "not_finite"
"""The child's code for an answer that holds NaN or Inf: the model computed it, so it would do so again."""

MAX_MESSAGE_CHARS = 1000

_REASONS = {reason.value: reason for reason in Reason}


@dataclass(frozen=True, slots=True)
class Loaded:
    """A child's INIT whose header has the right form."""

    info: dict[str, Any]
    times: dict[str, float]
    fault: tuple[str, str] | None
    prepares: bool = False
    """Whether the model prepares a task while it works on another."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A RESULT or a BODY whose header has the right form."""

    result: dict[str, Any]
    fault: tuple[str, str] | None
    error: str | None
    poisoned: bool
    """After this error every later task in the same process would fail as well."""
    busy_s: float

    @property
    def out_of_gpu_memory(self) -> bool:
        return self.fault is not None and self.fault[0] == CUDA_OOM

    def raise_failure(self, default: Reason, reasons: Mapping[str, Reason] = MappingProxyType({})) -> None:
        """Nothing, if the task was done.

        Raises:
            RecordFault: the model found the task at fault. The reason is the fault's code where that is one,
                else what `reasons` says of the code, else `default`.
            TransientFault: the same, where a code of `TRANSIENT_CODES` or an unforeseen error came instead.
        """
        if self.fault:
            code, message = self.fault
            reason = _REASONS.get(code) or reasons.get(code, default)
            kind = TransientFault if code in TRANSIENT_CODES else RecordFault
            raise kind(reason, message if code in _REASONS else f"{code}: {message}")
        if self.error:
            raise TransientFault(default, self.error)


def read_answer(header: Mapping[str, Any]) -> Answer | None:
    """The answer in a RESULT's header; None if it says nothing that we know."""
    try:
        fault, error = header.get("fault"), header.get("error")
        result = {} if fault or error else header["result"]
        busy_s = float(header["busy_s"])
        if not isinstance(result, dict) or not 0 <= busy_s < math.inf:
            return None
        return Answer(
            result=result,
            fault=(clean(fault["code"]), clean(fault["message"])) if fault else None,
            error=clean(f"{error['type']}: {error['message']}") if error else None,
            poisoned=bool(error and error.get("poisoned")),
            busy_s=busy_s,
        )
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError):
        return None


def read_loaded(header: Mapping[str, Any]) -> Loaded | None:
    """What an INIT's header says; None if it says nothing that we know."""
    try:
        fault = header.get("fault")
        info = {} if fault else header["info"]
        if not isinstance(info, dict):
            return None
        return Loaded(
            info=info,
            times={str(name): float(seconds) for name, seconds in header.get("times", {}).items()},
            fault=(clean(fault["code"]), clean(fault["message"])) if fault else None,
            prepares=header.get("prepares") is True,
        )
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError):
        return None


def clean(said: Any) -> str:
    """A child's words as an event can hold them: not too long, without the lone surrogates that JSON lets through."""
    return str(said)[:MAX_MESSAGE_CHARS].encode("utf-8", "replace").decode()
