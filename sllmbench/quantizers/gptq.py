"""GPTQ: columns rounded in turn, each making up for the errors of those before it.

Frantar et al., arXiv 2210.17323. With H = mean x xᵀ the output error of Ŵ is tr(E H Eᵀ),
E = W - Ŵ. Their algorithm works with the upper Cholesky factor of H⁻¹; this one factors
H = A Aᵀ, A upper triangular, which needs no inverse. The error is Σ_j ‖Σ_{i≤j} e_i A_ij‖², so the
column j that follows errors e_i is best rounded from

    t_j = w_j + Σ_{i<j} e_i A_ij / A_jj

and misses it by r_j at a cost of r_j² A_jj²: the same choices (both minimise over the columns that
are still free), a third of the factorisation's work.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from sllmbench import _native
from sllmbench.errors import InputError
from sllmbench.formats import QuantFormat, QuantTensor, integer_format, stored_codes
from sllmbench.quantizers.grid import Grid, integer_grid
from sllmbench.quantizers.rtn import as_matrix, grouped, grouped_importance

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sllmbench.quantizers.grid import Clip

_BLOCK = 128
"""Columns that are solved before their errors are carried on with one matrix product."""
_MOST_DAMP = 1.0


@dataclass(frozen=True)
class GptqSettings:
    """How :func:`gptq` quantises.

    Attributes:
        bits: of a code.
        group_size: columns that share a scale; -1: all.
        sym: codes around a fixed zero; else every group has a zero point.
        desc_act: columns in descending order of their inputs' mean square, groups in that order.
        static_groups: every group's scale is chosen from the weights as they were, groups as the
            columns lie; else as each group's turn comes, from what is left to represent.
        damp_percent: the share of H's mean diagonal that is added to its diagonal.
        mse_clip: scales of least squared error, not of full range.
    """

    bits: Literal[2, 3, 4, 8] = 4
    group_size: int = 128
    sym: bool = True
    desc_act: bool = False
    static_groups: bool = False
    damp_percent: float = 0.01
    mse_clip: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be done.

        Raises:
            InputError: says which setting and what it can be.
        """
        if self.bits not in (2, 3, 4, 8):
            raise InputError(f"GPTQ makes 2, 3, 4 or 8 bits here, not {self.bits}")
        if not 0 < self.damp_percent < _MOST_DAMP:
            raise InputError(f"damp_percent must lie between 0 and 1, not {self.damp_percent}")
        _ = self.layout

    @property
    def layout(self) -> QuantFormat:
        """The format of the result."""
        return integer_format(self.bits, self.group_size, not self.sym)


@dataclass(frozen=True)
class GptqResult:
    """What :func:`gptq` made.

    Attributes:
        tensor: the quantised weight.
        loss: tr(E H Eᵀ) with the damped H.
        damp_percent: what H was damped with in the end.
        retries: how often a stronger damping was needed.
    """

    tensor: QuantTensor
    loss: float
    damp_percent: float
    retries: int


def gptq(weight: Any, hessian: Any, settings: GptqSettings | None = None) -> GptqResult:
    """Quantise a weight so that its outputs on the calibration inputs change little.

    A column whose input was always 0 tells nothing of the others: it is rounded to nearest.

    Args:
        weight: [n, k] floats.
        hessian: float32 [k, k], mean x xᵀ over the calibration tokens; its scale does not matter.
        settings: None takes the defaults.

    Raises:
        InputError: a weight that :func:`~sllmbench.quantizers.quantize` refuses; a Hessian of
            another shape, with NaN, infinite or negative diagonal values, or so far from positive
            that no damping below 1 helps.
    """
    asked = settings or GptqSettings()
    matrix = as_matrix(weight)
    gram = _checked(hessian, matrix.shape[1])
    order = None
    if asked.desc_act:
        order = np.argsort(-np.diagonal(gram), kind="stable").astype(np.int32)
        gram = gram[np.ix_(order, order)]
    factor = _factor(gram, asked.damp_percent)
    solution = _Solution(matrix, factor, asked, order)
    loss = solution.solve()
    return GptqResult(solution.tensor(), loss, factor.damp_percent, factor.retries)


class _Factor(NamedTuple):
    """H + damping = A Aᵀ: A with every column divided by its diagonal, and the diagonal squared."""

    shares: NDArray[np.float32]
    pivots: NDArray[np.float32]
    damp_percent: float
    retries: int


def _checked(hessian: Any, k: int) -> NDArray[np.float32]:
    gram = np.asarray(hessian, np.float32)
    if gram.shape != (k, k):
        raise InputError(f"the Hessian must be [{k}, {k}] for this weight, not {list(gram.shape)}")
    if not np.isfinite(gram).all():
        raise InputError(
            "the Hessian holds NaN or infinite values: the calibration inputs overflow"
        )
    if (np.diagonal(gram) < 0).any():
        raise InputError("the Hessian's diagonal is negative: it is no mean of x xᵀ")
    return gram


def _factor(gram: NDArray[np.float32], damp_percent: float) -> _Factor:
    """Factor the damped Hessian; twice the damping where it is not positive definite yet."""
    import torch

    _native.share_openmp()  # torch's products and our columns take turns
    mean = float(np.diagonal(gram).mean(dtype=np.float64)) or 1.0
    # Backwards, so that the lower factor's mirror image is the upper one. LAPACK fills columns: the
    # transpose of what it calls upper has the rows that we want (2048x8192: 0.3 s of 2 less).
    damped = torch.from_numpy(gram).flip(0, 1)
    plain = damped.diagonal().clone()
    plain[plain == 0] = mean
    damp, retries = damp_percent, 0
    while damp < _MOST_DAMP:
        damped.diagonal().copy_(plain + damp * mean)
        transposed, failed = torch.linalg.cholesky_ex(damped, upper=True)
        if not failed:
            upper = transposed.mT.flip(0, 1)
            pivots = upper.diagonal().clone()
            upper /= pivots
            return _Factor(upper.numpy(), pivots.square().numpy(), damp, retries)
        damp, retries = 2 * damp, retries + 1
    raise InputError(
        f"the Hessian is not positive definite, even damped by {damp / 2:.2g} of its mean diagonal:"
        " give more calibration samples"
    )


