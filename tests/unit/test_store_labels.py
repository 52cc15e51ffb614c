"""Each tenant of a gateway has a label of its own in the store, whatever its name."""

from __future__ import annotations

from langgraph.store.memory import InMemoryStore

from core.gateway.access import NAME
from core.gateway.store import label_of


def test_the_label_of_a_tenant_is_one_that_stores_take_and_no_other_tenants() -> None:
    tenants = ["acme", "acme.eu", "acme..eu", "acme-eu", "acme_2Eeu", "a@b"]
    assert all(NAME.fullmatch(tenant) for tenant in tenants)
    store = InMemoryStore()
    for tenant in tenants:
        store.put((label_of(tenant), "notes"), "one", {"of": tenant})
    assert len(store.list_namespaces()) == len(tenants)
