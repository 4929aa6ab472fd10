"""The object store as a bucket of any S3 server."""

from __future__ import annotations

import contextlib
import hashlib
import ssl
import time
import xml.etree.ElementTree as ET
from collections.abc import Collection, Iterator
from datetime import datetime
from email.utils import parsedate_to_datetime
from io import BytesIO
from pathlib import Path

import certifi
import urllib3
from minio import Minio
from minio.credentials.providers import (
    AWSConfigProvider,
    ChainedProvider,
    EnvAWSProvider,
    IamAwsProvider,
)
from minio.datatypes import Object
from minio.error import InvalidResponseError, MinioException, S3Error, ServerError

from stream_worker.errors import Exit, Ours, OutageError, UserError
from stream_worker.security import authorities
from stream_worker.store.blobs import KEY, BlobStat, Store, refuse_key

ABSENT = frozenset({"NoSuchKey", "NoSuchObject"})
_THERE = frozenset({"PreconditionFailed", "ConditionalRequestConflict"})
_PUT_AT_ONCE = 5 * 2**30  # S3's largest single PUT, bytes


class Server:
    """An S3 server, and what lets us in. Its calls block.

    Without `access_key`, credentials are looked for where AWS's tools do: AWS_* variables, ~/.aws, the machine's
    role. `ca_file`: the authorities that may sign the server's certificate; None: the machine's and the usual ones.
    `where` names it in errors.

    Raises UserError for an address that can't be one, or a file without certificates.
    """

    def __init__(
        self,
        where: str,
        *,
        endpoint: str,
        access_key: str | None,
        secret_key: str | None,
        region: str | None,
        secure: bool,
        ca_file: Path | None,
        timeout_s: float,
    ) -> None:
        self.where = where
        self._url = f"{'https' if secure else 'http'}://{endpoint}/"
        self._timeout_s = timeout_s
        self._pool = _pool(timeout_s, ca_file)
        roles = [EnvAWSProvider(), AWSConfigProvider(), IamAwsProvider(http_client=self._pool)]
        try:
            self.client = Minio(
                endpoint,
                access_key=access_key,
                secret_key=secret_key,
                region=region,
                secure=secure,
                http_client=self._pool,
                credentials=None if access_key else ChainedProvider(roles),
            )
        except ValueError as error:
            raise UserError(f"{where}: {error}", Exit.STORE) from None

    def close(self) -> None:
        """Give back the connections."""
        self._pool.clear()

    def read(self, bucket: str, name: str, most: int, absent: Collection[str] = ABSENT) -> bytes | None:
        """An object's bytes, `most` + 1 of them where there are more; None where the server's answer is one of
        `absent`. Raises OutageError.
        """
        deadline = time.monotonic() + self._timeout_s
        with self.outages():
            try:
                response = self.client.get_object(bucket, name)
            except S3Error as error:
                if error.code in absent:
                    return None
                raise
            try:
                data = bytearray()
                # What is there, however little: `stream` would wait for whole chunks, and a server that sends a byte
                # now and then would hold this thread for days. The socket's own limit starts again with every byte.
                while len(data) <= most and (chunk := response.read1(1 << 18)):
                    data += chunk
                    if time.monotonic() > deadline:
                        raise OutageError(f"{self.where}: {name} took longer than {self._timeout_s:.0f} s", Ours.STORE)
                return bytes(data[: most + 1])
            finally:
                response.close()
                response.release_conn()

    def clock(self) -> datetime | None:
        """Its clock, to the second: what it says to somebody it does not know. None where it says none."""
        with self.outages():
            said = self._pool.request("HEAD", self._url, retries=False).headers.get("Date")
            try:
                return None if said is None else parsedate_to_datetime(said)
            except ValueError:
                return None

    @contextlib.contextmanager
    def outages(self) -> Iterator[None]:
        """All that the server and the network say against us is an outage: no record is to blame."""
        try:
            yield
        except S3Error as error:
            raise OutageError(f"{self.where}: {error.code}: {error.message}", Ours.STORE) from None
        except (ServerError, InvalidResponseError, ET.ParseError) as error:  # the last: an answer cut or garbled
            raise OutageError(f"{self.where} fails: {str(error).splitlines()[0]}", Ours.STORE) from None
        except (MinioException, urllib3.exceptions.HTTPError, OSError) as error:
            raise OutageError(f"{self.where} can't be reached: {_cause(error)}", Ours.STORE) from error
        except ValueError as error:  # minio's word for a bad bucket name, and for credentials it can't find
            raise OutageError(f"{self.where}: {error}", Ours.STORE) from error


