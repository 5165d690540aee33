"""The journal: Redis streams beside the channels, which keep events until every stage has settled them."""

from milepost.journal.admin import BROKER, Admin, StageNotServed, StageServed
from milepost.journal.consumer import (
    Bury,
    Complete,
    Consumer,
    Delay,
    Failure,
    GroupMissing,
    Park,
    Settlement,
    SettlementRefused,
    Split,
    TakenOver,
)
from milepost.journal.journal import Journal
from milepost.journal.keys import PARTS
from milepost.journal.maintenance import Adoption, Maintenance, Unreadable
from milepost.journal.models import (
    BEAT_FRESH,
    ENDED_AT,
    GAVE_UP,
    DeadLetter,
    Depth,
    Entry,
    Forgotten,
    History,
    HistoryStep,
    Note,
    StageState,
    Wiring,
)
from milepost.journal.scripts import Scripts
from milepost.journal.wake_ups import WakeUps

__all__ = [
    "BEAT_FRESH",
    "BROKER",
    "ENDED_AT",
    "GAVE_UP",
    "PARTS",
    "Admin",
    "Adoption",
    "Bury",
    "Complete",
    "Consumer",
    "DeadLetter",
    "Delay",
    "Depth",
    "Entry",
    "Failure",
    "Forgotten",
    "GroupMissing",
    "History",
    "HistoryStep",
    "Journal",
    "Maintenance",
    "Note",
    "Park",
    "Scripts",
    "Settlement",
    "SettlementRefused",
    "Split",
    "StageNotServed",
    "StageServed",
    "StageState",
    "TakenOver",
    "Unreadable",
    "WakeUps",
    "Wiring",
]
