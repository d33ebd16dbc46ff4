"""The attributes of objects of any class, and their hidden state."""

from __future__ import annotations

import pickle
import types
import warnings
from typing import Any


def hidden_state(value: Any) -> bytes | None:
    """Return bytes that change with the state of an object.

    None if the object does not show its state.
    """
    if isinstance(value, types.GeneratorType):
        frame = value.gi_frame
        return repr(None if frame is None else (frame.f_lasti, frame.f_locals)).encode()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python 3.12 warns of the pickles of itertools
            return pickle.dumps(value)
    except Exception:  # pickle raises various types
        return None


def attributes_of(value: Any) -> dict[str | tuple[type, str], Any] | None:
    """Return the attributes of an object; None without any.

    Those in slots are found by class and name.
    """
    owners = [cls for cls in type(value).__mro__ if "__slots__" in vars(cls)]
    members = [(cls, name) for cls in owners for name, member in vars(cls).items() if _is_slot(member)]
    own = getattr(value, "__dict__", None)
    if not isinstance(own, dict) and not members:
        return None
    attributes: dict[str | tuple[type, str], Any] = dict(own) if isinstance(own, dict) else {}
    for cls, name in members:
        try:
            attributes[cls, name] = vars(cls)[name].__get__(value)
        except AttributeError:  # an empty slot
            continue
    return attributes


def _is_slot(member: Any) -> bool:
    return isinstance(member, types.MemberDescriptorType)


def restore_attributes(value: Any, attributes: dict[str | tuple[type, str], Any]) -> None:
    """Give an object the attributes that it had, and no others."""
    own = getattr(value, "__dict__", None)
    if isinstance(own, dict):
        own.clear()
        own.update({name: content for name, content in attributes.items() if isinstance(name, str)})
    for cls in type(value).__mro__:
        for name, member in vars(cls).items() if "__slots__" in vars(cls) else ():
            if _is_slot(member) and (cls, name) in attributes:
                member.__set__(value, attributes[cls, name])
            elif _is_slot(member) and hasattr(value, name):
                member.__delete__(value)
