"""Open Inference Protocol V2 tensors: JSON to numpy and back. Strict: what does not fit is refused by name.

Source: KServe's Open Inference Protocol, "Inference Request JSON Object". One addition, as other servers do: `null` in
a floating-point tensor is NaN (JSON has no NaN), both ways.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from factory.errors import InvalidRequestError, did_you_mean

if TYPE_CHECKING:
    import numpy as np

__all__ = ["decode_inputs", "encode_outputs"]

_DTYPES = {
    "BOOL": "bool", "UINT8": "uint8", "UINT16": "uint16", "UINT32": "uint32", "UINT64": "uint64",
    "INT8": "int8", "INT16": "int16", "INT32": "int32", "INT64": "int64",
    "FP16": "float16", "FP32": "float32", "FP64": "float64", "BYTES": "object",
}  # fmt: skip
_DATATYPES = {dtype: datatype for datatype, dtype in _DTYPES.items()}
_MAX_DIMENSIONS = 16
_MAX_VALUES = 50_000_000


def decode_inputs(request: object) -> dict[str, np.ndarray]:
    """Return the tensors of an inference request by name.

    Raises: InvalidRequestError: it is no such request; the message names the tensor.
    """
    if not isinstance(request, Mapping) or not isinstance(request.get("inputs"), list):
        raise InvalidRequestError("the body must be an object with the list 'inputs'")
    tensors: dict[str, np.ndarray] = {}
    for number, tensor in enumerate(request["inputs"]):
        if not isinstance(tensor, Mapping) or not isinstance(tensor.get("name"), str):
            raise InvalidRequestError(f"inputs[{number}] must be an object with the text 'name'")
        name = tensor["name"]
        if name in tensors:
            raise InvalidRequestError(f"the input tensor '{name}' is given twice")
        tensors[name] = _decode(name, tensor)
    return tensors


def _decode(name: str, tensor: Mapping[str, Any]) -> np.ndarray:
    import numpy as np

    datatype, shape, data = tensor.get("datatype"), tensor.get("shape"), tensor.get("data")
    if not isinstance(datatype, str) or datatype not in _DTYPES:
        raise InvalidRequestError(
            f"'{name}': there is no datatype {datatype!r}{did_you_mean(str(datatype), _DTYPES)}",
            hint=f"allowed: {', '.join(_DTYPES)}",
        )
    if (
        not isinstance(shape, list)
        or len(shape) > _MAX_DIMENSIONS
        or not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in shape)
    ):
        raise InvalidRequestError(f"'{name}': 'shape' must be a list of whole numbers, not {str(shape)[:80]}")
    if not isinstance(data, list):
        raise InvalidRequestError(f"'{name}': 'data' must be a list")
    values: list[Any] = []
    _flatten(data, values, name, 0)
    if math.prod(shape) != len(values):
        raise InvalidRequestError(f"'{name}': shape {shape} needs {math.prod(shape)} values, 'data' has {len(values)}")
    _check_values(name, datatype, values)
    if datatype == "BYTES":
        array = np.empty(len(values), dtype=object)
        array[:] = values
        return array.reshape(shape)
    try:
        if datatype.startswith("FP"):
            return np.array([math.nan if v is None else v for v in values], dtype=_DTYPES[datatype]).reshape(shape)
        return np.array(values, dtype=_DTYPES[datatype]).reshape(shape)
    except OverflowError as exc:
        raise InvalidRequestError(f"'{name}': a value does not fit {datatype}") from exc


def _check_values(name: str, datatype: str, values: list[Any]) -> None:
    if datatype == "BYTES":
        fits = all(type(v) is str for v in values)
    elif datatype == "BOOL":
        fits = all(type(v) is bool for v in values)
    elif datatype.startswith("FP"):
        fits = all(v is None or type(v) is float or type(v) is int for v in values)
    else:
        fits = all(type(v) is int for v in values)
    if not fits:
        raise InvalidRequestError(f"'{name}': a value is no {datatype}")


def _flatten(data: list[Any], into: list[Any], name: str, depth: int) -> None:
    if depth > _MAX_DIMENSIONS or len(into) > _MAX_VALUES:
        raise InvalidRequestError(f"'{name}': 'data' is too deep or too large")
    if not any(isinstance(value, list) for value in data):
        into.extend(data)
        return
    for value in data:
        if not isinstance(value, list):
            raise InvalidRequestError(f"'{name}': 'data' mixes values and lists")
        _flatten(value, into, name, depth + 1)


def encode_outputs(outputs: Mapping[str, np.ndarray], wanted: object = None) -> list[dict[str, Any]]:
    """Return the response's tensors. `wanted`: the request's 'outputs', None = all.

    Raises: InvalidRequestError: an output is asked for that the model does not have.
    """
    import numpy as np

    names = list(outputs)
    if isinstance(wanted, list) and wanted:
        names = [str(o.get("name")) if isinstance(o, Mapping) else str(o) for o in wanted]
        for name in names:
            if name not in outputs:
                raise InvalidRequestError(f"there is no output tensor '{name}'{did_you_mean(name, outputs)}")
    encoded: list[dict[str, Any]] = []
    for name in names:
        array = np.asarray(outputs[name])
        datatype = _DATATYPES.get(array.dtype.name, "BYTES")
        data: list[Any] = array.ravel().tolist()
        if datatype.startswith("FP"):
            data = [v if math.isfinite(v) else None for v in data]
        elif datatype == "BYTES":
            data = [v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in data]
        encoded.append({"name": name, "shape": list(array.shape), "datatype": datatype, "data": data})
    return encoded
