"""Open Inference Protocol V2 tensors."""

from __future__ import annotations

import math

import numpy as np
import pytest

from factory.errors import InvalidRequestError
from factory.worker.tensors import decode_inputs, encode_outputs


def tensor(**changes: object) -> dict[str, object]:
    return {"inputs": [{"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [1, 2.5, None, 4], **changes}]}


def test_flat_and_nested_data_are_the_same_tensor_and_null_is_nan() -> None:
    flat = decode_inputs(tensor())["x"]
    nested = decode_inputs(tensor(data=[[1, 2.5], [None, 4]]))["x"]

    assert flat.dtype == np.float32
    assert flat.shape == (2, 2)
    assert math.isnan(flat[1, 0])
    np.testing.assert_array_equal(flat, nested)


@pytest.mark.parametrize(
    ("datatype", "data"),
    [("INT64", [1, 2]), ("BOOL", [True, False]), ("BYTES", ["a", "ü"]), ("UINT8", [0, 255]), ("FP64", [0.1, -1e300])],
)
def test_every_kind_survives_there_and_back(datatype: str, data: list[object]) -> None:
    array = decode_inputs(tensor(datatype=datatype, shape=[2], data=data))["x"]
    (output,) = encode_outputs({"x": array})

    assert output == {"name": "x", "shape": [2], "datatype": datatype, "data": data}


def test_nan_and_infinity_leave_as_null() -> None:
    (output,) = encode_outputs({"y": np.array([1.0, np.nan, np.inf], np.float32)})

    assert output["data"] == [1.0, None, None]


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": [3]},
        {"shape": [-1, 4]},
        {"shape": "2"},
        {"datatype": "FLOAT"},
        {"datatype": "INT64"},
        {"datatype": "BYTES"},
        {"data": "abcd"},
        {"data": [1, [2], 3, 4]},
        {"data": [True, 1, 2, 3]},
        {"datatype": "UINT8", "data": [1, 2, 3, 256]},
        {"name": 7},
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(InvalidRequestError):
        decode_inputs(tensor(**changes))


def test_a_tensor_given_twice_and_a_body_that_is_no_request_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match="twice"):
        decode_inputs({"inputs": tensor()["inputs"] * 2})  # pyright: ignore[reportOperatorIssue]
    with pytest.raises(InvalidRequestError, match="inputs"):
        decode_inputs([1])


def test_only_the_outputs_asked_for_are_sent() -> None:
    outputs = {"a": np.zeros(1), "b": np.ones(1)}

    assert [o["name"] for o in encode_outputs(outputs, [{"name": "b"}])] == ["b"]
    with pytest.raises(InvalidRequestError, match="did you mean"):
        encode_outputs({"forecast": np.zeros(1)}, [{"name": "forecasts"}])
