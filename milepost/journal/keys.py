"""All Redis keys, for Python and for the scripts. They share a hash tag, so a Redis Cluster keeps them in one slot."""

TAG = "{milepost}:"

JOURNALS = f"{TAG}journals"
"""Set: the channels that have a journal."""

STAGES = f"{TAG}stages"
"""Hash: stage → JSON of consumes, emits, url, beat; the routes of all bridges. The channel of the same name announces
which channels are consumed.
"""

LEASE = f"{TAG}lease"
"""String: the token of the leading bridge. The channel of the same name announces it."""

DEAD = f"{TAG}dead"
"""Set: the stages that have had dead letters, `bridge` among them."""

PAUSED = f"{TAG}paused"
"""Set: the stages that are paused."""

BACKLOG = f"{TAG}backlog"
"""String: the latest count of the backlog for the doors, and the channels that they refuse, for a tenth of a second."""

STATS = f"{TAG}stats"
"""Sorted set: the keys of all statistics by the time that they expire, milliseconds of Redis TIME."""

SEEN = f"{TAG}seen:"
"""Prefix of the dedup marks: of events that came through a door, were adopted, or were announced for a Broker."""

REPLICATED = f"{TAG}replicated"
"""String: written by a door before it waits for replicas, so that there is a write to wait for. For a minute."""

WAKE = f"{TAG}wake"
"""String: the channel whose stages a gateway asks bridges to wake, because a visitor has opened the form."""

LIMITS = f"{TAG}limits"
"""Prefix of the gateway's counts for each client: submissions, and wrong tokens at /ops."""


def journal(channel: str) -> str:
    """Stream: the events of a channel."""
    return f"{TAG}journal:{channel}"


RETRIES = f"{TAG}retries:"
"""Prefix of the streams of retries."""


def retries(stage: str, channel: str) -> str:
    """Stream: events of a channel that are to be delivered to this stage again, before unread ones."""
    return f"{RETRIES}{stage}:{channel}"


def in_hand(stage: str, channel: str) -> str:
    """Hash of an ordered stage: which event of each key is in hand. A key has one there at most.

    - sha1 of the key → the place of that event: `j` and its entry, if it is pending in the journal; `r` and its entry,
      if it is in the retries; `parked DUE`, if it is parked.
    - the place → the event's ORDER (see `held`). A `parked DUE` has no such field: the parked event has its ORDER
      itself.
    """
    return f"{TAG}inhand:{stage}:{channel}"


HELD = f"{TAG}held:"
"""Prefix of the sorted sets of held events."""


def held(stage: str, channel: str) -> str:
    """Sorted set of an ordered stage, all scores 0: the events whose key has another event in hand.

    A member is a head, a line end and the event. The head is `ORDER SINCE ATTEMPTS CRASHES`, or `ORDER - - -` of an
    event that was not given to the stage yet. ORDER is `SHA1/POSITION`: the key, and the event's place in the journal,
    written so that text order is the order of the journal (`order_of` in lua/common.lua).
    """
    return f"{HELD}{stage}:{channel}"


def parked(stage: str) -> str:
    """Sorted set: a stage's parked events by due time, milliseconds of Redis TIME. Its name is that of version 0.1."""
    return f"{TAG}waiting:{stage}"


def dead(stage: str) -> str:
    """Stream: a stage's dead letters."""
    return f"{TAG}dead:{stage}"


def seen(source: str, event_id: str) -> str:
    """String: the dedup mark of an event. A source has no `|`, because it is a URI reference."""
    return f"{SEEN}{source}|{event_id}"


def status(event_id: str) -> str:
    """Hash: channel → JSON of the time and the data with which a submission reached it; and see HISTORY."""
    return f"{TAG}status:{event_id}"


HISTORY = "\t"
"""Prefix of a stage, among the fields of a status: JSON of its history with the event. No channel begins so."""

PARTS = "parts:"
"""Prefix of a stage, among the fields of a status: JSON with how many answers it gave, which are parts of the event."""


def starting(stage: str) -> str:
    """String: exists while a stage is starting."""
    return f"{TAG}starting:{stage}"


def stats(stage: str, bridge: str) -> str:
    """String: JSON of a stage's statistics of the last minute, by one bridge."""
    return f"{TAG}stats:{stage}:{bridge}"


def for_scripts() -> str:
    """Return the keys as Lua source: constants such as JOURNALS, and functions such as journal_key(channel)."""
    constants = {"TAG": TAG, "JOURNALS": JOURNALS, "STAGES": STAGES, "LEASE": LEASE, "DEAD": DEAD, "BACKLOG": BACKLOG}
    constants |= {"STATS": STATS, "RETRIES": RETRIES, "PAUSED": PAUSED, "HISTORY": HISTORY, "PARTS": PARTS}
    constants |= {"HELD": HELD}
    families = {"journal": journal(""), "parked": parked(""), "dead": dead("")}
    families |= {"status": status(""), "seen": SEEN}
    lines = [f"local {name} = '{text}'" for name, text in constants.items()]
    lines += [f"local function {name}_key(name) return '{text}' .. name end" for name, text in families.items()]
    prefixes = {"retries": RETRIES, "in_hand": in_hand("", "")[:-1], "held": HELD}
    for name, prefix in prefixes.items():
        lines.append(f"local function {name}_key(stage, channel) return '{prefix}' .. stage .. ':' .. channel end")
    return "\n".join(lines) + "\n"
