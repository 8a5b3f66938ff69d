"""The one checked reader of safetensors files; no pickle is ever opened. Imports no torch.

`safetensors` itself checks a header: JSON, dtypes, shapes, string metadata, offsets without gaps,
and that the file ends where its last tensor does. This module makes one line of its errors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from sunbench.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

PICKLES = (".ckpt", ".pt", ".bin", ".pth", ".pkl")
#: First bytes of pickles and of zip archives, in which torch.save packs them.
_PICKLE_STARTS = (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_FLOATS = ("F16", "BF16", "F32", "F64")
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class Header(Mapping[str, tuple[int, ...]]):
    """What a file says about its tensors: a mapping from names to shapes.

    dtypes: safetensors' names, such as "F32" or "BF16". metadata: the file's own strings.
    """

    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        return self.shapes[name]

    def __iter__(self) -> Iterator[str]:
        """Names of tensors."""
        return iter(self.shapes)

    def __len__(self) -> int:
        """The number of tensors."""
        return len(self.shapes)


def refuse_pickle(name: str) -> None:
    """Raise for a pickled checkpoint, saying how to convert it."""
    if PurePosixPath(name).suffix.lower() in PICKLES:
        raise UserError(
            f"given {name!r}, expected .safetensors: a pickle can run code when opened; convert it "
            "once with: python -c \"import torch, safetensors.torch as s; d = torch.load('IN', "
            "weights_only=True); d = d.get('state_dict', d); s.save_file({k: v.contiguous() for k, "
            "v in d.items() if torch.is_tensor(v)}, 'OUT.safetensors')\""
        )


def read_header(path: Path) -> Header:
    """Read names, shapes, dtypes and metadata, and check that the file is whole.

    Raises UserError, one line that names the file, when it is missing, truncated, too long, a
    pickle in disguise or not safetensors.
    """
    with _opened(path, "numpy") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        return Header(
            {name: tuple(part.get_shape()) for name, part in slices.items()},
            {name: part.get_dtype() for name, part in slices.items()},
            dict(file.metadata() or {}),
        )


def load_tensors(path: Path, names: Iterable[str] | None = None) -> dict[str, Tensor]:
    """Read these tensors of a file (by default all) onto the CPU, in the dtypes of the file.

    Raises UserError as `read_header` does.
    """
    with _opened(path, "pt") as file:
        return {name: file.get_tensor(name) for name in (file.keys() if names is None else names)}


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read a file whose tensors are all real numbers: floating point, without NaN or infinity."""
    check_floating(path, read_header(path))
    tensors = load_tensors(path)
    check_finite(path, tensors)
    return tensors


def check_floating(path: Path, header: Header, names: Iterable[str] | None = None) -> None:
    """Raise UserError unless these tensors (by default all) are of a floating point dtype."""
    for name in header if names is None else names:
        if header.dtypes[name] not in _FLOATS:
            raise UserError(
                f"{path}: {name} is {header.dtypes[name]}, expected a floating point dtype"
                f" ({', '.join(_FLOATS)})"
            )


def check_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise UserError when a tensor holds NaN or infinity."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise UserError(f"{path}: {name} holds values that are not finite (NaN or infinity)")


def load_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read every tensor of a file as a NumPy array; UserError as `read_header` has."""
    with _opened(path, "numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@contextmanager
def _opened(path: Path, framework: str) -> Iterator[Any]:
    size, start = _first_bytes(path)
    try:
        with safe_open(path, framework) as file:
            yield file
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError) as error:
        if start[:2] in _PICKLE_STARTS:
            refuse_pickle(f"{path} (a pickle by content).ckpt")
        raise UserError(
            f"{path}: broken safetensors file ({_reason(error, size)}); download or copy it again"
        ) from None


def _first_bytes(path: Path) -> tuple[int, bytes]:
    """The size and the first two bytes of a regular file; a FIFO or a folder is not opened."""
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"given {str(path)!r}, expected a .safetensors file")
        with path.open("rb") as file:
            return path.stat().st_size, file.read(2)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"given {str(path)!r}, cannot be read: {reason}") from None


def _reason(error: Exception, size: int) -> str:
    """The library's reason, without its list of every dtype."""
    text = " ".join(str(error).removeprefix("Error while deserializing header: ").split())
    if "not fully covered" in text:
        return f"{size} bytes, which is not what its header announces"
    return f"{size} bytes, {text.split(', expected one of')[0][:160]}"
