"""Console output of a run: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import Any


class Console:
    """Prints the metrics of a run; a `Writer` (`train.writers`)."""

    def __init__(self, *, total: int, start: int = 0, every: int = 1, stream: io.TextIOBase):
        self._total, self._every, self._stream = total, every, stream
        self._printed: int | None = None
        self._bar: Any = None
        if stream.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, initial=start, file=stream, unit="step", dynamic_ncols=True, leave=True)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Prints a line; if there is a bar, training metrics go into the bar instead."""
        training = all(name.startswith("train/") for name in metrics)
        if self._bar is not None and training:
            values = {name.removeprefix("train/"): value for name, value in metrics.items()}
            self._bar.set_postfix_str("  ".join(describe(name, value) for name, value in values.items() if name in BAR))
            self.tick(step)
            return
        if training:
            if self._printed is not None and step - self._printed < self._every and step < self._total:
                return
            self._printed = step
        parts = [describe(name.removeprefix("train/"), value) for name, value in metrics.items()]
        self.say(f"step {step}/{self._total}  " + "  ".join(parts))

    def say(self, text: str) -> None:
        """Prints a line, above the bar if there is one."""
        if self._bar is not None:
            self._bar.write(text, file=self._stream)
        else:
            print(text, file=self._stream, flush=True)

    def tick(self, step: int) -> None:
        """Moves the bar to `step`."""
        if self._bar is not None:
            self._bar.update(step - self._bar.n)

    def close(self) -> None:
        """Closes the bar, which stays on the screen."""
        if self._bar is not None:
            self._bar.close()


BAR = ("loss", "tokens_per_second", "mfu", "eta_s")  # as many as fit beside the bar
SHORT = {
    "tokens_per_second": "tokens/s",
    "tokens_per_second_per_device": "tokens/s/device",
    "learning_rate": "lr",
    "gradient_norm": "|g|",
    "mfu": "MFU",
    "eta_s": "ETA",
}


def describe(name: str, value: float) -> str:
    """Formats a metric under its short name: `tokens/s 12.3k`, `MFU 41.2%`, `ETA 1:02:03`."""
    label = SHORT.get(name, name)
    if not math.isfinite(value):
        return f"{label} {value}"
    if name.endswith("_s"):
        minutes, seconds = divmod(round(value), 60)
        return f"{label} {minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
    if name.endswith("mfu"):
        return f"{label} {value:.1%}"
    if name.endswith("learning_rate"):
        return f"{label} {value:.2e}"
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{label} {value / (1e3 if letter == 'k' else size):.1f}{letter}"
    return f"{label} {value:.0f}" if value == int(value) and abs(value) >= 1 else f"{label} {value:.4g}"
