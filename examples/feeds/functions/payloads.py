"""The vocabulary of this pipeline: one payload class per channel."""

from typing import Annotated

from milepost import Payload, RootPayload
from pydantic import BaseModel, ConfigDict, Field


class Feed(RootPayload[Annotated[str, Field(min_length=1, max_length=500_000, examples=["<rss/>"])]], channel="feed"):
    """An RSS 2.0 document, as its server sent it."""


class Item(BaseModel):
    """One item of a feed, its text plain and short."""

    model_config = ConfigDict(frozen=True)

    title: str = Field(examples=["A heading"])
    link: str = Field(pattern=r"^https?://\S+$", examples=["https://news.example.org/1"])
    text: str = Field(max_length=280, examples=["What it says."])


class Summary(Payload, channel="summary"):
    """A feed in short."""

    feed: str = Field(examples=["News"])
    items: tuple[Item, ...] = Field(min_length=1, max_length=50)


class Digest(Payload, channel="digest"):
    """A summary to be read: Markdown."""

    title: str
    markdown: str


class Keywords(Payload, channel="keywords"):
    """The topics of a feed: its most frequent words, the most frequent first."""

    feed: str
    words: tuple[str, ...]
