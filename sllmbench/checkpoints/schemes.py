"""Which scheme a folder is stored in, and which one to write."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sllmbench.checkpoints.awq import AwqScheme
from sllmbench.checkpoints.gptq import GptqScheme
from sllmbench.checkpoints.packed import PackedScheme
from sllmbench.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sllmbench.checkpoints.scheme import Scheme
    from sllmbench.formats import QuantTensor

_SCHEMES: dict[str, type[Scheme]] = {
    scheme.method: scheme for scheme in (GptqScheme, AwqScheme, PackedScheme)
}


def scheme_of(config: Mapping[str, Any]) -> Scheme:
    """The scheme that a folder's ``quantization_config`` describes.

    Raises:
        InputError: a method that cannot be read, or settings that make no sense.
    """
    method = config.get("quant_method")
    if not isinstance(method, str) or method not in _SCHEMES:
        raise InputError(
            f"it is quantised already ({method}); {', '.join(_SCHEMES)} and .gguf files can be "
            "read, or give the float checkpoint that it was made from"
        )
    return _SCHEMES[method].from_config(config)


def scheme_for(kind: str, first: QuantTensor, desc_act: bool | None) -> Scheme:
    """The scheme to write ``kind`` with, whose every linear is of ``first``'s format.

    Args:
        kind: ``gptq``, ``gptq_v2``, ``awq`` or ``compressed-tensors``.
        first: one of the tensors.
        desc_act: whether GPTQ's channels may be ordered; None where ``first`` tells.

    Raises:
        InputError: another kind, or a format that it has not.
    """
    fmt = first.format
    settings = (fmt.bits, fmt.group_size, fmt.offset == "symmetric")
    ordered = first.order is not None if desc_act is None else desc_act
    match kind:
        case "gptq" | "gptq_v2":
            return GptqScheme(*settings, ordered, kind)
        case "awq":
            return AwqScheme(*settings)
        case "compressed-tensors":
            return PackedScheme(*settings)
    raise InputError(
        f"no kind of checkpoint is called {kind!r}: hf, gptq, gptq_v2, awq and compressed-tensors"
    )
