"""Console output of a run."""

import io

from lm_jax.train.console import Console


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_gets_a_bar():
    stream = Terminal()
    console = Console(total=10, start=2, stream=stream)
    console.write(5, {"train/loss": 2.5, "train/eta_s": 3723.0, "train/gradient_norm": 1.0})
    console.write(5, {"val/loss": 2.25})
    console.close()
    output = stream.getvalue()
    assert "5/10" in output and "loss 2.5  ETA 1:02:03" in output and "step 5/10  val/loss 2.25\n" in output
