"""Versions of dependencies: every lower bound is tested by `make test-lowest`, and the pins satisfy it."""

from __future__ import annotations

import importlib
import importlib.util
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from xvlm.cli.common.failures import EXTRAS

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
OPTIONAL: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]


def lower_bounds() -> dict[str, Version]:
    """Return the lower bound of every dependency: of the build, of the package and of its extras.

    Every requirement must be a name and one `>=`, the same wherever the name occurs.
    """
    lines = [*PROJECT["build-system"]["requires"], *PROJECT["project"]["dependencies"]]
    lines += [line for extra in OPTIONAL.values() for line in extra]
    bounds: dict[str, Version] = {}
    for line in lines:
        requirement = Requirement(line)
        (specifier,) = requirement.specifier
        assert specifier.operator == ">=", f"{line}: one lower bound is expected"
        bound = Version(specifier.version)
        name = canonicalize_name(requirement.name)
        assert bounds.setdefault(name, bound) == bound, f"{line}: another bound than {bounds[name]}"
    return bounds


def pins(file: str) -> dict[str, Version]:
    """Return the versions that a list of constraints names; every line is a name and one `==`."""
    found: dict[str, Version] = {}
    for line in (ROOT / file).read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        requirement = Requirement(line)
        (specifier,) = requirement.specifier
        name = canonicalize_name(requirement.name)
        assert specifier.operator == "==" and name not in found, f"{file}: {line}"
        found[name] = Version(specifier.version)
    return found


def test_the_lowest_versions_are_the_lower_bounds() -> None:
    assert pins("constraints-lowest.txt") == lower_bounds()


def test_the_pins_satisfy_the_lower_bounds() -> None:
    pinned = pins("constraints.txt")
    low = {name: (pinned[name], bound) for name, bound in lower_bounds().items() if name in pinned}
    assert [f"{name} {pin} < {bound}" for name, (pin, bound) in low.items() if pin < bound] == []


def test_the_pins_name_every_dependency() -> None:
    """Only the build's setuptools is not pinned."""
    assert lower_bounds().keys() - pins("constraints.txt").keys() == {"setuptools"}


def test_the_lowest_environment_has_every_extra() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    listed = re.search(r"^LOWEST_EXTRAS := (\S+)$", makefile, re.MULTILINE)
    assert listed and sorted(listed[1].split(",")) == sorted(OPTIONAL)


def test_every_package_of_an_extra_is_known_to_the_report_of_missing_packages() -> None:
    names = {
        # MLflow without its server has the same module.
        canonicalize_name(Requirement(line).name).removesuffix("-skinny"): extra
        for extra, lines in OPTIONAL.items()
        if extra != "dev"
        for line in lines
    }
    assert {canonicalize_name(module): extra for module, extra in EXTRAS.items()} == names


@pytest.mark.parametrize("module", sorted(EXTRAS))
def test_an_installed_package_of_an_extra_imports(module: str) -> None:
    """For the packages that no other test uses, this is all that is tested of their lower bound."""
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} of the extra {EXTRAS[module]} is not installed")
    importlib.import_module(module)
