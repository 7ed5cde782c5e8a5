"""A model of Everloop trained by Lightning: its batches, its loss, Lightning's loop."""

from __future__ import annotations

from typing import Any

import lightning
import torch
from torch.utils.data import DataLoader

from everloop.data import Tagged, TaggedConfig
from everloop.models import Tagger, TaggerConfig


class Tagging(lightning.LightningModule):  # type: ignore[misc, unused-ignore]
    """A tagger in Lightning's clothes."""

    def __init__(self, tagger: Tagger, lr: float = 1e-2) -> None:
        super().__init__()
        self.tagger, self.lr = tagger, lr

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        """Return the mean loss of a batch."""
        loss = self.tagger.loss(batch)
        self.log("loss", loss.mean, batch_size=loss.count)
        return loss.mean

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return what updates the weights."""
        return torch.optim.AdamW(self.parameters(), self.lr)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, index: int) -> Any:
        """Return a batch on another device; it knows how."""
        return batch.to(device)


def main(steps: int = 200, hidden: int = 32) -> None:
    """Tag words by whether they were seen before in the sentence."""
    words = [[f"w{(i * j) % 5}" for j in range(4 + i % 3)] for i in range(1, 60)]
    tags = [["old" if w in s[:k] else "new" for k, w in enumerate(s)] for s in words]
    data = Tagged({"train": list(zip(words, tags, strict=True))}, TaggedConfig(hold_out=(0.0, 0.0)))
    model = Tagging(Tagger.of(data, TaggerConfig(hidden=hidden, layers=1)))
    items: Any = data["train"]
    loader = DataLoader(items, batch_size=16, shuffle=True, collate_fn=data.collate)
    trainer = lightning.Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, loader)
    print(f"loss {trainer.callback_metrics['loss']:.3f}")
    print(f"finished {trainer.global_step} steps")


if __name__ == "__main__":
    main()
