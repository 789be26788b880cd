"""What counts as equal: text exactly, pictures to half a pixel, numbers of other hardware to the last decimal shown."""

import base64
import difflib
import doctest
import io
import json
import re
from decimal import Decimal
from itertools import zip_longest
from pathlib import Path
from xml.etree import ElementTree

import numpy
from _pytest.doctest import _get_checker, _get_number_flag
from PIL import Image

NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")
HASHED_ID = re.compile(r"(?:(?<=#)|^)(?:[mpc]|image)[0-9a-f]{10}\b")  # as matplotlib names what it drew
MEASURED = re.compile(r" *~(\d+(?:\.\d+)?)")  # as in "~12 times": another machine, another number
CPUINFO = Path("/proc/cpuinfo")
FACTOR = 3  # by which it may differ, up or down
HALF_A_PIXEL = 0.375  # in points: a CSS pixel is 0.75
LEVELS = 8  # of 255, for each pixel of an embedded image


def text(want: str, got: str, kind: str, ellipsis: bool = False) -> str | None:
    """How `got`, printed on a kind of device, differs from `want`, as a diff; None if it does not.

    A measurement, as in "~12 times", holds within a factor of three. Everything else is equal on a CPU that adds as
    those of the records do. Others add in another order, so there a number may be off by one in its last decimal.
    """
    measured = MEASURED.finditer(want)
    got = MEASURED.sub(lambda new: _measured(next(measured, new), new), got)
    numbers = 0 if kind == "cpu" and _has_avx2_at_most() else _get_number_flag()
    flags = numbers | doctest.DONT_ACCEPT_BLANKLINE | (doctest.ELLIPSIS if ellipsis else 0)
    if _get_checker().check_output(want, got, flags):
        return None
    diff = difflib.ndiff(want.splitlines(), got.splitlines())
    return "\n".join(f"    {line}" for line in diff if not line.startswith("?"))


def _has_avx2_at_most() -> bool:
    """Whether this is an x86 CPU of the kind on which all pages were found to print the same characters."""
    flags = CPUINFO.read_text(encoding="utf-8").split() if CPUINFO.is_file() else []
    return "avx2" in flags and "avx512f" not in flags


def _measured(old: re.Match, new: re.Match) -> str:
    before, after = float(old[1]), float(new[1])
    return old[0] if before / FACTOR <= after <= before * FACTOR else new[0]


def data(want: str, got: str) -> str | None:
    """How recorded JSON differs from what was committed; None if it does not.

    Numbers may differ by one unit in the last decimal place that the committed file uses.
    """
    try:
        wanted, new = json.loads(want, parse_float=Decimal), json.loads(got, parse_float=Decimal, parse_constant=_finite)
    except ValueError as error:
        return f"not JSON: {error}"
    numbers = [value for _, value in _leaves(wanted) if isinstance(value, Decimal)]
    unit = min((Decimal(1).scaleb(number.as_tuple().exponent) for number in numbers), default=Decimal(0))
    for (path, old), (where, value) in zip_longest(_leaves(wanted), _leaves(new), fillvalue=("the end", None)):
        if path != where:
            return f"where the committed file has {path}, this run wrote {where}"
        same = abs(old - value) <= unit if _is_number(old) and _is_number(value) else old == value
        if not same:
            return f"{path} was {old}, is {value}"
    return None


def _finite(name: str) -> None:
    raise ValueError(f"{name} is no number that JSON knows")


def _is_number(value) -> bool:
    return isinstance(value, int | Decimal) and not isinstance(value, bool)


def _leaves(value, path: str = "data"):
    """(path, value) for every value in JSON, in order; an empty list or object is a value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from _leaves(item, f"{path}[{key!r}]")
    if not items:
        yield path, value


def figure(want: str, got: str) -> str | None:
    """How one SVG differs visibly from another; None if it does not."""
    try:
        wanted = list(_drawing(want))
    except ElementTree.ParseError as error:
        return f"the committed file is not SVG: {error}"
    drawn = list(_drawing(got))
    for (name, old), (_, new) in zip(wanted, drawn, strict=False):
        if old != new and (problem := _attribute(name, old, new)):
            return problem
    if len(wanted) != len(drawn):
        return f"{len(wanted)} attributes and texts were committed, {len(drawn)} were drawn"
    return None


def _drawing(svg: str):
    """(where, value) for each tag, attribute and text; ids are numbered in order of appearance."""
    ids: dict[str, str] = {}
    for element in ElementTree.fromstring(svg).iter():
        tag = element.tag.rpartition("}")[2]
        yield tag, tag
        for name, value in sorted(element.attrib.items()):
            name = name.rpartition("}")[2]
            if not value.startswith("data:"):
                value = HASHED_ID.sub(lambda match: ids.setdefault(match[0], f"id{len(ids)}"), value)
            yield f"<{tag} {name}>", value
        yield f"<{tag}>", (element.text or "").strip()


def _attribute(name: str, old: str, new: str) -> str | None:
    if old.startswith("data:image") and new.startswith("data:image"):
        before, after = _pixels(old), _pixels(new)
        if before.shape != after.shape or abs(before - after).max() > LEVELS:
            return "an embedded image differs"
        return None
    texts = name.startswith("<text") and "font" not in old and not name.endswith((" x>", " y>", " transform>"))
    before, after = (NUMBER.findall(value) for value in (old, new))
    same_words = NUMBER.sub("0", old) == NUMBER.sub("0", new)
    if texts or not same_words or "#" in old or len(before) != len(after):
        return f"{name} was {old[:80]!r}, is {new[:80]!r}"
    for a, b in zip(before, after, strict=True):
        if abs(float(a) - float(b)) > HALF_A_PIXEL:
            return f"{name} was {a}, is {b}"
    return None


def _pixels(uri: str) -> numpy.ndarray:
    data = base64.b64decode(uri.partition("base64,")[2])
    return numpy.asarray(Image.open(io.BytesIO(data)).convert("RGBA"), dtype=float)
