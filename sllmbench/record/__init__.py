"""The records: what was measured, with raw samples, units and provenance.

Records are frozen and self-contained: a report needs nothing else, so it can be made, and tested,
from stored JSON on a machine that never ran the model. Each kind has a schema version with its
history in its own file.
"""

from typing import Annotated

from pydantic import Field

from sllmbench.record.base import (
    Arithmetic,
    Frozen,
    Interval,
    KernelUse,
    MachineFacts,
    Origin,
)
from sllmbench.record.benchmark import BENCHMARK_SCHEMA_VERSION, BenchmarkRecord
from sllmbench.record.cubin import (
    CUBIN_SCHEMA_VERSION,
    CubinRecord,
    Emulated,
    KernelCode,
    MainLoop,
    Occupancy,
)
from sllmbench.record.energy import Energy
from sllmbench.record.kernel import KERNEL_SCHEMA_VERSION, KernelRecord
from sllmbench.record.memory import PhaseMemory
from sllmbench.record.quality import (
    QUALITY_SCHEMA_VERSION,
    Difference,
    Metric,
    Quality,
    QualityRecord,
)
from sllmbench.record.run import (
    SCHEMA_VERSION,
    LayerKernel,
    Record,
    Samples,
)
from sllmbench.record.sampling import GpuState, Interference, Sampling, undisturbed
from sllmbench.record.study import STUDY_SCHEMA_VERSION, Conversion, Study, StudyRow

AnyRecord = Annotated[
    Record | KernelRecord | BenchmarkRecord | QualityRecord, Field(discriminator="kind")
]

__all__ = [
    "BENCHMARK_SCHEMA_VERSION",
    "CUBIN_SCHEMA_VERSION",
    "KERNEL_SCHEMA_VERSION",
    "QUALITY_SCHEMA_VERSION",
    "SCHEMA_VERSION",
    "STUDY_SCHEMA_VERSION",
    "AnyRecord",
    "Arithmetic",
    "BenchmarkRecord",
    "Conversion",
    "CubinRecord",
    "Difference",
    "Emulated",
    "Energy",
    "Frozen",
    "GpuState",
    "Interference",
    "Interval",
    "KernelCode",
    "KernelRecord",
    "KernelUse",
    "LayerKernel",
    "MachineFacts",
    "MainLoop",
    "Metric",
    "Occupancy",
    "Origin",
    "PhaseMemory",
    "Quality",
    "QualityRecord",
    "Record",
    "Samples",
    "Sampling",
    "Study",
    "StudyRow",
    "undisturbed",
]
