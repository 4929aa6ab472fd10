"""What a child's RESULT says: a value, or a fault in the service's terms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stream_worker.errors import Reason, RecordFault, TransientFault

TRANSIENT_CODES = frozenset({"cuda_oom", "out_of_space"})
"""Faults that are not the record's: another moment or another GPU may do."""

_REASONS = frozenset(reason.value for reason in Reason)


@dataclass(frozen=True, slots=True)
class Answer:
    """A RESULT whose header has the right form."""

    result: dict[str, Any]
    fault: tuple[str, str] | None
    error: str | None
    poisoned: bool
    """After this error every later task in the same process would fail as well."""
    busy_s: float

    def raise_failure(self, default: Reason) -> None:
        """Nothing, if the task was done.

        Raises:
            RecordFault: the model found the task at fault. The reason is the fault's code where that is one,
                else `default`.
            TransientFault: the same, where a code of `TRANSIENT_CODES` or an unforeseen error came instead.
        """
        if self.fault:
            code, message = self.fault
            known = code in _REASONS
            reason = Reason(code) if known else default
            kind = TransientFault if code in TRANSIENT_CODES else RecordFault
            raise kind(reason, message if known else f"{code}: {message}")
        if self.error:
            raise TransientFault(default, self.error)


def read_answer(header: Mapping[str, Any]) -> Answer | None:
    """The answer in a RESULT's header; None if it says nothing that we know (a child is not trusted)."""
    try:
        fault, error = header.get("fault"), header.get("error")
        result = {} if fault or error else header["result"]
        if not isinstance(result, dict):
            return None
        return Answer(
            result=result,
            fault=(str(fault["code"]), str(fault["message"])) if fault else None,
            error=f"{error['type']}: {error['message']}" if error else None,
            poisoned=bool(error and error.get("poisoned")),
            busy_s=float(header["busy_s"]),
        )
    except (LookupError, TypeError, ValueError, AttributeError):
        return None
