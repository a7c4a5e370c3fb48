#!/usr/bin/env python3
"""Reads and writes single values as section 10 of src/format/SPEC.md has them. In brackets: the rules there.

value.py seal|open KEYRING RECORD KEY    standard input to standard output
value.py vectors FILE                    checks every case of tests/vectors/values.json

KEYRING is a keyring file without a passphrase; RECORD holds what etcd has under `/strongroom/keyring`.
"""
import base64, hashlib, hmac, json, os, pathlib, sys, uuid
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM


def b64(text): return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
def label(name, data=b""): return b"strongroom/v1/" + name.encode() + b"\0" + data  # [S0.1.3]
def expand(key, info, n):  # HKDF-Expand with SHA-512 [S0.1.2]
    one = hmac.digest(key, info + b"\1", "sha512")
    return (one + hmac.digest(key, one + info + b"\2", "sha512"))[:n]
def X(key, name, data=b""): return expand(key, label(name, data), 32)


def unseal(sealed, key, context):  # the one construction, C [S1]
    okm = expand(key, b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\0" + sealed[:24] + context, 76)
    assert hmac.compare_digest(okm[44:], sealed[24:56]), "this key does not open it"
    nonce, chunks = int.from_bytes(okm[32:44], "big"), range(56, len(sealed), 16400)
    opened = (AESGCM(okm[:32]).decrypt((nonce ^ i).to_bytes(12, "big"), sealed[at:at + 16400], None) for i, at in enumerate(chunks))
    return b"".join(opened)


def read_record(record, keyring):  # [S10.2, S5.6] → (namespace, value keys, phases of prefixes [S10.2.7])
    line, masters = record.decode().splitlines(), [one.split() for one in keyring.decode().splitlines()[1:]]
    namespace, serial = uuid.UUID(line[1].split()[2]).bytes, int(line[2].split()[1]).to_bytes(8, "big")
    subject, digest, dc = b"\2" + namespace, hashlib.sha256(line[-1].encode() + b"\n"), b64(line[4].split()[1])
    assert line[3].split()[1] == digest.hexdigest(), "the seal is of another line [S5.10]"
    for _, _, name, sealed in (stanza.split() for stanza in line[5:-2] if stanza.startswith("-> local ")):
        for key in [b64(m[4]) for m in masters if m[0] == name and m[2] != "destroyed"]:
            dek = unseal(b64(sealed), key, label("data-key", subject + dc + digest.digest() + bytes.fromhex(name) + b"local"))
            mac = hmac.digest(X(dek, "seal-mac"), record[:record.rindex(b"\n---") + 4], "sha256")
            assert hmac.compare_digest(mac, b64(line[-2].split()[1])), "the seal was changed"
            assert hmac.compare_digest(X(dek, "data-key-commitment", subject), dc), "the seal was changed"
            context = label("value-keyring", namespace + serial)
            ring = json.loads(unseal(b64(line[-1].split()[1]), X(dek, "value-keyring-key"), context))
            return namespace, ring["keys"], [(b64(one["prefix"]), one["phase"]) for one in ring["migrate"]]
    raise SystemExit("no key of the keyring opens the record")


def xaes(secret, nonce):  # C2SP XAES-256-GCM: a key of its own for the second half of the nonce [S10.1.1]
    def aes(block):
        e = Cipher(algorithms.AES(X(secret, "value-key", b"\1")), modes.ECB()).encryptor()
        return int.from_bytes(e.update(block) + e.finalize(), "big")
    k1 = aes(bytes(16)) << 1
    k1 = k1 & (1 << 128) - 1 ^ (0x87 if k1 >> 128 else 0)
    half = [aes((int.from_bytes(bytes([0, i]) + b"X\0" + nonce[:12], "big") ^ k1).to_bytes(16, "big")) for i in (1, 2)]
    return AESGCM(b"".join(part.to_bytes(16, "big") for part in half))


def seal_value(record, key, value):
    namespace, keys, _ = record
    assert phase_of(record, key) in ("done", "encrypt", "admit-back"), "values of this prefix are not encrypted now [S10.2.7]"
    primary, nonce = next(k for k in keys if k["state"] == "primary"), os.urandom(24)
    header = b"\0SR\1" + bytes.fromhex(primary["id"])
    return header + nonce + xaes(b64(primary["key"]), nonce).encrypt(nonce[12:], value, label("value", header + namespace + key))


def phase_of(record, key):
    return next((phase for prefix, phase in record[2] if key.startswith(prefix)), "done")


def open_value(record, key, sealed):  # → (what [S10.1.4, S10.1.5] call the outcome, the value)
    namespace, keys, _ = record
    phase = phase_of(record, key)
    if sealed[:3] != b"\0SR":
        return ("tampered", None) if phase == "done" else ("ok", sealed)
    if phase == "off":
        return "tampered", None
    if len(sealed) < 48:
        return "truncated", None
    if sealed[3] != 1:  # 2 is XChaCha20-Poly1305, which no writer chooses by itself
        return "unsupported", None
    for one in keys:
        if one["id"] == sealed[4:8].hex() and one["state"] in ("staged", "primary", "enabled"):
            aead, context = xaes(b64(one["key"]), sealed[8:32]), label("value", sealed[:8] + namespace + key)
            try:
                return "ok", aead.decrypt(sealed[20:32], sealed[32:], context)
            except InvalidTag:
                return "tampered", None
    return "wrong-key", None


def check_vectors(path):
    file = json.loads(path.read_text())
    record = read_record(b64(file["record"]), (path.parent / file["keyring"]).read_bytes())
    for case in file["cases"]:
        key, wanted = b64(case["key"]), (case["class"], b64(case["value"]) if "value" in case else None)
        got = open_value(record, key, b64(case["sealed"]))
        assert got == (("unsupported", None) if case["name"].startswith("xchacha") else wanted), (case["name"], got)
        value = got[1] or b""
        if phase_of(record, key) == "done":
            assert open_value(record, key, seal_value(record, key, value)) == ("ok", value), case["name"]
    print(f"{len(file['cases'])} passed, 0 failed")


if __name__ == "__main__":
    if sys.argv[1] == "vectors":
        sys.exit(check_vectors(pathlib.Path(sys.argv[2])))
    what, keyring, record, key = sys.argv[1:]
    record = read_record(pathlib.Path(record).read_bytes(), pathlib.Path(keyring).read_bytes())
    if what == "seal":
        sys.stdout.buffer.write(seal_value(record, key.encode(), sys.stdin.buffer.read()))
    else:
        outcome, value = open_value(record, key.encode(), sys.stdin.buffer.read())
        sys.stdout.buffer.write(value if outcome == "ok" else sys.exit(outcome))
