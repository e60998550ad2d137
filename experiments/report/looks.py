"""How systems look in every figure: a colour, a marker and a line for each role."""

from collections.abc import Mapping, Sequence

from analysis.plotting import LOOKS, Look
from experiments.system import System

ROLES: Mapping[str, Look] = dict(
    zip(("dense", "xmoe", "control", "parameters", "compute", "equation", "null"), LOOKS, strict=True)
)
"""System.role -> look. What has no role takes what is free in its figure."""


def looks(systems: Mapping[str, System]) -> dict[str, Look]:
    """Label -> look. Of a role in a figure the second system is hollow and the third half filled; others take what is
    free."""
    found: dict[str, Look] = {}
    seen: dict[str, int] = {}
    for label, system in systems.items():
        seen[system.role] = seen.get(system.role, 0) + 1
        if (look := ROLES.get(system.role)) is not None and seen[system.role] <= 3:
            found[label] = (look, look.second(), look.third())[seen[system.role] - 1]
    return found


def each_role_once(systems: Sequence[System]) -> list[list[System]]:
    """The systems in their order, divided before each one whose role stands in its part already, or that one part
    could not tell from the others."""
    parts: list[list[System]] = [[]]
    for system in systems:
        taken = {other.role for other in parts[-1] if other.role}
        if system.role in taken or len(parts[-1]) == len(LOOKS):
            parts.append([])
        parts[-1].append(system)
    return parts
