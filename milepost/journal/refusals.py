"""The meaning of Redis's refusals: by its code a refusal is about the server, the memory, or one key."""

from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import ResponseError

_CLUSTER = "is a node of a Redis Cluster that does not serve Milepost's keys"

LOOK_AGAIN = {
    "ASK": _CLUSTER,
    "CLUSTERDOWN": _CLUSTER,
    "LOADING": "is loading its data",
    "MASTERDOWN": "is a replica that has lost its primary",
    "MOVED": _CLUSTER,
    "NOAUTH": "asks for a password",
    "NOREPLICAS": "has fewer replicas than it needs to take a write",
    "READONLY": "is a read-only replica",
    "TRYAGAIN": _CLUSTER,
}
"""Code of a refusal for the state of this server → that state in words. Another server may take the command, or this
one later.
"""

FULL = "OOM"

OF_SERVER = frozenset({*LOOK_AGAIN, FULL, "MISCONF"})
"""The codes of refusals that any other command would meet too. The scripts have the same list (see `for_scripts`)."""

NOT_HERE = ("a non local key in a cluster node", "while the cluster is down")
"""Parts of the error that a command in a script gets from a node that hands our slot over, or has lost its Cluster. It
has no code; Redis and Valkey word the rest of it differently. Plain words: the scripts use them as patterns.
"""

OF_KEYS = frozenset({"WRONGTYPE", "NOPERM"})
"""The codes of refusals for the keys of a command: a key of another type, or one that the user may not write. They last
until an operator acts.
"""


class WrongServer(ConnectionLost):
    """The server refused because of its own state, not because of the command. `str()` says it in plain words."""

    def __init__(self, code: str) -> None:
        super().__init__(f"Redis {LOOK_AGAIN[code]}")


def wrong_server(reply: object) -> WrongServer | None:
    """Return the refusal with a code of LOOK_AGAIN in this reply, or None.

    It may be the reply itself, an error among the items of an array, or the text `error CODE …` among them, which is
    how common.lua answers for one item of a batch. An error that a script raises anew has `ERR` before its code.
    """
    items = reply if isinstance(reply, list) else [reply]
    if items.count(b"done") == len(items):  # most batches
        return None
    for item in items:
        if type(item) is bytes:
            if not item.startswith(b"error "):
                continue
            code = _first_word(item[6:120].decode(errors="replace"))
        elif isinstance(item, ResponseError):
            code = code_of(item)
        else:
            continue
        if code in LOOK_AGAIN:
            return WrongServer(code)
    return None


def code_of(fault: Exception) -> str:
    """Return the code of a refusal of Redis, such as WRONGTYPE; an empty text if the fault has none."""
    known = getattr(fault, "status_code", None)  # redis-py takes the code off the text of the errors it knows
    if known not in {None, "ERR"}:
        return str(known)
    word = _first_word(str(fault))
    return word if word.isupper() else ""


def _first_word(refusal: str) -> str:
    if any(text in refusal for text in NOT_HERE):
        return "TRYAGAIN"
    return refusal.removeprefix("ERR ").partition(" ")[0]


def for_scripts() -> str:
    """Return OF_SERVER and NOT_HERE as Lua source."""
    codes = ", ".join(f"{code} = true" for code in sorted(OF_SERVER))
    texts = ", ".join(f"'{text}'" for text in NOT_HERE)
    return f"local OF_SERVER = {{ {codes} }}\nlocal NOT_HERE = {{ {texts} }}\n"