class _Solution:
    """A weight's columns, in the order in which they are solved, and what has come of them."""

    def __init__(
        self,
        matrix: NDArray[np.float32],
        factor: _Factor,
        settings: GptqSettings,
        order: NDArray[np.int32] | None,
    ) -> None:
        self._settings = settings
        self._layout = settings.layout
        self._order = order
        self._factor = factor
        self._weights = matrix if order is None else np.ascontiguousarray(matrix[:, order])
        n, k = matrix.shape
        self._errors = np.zeros((n, k), np.float32)
        self._codes = np.empty((n, k), np.uint8)
        self._losses = np.zeros(n)
        self._length = self._layout.group_length(k)
        groups = self._layout.groups(k)
        self._scales = np.zeros((n, groups), np.float32)
        self._zeros = np.zeros((n, groups), np.float32)
        self._top = 0
        self._groups_of = (np.arange(k) // self._length).astype(np.int32)
        if settings.static_groups:
            weights = grouped_importance(k, self._layout)
            self._keep(slice(None), self._grid(grouped(matrix, self._layout), weights))
            if order is not None:
                self._groups_of = np.ascontiguousarray(self._groups_of[order])

    def solve(self) -> float:
        """Quantise every column; return tr(E H Eᵀ)."""
        k = self._weights.shape[1]
        for start in range(0, k, _BLOCK):
            stop = min(start + _BLOCK, k)
            for first, last in self._parts(start, stop):
                self._solve_part(first, last)
        return float(self._losses.sum())

    def _parts(self, start: int, stop: int) -> list[tuple[int, int]]:
        """The block's columns, cut where a group begins whose scale waits for them."""
        if self._settings.static_groups:
            return [(start, stop)]
        first = -(-(start + 1) // self._length) * self._length
        cuts = [start, *range(first, stop, self._length), stop]
        return list(itertools.pairwise(cuts))

    def _solve_part(self, first: int, last: int) -> None:
        stop = last
        starts_group = not self._settings.static_groups and first % self._length == 0
        if starts_group:  # which may go on beyond these columns
            stop = min(first + self._length, self._weights.shape[1])
        targets = self._targets(first, stop)
        if starts_group:
            group = first // self._length
            left = self._left_to_represent(first, stop, targets)
            self._keep(slice(group, group + 1), self._grid(left[:, None]))
            targets = np.ascontiguousarray(targets[:, : last - first])
        _native.gptq_columns(
            self._weights,
            targets,
            self._factor.shares,
            self._factor.pivots,
            self._scales,
            self._zeros,
            self._groups_of[first:last],
            self._codes,
            self._errors,
            self._losses,
            first=first,
            top=self._top,
        )

    def _targets(self, first: int, last: int) -> NDArray[np.float32]:
        """What columns ``first`` to ``last`` should become, given the errors of all before."""
        import torch

        weights = torch.from_numpy(self._weights[:, first:last])
        if first == 0:
            return weights.numpy().copy()
        errors = torch.from_numpy(self._errors[:, :first])
        shares = torch.from_numpy(self._factor.shares[:first, first:last])
        targets: NDArray[np.float32] = torch.addmm(weights, errors, shares).numpy()
        return targets

    def _left_to_represent(
        self, first: int, last: int, targets: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """What the columns would best become if none of them had to be rounded.

        A target counts on the errors of the columns before it, these ones' too. Without rounding
        each target is met: e_j = -Σ_{first≤i<j} e_i A_ij / A_jj - (t_j - w_j), a triangular solve.
        """
        import torch

        if first == 0:
            return targets
        weights = self._weights[:, first:last]
        shares = torch.from_numpy(self._factor.shares[first:last, first:last])
        inverse = torch.linalg.solve_triangular(
            shares, torch.eye(last - first), upper=True, unitriangular=True
        )
        left: NDArray[np.float32] = torch.addmm(
            torch.from_numpy(weights), torch.from_numpy(targets - weights), inverse
        ).numpy()
        return left

    def _grid(
        self, values: NDArray[np.float32], importance: NDArray[np.float32] | None = None
    ) -> Grid:
        clip: Clip = "mse" if self._settings.mse_clip else "none"
        return integer_grid(values, self._layout, clip, importance)

    def _keep(self, groups: slice, grid: Grid) -> None:
        self._scales[:, groups] = grid.scales
        self._zeros[:, groups] = grid.zeros
        self._top = grid.top

    def tensor(self) -> QuantTensor:
        """The result; static groups lie as the columns did, so they need no order."""
        codes, order, layout = self._codes, self._order, self._layout
        if order is not None and self._settings.static_groups:
            codes, order = np.empty_like(codes), None
            codes[:, self._order] = self._codes
        n, k = codes.shape
        asymmetric = layout.offset == "zero_point"
        return QuantTensor(
            layout,
            n,
            k,
            stored_codes(codes, layout),
            self._scales.astype(np.float16),
            self._zeros.astype(np.uint8) if asymmetric else None,
            order=order,
        )
