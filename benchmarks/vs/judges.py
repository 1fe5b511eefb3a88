"""Token-pair PRMs of rivals: P("+") against "-" after the last step of a trajectory."""

from __future__ import annotations

import torch
import transformers


class TransformersJudge:
    """transformers: every trajectory whole, in padded batches, as search-and-learn does it.

    One favour beside the original: words other than "+" and "-" are left out of the lm_head.
    """

    def __init__(self, model: str, batch: int, dtype: str) -> None:
        load = transformers.AutoModelForSequenceClassification.from_pretrained
        self.model = load(model, dtype=dtype).eval()
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(model)
        self.tokenizer.padding_side = "right"
        self.batch = batch

    @torch.inference_mode()
    def read(self, trajectories: list[tuple[str, list[str]]]) -> tuple[list[float], int]:
        """(problem, steps) -> P(good) of each last step; and the tokens that it read, without padding."""
        scores: list[float] = []
        tokens = 0
        texts = [self._text(problem, steps) for problem, steps in trajectories]
        for begin in range(0, len(texts), self.batch):
            batch = self.tokenizer(
                texts[begin : begin + self.batch], padding=True, return_tensors="pt", add_special_tokens=False
            )
            mask = batch["attention_mask"]
            states = self.model.model(input_ids=batch["input_ids"], attention_mask=mask, use_cache=False)[0]
            last = mask.sum(1) - 1
            logits = self.model.score(states[torch.arange(len(last)), last]).float()
            scores += logits.softmax(-1)[:, 0].tolist()
            tokens += int(mask.sum())
        return scores, tokens

    def _text(self, problem: str, steps: list[str]) -> str:
        turns = []
        for index, step in enumerate(steps):
            if index:
                turns.append({"role": "assistant", "content": "+"})
            turns.append({"role": "user", "content": step.strip() if index else f"{problem.strip()} {step.strip()}"})
        return str(self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
