"""A model of Everloop trained by the Trainer of Hugging Face's transformers."""

from __future__ import annotations

from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

from everloop.data import Examples, ExamplesConfig
from everloop.models import Classifier, ClassifierConfig


class ForTrainer(nn.Module):
    """What Trainer calls: tensors by name in, the loss and the scores by name out."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, x: Tensor, lengths: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return loss and logits [B, K]; x: symbol numbers [T, B]."""
        logits = self.classifier(x, lengths.cpu())
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def main(steps: int = 100, hidden: int = 32) -> None:
    """Learn which sentences are kind."""
    kind = [f"{w} is good and kind" for w in ("she", "he", "it", "the cat", "the dog", "a friend")] * 4
    unkind = [text.replace("good and kind", "not so good") for text in kind]
    texts, labels = kind + unkind, [1] * len(kind) + [0] * len(unkind)
    data = Examples.of((texts, labels), config=ExamplesConfig(hold_out=(0.0, 0.0)))

    def collate(items: Any) -> dict[str, Tensor]:
        batch = data.collate(items)
        return {"x": batch.x, "lengths": batch.lengths, "labels": batch.y}

    with TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, max_steps=steps, per_device_train_batch_size=16, learning_rate=1e-2, use_cpu=True,
            report_to="none", save_strategy="no", disable_tqdm=True, remove_unused_columns=False,
        )  # fmt: skip
        model = ForTrainer(Classifier.of(data, ClassifierConfig(hidden=hidden, layers=1)))
        trainer = Trainer(model, arguments, data_collator=collate, train_dataset=data["train"])
        result = trainer.train()
    with torch.no_grad():
        right = model(**collate([data["train"][i] for i in range(len(texts))]))["logits"].argmax(-1)
    print(
        f"loss {result.training_loss:.3f}, {int((right == torch.tensor(data.numbers['train'])).sum())} of {len(texts)}"
    )
    print(f"finished {result.global_step} steps")


if __name__ == "__main__":
    main()
