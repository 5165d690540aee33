"""The gateway as its OpenAPI description has it: schemathesis makes requests, right and wrong, and checks answers."""

from collections.abc import Sequence

import schemathesis
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from requests import Session
from schemathesis import Case, GenerationMode
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tests.fuzz import gateway_target
from tests.fuzz.link import ask_all
from tests.fuzz.target import Tally, Target
from tests.fuzz.world import World
from tests.servers import WITHIN


def cases(world: World) -> SearchStrategy[Case]:
    """Requests of every operation; of one with a body, three in four break its description."""
    schema = schemathesis.openapi.from_url(f"{world.gateway.url}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    return st.one_of(
        operation.as_strategy(generation_mode=mode)
        for operation in operations
        for mode in (GenerationMode.POSITIVE, *[GenerationMode.NEGATIVE] * (3 if operation.body else 0))
    )


def send(world: World, batch: Sequence[Case]) -> Tally:
    tally = Tally()
    with Session() as session:
        for case in batch:
            response = case.call(session=session, timeout=WITHIN)
            try:
                # Not checked: that every body of the schema is accepted. No schema can describe an address.
                case.validate_response(response, excluded_checks=[positive_data_acceptance])
            except (Failure, FailureGroup) as fault:
                raise AssertionError(f"{case.as_curl_command()}: {fault!r:.2000}") from None
            if response.status_code >= 400:
                tally.bad += 1
            else:
                tally.good += 1
    (last,) = world.run(ask_all(world.links(world.gateway)[:1], [gateway_target.GOOD]))
    assert last.status == 202, last
    gateway_target.journaled(world)
    world.alive()
    return tally


TARGETS = [Target("gateway, OpenAPI", cases, send, batch=10, share=0.1)]
