"""/pools, /nodes, /queues, /tenants, /keys: what there is to share, and who may."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from factory.api.auth import Reach, needs
from factory.api.bodies import JsonRoute
from factory.api.paging import Cursor, Limit, page_of
from factory.api.problems import problem_responses
from factory.api.serving import plane_of, serving_of
from factory.api.wakes import FLEET
from factory.domain.ids import KeyId, NodeId, PoolName, QueueName, TenantId
from factory.domain.tenancy import Principal, Role
from factory.schemas.common import Page
from factory.schemas.platform import (
    KeyCreated,
    KeyRequest,
    KeyView,
    NodeView,
    PoolView,
    QueueDetail,
    QueueRequest,
    QueueView,
    TenantRequest,
    TenantView,
)
from factory.schemas.pools import FenceReply, PoolSettings

__all__ = ["router"]

router = APIRouter(tags=["platform"], route_class=JsonRoute, responses=problem_responses(401, 403, 404, 409, 422))
Viewer = Annotated[Principal, Depends(needs(Role.VIEWER, Reach.ALL))]
Admin = Annotated[Principal, Depends(needs(Role.ADMIN, Reach.ALL))]
Platform = Annotated[Principal, Depends(needs(Role.PLATFORM, Reach.ALL))]


@router.get("/pools")
def list_pools(request: Request, principal: Viewer, limit: Limit = 50, cursor: Cursor = None) -> Page[PoolView]:
    """The pools in slots."""
    found = plane_of(request).pools.list_pools(principal)
    return page_of(found, lambda p: p.name, cursor=cursor, limit=limit)


@router.patch("/pools/{name}")
def set_pool(request: Request, name: str, body: PoolSettings, principal: Platform) -> PoolView:
    """Set what a pool is for. Isolation is its Ray cluster's: every pool of the runner gets it.

    409 while live attempts are in the way: of others than the new tenant, of the tenant that it leaves, and any for
    `self_fence_s`.
    """
    plane = plane_of(request)
    view = plane.pools.set_pool(principal, PoolName(name), body, now=plane.clock.now())
    serving_of(request).hub.publish([FLEET])
    return view


@router.get("/nodes")
def list_nodes(request: Request, principal: Viewer, limit: Limit = 50, cursor: Cursor = None) -> Page[NodeView]:
    """The nodes and what is used of each."""
    found = plane_of(request).pools.list_nodes(principal)
    return page_of(found, lambda n: n.id, cursor=cursor, limit=limit)


@router.post("/nodes/{node_id}:drain")
def drain(
    request: Request,
    node_id: str,
    principal: Platform,
    reason: Annotated[str, Query(max_length=500, description="Shown with the node, and kept in the audit log.")] = "",
) -> NodeView:
    """Let it finish what it has and take nothing new, also when it comes back from being lost."""
    plane = plane_of(request)
    return plane.pools.drain(principal, NodeId(node_id), reason=reason, now=plane.clock.now())


@router.post("/nodes/{node_id}:undrain")
def undrain(request: Request, node_id: str, principal: Platform) -> NodeView:
    """Let it take work again."""
    plane = plane_of(request)
    return plane.pools.undrain(principal, NodeId(node_id), now=plane.clock.now())


@router.post("/nodes/{node_id}:fence")
def fence(
    request: Request,
    node_id: str,
    principal: Platform,
    reason: Annotated[str, Query(min_length=3, max_length=500, description="Kept in the audit log.")],
) -> FenceReply:
    """Say that nothing runs on the node any more: its attempts end with proof "fenced". Audited.

    If something does run there after all, it may run twice: make sure first that the node is off.
    """
    plane = plane_of(request)
    jobs = plane.jobs.fence_node(principal, NodeId(node_id), reason=reason, now=plane.clock.now())
    return FenceReply(node=plane.pools.node(principal, NodeId(node_id)), jobs=tuple(j.id for j in jobs))


@router.delete("/nodes/{node_id}", status_code=204, response_class=Response)
def remove_node(request: Request, node_id: str, principal: Platform) -> Response:
    """Forget a node that is lost; refused while it holds attempts that are not proven dead."""
    plane = plane_of(request)
    plane.pools.remove(principal, NodeId(node_id), now=plane.clock.now())
    return Response(status_code=204)


@router.get("/queues")
def list_queues(request: Request, principal: Viewer, limit: Limit = 50, cursor: Cursor = None) -> Page[QueueView]:
    """The queues and what each holds."""
    found = plane_of(request).tenants.list_queues(principal)
    return page_of(found, lambda q: q.name, cursor=cursor, limit=limit)


@router.get("/queues/{name}")
def show_queue(request: Request, name: str, principal: Viewer) -> QueueDetail:
    """One queue: how it stands in each pool, who waits first and why. What others hold is summed up."""
    plane = plane_of(request)
    return plane.tenants.show_queue(principal, QueueName(name), now=plane.clock.now())


@router.put("/queues/{name}")
def put_queue(request: Request, name: str, body: QueueRequest, principal: Platform) -> QueueView:
    """Create or change a queue."""
    plane = plane_of(request)
    return plane.tenants.put_queue(principal, QueueName(name), body, now=plane.clock.now())


@router.delete("/queues/{name}", status_code=204, response_class=Response)
def delete_queue(request: Request, name: str, principal: Platform) -> Response:
    """Remove a queue that holds nothing."""
    plane = plane_of(request)
    plane.tenants.delete_queue(principal, QueueName(name), now=plane.clock.now())
    return Response(status_code=204)


@router.get("/tenants")
def list_tenants(request: Request, principal: Viewer, limit: Limit = 50, cursor: Cursor = None) -> Page[TenantView]:
    """The tenants; a tenant's key sees its own."""
    found = plane_of(request).tenants.list_tenants(principal)
    return page_of(found, lambda t: t.id, cursor=cursor, limit=limit)


@router.put("/tenants/{name}")
def put_tenant(request: Request, name: str, body: TenantRequest, principal: Platform) -> TenantView:
    """Create or rename a tenant; its own queue is made with it."""
    plane = plane_of(request)
    return plane.tenants.put_tenant(principal, TenantId(name), body, now=plane.clock.now())


@router.post("/keys", status_code=201)
def create_key(request: Request, body: KeyRequest, principal: Admin) -> KeyCreated:
    """Make a key. The secret is in this answer and nowhere else."""
    plane = plane_of(request)
    made = plane.tenants.create_key(principal, body, now=plane.clock.now())
    serving_of(request).hub.publish([FLEET])  # the ingress checks keys at the edge
    return made


@router.get("/keys")
def list_keys(request: Request, principal: Admin, limit: Limit = 50, cursor: Cursor = None) -> Page[KeyView]:
    """The keys, without their secrets."""
    found = plane_of(request).tenants.list_keys(principal)
    return page_of(found, lambda k: k.id, cursor=cursor, limit=limit)


@router.delete("/keys/{key_id}")
def revoke_key(request: Request, key_id: str, principal: Admin) -> KeyView:
    """End a key: here at once, everywhere within seconds."""
    plane = plane_of(request)
    ended = plane.tenants.revoke_key(principal, KeyId(key_id), now=plane.clock.now())
    serving_of(request).hub.publish([FLEET])
    return ended
