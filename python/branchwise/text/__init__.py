"""Text at the edge: tokenizers, chat templates and the end of a step."""
