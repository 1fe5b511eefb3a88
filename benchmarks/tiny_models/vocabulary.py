"""The character-level vocabularies: special tokens first, then the newline and printable ASCII."""

from __future__ import annotations

CHARACTERS = ["\n", *(chr(code) for code in range(32, 127))]
POLICY_SPECIAL = ["<unk>", "<|user|>", "<|assistant|>", "<|end|>"]
PRM_SPECIAL = ["<unk>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<extra_0>"]
UNKNOWN = "<unk>"
END = "<|end|>"
MARKER = "<extra_0>"

POLICY_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '<|user|>' + message['content'] + '<|assistant|>' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + '<|end|>' }}{% endif %}"
    "{% endfor %}"
)
PRM_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] != 'system' %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


class Vocabulary:
    """Maps special tokens and characters to ids; `encode` takes pieces so that no text is ever parsed for specials."""

    def __init__(self, special: list[str]) -> None:
        self.special = special
        self.tokens = [*special, *CHARACTERS]
        self.ids = {token: i for i, token in enumerate(self.tokens)}

    def __len__(self) -> int:
        return len(self.tokens)

    def encode(self, *pieces: str) -> list[int]:
        """Ids of the pieces: a piece that is a special token is one id, any other goes character by character."""
        ids: list[int] = []
        for piece in pieces:
            ids += [self.ids[piece]] if piece in self.special else [self.ids[character] for character in piece]
        return ids

    def decode(self, ids: list[int]) -> str:
        """The text of ids, special tokens left out."""
        return "".join(self.tokens[i] for i in ids if i >= len(self.special))


POLICY = Vocabulary(POLICY_SPECIAL)
PRM = Vocabulary(PRM_SPECIAL)


def policy_prompt(problem: str) -> list[int]:
    """The policy's prompt: what its chat template renders for one user message."""
    return POLICY.encode("<|user|>", problem, "<|assistant|>")


def prm_prompt(problem: str) -> list[int]:
    """The PRM's prompt: user turn and the opening of the assistant turn."""
    return PRM.encode("<|im_start|>", f"user\n{problem}", "<|im_end|>", "\n", "<|im_start|>", "assistant\n")
