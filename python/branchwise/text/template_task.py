"""Chat templates in Jinja's sandbox: what the template worker process (`workers.serve`) does.

Imports jinja2 and nothing of branchwise. Rendering equals that of transformers, but depends on nothing besides its
request: the date is given, `random` is not, and what has no text of its own (an object with its address) is refused.
"""

from __future__ import annotations

import datetime
import functools
import json
from collections.abc import Callable, Iterator, Mapping, MappingView
from typing import Any, NoReturn

import jinja2
from jinja2 import meta, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

_MESSAGE = 300  # characters of an error message that a template wrote
_PLAIN = (str, bytes, int, float, list, tuple, range, Mapping, MappingView, Namespace, jinja2.Undefined)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """{"text": ...}, or for a request without "variables" {"reads": names}; else the kind of failure and its message.

    template: Jinja source    variables: what it is rendered with    date: as in 2024-07-26    longest: characters
    Kinds: refused (by the template itself), sandbox, syntax, failed, long.
    """
    kind: str
    try:
        if "variables" not in request:
            return {"reads": sorted(_reads(request["template"]))}
        template = _compile(request["template"])
        variables = {"strftime_now": _clock(request["date"]), **request["variables"]}
        return {"text": _joined(template.generate(variables), request["longest"])}
    except _Refused as error:
        kind, message = "refused", error.message
    except _TooLong:
        kind, message = "long", None
    except SecurityError as error:
        kind, message = "sandbox", error.message
    except jinja2.TemplateSyntaxError as error:
        kind, message = "syntax", f"line {error.lineno} ({error.message})"
    except MemoryError:
        raise
    except Exception as error:  # of whatever kind: all of this is the template's code
        kind, message = "failed", str(error) or type(error).__name__
    return {kind: (message or "")[:_MESSAGE]}


def _joined(pieces: Iterator[str], longest: int) -> str:
    """All that a template writes; stops early where that is too much."""
    kept, length = [], 0
    for piece in pieces:
        length += len(piece)
        if length > longest:
            raise _TooLong
        kept.append(piece)
    return "".join(kept)


@functools.lru_cache(maxsize=8)
def _compile(source: str) -> jinja2.Template:
    return _environment().from_string(source)


def _reads(source: str) -> set[str]:
    """Names that a template takes from outside."""
    environment = _environment()
    syntax = environment.parse(source)
    names = meta.find_undeclared_variables(syntax)
    if any(node.name == "strftime_now" for node in syntax.find_all(nodes.Name)):
        names.add("strftime_now")
    return names


@functools.cache
def _environment() -> jinja2.Environment:
    environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, LoopControlExtension])
    environment.finalize = _printable
    environment.filters["tojson"] = _to_json
    environment.filters["random"] = _refuse_random
    environment.globals.pop("lipsum")
    environment.globals.update(raise_exception=_refuse, dict=_make_dict, namespace=_TemplateNamespace)
    return environment


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, which also refuses to print a forbidden attribute instead of printing nothing."""

    def unsafe_undefined(self, obj: Any, attribute: str) -> NoReturn:
        raise SecurityError(f"attribute {attribute!r} of a {type(obj).__name__}")


class _Refused(jinja2.TemplateError):
    """Raised by a template's own `raise_exception`."""


class _TooLong(Exception):
    """A template writes without end."""


class _GenerationTag(Extension):
    """Accepts `{% generation %}`, which marks assistant text for training, and renders its body."""

    tags = {"generation"}  # noqa: RUF012 - the base class declares it so

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        # A call block gives the body a scope of its own, as where the tag is used for training.
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: Any) -> str:
        return str(caller())


class _TemplateNamespace(Namespace):
    """Jinja's namespace without names that begin with an underscore, which reach into the interpreter."""

    def __init__(*args: Any, **attributes: Any) -> None:
        for name in dict(*args[1:], **attributes):
            _refuse_private(name)
        Namespace.__init__(*args, **attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_private(name)
        super().__setitem__(name, value)


def _refuse_private(name: str) -> None:
    if name.startswith("_"):
        raise SecurityError(f"namespace attribute {name!r}")


def _refuse(message: object) -> NoReturn:
    raise _Refused(str(message))


def _refuse_random(_: object) -> NoReturn:
    raise SecurityError("the filter 'random', whose text differs from run to run")


def _printable(value: Any) -> Any:
    """Refuses objects whose text is an address in memory, or in no order."""
    if value is None or isinstance(value, _PLAIN):
        return value
    raise TypeError(f"it prints a {type(value).__name__}, which has no text")


def _clock(date: str) -> Callable[[str], str]:
    day = datetime.datetime.fromisoformat(date)

    def strftime_now(pattern: str) -> str:
        return day.strftime(pattern)

    return strftime_now


def _make_dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    return dict(*args, **kwargs)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes HTML, which models are not trained on.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
