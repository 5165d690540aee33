"""The journal: the Redis streams beside the channels that make them durable."""

from milepost.journal.group import Act, Bury, Complete, Group, Letter, Park
from milepost.journal.journal import BEAT_FRESH, Journal, StageServed, keeping
from milepost.journal.records import DeadLetter, Entry, Forgotten, Note, StageStatus
from milepost.journal.scripts import Scripts
from milepost.journal.upkeep import Foreign, Unreadable, Upkeep, Wiring

__all__ = [
    "BEAT_FRESH",
    "Act",
    "Bury",
    "Complete",
    "DeadLetter",
    "Entry",
    "Foreign",
    "Forgotten",
    "Group",
    "Journal",
    "Letter",
    "Note",
    "Park",
    "Scripts",
    "StageServed",
    "StageStatus",
    "Unreadable",
    "Upkeep",
    "Wiring",
    "keeping",
]
