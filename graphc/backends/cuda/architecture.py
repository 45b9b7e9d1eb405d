"""How architectures of devices are named, and what a kernel may expect of one."""

from __future__ import annotations

import re

from graphc.errors import UserError

OLDEST = "sm_80"  # what every kernel is for that expects nothing else
_NAME = re.compile(r"sm_\d{2,3}[af]?")


def check_architecture(name: object) -> str:
    """The name of an architecture, such as "sm_80".

    Raises:
        UserError: it has another form.
    """
    if isinstance(name, str) and _NAME.fullmatch(name):
        return name
    raise UserError(f"there is no architecture {name!r}\n  expected one such as sm_80 or sm_90a")


def has_boxes(name: str) -> bool:
    """Whether a copy engine brings boxes of tensors, and four warps multiply them as they lie."""
    return name == "sm_90a"


def device_architecture(device: str, own: str, asked: str | None) -> str:
    """What kernels are made for: a device's ``own`` architecture, or one that was ``asked`` for.

    The emulator runs the kernels of all.

    Raises:
        UserError: there is no such architecture, or the device cannot do what its kernels do.
    """
    if asked is None:
        return own
    name = check_architecture(asked)
    if has_boxes(name) and not has_boxes(own) and device != "cuda-emu":
        raise UserError(
            f"kernels for {name} do not run on {device}, which is {own}\n"
            f"  leave arch out, or name an older one such as {OLDEST}"
        )
    return name
