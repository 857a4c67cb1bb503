"""The messages and methods of etcd's v3 API that this engine uses, in a descriptor pool of its own.

Generated code registers its messages in the process-wide pool, where two etcd clients collide on import, and ties the
package to the protobuf that generated it. Here the description below is read at import, and nobody else sees the messages.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool

# The fields that are used, with their numbers on the wire; enumerations are int32 there.
# Source: https://github.com/etcd-io/etcd/blob/main/api/etcdserverpb/rpc.proto and ../mvccpb/kv.proto (Apache-2.0)
PROTO = """
message KeyValue { bytes key = 1; int64 create_revision = 2; int64 mod_revision = 3; bytes value = 5; int64 lease = 6; }
message Event { int32 type = 1; KeyValue kv = 2; }
message ResponseHeader { uint64 cluster_id = 1; int64 revision = 3; }

message RangeRequest {
  bytes key = 1; bytes range_end = 2; int64 limit = 3; int64 revision = 4; bool keys_only = 8;
}
message RangeResponse { ResponseHeader header = 1; repeated KeyValue kvs = 2; bool more = 3; }
message PutRequest { bytes key = 1; bytes value = 2; int64 lease = 3; }
message PutResponse { ResponseHeader header = 1; }
message DeleteRangeRequest { bytes key = 1; bytes range_end = 2; }
message DeleteRangeResponse { ResponseHeader header = 1; int64 deleted = 2; }
message RequestOp {
  oneof request {
    RangeRequest request_range = 1; PutRequest request_put = 2; DeleteRangeRequest request_delete_range = 3;
  }
}
message ResponseOp {
  oneof response {
    RangeResponse response_range = 1; PutResponse response_put = 2; DeleteRangeResponse response_delete_range = 3;
  }
}
message Compare { int32 result = 1; int32 target = 2; bytes key = 3; oneof target_union { int64 mod_revision = 6; } }
message TxnRequest { repeated Compare compare = 1; repeated RequestOp success = 2; repeated RequestOp failure = 3; }
message TxnResponse { ResponseHeader header = 1; bool succeeded = 2; repeated ResponseOp responses = 3; }

message LeaseGrantRequest { int64 TTL = 1; }
message LeaseGrantResponse { ResponseHeader header = 1; int64 ID = 2; int64 TTL = 3; }
message LeaseRevokeRequest { int64 ID = 1; }
message LeaseRevokeResponse { ResponseHeader header = 1; }
message LeaseKeepAliveRequest { int64 ID = 1; }
message LeaseKeepAliveResponse { ResponseHeader header = 1; int64 ID = 2; int64 TTL = 3; }
message LeaseTimeToLiveRequest { int64 ID = 1; }
message LeaseTimeToLiveResponse { ResponseHeader header = 1; int64 ID = 2; int64 TTL = 3; int64 grantedTTL = 4; }

message WatchCreateRequest {
  bytes key = 1; bytes range_end = 2; int64 start_revision = 3; bool progress_notify = 4; bool fragment = 8;
}
message WatchProgressRequest { }
message WatchRequest {
  oneof request_union { WatchCreateRequest create_request = 1; WatchProgressRequest progress_request = 3; }
}
message WatchResponse {
  ResponseHeader header = 1; int64 watch_id = 2; bool created = 3; bool canceled = 4; int64 compact_revision = 5;
  string cancel_reason = 6; bool fragment = 7; repeated Event events = 11;
}

