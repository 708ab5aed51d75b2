"""Converts XML answers to the object that JSON would have been, for services without JSON, such as S3 and EC2.

Elements become members, without namespaces and attributes. Elements with a name that only lists have become lists.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_LISTS: Final = frozenset({"item", "member", "Bucket", "CommonPrefixes", "Contents"})  # also with one element
_DEEPEST: Final = 40


def parse_xml(body: bytes, *, mask: Callable[[str], str] = str) -> Mapping[str, object] | None:
    """The document as an object; None for anything else, and for a document type, which could define entities.

    Only UTF-8 is read, because another encoding could hide a document type. `mask` is applied to each text as it is
    read.
    """
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
    if "\x00" in text or "<!" in text.replace("<![CDATA[", ""):
        return None
    from xml.etree import ElementTree  # which few need

    try:
        root = ElementTree.fromstring(text)  # noqa: S314 -- no document type, so no entities
        return {_name(root): _value(root, mask, _DEEPEST)}
    except (ElementTree.ParseError, ValueError):
        return None


def _value(element: Element, mask: Callable[[str], str], depth: int) -> object:
    if not depth:
        raise ValueError("too deep")
    if len(element) == 0:
        return mask(element.text or "")
    found: dict[str, list[object]] = {}
    for child in element:
        found.setdefault(_name(child), []).append(_value(child, mask, depth - 1))
    return {name: values if name in _LISTS or len(values) > 1 else values[0] for name, values in found.items()}


def _name(element: Element) -> str:
    return element.tag.rpartition("}")[2]
