"""How judges that write are asked: the conversation, what they write up to, and the word that is read in the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from branchwise.errors import ConfigError
from branchwise.text.chat import render_chat
from branchwise.text.tokenizer import Tokenizer
from branchwise.text.user_text import guarded, guarded_messages
from branchwise.types import Message

Conversation = Callable[[Tokenizer, str, Sequence[str], Sequence[str]], str]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A way to ask a model that writes whether the last of some steps is right.

    conversation  (tokenizer, question, steps, its replies to the earlier ones) -> text that it goes on with
    stops         end what it writes    tail: is put behind that; then the next word is `good` or `bad`
    in_turns      its replies to earlier steps are part of the conversation, so these are judged first
    """

    conversation: Conversation
    stops: tuple[str, ...]
    tail: str
    good: str
    bad: str
    in_turns: bool = False

    def reply(self, analysis: str, good: bool) -> str:
        """What stands in the conversation for a step that was judged."""
        return f"{analysis}{self.tail}{self.good if good else self.bad}" + "}$\n</output>"


def _genprm(tokenizer: Tokenizer, question: str, steps: Sequence[str], replies: Sequence[str]) -> str:
    """A turn for each step, the first with the question; the last one's reply begins without the assistant's mark."""
    system = "You are a math teacher. Your task is to review and critique the paragraphs in solution step by step."
    messages: list[Message] = [{"role": "system", "content": system}]
    for place, step in enumerate(steps):
        text = step.strip() if place else f"{question.strip()}\n{step.strip()}"
        messages.append({"role": "user", "content": text})
        if place < len(replies):
            messages.append({"role": "assistant", "content": replies[place]})
    text = render_chat(tokenizer, guarded_messages(tokenizer, messages), add_generation_prompt=False)
    return f"{text.rstrip()}<analyze>\nLet's analyze the Paragraph {len(steps)} step by step: "


_THINK_PRM = """You are given a math problem and a proposed step-by-step solution:

[Math Problem]

{question}

[Solution]

{solution}

Review and critique each step in the proposed solution to determine whether each step is correct. If the solution is \
incomplete, only verify the provided steps."""


def _thinkprm(tokenizer: Tokenizer, question: str, steps: Sequence[str], replies: Sequence[str]) -> str:
    """One message with all steps; the reply is opened."""
    solution = "\n".join(f"Step {place}: {step.strip()}" for place, step in enumerate(steps, 1))
    content = _THINK_PRM.format(question=question.strip(), solution=solution)
    messages: list[Message] = [{"role": "user", "content": content}]
    return render_chat(tokenizer, guarded_messages(tokenizer, messages)) + "\nLet's verify step by step:"


VERDICTS: Mapping[str, Verdict] = MappingProxyType(
    {
        "genprm": Verdict(_genprm, ("</analyze>\n",), "<output>\n**Judgement**: $\\boxed{", "Yes", "No", in_turns=True),
        "thinkprm": Verdict(
            _thinkprm, ("Is the solution correct?", "</think>"), "\nIs the solution correct? ", "yes", "no"
        ),
    }
)
"""GenPRM (arXiv 2504.00891; its analysis, no code) and ThinkPRM (arXiv 2504.16828), as their own programs ask them."""


def prompt_verdict(
    prompt: str, *, tail: str = "\nIs the last step correct (Yes/No)? ", good: str = "Yes", bad: str = "No",
    stops: Sequence[str] = (),
) -> Verdict:  # fmt: skip
    """Any model as a judge: `prompt` with {question} and {solution}, a reply, then `tail` and the word that counts.

    A model with a chat template gets the prompt as a user's message. ConfigError: a prompt without {solution}.
    """
    if "{solution}" not in prompt:
        raise ConfigError(f"judge prompt {prompt[:60]!r}: expected {{question}} and {{solution}} in it")

    def conversation(tokenizer: Tokenizer, question: str, steps: Sequence[str], replies: Sequence[str]) -> str:
        content = prompt.replace("{solution}", "".join(steps).strip()).replace("{question}", question.strip())
        if tokenizer.chat_template is None:
            return guarded(tokenizer, content)
        messages: list[Message] = [{"role": "user", "content": content}]
        return render_chat(tokenizer, guarded_messages(tokenizer, messages))

    return Verdict(conversation, tuple(stops), tail, good, bad)
