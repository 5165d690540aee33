"""A stand-in for MongoDB that costs next to nothing: speaks its wire protocol, keeps documents in a dictionary, and
knows no more of the language than the pipeline's stages use, ours and the old kind's alike. It writes nothing to disk.

python -m benchmarks.mongo PORT

Protocol: MongoDB manual, "Wire Protocol", OP_MSG; commands: hello, insert, update, find.
"""

import asyncio
import struct
import sys
from collections.abc import Callable, Mapping
from typing import Any, cast

import bson
import uvloop

OP_MSG, OP_QUERY, OP_REPLY = 2013, 2004, 1
Document = dict[str, Any]

HELLO: Document = {
    "helloOk": True,
    "isWritablePrimary": True,
    "ismaster": True,
    "maxBsonObjectSize": 16_777_216,
    "maxMessageSizeBytes": 48_000_000,
    "maxWriteBatchSize": 100_000,
    "logicalSessionTimeoutMinutes": 30,
    "minWireVersion": 0,
    "maxWireVersion": 21,
    "readOnly": False,
    "ok": 1.0,
}


class Store:
    """Collections by name, each of documents by _id; users are also found by address, the latest."""

    def __init__(self) -> None:
        self._collections: dict[str, dict[Any, Document]] = {}
        self._latest: dict[str, Document] = {}

    def find(self, collection: str, query: Mapping[str, Any]) -> Document | None:
        if "_id" not in query:
            return self._latest.get(query["email"])
        found = self._collections.get(collection, {}).get(query["_id"])
        return found if found is not None and _matches(found, query) else None

    def find_all(self, collection: str, query: Mapping[str, Any]) -> list[Document]:
        """What `find` finds, and each document there is of those that {"_id": {"$in": [...]}} names."""
        ids = query.get("_id")
        if isinstance(ids, Mapping):
            documents = self._collections.get(collection, {})
            return [documents[one] for one in ids["$in"] if one in documents]
        found = self.find(collection, query)
        return [] if found is None else [found]

    def insert(self, collection: str, document: Document) -> bool:
        """False if the _id is taken."""
        documents = self._collections.setdefault(collection, {})
        if document["_id"] in documents:
            return False
        documents[document["_id"]] = document
        self._latest[document["email"]] = document
        return True

    def modify(
        self, collection: str, query: Mapping[str, Any], update: Mapping[str, Any], *, upsert: bool
    ) -> tuple[Document | None, bool]:
        """The document as it is now, if there is one, and whether it was there before."""
        document = self.find(collection, query)
        there = document is not None
        if document is None:
            if not upsert:
                return None, False
            plain = {name: value for name, value in query.items() if not isinstance(value, Mapping)}
            document = {**plain, **update.get("$setOnInsert", {})}
        document.update(update.get("$set", {}))
        for name, by in update.get("$inc", {}).items():
            document[name] = document.get(name, 0) + by
        if not there and not self.insert(collection, document):
            raise KeyError(query["_id"])
        return document, there


def _matches(document: Document, query: Mapping[str, Any]) -> bool:
    for name, wanted in query.items():
        if isinstance(wanted, Mapping):
            if not document[name] <= wanted["$lte"]:
                return False
        elif document.get(name) != wanted:
            return False
    return True


def _insert(store: Store, command: Document) -> Document:
    inserted, errors = 0, []
    for index, document in enumerate(command["documents"]):
        if store.insert(command["insert"], document):
            inserted += 1
            continue
        errors.append({"index": index, "code": 11000, "errmsg": "E11000 duplicate key error"})
        if command.get("ordered", True):
            break
    return {"n": inserted, "ok": 1.0, **({"writeErrors": errors} if errors else {})}


def _find(store: Store, command: Document) -> Document:
    batch = store.find_all(command["find"], command["filter"])
    return {"cursor": {"id": bson.Int64(0), "ns": f"milepost.{command['find']}", "firstBatch": batch}, "ok": 1.0}


def _update(store: Store, command: Document) -> Document:
    collection, updated = command["update"], 0
    for one in command["updates"]:
        if one.get("multi"):
            documents = store.find_all(collection, one["q"])
            for document in documents:
                document.update(one["u"]["$set"])
            updated += len(documents)
        else:
            updated += store.modify(collection, one["q"], one["u"], upsert=one.get("upsert", False))[1]
    return {"n": updated, "nModified": updated, "ok": 1.0}


COMMANDS: dict[str, Callable[[Store, Document], Document]] = {
    "insert": _insert,
    "find": _find,
    "update": _update,
    "hello": lambda *_: HELLO,
    "ismaster": lambda *_: HELLO,
    "isMaster": lambda *_: HELLO,
}


class Mongo(asyncio.Protocol):
    """One connection. It answers an unknown command with ok: 1."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= 16:
            length, request, _, kind = struct.unpack_from("<iiii", self._buffer)
            if len(self._buffer) < length:
                return
            message, self._buffer = self._buffer[:length], self._buffer[length:]
            if kind == OP_MSG:
                body = bson.encode(self._answer(_command(message)))
                head = struct.pack("<iiiiib", 21 + len(body), 0, request, OP_MSG, 0, 0)
            else:
                body = bson.encode(HELLO)
                head = struct.pack("<iiiiiqii", 36 + len(body), 0, request, OP_REPLY, 8, 0, 0, 1)
            self._transport.write(head + body)

    def _answer(self, command: Document) -> Document:
        run = COMMANDS.get(next(iter(command)))
        return run(self._store, command) if run else {"ok": 1.0}


def _command(message: bytes) -> Document:
    """The command of an OP_MSG; a document sequence (section kind 1) becomes one of its fields."""
    at, command, sequences = 20, {}, {}
    while at < len(message):
        section, at = message[at], at + 1
        (size,) = struct.unpack_from("<i", message, at)
        if section == 0:
            command = bson.decode(message[at : at + size])
        else:
            name, _, documents = message[at + 4 : at + size].partition(b"\0")
            sequences[name.decode()] = bson.decode_all(documents)
        at += size
    return {**command, **sequences}


async def serve(port: int) -> None:
    store = Store()
    server = await asyncio.get_running_loop().create_server(lambda: Mongo(store), "127.0.0.1", port)
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
