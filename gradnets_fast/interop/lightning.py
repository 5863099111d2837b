"""A Lightning module that fits a network to samples of a gradient field."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..errors import check_choice, message
from ..nn import GradNet
from ._optional import require

_LightningModule: Any = require("gradnets_fast.interop", "lightning.pytorch", "pytorch_lightning").LightningModule

SCHEDULES = ("constant", "cosine")


def squared_error(f: Tensor, g: Tensor) -> Tensor:
    """The mean over the points of |f − g|², ()."""
    return (f - g).square().sum(-1).mean()


class GradNetLightning(_LightningModule):  # type: ignore[misc]
    """A training loop by Adam for a network; batches are pairs of points x (B, d) and target gradients g (B, d).

    Logs `train_error` and `val_error`, the mean of |net(x) − g|² over an epoch, with the same in decibel as
    `train_error_db` and `val_error_db`, and `train_loss` and `val_loss`.

    Equivalent to:
        optimizer = torch.optim.Adam(net.parameters(), lr)
        for x, g in batches:
            optimizer.zero_grad()
            loss(net(x), g).backward()
            optimizer.step()

    Args:
        net: the network.
        lr: the learning rate.
        loss: what training minimises, (f, g) → a scalar.
        schedule: "constant", or "cosine" for a rate that falls to 0 at the last step.

    Raises:
        ValueError: `schedule` is unknown, or the cosine has no last step; ImportError without Lightning.

    The base class comes from `lightning.pytorch` or `pytorch_lightning`: from the one that was imported before, else
    from the first that is installed.

    With Lightning:
        trainer = pytorch_lightning.Trainer(max_epochs=10)
        trainer.fit(GradNetLightning(net, schedule="cosine"), DataLoader(TensorDataset(x, g), batch_size=1000))
    and to load a checkpoint that it wrote:
        GradNetLightning.load_from_checkpoint(path, net=net)
    """

    def __init__(
        self,
        net: GradNet,
        lr: float = 1e-2,
        loss: Callable[[Tensor, Tensor], Tensor] = squared_error,
        schedule: str = "constant",
    ) -> None:
        check_choice("GradNetLightning", "schedule", schedule, SCHEDULES)
        super().__init__()
        self.save_hyperparameters("lr", "schedule")
        self.net, self.loss = net, loss

    def forward(self, x: Tensor) -> Tensor:
        """f(x), (…, d)."""
        f: Tensor = self.net(x)
        return f

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        """The loss of a batch, which Lightning minimises."""
        return self._measure("train", batch)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        """The loss of a batch of the validation set."""
        return self._measure("val", batch)

    def _measure(self, stage: str, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, g = batch
        f = self.net(x)
        loss = self.loss(f, g)
        values = {f"{stage}_loss": loss, f"{stage}_error": squared_error(f.detach(), g)}
        self.log_dict(values, on_step=False, on_epoch=True, sync_dist=True, batch_size=x.shape[0])
        return loss

    def on_train_epoch_end(self) -> None:
        """Log the epoch's error in decibel."""
        self._log_decibel("train")

    def on_validation_epoch_end(self) -> None:
        """Log the epoch's error in decibel."""
        self._log_decibel("val")

    def _log_decibel(self, stage: str) -> None:
        error = self.trainer.callback_metrics[f"{stage}_error"]
        self.log(f"{stage}_error_db", 10 * error.log10())

    def configure_optimizers(self) -> Any:
        """Adam, with the schedule."""
        optimizer = torch.optim.Adam(self.net.parameters(), lr=self.hparams.lr)
        if self.hparams.schedule == "constant":
            return optimizer
        steps = self.trainer.estimated_stepping_batches
        if math.isinf(steps):
            fix = 'give the Trainer max_steps or max_epochs, or take schedule="constant"'
            raise ValueError(message("GradNetLightning", "schedule", "a last step for cosine", "an endless run", fix))
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, int(steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
