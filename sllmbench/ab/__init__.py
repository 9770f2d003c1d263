"""Two candidates measured in one session, taking turns, because sessions differ by more than they do.

``rounds`` tosses the order of each round and decides when there are enough; ``commands`` and
``revisions`` are what can take a turn: a shell command, and a commit's benchmarks under pytest.
``functions`` compares two functions of this process.
"""

from __future__ import annotations

from sllmbench.ab.commands import ab_commands
from sllmbench.ab.functions import ab_functions
from sllmbench.ab.revisions import ab_revisions
from sllmbench.ab.rounds import AbResult, Limits

__all__ = ["AbResult", "Limits", "ab_commands", "ab_functions", "ab_revisions"]
