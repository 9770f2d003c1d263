"""What a conversion is asked for, checked before anything is loaded."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from sllmbench.errors import InputError
from sllmbench.formats import QuantFormat, integer_format

Method = Literal["rtn", "gptq", "awq"]
Kind = Literal["gptq", "gptq_v2", "awq", "compressed-tensors", "hf"]
METHODS: tuple[str, ...] = get_args(Method)
FOLDER_KINDS: tuple[str, ...] = get_args(Kind)

_BITS = (2, 3, 4, 8)


@dataclass(frozen=True)
class Settings:
    """How the linears of a model's layers are quantised.

    Attributes:
        method: ``rtn`` rounds to nearest, ``gptq`` and ``awq`` look at the layers' inputs.
        bits: of a code.
        group_size: inputs that share a scale; -1: a whole row.
        sym: codes around a fixed zero; else every group has a zero point.
        desc_act: GPTQ takes the channels with the largest inputs first.
        static_groups: GPTQ chooses every group's scale before the first channel is rounded.
        true_sequential: GPTQ solves a linear with the inputs that the layer's linears before it
            give once quantised; else with those of the layer as it was.
        damp_percent: GPTQ's share of the Hessian's mean diagonal that is added to it.
        mse_clip: ``rtn`` and ``gptq`` take the scales of least squared error, not of full range.
    """

    method: Method = "gptq"
    bits: int = 4
    group_size: int = 128
    sym: bool = True
    desc_act: bool = False
    static_groups: bool = False
    true_sequential: bool = True
    damp_percent: float = 0.01
    mse_clip: bool = False

    def __post_init__(self) -> None:
        """Refuse what no quantiser here can do.

        Raises:
            InputError: says which setting and what it can be.
        """
        if self.method not in METHODS:
            raise InputError(f"unknown method {self.method!r}; it is one of {', '.join(METHODS)}")
        if self.bits not in _BITS:
            raise InputError(f"no quantiser makes {self.bits} bits; 2, 3, 4 or 8 are possible")
        if not (math.isfinite(self.damp_percent) and 0 < self.damp_percent < 1):
            raise InputError(f"damp_percent must lie between 0 and 1, not {self.damp_percent}")
        self._refuse_others_settings()
        _ = self.format  # refuses a group size that cannot be

    def _refuse_others_settings(self) -> None:
        for name in ("desc_act", "static_groups", "true_sequential", "damp_percent"):
            if self.method != "gptq" and getattr(self, name) != _DEFAULTS[name]:
                raise InputError(f"{name} is a setting of gptq; the method is {self.method}")
        if self.method == "awq" and self.mse_clip:
            raise InputError("awq searches its own clipping; mse_clip is for rtn and gptq")

    @property
    def format(self) -> QuantFormat:
        """The format of the quantised linears."""
        bits: Any = self.bits
        return integer_format(bits, self.group_size, not self.sym)

    def facts(self) -> dict[str, Any]:
        """The settings that the method reads, by name."""
        facts = dataclasses.asdict(self)
        if self.method != "gptq":
            for name in ("desc_act", "static_groups", "true_sequential", "damp_percent"):
                del facts[name]
        if self.method == "awq":
            del facts["mse_clip"]
        return facts


_DEFAULTS = {field.name: field.default for field in dataclasses.fields(Settings)}
