"""`lm-jax plan`: compiles the train step of a recipe for devices that nobody has at hand, and prints its cost."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import jax

from lm_jax.core.config import InputError
from lm_jax.data import atomic
from lm_jax.experiment import Experiment, ExperimentConfig, automatic, planning
from lm_jax.flags import Request, need_config
from lm_jax.models.transformer import STACKS
from lm_jax.plan import changes, compiling, costs, topology
from lm_jax.plan import report as plans
from lm_jax.plan.ranking import Device
from lm_jax.train import moments
from lm_jax.verbs import forking, report, search


def run(request: Request) -> int:
    """Plans `--config` for `--topology`; a step that does not fit is a result, too."""
    name, config = request.topology, need_config(request)
    if name is None:
        raise InputError(
            "plan needs --topology=NAME, such as --topology=v5e:16x16, --topology=v5p:4x4x4 or --topology=h100:8"
        )
    topology.split(name)
    against = None if request.against is None else plans.load(request.against)
    for flag, folder in (("output", request.output), ("dump", request.dump)):
        if folder is not None:
            atomic.check_directory(Path(folder), f"--{flag}")
    # Before jax starts: the devices of this machine are not those of the plan.
    jax.config.update("jax_platforms", "cpu")
    devices = topology.devices(name, request.slices)
    tokenizer = None if request.fork is None else forking.tokenizer(config.data.tokenizer, Path(request.fork))
    exp = planning.without_text(config, devices, tokenizer)
    chip, say = topology.chip(name), (lambda text: None) if request.json else report.say
    device = Device(limit_bytes=chip.usable_bytes, chip=chip)
    options = compiling.UNTIMED if chip.target else None

    def planned(exp: Experiment) -> tuple[costs.Plan, compiling.Compiled]:
        compiled = compiling.compile_step(exp.train_step(), exp.state_like, exp.batch_like, options=options)
        return _plan(request, name, exp, compiled), compiled

    say(f"compiling  {request.recipe} for {len(devices)} devices; a model of billions takes minutes")
    found = None
    if request.search:
        found = search.run(exp, devices, device, request.overrides, planned, say)
        plan, compiled = found.plan, found.compiled
    else:
        exp, why = automatic.chosen(exp, device)
        say(why) if why else None
        plan, compiled = planned(exp)
    if request.dump is not None:
        _dump(Path(request.dump), compiled.text, devices)
    if request.output is not None:
        _write(Path(request.output), plan)
    if request.json:
        report.document(found.document if found else plan)
        return 0
    report.say(plans.table(plan))
    if against is not None:
        lines = plans.differences(against, plan)
        report.say("\n".join([f"against    {request.against}: {len(lines)} differences", *lines]))
    return 0


def _plan(request: Request, name: str, exp: Experiment, compiled: compiling.Compiled) -> costs.Plan:
    """Returns the whole plan, flat."""
    config, mesh, state = exp.config, exp.layout.mesh, exp.state_like
    compiler = topology.compiler(name)
    described: costs.Plan = {
        "plan_version": costs.PLAN_VERSION,
        "recipe": request.recipe,
        "topology": name,
        "slices": request.slices,
        "devices": mesh.size,
        "device_kind": mesh.devices.flat[0].device_kind,
        **{f"mesh_{axis}": size for axis, size in mesh.shape.items()},
        "rows": config.data.batch,
        "length": config.data.length,
        "accumulate": config.train.accumulate,
        "dtype": config.model.dtype,
        "vocabulary": exp.vocabulary.size,
        "jax": jax.__version__,
        "compiler": compiler,
        "compiler_version": _version(compiler),
        "tracing_s": compiled.tracing_s,
        "compiling_s": compiled.compiling_s,
    }
    work = costs.Work(
        parameters=(state.params, state.frozen),
        optimizer=state.opt_state,
        batch=exp.batch_like,
        other=(state.step, state.updates, state.loss_scale, state.averaged, state.carry),
        model_flops=exp.flops() * config.data.batch,
        devices=mesh.size,
        slices=request.slices,
    )
    plan = {**described, **costs.figures(work, compiled, topology.chip(name))}
    found = [] if plan["fits"] else changes.cheapest(_step(config, exp, plan))
    for number in range(1, 4):
        each = found[number - 1] if number <= len(found) else None
        plan[f"change_{number}"] = each and each.change
        plan[f"change_{number}_price"] = each and each.price
        plan[f"change_{number}_saves_bytes"] = each and each.saves_bytes
    return plan


def _step(config: ExperimentConfig, exp: Experiment, plan: costs.Plan) -> changes.Step:
    """Returns the sizes from which changes are estimated, over the stacks of all models."""
    layers = []
    for model in (config.model, *config.models.values()):
        for stack in (getattr(model, field) for field in STACKS if hasattr(model, field)):
            attention = stack.block.attention
            layers.append((stack.depth, model.embed.width, attention.heads, config.data.length, stack.remat))
    state = exp.state_like
    own = moments.of(state.opt_state, state.params) if config.optimizer.moments == "float32" else {}
    return changes.Step(
        layers=tuple(layers),
        rows=config.data.batch // exp.layout.divisor("batch") // config.train.accumulate,
        itemsize=automatic.ITEMSIZE[config.model.dtype],
        accumulate=config.train.accumulate,
        state_bytes=plan["parameters_bytes"] + plan["optimizer_bytes"],
        moments_bytes=costs.shard_bytes(own),
        gradient_bytes=costs.shard_bytes(state.params),
        data=plan["mesh_data"],
        slices=plan["slices"],
        needed_bytes=plan["needed_bytes"],
        limit_bytes=plan["limit_bytes"],
    )


def _write(folder: Path, plan: costs.Plan) -> None:
    """Writes plan.json, plan.txt and memory.png."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic.replace_atomically(folder / "memory.png") as path:
        plans.chart(plan, path)
    atomic.write_bytes(folder / "plan.txt", f"{plans.table(plan)}\n".encode())
    atomic.write_json(folder / "plan.json", report.strict(plan))


def _dump(folder: Path, text: str, devices: list[Any]) -> None:
    """Writes the compiled text, if there is one, and the coordinates of the devices in the order of their ids."""
    folder.mkdir(parents=True, exist_ok=True)
    if text:
        atomic.write_bytes(folder / "step.hlo", text.encode())
    coordinates = [
        {
            "id": device.id,
            "coordinates": list(getattr(device, "coords", ())),
            "core": getattr(device, "core_on_chip", 0),
            "slice": getattr(device, "slice_index", 0) or 0,
        }
        for device in devices
    ]
    atomic.write_json(folder / "devices.json", coordinates)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
