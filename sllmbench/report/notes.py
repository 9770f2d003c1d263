"""What must be said below the tables so that their numbers can be believed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sllmbench.report.columns import (
    DISTURBED_MARK,
    INCOMPLETE_MARK,
    NOISE,
    PARETO_MARK,
    number,
    ratio_title,
    without_all_axes,
)
from sllmbench.report.sampling import DISTURBED_NOTE, Sampled, sampling_notes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sllmbench.record import Energy, LayerKernel, Quality, Record


def notes(records: Sequence[Record], reference: str) -> list[tuple[str, str]]:
    """Labels and sentences, in the order of the tables' columns."""
    return [
        (PARETO_MARK, _pareto(records)),
        *[(INCOMPLETE_MARK, text) for text in _incomplete(records)],
        *([(DISTURBED_MARK, DISTURBED_NOTE)] if any(r.disturbed for r in records) else []),
        ("ratios", _ratios(records, reference)),
        ("timing", _timing(records)),
        *[
            ("timing", text)
            for text in sampling_notes(
                [Sampled(r.path, r.interference, r.disturbed, r.sampling) for r in records]
            )
        ],
        *[("kernels", text) for text in _by_value(records, _kernels)],
        *[("lm_head", text) for text in _by_value(records, lambda r: r.lm_head)],
        ("memory", _memory(records)),
        *[("quality", text) for text in _quality(records)],
        (
            "weights",
            f"{records[0].model}, {number(records[0].n_params / 1e6)} M parameters: "
            + records[0].provenance,
        ),
        *[("energy", text) for text in _by_value(records, _energy)],
        ("machine", _machine(records[0])),
        *[("libraries", text) for text in _other_libraries(records)],
    ]


def _pareto(records: Sequence[Record]) -> str:
    axes, absent = [f"tg{records[0].n_gen} (higher)"], []
    for name, values in (
        ("peak RSS", [r.peak_rss_bytes for r in records]),
        ("perplexity", [r.perplexity for r in records]),
    ):
        if any(value is not None for value in values):
            axes.append(f"{name} (lower)")
        else:
            absent.append(name)
    text = (
        f"Pareto frontier of {', '.join(axes)}: no other row is as good in all and better in one"
        f" beyond noise ({NOISE})"
    )
    if absent:
        text += f"; {' and '.join(absent)} not measured"
    unjudged = without_all_axes(records)
    return f"{text}; not judged: {', '.join(unjudged)} (a figure is missing)" if unjudged else text


def _incomplete(records: Sequence[Record]) -> list[str]:
    def ended(record: Record) -> str:
        repetitions = _count(len(record.samples.decode_ns), "repetition")
        return f"{repetitions}, then {record.quality_reason}"

    return _by_value([r for r in records if not r.complete], ended, always_named=True)


def _ratios(records: Sequence[Record], reference: str) -> str:
    title = ratio_title(reference)
    if all(r.path != reference for r in records):
        return f"{title} cannot be given: {reference} was not measured"
    return f"{title}: the row's figure divided by {reference}'s"


def _timing(records: Sequence[Record]) -> str:
    counts = sorted({len(r.samples.decode_ns) for r in records})
    text = f"medians of {_range(counts)} repetition{'' if counts[-1] == 1 else 's'}"
    if all(r.decode_tps and r.decode_tps.low is not None for r in records):
        text += " ± the farther end of their 95% interval"
    else:
        text += ", no 95% interval where there are fewer than 6"
    groups = {frozenset((r.path, *r.interleaved_with)): None for r in records}
    if len(groups) > 1:
        together = " | ".join(", ".join(sorted(group)) for group in groups)
        text += f", timed apart for want of memory: {together}"
    elif len(records) > 1:
        text += ", the paths taking turns"
    return f"{text}; tg{records[0].n_gen} from an empty cache, TPOT after the prompt"


def _count(how_many: int, what: str) -> str:
    return f"{how_many} {what}{'' if how_many == 1 else 's'}"


def _range(values: Sequence[object]) -> str:
    return "–".join(dict.fromkeys((str(values[0]), str(values[-1]))))


def _kernels(record: Record) -> str:
    """Kernels by what they read; those that share layers, as one token's and many's do, as one."""
    groups: dict[tuple[str, str, str], list[LayerKernel]] = {}
    for use in record.layer_kernels:
        groups.setdefault((use.format, use.isa, use.arithmetic), []).append(use)
    layers = {key: {name for use in uses for name in use.layers} for key, uses in groups.items()}
    texts = []
    for key in sorted(groups, key=lambda key: -len(layers[key])):
        stored, isa, arithmetic = key
        kernels = "+".join(sorted({use.kernel for use in groups[key]}))
        where = "" if len(groups) == 1 else f" in {_layers(layers[key])}"
        texts.append(f"{kernels} ({isa}, {arithmetic}) on {stored}{where}")
    return "; ".join(texts)


def _layers(layers: set[str]) -> str:
    return next(iter(layers)) if len(layers) == 1 else f"{len(layers)} layers"


