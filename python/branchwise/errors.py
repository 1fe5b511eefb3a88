"""Every error a user can meet: each message says what was given, what was expected and what to change."""

from __future__ import annotations


class BranchwiseError(Exception):
    """Base of all errors raised on purpose; the command line prints it and exits with code 2."""


class ConfigError(BranchwiseError, ValueError):
    """An option, argument or environment variable has a value that cannot work."""


class InputError(BranchwiseError, ValueError):
    """A problem, prompt or data file cannot be used."""


class CheckpointError(BranchwiseError, ValueError):
    """A model folder or file is damaged, incomplete, unknown or does not match its configuration."""


class TokenizerError(BranchwiseError, ValueError):
    """A tokenizer or chat template is missing, damaged or lacks a token that is needed."""


class StaleNodeError(BranchwiseError, RuntimeError):
    """A KV node was used after it had been freed."""


class OutOfMemory(BranchwiseError, MemoryError):
    """The KV budget cannot hold what was asked for; the engine stays usable."""


class StrategyError(BranchwiseError, RuntimeError):
    """A strategy broke its contract or raised an error; only its own search ends."""


class EngineStateError(BranchwiseError, RuntimeError):
    """The engine cannot do this now: it is closed, or the call comes from inside one of its own steps."""


class ResultsError(BranchwiseError, OSError):
    """Results could not be written; everything written before stays intact."""
