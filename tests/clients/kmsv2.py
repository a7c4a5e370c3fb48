#!/usr/bin/env python3
"""kmsv2.py SOCKET: asks a KMS plugin as Kubernetes does, through gRPC's own
client and protobuf's own codec, with the messages of k8s.io/kms's
apis/v2/api.proto. Prints ok."""
import sys

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

MESSAGES = {
    "StatusRequest": [],
    "StatusResponse": [("version", "string"), ("healthz", "string"), ("key_id", "string")],
    "EncryptRequest": [("plaintext", "bytes"), ("uid", "string")],
    "EncryptResponse": [("ciphertext", "bytes"), ("key_id", "string"), ("annotations", "map")],
    "DecryptRequest": [("ciphertext", "bytes"), ("uid", "string"), ("key_id", "string"), ("annotations", "map")],
    "DecryptResponse": [("plaintext", "bytes")],
}


def classes():
    F = descriptor_pb2.FieldDescriptorProto
    kinds = {"string": F.TYPE_STRING, "bytes": F.TYPE_BYTES, "map": F.TYPE_MESSAGE}
    file = descriptor_pb2.FileDescriptorProto(name="api.proto", package="v2", syntax="proto3")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (field, kind) in enumerate(fields, 1):
            new = message.field.add(name=field, number=number, type=kinds[kind], label=F.LABEL_OPTIONAL)
            if kind == "map":
                new.label, new.type_name = F.LABEL_REPEATED, f".v2.{name}.AnnotationsEntry"
                entry = message.nested_type.add(name="AnnotationsEntry")
                entry.options.map_entry = True
                entry.field.add(name="key", number=1, type=F.TYPE_STRING, label=F.LABEL_OPTIONAL)
                entry.field.add(name="value", number=2, type=F.TYPE_BYTES, label=F.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"v2.{name}")) for name in MESSAGES}


def main():
    c = classes()
    # As Kubernetes' client does: else the socket's path is the authority, and that is no host's name.
    authority = [("grpc.default_authority", "localhost")]
    with grpc.insecure_channel(f"unix://{sys.argv[1]}", authority) as channel:

        def call(method, **fields):
            stub = channel.unary_unary(
                f"/v2.KeyManagementService/{method}",
                request_serializer=c[f"{method}Request"].SerializeToString,
                response_deserializer=c[f"{method}Response"].FromString,
            )
            return stub(c[f"{method}Request"](**fields), timeout=10)

        status = call("Status")
        assert (status.version, status.healthz) == ("v2", "ok"), status
        for seed in (bytes(32), bytes(range(32)), b"x" * 920):
            sealed = call("Encrypt", plaintext=seed, uid="8c3b7e8a-0c6c-4f7c-a8a3-7b0c1b9f3a11")
            assert sealed.key_id == status.key_id and not sealed.annotations, sealed
            opened = call("Decrypt", ciphertext=sealed.ciphertext, uid="1", key_id=sealed.key_id)
            assert opened.plaintext == seed
        try:
            call("Decrypt", ciphertext=sealed.ciphertext, key_id=sealed.key_id, annotations={"a.example": b"x"})
            raise AssertionError("an annotation that the plugin did not write was passed over")
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, error
    print("ok")


main()
