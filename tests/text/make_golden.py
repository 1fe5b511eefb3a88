# ruff: noqa: RUF001 - the corpus is full of look-alike characters on purpose
"""Writes tests/text/golden/*.json: token ids and bytes that llama.cpp gives for awkward strings.

Real vocabularies stay in their GGUF files; two small ones made here are stored with the golden values, so that these
tests need no model. Run by hand with llama-cpp-python, gguf and tokenizers; the golden files are committed:
    python tests/text/make_golden.py ~/.cache/branchwise-models
"""

from __future__ import annotations

import ctypes
import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

GOLDEN = Path(__file__).parent / "golden"

PLAIN = [
    "",
    " ",
    "  ",
    "\n",
    "\n\n",
    "\n\n\n",
    " \n \n\n ",
    "\t",
    "\t\t\t",
    "\r\n\r\n",
    "\r",
    "\x0b\x0c\x1c\x85\xa0\u1680\u2003\u2028\u2029\u202f\u205f\u3000 x",
    "Hello, world!",
    " Hello world",
    "  Hello  world  ",
    "Hello world\n",
    "Hello\n\nworld\n\n\n",
    "a\n b\n  c\n   d\n    e",
    "don't won't I'll I've you're he'd she's I'm DON'T I'LL 'S 'Re'vE it'ſ",
    "'s't're've'm'll'd",
    "0 1 12 123 1234 12345 123456 1234567 12345678",
    "3.14159265358979 1,000,000 -42 +7 1e-10 0x1F 0b1010 ½ ² Ⅷ ④ ٣٤٥ १२३ 一二三",
    "192.168.0.1:8080 2024-02-29T23:59:59Z 50% $9.99 €10 #1",
    "The answer is \\boxed{\\frac{3}{4}}.",
    "$$\\int_{0}^{\\infty} e^{-x^2}\\,dx = \\frac{\\sqrt{\\pi}}{2}$$",
    "\\begin{align*}\n  a &= b + c \\\\\n  &\\leq \\sum_{i=1}^{n} x_i^{2}\n\\end{align*}",
    "## Step 1: Find $x$.\n\n$x = 2y + 3$\n\n## Step 2: Solve\n\n",
    "def f(x: int) -> int:\n    if x <= 1:\n        return 1\n\treturn x * f(x - 1)  # done\n",
    "for (int i = 0; i < n; ++i) { a[i] += b[i] * c[i]; } // loop\n\n#include <vector>\n",
    'SELECT * FROM "t" WHERE a != \'b\' AND c >= 10;\n{"key": [1, 2.5, null, true]}',
    "x=1;y=2;z=x**2+y**2;print(f'{z:>10}')",
    "https://example.com/a/b?c=d&e=f%20g#h user@example.org",
    "!@#$%^&*()_+-=[]{}|;':\",./<>?`~",
    "....... ------ ______ ====== ****** !!!???",
    "你好，世界！今天天气怎么样？",
    "日本語のテキストです。カタカナとひらがなと漢字。",
    "안녕하세요 세계 ㄱㄴㄷ",
    "ภาษาไทยไม่มีช่องว่าง",
    "Привет, мир! Ёлка",
    "Ελληνικά ΚΑΙ ς",
    "مرحبا بالعالم \u200fשלום עולם\u200e",
    "नमस्ते दुनिया क्षत्रिय বাংলা தமிழ்",
    "é e\u0301 n\u0303 a\u030a\u0323 Z\u0351\u036b\u0343\u036a ﬁ ﬀ ŉ ǆ",
    "ÀÉÎÕÜ ßẞ İı Straße naïve café",
    "😀 😃😄 👍🏽 👨‍👩‍👧‍👦 🏳️‍🌈 🇫🇷🇩🇪 ❤️ ☕︎",
    "a😀b 👩🏿‍💻c",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝟘𝟙𝟚 𝑥²+𝑦² 🜁 𓀀 𐍈",
    "\ufffd\ufffd \ufffe \uffff \U0010ffff \ue000 \U000e0001",
    "\x00\x01\x02 \x07\x08 \x1b[31m \x7f \x80\x9f \xad",
    "zero\u200bwidth\u200cjoin\u200der\u2060\ufeff",
    "≤ ≥ ≠ ≈ ∑ ∏ √ ∞ ∈ ∀ ∃ → ⇒ ⊕ ∂ ∇ α β γ π θ",
    "“quotes” ‘single’ «guillemets» — – … • · ¿¡",
    "camelCaseAndPascalCase snake_case_name kebab-case SCREAMING_CASE iPhone15Pro",
    "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "hahahahahahahahaha abababababab xyxyxyxyx",
    "a" * 700,
    " " * 130 + "x",
    "\n" * 70,
    "\t" * 40 + "y" + "\t" * 33,
    "=" * 100 + "-" * 99 + "#" * 65,
    "9" * 50,
    " \n" * 30,
    "\n\n \n\n  \n\n\t\n",
    "word " * 40,
    "日" * 60,
    "😀" * 25,
    "!" * 33 + "?" * 17,
    " a  b   c    d     e      f",
    "x\u0301" * 12,
    "<b>bold</b> <i>it</i> <h1>T</h1> <table><tr><td>1</td></tr></table> <br> <ul><li>x</li></ul>",
    "< b > <0x0A> <0xFF> <unk <s <|im _start|>",
    "[multimodal] [PAD151665] <unused> [INST] [/INST]",
]

