#!/usr/bin/env python3
"""Makes the example of SPEC.md §9 from its keys and salts, and writes it into SPEC.md's blocks.

    tests/vectors/example.py src/format/SPEC.md

The seal and the manifest, the payload and the index are replaced; everything else in the file stays."""
import base64, hashlib, hmac, json, pathlib, re, sys
import open as reader
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

MASTER, DEK = bytes(range(32)), bytes(range(32, 64))
SNAPSHOT, ORIGIN = "01ARZ3NDEKTSV4RRFFQ69G5FAV", "f81d4fae-7dec-41d0-a765-00a0c91e6bf6"
DATABASE = b"not really bolt\n"
FRAME = bytes.fromhex("28b52ffd20108100006e6f74207265616c6c7920626f6c740a")
SUBJECT = b"\1" + reader.ulid(SNAPSHOT)


def text(data):
    return base64.b64encode(data).decode().rstrip("=")


def compact(value):
    return json.dumps(value, separators=(",", ":"))


def seal(key, context, message, salt):  # §1, suite 1
    salt = bytes([salt]) * 24
    okm = reader.expand(key, b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\0" + salt + context, 76)
    base, out = int.from_bytes(okm[32:44], "big"), salt + okm[44:]
    for i in range(len(message) // 16384 + 1):
        chunk = message[i * 16384:(i + 1) * 16384]
        out += AESGCM(okm[:32]).encrypt((base ^ i).to_bytes(12, "big"), chunk, None)
    return out


def an_object(role, name, message, salt):  # §4.1
    header = b"SRDATA\0\1\1" + bytes([role]) + bytes(6) + reader.ulid(SNAPSHOT)
    return header + seal(reader.X(DEK, name + "-key"), reader.label("object", header), message, salt)


def raw_zstd(message):  # one raw block, with the content's size
    header = (len(message) - 256).to_bytes(2, "little")
    return b"\x28\xb5\x2f\xfd\x60" + header + (len(message) << 3 | 1).to_bytes(3, "little") + message


def main(spec):
    payload = an_object(0, "payload", FRAME + bytes(reader.padme(len(FRAME)) - len(FRAME)), 0xA0)
    index = compact({
        "database": {"size": 16, "sha256": hashlib.sha256(DATABASE).hexdigest(), "frame_size": 65536},
        "frames": [[len(FRAME), text(hashlib.sha256(FRAME).digest())]],
    })
    message = index.encode() if len(index) < 256 else raw_zstd(index.encode())
    if len(index) < 256:  # a single byte for the size
        message = b"\x28\xb5\x2f\xfd\x20" + bytes([len(index)]) + (len(index) << 3 | 1).to_bytes(3, "little") + index.encode()
    sealed = an_object(1, "index", message + bytes(-len(message) % 4096), 0xA1)
    content = spec.read_text()
    facts = re.search(r'^\{"etcd".*$', content, re.M)[0].encode()
    facts += b" " * (-len(facts) % 256)
    commitment = reader.X(DEK, "data-key-commitment", SUBJECT)
    head = "strongroom-manifest/1\n" + compact({
        "origin": ORIGIN, "snapshot": SNAPSHOT, "cluster": "default", "tool": "example 1", "revision": 7, "database_bytes": 16,
        "objects": [{"role": role, "length": len(data), "sha256": hashlib.sha256(data).hexdigest()}
                    for role, data in (("payload", payload), ("index", sealed))],
        "commitment": text(commitment),
        "facts": text(seal(reader.X(DEK, "facts-key"), reader.label("facts", reader.ulid(SNAPSHOT)), facts, 0xA2)),
    }) + "\n"
    mac = lambda purpose, data: text(hmac.new(reader.X(DEK, purpose), data.encode(), "sha256").digest())
    manifest = f"{head}hmac-sha256 {mac('manifest-mac', head)}\n"
    digest, key_id = hashlib.sha256(manifest.encode()), reader.key_id(MASTER)
    context = reader.label("data-key", SUBJECT + commitment + digest.digest() + bytes.fromhex(key_id) + b"local")
    head = (f"strongroom-seal/1\nsubject snapshot {SNAPSHOT}\ngeneration 1\nobject {digest.hexdigest()}\n"
            f"commitment {text(commitment)}\n-> local {key_id} {text(seal(MASTER, context, DEK, 0xA3))}\n---")
    parts = {"strongroom-manifest/1": manifest, "strongroom-seal/1": f"{head} {mac('seal-mac', head)}\n"}
    for start, block in parts.items():
        content = re.sub(rf"```\n{re.escape(start)}\n.*?```", lambda _: f"```\n{block}```", content, flags=re.S)
    content = re.sub(r'^\{"database".*$', lambda _: index, content, flags=re.M)
    for name, data in (("payload", payload), ("index", sealed)):
        lines = re.sub("(.{128})", r"\1\n", data.hex()).rstrip("\n")
        content = re.sub(rf"```{name}\n.*?```", lambda _: f"```{name}\n{lines}\n```", content, flags=re.S)
    spec.write_text(content)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
