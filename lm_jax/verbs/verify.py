"""`lm-jax verify --case=DIR`: compares our outputs for a checkpoint with those of a reference implementation."""

from __future__ import annotations

from pathlib import Path

from lm_jax.core.config import InputError
from lm_jax.flags import Request
from lm_jax.interop.verify import verify
from lm_jax.verbs import report


def run(request: Request) -> int:
    """Prints the largest difference and the tolerance of each output; returns 1 if any output exceeds its tolerance."""
    if not request.case:
        raise InputError("verify needs --case=DIR, a directory with inputs.npz, outputs.npz and a checkpoint")
    results, failed = [], 0
    for case in request.case:
        compared, missing = verify(Path(case), Path(request.model) if request.model else None)
        wrong = sum(not output.agrees for output in compared)
        failed += wrong
        lines = [
            {"name": output.name, "difference": output.difference, "tolerance": output.tolerance, "ok": output.agrees}
            for output in compared
        ]
        results.append({"case": case, "outputs": lines, "not_computed": missing})
        if request.json:
            continue
        for output in compared:
            verdict = "ok" if output.agrees else "DIFFERS"
            report.say(f"{output.name:<56} {output.difference:.1e}  {output.tolerance:.1e}  {verdict}")
        rest = f"; not computed: {', '.join(missing)}" if missing else ""
        report.say(f"{case}: {len(compared) - wrong} of {len(compared)} outputs agree{rest}")
    if request.json:
        report.document({"cases": results})
    return 1 if failed else 0
