"""The walk: the model's own states and inputs, one layer in memory at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from sllmbench.checkpoints import open_checkpoint
from sllmbench.convert import calibrate, importance, walk
from sllmbench.convert.walk import Walk
from sllmbench.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sllmbench.convert import Calibration

IDS = (np.arange(5 * 24).reshape(5, 24) * 7 + 3) % 512


def quiet(fraction: float) -> None:
    pass


def float_model(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder).eval()


def true_inputs(net: Any, ids: np.ndarray) -> dict[str, np.ndarray]:
    """Every linear's inputs [tokens, k] in float64, from transformers alone."""
    seen: dict[str, list[torch.Tensor]] = {}
    for name, part in net.named_modules():
        if isinstance(part, torch.nn.Linear):
            part.register_forward_pre_hook(
                lambda _, x, name=name: seen.setdefault(name, []).append(x[0][0])
            )
    with torch.inference_mode():
        for row in torch.from_numpy(ids):
            net(row[None], use_cache=False)
    return {name: torch.cat(parts).double().numpy() for name, parts in seen.items()}


@pytest.mark.parametrize("bias", [False, True])
def test_a_walk_in_float_passes_through_the_models_own_states(
    make_llama: Callable[..., Path], tmp_path: Path, bias: bool
) -> None:
    folder = make_llama(bias=bias, tied=bias)
    walked = Walk(open_checkpoint(str(folder)), IDS, tmp_path)
    with torch.inference_mode():
        told = float_model(folder)(torch.from_numpy(IDS), output_hidden_states=True)
    for index in range(len(walked)):
        torch.testing.assert_close(walked.states, told.hidden_states[index], rtol=1e-5, atol=1e-5)
        layer = walked.layer(index)
        layer.advance(quiet)
        layer.release()
    net = float_model(folder)
    with torch.inference_mode():
        final = net.model.norm(walked.states)
    torch.testing.assert_close(final, told.hidden_states[-1], rtol=1e-5, atol=1e-5)


def test_one_layer_has_weights_at_a_time(tiny_llama: Path, tmp_path: Path) -> None:
    walked = Walk(open_checkpoint(str(tiny_llama)), IDS, tmp_path)
    layer = walked.layer(1)
    held = {name for name, p in walked.net.named_parameters() if not p.is_meta and p.numel()}
    assert held == {n for n, _ in walked.net.named_parameters() if ".layers.1." in n} | {
        "model.norm.weight"
    }
    layer.release()
    held = {name for name, p in walked.net.named_parameters() if not p.is_meta and p.numel()}
    assert held == {"model.norm.weight"}


def test_products_of_inputs_are_those_of_the_float_model(tiny_llama: Path, tmp_path: Path) -> None:
    expected = true_inputs(float_model(tiny_llama), IDS)
    walked = Walk(open_checkpoint(str(tiny_llama)), IDS, tmp_path)
    for index in range(len(walked)):
        layer = walked.layer(index)
        fractions: list[float] = []
        everything = layer.gather(layer.groups, fractions.append)
        assert fractions == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
        for group, inputs in zip(layer.groups, everything, strict=True):
            for name in group.linears:
                x = expected[f"{layer.name}.{name}"]
                gram = x.T @ x / len(x)
                np.testing.assert_allclose(inputs.gram, gram, atol=1e-5 * np.abs(gram).max())
                np.testing.assert_allclose(inputs.mean_abs, np.abs(x).mean(0), rtol=1e-4)
                np.testing.assert_allclose(inputs.mean_square, (x**2).mean(0), rtol=1e-4)
        layer.advance(quiet)
        layer.release()


def test_a_group_alone_is_given_what_it_is_given_among_all(
    tiny_llama: Path, tmp_path: Path
) -> None:
    layer = Walk(open_checkpoint(str(tiny_llama)), IDS, tmp_path).layer(0)
    everything = layer.gather(layer.groups, quiet)
    for group, among in zip(layer.groups, everything, strict=True):
        [alone] = layer.gather([group], quiet)
        assert alone.gram is not None
        assert torch.equal(alone.gram, among.gram)


def test_importance_is_every_inputs_mean_square_in_the_float_model(
    tiny_llama: Path, words: Path
) -> None:
    checkpoint = open_checkpoint(str(tiny_llama))
    drawn: Calibration = calibrate(checkpoint, str(words), samples=6, sequence_length=20)
    expected = true_inputs(float_model(tiny_llama), drawn.ids)
    found = importance(checkpoint, drawn)
    assert found.keys() == {f"{name}.weight" for name in expected if name != "lm_head"}
    for name, mean in found.items():
        x = expected[name.removesuffix(".weight")]
        np.testing.assert_allclose(mean, (x**2).mean(0), rtol=1e-4)


def test_states_that_memory_has_no_room_for_lie_in_a_file(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = open_checkpoint(str(tiny_llama))
    in_memory = Walk(checkpoint, IDS, tmp_path)
    assert not (tmp_path / "states").exists()
    monkeypatch.setattr(walk, "_STATES_SHARE", 0.0)
    in_file = Walk(checkpoint, IDS, tmp_path)
    assert (tmp_path / "states").stat().st_size == 4 * IDS.size * 96
    for one in (in_memory, in_file):
        one.layer(0).advance(quiet)
    assert torch.equal(in_memory.states, in_file.states)


def test_a_sliding_window_reaches_its_layers_alone(tmp_path: Path) -> None:
    """Gemma's layers are given different masks and positions, and its embedding is scaled."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    torch.manual_seed(2)
    config = Gemma3TextConfig(
        vocab_size=512, hidden_size=32, intermediate_size=48, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, sliding_window=4,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    )  # fmt: skip
    net = Gemma3ForCausalLM(config).eval()
    net.save_pretrained(tmp_path)
    walked = Walk(open_checkpoint(str(tmp_path)), IDS, tmp_path)
    with torch.inference_mode():
        told = net(torch.from_numpy(IDS), output_hidden_states=True).hidden_states
    for index in range(3):
        torch.testing.assert_close(walked.states, told[index], rtol=1e-5, atol=1e-5)
        walked.layer(index).advance(quiet)


def test_a_model_whose_layers_see_the_text_is_refused(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if positions depended on the text: what a layer is given differs between samples."""
    from transformers import LlamaModel

    own = LlamaModel.forward

    def with_positions(self: Any, input_ids: torch.Tensor, **given: Any) -> Any:
        return own(self, input_ids, position_ids=input_ids % 100, **given)

    monkeypatch.setattr(LlamaModel, "forward", with_positions)
    with pytest.raises(InputError, match="given more of each text than the states"):
        Walk(open_checkpoint(str(tiny_llama)), IDS, tmp_path)


def test_inputs_that_are_not_finite_are_refused(tiny_llama: Path, tmp_path: Path) -> None:
    layer = Walk(open_checkpoint(str(tiny_llama)), IDS, tmp_path).layer(0)
    layer.part("mlp.up_proj").weight.data[0] = torch.inf
    with pytest.raises(InputError, match=r"inputs of model\.layers\.0 are not finite"):
        layer.gather(layer.groups, quiet)
