"""Every Redis key of Milepost, for Python and for the scripts. One hash tag: on a Redis Cluster all share a slot."""

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

BACKLOG = f"{TAG}backlog"
"""String: the backlog as doors know it, and the channels closed to them, for a tenth of a second."""

STATS = f"{TAG}stats"
"""Sorted set: the keys of the statistics there are, by when they expire, milliseconds of Redis TIME."""

SEEN = f"{TAG}seen:"
"""Prefix of the marks of events that came through a door, were adopted, or were announced for a Broker."""

LIMITS = f"{TAG}limits"
"""Prefix of the gateway's counts by client: submissions, and wrong tokens at /ops."""


def journal(channel: str) -> str:
    """Stream: the events of a channel."""
    return f"{TAG}journal:{channel}"


RETRIES = f"{TAG}retries:"
"""Prefix of the streams of retries."""


def retries(stage: str, channel: str) -> str:
    """Stream: events of a channel that a stage is to be given again, before any unread one. Only the stage reads it."""
    return f"{RETRIES}{stage}:{channel}"


def parked(stage: str) -> str:
    """Sorted set: a stage's parked events by due time, milliseconds of Redis TIME. Named `waiting` since 0.1."""
    return f"{TAG}waiting:{stage}"


def dead(stage: str) -> str:
    """Stream: a stage's dead letters."""
    return f"{TAG}dead:{stage}"


def seen(source: str, event_id: str) -> str:
    """String: this event was published before (see SEEN). A source, being a URI reference, holds no bar."""
    return f"{SEEN}{source}|{event_id}"


def status(event_id: str) -> str:
    """Hash: channel → when and with which data a submission reached it."""
    return f"{TAG}status:{event_id}"


def stats(stage: str, bridge: str) -> str:
    """String: JSON of how a stage did under one bridge in the last minute."""
    return f"{TAG}stats:{stage}:{bridge}"


def for_scripts() -> str:
    """Return the same names as Lua source: JOURNALS …, and journal_key(channel) …."""
    constants = {"TAG": TAG, "JOURNALS": JOURNALS, "STAGES": STAGES, "LEASE": LEASE, "DEAD": DEAD, "BACKLOG": BACKLOG}
    constants |= {"STATS": STATS, "RETRIES": RETRIES}
    families = {"journal": journal(""), "parked": parked(""), "dead": dead("")}
    families |= {"status": status(""), "seen": SEEN}
    lines = [f"local {name} = '{text}'" for name, text in constants.items()]
    lines += [f"local function {name}_key(name) return '{text}' .. name end" for name, text in families.items()]
    lines.append("local function retries_key(stage, channel) return RETRIES .. stage .. ':' .. channel end")
    return "\n".join(lines) + "\n"
