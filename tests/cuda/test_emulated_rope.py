"""The fused rotation and append, on the emulated device, against the same steps in torch."""

from __future__ import annotations

import pytest

from sllmbench import InputError, _native

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(
    _native.cuda_toolkit != "emulated", reason="not the emulated build: .ci/cuda makes it"
)
POSITIONS, CAPACITY = 40, 32


def step(
    tokens: int, heads: int, kv_heads: int, dim: int, value_dim: int
) -> dict[str, torch.Tensor]:
    """Operands whose q, k and v are parts of one projection's output."""
    generator = torch.Generator().manual_seed(tokens + dim)
    widths = [heads * dim, kv_heads * dim, kv_heads * value_dim]
    fused = torch.randn(tokens, sum(widths), generator=generator).half()
    q, k, v = fused.split(widths, dim=1)
    angles = torch.rand(POSITIONS, dim // 2, generator=generator) * 6
    return {
        "q": q.unflatten(1, (heads, dim)),
        "k": k.unflatten(1, (kv_heads, dim)),
        "v": v.unflatten(1, (kv_heads, value_dim)),
        "cos": angles.cos(),
        "sin": angles.sin(),
        "positions": torch.randperm(POSITIONS, generator=generator)[:tokens],
        "slots": torch.randperm(CAPACITY, generator=generator)[:tokens],
        "k_cache": torch.full((kv_heads, CAPACITY, dim), 7.0).half(),
        "v_cache": torch.full((kv_heads, CAPACITY, value_dim), 7.0).half(),
    }


def rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """x [tokens, heads, dim] by angles [tokens, heads or 1, dim / 2], in float32."""
    low, high = x.float().chunk(2, dim=-1)
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1)


@pytest.mark.parametrize("pruned", [False, True])
@pytest.mark.parametrize(
    "shape", [(1, 32, 8, 64, 64), (5, 4, 2, 16, 16), (9, 3, 1, 6, 10), (1, 1, 1, 2, 1)]
)
def test_it_rotates_and_appends(shape: tuple[int, ...], pruned: bool) -> None:
    from sllmbench.paths.cuda_rope import rope_append

    given = step(*shape)
    _, heads, kv_heads, dim, _ = shape
    pairs = torch.arange(dim // 2).expand(kv_heads, -1)
    if pruned:
        pairs = torch.stack([torch.randperm(dim // 2) for _ in range(kv_heads)])
        given["pairs"] = pairs.to(torch.uint8)
    cos, sin = (given[name][given["positions"]][:, pairs] for name in ("cos", "sin"))
    share = heads // kv_heads
    wide = [part.repeat_interleave(share, dim=1) for part in (cos, sin)]
    expected_q, expected_k = rotated(given["q"], *wide), rotated(given["k"], cos, sin)
    kept = given["v"].clone()
    rope_append(**given)
    slots = given["slots"]
    for got, expected in (
        (given["q"], expected_q),
        (given["k_cache"][:, slots].transpose(0, 1), expected_k),
    ):
        assert ((got.float() - expected).abs() <= 2.0**-10 * expected.abs() + 1e-6).all()
    assert torch.equal(given["v_cache"][:, slots].transpose(0, 1), kept)
    others = torch.ones(CAPACITY, dtype=torch.bool)
    others[slots] = False
    assert (given["k_cache"][:, others] == 7).all()
    assert (given["v_cache"][:, others] == 7).all()


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("q", lambda x: x.float(), "q must be torch.float16"),
        ("k", lambda x: x[:, :, ::2], "k must be torch.float16"),
        ("k", lambda x: x.transpose(1, 2).contiguous().transpose(1, 2), "contiguous within a"),
        ("slots", lambda x: x.int(), "slots must be torch.int64"),
        ("v_cache", lambda x: x[:, :-1], "v_cache must be torch.float16"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, change: object, says: str) -> None:
    from sllmbench.paths.cuda_rope import rope_append

    given = step(3, 4, 2, 16, 16)
    given[name] = change(given[name])  # type: ignore[operator]
    with pytest.raises(InputError, match=says):
        rope_append(**given)
