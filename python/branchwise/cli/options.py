"""The options that `solve` and `eval` share: declared once, as a dataclass, and given to a command in one piece."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from branchwise.backend.memory import GIB
from branchwise.chat_options import parse_variables
from branchwise.config import EngineConfig
from branchwise.errors import ConfigError, InputError

if TYPE_CHECKING:
    from branchwise.cli.judges import FileJudge
    from branchwise.strategies.protocol import Strategy

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": GIB, "t": GIB << 10}
_PATHS = ("policy", "prm", "weight_cache", "calibration")  # of any bytes
_MODELS, _SEARCH, _SAMPLING = "Models", "Search", "Sampling"


def option(panel: str, help_: str, *names: str, metavar: str | None = None) -> Any:
    """An option of a command, in a panel of its help."""
    return typer.Option(*names, help=help_, metavar=metavar, rich_help_panel=panel)


Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOptions:
    """Which models search, by which rule, and how they sample. `None` is the default of the strategy or the engine."""

    policy: Annotated[
        str | None,
        option(
            _MODELS, "Model that writes steps: folder, .gguf file or hub id (org/name). Default: the bundled one.",
            metavar="MODEL",
        ),
    ] = None  # fmt: skip
    prm: Annotated[
        str | None,
        option(
            _MODELS, "Process reward model that scores them; what votes without scores needs none.",
            metavar="MODEL",
        ),
    ] = None  # fmt: skip
    prm_format: Annotated[
        str,
        option(
            _MODELS, "Format of the PRM, such as rlhflow or trl-lines (see docs/prms.md); auto: by its head.",
            metavar="NAME",
        ),
    ] = "auto"  # fmt: skip
    judge: Annotated[
        list[str] | None,
        option(
            _MODELS, "Your own judge of a file, in the place of a PRM or beside it: a function of (question, branches),"
            " or an object that judges, as in my.py:checker (examples/my_judge.py has two), or a value head of"
            " train-head, as in head.safetensors; may be repeated.",
            metavar="FILE[:NAME]",
        ),
    ] = None  # fmt: skip
    judge_rule: Annotated[
        str | None,
        option(
            _MODELS, "One score of those of several judges, --prm and every --judge in this order: product, mean, min,"
            " or first (it decides, the others are recorded).", metavar="NAME",
        ),
    ] = None  # fmt: skip
    calibration: Annotated[
        str | None,
        option(
            _MODELS, "What `branchwise calibrate` measured of these models: confidence and the strategy auto go by it.",
            metavar="FILE",
        ),
    ] = None  # fmt: skip
    judge_quality: Annotated[
        float | None,
        option(
            _MODELS,
            "Without a calibration: how often the judge scores a right solution above a wrong one, 0.5 to 1.",
        ),
    ] = None
    instruction: Annotated[
        str | None,
        option(
            _MODELS, "System message of every question, '' for none. Default: solve it step by step, box the answer."
        ),
    ] = None
    date: Annotated[
        str | None,
        option(
            _MODELS, "Day that the policy's chat template is told: 2026-11-30, or today. Default: 2024-07-26, always.",
            metavar="DATE",
        ),
    ] = None  # fmt: skip
    template_var: Annotated[
        list[str] | None,
        option(
            _MODELS, "Variable of the policy's chat template, such as enable_thinking=false; may be repeated.",
            metavar="NAME=VALUE",
        ),
    ] = None  # fmt: skip
    device: Annotated[
        str,
        option(_MODELS, "cpu, cuda, one GPU of several as in cuda:1; auto: a GPU where there is one.", metavar="NAME"),
    ] = "auto"
    prm_device: Annotated[
        str | None, option(_MODELS, "Device of the PRM, where it has one of its own.", metavar="NAME")
    ] = None
    dtype: Annotated[
        str,
        option(
            _MODELS, "Type of weights and KV: float32, bfloat16, float16 (GPU), or auto by the policy's size.",
            metavar="TYPE",
        ),
    ] = "auto"  # fmt: skip
    weights: Annotated[
        str,
        option(
            _MODELS, "Form of matrices on the CPU: dense, stored (a GGUF file's blocks as they are), int8, q8 or q4.",
            metavar="FORM",
        ),
    ] = "dense"  # fmt: skip
    weight_cache: Annotated[
        str | None,
        option(
            _MODELS, "Folder for weights as the CPU reads them, a file for each model: later starts take a fraction of"
            " the time.",
            metavar="DIR",
        ),
    ] = None  # fmt: skip
    kv_memory: Annotated[
        str | None,
        option(
            _MODELS, "Memory of both KV caches, as 512M or 4G. Default: a quarter of what is free, at most 8G.",
            metavar="SIZE",
        ),
    ] = None  # fmt: skip
    prefix_cache: Annotated[
        bool,
        option(
            _MODELS, "Keep the KV of prompts and judged steps, as long as there is room, for later ones that begin"
            " alike; results are the same.",
        ),
    ] = True  # fmt: skip
    threads: Annotated[
        int | None, option(_MODELS, "Threads on the CPU; results are the same with any. Default: physical cores.")
    ] = None
    strategy: Annotated[
        str,
        option(
            _SEARCH, "One of those below, or your own: a class of a file, as in my.py:MyStrategy.", "--strategy", "-s",
            metavar="NAME",
        ),
    ] = "beam"  # fmt: skip
    n: Annotated[
        int | None,
        option(_SEARCH, "How many solutions are grown. Default: that of the strategy, 16 or 40.", "--n", "-n"),
    ] = None
    expand: Annotated[
        int | None, option(_SEARCH, "Children of every step that is kept, as in beam: n/expand are kept. Default: 4.")
    ] = None
    max_steps: Annotated[
        int | None, option(_SEARCH, "Steps of a solution at most. Default: 40 where branches are pruned.")
    ] = None
    aggregate: Annotated[
        str | None,
        option(
            _SEARCH,
            "Score of a branch from those of its steps: last, min, prod or mean. Default: last.",
            metavar="NAME",
        ),
    ] = None
    vote: Annotated[
        str | None,
        option(
            _SEARCH, "Weight of an answer: majority (how many gave it), max (best score), weighted (sum of scores),"
            " borda (by rank). Default: that of the strategy.", metavar="NAME",
        ),
    ] = None  # fmt: skip
    strategy_option: Annotated[
        list[str] | None,
        option(
            _SEARCH, "Any other option of the strategy, as listed below; may be repeated.", "--strategy-option", "-O",
            metavar="NAME=VALUE",
        ),
    ] = None  # fmt: skip
    temperature: Annotated[float, option(_SAMPLING, "0 takes the likeliest token; higher is more diverse.")] = 0.8
    top_p: Annotated[float, option(_SAMPLING, "Likeliest tokens that hold this share in all; 1 keeps every token.")] = (
        1.0
    )
    top_k: Annotated[int, option(_SAMPLING, "That many likeliest tokens; 0 keeps every token.")] = 0
    min_p: Annotated[
        float, option(_SAMPLING, "Tokens with this share of the likeliest one's; 0 keeps every token.")
    ] = 0.0
    repetition_penalty: Annotated[
        float,
        option(_SAMPLING, "Above 1: tokens of prompt and solution become less likely, as in transformers."),
    ] = 1.0
    presence_penalty: Annotated[
        float, option(_SAMPLING, "Taken once from the logit of every token that the solution has, as in vLLM.")
    ] = 0.0
    frequency_penalty: Annotated[float, option(_SAMPLING, "The same, for each time that the solution has it.")] = 0.0
    max_tokens: Annotated[int, option(_SAMPLING, "Tokens of one solution at most.")] = 2048
    max_step_tokens: Annotated[int, option(_SAMPLING, "Tokens of one step at most.")] = 512
    confidence_top: Annotated[
        int | None,
        option(
            _SEARCH, "Tell how sure the policy was of every solution, over so many likeliest words, for votes by that."
            " Default: where the strategy asks."
        ),
    ] = None  # fmt: skip
    confidence_window: Annotated[int, option(_SEARCH, "Tokens of a group, of which the least sure one counts.")] = 2048
    delimiter: Annotated[
        list[str] | None,
        option(
            _SAMPLING, "Text that ends a step, taken literally but for \\n, \\t, \\r and \\\\; may be given several"
            " times. Default: a blank line outside of code fences and formulas.", metavar="TEXT",
        ),
    ] = None  # fmt: skip
    stop: Annotated[
        list[str] | None,
        option(
            _SAMPLING, "Text that ends the solution, as for --delimiter; may be given several times.", metavar="TEXT"
        ),
    ] = None
    end_at_answer: Annotated[
        bool | None,
        option(
            _SAMPLING, 'End a solution after its box, or at a new "Problem:" or "Question:". Default: for models'
            " without a chat template.",
        ),
    ] = None  # fmt: skip
    seed: Annotated[int, option(_SAMPLING, "The same seed gives the same tree, bit for bit.")] = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.name not in _PATHS:
                check_text(f"--{field.name.replace('_', '-')}", getattr(self, field.name))

    def make_strategy(self) -> Strategy:
        """The strategy with the options that were given. ConfigError says what cannot work, before models load."""
        from branchwise.cli.strategies import check_known, recipe, split_options

        flags, texts = self.strategy_flags(), split_options(self.strategy_option or [])
        made = recipe(self.strategy)
        check_known([made], {**flags, **texts})
        strategy = made.strategy(made.options(flags, texts))
        self.check_judge(strategy)
        return strategy

    def strategy_flags(self) -> dict[str, object]:
        """The options of strategies that were given by flags of their own."""
        from branchwise.cli.strategies import FLAGS

        return {name: getattr(self, name) for name in FLAGS if getattr(self, name) is not None}

    def check_judge(self, strategy: Strategy) -> None:
        """Raise ConfigError for a strategy that needs scores where nothing gives any."""
        from branchwise.strategies.auto import Auto
        from branchwise.strategies.protocol import Limits

        if isinstance(strategy, Auto):
            return  # it does with what there is
        needs = strategy.demand(Limits(self.max_tokens, self.max_step_tokens))
        if needs.scores and self.policy is not None and self.prm is None and not self.judge:
            raise ConfigError(
                f"strategy {strategy.name!r} needs step scores: name a process reward model with --prm, or a judge of"
                " your own with --judge, or choose --strategy majority, which needs none"
            )

    def own_judges(self) -> list[FileJudge]:
        """The judges of files. ConfigError says what cannot work, before models load."""
        from branchwise.cli.judges import load_judges

        return load_judges(self.judge or [], self.judge_rule, self.prm)

    def engine_config(self) -> EngineConfig:
        """The engine options. ConfigError for one that cannot work."""
        return EngineConfig(
            device=self.device,
            prm_device=self.prm_device,
            dtype=self.dtype,  # type: ignore[arg-type]  # EngineConfig checks it
            weights=self.weights,  # type: ignore[arg-type]
            weight_cache=self.weight_cache,
            kv_memory=parse_size(self.kv_memory) if self.kv_memory is not None else None,
            prefix_cache=self.prefix_cache,
            threads=self.threads,
            max_tokens=self.max_tokens,
            max_step_tokens=self.max_step_tokens,
            delimiter=unescaped(self.delimiter),
            stop=unescaped(self.stop),
            end_at_answer=self.end_at_answer,
            confidence_top=self.confidence_top,
            confidence_window=self.confidence_window,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            seed=self.seed,
            calibration=self.calibration,
            judge_quality=self.judge_quality,
            prm_format=self.prm_format,
            date=self.date,
            chat_template_kwargs=parse_variables(self.template_var or []),
        )

    @property
    def is_greedy(self) -> bool:
        """Whether every token is the likeliest one."""
        from branchwise.types import Sampling

        return Sampling(self.temperature, self.top_p, self.top_k, self.min_p).is_greedy

    def as_dict(self) -> dict[str, Any]:
        """All options by name, as they were given."""
        return asdict(self)


def with_search_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command every option of `SearchOptions`; its parameter `options` receives them in one piece.

    What the command declares by itself it gets by itself.
    """
    own = inspect.signature(command, eval_str=True).parameters
    shared = [field for field in fields(SearchOptions) if field.name not in own]
    hints = get_type_hints(SearchOptions, include_extras=True)
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [each.replace(kind=keyword) for each in own.values() if each.name != "options"] + [
        inspect.Parameter(field.name, keyword, default=field.default, annotation=hints[field.name]) for field in shared
    ]

    def run(**given: Any) -> None:
        chosen = {field.name: given.pop(field.name) for field in shared}
        command(options=SearchOptions(**chosen), **given)

    run.__doc__ = command.__doc__
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run


def check_text(name: str, value: object) -> None:
    """Raise InputError for words that are not in the encoding of the terminal; their bytes became half characters."""
    for word in value if isinstance(value, tuple | list) else (value,):
        if isinstance(word, str) and any("\ud800" <= letter <= "\udfff" for letter in word):
            raise InputError(f"{name} {word!r} is not UTF-8 text: write it in the encoding of this terminal")


def unescaped(texts: list[str] | None) -> list[str] | None:
    """Texts as they are meant: \\n, \\t, \\r and \\\\ stand for one character, any other backslash for itself."""
    meant = {r"\n": "\n", r"\t": "\t", r"\r": "\r", "\\\\": "\\"}
    return texts and [re.sub(r"\\[ntr\\]", lambda match: meant[match[0]], text) for text in texts]


def parse_size(text: str) -> int:
    """Bytes of "512M", "4G", "1.5 GiB" or "1073741824"; units are powers of 1024. ConfigError for anything else."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?\s*", text, re.IGNORECASE)
    if match is None:
        raise ConfigError(f"--kv-memory {text!r} is no size: write it as 512M, 4G or a number of bytes")
    return int(float(match[1]) * _UNITS[match[2].lower()])
