"""Public figures of chips, for throughput and for plans of machines that nobody has at hand.

Sources: docs.cloud.google.com/tpu/docs, the page of each version, and for the links of v4 Jouppi et al. 2023
(arXiv:2304.01433), table 4. `usable_bytes` is what the compiler of libtpu 0.0.52 leaves to a program, from its message
about a program that is too large. Of the H100: the vendor's data sheet (SXM) and the CUDA programming guide's table of
technical specifications for compute capability 9.0.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """Figures of one jax device: a chip, and of TPU7x one of a chip's two cores.

    Attributes:
      flops: dense bfloat16 FLOP/s.
      usable_bytes: HBM that a program can use.
      hbm: bytes per second between HBM and the core.
      ici: bytes per second over all links of the chip to its neighbours, in one direction. Two cores share the links of
        their chip, so a time from this figure is a lower bound.
      dcn: bytes per second of the chip's share of its host's network, in one direction; 0: not published.
      dimensions: axes of its topologies.
      full: length of an axis from which 2D topologies close to a torus; 3D ones do if all axes are multiples of it. Of
        GPUs: devices of a host.
      target: what XLA's compiler needs to know of a GPU, as the text of a protocol buffer; empty: a TPU.
    """

    flops: float
    usable_bytes: int
    hbm: float
    ici: float
    dcn: float
    dimensions: int
    full: int
    target: str = ""


# By jax's name of the kind of a device: the family.
KINDS = {
    **dict.fromkeys(("TPU v5 lite", "TPU v5e"), "v5e"),
    **dict.fromkeys(("TPU v5", "TPU v5p"), "v5p"),
    **dict.fromkeys(("TPU v6 lite", "TPU v6e"), "v6e"),
    "TPU v4": "v4",
    "TPU7x": "tpu7x",
}


def of_kind(kind: str) -> Chip | None:
    """Returns the figures of a device by jax's `device_kind`; None: it is not in the table."""
    return TPUS.get(KINDS.get(kind, ""))


def _gib(number: float) -> int:
    return round(number * 2**30)


# By the family that a topology's name begins with.
TPUS = {
    # 6 links of 50 GB/s.
    "v4": Chip(flops=275e12, usable_bytes=_gib(30.75), hbm=1200e9, ici=300e9, dcn=0, dimensions=3, full=4),
    # ICI: 400 GB/s in both directions. DCN: 6.4 Tbit/s for 256 chips.
    "v5e": Chip(flops=197e12, usable_bytes=_gib(15.75), hbm=819e9, ici=200e9, dcn=3.125e9, dimensions=2, full=16),
    # ICI: 1,200 GB/s in both directions. DCN: 50 Gbit/s.
    "v5p": Chip(flops=459e12, usable_bytes=_gib(95.73), hbm=2765e9, ici=600e9, dcn=6.25e9, dimensions=3, full=4),
    # ICI: 800 GB/s in both directions. DCN: 25.6 Tbit/s for 256 chips.
    "v6e": Chip(flops=918e12, usable_bytes=_gib(31.24), hbm=1638e9, ici=400e9, dcn=12.5e9, dimensions=2, full=16),
    # Two devices a chip: 2,307 TFLOP/s, 7,380 GB/s. ICI: 1,200 GB/s in both directions.
    "tpu7x": Chip(flops=1153.5e12, usable_bytes=_gib(94.74), hbm=3690e9, ici=600e9, dcn=0, dimensions=3, full=4),
}

# One dimension: the devices, 8 on each host. NVLink: 900 GB/s in both directions.
H100 = {
    "threads_per_block_limit": 1024,
    "threads_per_warp": 32,
    "threads_per_core_limit": 2048,
    "core_count": 132,
    "fpus_per_core": 128,
    "shared_memory_per_block": 48 * 1024,
    "shared_memory_per_block_optin": 227 * 1024,
    "shared_memory_per_core": 228 * 1024,
    "registers_per_core_limit": 65536,
    "registers_per_block_limit": 65536,
    "block_dim_limit_x": 2**31 - 1,
    "block_dim_limit_y": 65535,
    "block_dim_limit_z": 65535,
    "thread_dim_limit_x": 1024,
    "thread_dim_limit_y": 1024,
    "thread_dim_limit_z": 64,
    "memory_bandwidth": 3_350_000_000_000,
    "l2_cache_size": 50 * 2**20,
    "clock_rate_ghz": 1.98,
    "device_memory_size": 80 * 10**9,
}


def _target(name: str, figures: dict[str, float], capability: int) -> str:
    fields = " ".join(f"{key}: {value}" for key, value in figures.items())
    return (
        f"gpu_device_info {{ {fields} cuda_compute_capability {{ major: {capability} }} }} "
        f'platform_name: "CUDA" dnn_version_info {{ major: 9 }} device_description_str: "{name}"'
    )


GPUS = {
    "h100": Chip(
        flops=989.5e12,
        # What jax leaves to programs by default: three quarters of the memory (XLA_PYTHON_CLIENT_MEM_FRACTION).
        usable_bytes=60 * 10**9,
        hbm=3350e9,
        ici=450e9,
        dcn=0,
        dimensions=1,
        full=8,
        target=_target("NVIDIA H100 80GB HBM3", H100, 9),
    ),
}
CHIPS = TPUS | GPUS