def _memory(records: Sequence[Record]) -> str:
    text = (
        "weights: all tensors as held, tied ones once; peak RSS: from before loading to the last"
        " timing, above the process's own after its imports; MB = 10⁶ bytes"
    )
    held = sorted({p.kv_cache_bytes for r in records for p in r.memory if p.kv_cache_bytes})
    if held:
        n_tokens = records[0].n_prompt + records[0].n_gen
        text += f"; KV cache of up to {n_tokens} tokens: {number(held[-1] / 1e6)} MB"
    mapped = [r for r in records if any(p.file_mapped_bytes for p in r.memory)]
    if mapped:
        text += "; mapped from files: " + "; ".join(_by_value(mapped, _mapped, always_named=True))
    missing = [r for r in records if r.peak_rss_bytes is None]
    reasons = "; ".join(_by_value(missing, lambda r: r.peak_rss_reason))
    return f"{text}; no peak RSS: {reasons}" if missing else text


def _mapped(record: Record) -> str:
    last = record.memory[-1]
    total, resident = ((last.file_mapped_bytes or 0) / 1e6, (last.file_resident_bytes or 0) / 1e6)
    return f"{number(total)} MB, {number(resident)} MB of it resident at the end"


def _quality(records: Sequence[Record]) -> list[str]:
    measured = [r.quality for r in records if r.quality is not None]
    missing = [r for r in records if r.quality is None and r.complete]
    return [
        *([_perplexity(measured)] if measured else []),
        *_divergence(measured),
        *[f"not measured: {text}" for text in _by_value(missing, lambda r: r.quality_reason)],
    ]


def _perplexity(measured: Sequence[Quality]) -> str:
    first = measured[0]
    errors = [number(error, 2) for error in sorted(q.perplexity_stderr for q in measured)]
    return (
        f"perplexity on {first.text}: {first.n_tokens} tokens scored, context {first.context},"
        f" stride {first.stride}, standard error {_range(errors)} (one text for all rows);"
        f" {first.definition}"
    )


def _divergence(measured: Sequence[Quality]) -> list[str]:
    compared = [quality for quality in measured if quality.kl_divergence is not None]
    if not compared:
        reasons = {quality.kl_reason for quality in measured if quality.kl_reason is not None}
        return [f"no KL and top-1: {reason}" for reason in sorted(reasons)]
    first = compared[0]
    worst_kl = max(quality.kl_divergence_stderr or 0 for quality in compared)
    worst_top1 = max(quality.top1_agreement_stderr or 0 for quality in compared)
    return [
        f"KL({first.reference_path} ‖ row) and top-1 agreement with {first.reference_path}:"
        f" {first.kl_n_tokens} tokens, standard error up to {number(worst_kl, 2)} and"
        f" {worst_top1:.1%}"
    ]


def _energy(record: Record) -> str:
    phases = {
        f"pp{record.n_prompt}": record.prefill_energy,
        f"tg{record.n_gen}": record.decode_energy,
    }
    known = {name: energy for name, energy in phases.items() if energy.energy_j is not None}
    missing = {name: energy.reason for name, energy in phases.items() if energy.energy_j is None}
    texts = []
    if known:
        widths = (f"{name} ±{_uncertainty(energy):.1%}" for name, energy in known.items())
        source = next(iter(known.values())).source
        texts.append(f"J/token: {source}; the sensor's steps leave {', '.join(widths)}")
    if len(set(missing.values())) == 1:
        which = "" if len(missing) == len(phases) else f" of {next(iter(missing))}"
        texts.append(f"not measured{which}: {next(iter(missing.values()))}")
    else:
        texts += [f"not measured of {name}: {reason}" for name, reason in missing.items()]
    return "; ".join(texts)


def _uncertainty(energy: Energy) -> float:
    return (energy.uncertainty_j or 0.0) / energy.energy_j if energy.energy_j else 0.0


def _machine(record: Record) -> str:
    machine = record.machine
    libraries = ", ".join(
        f"{name} {version}"
        for name, version in machine.libraries.items()
        if name in ("torch", "transformers")
    )
    return (
        f"{machine.cpu_model}, {_count(machine.cores, 'core')},"
        f" {machine.memory_bytes / 2**30:.0f} GiB; {_count(record.threads, 'thread')};"
        f" {machine.os}; sllmbench {record.sllmbench_version}"
        + (f", {libraries}" if libraries else "")
    )


def _other_libraries(records: Sequence[Record]) -> list[str]:
    """Versions that the first row's process did not have."""
    usual = records[0].machine.libraries

    def others(record: Record) -> str:
        own = record.machine.libraries.items()
        return ", ".join(f"{name} {version}" for name, version in own if usual.get(name) != version)

    return _by_value([r for r in records if others(r)], others, always_named=True)


def _by_value(
    records: Sequence[Record], get: Callable[[Record], str | None], *, always_named: bool = False
) -> list[str]:
    """``paths: value`` for each value, the paths that share it together; bare if all share it."""
    groups: dict[str, list[str]] = {}
    for record in records:
        groups.setdefault(get(record) or "unknown", []).append(record.path)
    if len(groups) == 1 and not always_named:
        return list(groups)
    return [f"{', '.join(paths)}: {value}" for value, paths in groups.items()]
