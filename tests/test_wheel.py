"""The wheel, installed outside the repository, has the recipes, the launch scripts and the command."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.commands import ROOT


@pytest.mark.slow
def test_an_installed_wheel_lists_and_inspects_its_recipes_from_an_empty_directory(tmp_path):
    # Build isolation needs a network; without isolation, setuptools needs no other package from this version on.
    pytest.importorskip("setuptools", minversion="70.1")
    # The source is copied, because a build writes folders into it.
    source = tmp_path / "source"
    source.mkdir()
    for name in ("lm_jax", "configs", "launch"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path / "dist", source]
    subprocess.run(build, check=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    python = venv / "bin" / "python"
    subprocess.run([python, *pip[1:], "install", "--no-deps", "--no-index", wheel], check=True)
    # Requirements come from this environment, lm_jax from the new one, which is first on the path.
    packages = next((venv / "lib").glob("python*")) / "site-packages"
    (packages / "borrowed.pth").write_text("".join(f"{path}\n" for path in sys.path if path.endswith("site-packages")))
    empty = tmp_path / "empty"
    empty.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def lm_jax(*words):
        command = [venv / "bin" / "lm-jax", *words]
        return subprocess.run(command, cwd=empty, env=environment, capture_output=True, text=True, check=True).stdout

    assert "quickstart" in lm_jax("list")
    assert "stack/layers/attention/query/kernel" in lm_jax("inspect", "--config=bert:tiny")
    assert "--config=t5:tiny" in lm_jax("completion", "answer", "lm-jax train --config=t5").splitlines()
    assert (venv / "share" / "lm_jax" / "launch" / "quickstart.py").exists()
    pod = ["bash", venv / "share" / "lm_jax" / "launch" / "tpu_pod.sh", "--help"]
    assert "--accelerator=TYPE" in subprocess.run(pod, cwd=empty, capture_output=True, text=True, check=True).stdout
    assert not list(empty.iterdir())
