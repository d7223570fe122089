"""The environment of training on a CPU: what it sets, and that devices which wait for each other leave threads to the last."""

import os
import subprocess
import sys
import textwrap

from unisc import cpu


def test_what_the_user_has_set_stays():
    made = cpu.training_environment(4, {"PJRT_NPROC": "5", "XLA_FLAGS": "--xla_force_host_platform_device_count=2"})
    assert made["PJRT_NPROC"] == "5" and made["XLA_FLAGS"] == "--xla_force_host_platform_device_count=2"


def test_it_has_a_device_and_a_thread_for_each_share_and_threads_for_those_that_wait():
    made = cpu.training_environment(4, {"XLA_FLAGS": "--xla_cpu_enable_fast_math=false"})
    assert made["XLA_FLAGS"] == "--xla_cpu_enable_fast_math=false --xla_force_host_platform_device_count=4"
    assert made["PJRT_NPROC"] == str(max(7, cpu.num_cores())) and made["JAX_PLATFORMS"] == "cpu"
    assert cpu.training_environment(1, {})["PJRT_NPROC"] == str(cpu.num_cores())


def test_the_runtime_takes_the_number_of_threads():
    """XLA names its threads; were its variable to change, waiting devices would again hold all of them."""
    code = """
        import jax, jax.numpy as jnp
        from pathlib import Path
        jax.jit(lambda x: jnp.tanh(x @ x).sum())(jnp.ones((800, 800))).block_until_ready()
        names = [(task / "comm").read_text() for task in Path("/proc/self/task").iterdir()]
        print(jax.device_count(), sum("XLAEigen" in name for name in names))
    """
    kept = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "PJRT_NPROC")}
    environ = cpu.training_environment(cpu.num_cores(), kept)
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=environ, capture_output=True, text=True)
    assert done.stdout.split() == [str(cpu.num_cores()), str(2 * cpu.num_cores() - 1)], done.stderr
