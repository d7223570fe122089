"""Every law by name."""

from collections.abc import Mapping
from types import MappingProxyType

from unisc.scaling.laws.base import Evaluation, Law, Parameter
from unisc.scaling.laws.broken import Broken1, Broken2
from unisc.scaling.laws.composition import Composition, CompositionBySize
from unisc.scaling.laws.constrained import DataConstrained
from unisc.scaling.laws.kaplan import Kaplan
from unisc.scaling.laws.linear import LogitLinear, LogLinear, LogQuadratic, TaskFromLoss
from unisc.scaling.laws.power import Chinchilla, Power, PowerFloor, PowerLimit, ThreeAxes, Tied

LAWS: Mapping[str, type[Law]] = MappingProxyType(
    {
        law.name: law
        for law in (
            Power,
            PowerFloor,
            PowerLimit,
            Chinchilla,
            Tied,
            Kaplan,
            DataConstrained,
            ThreeAxes,
            Composition,
            CompositionBySize,
            Broken1,
            Broken2,
            LogLinear,
            LogQuadratic,
            LogitLinear,
            TaskFromLoss,
        )
    }
)

__all__ = ["LAWS", "Evaluation", "Law", "Parameter"]
