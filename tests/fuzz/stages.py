"""The functions, each as its image runs it, in binary and structured mode."""

from collections.abc import Sequence

from tests.fuzz import oracle
from tests.fuzz.link import Reply, ask_all
from tests.fuzz.target import Sent, Tally, Target, event_requests, good_event
from tests.fuzz.world import World


def function(name: str, channel: str) -> Target:
    """Make the target of one function."""

    def send(world: World, batch: Sequence[Sent]) -> Tally:
        links = world.links(world.functions[name])
        if name == "email":
            keep(world)
        tally = Tally()
        requests = [sent.written() for sent in [*batch, good_event(channel)]]
        *replies, last = world.run(ask_all(links, requests))
        for sent, reply in zip(batch, replies, strict=True):
            if reply.status != 200:
                oracle.refused(reply)
                tally.bad += 1
                continue
            tally.good += 1
            answered(name, sent, channel, reply)
        assert last.status == 200, (last.status, last.body)
        world.alive()
        return tally

    return Target(f"{name}, requests", lambda _: event_requests(channel), send)


def keep(world: World) -> None:
    """Store a distance for the good address, because `email` mails the newest one."""
    if not world.kept:
        (reply,) = world.run(
            ask_all(world.links(world.functions["store"])[:1], [good_event("calculated_distance").written()])
        )
        assert reply.status == 200
        world.kept = True


EMITS = {"distance": "calculated_distance", "store": "user:email", "email": "email:sent"}


def answered(name: str, sent: Sent, channel: str, reply: Reply) -> None:
    """Check that a function was right to accept this event, and that its reply is right."""
    event = sent.means()
    assert event is not None, (sent, reply)
    assert event["type"] == channel
    meant = oracle.payload(channel, event["data"])
    assert meant is not None, event
    headers = [(word.encode(), value.encode("latin-1")) for word, value in reply.headers.items()]
    said = oracle.binary(headers, reply.body) if "ce-id" in reply.headers else oracle.structured(reply.body)
    assert said is not None, reply
    assert said["id"] == event["id"]
    assert said["source"] == f"/milepost/{name}"
    assert said["type"] == EMITS[name]
    if name == "store":
        assert oracle.is_address(said["data"])
        return
    assert oracle.is_address(said["data"]["email"])
    if name == "distance":
        assert isinstance(meant, dict)
        expected = oracle.miles(meant["lat"], meant["long"])
        found = said["data"]["distance_from_velocity"]
        assert abs(found - expected) <= 0.007 * max(expected, 1.0), (event, found, expected)


TARGETS = [
    function("distance", "raw_input"),
    function("store", "calculated_distance"),
    function("email", "user:email"),
]
