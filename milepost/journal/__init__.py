"""The journal: the Redis streams beside the channels that make them durable."""

from milepost.journal.depth import Depth, depths
from milepost.journal.group import Act, Bury, Complete, Group, Hold, Letter, Park
from milepost.journal.journal import Journal, StageNotServed, StageServed, keeping
from milepost.journal.records import BEAT_FRESH, DeadLetter, Entry, Forgotten, Note, StageStatus
from milepost.journal.scripts import Scripts
from milepost.journal.upkeep import Foreign, Unreadable, Upkeep, Wiring

__all__ = [
    "BEAT_FRESH",
    "Act",
    "Bury",
    "Complete",
    "DeadLetter",
    "Depth",
    "Entry",
    "Foreign",
    "Forgotten",
    "Group",
    "Hold",
    "Journal",
    "Letter",
    "Note",
    "Park",
    "Scripts",
    "StageNotServed",
    "StageServed",
    "StageStatus",
    "Unreadable",
    "Upkeep",
    "Wiring",
    "depths",
    "keeping",
]
