"""docs/reference.md, made from the code: settings, commands, metrics, HTTP doors."""

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import typer.main
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from functions.email.smtp_faults import RULES
from gateway.app import create_app
from gateway.settings import GatewaySettings
from milepost.bridge.settings import BridgeSettings, Stage
from milepost.cli.app import app
from milepost.cli.exits import EXIT_CODES
from milepost.graph import WiredStage
from milepost.settings import JournalSettings
from tests.documents.function_settings import FUNCTION_SETTINGS, found
from tests.metrics import COMPONENTS
from tests.servers import ROOT

PATH = ROOT / "docs" / "reference.md"

WORDS = {
    "redis_url": "`redis://`, or `rediss://` for TLS with `ssl_ca_certs`, `ssl_ca_path`, `ssl_certfile`, `ssl_keyfile`,"
    " `ssl_password`, `ssl_cert_reqs` and `ssl_check_hostname`; `unix://`; `redis+sentinel://` and `redis+cluster://`,"
    " or with `rediss+`, [for failover](operations.md#redis-fails-over); database 0, since pub/sub ignores databases",
    "host": "the address to listen on",
    "port": "the port to listen on; 0: any free one",
    "routes": "the stages: a JSON list of objects, [see below](#an-object-of-routes)",
    "delivery": "POST to each function, or to a Knative Broker",
    "k_sink": "the Broker's URL, in broker mode; a SinkBinding sets it",
    "broker_timeout": "how long the Broker may take: longer than all its Triggers' retries together",
    "lease": "how long leadership lasts unrenewed; renewed every three tenths of it",
    "name": "the stage's name",
    "consumes": "the channel it consumes",
    "split": "whether it may give several answers to an event; in direct mode alone",
    "emits": "the channel it emits, or a list of channels of which it emits one",
    "url": "where it is reached; in broker mode only to wake it",
    "backoff_policy": "how the wait grows from one attempt to the next, to 60 s at most",
    "backoff_delay": "the first wait",
    "timeout": "how long a response may take, a cold start included",
}
"""What a setting is whose field says no more than its name."""

HEAD = """# Reference

Made from the code by `make documents`; a test fails when it is out of date. Durations are ISO 8601 (`PT30S`) or
seconds. A setting is an environment variable, read once, at the start; one that is wrong ends the process with the
variable's name and its fault, never with its value.
"""


WIRING = ("name", "consumes", "emits", "url", "external", "headers_from")


def reference() -> str:
    """The whole page."""
    parts = [HEAD, *_settings(), *_commands(), *_metrics(), *_doors()]
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def _settings() -> Iterator[str]:
    yield "## Settings\n"
    yield "### Of gateway, bridge and commands, which talk to Redis\n"
    yield _fields(JournalSettings, str.upper)
    yield "### Of the gateway\n"
    yield _fields(GatewaySettings, str.upper, but=JournalSettings)
    yield "### Of the bridge\n"
    yield _fields(BridgeSettings, str.upper, but=JournalSettings)
    yield "### An object of ROUTES\n"
    yield "`milepost up` and the chart make it of `stages:` in the values, from `retry` on of its `delivery:`.\n"
    yield _fields(Stage, _camel, first=(*WIRING, "wake", "wake_after", "wake_delay"))
    yield "### Of the functions\n"
    rows = [
        [f"`{one.name}`", ", ".join(sorted(one.stages)), _code(one.default), FUNCTION_SETTINGS[one.name]]
        for one in found()
    ]
    yield _table(["variable", "of", "default", "what"], rows)
    yield (
        "`LOG_LEVEL` (`INFO`), `LOG_FORMAT` (`text` or `json`) and OpenTelemetry's variables are of every process;\n"
        "see [traces](metrics.md#traces) and [logs](metrics.md#logs).\n"
    )
    yield "### What an SMTP server replies\n"
    yield (
        "Whose fault it is, by the first row that fits. The route's: 503, all events wait. The mail's: 409 for a\n"
        "reply 4xx, that mail is tried again later; 422 for 5xx, a dead letter. Codes with dots are enhanced ones\n"
        "(RFC 3463), x is any number. An enhanced code x.0.x or x.5.0 says nothing, and counts as none.\n"
    )
    rows = [
        [rule.steps, f"{rule.replies} with such words" if rule.words else rule.replies, rule.fault, rule.examples]
        for rule in RULES
    ]
    yield _table(["at", "reply", "whose fault", "examples"], rows)


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def _fields(
    model: type[BaseModel],
    shown: Callable[[str], str],
    *,
    but: type[BaseModel] | None = None,
    first: Sequence[str] = (),
) -> str:
    words = _docstrings(model) | WORDS
    fields = {name: field for name, field in model.model_fields.items() if but is None or name not in but.model_fields}
    order = [*first, *(name for name in fields if name not in first)]
    rows = [[f"`{shown(name)}`", _kind(fields[name]), _default(fields[name]), words[name]] for name in order]
    return _table(["setting", "type", "default", "what"], rows)


