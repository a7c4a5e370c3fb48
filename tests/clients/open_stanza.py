#!/usr/bin/env python3
"""open_stanza.py VECTORS REPOSITORY NAME: opens the only stanza of the newest snapshot's seal without strongroom, with keys that
the tests know and the functions of VECTORS/open.py. NAME is what names the key. Prints `opened`."""
import glob, hashlib, hmac, importlib, sys

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

sys.path.insert(0, sys.argv[1])
o = importlib.import_module("open")
path = sorted(glob.glob(sys.argv[2] + "/snapshots/*/seal.1"))[-1]
seal = o.parse_seal(open(path, "rb").read())
_, _, _, obj, dc, stanzas, mac, signed, _ = seal
[(_, kind, kid, text)] = stanzas
body, name = o.b64(text), sys.argv[3].encode()
if kind == "kms":  # [S5.21], provider 4
    assert kid == o.named("kms", b"pkcs11\0" + name) and body[0] == 4
    blob, sealed = o.take(body[1:])
    assert blob[:4] == bytes.fromhex("00001087") and len(blob) == 64
    associated = b"strongroom/v1/kms\0" + bytes.fromhex(kid)
    key = AESGCM(bytes([7]) * 32).decrypt(blob[4:16], blob[16:], associated)
else:  # [S5.22], of the plugin in age_plugin.py
    assert kind == "age" and kid == o.named("age", name)
    inner, sealed = o.take(body)
    first, hidden, end = inner.decode().split("\n")
    assert (first, end) == ("-> script x", "")
    file_key = bytes(byte ^ 0x55 for byte in o.b64(hidden, 16))
    prk = hmac.new(bytes(64), file_key, "sha512").digest()
    key = o.expand(prk, o.label("age-file-key", hashlib.sha256(inner).digest()), 32)
subject = o.subject_of(seal)
context = o.label("data-key", subject + dc + bytes.fromhex(obj) + bytes.fromhex(kid) + kind.encode())
assert len(sealed) == 104
dek = o.unseal(sealed, key, context)
assert o.X(dek, "data-key-commitment", subject) == dc
assert hmac.new(o.X(dek, "seal-mac"), signed, "sha256").digest() == mac
print("opened")
