"""`PRM_FORMATS` by name, and which one a checkpoint shows signs of: by its tensors and its class, never by its path."""

from __future__ import annotations

from dataclasses import dataclass

from branchwise.errors import ConfigError
from branchwise.models.config import DecoderConfig
from branchwise.prm_format import (
    Chat,
    Ensemble,
    Labels,
    Linear,
    MeanLogit,
    Mlp,
    PrmFormat,
    Text,
    Turns,
    Words,
)  # fmt: skip
from branchwise.scoring.heads import ENSEMBLE_TENSORS, MLP_TENSORS, Head, Source, label_tensors, read_head
from branchwise.scoring.inputs import PrmInput
from branchwise.scoring.layouts import written
from branchwise.text.tokenizer import Tokenizer
from branchwise.weights.checkpoint import Checkpoint

STEP_BY_STEP = "Please reason step by step, and put your final answer within \\boxed{}."


def _under(system: str) -> tuple[tuple[str, str], ...]:
    return (("system", system), ("user", "{problem}"), ("assistant", "{steps}"))


_QWEN = _under(STEP_BY_STEP)
_WHOLE = ("{step}\n\n", "", "{step}{end}")  # a turn that ends where it is scored
_CHECKED = "Please reason step by step, and check your final answer within \\boxed{}."
_NO_REFERENCE = "{problem}\n\n###\n\nThe reference answer is: There is no reference answer for this question."
_ASSISTED = (("system", "You are a helpful assistant."), ("user", _NO_REFERENCE), ("assistant", "{steps}"))
_SIGNS, _TIGHT_SIGNS = Words(" +", " -"), Words("+", "-")
_TEACHER = (
    "You are a Math Teacher. Given a question and a student's solution, evaluate the mathematical correctness, logic "
    "consistency of the current step and whether it will lead to the correct final solution\n\n Question: {problem}"
)
_REASONED = "Current Step: {step} Math reasoning: "

PRM_FORMATS: dict[str, PrmFormat] = {
    # plain causal models
    "math-shepherd": PrmFormat(Text("{problem} ", "{step} ки", "\n", marker="ки"), _SIGNS),
    "er-prm": PrmFormat(Text("{problem} ", "{step} ки", marker="ки"), _SIGNS),
    "math-psa": PrmFormat(Text("{problem} ", "{step} \n\n\n\n\n", " "), _SIGNS),
    "versa-prm": PrmFormat(Text("{problem} \n\n", "{step} \n\n\n\n"), _TIGHT_SIGNS),
    "rlhflow": PrmFormat(Turns("{problem} {step}", "+"), _TIGHT_SIGNS),
    "pathfinder": PrmFormat(
        Chat(
            "{step}\n\n",
            checks=(_REASONED, _REASONED + "<extra>, Consistency: "),
            last=_REASONED + "<+>, Consistency: <+>, Correctness: ",
            messages=(("user", _TEACHER), ("assistant", "{steps}")),
        ),
        Words("<+>", "<->"),
    ),
    "llemma-reward": PrmFormat(Text("{problem} ", "{step} ки", "\n", marker="ки"), MeanLogit()),
    "llemma-prm800k": PrmFormat(Text("# Question\n\n{problem}\n\n# Solution\n\n", "{step}\n", "\n"), MeanLogit()),
    # with a head of their own
    "qwen-prm": PrmFormat(Chat("{step}<extra_0>", marker="<extra_0>", messages=_QWEN), Mlp()),
    "reasonflux": PrmFormat(Chat("{step}<extra_0>", marker="<extra_0>"), Mlp()),
    "act-prm": PrmFormat(Chat("{step}<extra_0>", marker="<extra_0>", messages=_QWEN), Ensemble()),
    "skywork": PrmFormat(Text("{problem}\n", "{step}\n", pieces=True, one_line=True), Linear("v_head.summary")),
    "pqm": PrmFormat(Text("{problem}\n", "{step} [PRM]", "\n", marker="[PRM]"), Linear("v_head.summary", wide=True)),
    "trl": PrmFormat(Text("{problem}", "{step}\n\n", pieces=True), Labels()),
    "trl-lines": PrmFormat(Text("{problem}", "{step}\n", pieces=True), Labels()),
    "prm800k": PrmFormat(
        Text("Problem: {problem}\nSteps:\n", "Step {number}: {step}\nки", "\n", marker="ки"), Linear(wide=True)
    ),
    "universal": PrmFormat(Chat("{step}\n\n", last="{step}\n\n{eos}", messages=_ASSISTED), Linear(wide=True)),
    # outcome models: they score the branch so far
    "outcome": PrmFormat(Chat(*_WHOLE), Linear("score", wide=True)),
    "acemath-rm": PrmFormat(Chat(*_WHOLE, messages=_under(_CHECKED)), Linear("score", wide=True)),
    "qwen-rm": PrmFormat(Chat(*_WHOLE, messages=_QWEN), Mlp(labels=1)),
    "rlhflow-orm": PrmFormat(
        Chat(*_WHOLE, messages=(("user", "{problem} {steps}"), ("assistant", "{word}"))), _TIGHT_SIGNS
    ),
    "reasonflux-orm": PrmFormat(Text("{problem}", "{step}\n\n", last="{step}"), Linear("reward_head", wide=True)),
}
_CAUSAL = tuple(name for name, made in PRM_FORMATS.items() if isinstance(made.head, Words | MeanLogit))
_HEADS = {
    "qwen-prm": MLP_TENSORS,
    "act-prm": ENSEMBLE_TENSORS,
    "skywork": ("v_head.summary.weight",),
    "reasonflux-orm": ("reward_head.weight",),
}
_HEAD_LAYERS = (
    "score",
    "classifier",
    "v_head",
    "reward_head",
)  # of heads that a decoder may have beside it, of use or not


