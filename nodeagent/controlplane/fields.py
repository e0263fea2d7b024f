# SPDX-License-Identifier: Apache-2.0
"""One YAML mapping being read: typed access to its fields, and a finding for each that does not fit.

A field of the wrong type rejects the object, as the API server would; reading goes on, so that all findings of an
object come at once. Pure.
"""

import re
from collections.abc import Callable, Iterator
from typing import TypeVar

from nodeagent.controlplane.documents import Mapping, Scalar, Sequence, Value
from nodeagent.controlplane.finding import Report
from nodeagent.model.address import Cidr, Ip, Port, parse_ip

_Parsed = TypeVar("_Parsed")
_PREFIX = re.compile(r"[^/%]+(?:/(?:0|[1-9]\d{0,2}))?", re.ASCII)
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s)", re.ASCII)
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_LONGEST_SECONDS = 30 * 86400.0
_PORT = re.compile(r"[1-9]\d{0,4}", re.ASCII)


class Fields:
    """`path` is where the mapping stands in its object, such as `spec.rules[0]`."""

    def __init__(self, mapping: Mapping, path: str, report: Report) -> None:
        self.mapping = mapping
        self.path = path
        self.report = report
        self._asked: set[str] = set()

    def has(self, name: str) -> bool:
        """Written, and not as null."""
        self._asked.add(name)
        return self._value(name) is not None

    def line(self, name: str) -> int:
        return self.mapping.lines.get(name, self.mapping.line)

    def line_in(self, name: str, at: int) -> int:
        """Line of a value of a list; of the list where it has none there."""
        values = self._list(name)
        return values[at].line if at < len(values) else self.line(name)

    def text(self, name: str, default: str = "", *, is_free: bool = False) -> str:
        value = self._value(name)
        if value is None:
            return default
        if not (isinstance(value, Scalar) and isinstance(value.value, str)):
            self.wrong(name, "a text is expected" + _quotes(value))
            return default
        if not (is_free or value.value.isprintable()):
            # No name, label or host has any, and an agent would refuse what is made of it.
            self.wrong(name, f"{value.value[:40]!r} has characters that cannot be printed")
            return default
        return value.value

    def flag(self, name: str) -> bool:
        value = self._value(name)
        if value is None:
            return False
        if isinstance(value, Scalar) and isinstance(value.value, bool):
            return value.value
        self.wrong(name, "true or false is expected")
        return False

    def number(self, name: str, default: int = 0, most: int = 2**32 - 1) -> int:
        """A whole number from 0 to `most`."""
        value = self._value(name)
        if value is None:
            return default
        number = value.value if isinstance(value, Scalar) else None
        if isinstance(number, int) and not isinstance(number, bool) and 0 <= number <= most:
            return number
        self.wrong(name, f"{_shown(value)} is not a whole number from 0 to {most}")
        return default

    def seconds(self, name: str, default: float = 0.0, least: float = 0.0) -> float:
        """A duration as protobuf's JSON or Go has it, such as `1.5s`, `250ms` or `1h30m`."""
        value = self._value(name)
        if value is None:
            return default
        text = value.text if isinstance(value, Scalar) else ""
        found = _duration(text)
        if found is None or not least <= found <= _LONGEST_SECONDS:
            self.wrong(
                name, f"{_shown(value)} is not a duration of {least:g} s or more", check="Such as 1.5s or 1h30m."
            )
            return default
        return found

    def port(self, name: str) -> Port | None:
        value = self._value(name)
        if value is None:
            return None
        number = value.value if isinstance(value, Scalar) else None
        if isinstance(number, int) and is_port(number):
            return Port(number)
        self.wrong(name, f"{_shown(value)} is not a port", check="Ports are numbers from 1 to 65535.")
        return None

    def port_or_name(self, name: str) -> Port | str | None:
        value = self._value(name)
        if isinstance(value, Scalar) and isinstance(value.value, str) and value.value:
            return value.value
        return self.port(name)

    def choice(self, name: str, choices: dict[str, _Parsed], default: _Parsed) -> _Parsed:
        text = self.text(name)
        if not text:
            return default
        if text not in choices:
            self.wrong(name, f"{text!r} is not one of {', '.join(choices)}", check="Case matters.")
            return default
        return choices[text]

    def within(self, name: str) -> "Fields | None":
        """The mapping below `name`; None when it is not written."""
        value = self._value(name)
        if value is None:
            return None
        if isinstance(value, Mapping):
            return Fields(value, self.below(name), self.report)
        self.wrong(name, "fields are expected, not " + _shown(value))
        return None

    def each(self, name: str) -> Iterator["Fields"]:
        """The mappings of a list."""
        for at, value in enumerate(self._list(name)):
            path = f"{self.below(name)}[{at}]"
            if isinstance(value, Mapping):
                yield Fields(value, path, self.report)
            else:
                self.report.reject(value.line, f"fields are expected, not {_shown(value)}", _SEE_API, field=path)

    def parsed(self, name: str, parse: Callable[[str], _Parsed]) -> tuple[_Parsed, ...]:
        """A list of texts, each through `parse`, whose ValueError becomes the finding."""
        found: list[_Parsed] = []
        for at, value in enumerate(self._list(name)):
            path = f"{self.below(name)}[{at}]"
            if not (isinstance(value, Scalar) and isinstance(value.value, str)):
                self.report.reject(value.line, f"a text is expected{_quotes(value)}", _SEE_API, field=path)
                continue
            if not value.value:
                self.report.reject(value.line, "an empty value matches nothing", "Remove it or fill it in.", field=path)
                continue
            if not value.value.isprintable():
                shown = repr(value.value[:40])
                self.report.reject(value.line, f"{shown} has characters that cannot be printed", _SEE_API, field=path)
                continue
            try:
                found.append(parse(value.value))
            except ValueError as error:
                self.report.reject(value.line, str(error), "Correct the value.", field=path)
        return tuple(found)

    def texts(self, name: str) -> dict[str, str]:
        """A mapping of texts, such as labels."""
        below = self.within(name)
        return {key: below.text(key) for key in below.mapping.entries} if below is not None else {}

    def free_texts(self, name: str) -> dict[str, str]:
        """As `texts`, of several lines if they like, such as annotations: no agent is told them."""
        below = self.within(name)
        return {key: below.text(key, is_free=True) for key in below.mapping.entries} if below is not None else {}

    def refuse_others(self, check: str) -> None:
        """Every field that nobody asked for: a misspelt field of a policy is a rule that would not be enforced."""
        for name in self.mapping.entries:
            if name not in self._asked:
                self.wrong(name, "there is no such field", check=check, code="MN0212")

    def warn_others(self, check: str) -> None:
        """As `refuse_others`, where an unknown field is harmless."""
        for name in self.mapping.entries:
            if name not in self._asked:
                self.report.warn(self.line(name), "this field is not used", check, "MN0212", field=self.below(name))

    def wrong(self, name: str, message: str, *, check: str = "", code: str = "IST0106") -> None:
        self.report.reject(self.line(name), message, check or _SEE_API, code, field=self.below(name))

    def below(self, name: str) -> str:
        """Path of a field of this mapping."""
        return join_field(self.path, name)

    def _value(self, name: str) -> Value | None:
        self._asked.add(name)
        value = self.mapping.entries.get(name)
        return None if isinstance(value, Scalar) and value.value is None else value

    def _list(self, name: str) -> list[Value]:
        value = self._value(name)
        if value is None:
            return []
        if isinstance(value, Sequence):
            return value.items
        self.wrong(name, "a list is expected, not " + _shown(value))
        return []


