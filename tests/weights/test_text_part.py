"""Names of one decoder in many wrappings, and the config of its text part."""

from __future__ import annotations

from typing import Any

import pytest

from branchwise.errors import CheckpointError
from branchwise.weights.text_part import canonical_names, text_config

PLAIN = ["model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight", "model.norm.weight", "lm_head.weight"]
MULTIMODAL: dict[str, Any] = {"vision_config": {}}
INNER = "language_model.lm_head.weight"
WRAPPED: dict[str, tuple[dict[str, Any], str, str, list[str]]] = {
    "plain": ({}, "model.", "lm_head.weight", []),
    "trunk alone": ({}, "", "lm_head.weight", []),
    "Gemma 3, LLaVA": (
        MULTIMODAL,
        "language_model.model.",
        INNER,
        ["vision_tower.vision_model.encoder.layers.0.weight", "multi_modal_projector.mm_input_projection_weight"],
    ),
    "transformers 5": (
        MULTIMODAL,
        "model.language_model.",
        "lm_head.weight",
        ["model.vision_tower.x.weight", "model.multi_modal_projector.linear_1.weight", "model.image_newline"],
    ),
    "Qwen2-VL": (
        MULTIMODAL,
        "model.",
        "lm_head.weight",
        ["visual.blocks.0.attn.qkv.weight", "visual.merger.ln_q.weight"],
    ),
    "Qwen2.5-VL, new": (
        MULTIMODAL,
        "model.language_model.",
        "lm_head.weight",
        ["model.visual.patch_embed.proj.weight"],
    ),
    "SmolVLM": (
        MULTIMODAL,
        "model.text_model.",
        "lm_head.weight",
        ["model.vision_model.embeddings.x", "model.connector.modality_projection.proj.weight"],
    ),
    "InternVL": ({"llm_config": {}}, "language_model.model.", INNER, ["vision_model.x", "mlp1.0.bias"]),
    "Qwen2-Audio": ({"audio_config": {}}, "language_model.model.", INNER, ["audio_tower.conv1.bias"]),
    "value head wrapper": ({}, "pretrained_model.model.", "pretrained_model.lm_head.weight", []),
    "compiled": ({}, "_orig_mod.model.", "_orig_mod.lm_head.weight", []),
    "data parallel": ({}, "module.model.", "module.lm_head.weight", []),
}


@pytest.mark.parametrize("case", WRAPPED)
def test_the_names_are_always_the_same(case: str) -> None:
    config, prefix, head, towers = WRAPPED[case]
    stored = [prefix + name.removeprefix("model.") for name in PLAIN[:-1]] + [head, *towers]
    assert canonical_names(stored, config, "x") == dict(zip(PLAIN, stored, strict=False))


def test_heads_of_a_prm_keep_their_names() -> None:
    heads = ["score.weight", "score.0.bias", "v_head.summary.weight", "classifier.weight"]
    assert set(canonical_names([*PLAIN, *heads], {}, "x")) == {*PLAIN, *heads}
    bare = ["embed_tokens.weight", "layers.0.self_attn.q_proj.weight", "norm.weight"]
    assert set(canonical_names([*bare, *heads], {}, "x")) == {*PLAIN[:-1], *heads}
    wrapped = [f"module.{name}" for name in (*PLAIN, *heads)]
    assert set(canonical_names(wrapped, {}, "x")) == {*PLAIN, *heads}


def test_what_is_no_tower_is_never_dropped() -> None:
    names = [*PLAIN, "visual.proj.weight", "model.layers.0.cross_attn.q_proj.weight"]
    assert set(canonical_names(names, {}, "x")) == set(names)  # no multimodal config: somebody must ask why
    assert set(canonical_names(names, MULTIMODAL, "x")) == {*PLAIN, names[-1]}


def test_two_decoders_or_two_heads() -> None:
    with pytest.raises(CheckpointError, match=r"several decoders.*: model\.embed_tokens\.weight, talker\.model"):
        canonical_names([*PLAIN, "talker.model.embed_tokens.weight"], {}, "x")
    with pytest.raises(CheckpointError, match=r"'lm_head.weight' and 'model.lm_head.weight' are both"):
        canonical_names([*PLAIN, "model.lm_head.weight"], {}, "x")


def test_the_text_part_of_a_config() -> None:
    whole = {
        "model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"], "eos_token_id": [1, 106],
        "text_config": {"model_type": "gemma3_text", "hidden_size": 2560, "architectures": None}, "vision_config": {},
    }  # fmt: skip
    given = text_config(whole, "x")
    assert given["model_type"] == "gemma3_text"
    assert given["hidden_size"] == 2560
    assert given["eos_token_id"] == [1, 106]
    assert given["architectures"] == ["Gemma3ForConditionalGeneration"]
    assert text_config({"model_type": "llava", "text_config": {"vocab_size": 5}}, "x")["model_type"] == "llama"
    assert text_config({"model_type": "llama", "text_config": None}, "x")["model_type"] == "llama"
    for wrong in (1, "x", [{}], True):
        with pytest.raises(CheckpointError, match=r"config field 'text_config' is .*; expected an object"):
            text_config({"text_config": wrong}, "x")
