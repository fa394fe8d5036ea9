"""The catalogue: names, versions, parameters, digests."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from factory.algorithms import catalogue as module
from factory.algorithms.catalogue import Catalogue, built_in, load_catalogue, source_digest
from factory.algorithms.manifests import Registration
from factory.errors import ConfigurationError, InvalidRequestError, NotFoundError


def renamed(name: str = "series-forecast", version: str = "1.0.0") -> Registration:
    """A registration like the built-in one."""
    original = built_in()[0]
    return replace(original, manifest=replace(original.manifest, name=name, version=version))


def test_reading_the_catalogue_loads_no_algorithm_code() -> None:
    code = (
        "import sys; from factory.algorithms.catalogue import load_catalogue; load_catalogue().list();"
        "import factory.algorithms.contract;"
        "print([m for m in ('torch', 'numpy', 'pandas', 'pyarrow', 'factory.algorithms.forecasting')"
        " if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_the_built_in_manifest_tells_what_to_send_and_what_comes_back() -> None:
    manifest = load_catalogue().get("series-forecast")
    assert json.loads(manifest.params_schema_json)["additionalProperties"] is False
    assert json.loads(manifest.defaults_json)["variant"] == "mlp"
    assert {t.name for t in manifest.request} == {"history", "sensor", "start", "observed"}
    assert manifest.response[0].shape == (-1, 24)
    assert [m.name for m in manifest.metrics if m.primary] == ["mae"]


def test_an_unknown_algorithm_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(NotFoundError, match="no algorithm 'serie-forecast'; did you mean 'series-forecast'"):
        load_catalogue().get("serie-forecast")
    with pytest.raises(NotFoundError, match=r"'1\.0\.1'; did you mean '1\.0\.0'"):
        load_catalogue().get("series-forecast", "1.0.1")


def test_the_newest_version_is_compared_by_numbers() -> None:
    found = Catalogue([("p", renamed(version="1.9.0")), ("p", renamed(version="1.10.0"))])
    assert found.get("series-forecast").version == "1.10.0"
    assert found.get("series-forecast", "1.9.0").version == "1.9.0"
    assert [m.version for m in found.list()] == ["1.10.0", "1.9.0"]


def test_a_name_claimed_by_two_providers_is_an_error_that_names_both() -> None:
    with pytest.raises(ConfigurationError, match="offered by 'ai-factory' and by 'rival'"):
        Catalogue([("ai-factory", renamed()), ("rival", renamed(version="2.0.0"))])
    with pytest.raises(ConfigurationError, match="twice"):
        Catalogue([("ai-factory", renamed()), ("ai-factory", renamed())])
    with pytest.raises(ConfigurationError, match=r"1\.2\.3"):
        Catalogue([("ai-factory", renamed(version="1.0"))])


def test_installed_packages_add_algorithms_and_a_broken_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def install(name: str, value: str) -> None:
        point = EntryPoint(name, value, module.ENTRY_POINT_GROUP)
        monkeypatch.setattr(module, "entry_points", lambda group: [point] if group == point.group else [])
        load_catalogue.cache_clear()

    try:
        monkeypatch.setattr(sys.modules[__name__], "offered", lambda: renamed("parking-forecast"), raising=False)
        monkeypatch.setitem(sys.modules, "parking_package", sys.modules[__name__])
        install("parking-forecast", "parking_package:offered")
        assert {m.name for m in load_catalogue().list()} == {"series-forecast", "parking-forecast"}
        install("parking", "parking_package:offered")
        with pytest.raises(ConfigurationError, match="gives the algorithm 'parking-forecast'"):
            load_catalogue()
        install("parking-forecast", "parking_package:missing")
        with pytest.raises(ConfigurationError, match="cannot be loaded from parking_package:missing"):
            load_catalogue()
        install("parking-forecast", "parking_package:__name__")
        with pytest.raises(ConfigurationError, match="not a Registration"):
            load_catalogue()
    finally:
        load_catalogue.cache_clear()


def test_parameters_become_canonical_json_with_the_defaults_filled_in() -> None:
    found = load_catalogue()
    manifest = found.get("series-forecast")
    one = found.validate_params(manifest, {"lr": 0.001, "variant": "dlinear"})
    assert one == found.validate_params(manifest, {"variant": "dlinear", "lr": 0.001})
    assert json.loads(one)["horizon_steps"] == 24
    assert found.validate_params(manifest, json.loads(one)) == one
    assert found.validate_params(manifest, {}) == found.validate_params(manifest, json.loads(manifest.defaults_json))


@pytest.mark.parametrize(
    ("params", "field", "message"),
    [
        ({"varient": "mlp"}, "varient", "no parameter 'varient'; did you mean 'variant'"),
        ({"variant": "mlpp"}, "variant", "'mlp' or 'dlinear'"),
        ({"epochs": 0}, "epochs", "greater than or equal to 1"),
        ({"epochs": "many"}, "epochs", "valid integer"),
        ({"lr": float("nan")}, "lr", "finite"),
        ({"evaluation_share": 1.5}, "evaluation_share", "less than"),
    ],
)
def test_a_wrong_parameter_is_named_with_what_is_allowed(params: dict[str, object], field: str, message: str) -> None:
    found = load_catalogue()
    with pytest.raises(InvalidRequestError, match=message) as caught:
        found.validate_params(found.get("series-forecast"), params)
    fields = caught.value.facts["fields"]
    assert isinstance(fields, dict)
    assert list(fields) == [field]


def test_every_wrong_parameter_is_named_at_once() -> None:
    found = load_catalogue()
    with pytest.raises(InvalidRequestError) as caught:
        found.validate_params(found.get("series-forecast"), {"epochs": 0, "batchsize": 3})
    assert set(caught.value.facts["fields"]) == {"epochs", "batchsize"}  # type: ignore[arg-type]


def test_batch_inference_has_parameters_of_its_own() -> None:
    found = load_catalogue()
    manifest = found.get("series-forecast")
    assert found.validate_predict_params(manifest, {}) == '{"from":""}'
    assert found.validate_predict_params(manifest, {"from": "2025-06-18T00:00"}) == '{"from":"2025-06-18T00:00"}'
    for wrong, message in (("yesterday", "isoformat"), ("2025-06-18T00:00Z", "without time zone")):
        with pytest.raises(InvalidRequestError, match=message):
            found.validate_predict_params(manifest, {"from": wrong})
    with pytest.raises(InvalidRequestError, match="no parameter 'variant'"):
        found.validate_predict_params(manifest, {"variant": "mlp"})


def test_the_code_digest_shows_any_edit_and_only_edits(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    files = [tmp_path / "a.py", tmp_path / "sub" / "b.py"]
    for file in files:
        file.write_text("x = 1\n")
    digest = source_digest(tmp_path, files)
    assert digest == source_digest(tmp_path, reversed(files))
    assert digest.startswith("sha256:")
    files[1].write_text("x = 2\n")
    assert source_digest(tmp_path, files) != digest
    files[1].write_text("x = 1\n")
    assert source_digest(tmp_path, files) == digest
    assert source_digest(tmp_path, [files[0], files[1].rename(tmp_path / "sub" / "c.py")]) != digest