message AuthenticateRequest { string name = 1; string password = 2; }
message AuthenticateResponse { ResponseHeader header = 1; string token = 2; }
message StatusRequest { }
message StatusResponse {
  ResponseHeader header = 1; string version = 2; int64 dbSize = 3; uint64 leader = 4; repeated string errors = 8;
  bool isLearner = 10;
}
"""

_PACKAGE = "roster.etcd"
_SCALARS = {
    "bytes": FieldDescriptorProto.TYPE_BYTES,
    "string": FieldDescriptorProto.TYPE_STRING,
    "bool": FieldDescriptorProto.TYPE_BOOL,
    "int32": FieldDescriptorProto.TYPE_INT32,
    "int64": FieldDescriptorProto.TYPE_INT64,
    "uint64": FieldDescriptorProto.TYPE_UINT64,
}


def _describe(proto: str) -> FileDescriptorProto:
    """Read the part of the language that `PROTO` uses: messages of fields, with `repeated` and `oneof`."""
    file = FileDescriptorProto(name="roster/etcd.proto", package=_PACKAGE, syntax="proto3")
    words = iter(re.findall(r"\w+|[{}=;]", proto))
    for word in words:
        if word != "message":
            raise ValueError(f"expected a message, not {word!r}")
        message = file.message_type.add(name=next(words))
        _expect(words, "{")
        _read_fields(words, message)
    return file


def _read_fields(words: Iterator[str], message: DescriptorProto, oneof: int | None = None) -> None:
    while (kind := next(words)) != "}":
        if kind == "oneof":
            message.oneof_decl.add(name=next(words))
            _expect(words, "{")
            _read_fields(words, message, len(message.oneof_decl) - 1)
            continue
        field = message.field.add(label=FieldDescriptorProto.LABEL_OPTIONAL)
        if kind == "repeated":
            field.label = FieldDescriptorProto.LABEL_REPEATED
            kind = next(words)
        if kind in _SCALARS:
            field.type = _SCALARS[kind]
        else:
            field.type = FieldDescriptorProto.TYPE_MESSAGE
            field.type_name = f".{_PACKAGE}.{kind}"
        field.name = next(words)
        _expect(words, "=")
        field.number = int(next(words))
        _expect(words, ";")
        if oneof is not None:
            field.oneof_index = oneof


def _expect(words: Iterator[str], wanted: str) -> None:
    found = next(words)
    if found != wanted:
        raise ValueError(f"expected {wanted!r}, not {found!r}")


_FILE = _describe(PROTO)
_POOL = DescriptorPool()
_POOL.AddSerializedFile(_FILE.SerializeToString())
# All of them are held here: protobuf 4.22 crashes when it meets a nested message whose class nobody holds.
_CLASSES = {
    message.name: message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"{_PACKAGE}.{message.name}"))
    for message in _FILE.message_type
}


def _message(name: str) -> Any:
    # The classes are made at run time: there is nothing that a type checker could know of their fields.
    return _CLASSES[name]


Compare = _message("Compare")
DeleteRangeRequest = _message("DeleteRangeRequest")
PutRequest = _message("PutRequest")
RangeRequest = _message("RangeRequest")
RequestOp = _message("RequestOp")
TxnRequest = _message("TxnRequest")
AuthenticateRequest = _message("AuthenticateRequest")
LeaseGrantRequest = _message("LeaseGrantRequest")
LeaseKeepAliveRequest = _message("LeaseKeepAliveRequest")
LeaseRevokeRequest = _message("LeaseRevokeRequest")
LeaseTimeToLiveRequest = _message("LeaseTimeToLiveRequest")
StatusRequest = _message("StatusRequest")
WatchCreateRequest = _message("WatchCreateRequest")
WatchProgressRequest = _message("WatchProgressRequest")
WatchRequest = _message("WatchRequest")

COMPARE_EQUAL = 0
COMPARE_MOD = 2
EVENT_DELETE = 1


@dataclass(frozen=True, slots=True)
class Method:
    """A remote method.

    Attributes:
        path: where gRPC finds it.
        request: class of what it is asked with.
        response: class of what it answers with.
    """

    path: str
    request: Any
    response: Any


def _method(service: str, name: str, message: str = "") -> Method:
    message = message or name
    return Method(
        f"/etcdserverpb.{service}/{name}", _message(f"{message}Request"), _message(f"{message}Response")
    )


RANGE = _method("KV", "Range")
TXN = _method("KV", "Txn")
GRANT = _method("Lease", "LeaseGrant")
REVOKE = _method("Lease", "LeaseRevoke")
KEEP_ALIVE = _method("Lease", "LeaseKeepAlive")
TIME_TO_LIVE = _method("Lease", "LeaseTimeToLive")
WATCH = _method("Watch", "Watch")
AUTHENTICATE = _method("Auth", "Authenticate")
STATUS = _method("Maintenance", "Status")
