"""Quantisers: float weights → :class:`~sllmbench.formats.QuantTensor`."""

from sllmbench.quantizers.rtn import quantize

__all__ = ["quantize"]
