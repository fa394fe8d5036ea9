"""One replica of an endpoint, asked over real HTTP."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import httpx
import numpy as np
import pytest

from factory.errors import InvalidRequestError
from factory.worker.serving import INGRESS_HEADER, ModelServer, serve


class Doubler:
    """y = 2 x; refuses other tensors; "wait" holds it until told to go on."""

    def __init__(self) -> None:
        self.entered, self.go_on = threading.Event(), threading.Event()

    @property
    def metadata(self) -> Mapping[str, Any]:
        return {"signature": {"request": [{"name": "x", "datatype": "FP32", "shape": [-1]}], "response": []}}

    def infer(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if "wait" in inputs:
            self.entered.set()
            self.go_on.wait(20)
        elif "x" not in inputs:
            raise InvalidRequestError("the input tensor 'x' is missing")
        elif inputs["x"][0] == 13:
            raise RuntimeError("the model's own trouble")
        return {"y": 2 * inputs.get("x", np.zeros(1, np.float32))}


class Replica:
    """A server in a thread."""

    def __init__(self) -> None:
        self.model = Doubler()
        self.server = ModelServer(self.model, model="footfall", number=3, secret="s3cret", log=lambda _: None)
        self.ready = threading.Event()
        self.stops: list[Callable[[], None]] = []
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()
        assert self.ready.wait(20)
        self.client = httpx.Client(base_url=self.url, headers={INGRESS_HEADER: "s3cret"}, timeout=30)

    def _serve(self) -> None:
        serve(self.server, host="127.0.0.1", grace_s=10, on_ready=self._is_ready, on_stop=self.stops.append)

    def _is_ready(self, host: str, port: int) -> None:
        self.url = f"http://{host}:{port}"
        self.ready.set()

    def infer(self, **tensors: list[float]) -> httpx.Response:
        inputs = [{"name": n, "shape": [len(v)], "datatype": "FP32", "data": v} for n, v in tensors.items()]
        return self.client.post("/v2/models/footfall/infer", json={"id": "7", "inputs": inputs})


@pytest.fixture
def replica() -> Iterator[Replica]:
    started = Replica()
    yield started
    started.model.go_on.set()
    started.stops[0]()
    started.client.close()
    started.thread.join(20)
    assert not started.thread.is_alive()


def test_it_answers_in_the_open_inference_protocol(replica: Replica) -> None:
    assert replica.client.get("/v2/health/live").json() == {"live": True}
    assert replica.client.get("/v2/models/footfall/ready").json() == {"ready": True}
    assert replica.client.get("/v2/models/footfall").json()["inputs"] == [
        {"name": "x", "datatype": "FP32", "shape": [-1]}
    ]
    assert replica.infer(x=[1, 2]).json() == {
        "model_name": "footfall",
        "model_version": "3",
        "id": "7",
        "outputs": [{"name": "y", "shape": [2], "datatype": "FP32", "data": [2.0, 4.0]}],
    }
    assert replica.client.get("/v2/models/footfall/versions/3/ready").status_code == 200


def test_it_answers_the_ingress_only(replica: Replica) -> None:
    for headers in ({}, {INGRESS_HEADER: "wrong"}):
        assert httpx.get(f"{replica.url}/v2/health/live", headers=headers).status_code == 403
        assert httpx.post(f"{replica.url}/v2/models/footfall/infer", headers=headers).status_code == 403


def test_what_it_cannot_answer_says_why_and_it_goes_on(replica: Replica) -> None:
    assert replica.infer(z=[1]).status_code == 400
    assert "'x' is missing" in replica.infer(z=[1]).json()["error"]
    assert replica.client.post("/v2/models/footfall/infer", content=b"{").status_code == 400
    assert replica.client.post("/v2/models/footfall/infer", content=b"[" * 100_000).status_code == 400
    assert replica.client.post("/v2/models/other/infer", json={}).status_code == 404
    assert replica.client.get("/v2/models/footfall/versions/2").status_code == 404
    assert replica.infer(x=[13]).status_code == 500
    assert "trouble" not in replica.infer(x=[13]).text  # its words may hold data
    assert replica.infer(x=[1]).status_code == 200


def test_told_to_stop_it_finishes_what_it_has(replica: Replica) -> None:
    answers: list[int] = []
    asking = threading.Thread(target=lambda: answers.append(replica.infer(wait=[1]).status_code))
    asking.start()
    assert replica.model.entered.wait(20)

    replica.stops[0]()
    replica.model.go_on.set()
    asking.join(20)
    replica.thread.join(20)

    assert answers == [200]
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{replica.url}/v2/health/live")
