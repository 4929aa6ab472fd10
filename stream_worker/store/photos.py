"""Photos that lie in buckets: `s3://bucket/key` URLs, read from the S3 server of the store, with its credentials."""

from __future__ import annotations

from typing import Self

from stream_worker.errors import Reason, RecordFault
from stream_worker.store.s3 import ABSENT, Server
from stream_worker.store.threads import Threads

AT_ONCE = 8
NOT_TO_BE_HAD = ABSENT | {"NoSuchBucket", "AccessDenied"}
"""S3 says `AccessDenied` of a key that is not there, too, to those who may not list the bucket."""


class S3Photos:
    """Any object of the server's buckets; which of them may be read is the fetcher's business. A context manager."""

    def __init__(self, server: Server) -> None:
        self._server = server
        # Its own: photos that are slow to come keep no result from the store.
        self._threads = Threads(AT_ONCE, "s3-photos")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._threads.close()
        self._server.close()

    async def read(self, bucket: str, key: str, most: int) -> bytes:
        """An object's bytes, `most` + 1 of them where there are more.

        Raises RecordFault (FETCH_FAILED) for one that is not there or not for us, OutageError while the server is away.
        """
        data = await self._threads.run(self._server.read, bucket, key, most, NOT_TO_BE_HAD)
        if data is None:
            raise RecordFault(Reason.FETCH_FAILED, "the bucket holds no such object, or none that we may read")
        return data
