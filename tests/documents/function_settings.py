"""The environment variables that the functions read, found in their source."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.servers import ROOT

FUNCTION_SETTINGS = {
    "MONGO_URL": "MongoDB; the database is the one in the URL, else `milepost`",
    "SENT_EMAILS": "the file that gets the line of each e-mail; stdout if none",
    "SMTP_URL": "`smtp://`, `smtps://` or `smtp+starttls://[user:password@]host[:port]`: sends for real as well",
    "MAIL_FROM": "the sender, as in `Milepost <milepost@example.org>`; a name with a comma needs quotes",
    "SMTP_HELO": "the name in EHLO, as in `mail.example.org`; else, if it has a dot, the domain of MAIL_FROM or this "
    "host's name, else `[127.0.0.1]`",
    "SMTP_TIMEOUT": "seconds until the SMTP server asks for the message, half of REQUEST_TIMEOUT at most; its reply "
    "may take the rest of the request",
    "SMTP_CONNECTIONS": "connections of one process to the SMTP server at once; a mail waits for one a tenth of "
    "REQUEST_TIMEOUT at most, then 409",
    "REQUEST_TIMEOUT": "seconds that the caller waits for an answer: the bridge's `timeout`; chart and `milepost up` "
    "set it, 3600 at most. A request waits half of it for the function's start, 30 s at most, and half of it "
    "for a thread; a generator's iteration waits 9/10 of it for one",
}
"""What each is. One that is missing here fails the reference."""


@dataclass
class Variable:
    """One environment variable, the stages that read it, and its default."""

    name: str
    default: str | None
    stages: set[str] = field(default_factory=set)


def found() -> list[Variable]:
    """All of them, in the order of the source."""
    variables: dict[str, Variable] = {}
    for path in sorted((ROOT / "functions").rglob("*.py")):
        for name, default in _read(path):
            variable = variables.setdefault(name, Variable(name, default))
            variable.default = variable.default or default
            variable.stages |= _stages(path)
    for name, default in _read(ROOT / "milepost/function/environment.py"):
        variables[name] = Variable(name, default, {main.parent.name for main in (ROOT / "functions").glob("*/main.py")})
    return [variables[name] for name in sorted(variables, key=[*FUNCTION_SETTINGS].index)]


def _stages(path: Path) -> set[str]:
    """The stage whose folder this is, or those that import a module which they share."""
    functions = ROOT / "functions"
    if path.parent != functions:
        return {path.parent.name}
    return {main.parent.name for main in functions.glob("*/main.py") if f"functions.{path.stem} " in main.read_text()}


def _read(path: Path) -> Iterator[tuple[str, str | None]]:
    """Name and default of each `environ.get(NAME, default)` and `seconds` or `count(environ, NAME, default)`."""
    module = ast.parse(path.read_text())
    values = {
        f"cls.{part.target.id}": part.value
        for node in ast.walk(module)
        if isinstance(node, ast.ClassDef)
        for part in node.body
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name) and part.value
    }

    def told(rest: list[ast.expr]) -> str | None:
        if not rest:
            return None
        value = values.get(ast.unparse(rest[0]), rest[0])
        return str(ast.literal_eval(value)) if isinstance(value, ast.Constant) else None

    for node in ast.walk(module):
        match node:
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="environ") | ast.Attribute(attr="environ"), attr="get"),
                args=[ast.Constant(value=str(name)), *rest],
            ):
                yield name, told(rest)
            case ast.Call(
                func=ast.Name(id="seconds" | "count"),
                args=[ast.Name() | ast.Attribute(), ast.Constant(value=str(name)), *rest],
            ):
                yield name, told(rest)
