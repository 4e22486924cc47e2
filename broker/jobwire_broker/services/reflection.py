"""The contract as reflection shows it, to people with grpcurl.

1. With the JSON name of each field. protoc leaves those names out of what it embeds in Python code, and grpcurl then prints `job_name` where every other JSON
   of ours says `jobName`.
2. With the details of errors under google.rpc's own names, under which they travel: else grpcurl shows them as base64. This is in the pool of reflection
   alone, since a program may hold the real google.rpc beside us.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import grpc
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import Default, DescriptorPool
from grpc_reflection.v1alpha import _async as reflection_async
from grpc_reflection.v1alpha import reflection, reflection_pb2
from jobwire.v1 import error_pb2

_V1 = "grpc.reflection.v1.ServerReflection"


def pool_for_people(services: Iterable[str]) -> DescriptorPool:
    """A pool with the files of these services, all that they import, and the details of errors."""
    pool = DescriptorPool()
    done: set[str] = set()
    for file in [*map(Default().FindFileContainingSymbol, services), error_pb2.DESCRIPTOR]:
        for needed in _with_imports(file, done):
            pool.Add(_with_json_names(needed))
    details = _with_json_names(error_pb2.DESCRIPTOR)
    details.name, details.package = "google/rpc/error_details.proto", "google.rpc"
    for message in details.message_type:
        for field in message.field:
            if field.type_name:
                field.type_name = field.type_name.replace(".jobwire.v1.", ".google.rpc.")
    pool.Add(details)
    return pool


def _with_json_names(file: FileDescriptor) -> descriptor_pb2.FileDescriptorProto:
    proto = descriptor_pb2.FileDescriptorProto()
    file.CopyToProto(proto)
    for message in proto.message_type:
        _fill(message)
    return proto


def _with_imports(file: FileDescriptor, done: set[str]) -> Iterator[FileDescriptor]:
    """The file after its imports, each once."""
    if file.name not in done:
        done.add(file.name)
        for imported in file.dependencies:
            yield from _with_imports(imported, done)
        yield file


def _fill(message: descriptor_pb2.DescriptorProto) -> None:
    for field in message.field:
        first, *rest = field.name.split("_")
        field.json_name = first + "".join(word[:1].upper() + word[1:] for word in rest)
    for nested in message.nested_type:
        _fill(nested)


def add_reflection(server: grpc.aio.Server, services: Iterable[str]) -> None:
    """Serve both reflection protocols: the library brings v1alpha alone, and v1 is the same on the wire under another name (RULES 8)."""
    names = [*services, reflection.SERVICE_NAME]
    servicer = reflection_async.ReflectionServicer(service_names=[*names, _V1], pool=pool_for_people(names))
    method = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    for name in (reflection.SERVICE_NAME, _V1):
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": method}),))
