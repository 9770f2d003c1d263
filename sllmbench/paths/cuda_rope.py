"""Rotary positions and the append to the KV cache as one kernel on a GPU, for models of ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from sllmbench import _native
from sllmbench.errors import InputError
from sllmbench.paths.cuda import stream_of

if TYPE_CHECKING:
    from collections.abc import Sequence


def rope_append(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    positions: torch.Tensor,
    slots: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    pairs: torch.Tensor | None = None,
) -> None:
    """Queue: rotate ``q`` in place; rotate ``k`` and write it and ``v`` into their caches.

    Component c of a head is rotated with c + dim / 2, in float32, rounded to fp16 once.

    Args:
        q: fp16 [tokens, query heads, dim]; a token's heads lie next to each other, tokens need not.
        k: fp16 [tokens, kv heads, dim], the same.
        v: fp16 [tokens, kv heads, value dim], the same.
        cos: float32 [table positions, table pairs], contiguous.
        sin: the same.
        positions: int64 [tokens], rows of the tables. What lies outside stops the kernel.
        slots: int64 [tokens], where in the caches each token goes, none twice.
        k_cache: fp16 [kv heads, capacity, dim], contiguous; written at the slots.
        v_cache: fp16 [kv heads, capacity, value dim], the same.
        pairs: uint8 [kv heads, dim / 2], the tables' column of each pair where a model was pruned
            to some of them; None: pair c has column c.

    Raises:
        InputError: a tensor of another type, shape or layout, or on another device.
    """
    if q.ndim != 3 or k.ndim != 3 or v.ndim != 3 or k_cache.ndim != 3 or cos.ndim != 2:
        raise InputError("q, k, v and the caches have three dimensions, the tables two")
    tokens, query_heads, dim = q.shape
    kv_heads, capacity, value_dim = k.shape[1], k_cache.shape[1], v.shape[2]
    half, table = torch.float16, torch.float32
    where = q.device
    _check("q", q, half, (tokens, query_heads, dim), where, whole=False)
    _check("k", k, half, (tokens, kv_heads, dim), where, whole=False)
    _check("v", v, half, (tokens, kv_heads, value_dim), where, whole=False)
    _check("cos", cos, table, tuple(cos.shape), where)
    _check("sin", sin, table, tuple(cos.shape), where)
    _check("positions", positions, torch.int64, (tokens,), where)
    _check("slots", slots, torch.int64, (tokens,), where)
    _check("k_cache", k_cache, half, (kv_heads, capacity, dim), where)
    _check("v_cache", v_cache, half, (kv_heads, capacity, value_dim), where)
    if pairs is not None:
        _check("pairs", pairs, torch.uint8, (kv_heads, dim // 2), where)
    try:
        _native.cuda_rope_append(
            device=where.index or 0,
            stream=stream_of(where),
            tokens=tokens,
            query_heads=query_heads,
            kv_heads=kv_heads,
            dim=dim,
            value_dim=value_dim,
            q=q.data_ptr(),
            k=k.data_ptr(),
            v=v.data_ptr(),
            stride_q=q.stride(0),
            stride_k=k.stride(0),
            stride_v=v.stride(0),
            cos=cos.data_ptr(),
            sin=sin.data_ptr(),
            table_positions=cos.shape[0],
            table_pairs=cos.shape[1],
            pairs=0 if pairs is None else pairs.data_ptr(),
            positions=positions.data_ptr(),
            slots=slots.data_ptr(),
            k_cache=k_cache.data_ptr(),
            v_cache=v_cache.data_ptr(),
            capacity=capacity,
        )
    except ValueError as error:
        raise InputError(str(error)) from None


def _check(
    what: str,
    tensor: torch.Tensor,
    dtype: torch.dtype,
    shape: Sequence[int],
    where: torch.device,
    whole: bool = True,
) -> None:
    """Refuse another type, shape or device, and gaps: within a token, or anywhere if ``whole``."""
    if tensor.dtype != dtype or tuple(tensor.shape) != tuple(shape):
        raise InputError(
            f"{what} must be {dtype} {list(shape)}, not {tensor.dtype} {list(tensor.shape)}"
        )
    if tensor.device != where:
        raise InputError(f"{what} is on {tensor.device} and q on {where}")
    if not (tensor if whole else tensor[:1]).is_contiguous():
        raise InputError(f"{what} must lie contiguous{'' if whole else ' within a token'}")
