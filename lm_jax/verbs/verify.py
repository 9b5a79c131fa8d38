"""`lm-jax verify --case=DIR`: what we compute of a checkpoint against stored results of a reference implementation."""

from __future__ import annotations

from pathlib import Path

from lm_jax.core.config import InputError
from lm_jax.flags import Request
from lm_jax.interop.verify import verify
from lm_jax.verbs import report


def run(request: Request) -> int:
    """A line an output: its name, the largest difference, what is allowed; 1 if any differs by more."""
    if not request.case:
        raise InputError("verify needs --case=DIR, a directory with inputs.npz, outputs.npz and a checkpoint")
    results, failed = [], 0
    for case in request.case:
        compared, missing = verify(Path(case), Path(request.model) if request.model else None)
        wrong = sum(not one.agrees for one in compared)
        failed += wrong
        lines = [
            {"name": one.name, "difference": one.difference, "tolerance": one.tolerance, "ok": one.agrees}
            for one in compared
        ]
        results.append({"case": case, "outputs": lines, "not_computed": missing})
        if request.json:
            continue
        for one in compared:
            verdict = "ok" if one.agrees else "DIFFERS"
            report.say(f"{one.name:<56} {one.difference:.1e}  {one.tolerance:.1e}  {verdict}")
        rest = f"; not computed: {', '.join(missing)}" if missing else ""
        report.say(f"{case}: {len(compared) - wrong} of {len(compared)} outputs agree{rest}")
    if request.json:
        report.document({"cases": results})
    return 1 if failed else 0
