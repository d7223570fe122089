"""Parameters that are read and never trained."""

from flax import nnx


class Frozen(nnx.Variable):
    """What a parameter becomes when it is held: no gradient is taken by it, no moments are kept, and no decay applies."""


def freeze(module: nnx.Module) -> None:
    """Hold every parameter of a module, in place."""
    _retype(module, nnx.Param, Frozen)


def thaw(module: nnx.Module) -> None:
    """Make what is held parameters again, in place."""
    _retype(module, Frozen, nnx.Param)


def _retype(module: nnx.Module, old: type[nnx.Variable], new: type[nnx.Variable]) -> None:
    for _, node in list(nnx.iter_graph(module)):
        if isinstance(node, nnx.Module):
            for name, value in list(vars(node).items()):
                if isinstance(value, old):
                    setattr(node, name, new(value[...]))