# Text that writes out special tokens: read as text, or as tokens with special=True.
MARKUP = [
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n",
    "a<|im_end|>b <|im_end|> c\n<|im_end|>\n\n",
    "<|endoftext|><|endoftext|> x<eos>",
    "<tool_call>\n{}\n</tool_call>",
    "<|begin_of_text|><|eot_id|> <unused0> <pad><mask> <repo_name>r<file_sep>",
    "<|im_start|><|im_start", "<<bos>>", " <bos> ", "<start_of_image> <end_of_image>",
]  # fmt: skip

FUZZ_ALPHABETS = [
    "ab c", "aA1 \n", " \n\t", "0123456789.,", "xyz'stmdlrev ", "<>/b|im_ ", "日本語a b。", "é\u0301ñ o",
    "😀👍🏽\u200d❤️ a",
    "{}[]()\\$^_&% x2", "\u00a0\u2003 \r\nq", "абв где", "-=#* \n1",
]  # fmt: skip

VARIANTS: dict[str, tuple[str, dict[str, dict[str, Any]]]] = {
    "smollm2": (
        "smollm2-135m-instruct-q4_1.gguf",
        {
            "as stored": {},
            "gpt-2": {"tokenizer.ggml.pre": "gpt-2"},
            "default": {"tokenizer.ggml.pre": "default"},
            "llama-bpe": {"tokenizer.ggml.pre": "llama-bpe"},
        },
    ),
    "qwen2.5-coder-0.5b": (
        "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
        {"as stored": {}, "gpt-2": {"tokenizer.ggml.pre": "gpt-2"}},
    ),
    "gemma-3-270m": ("gemma-3-270m-q4_k_m.gguf", {"as stored": {}}),
}


def fuzz(count: int, longest: int) -> list[str]:
    """Random strings over small alphabets, the same on every run."""
    source = random.Random(20240229)
    alphabets = [*FUZZ_ALPHABETS, "".join(FUZZ_ALPHABETS)]
    return ["".join(source.choices(source.choice(alphabets), k=source.randint(1, longest))) for _ in range(count)]


def texts() -> list[str]:
    """The whole corpus, in the order of the golden files."""
    return PLAIN + MARKUP + fuzz(120, 40)


