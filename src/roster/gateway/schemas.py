"""The shapes of answers and bodies, as the OpenAPI description shows them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

State = Literal["starting", "ready", "busy", "draining", "unknown", "offline"]
NAME = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"


class Shape(BaseModel):
    """What every shape has in common: no field that is not named."""

    model_config = ConfigDict(extra="forbid")


class FaultShape(BaseModel):
    """One thing that is wrong."""

    path: str
    message: str


class ProblemShape(BaseModel):
    """An RFC 9457 problem document."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "urn:roster:problem:not-found",
                    "title": "Not Found",
                    "status": 404,
                    "detail": "no node ai-team/writer-009 is registered",
                }
            ]
        }
    )

    type: str = Field(description="`urn:roster:problem:WORD`; the words are in docs/gateway.md.")
    title: str
    status: int
    detail: str = Field(description="What was asked, what is wrong, and what to do.")
    errors: list[FaultShape] | None = Field(
        None, description="Each fault of a document or of the parameters."
    )


class ConditionShape(BaseModel):
    """A condition, as in Kubernetes."""

    type: str
    status: str
    reason: str
    message: str
    lastTransitionTime: str | None = None


class NodeShape(BaseModel):
    """A node in short."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "key": "ai-team/writer-001",
                    "namespace": "ai-team",
                    "name": "writer-001",
                    "uid": "5f1c0a3e6c1b4d5e",
                    "type": "agent",
                    "version": "1.2.0",
                    "state": "ready",
                    "healthy": True,
                    "cordoned": False,
                    "active_tasks": 1,
                    "capacity": 3,
                    "labels": {"role": "writer"},
                    "capabilities": {"write_article": "1.2.0"},
                    "withdrawn": [],
                    "queue": "agent.ai-team.writer-001",
                    "generation": 1,
                    "revision": 42,
                    "registered_at": "2026-05-04T10:00:00.000Z",
                    "last_written": "2026-05-04T10:00:20.000Z",
                    "conditions": [],
                    "last_seen": "2026-05-04T10:00:31.000Z",
                }
            ]
        }
    )

    key: str = Field(description="`namespace/name`.")
    namespace: str
    name: str
    uid: str = Field(description="The incarnation: another one after each registration.")
    type: str
    version: str | None
    state: State
    healthy: bool = Field(description="Whether it is ready or busy.")
    cordoned: bool = Field(description="Whether somebody has drained it.")
    active_tasks: int
    capacity: int = Field(description="How many tasks it runs at once.")
    labels: dict[str, str]
    capabilities: dict[str, str | None] = Field(description="What it offers now, each with its version.")
    withdrawn: list[str] = Field(description="What it declares and does not offer at present.")
    queue: str
    generation: int
    revision: int
    registered_at: str | None
    last_written: str | None = Field(description="When it last wrote its status, by its own clock.")
    conditions: list[ConditionShape]
    last_seen: str | None = Field(
        description="Up to when it is known to have lived: the present, of a node whose lease lives."
    )


class NodeList(BaseModel):
    """A page of nodes."""

    items: list[NodeShape]
    total: int = Field(description="How many match, on all pages.")
    next: str | None = Field(description="What to give as `page` for the next page; null on the last one.")
    resume: str = Field(
        description="The place in the watch at which the FIRST page was read: watch from here, and nothing is missed."
    )
    staleness: float = Field(
        description="Seconds since the gateway's copy was last confirmed by the store; 0 while live."
    )


class NodeDocument(BaseModel):
    """The whole passport, with the live status merged in."""

    model_config = ConfigDict(extra="allow")

    apiVersion: str
    kind: str
    metadata: dict[str, Any]
    spec: dict[str, Any]
    status: dict[str, Any]


class CapabilityShape(BaseModel):
    """A capability over all nodes that offer it."""

    name: str
    description: str
    versions: dict[str, int] = Field(
        description="How many nodes offer each version; the empty one: without a version."
    )
    nodes: int
    healthy: int
    capacity: int = Field(description="Of the healthy nodes together.")
    active_tasks: int = Field(
        description="Of the healthy nodes together; a node's tasks count for each thing it offers."
    )
    free: int = Field(description="How many tasks more the healthy nodes take at once.")
    single: bool = Field(description="Whether exactly one healthy node offers it: a single point of failure.")
    mismatch: bool = Field(description="Whether nodes declare one version of it with different schemas.")
    offered_by: list[str] = Field(description="Keys of the nodes, up to 1000.")


class CapabilityList(BaseModel):
    """Every capability, by name."""

    items: list[CapabilityShape]
    total: int
    next: str | None


class Health(BaseModel):
    """Whether the gateway lives, or is ready."""

    status: Literal["ok", "not ready"]
    staleness: float | None = None
    nodes: int | None = None
    reason: str | None = None