@dataclass(frozen=True, slots=True)
class Built:
    """A format for one checkpoint; extra: names of its tensors that belong to heads."""

    input: PrmInput
    head: Head
    extra: frozenset[str]


def make_format(
    wanted: str | PrmFormat, checkpoint: Checkpoint, config: DecoderConfig, tokenizer: Tokenizer
) -> Built:  # fmt: skip
    """Build input and head of a format, or of one by name ("auto": detect).

    ConfigError: an unknown name, or a head that the checkpoint lacks. TokenizerError: a vocabulary that does not fit.
    """
    name, chosen = "of your own", wanted
    if isinstance(chosen, str):
        name = detect_format(checkpoint, tokenizer) if chosen == "auto" else chosen
        if name not in PRM_FORMATS:
            raise ConfigError(f"prm_format={name!r}: expected auto or one of {', '.join(PRM_FORMATS)}")
        name, chosen = repr(name), PRM_FORMATS[name]
    made = written(chosen.layout, tokenizer, name)
    head = read_head(chosen.head, Source(checkpoint, config, made))
    beside = {name for name in checkpoint.names() if name.split(".")[0] in _HEAD_LAYERS}
    return Built(made.input, head, frozenset({*beside, *head.names}))


def detect_format(checkpoint: Checkpoint, tokenizer: Tokenizer) -> str:
    """Name of the format that a checkpoint shows signs of. ConfigError when it shows none: it may be any model."""
    names, classes = checkpoint.names(), checkpoint.config.get("architectures") or []
    for name, tensors in _HEADS.items():
        if names.issuperset(tensors):
            return _twin(name, checkpoint, tokenizer)
    if label_tensors(checkpoint):
        if any(str(each).endswith("ForTokenClassification") for each in classes):
            return "trl"
        one = "score.weight" in names and checkpoint.shape("score.weight")[0] == 1
        if one and any(str(each).endswith("ForSequenceClassification") for each in classes):
            return "outcome"
    known = f"of class {', '.join(map(str, classes))}" if classes else "of no known class"
    raise ConfigError(
        f"{checkpoint.source} ({known}) has no reward head that says how its input is written: use a process reward"
        " model with such a head, or, if this one was trained to judge, choose how with prm_format= (--prm-format): "
        f"{', '.join(PRM_FORMATS)}. Those without a head of their own are {', '.join(_CAUSAL)}"
    )


def _twin(name: str, checkpoint: Checkpoint, tokenizer: Tokenizer) -> str:
    """Of two formats that name their tensors alike, the one that a checkpoint has."""
    if name == "skywork" and tokenizer.token_id("[PRM]") is not None:
        return "pqm"
    return "qwen-rm" if name == "qwen-prm" and checkpoint.shape(MLP_TENSORS[2])[0] == 1 else name


def format_note(wanted: str | PrmFormat, checkpoint: Checkpoint, tokenizer: Tokenizer) -> str | None:
    """What a user should know who chose a format, or who left it to `detect_format`; None where all is certain."""
    head = wanted.head if isinstance(wanted, PrmFormat) else wanted in _CAUSAL and PRM_FORMATS[wanted].head
    if isinstance(head, Words | MeanLogit):
        name = wanted if isinstance(wanted, str) else "your own"
        return (
            f"prm_format={name}: nothing in {checkpoint.source} says that it was trained to judge steps; if it was not"
            " trained for that, its scores mean nothing"
        )
    found = detect_format(checkpoint, tokenizer) if wanted == "auto" else ""
    return _ASSUMED[found].format(checkpoint.source) if found in _ASSUMED else None


_ASSUMED = {
    "outcome": "{} judges whole answers, and does not say under which system message: none is assumed; --prm-format"
    " acemath-rm is for AceMath's",
    "trl": "{} does not say what separated its training steps: a blank line is assumed; --prm-format trl-lines is for"
    " one newline",
    "pqm": "{}: scores of PQM order steps of one problem, and are no probabilities (the sigmoid of a value that was"
    " trained by ranking)",
}
