"""Write the trained models as Hugging Face folders, and the held-out problems; check the folders with transformers."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from model import TinyModel, build
from safetensors.torch import load_file, save_file
from task import held_out
from vocabulary import (
    CHARACTERS,
    END,
    MARKER,
    POLICY,
    POLICY_TEMPLATE,
    PRM,
    PRM_TEMPLATE,
    UNKNOWN,
    Vocabulary,
    policy_prompt,
)

from training import HERE, RUNS

ASSETS = HERE.parents[1] / "python" / "branchwise" / "assets"
BYTE_LEVEL = {"\n": "Ċ", " ": "Ġ"}  # how byte-level vocabularies spell the two; the rest of ASCII spells itself


def tokenizer_json(vocabulary: Vocabulary) -> dict[str, object]:
    """A byte-level BPE without merges: every ASCII character is one token, any other byte is <unk>."""
    table = {BYTE_LEVEL.get(token, token): i for token, i in vocabulary.ids.items()}
    added = [
        {"id": vocabulary.ids[token], "content": token, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": True}
        for token in vocabulary.special
    ]  # fmt: skip
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": byte_level, "post_processor": None, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": UNKNOWN, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": table, "merges": []},
    }  # fmt: skip


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def export(name: str, run: str) -> Path:
    """Write assets/<name>: weights rounded to bfloat16, config, tokenizer."""
    vocabulary = PRM if name == "prm" else POLICY
    end = vocabulary.ids["<|im_end|>" if name == "prm" else END]
    pad = vocabulary.ids["<|endoftext|>"] if name == "prm" else end
    model = build(name, len(vocabulary))
    weights = torch.load(RUNS / f"{run}.pt", weights_only=True)["model"]
    if name == "prm":  # saved with the heads that only training needs
        weights = {key.removeprefix("model."): value for key, value in weights.items() if key.startswith("model.")}
    model.load_state_dict(weights)
    folder = ASSETS / name
    folder.mkdir(parents=True, exist_ok=True)
    rounded = {key: value.to(torch.bfloat16).contiguous() for key, value in model.state_dict().items()}
    save_file(rounded, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    special = {"bos_token_id": None, "eos_token_id": end, "pad_token_id": pad}
    write_json(folder / "config.json", model.shape.config(special) | {"torch_dtype": "bfloat16"})
    write_json(folder / "tokenizer.json", tokenizer_json(vocabulary))
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": model.shape.max_position_embeddings,
        "unk_token": UNKNOWN,
        "bos_token": None,
        "eos_token": vocabulary.tokens[end],
        "pad_token": vocabulary.tokens[pad],
        "additional_special_tokens": [MARKER] if name == "prm" else [],
        "clean_up_tokenization_spaces": False,
        "chat_template": PRM_TEMPLATE if name == "prm" else POLICY_TEMPLATE,
    }
    write_json(folder / "tokenizer_config.json", tokenizer_config)
    return folder


def load(name: str) -> TinyModel:
    """A model as exported: bfloat16-rounded weights, computed in float32."""
    model = build(name, len(PRM if name == "prm" else POLICY))
    model.load_state_dict({k: v.float() for k, v in load_file(ASSETS / name / "model.safetensors").items()})
    return model.eval()


def verify(name: str) -> None:
    """Compare our hidden states and tokenisation with transformers' on the exported folder."""
    from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

    folder, problem = ASSETS / name, "7+8*5-(41-32)=?"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": problem}], tokenize=False, add_generation_prompt=True
    )
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
    ours = load(name)
    with torch.inference_mode():
        if name == "prm":
            from vocabulary import prm_prompt

            assert ids[0].tolist() == prm_prompt(problem), ids
            theirs = AutoModel.from_pretrained(folder, dtype=torch.float32)(ids).last_hidden_state
            difference = (theirs - ours.hidden(ids)).abs().max().item()
        else:
            assert ids[0].tolist() == policy_prompt(problem), ids
            theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(ids).logits
            difference = (theirs - ours.logits(ours.hidden(ids))).abs().max().item()
    sample = "7+8=15; \\boxed{15}\n\n a~Z" + "".join(CHARACTERS)
    assert tokenizer.decode(tokenizer(sample, add_special_tokens=False)["input_ids"]) == sample
    print(f"{name}: largest difference from transformers {difference:.2e}")
    assert difference < 1e-3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=["policy-small", "policy-large", "prm"])
    parser.add_argument("--run", help="export this run (default: the run of the same name)")
    parser.add_argument("--no-verify", action="store_true", help="skip the comparison with transformers")
    args = parser.parse_args()
    for name in args.names:
        export(name, args.run or name)
        if not args.no_verify:
            verify(name)
    lines = [
        json.dumps({"id": f"arith-{i:03d}", "problem": e.problem, "answer": e.answer}) for i, e in enumerate(held_out())
    ]
    (ASSETS / "problems.jsonl").write_text("\n".join(lines) + "\n")
    size = sum(path.stat().st_size for path in ASSETS.rglob("*") if path.is_file())
    print(f"assets: {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