def record(path: Path, overrides: dict[str, Any], corpus: list[str]) -> dict[str, Any]:
    """What llama.cpp says about one vocabulary with some metadata replaced."""
    import llama_cpp

    llm = llama_cpp.Llama(str(path), vocab_only=True, verbose=False, kv_overrides=overrides or None)
    vocabulary = llama_cpp.llama_model_get_vocab(llm.model)
    count = llama_cpp.llama_vocab_n_tokens(vocabulary)

    def ids(text: str, special: bool) -> list[int]:
        return llm.tokenize(text.encode(), add_bos=False, special=special) if text else []

    def piece(id: int) -> str:
        buffer = ctypes.create_string_buffer(1024)
        length = llama_cpp.llama_token_to_piece(vocabulary, id, buffer, len(buffer), 0, False)
        return buffer.raw[:length].hex()

    sample = sorted({*range(300), *range(count - 300, count), *range(0, count, count // 300)})
    return {
        "overrides": overrides,
        "plain": [ids(text, False) for text in corpus],
        "special": [ids(text, True) for text in corpus],
        "end": [id for id in range(count) if llama_cpp.llama_vocab_is_eog(vocabulary, id)],
        "add_bos": bool(llama_cpp.llama_vocab_get_add_bos(vocabulary)),
        "bos": llama_cpp.llama_vocab_bos(vocabulary),
        "pieces": {} if overrides else {str(id): piece(id) for id in sample},
    }


def small_byte_level(corpus: list[str]) -> dict[str, Any]:
    """Metadata of a BPE vocabulary whose merges ignore word borders, so that every rule about words shows."""
    import tokenizers
    from tokenizers import models, pre_tokenizers, trainers

    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        corpus, trainers.BpeTrainer(vocab_size=2400, initial_alphabet=alphabet, show_progress=False)
    )
    model = json.loads(backend.to_str())["model"]
    words = sorted(model["vocab"], key=model["vocab"].get)
    tokens = [*words, "<|end_of_text|>", "<|eot_id|>", "<think>", "[PAD0]"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * len(words) + [3, 3, 4, 5],
        "tokenizer.ggml.merges": [" ".join(merge) for merge in model["merges"]],
        "tokenizer.ggml.bos_token_id": len(words),
        "tokenizer.ggml.eos_token_id": len(words) + 1,
    }


def small_sentencepiece(corpus: list[str]) -> dict[str, Any]:
    """Metadata in the manner of Llama 2: newlines as bytes, a space before the first word, scores by rank."""
    import tokenizers
    from tokenizers import models, trainers

    backend = tokenizers.Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(vocab_size=1500, show_progress=False)
    # Characters outside the alphabet are written as bytes.
    texts = ["".join(c for c in text if (c.isprintable() and ord(c) < 0x800) or c in "日本語") for text in corpus]
    texts = [text.replace(" ", "\u2581") for text in texts]
    backend.train_from_iterator(texts, trainer)
    vocabulary = backend.get_vocab()
    words = sorted(vocabulary, key=vocabulary.get)
    special = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *words],
        "tokenizer.ggml.token_type": [2, 3, 3, 4, 4] + [6] * 256 + [1] * len(words),
        "tokenizer.ggml.scores": [0.0] * (5 + 256) + [-float(rank) for rank in range(len(words))],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }


def write_gguf(path: Path, metadata: dict[str, Any]) -> None:
    """A GGUF file without tensors that llama.cpp opens for its vocabulary."""
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    for key, value in metadata.items():
        add = {list: writer.add_array, str: writer.add_string}.get(type(value), writer.add_uint32)
        add(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def main(models: Path) -> None:
    corpus = texts()
    GOLDEN.mkdir(exist_ok=True)

    def write(name: str, path: Path, source: dict[str, Any], variants: dict[str, dict[str, Any]]) -> None:
        recorded = {variant: record(path, overrides, corpus) for variant, overrides in variants.items()}
        golden = {**source, "texts": corpus, "variants": recorded}
        (GOLDEN / f"{name}.json").write_text(json.dumps(golden, separators=(",", ":")) + "\n")

    for name, (file, variants) in VARIANTS.items():
        write(name, models / file, {"file": file}, variants)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocabulary.gguf"
        for name, make, key, values in SMALL:
            metadata = make(PLAIN)  # without markup, so that no word looks like a special token
            write_gguf(path, metadata)
            write(name, path, {"metadata": metadata}, {str(value): {key: value} for value in values})


SMALL = [
    (
        "small-byte-level",
        small_byte_level,
        "tokenizer.ggml.pre",
        ["default", "gpt-2", "smollm", "qwen2", "llama-bpe"],
    ),
    ("small-sentencepiece", small_sentencepiece, "tokenizer.ggml.add_space_prefix", [True, False]),
]

if __name__ == "__main__":
    main(Path(sys.argv[1]).expanduser())
