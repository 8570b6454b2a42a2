"""The client of Firestore's API, and the only module that knows Google's types.

It has four calls: ``commit`` (all writes or none, at most 500), ``batch_write`` (each write on its own), ``get`` and
``query``. They name documents by their path below one root document (the installation's), give fields as plain Python
values, and the time of a write as a ``Stamp``. Google's generated client is used directly, because the high-level one
has no ``batch_write`` that takes preconditions and returns a result for each write, and it spends most of its time
wrapping and unwrapping values.

Nothing here repeats a write, because only the caller knows whether that is harmless. Reads are repeated a few times.
Every call has a time limit, and every error is raised as ``StoreUnavailable`` (try again), ``Conflict`` (a precondition
failed, nothing was written) or ``StoreError`` (a person must act), with a message.

A wire belongs to the event loop that opened it, as grpc's channels do. The lease thread opens its own.
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
from scheduledjob.engine.threads import wait_apart

from .operations import MAX_WRITES, Query, Stamp, StoredDocument, Write, pack_commits
from .retrying import gather_results

if TYPE_CHECKING:
    from .clock import FirestoreClock

DEADLINE = 10.0
"""Time limit in seconds of one request."""
READ_DELAYS = (0.05, 0.25)
"""Seconds before the second and the third attempt of a read."""
MAX_READ_TIME: Micros = 2 * SECOND
"""A read that fails later than this after its start is not repeated."""

T = TypeVar("T")


class Refused(StoreError):
    """Firestore will never accept the request: something in it is malformed or too large."""


class Conflict(Exception):
    """A precondition of a commit failed, and nothing was written."""

    def __init__(self, words: str, *, taken: bool = False, aborted: bool = False) -> None:
        super().__init__(words)
        self.taken = taken
        """A document that should be new exists already."""
        self.aborted = aborted
        """No precondition is known to have failed: too many wrote at the same time."""


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
        """Make the channel, without sending anything yet. Raises StoreError if there are no credentials."""
        emulator = os.environ.get("FIRESTORE_EMULATOR_HOST")
        self._metadata = [("google-cloud-resource-prefix", self._database)]
        # Without these, a channel that lost its server reconnects only after up to two minutes.
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
                credentials, _ = await wait_apart(default_credentials, scopes=scopes)
            except GoogleAuthError as error:
                raise StoreError(
                    f"no credentials for Firestore ({error}): set GOOGLE_APPLICATION_CREDENTIALS to a key file, run "
                    "`gcloud auth application-default login`, use workload identity, or set FIRESTORE_EMULATOR_HOST"
                ) from error
            except (OSError, ValueError) as error:  # the key file is being replaced, for example
                raise StoreUnavailable(f"the credentials for Firestore can't be read now: {error}") from error
            channel = FirestoreGrpcAsyncIOTransport.create_channel(credentials=credentials, options=options)
        self._opened = FirestoreAsyncClient(transport=FirestoreGrpcAsyncIOTransport(channel=channel))

    async def close(self) -> None:
        if self._opened is not None:
            await self._opened.transport.close()  # type: ignore[no-untyped-call]  # Google's method is untyped
            self._opened = None

    def with_root(self, root: str) -> Wire:
        """Return a wire with the same connection and another root document. It closes with this one."""
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
        """Make all writes or none, and return the new stamps. Raises Conflict if a precondition failed."""
        request = _CommitRequest(database=self._database, writes=map(self._write, writes))
        sent = self._clock.reading()
        with _translate_errors("write"):
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
        """Make each write on its own, and return the new stamps; None for a write that failed or may have failed.

        Raises StoreUnavailable if every write may have failed.
        """
        parts = [
            [group[number] for number in numbers]
            for group in _distinct_groups(writes)
            for numbers in pack_commits([[writes[number]] for number in group])
        ]
        results = await gather_results(self._batch_write([writes[number] for number in numbers]) for numbers in parts)
        errors_of_parts = [result for result in results if isinstance(result, StoreError)]
        if errors_of_parts and len(errors_of_parts) == len(results):
            raise errors_of_parts[0]
        stamps: list[Stamp | None] = [None] * len(writes)
        for numbers, result in zip(parts, results, strict=True):
            if not isinstance(result, StoreError):
                for number, stamp in zip(numbers, result, strict=True):
                    stamps[number] = stamp
        return stamps

    async def _batch_write(self, writes: Sequence[Write]) -> list[Stamp | None]:
        request = _BatchWriteRequest(database=self._database, writes=map(self._write, writes))
        sent = self._clock.reading()
        with _translate_errors("write"):
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
        """Return the documents that exist, by path; with ``fields``, only these fields of them."""
        found: dict[str, StoredDocument] = {}
        for start in range(0, len(paths), MAX_WRITES):
            part = paths[start : start + MAX_WRITES]
            for document in await self._retry(partial(self._get, part, fields)):
                found[document.path] = document
        return found

    async def _get(self, paths: Sequence[str], fields: Sequence[str] | None) -> list[StoredDocument]:
        names = [f"{self._root}/{path}" if path else self._root for path in paths]
        request = _BatchGetRequest(database=self._database, documents=names)
        if fields is not None:
            # An empty mask means all fields.
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
        """Return the documents that the query finds. Raises StoreError if its index is missing."""
        return await self._retry(partial(self._query, query))

    async def _query(self, query: Query) -> list[StoredDocument]:
        request = _RunQueryRequest(parent=self._root)
        raw = request.structured_query
        raw.from_.add().collection_id = query.collection
        raw.limit.value = query.limit
        filters = raw.where.composite_filter
        operators = types.StructuredQuery.FieldFilter.Operator

        def require(name: str, operator: int, value: Any) -> None:
            condition = filters.filters.add().field_filter
            condition.field.field_path = name
            condition.op = operator
            _encode(condition.value, value)

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
            raw.ClearField("where")
        directions = types.StructuredQuery.Direction
        direction = directions.DESCENDING if query.descending else directions.ASCENDING
        for name in (query.order, "__name__"):
            order = raw.order_by.add()
            order.field.field_path = name
            order.direction = direction
        if query.after is not None:
            value, path = query.after
            _encode(raw.start_at.values.add(), value)
            raw.start_at.values.add().reference_value = f"{self._root}/{path}"
            raw.start_at.before = False
        answers = await self._api.run_query(
            request=types.RunQueryRequest.wrap(request),
            retry=None,
            timeout=self._deadline,
            metadata=self._metadata,
        )
        found = [types.RunQueryResponse.pb(answer) async for answer in answers]
        return [self._document(answer.document) for answer in found if answer.HasField("document")]

    def _document(self, raw: Any) -> StoredDocument:
        path = raw.name.removeprefix(self._root).removeprefix("/")
        return StoredDocument(
            path, {name: _decode(value) for name, value in raw.fields.items()}, _stamp(raw.update_time)
        )

    async def _retry(self, read: Callable[[], Awaitable[T]]) -> T:
        began = self._clock.reading()
        for delay in READ_DELAYS:
            try:
                with _translate_errors("read"):
                    return await read()
            except StoreUnavailable:
                if self._clock.reading() - began > MAX_READ_TIME:
                    raise
                await asyncio.sleep(delay)
        with _translate_errors("read"):
            return await read()


@contextmanager
def _translate_errors(act: str) -> Iterator[None]:
    """Raise the errors of Google's client as the store's errors."""
    try:
        yield
    except (errors.FailedPrecondition, errors.AlreadyExists, errors.NotFound, errors.Aborted) as error:
        words = error.message or ""
        if "index" in words and act == "read":
            raise StoreError(
                f"Firestore lacks an index of this store: deploy the firestore.indexes.json beside "
                f"scheduledjob/stores/firestore/store.py and wait until it is built ({words})"
            ) from error
        if isinstance(error, errors.NotFound) and (act == "read" or "database" in words.lower()):
            raise StoreError(
                f"Firestore did not find the database: create the database in native mode, or check the project in the "
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
    except (errors.GoogleAPIError, GoogleAuthError, grpc.RpcError, grpc.aio.BaseError, OSError) as error:
        words = getattr(error, "message", None) or str(error) or type(error).__name__
        raise StoreUnavailable(f"Firestore did not answer the {act}: {words}") from error


def _distinct_groups(writes: Sequence[Write]) -> list[list[int]]:
    """Distribute the numbers of the writes over groups none of which has two writes of the same document.

    Firestore refuses a batch that has, although a deleted row and a new one of the same slug share a document.
    """
    groups: list[list[int]] = []
    seen: dict[str, int] = {}
    for number, write in enumerate(writes):
        place = seen[write.path] = seen.get(write.path, -1) + 1
        if place == len(groups):
            groups.append([])
        groups[place].append(number)
    return groups


def _raw(message: Any) -> Any:
    """Return the protobuf class under one of Google's wrappers, because it is many times quicker to fill."""
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
        for name, item in value.items():
            _encode(into.map_value.fields[name], item)
    else:
        into.array_value.SetInParent()
        for item in value:
            _encode(into.array_value.values.add(), item)


def _decode(value: Any) -> Any:
    kind = value.WhichOneof("value_type")
    if kind in {None, "null_value"}:
        return None
    if kind == "array_value":
        return [_decode(item) for item in value.array_value.values]
    if kind == "map_value":
        return {name: _decode(item) for name, item in value.map_value.fields.items()}
    return getattr(value, kind)
