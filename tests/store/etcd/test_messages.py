"""The messages of etcd's API: right on the wire, and nobody's but ours."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from roster.store.etcd import messages

QUIET = """
from google.protobuf import descriptor_pool, descriptor_pb2
import roster.store.etcd
pool = descriptor_pool.Default()
for name in ("roster/etcd.proto", "rpc.proto", "etcdserverpb/rpc.proto"):
    try:
        pool.FindFileByName(name)
    except KeyError:
        continue
    raise SystemExit(f"{name} is in the pool that everybody shares")
"""
# What the generated code of another client does on import: the same names, in the pool that all share.
ANOTHER = """
import asyncio, sys
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from roster.store import open_store

file = FileDescriptorProto(name="roster/etcd.proto", package="roster.etcd", syntax="proto3")
file.message_type.add(name="RangeRequest").field.add(name="other", number=1, type=5, label=1)
pool = descriptor_pool.Default()
pool.AddSerializedFile(file.SerializeToString())
theirs = message_factory.GetMessageClass(pool.FindMessageTypeByName("roster.etcd.RangeRequest"))

async def main():
    async with open_store(sys.argv[1]) as store:
        revision = await store.put("/beside/a", theirs(other=7).SerializeToString())
        entry = await store.get("/beside/a")
        assert entry.mod_revision == revision
        assert theirs.FromString(entry.value).other == 7

asyncio.run(main())
"""


def _run(code: str, *arguments: str, **environment: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.store("etcd")
@pytest.mark.parametrize("implementation", ["upb", "python"])
def test_importing_warns_of_nothing_and_leaves_the_shared_pool_alone(implementation: str) -> None:
    _run(QUIET, PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=implementation)


def test_another_client_with_messages_of_the_same_names_is_no_trouble(etcd_server: str) -> None:
    _run(ANOTHER, etcd_server)


def test_fields_have_their_numbers_on_the_wire() -> None:
    put = messages.PutRequest(key=b"k", value=b"v", lease=7)
    assert put.SerializeToString() == b"\x0a\x01k\x12\x01v\x18\x07"
    operation = messages.RequestOp(request_put=put)
    assert operation.SerializeToString() == b"\x12\x08" + put.SerializeToString()
    assert operation.WhichOneof("request") == "request_put"
    compare = messages.Compare(target=messages.COMPARE_MOD, key=b"k", mod_revision=0)
    # 0 must be on the wire: a condition on nothing is another than one on revision 0.
    assert compare.SerializeToString() == b"\x10\x02\x1a\x01k\x30\x00"
    status = messages.STATUS.response(errors=["a", "b"], isLearner=True)
    assert status.SerializeToString() == b"\x42\x01a\x42\x01b\x50\x01"


@pytest.mark.parametrize(
    "wrong", ["nonsense", "message A [", "message A { int32 a : 1; }", "message A { int32 a = 1, }"]
)
def test_a_description_that_cannot_be_read_is_refused(wrong: str) -> None:
    with pytest.raises((ValueError, StopIteration)):
        messages._describe(wrong)
