"""From a problem to the token ids that the policy starts from, and to the key of its random numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from branchwise._C import lineage_root
from branchwise.chat_options import NO_OPTIONS, ChatOptions
from branchwise.errors import InputError
from branchwise.text.chat import encode_prompt
from branchwise.text.length import check_length
from branchwise.text.tokenizer import Tokenizer
from branchwise.text.user_text import encode_guarded, guarded
from branchwise.types import Message, Problem

INSTRUCTION = (
    "Solve the problem step by step. Put a blank line between steps, and end with the final answer in \\boxed{}."
)


def prompt_ids(
    tokenizer: Tokenizer,
    problem: Problem,
    instruction: str,
    *,
    chat: ChatOptions = NO_OPTIONS,
    context: int | None = None,
) -> list[int]:
    """Token ids of a problem's prompt.

    chat: what the chat template gets beside messages    context: tokens that the model can see
    A question is a chat where the policy has a template, else plain text; special tokens in it are text.
    InputError when there is nothing to ask, and where it could never fit.
    """
    if problem.prompt is not None:
        return encode_prompt(tokenizer, problem.prompt, chat, context)
    text = problem.text
    if not text.strip():
        raise InputError(f"problem {problem.id!r} has an empty question: write what is to be solved")
    if tokenizer.chat_template is None:
        plain = f"{instruction}\n\n{text}\n\n" if instruction else f"{text}\n\n"
        check_length(tokenizer, plain, context)
        return encode_guarded(tokenizer, guarded(tokenizer, plain), bos=tokenizer.add_bos)
    system: list[Message] = [{"role": "system", "content": instruction}] if instruction else []
    return encode_prompt(tokenizer, [*system, {"role": "user", "content": text}], chat, context)


def prompt_digest(ids: Sequence[int]) -> str:
    """Tells prompts apart: BLAKE2b, 8 bytes, of the token ids in decimal with a comma between them."""
    return hashlib.blake2b(",".join(map(str, ids)).encode(), digest_size=8).hexdigest()


def problem_lineage(problem: Problem, ids: Sequence[int] = ()) -> int:
    """Key of a problem's random numbers: problems draw independently, in whatever order they run.

    It comes from the problem's id, or from its prompt where it has none.
    """
    key = problem.id or prompt_digest(ids)
    digest = hashlib.blake2b(key.encode(errors="surrogatepass"), digest_size=8).digest()
    return lineage_root(int.from_bytes(digest, "little"))
