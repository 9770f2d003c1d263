"""What makes a comparison unfair: facts that should be equal on both sides and are not."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sllmbench.compare.series import Series

NOT_RECORDED = "not recorded"


def differences(base: Series, new: Series) -> list[str]:
    """Name every fact that differs, as ``threads: 1, then 2``.

    A fact that a whole side did not record cannot be held against the other, except that libraries
    which only one of two records of the same kind names are a difference.
    """
    found = []
    for fact in dict.fromkeys(f for side in (base, new) for run in side.runs for f in run.identity):
        before, after = _values(base, fact), _values(new, fact)
        if NOT_RECORDED in (*before, *after) and not _same_kind(base, new):
            continue
        if before != after:
            found.append(f"{fact}: {' and '.join(before)}, then {' and '.join(after)}")
        elif len(before) > 1:
            found.append(f"{fact}: {' and '.join(before)} within each side")
    return found


def _values(side: Series, fact: str) -> list[str]:
    return sorted({run.identity.get(fact, NOT_RECORDED) for run in side.runs})


def _same_kind(base: Series, new: Series) -> bool:
    """Whether both sides' facts were written by the same program: ours name the memory."""
    return len({"memory" in run.identity for side in (base, new) for run in side.runs}) == 1
