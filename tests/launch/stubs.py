"""The launch scripts, run with stand-ins for the programs of a cluster, which record how they were called."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

from tests.commands import ROOT

# Everything else that the scripts call. PATH holds nothing more, so a real gcloud is never reached.
TOOLS = ("bash", "sh", "awk", "basename", "cat", "dirname", "env", "gzip", "mkdir", "sleep", "tar", "touch")
RECORD = """#!/bin/sh
{ printf '%s\\037' "${0##*/}" "$@"; printf '\\036'; } >> "$CALLS"
"""


class Cluster:
    """A directory of stand-ins; each records its arguments, then runs the shell lines that a test gives it."""

    def __init__(self, folder: Path, *programs: str):
        self.folder, self.bin, self.record = folder, folder / "bin", folder / "calls"
        self.bin.mkdir()
        for tool in TOOLS:
            path = shutil.which(tool)
            assert path is not None, tool
            (self.bin / tool).symlink_to(path)
        for program in programs:
            self.stub(program)

    def stub(self, program: str, lines: str = "") -> None:
        """Defines what a program does besides recording its arguments; by default nothing."""
        path = self.bin / program
        path.unlink(missing_ok=True)  # A tool is a link: writing would follow it.
        path.write_text(f"{RECORD}{lines}\n")
        path.chmod(0o755)

    def environment(self) -> dict[str, str]:
        return {"PATH": str(self.bin), "CALLS": str(self.record), "HOME": str(self.folder)}

    def run(self, script: str, *words: str) -> subprocess.CompletedProcess[str]:
        command = [self.bin / "bash", ROOT / "launch" / f"{script}.sh", *words]
        return subprocess.run(
            command, cwd=self.folder, env=self.environment(), capture_output=True, text=True, timeout=60
        )

    def calls(self) -> list[list[str]]:
        """The recorded calls, in order."""
        text = self.record.read_text() if self.record.exists() else ""
        return [call.split("\x1f")[:-1] for call in text.split("\x1e")[:-1]]

    def planned(self, script: str, *words: str) -> list[list[str]]:
        """The calls that --dry_run prints; it makes none."""
        before = self.calls()
        process = self.run(script, "--dry_run", *words)
        assert (process.returncode, process.stderr, self.calls()) == (0, "", before)
        commands = [shlex.split(line) for line in process.stdout.splitlines() if not line.startswith("#")]
        return [command for command in commands if command[0] not in TOOLS]
