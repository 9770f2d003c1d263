"""sllmbench: run the same language-model weights over every path and see what each costs."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sllmbench.bench import run
    from sllmbench.errors import InputError
    from sllmbench.evaluation import evaluate
    from sllmbench.formats import QuantFormat, QuantTensor
    from sllmbench.hardware import machine
    from sllmbench.measure.energy import EnergyProbe, measure_energy
    from sllmbench.model import load_model
    from sllmbench.paths.native import matmul
    from sllmbench.quantizers import quantize

__version__ = "0.1.0"
__all__ = [
    "EnergyProbe",
    "InputError",
    "QuantFormat",
    "QuantTensor",
    "evaluate",
    "load_model",
    "machine",
    "matmul",
    "measure_energy",
    "quantize",
    "run",
]

# Imported when first asked for: torch and transformers take seconds, `import sllmbench` must not.
_HOME = {
    "EnergyProbe": "sllmbench.measure.energy",
    "InputError": "sllmbench.errors",
    "QuantFormat": "sllmbench.formats",
    "QuantTensor": "sllmbench.formats",
    "evaluate": "sllmbench.evaluation",
    "load_model": "sllmbench.model",
    "machine": "sllmbench.hardware",
    "matmul": "sllmbench.paths.native",
    "measure_energy": "sllmbench.measure.energy",
    "quantize": "sllmbench.quantizers",
    "run": "sllmbench.bench",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'sllmbench' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