class S3Store(Store):
    """Blobs of one bucket, under a prefix. Raises as `Server`; nothing is sent before `check`."""

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        *,
        endpoint: str,
        access_key: str | None = None,
        secret_key: str | None = None,
        region: str | None = None,
        secure: bool = True,
        ca_file: Path | None = None,
        create_bucket: bool = False,
        timeout_s: float = 20.0,
    ) -> None:
        super().__init__(f"S3 store {endpoint}/{bucket}", timeout_s)
        if prefix and (len(prefix) > 100 or not KEY.fullmatch(prefix)):
            raise UserError(f"store.url: {prefix!r} can't stand before keys (letters, digits, . _ - and /)")
        self.bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._create_bucket = create_bucket
        self._server = Server(
            self.where,
            endpoint=endpoint,
            access_key=access_key,
            secret_key=secret_key,
            region=region,
            secure=secure,
            ca_file=ca_file,
            timeout_s=timeout_s,
        )
        self._client, self._outages = self._server.client, self._server.outages

    async def close(self) -> None:
        """Give back threads and connections. A call that is stuck is not waited for."""
        await super().close()
        self._server.close()

    async def put_if_absent(self, key: str, data: bytes) -> bool:
        """Store `data` where there is nothing yet (`If-None-Match: *`), and whether it was so.

        A server that does not know conditional puts replaces what is there, and this says True.
        """
        refuse_key(key)
        return await self._run(self._put_if_absent, key, data)

    async def clock(self) -> datetime | None:
        """The server's clock, to the second: what it says to somebody it does not know. None where it says none."""
        return await self._run(self._server.clock)

    @property
    def _patience_s(self) -> float:
        return 2 * self._timeout_s + 5  # two attempts, and a name to resolve

    def _check(self) -> None:
        with self._outages():
            if self._client.bucket_exists(self.bucket):
                return
            if not self._create_bucket:
                raise UserError(f"{self.where}: no such bucket (store.create_bucket makes it)", Exit.STORE)
            try:
                self._client.make_bucket(self.bucket)
            except S3Error as error:
                if error.code != "BucketAlreadyOwnedByYou":  # another worker was faster
                    raise

    def _put(self, key: str, data: bytes, media_type: str, anew: bool) -> None:
        name = self._prefix + key
        with self._outages():
            # The ETag is the MD5 of what one plain PUT has written. Where a server makes it otherwise
            # (encryption) it differs, and the blob is written again: slower, never wrong.
            digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
            there = None if anew else self._stat(name)
            if there is not None and there.size == len(data) and (there.etag or "").strip('"') == digest:
                return
            self._client.put_object(
                self.bucket, name, BytesIO(data), len(data), content_type=media_type, part_size=_PUT_AT_ONCE
            )

    def _put_if_absent(self, key: str, data: bytes) -> bool:
        with self._outages():
            try:
                # minio's own `put_object` makes user metadata of a header that it does not know.
                self._client._put_object(self.bucket, self._prefix + key, data, {"If-None-Match": "*"})
            except S3Error as error:
                if error.code in _THERE:
                    return False
                raise
            return True

    def _get(self, key: str, size: int) -> bytes | None:
        return self._server.read(self.bucket, self._prefix + key, size)

    def _size(self, key: str) -> int | None:
        with self._outages():
            there = self._stat(self._prefix + key)
            return None if there is None else there.size or 0

    def _delete(self, key: str) -> None:
        with self._outages():
            self._client.remove_object(self.bucket, self._prefix + key)  # S3: no error where there is none

    def _list(self, prefix: str) -> tuple[BlobStat, ...]:
        with self._outages():
            found = self._client.list_objects(self.bucket, prefix=self._prefix + prefix, recursive=True)
            return tuple(
                BlobStat((each.object_name or "").removeprefix(self._prefix), each.size or 0) for each in found
            )

    def _url(self, key: str) -> str:
        return f"s3://{self.bucket}/{self._prefix}{key}"

    def _stat(self, name: str) -> Object | None:
        """None for a blob that is not there; the answer to HEAD can't tell that from a missing bucket."""
        try:
            return self._client.stat_object(self.bucket, name)
        except S3Error as error:
            if error.code in ABSENT:
                return None
            raise


def _pool(timeout_s: float, ca_file: Path | None) -> urllib3.PoolManager:
    """Connections with limits: of time, of attempts (a kept-alive connection may be stale), of redirects."""
    if ca_file is not None:
        context = authorities(ca_file, "store.ca_file")
    else:
        context = ssl.create_default_context()  # the machine's authorities, or SSL_CERT_FILE ...
        context.load_verify_locations(certifi.where())  # ... and the usual ones where a bare image has none
    return urllib3.PoolManager(
        timeout=urllib3.Timeout(connect=min(timeout_s, 5.0), read=timeout_s),
        maxsize=8,
        ssl_context=context,
        retries=urllib3.Retry(
            total=1,
            redirect=0,
            backoff_factor=0.2,
            status_forcelist=[500, 502, 503, 504],
            respect_retry_after_header=False,  # a server could ask for an hour
        ),
    )


def _cause(error: BaseException) -> str:
    """The plain word at the bottom of urllib3's nested errors."""
    while isinstance(reason := getattr(error, "reason", None), BaseException):
        error = reason
    inner = error.args[0] if error.args else None
    if isinstance(inner, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted, {inner.verify_message} (store.ca_file)"
    return str(error).rpartition(": ")[2] or type(error).__name__