def _docstrings(model: type[BaseModel]) -> dict[str, str]:
    """Field → the string below it, in the class and those it comes of."""
    made: dict[str, str] = {}
    for part in reversed(model.__mro__):
        if not issubclass(part, BaseModel) or part.__module__.startswith("pydantic"):
            continue
        (node,) = ast.parse(textwrap.dedent(inspect.getsource(part))).body
        assert isinstance(node, ast.ClassDef)
        for field, below in zip(node.body, node.body[1:], strict=False):
            match field, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    made[name] = _sentence(text)
    return made


def _sentence(text: str) -> str:
    plain = " ".join(text.split()).removesuffix(".")
    return plain[0].lower() + plain[1:] if not plain[:2].isupper() else plain


def _kind(field: FieldInfo) -> str:
    kinds = [kind for kind in get_args(field.annotation) or [field.annotation] if kind is not NoneType]
    if get_origin(field.annotation) is Literal:
        return " or ".join(f"`{kind}`" for kind in kinds)
    if get_origin(field.annotation) is dict:
        return "JSON"
    kind: Any = kinds[0]
    names = {timedelta: "duration", int: "integer", str: "text", bool: "boolean"}
    names |= {SecretStr: "URL", Stage: "JSON", WiredStage: "JSON"}
    return names.get(kind, "text")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.default
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if isinstance(value, timedelta):
        value = _duration(value)
    return _code(str(value).lower() if isinstance(value, bool) else value)


def _duration(value: timedelta) -> str:
    seconds = value.total_seconds()
    return f"PT{seconds / 3600:g}H" if seconds and seconds % 3600 == 0 else f"PT{seconds:g}S"


def _code(value: object) -> str:
    return "none" if value in (None, "", (), {}) else f"`{value}`"


def _commands() -> Iterator[str]:
    yield "## Commands\n"
    yield " ".join(EXIT_CODES.split()) + "\n"
    yield from _command(typer.main.get_command(app), "milepost")


def _command(command: Any, name: str) -> Iterator[str]:
    """One of Typer's commands, then those below it. Typer has a click of its own, whose types are not public."""
    parts: Mapping[str, Any] = getattr(command, "commands", {})
    if not parts or (command.callback is not None and name != "milepost"):
        yield f"### {name}\n"
        arguments = [_name(parameter) for parameter in command.params if _is_argument(parameter)]
        yield f"    {' '.join([name, *arguments, '[OPTIONS]'])}\n"
        yield inspect.cleandoc(command.help or "") + "\n"
        if command.params:
            yield _table(["", "default", "what"], [_option(parameter) for parameter in command.params])
    for part in parts.values():
        yield from _command(part, f"{name} {part.name}")


def _is_argument(parameter: Any) -> bool:
    return bool(parameter.param_type_name == "argument")


def _name(parameter: Any) -> str:
    metavar = parameter.metavar or parameter.name.upper().split("_")[-1]
    if not _is_argument(parameter):
        return ", ".join(parameter.opts) + ("" if parameter.is_flag else f" {metavar}")
    shown = metavar if parameter.required else f"[{metavar}]"
    return f"{shown}..." if parameter.nargs != 1 else shown


def _option(parameter: Any) -> list[str]:
    shown, default = parameter.show_default, parameter.default
    if parameter.required:
        value = "required"
    elif isinstance(shown, str):
        value = shown
    else:
        value = "" if default is None or default is False or default == () else f"`{default}`"
    words = str(parameter.help or "").removesuffix(".")
    if parameter.envvar:
        words += f"; or by `{parameter.envvar}`"
    return [f"`{_name(parameter)}`", value, words]


def _metrics() -> Iterator[str]:
    yield "## Metrics\n"
    yield "At `/metrics` of each component, in Prometheus' text format; [Metrics](metrics.md) says how to read them.\n"
    for component, families in COMPONENTS.items():
        yield f"### Of {component}\n"
        rows = [
            [f"`{family.name}`", family.kind, ", ".join(f"`{label}`" for label in family.names), family.text]
            for family in families
        ]
        yield _table(["metric", "type", "labels", "what"], rows)


def _doors() -> Iterator[str]:
    yield "## HTTP\n"
    yield "Of the gateway; `/docs` shows it whole, `/openapi.json` is its OpenAPI, and `/` the page.\n"
    paths: Mapping[str, Mapping[str, Any]] = create_app(GatewaySettings()).openapi()["paths"]
    rows = [
        [f"`{method.upper()} {path}`", str(told.get("summary", "")), ", ".join(sorted(told["responses"]))]
        for path, methods in paths.items()
        for method, told in methods.items()
    ]
    yield _table(["endpoint", "what", "answers"], rows)
    yield (
        "[The architecture](architecture.md#the-http-endpoints-of-the-bridge) has those of the bridge. Of a function "
        "`POST /` takes an event, and `GET /` describes the stage.\n"
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)
