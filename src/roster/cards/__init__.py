"""Process cards: what is to be done, read from hostile text, checked in full, and ready to be walked by an executor.

`steps` says how a card is walked, `card` what it is; `checking` looks at everything that can be wrong with one.
"""

from roster.cards.card import ProcessCard
from roster.cards.checking import CardReport, check, examine
from roster.cards.limits import Limits
from roster.cards.steps import (
    ActionStep,
    Block,
    CheckpointStep,
    CompleteStep,
    ConditionStep,
    Fallback,
    ForeachStep,
    JumpStep,
    ParallelStep,
    Retry,
    Step,
    SubprocessStep,
    WaitStep,
)

__all__ = [
    "ActionStep",
    "Block",
    "CardReport",
    "CheckpointStep",
    "CompleteStep",
    "ConditionStep",
    "Fallback",
    "ForeachStep",
    "JumpStep",
    "Limits",
    "ParallelStep",
    "ProcessCard",
    "Retry",
    "Step",
    "SubprocessStep",
    "WaitStep",
    "check",
    "examine",
]
