"""Conditions on photos that a search may return, applied before the vectors are compared."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from datetime import date, datetime, time
from typing import NamedTuple

from xvlm.common.errors import InputError
from xvlm.common.short_repr import short_repr
from xvlm.data.files.storage import absolute

_EARTH_KM = 6371.0


class Circle(NamedTuple):
    """A circle on the earth: degrees, north and east positive, and kilometres."""

    latitude: float
    longitude: float
    radius_km: float


@dataclass(frozen=True)
class PhotoFilter:
    """Conditions that a photo must meet, all of them; `None` is no condition.

    Attributes:
        after: taken at this time or later: a day or a local time, or a time with its zone, which is converted
            to this machine's local time, since photos have no zone.
        before: taken before this time.
        folder: path or URL of a folder that it is in or below.
        near: circle within which it was taken; a photo of unknown place is not.
    """

    after: date | None = None
    before: date | None = None
    folder: str | os.PathLike[str] | None = None
    near: Circle | None = None

    def __post_init__(self) -> None:
        for name, value in (("after", self.after), ("before", self.before)):
            if not isinstance(value, date | None):
                raise InputError(f"{name} is {short_repr(value)}; it must be a datetime or a date")
            if value is not None:
                _literal(value)
        if self.near is not None:
            latitude, longitude, radius = self.near
            if not (abs(latitude) <= 90 and abs(longitude) <= 180 and 0 < radius < math.inf):
                raise InputError(
                    f"near is {tuple(self.near)}; it must be a latitude from -90 to 90, a longitude from "
                    "-180 to 180 and kilometres above 0"
                )

    def sql(self) -> str | None:
        """Return the condition in SQL, or `None` if there is none."""
        conditions = []
        if self.after is not None:
            conditions.append(f"time >= timestamp '{_literal(self.after)}'")
        if self.before is not None:
            conditions.append(f"time < timestamp '{_literal(self.before)}'")
        if self.folder is not None:
            conditions.append(f"starts_with(path, {quoted(_prefix(self.folder))})")
        if self.near is not None:
            latitude, longitude, radius = self.near
            haversine = (
                f"pow(sin(radians(latitude - {latitude!r}) / 2), 2) + cos(radians(latitude)) * "
                f"cos(radians({latitude!r})) * pow(sin(radians(longitude - {longitude!r}) / 2), 2)"
            )
            conditions.append(f"latitude is not null and {haversine} <= {_haversine(radius)!r}")
        return " and ".join(conditions) or None


def _haversine(km: float) -> float:
    """Return sin^2 of half the angle that a distance spans at the centre of the earth."""
    return math.sin(min(km / _EARTH_KM, math.pi) / 2) ** 2


def _literal(moment: date) -> str:
    if not isinstance(moment, datetime):
        moment = datetime.combine(moment, time())
    if moment.tzinfo is not None:
        try:
            moment = moment.astimezone().replace(tzinfo=None)
        except OverflowError as error:
            raise InputError(f"{moment.isoformat()} has no local time; its year is out of range") from error
    return moment.isoformat(sep=" ")


def _prefix(folder: str | os.PathLike[str]) -> str:
    return absolute(os.fspath(folder)).rstrip("/") + "/"


def quoted(text: str) -> str:
    """Return a text as a literal of SQL."""
    return "'" + text.replace("'", "''") + "'"
