"""RSS 2.0, read from a stranger: a document that could grow when it is read is refused, and markup is taken off."""

from collections.abc import Iterator
from html.parser import HTMLParser
from typing import NoReturn
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from milepost import Reject

from functions.payloads import Item, Summary

LONGEST_TEXT = 280
MOST_ITEMS = 50


def summary(document: str) -> Summary:
    """The feed's title and its first items with a link. Raises Reject for a text that is no RSS or has no such item."""
    channel = _parsed(document).find("channel")
    if channel is None:
        raise Reject("no RSS 2.0: there is no channel")
    items = tuple(_items(channel))[:MOST_ITEMS]
    if not items:
        raise Reject("no item has a title and a link")
    return Summary(feed=_text(channel, "title") or "untitled", items=items)


def plain(markup: str) -> str:
    """The text of a piece of HTML, on one line."""
    parser = _Text()
    parser.feed(markup)
    parser.close()
    return " ".join(" ".join(parser.found).split())


def _parsed(document: str) -> Element:
    tree = TreeBuilder()
    parser = expat.ParserCreate()
    parser.EntityDeclHandler = _refuse  # the billion laughs: entities made of entities
    parser.StartElementHandler = tree.start
    parser.EndElementHandler = tree.end
    parser.CharacterDataHandler = tree.data
    try:
        parser.Parse(document, True)  # noqa: FBT003 - takes no name
    except expat.ExpatError as fault:
        raise Reject(f"no XML: {fault}") from None
    return tree.close()


def _refuse(*_: object) -> NoReturn:
    raise Reject("declares an entity, which no feed needs")


def _items(channel: Element) -> Iterator[Item]:
    for item in channel.iter("item"):
        title, link = _text(item, "title"), (item.findtext("link") or "").strip()
        if title and link.startswith(("http://", "https://")) and len(link.split()) == 1:
            yield Item(title=title, link=link, text=_short(_text(item, "description")))


def _text(element: Element, name: str) -> str:
    return plain(element.findtext(name) or "")


def _short(text: str) -> str:
    if len(text) <= LONGEST_TEXT:
        return text
    return text[: LONGEST_TEXT - 1].rpartition(" ")[0] + "…"


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_data(self, data: str) -> None:
        self.found.append(data)
