"""The wire: Firestore as this store uses it, and the only module that knows Google's types.

Four calls: ``commit`` (all or none, at most 500 writes), ``batch_write`` (each write on its own), ``get`` and
``query``. They speak of documents by their path below one root document (the installation's), of fields as plain
Python values, and of a write's time as a ``Stamp``. Google's generated client is used directly, because the
high-level one has no ``batch_write`` with preconditions that tells for each write what became of it, and spends most
of its time wrapping what is unwrapped again at once.

Nothing here repeats a write: whether a repetition is harmless is known where the write was made. Reads are repeated
a few times. Every call has a deadline, and every error comes out as ``StoreUnavailable`` (try again), ``Conflict``
(a precondition failed, nothing was written) or ``StoreError`` (a person must act), with words.

A wire belongs to the event loop that opened it, as grpc's channels do; the lease thread opens its own.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import grpc  # type: ignore[import-untyped]  # grpcio ships no types
from google.api_core import exceptions as errors
from google.auth import default as default_credentials
from google.auth.exceptions import GoogleAuthError
from google.cloud.firestore_v1 import types
from google.cloud.firestore_v1.services.firestore import FirestoreAsyncClient
from google.cloud.firestore_v1.services.firestore.transports import FirestoreGrpcAsyncIOTransport

from scheduledjob.domain.time.instants import SECOND, Micros
from scheduledjob.engine.store import StoreError, StoreUnavailable

from .operations import MOST_WRITES, Query, Stamp, StoredDocument, Write, packs
from .retrying import together

if TYPE_CHECKING:
    from .clock import FirestoreClock

DEADLINE = 10.0
"""Seconds for one call."""
READ_PAUSES = (0.05, 0.25)
"""Seconds before the second and the third try of a read."""
READ_PATIENCE: Micros = 2 * SECOND
"""A read that failed later than this is not tried again: whoever asked has waited long enough."""

T = TypeVar("T")


class Refused(StoreError):
    """Firestore will never do what was asked: something in it is malformed or too large."""


class Conflict(Exception):
    """A precondition of a commit failed, and nothing was written."""

    def __init__(self, words: str, *, taken: bool = False, aborted: bool = False) -> None:
        super().__init__(words)
        self.taken = taken
        """A document that should be new is there already."""
        self.aborted = aborted
        """None is known to have failed: too many wrote at once."""


class Wire:
    """Firestore below one root document."""

    def __init__(
        self, *, project: str, database: str, root: str, clock: FirestoreClock, deadline: float = DEADLINE
    ) -> None:
        """``root``: path of the root document below the database's documents."""
        self._database = f"projects/{project}/databases/{database}"
        self._root = f"{self._database}/documents/{root}"
        self._clock = clock
        self._deadline = deadline
        self._metadata: list[tuple[str, str]] = []
        self._opened: FirestoreAsyncClient | None = None

    async def open(self) -> None:
        """Make the channel; nothing is sent yet. Raises StoreError without credentials."""
        emulator = os.environ.get("FIRESTORE_EMULATOR_HOST")
        self._metadata = [("google-cloud-resource-prefix", self._database)]
        # Without these a channel that lost its server tries again only after up to two minutes.
        options = [
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 2_000),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", -1),
        ]
        if emulator:
            channel = grpc.aio.insecure_channel(emulator, options=options)
            self._metadata.append(("authorization", "Bearer owner"))
        else:
            scopes = FirestoreGrpcAsyncIOTransport.AUTH_SCOPES
            try:
                credentials, _ = await asyncio.to_thread(default_credentials, scopes=scopes)
            except GoogleAuthError as error:
                raise StoreError(
                    f"no credentials for Firestore ({error}): set GOOGLE_APPLICATION_CREDENTIALS to a key file, run "
                    "`gcloud auth application-default login`, use workload identity, or set FIRESTORE_EMULATOR_HOST"
                ) from error
            channel = FirestoreGrpcAsyncIOTransport.create_channel(credentials=credentials, options=options)
        self._opened = FirestoreAsyncClient(transport=FirestoreGrpcAsyncIOTransport(channel=channel))

    async def close(self) -> None:
        if self._opened is not None:
            await self._opened.transport.close()  # type: ignore[no-untyped-call]  # Google's method is untyped
            self._opened = None

    def beside(self, root: str) -> Wire:
        """The same connection below another root document; it closes with this one."""
        other = copy(self)
        other._root = f"{self._database}/documents/{root}"
        return other

    @property
    def _api(self) -> FirestoreAsyncClient:
        if self._opened is None:
            raise StoreError("the store is not connected: call connect() first")
        return self._opened

    # ---- writes

    async def commit(self, writes: Sequence[Write]) -> list[Stamp]:
        """Carry out all writes or none; the new stamps. Raises Conflict where a precondition failed."""
        request = _CommitRequest(database=self._database, writes=map(self._write, writes))
        sent = self._clock.reading()
        with _in_words("write"):
            answer = await self._api.commit(
                request=types.CommitRequest.wrap(request),
                retry=None,
                timeout=self._deadline,
                metadata=self._metadata,
            )
        raw = types.CommitResponse.pb(answer)
        self._clock.measured(sent, self._clock.reading(), _stamp(raw.commit_time) // 1000)
        return [_stamp(result.update_time) for result in raw.write_results]

    async def batch_write(self, writes: Sequence[Write]) -> list[Stamp | None]:
        """Carry out each write on its own; None for one that was not, or may not have been, carried out.

        Raises StoreUnavailable where that is all that is known of every write.
        """
        parts = packs([[write] for write in writes])
        answers = await together(self._batch_write([writes[number] for number in numbers]) for numbers in parts)
        failed = [answer for answer in answers if isinstance(answer, StoreError)]
        if failed and len(failed) == len(answers):
            raise failed[0]
        stamps: list[Stamp | None] = []
        for numbers, answer in zip(parts, answers, strict=True):
            stamps += [None] * len(numbers) if isinstance(answer, StoreError) else answer
        return stamps

    async def _batch_write(self, writes: Sequence[Write]) -> list[Stamp | None]:
        request = _BatchWriteRequest(database=self._database, writes=map(self._write, writes))
        sent = self._clock.reading()
        with _in_words("write"):
            answer = await self._api.batch_write(
                request=types.BatchWriteRequest.wrap(request),
                retry=None,
                timeout=self._deadline,
                metadata=self._metadata,
            )
        answered = self._clock.reading()
        raw = types.BatchWriteResponse.pb(answer)
        stamps: list[Stamp | None] = [
            None if status.code else _stamp(result.update_time)
            for status, result in zip(raw.status, raw.write_results, strict=True)
        ]
        if latest := max((stamp for stamp in stamps if stamp), default=0):
            self._clock.measured(sent, answered, latest // 1000)
        return stamps

    def _write(self, write: Write) -> Any:
        name = f"{self._root}/{write.path}" if write.path else self._root
        raw = _Write()
        if write.fields is None:
            raw.delete = name
        else:
            raw.update.name = name
            for key, value in write.fields.items():
                _encode(raw.update.fields[key], value)
            if write.mask is not None:
                raw.update_mask.field_paths.extend(write.mask)
        if write.stamp is not None:
            seconds, nanos = divmod(write.stamp, 1_000_000_000)
            raw.current_document.update_time.seconds = seconds
            raw.current_document.update_time.nanos = nanos
        elif write.exists is not None:
            raw.current_document.exists = write.exists
        return raw

    # ---- reads

    async def get(self, paths: Sequence[str], fields: Sequence[str] | None = None) -> dict[str, StoredDocument]:
        """The documents that are there, by path; with ``fields`` only those of their fields."""
        found: dict[str, StoredDocument] = {}
        for start in range(0, len(paths), MOST_WRITES):
            part = paths[start : start + MOST_WRITES]
            for document in await self._repeated(partial(self._get, part, fields)):
                found[document.path] = document
        return found

    async def _get(self, paths: Sequence[str], fields: Sequence[str] | None) -> list[StoredDocument]:
        names = [f"{self._root}/{path}" if path else self._root for path in paths]
        request = _BatchGetRequest(database=self._database, documents=names)
        if fields is not None:
            # A mask must name something, or all fields come.
            request.mask.field_paths.extend(fields or ["slug"])
        answers = await self._api.batch_get_documents(
            request=types.BatchGetDocumentsRequest.wrap(request),
            retry=None,
            timeout=self._deadline,
            metadata=self._metadata,
        )
        raws = [types.BatchGetDocumentsResponse.pb(answer) async for answer in answers]
        return [self._document(raw.found) for raw in raws if raw.HasField("found")]

    async def query(self, query: Query) -> list[StoredDocument]:
        """What the query finds. Raises StoreError where its index is missing."""
        return await self._repeated(partial(self._query, query))

    async def _query(self, query: Query) -> list[StoredDocument]:
        request = _RunQueryRequest(parent=self._root)
        wanted = request.structured_query
        wanted.from_.add().collection_id = query.collection
        wanted.limit.value = query.limit
        filters = wanted.where.composite_filter
        operators = types.StructuredQuery.FieldFilter.Operator

        def require(name: str, operator: int, value: Any) -> None:
            one = filters.filters.add().field_filter
            one.field.field_path = name
            one.op = operator
            _encode(one.value, value)

        for name, value in query.equals.items():
            require(name, operators.EQUAL, value)
        for name, values in query.within.items():
            if len(values) == 1:
                require(name, operators.EQUAL, values[0])
            else:
                require(name, operators.IN, list(values))
        bounds = (
            (operators.GREATER_THAN_OR_EQUAL, query.least),
            (operators.LESS_THAN_OR_EQUAL, query.most),
            (operators.GREATER_THAN, query.more),
            (operators.LESS_THAN, query.less),
        )
        for operator, bound in bounds:
            if bound is not None:
                require(query.order, operator, bound)
        if filters.filters:
            filters.op = types.StructuredQuery.CompositeFilter.Operator.AND
        else:
            wanted.ClearField("where")
        directions = types.StructuredQuery.Direction
        direction = directions.DESCENDING if query.descending else directions.ASCENDING
        for name in (query.order, "__name__"):
            order = wanted.order_by.add()
            order.field.field_path = name
            order.direction = direction
        if query.after is not None:
            value, path = query.after
            _encode(wanted.start_at.values.add(), value)
            wanted.start_at.values.add().reference_value = f"{self._root}/{path}"
            wanted.start_at.before = False
        answers = await self._api.run_query(
            request=types.RunQueryRequest.wrap(request),
            retry=None,
            timeout=self._deadline,
            metadata=self._metadata,
        )
        raws = [types.RunQueryResponse.pb(answer) async for answer in answers]
        return [self._document(raw.document) for raw in raws if raw.HasField("document")]

    def _document(self, raw: Any) -> StoredDocument:
        path = raw.name.removeprefix(self._root).removeprefix("/")
        return StoredDocument(
            path, {name: _decode(value) for name, value in raw.fields.items()}, _stamp(raw.update_time)
        )

    async def _repeated(self, read: Callable[[], Awaitable[T]]) -> T:
        began = self._clock.reading()
        for pause in READ_PAUSES:
            try:
                with _in_words("read"):
                    return await read()
            except StoreUnavailable:
                if self._clock.reading() - began > READ_PATIENCE:
                    raise
                await asyncio.sleep(pause)
        with _in_words("read"):
            return await read()


@contextmanager
def _in_words(act: str) -> Iterator[None]:
    """Turn what Google's client raises into what the store promises."""
    try:
        yield
    except (errors.FailedPrecondition, errors.AlreadyExists, errors.NotFound, errors.Aborted) as error:
        words = error.message or ""
        if "index" in words and act == "read":
            raise StoreError(
                f"Firestore lacks an index of this store: deploy the firestore.indexes.json that stands beside "
                f"scheduledjob/stores/firestore/store.py and wait until it is built ({words})"
            ) from error
        if isinstance(error, errors.NotFound) and (act == "read" or "database" in words.lower()):
            raise StoreError(
                f"Firestore does not find it: create the database in native mode, or check the project in the "
                f"store's URL ({words})"
            ) from error
        if act == "read":
            raise StoreUnavailable(f"Firestore gave up the read: {words}") from error
        raise Conflict(
            words, taken=isinstance(error, errors.AlreadyExists), aborted=isinstance(error, errors.Aborted)
        ) from error
    except (errors.PermissionDenied, errors.Unauthenticated) as error:
        raise StoreError(
            f"Firestore refuses the {act}: give this account the role roles/datastore.user in the project of the "
            f"store's URL ({error.message})"
        ) from error
    except errors.InvalidArgument as error:
        raise Refused(f"Firestore refuses the {act} as malformed or too large: {error.message}") from error
    except (errors.GoogleAPIError, GoogleAuthError, grpc.RpcError, TimeoutError) as error:
        words = getattr(error, "message", None) or str(error) or type(error).__name__
        raise StoreUnavailable(f"Firestore did not answer the {act}: {words}") from error


def _raw(message: Any) -> Any:
    """The protobuf class under one of Google's wrappers, which is many times quicker to fill."""
    return type(message.pb(message()))


_Write: Any = _raw(types.Write)
_CommitRequest: Any = _raw(types.CommitRequest)
_BatchWriteRequest: Any = _raw(types.BatchWriteRequest)
_BatchGetRequest: Any = _raw(types.BatchGetDocumentsRequest)
_RunQueryRequest: Any = _raw(types.RunQueryRequest)


def _stamp(moment: Any) -> Stamp:
    return int(moment.seconds) * 1_000_000_000 + int(moment.nanos)


def _encode(into: Any, value: Any) -> None:
    if value is None:
        into.null_value = 0
    elif isinstance(value, bool):
        into.boolean_value = value
    elif isinstance(value, int):
        into.integer_value = value
    elif isinstance(value, str):
        into.string_value = value
    elif isinstance(value, bytes):
        into.bytes_value = value
    elif isinstance(value, Mapping):
        into.map_value.SetInParent()
        for name, each in value.items():
            _encode(into.map_value.fields[name], each)
    else:
        into.array_value.SetInParent()
        for each in value:
            _encode(into.array_value.values.add(), each)


def _decode(value: Any) -> Any:
    kind = value.WhichOneof("value_type")
    if kind in {None, "null_value"}:
        return None
    if kind == "array_value":
        return [_decode(each) for each in value.array_value.values]
    if kind == "map_value":
        return {name: _decode(each) for name, each in value.map_value.fields.items()}
    return getattr(value, kind)