_SEE_API = "See the Kubernetes or Istio reference of this kind."


def join_field(path: str, name: str) -> str:
    """The path of a field below `path`; YAML allows an empty name."""
    shown = name or '""'
    return f"{path}.{shown}" if path else shown


def _duration(text: str) -> float | None:
    parts = _DURATION_PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def is_port(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 65535


def parse_port(text: str) -> Port:
    """From text, where the API wants text (AuthorizationPolicy). Raises ValueError.

    0 is refused although Istio takes it: no connection has it, so a DENY with it would silently do nothing.
    """
    if not _PORT.fullmatch(text) or int(text) > 65535:
        raise ValueError(f"{text!r} is not a port from 1 to 65535")
    return Port(int(text))


def parse_flag(text: str) -> bool:
    """A flag in an annotation or label, as Istio reads it (Go's strconv.ParseBool); what is none is false."""
    return text in {"1", "t", "T", "true", "TRUE", "True"}


def parse_block(text: str) -> Cidr:
    """An address or CIDR. Stricter than ipaddress: no netmasks, no zones. Raises ValueError."""
    if not _PREFIX.fullmatch(text):
        raise ValueError(f"{text!r} is not an address or CIDR block")
    try:
        return Cidr.parse(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is not an address or CIDR block") from error


def parse_address(text: str) -> Ip:
    """Raises ValueError."""
    try:
        return parse_ip(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is not an IP address") from error


def _quotes(value: Value) -> str:
    if isinstance(value, Scalar) and not isinstance(value.value, str):
        return f'; YAML reads {value.text} as something else, so write it in quotes: "{value.text}"'
    return f", not {_shown(value)}"


def _shown(value: Value) -> str:
    match value:
        case Scalar():
            return repr(value.text)
        case Sequence():
            return "a list"
        case Mapping():
            return "fields"
