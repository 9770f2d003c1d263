"""What every kind of record is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

Arithmetic = Literal["exact", "int8"]
"""How our own kernels compute."""


@dataclass(frozen=True)
class KernelUse:
    """A kernel that ran: its name, the ISA it was built for, how it computes, what it reads."""

    kernel: str
    isa: str
    arithmetic: str
    format: str


class Frozen(BaseModel):
    """A value that cannot be changed, knows all its fields and holds finite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Interval(Frozen):
    """The median of the samples and a distribution-free confidence interval for it.

    ``low`` and ``high`` are order statistics; they are None where there are too few samples for
    ``coverage`` (six is the least for 95%).
    """

    median: float
    low: float | None
    high: float | None
    coverage: float = 0.95


class MachineFacts(Frozen):
    """The fields that identify hardware and libraries: what a fair comparison must find equal."""

    cpu_model: str
    cores: int
    memory_bytes: int
    isas: tuple[str, ...]
    os: str
    libraries: dict[str, str]


class Origin(Frozen):
    """Which run made a record, when, where and of what: the fields that every record has."""

    run_id: str
    created_utc: str
    sllmbench_version: str
    machine: MachineFacts
    commit: str | None
    """The commit of the repository that it was run in, ``+`` behind it where files differed from
    it; None outside a repository."""
