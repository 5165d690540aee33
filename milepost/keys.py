"""Every Redis key Milepost uses. One hash tag, so that on a Redis Cluster all of them share a shard."""

TAG = "{milepost}"

JOURNALS = f"{TAG}:journals"
"""Set: the channels that have a journal."""

STAGES = f"{TAG}:stages"
"""Hash: stage → JSON of consumes, emits, url, beat; the bridges' route table. The channel of the same name hears which
channels are consumed.
"""

ANNOUNCED = f"{TAG}:announced"
"""Set: the channels that a stage emits and none consumes, by the stages table. They are told and not journaled."""

LEASE = f"{TAG}:lease"
"""String: the leading bridge's token. The channel of the same name announces it."""


DEAD = f"{TAG}:dead"
"""Set: the stages that have had dead letters, `bridge` among them."""

BACKLOG = f"{TAG}:backlog"
"""String: the backlog as doors know it, for a tenth of a second."""

STATS = f"{TAG}:stats"
"""Sorted set: the names of the stats there are, by when they expire, milliseconds of Redis TIME."""

LIMITS = f"{TAG}:limits"
"""Prefix of the gateway's counts of submissions by client."""


def journal(channel: str) -> str:
    """Stream: the events of a channel."""
    return f"{TAG}:journal:{channel}"


def waiting(stage: str) -> str:
    """Sorted set: a stage's parked events by due time, milliseconds of Redis TIME."""
    return f"{TAG}:waiting:{stage}"


def dead(stage: str) -> str:
    """Stream: a stage's dead letters."""
    return f"{TAG}:dead:{stage}"


def seen(source: str, event_id: str) -> str:
    """String: `carried` or `announced`. A source, being a URI reference, holds no bar."""
    return f"{TAG}:seen:{source}|{event_id}"


def progress(event_id: str) -> str:
    """Hash: channel → when and with which data a submission reached it."""
    return f"{TAG}:progress:{event_id}"


def stats(stage: str, bridge: str) -> str:
    """String: JSON of how a stage did under one bridge in the last minute."""
    return f"{TAG}:stats:{stage}:{bridge}"
