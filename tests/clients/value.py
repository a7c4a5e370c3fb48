#!/usr/bin/env python3
"""Reads and writes single values as section 10 of src/format/SPEC.md specifies. In brackets: its rules.

    value.py seal|open KEYRING RECORD KEY    standard input to standard output

KEYRING is a keyring file without a passphrase; RECORD holds what etcd has under `/strongroom/keyring`.
"""
import base64, hashlib, hmac, json, os, pathlib, sys, uuid
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import cmac, hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

def b64(text): return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
def label(name, *parts): return b"strongroom/v1/" + name.encode() + b"\0" + b"".join(parts)  # [S0.1.3]
def expand(key, info, n=32): return HKDFExpand(hashes.SHA512(), n, info).derive(key)  # [S0.1.2]
def check(mac, wanted): assert hmac.compare_digest(mac, wanted), "the key or the record is wrong"

def unseal(sealed, key, context):  # the one construction, C: chunks of 16 KiB [S1]
    okm = expand(key, b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\0" + sealed[:24] + context, 76)
    check(okm[44:], sealed[24:56])
    nonce, aead, starts = int.from_bytes(okm[32:44], "big"), AESGCM(okm[:32]), range(56, len(sealed), 16400)
    return b"".join(aead.decrypt((nonce ^ i).to_bytes(12, "big"), sealed[at:at + 16400], None) for i, at in enumerate(starts))

def read_record(record, keyring):  # [S10.2, S5.6] → namespace, value keys, phases by prefix [S10.2.7]
    _, namespace, generation, digest, commitment, *stanzas, mac, sealed = [line.split() for line in record.decode().splitlines()]
    namespace, serial, dc, digest = uuid.UUID(namespace[2]).bytes, int(generation[1]).to_bytes(8, "big"), b64(commitment[1]), bytes.fromhex(digest[1])
    check(hashlib.sha256(record[record.rindex(b"\nkeyring ") + 1:]).digest(), digest)  # [S5.10]
    masters = {f[0]: b64(f[4]) for f in map(str.split, keyring.decode().splitlines()[1:]) if f[2] != "destroyed"}
    name, wrapped = next((one[2], b64(one[3])) for one in stanzas if one[1] == "local" and one[2] in masters)
    dek = unseal(wrapped, masters[name], label("data-key", b"\2", namespace, dc, digest, bytes.fromhex(name), b"local"))
    check(hmac.digest(expand(dek, label("seal-mac")), record[:record.rindex(b"\n---") + 4], "sha256"), b64(mac[1]))
    check(expand(dek, label("data-key-commitment", b"\2", namespace)), dc)
    ring = json.loads(unseal(b64(sealed[1]), expand(dek, label("value-keyring-key")), label("value-keyring", namespace, serial)))
    return namespace, ring["keys"], [(b64(one["prefix"]), one["phase"]) for one in ring["migrate"]]

def xaes(key, nonce):  # XAES-256-GCM: a key from the nonce's first half, by CMAC, for its second half [S10.1.1]
    def half(i):
        mac = cmac.CMAC(AES(expand(b64(key["key"]), label("value-key", b"\1"))))
        mac.update(bytes([0, i]) + b"X\0" + nonce[:12])
        return mac.finalize()
    return AESGCM(half(1) + half(2))

def phase_of(record, key): return next((phase for prefix, phase in record[2] if key.startswith(prefix)), "done")

def seal_value(record, key, value):  # [S10.1]
    assert phase_of(record, key) in ("done", "encrypt", "admit-back"), "values of this prefix are not encrypted now [S10.2.7]"
    primary, nonce = next(one for one in record[1] if one["state"] == "primary"), os.urandom(24)
    header = b"\0SR\1" + bytes.fromhex(primary["id"])
    return header + nonce + xaes(primary, nonce).encrypt(nonce[12:], value, label("value", header, record[0], key))

def open_value(record, key, sealed):  # the outcome as [S10.1.4, S10.1.5] name it, and the value
    phase, usable = phase_of(record, key), [one for one in record[1] if one["state"] in ("staged", "primary", "enabled")]
    if sealed[:3] != b"\0SR": return ("tampered", None) if phase == "done" else ("ok", sealed)
    if phase == "off": return "tampered", None
    if len(sealed) < 48: return "truncated", None
    if sealed[3] != 1: return "unsupported", None  # 2 is XChaCha20-Poly1305, which no writer chooses by itself
    one = next((one for one in usable if one["id"] == sealed[4:8].hex()), None)
    if one is None: return "wrong-key", None
    try: return "ok", xaes(one, sealed[8:32]).decrypt(sealed[20:32], sealed[32:], label("value", sealed[:8], record[0], key))
    except InvalidTag: return "tampered", None

if __name__ == "__main__":
    what, keyring, record, key = sys.argv[1:]
    record = read_record(pathlib.Path(record).read_bytes(), pathlib.Path(keyring).read_bytes())
    key, value = key.encode(), sys.stdin.buffer.read()
    outcome, output = ("ok", seal_value(record, key, value)) if what == "seal" else open_value(record, key, value)
    sys.stdout.buffer.write(output) if outcome == "ok" else sys.exit(outcome)
