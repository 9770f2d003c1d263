"""What must be said below the tables so that their numbers can be believed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sllmbench.report.columns import (
    INCOMPLETE_MARK,
    PARETO_MARK,
    number,
    pareto,
    ratio_title,
    without_all_axes,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sllmbench.record import LayerKernel, Quality, Record


def notes(records: Sequence[Record], reference: str) -> list[tuple[str, str]]:
    """Labels and sentences, in the order of the tables' columns."""
    return [
        (PARETO_MARK, _pareto(records)),
        *[(INCOMPLETE_MARK, text) for text in _incomplete(records)],
        ("ratios", _ratios(records, reference)),
        ("timing", _timing(records)),
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
    ]


def _pareto(records: Sequence[Record]) -> str:
    axes = [f"tg{records[0].n_gen} (higher)"]
    missing = []
    for name, values in (
        ("peak RSS", [r.peak_rss_bytes for r in records]),
        ("perplexity", [r.perplexity for r in records]),
    ):
        if any(value is not None for value in values):
            axes.append(f"{name} (lower)")
        else:
            missing.append(name)
    text = f"Pareto frontier over {', '.join(axes)}"
    if missing:
        text += f"; without {' and '.join(missing)}, not measured"
    left_out = without_all_axes(records)
    if left_out:
        text += f"; not judged, for lack of a figure: {', '.join(left_out)}"
    return text if pareto(records) else f"{text}; no path has the figures"


def _incomplete(records: Sequence[Record]) -> list[str]:
    return [
        f"{r.path} is incomplete, {len(r.samples.decode_ns)} repetitions: {r.quality_reason}"
        for r in records
        if not r.complete
    ]


def _ratios(records: Sequence[Record], reference: str) -> str:
    title = ratio_title(reference)
    if all(r.path != reference for r in records):
        return f"{title} cannot be given: {reference} was not measured"
    return f"{title} is the row's figure divided by {reference}'s"


def _timing(records: Sequence[Record]) -> str:
    first = records[0]
    counts = sorted({len(r.samples.decode_ns) for r in records})
    repetitions = "–".join(str(n) for n in dict.fromkeys((counts[0], counts[-1])))
    text = (
        f"medians of {repetitions} repetitions; pp{first.n_prompt} reads the prompt,"
        f" tg{first.n_gen} generates from an empty cache, TPOT follows the prompt"
    )
    if all(r.decode_tps and r.decode_tps.low is not None for r in records):
        text += "; ± is the farther end of the median's 95% interval"
    else:
        text += "; no 95% interval where there are fewer than 6"
    groups = {frozenset((r.path, *r.interleaved_with)): None for r in records}
    if len(groups) > 1:
        together = " | ".join(", ".join(sorted(group)) for group in groups)
        text += f"; too large to take turns all together, so timed apart: {together}"
    elif len(records) > 1:
        text += "; paths took turns in random order"
    return text


def _kernels(record: Record) -> str:
    uses = sorted(record.layer_kernels, key=lambda use: -len(use.layers))
    if len(uses) == 1:
        return _kernel(uses[0])
    return "; ".join(f"{_kernel(use)} in {_layers(use.layers)}" for use in uses)


def _kernel(use: LayerKernel) -> str:
    isa = "" if use.isa in use.kernel else f" {use.isa}"
    return f"{use.kernel}{isa}, {use.format} weights, {use.arithmetic} arithmetic"


def _layers(layers: Sequence[str]) -> str:
    return layers[0] if len(layers) == 1 else f"{len(layers)} layers"


def _memory(records: Sequence[Record]) -> str:
    text = (
        "weights are every tensor as held, tied ones once; peak RSS is the process from before"
        " loading to the last timing, above what it held after its imports"
    )
    if any(r.peak_rss_bytes is None for r in records):
        reasons = dict.fromkeys(r.peak_rss_reason for r in records if r.peak_rss_bytes is None)
        text += f"; no peak RSS: {'; '.join(reason or 'unknown' for reason in reasons)}"
    return text + "; MB = 10⁶ bytes"


def _quality(records: Sequence[Record]) -> list[str]:
    measured = [r.quality for r in records if r.quality is not None]
    texts = []
    if measured:
        texts.append(_perplexity(measured))
        texts += _divergence(measured)
    missing = [r for r in records if r.quality is None and r.complete]
    return texts + [f"none for {text}" for text in _by_value(missing, lambda r: r.quality_reason)]


def _perplexity(measured: Sequence[Quality]) -> str:
    first = measured[0]
    errors = sorted(quality.perplexity_stderr for quality in measured)
    ends = dict.fromkeys((number(errors[0], 2), number(errors[-1], 2)))
    return (
        f"perplexity: {first.definition}; {first.text}, {first.n_tokens} tokens scored, context"
        f" {first.context}, stride {first.stride}; standard error {'–'.join(ends)}, from the"
        " choice of text, which the rows share"
    )


def _divergence(measured: Sequence[Quality]) -> list[str]:
    compared = [quality for quality in measured if quality.kl_divergence is not None]
    if not compared:
        return []
    first = compared[0]
    worst_kl = max(quality.kl_divergence_stderr or 0 for quality in compared)
    worst_top1 = max(quality.top1_agreement_stderr or 0 for quality in compared)
    return [
        f"KL({first.reference_path} ‖ row) a token and top-1 agreement with"
        f" {first.reference_path}: {first.kl_n_tokens} tokens, standard error at most"
        f" {number(worst_kl, 2)} and {worst_top1:.1%}"
    ]


def _energy(record: Record) -> str:
    if record.energy_j is None:
        return f"not measured: {record.energy_reason}"
    return f"{record.energy_source} while decoding, idle power included"


def _machine(record: Record) -> str:
    machine = record.machine
    libraries = ", ".join(
        f"{name} {version}"
        for name, version in machine.libraries.items()
        if name in ("torch", "transformers")
    )
    return (
        f"{machine.cpu_model}, {machine.cores} cores, {machine.memory_bytes / 2**30:.0f} GiB;"
        f" {record.threads} threads; {machine.os}; sllmbench {record.sllmbench_version}"
        + (f", {libraries}" if libraries else "")
    )


def _by_value(records: Iterable[Record], get: Callable[[Record], str | None]) -> list[str]:
    """``paths: value`` for each value, the paths that share it together; one for all is bare."""
    groups: dict[str, list[str]] = {}
    count = 0
    for record in records:
        count += 1
        groups.setdefault(get(record) or "unknown", []).append(record.path)
    if len(groups) == 1 and count > 1:
        return list(groups)
    return [f"{', '.join(paths)}: {value}" for value, paths in groups.items()]
