"""For all tests: shapes in signatures are checked at run time, which costs nothing elsewhere; files of helpers are imported."""

import gc
import importlib.util
import os
import signal
import sys
import types
from pathlib import Path

import pytest
from beartype import beartype
from jaxtyping import install_import_hook

# Before JAX is first imported, and inherited by the processes that tests start. Tests compile far more than they compute.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_cpu_multi_thread_eigen=false")

# A background job of a shell ignores interrupts, and what it starts inherits that; tests of Ctrl-C need them back.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A configuration checks its own values, with a message for the user that beartype's would come before.
checker = types.ModuleType("unisc_test_type_checker")
checker.check = lambda f: f if f.__qualname__.endswith("Config.__init__") else beartype(f)
sys.modules[checker.__name__] = checker
install_import_hook(["unisc.nn", "unisc.models", "unisc.objectives"], f"{checker.__name__}.check")


def _load_file(path: Path) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """Drop compiled programs after every file of tests: kept, they grow a worker to several gigabytes."""
    yield
    if "jax" in sys.modules:
        for module in list(sys.modules.values()):
            if getattr(module, "__name__", "").startswith("unisc."):
                for function in vars(module).values():
                    if hasattr(function, "cache_clear"):
                        function.cache_clear()
        sys.modules["jax"].clear_caches()
        gc.collect()


@pytest.fixture(scope="session")
def load_file():
    """Import a file of helpers beside the tests, which are no package, by its path."""
    return _load_file


@pytest.fixture(scope="session")
def tiny(load_file):
    """The writer of small samples directories."""
    return load_file(Path(__file__).parent / "data" / "tiny_samples.py")
