"""The schema goes up and down, whole or not at all, and is the one that tables.py describes."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect, text

from factory.domain.datasets import UploadState
from factory.domain.ids import TenantId
from factory.domain.tenancy import Scope
from factory.errors import ConfigurationError, FactoryError, UnavailableError
from factory.storage import migrate
from factory.storage.store import open_store
from factory.storage.tables import METADATA


def test_the_migrated_schema_is_the_described_one(url: str) -> None:
    migrate.upgrade(url)
    with migrate.connected(url) as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, METADATA) == []
        live = inspect(connection)
        for table in METADATA.sorted_tables:
            # Partial indexes and checks are not compared by Alembic.
            described = {str(index.name) for index in table.indexes}
            assert described <= {str(index["name"]) for index in live.get_indexes(table.name)}, table.name
            primary = [column.name for column in table.primary_key.columns]
            assert live.get_pk_constraint(table.name)["constrained_columns"] == primary, table.name


def test_the_schema_goes_down_to_nothing_and_up_again(url: str) -> None:
    migrate.upgrade(url)
    assert migrate.revision(url) == migrate.head()
    migrate.downgrade(url)
    with migrate.connected(url) as connection:
        assert set(inspect(connection).get_table_names()) == {"alembic_version"}
    migrate.upgrade(url)
    assert migrate.revision(url) == migrate.head()


def test_uploads_of_the_first_schema_are_kept_and_name_the_versions_made_of_them(url: str) -> None:
    """0001 → 0002 → 0001: the rows of a factory that runs."""
    migrate.upgrade(url, "0001")
    upload = (
        '{"id":"upl-1","tenant":"mobility","filename":"ü.csv","format":"csv","object_key":"uploads/mobility/upl-1",'
        '"size_bytes":3,"sha256":"ab","created_at":5,"created_by":"key-1"}'
    )
    with migrate.connected(url) as connection:
        connection.execute(
            text("INSERT INTO uploads (id, tenant, body) VALUES ('upl-1', 'mobility', :body)"), {"body": upload}
        )
        connection.execute(
            text(
                "INSERT INTO dataset_versions (id, tenant, dataset, number, state, request_digest, version, body) "
                "VALUES ('dsv-1', 'mobility', 'footfall', 1, 'staged', '', 1, :body)"
            ),
            {"body": '{"id":"dsv-1","upload":"upl-1"}'},
        )
    with open_store(url) as store:
        found = store.read(
            lambda tx: tx.upload_by_digest(Scope(TenantId("mobility")), TenantId("mobility"), "ab", "csv")
        )
        assert found is not None
        assert (found.state, found.versions, found.filename) == (UploadState.KEPT, ("dsv-1",), "ü.csv")
        store.transact(lambda tx: tx.put_upload(found))
    migrate.downgrade(url, "0001")
    with migrate.connected(url) as connection:
        assert connection.execute(text("SELECT body FROM uploads")).scalar() == upload


def test_an_upgrade_of_an_up_to_date_database_changes_nothing(url: str) -> None:
    with open_store(url) as store:
        store.transact(lambda tx: tx.acquire_lease("a", 0, 600_000))
    with open_store(url) as store:
        lease = store.read(lambda tx: tx.lease())
    assert lease is not None
    assert lease.epoch == 1


def test_a_schema_of_a_newer_release_is_refused_and_left_alone(url: str) -> None:
    migrate.upgrade(url)
    with migrate.connected(url) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(ConfigurationError, match="9999"):
        open_store(url)
    assert migrate.revision(url) == "9999"


def test_a_migration_that_fails_midway_leaves_nothing(url: str) -> None:
    with migrate.connected(url) as connection:
        connection.execute(text("CREATE TABLE feed (a INTEGER)"))
    with pytest.raises(FactoryError):
        migrate.upgrade(url)
    with migrate.connected(url) as connection:
        assert inspect(connection).get_table_names() == ["feed"]


@pytest.mark.parametrize(
    "bad", ["mysql://localhost/factory", "sqlite://", "sqlite:///:memory:", "no url", "postgresql://u:secret@h:port/db"]
)
def test_a_url_that_is_no_database_of_ours_is_refused_without_showing_it(bad: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        open_store(bad)
    assert "secret" not in str(refusal.value)


def test_a_database_that_cannot_be_opened_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError):
        open_store(f"sqlite:///{tmp_path}/no/such/folder/factory.db")
    with pytest.raises(UnavailableError):
        open_store(f"postgresql:///factory?host={tmp_path}")


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "factory.db"
    path.write_bytes(b"these are not the rows you are looking for" * 100)
    with pytest.raises(ConfigurationError):
        open_store(f"sqlite:///{path}")


def test_migrations_ask_for_full_synchronous_too(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'factory.db'}"
    with migrate.connected(url) as connection:
        assert connection.execute(text("PRAGMA synchronous")).scalar() == 2
