"""The stage digest."""

from milepost import stage

from functions.payloads import Digest, Summary

ESCAPED = str.maketrans({character: f"\\{character}" for character in "\\`*_[]<>#"})


def digest(summary: Summary) -> Digest:
    """A summary as one page of Markdown."""
    lines = [
        f"- [{item.title.translate(ESCAPED)}](<{item.link.replace('>', '%3E')}>)  \n  {item.text.translate(ESCAPED)}"
        for item in summary.items
    ]
    return Digest(title=summary.feed, markdown="\n".join([f"# {summary.feed.translate(ESCAPED)}", "", *lines, ""]))


main = stage(digest, inline=True)
