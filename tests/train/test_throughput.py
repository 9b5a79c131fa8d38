"""Rates are correct and peaks plausible."""

import jax
import pytest

from lm_jax.train import throughput
from lm_jax.train.throughput import Meter, MeterConfig, Read


@pytest.mark.parametrize(
    ("kind", "tera"),
    [
        ("TPU v4", 275),
        ("TPU v5 lite", 197),
        ("TPU v5", 459),
        ("TPU7x", 1153.5),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA H100 80GB HBM3", 989.5),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A10G", 70),
        ("NVIDIA L40S", 362),
    ],
)
def test_known_devices_are_in_the_tables(kind, tera):
    assert throughput.tabulated(kind) == tera * 1e12


@pytest.mark.parametrize("kind", ["cpu", "TPU v9", "NVIDIA A1000"])
def test_unknown_devices_are_not_in_the_tables(kind):
    assert throughput.tabulated(kind) is None


def test_an_unknown_device_is_measured_once():
    first = throughput.peak(jax.devices()[0])
    assert throughput.peak(jax.devices()[1]) is first
    assert first.source.startswith("measured") and 1e8 < first.flops < 1e14


def test_rates_exclude_pauses_but_the_estimated_end_includes_them():
    now = [0.0]
    meter = Meter(MeterConfig(steps=100, devices=4, peak_flops=1e12), clock=lambda: now[0])
    read = lambda tokens: Read(tokens=tokens, flops=1e9 * tokens)
    assert meter.read(1, read(100)) == {}
    meter.start(10, read(1000))
    assert meter.read(10, read(1000)) == {}
    now[0] = 2.0
    with meter.paused():
        now[0] = 5.0
    rates = meter.read(20, read(9000))
    assert rates["tokens_per_second"] == pytest.approx(8000 / 2)
    assert rates["tokens_per_second_per_device"] == pytest.approx(1000)
    assert rates["mfu"] == pytest.approx(1000 * 1e9 / 1e12)
    assert rates["eta_s"] == pytest.approx(80 * 0.5)
    now[0] = 6.0
    assert meter.read(30, read(10000))["tokens_per_second"] == pytest.approx(1000)


def test_what_batches_of_different_lengths_have_read_adds_up():
    short, long = Read(tokens=10, flops=1e3), Read(tokens=40, flops=6e3)
    assert short * 3 + long == Read(tokens=70, flops=9e3)


def test_without_flops_there_is_no_mfu():
    now = [0.0]
    meter = Meter(MeterConfig(steps=10, devices=1, peak_flops=1e12), clock=lambda: now[0])
    meter.start(0, Read())
    now[0] = 1.0
    assert set(meter.read(1, Read(tokens=5))) == {"tokens_per_second", "tokens_per_second_per_device", "eta_s"}
